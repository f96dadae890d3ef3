//! What the outside world does to the shared address, each probe in a process of its own. A probe
//! prints one line of JSON, a [`Finding`].

use super::page::{PAGE_SIZE, page, pattern_matches};
use super::transport::{Datagrams, Stream, Transport};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Try {
    /// Fetch the page and compare its bytes, `count` times, a connection each.
    Page,
    /// Send a line over one TCP connection and read it back, `count` times.
    TcpEcho,
    /// Send a datagram and read it back, `count` times.
    UdpEcho,
    /// Ask for `count` bytes of a known pattern over TCP.
    Bulk,
    /// ICMP echo, `count` times; from the kernel only.
    Ping,
    /// Send datagrams as fast as they go for `count` milliseconds and read no answer.
    Flood,
}

/// The arguments of a probe.
#[derive(Args, Clone, Debug)]
pub(crate) struct ProbeArgs {
    /// What to try.
    #[arg(value_enum)]
    what: Try,
    /// Whom to try it on.
    to: SocketAddr,
    /// How often, or how much.
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// Attach to usnetd on this interface instead of using the kernel's sockets.
    #[arg(long)]
    interface: Option<String>,
}

/// What a probe found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Finding {
    /// Whether everything came back as it should.
    pub(super) ok: bool,
    /// Answers that came.
    pub(super) answers: u64,
    /// Bytes of payload received.
    pub(super) bytes: u64,
    /// How long it took.
    pub(super) seconds: f64,
    /// Median and 99th percentile of one round, in microseconds.
    pub(super) p50_us: Option<f64>,
    /// The same.
    pub(super) p99_us: Option<f64>,
    /// What went wrong.
    pub(super) error: Option<String>,
}

/// Runs a probe and prints what it found.
pub(crate) fn run(args: &ProbeArgs) -> io::Result<()> {
    let started = Instant::now();
    let mut rounds = Rounds::default();
    let result = attempt(args, &mut rounds);
    let finding = Finding {
        ok: result.is_ok() && rounds.answers > 0,
        answers: rounds.answers,
        bytes: rounds.bytes,
        seconds: rounds.began.unwrap_or(started).elapsed().as_secs_f64(),
        p50_us: rounds.percentile(50),
        p99_us: rounds.percentile(99),
        error: result.err().map(|error| error.to_string()),
    };
    println!("{}", serde_json::to_string(&finding)?);
    Ok(())
}

#[derive(Default)]
struct Rounds {
    answers: u64,
    bytes: u64,
    began: Option<Instant>,
    times: Vec<Duration>,
}

impl Rounds {
    fn count(&mut self, bytes: usize, since: Instant) {
        self.answers += 1;
        self.bytes += bytes as u64;
        self.times.push(since.elapsed());
    }

    fn percentile(&self, percent: usize) -> Option<f64> {
        let mut times = self.times.clone();
        times.sort_unstable();
        let last = times.len().checked_sub(1)?;
        times.get(last * percent / 100).map(|t| t.as_secs_f64() * 1e6)
    }
}

