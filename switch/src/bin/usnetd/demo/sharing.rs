//! What the kernel's own stack notices when usnetd comes and goes on its interface.
//!
//! ```text
//!   outside: cl0 ---veth--- sv0 10.9.0.1: kernel, and usnetd that starts, stops, is killed
//!            echo requests, one a millisecond --> answers counted
//!            TCP stream in, TCP stream out    --> longest time without a byte
//! ```

use super::probe::checksum;
use super::topology::{Outside, SHARED, Topology};
use crate::report::Report;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrV4, SocketType, ipproto, recv, sendto, socket,
};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use usnet_switch::net::namespace::Namespace;

/// The goals: the longest stall of a stream, and echo requests without an answer.
const STALL: Duration = Duration::from_millis(100);
const LOST: usize = 3;
/// How long it is watched after each event: longer than a retransmission timeout, doubled once.
const SETTLE: Duration = Duration::from_millis(700);
/// Between two echo requests.
const INTERVAL: Duration = Duration::from_millis(1);
/// How long the first answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// As many as there are numbers for.
const MOST_PINGS: usize = 60_000;
/// Shorter times without a byte are of no interest.
const NOTABLE: Duration = Duration::from_millis(1);

/// An event, and from when until when its effect was watched.
struct Window {
    name: &'static str,
    from: Instant,
    until: Instant,
}

/// Lets usnetd come and go in every way; none runs before and none after.
fn come_and_go(topology: &mut Topology) -> io::Result<Vec<Window>> {
    type Event = fn(&mut Topology) -> io::Result<()>;
    let stop: Event = |topology| match topology.stop_daemon() {
        true => Ok(()),
        false => Err(io::Error::other("usnetd does not stop")),
    };
    let events: [(&str, Event); 6] = [
        ("nothing happens", |_| Ok(())),
        ("usnetd starts", Topology::start_daemon),
        ("usnetd is stopped", stop),
        ("usnetd starts again", Topology::start_daemon),
        ("usnetd is killed", |topology| topology.kill("usnetd")),
        ("usnetd starts after that", Topology::start_daemon),
    ];
    let mut windows = Vec::new();
    for (name, event) in events {
        let from = Instant::now();
        event(topology)?;
        thread::sleep(SETTLE);
        windows.push(Window { name, from, until: Instant::now() });
    }
    stop(topology)?;
    Ok(windows)
}

/// Measures all, and adds a line for each measurement and the worst of its events. `judge`: a goal that is
/// missed counts as a failure.
pub(super) fn run(topology: &mut Topology, report: &mut Report, judge: bool) -> io::Result<()> {
    let outside = match &topology.outside {
        Outside::Kernel(namespace) => namespace.try_clone().map_err(io::Error::other)?,
        Outside::Client => return Ok(()),
    };
    report.progress("pinging the kernel while usnetd comes and goes");
    let lost = pings(topology, &outside)?;
    let worst = lost.iter().map(|(_, count)| *count).max().unwrap_or(0);
    let ok = worst <= LOST;
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    report.add(
        "kernel's pings lost as usnetd comes and goes, at most",
        ok || !judge,
        Some(worst as f64),
        "pings",
        &note(ok, &format!("{LOST}"), lost.iter().map(|(n, count)| format!("{n} {count}"))),
    );
    for (inward, name) in [(true, "in"), (false, "out")] {
        report.progress(&format!("a TCP stream {name} of the kernel meanwhile"));
        let stalls = stream(topology, &outside, inward)?;
        let ms = |stall: &Duration| stall.as_secs_f64() * 1e3;
        let worst = stalls.iter().map(|(_, stall)| *stall).max().unwrap_or_default();
        let ok = worst <= STALL;
        let each = stalls.iter().map(|(n, stall)| format!("{n} {:.0}", ms(stall)));
        report.add(
            &format!("longest stall of the kernel's TCP stream {name}"),
            ok || !judge,
            Some(ms(&worst)),
            "ms",
            &note(ok, &format!("{} ms", STALL.as_millis()), each),
        );
    }
    Ok(())
}

fn note(ok: bool, goal: &str, each: impl Iterator<Item = String>) -> String {
    let verdict = if ok { "met" } else { "missed" };
    let each: Vec<String> = each.collect();
    format!("goal {goal} {verdict}: {}", each.join(", "))
}

// ---- echo ----