fn attempt(args: &ProbeArgs, rounds: &mut Rounds) -> io::Result<()> {
    let transport = Transport::new(args.interface.as_deref(), "probe")?;
    rounds.began = Some(Instant::now());
    match args.what {
        Try::Page => {
            for _ in 0..args.count {
                let since = Instant::now();
                let bytes = fetch(&mut *transport.connect(args.to)?)?;
                rounds.count(bytes, since);
            }
            Ok(())
        }
        Try::TcpEcho => tcp_echo(&mut *transport.connect(args.to)?, args.count, rounds),
        Try::UdpEcho => udp_echo(&*transport.datagrams(args.to)?, args.count, rounds),
        Try::Bulk => bulk(&mut *transport.connect(args.to)?, args.count, rounds),
        Try::Ping => ping(args.to, args.count, rounds),
        Try::Flood => flood(&*transport.datagrams(args.to)?, args.count, rounds),
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Fetches the page and returns its length.
fn fetch(stream: &mut dyn Stream) -> io::Result<usize> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: usnet\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(|| wrong("no header"))?;
    let (head, body) = answer.split_at(end + 4);
    if !head.starts_with(b"HTTP/1.1 200") {
        return Err(wrong("the answer is no 200"));
    }
    if body != page() {
        return Err(wrong(&format!("{} bytes came, not the {PAGE_SIZE} of the page", body.len())));
    }
    Ok(body.len())
}

fn tcp_echo(stream: &mut dyn Stream, count: u64, rounds: &mut Rounds) -> io::Result<()> {
    let mut answer = [0; 64];
    for number in 0..count {
        let mut line = [b'.'; 64];
        line[..8].copy_from_slice(&number.to_be_bytes());
        let since = Instant::now();
        stream.write_all(&line)?;
        stream.read_exact(&mut answer)?;
        if answer != line {
            return Err(wrong("other bytes came back"));
        }
        rounds.count(line.len(), since);
    }
    Ok(())
}

fn udp_echo(socket: &dyn Datagrams, count: u64, rounds: &mut Rounds) -> io::Result<()> {
    let mut answer = [0; 2048];
    let mut lost = 0;
    socket.set_patience(Duration::from_millis(500))?;
    for number in 0..count {
        let mut datagram = [b'.'; 64];
        datagram[..8].copy_from_slice(&number.to_be_bytes());
        let since = Instant::now();
        socket.send(&datagram)?;
        match socket.recv(&mut answer) {
            Ok(length) if answer.get(..length) == Some(&datagram[..]) => {
                rounds.count(length, since);
            }
            Ok(_) => return Err(wrong("other bytes came back")),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                lost += 1;
            }
            Err(error) => return Err(error),
        }
    }
    if lost > 0 { Err(wrong(&format!("{lost} of {count} datagrams were lost"))) } else { Ok(()) }
}

fn bulk(stream: &mut dyn Stream, count: u64, rounds: &mut Rounds) -> io::Result<()> {
    stream.write_all(&count.to_be_bytes())?;
    let since = Instant::now();
    let mut buffer = vec![0; 256 << 10];
    while rounds.bytes < count {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Err(wrong(&format!("the stream ended after {} bytes", rounds.bytes)));
        }
        let came = buffer.get(..length).unwrap_or_default();
        if !pattern_matches(rounds.bytes, came) {
            return Err(wrong(&format!("other bytes came after {}", rounds.bytes)));
        }
        rounds.bytes += length as u64;
    }
    rounds.answers = 1;
    rounds.times.push(since.elapsed());
    Ok(())
}

fn flood(socket: &dyn Datagrams, milliseconds: u64, rounds: &mut Rounds) -> io::Result<()> {
    let end = Instant::now() + Duration::from_millis(milliseconds);
    while Instant::now() < end {
        for _ in 0..64 {
            // A full queue on the way is what a flood is for.
            if socket.send(&[b'x'; 200]).is_ok() {
                rounds.answers += 1;
            }
        }
    }
    Ok(())
}

/// ICMP echo by a raw socket (RFC 792).
fn ping(to: SocketAddr, count: u64, rounds: &mut Rounds) -> io::Result<()> {
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrV4, SocketType, ipproto, sockopt,
    };
    let SocketAddr::V4(to) = to else { return Err(wrong("an IPv4 address is needed")) };
    let to = SocketAddrV4::new(*to.ip(), 0);
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(1)))?;
    for number in 0..count {
        let mut request = [0; 64];
        request[0] = 8;
        request[4..6].copy_from_slice(&0x1d0_u16.to_be_bytes());
        request[6..8].copy_from_slice(&u16::try_from(number & 0xffff).unwrap_or(0).to_be_bytes());
        let sum = checksum(&request);
        request[2..4].copy_from_slice(&sum.to_be_bytes());
        let since = Instant::now();
        rustix::net::sendto(&socket, &request, SendFlags::empty(), &to)?;
        loop {
            let mut answer = [0; 256];
            let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
            // An IPv4 header of 20 bytes comes first.
            let message = answer.get(20..length).unwrap_or_default();
            if message.first() == Some(&0) && message.get(4..) == Some(&request[4..]) {
                rounds.count(message.len(), since);
                break;
            }
            if since.elapsed() > Duration::from_secs(1) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
    Ok(())
}

/// RFC 1071, of an even number of bytes.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.as_chunks::<2>().0.iter();
    let mut sum: u32 = words.map(|w| u32::from(u16::from_be_bytes(*w))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}