/// Echo requests without an answer, by event.
fn pings(topology: &mut Topology, outside: &Namespace) -> io::Result<Vec<(&'static str, usize)>> {
    let open = || -> io::Result<OwnedFd> {
        let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(50)))?;
        Ok(socket)
    };
    let socket = outside.run(open).map_err(io::Error::other)??;
    let answered: Vec<AtomicBool> = (0..MOST_PINGS).map(|_| AtomicBool::new(false)).collect();
    let (stop, deaf) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let sender = scope.spawn(|| send_pings(&socket, &stop));
        let receiver = scope.spawn(|| receive_pings(&socket, &answered, &deaf));
        // The first ones wait until the link address is known.
        let begin = Instant::now();
        let is_heard = || answered.iter().any(|answered| answered.load(Ordering::Relaxed));
        while !is_heard() && begin.elapsed() < PATIENCE {
            thread::sleep(INTERVAL);
        }
        let windows = come_and_go(topology);
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().unwrap_or_else(|_| Err(io::Error::other("the sender died")));
        // What is on its way arrives.
        thread::sleep(Duration::from_millis(200));
        deaf.store(true, Ordering::Relaxed);
        receiver.join().map_err(|_| io::Error::other("the receiver died"))?;
        let (windows, sent) = (windows?, sent?);
        let lost = |window: &Window| {
            let is_lost = |(at, answered): &(&Instant, &AtomicBool)| {
                (window.from..window.until).contains(at) && !answered.load(Ordering::Relaxed)
            };
            (window.name, sent.iter().zip(&answered).filter(is_lost).count())
        };
        Ok(windows.iter().map(lost).collect())
    })
}

const IDENTIFIER: [u8; 2] = 0x1d1_u16.to_be_bytes();

/// Sends one after the other; returns when each was sent.
fn send_pings(socket: &OwnedFd, stop: &AtomicBool) -> io::Result<Vec<Instant>> {
    let address: Ipv4Addr = SHARED.parse().map_err(io::Error::other)?;
    let mut sent = Vec::with_capacity(MOST_PINGS);
    while !stop.load(Ordering::Relaxed) && sent.len() < MOST_PINGS {
        let mut request = [0; 64];
        request[0] = 8;
        request[4..6].copy_from_slice(&IDENTIFIER);
        let number = u16::try_from(sent.len()).unwrap_or(u16::MAX);
        request[6..8].copy_from_slice(&number.to_be_bytes());
        let sum = checksum(&request);
        request[2..4].copy_from_slice(&sum.to_be_bytes());
        sent.push(Instant::now());
        sendto(socket, &request, SendFlags::empty(), &SocketAddrV4::new(address, 0))?;
        thread::sleep(INTERVAL);
    }
    Ok(sent)
}

fn receive_pings(socket: &OwnedFd, answered: &[AtomicBool], stop: &AtomicBool) {
    let mut bytes = [0; 256];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, _)) = recv(socket, &mut bytes, RecvFlags::empty()) else { continue };
        // An IPv4 header of 20 bytes comes first.
        let message = bytes.get(20..length).unwrap_or_default();
        if let Some([0, _, _, _, a, b, c, d]) = message.first_chunk::<8>()
            && [*a, *b] == IDENTIFIER
            && let Some(place) = answered.get(usize::from(u16::from_be_bytes([*c, *d])))
        {
            place.store(true, Ordering::Relaxed);
        }
    }
}

// ---- streams ----

/// The longest time without a byte, by event.
fn stream(
    topology: &mut Topology,
    outside: &Namespace,
    inward: bool,
) -> io::Result<Vec<(&'static str, Duration)>> {
    let listener = TcpListener::bind((SHARED, 0))?;
    let to = listener.local_addr()?;
    let there = outside.run(|| TcpStream::connect(to)).map_err(io::Error::other)??;
    let here = listener.accept()?.0;
    let (from, into) = if inward { (there, here) } else { (here, there) };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| write(&from, &stop));
        let reader = scope.spawn(|| read(&into));
        let windows = come_and_go(topology);
        stop.store(true, Ordering::Relaxed);
        // A write that waits for room ends with the connection.
        let _ = into.shutdown(std::net::Shutdown::Both);
        let _ = from.shutdown(std::net::Shutdown::Both);
        let _ = writer.join();
        let gaps = reader.join().map_err(|_| io::Error::other("the reader died"))?;
        let longest = |window: &Window| {
            let touches = |(end, gap): &&(Instant, Duration)| {
                *end > window.from && *end - *gap < window.until
            };
            let in_it = gaps.iter().filter(touches);
            (window.name, in_it.map(|(_, gap)| *gap).max().unwrap_or_default())
        };
        Ok(windows?.iter().map(longest).collect())
    })
}

fn write(mut stream: &TcpStream, stop: &AtomicBool) {
    let bytes = vec![0; 64 << 10];
    while !stop.load(Ordering::Relaxed) && stream.write_all(&bytes).is_ok() {}
}

/// Times without a byte, and when each was over.
fn read(mut stream: &TcpStream) -> Vec<(Instant, Duration)> {
    let mut gaps = Vec::new();
    let mut bytes = vec![0; 256 << 10];
    let mut last = Instant::now();
    while stream.read(&mut bytes).is_ok_and(|length| length > 0) {
        let now = Instant::now();
        if now - last > NOTABLE {
            gaps.push((now, now - last));
        }
        last = now;
    }
    // One that did not end while it was watched counts as well.
    let end = Instant::now();
    gaps.push((end, end - last));
    gaps
}
