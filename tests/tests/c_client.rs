//! `c-client/echo.c`, which was written from docs/protocol.md alone, works: the document is enough.
//!
//! Once the daemon is the test itself, step by step, so that each sleep, kick and wake-up is seen; once
//! it is usnetd, and a kernel sends the datagrams.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, send,
};
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::control::{
    Address, Attached, Channel, Claim, Message, Mode, SegmentAccess, SegmentInfo, name_from,
};
use usnet_shmring::layout::{VERSION, region_size};
use usnet_shmring::ledger::SessionId;
use usnet_shmring::pool::{HomeId, HomeKind, Pool, Returned};
use usnet_shmring::queues::DaemonQueues;
use usnet_shmring::region::{Region, Writer};
use usnet_tests::lab::{INSIDE, Lab, OUTSIDE, Running};
use usnet_tests::programs::skip;

/// Few, so that every ring goes around many times.
const RING: u32 = 16;
const SESSION: SessionId = SessionId(3);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 0x20];
const PORT: u16 = 4007;
/// Long enough for the slowest machine; nothing is measured.
const PATIENCE: Duration = Duration::from_secs(20);

/// Builds the client; `None`, with the reason on standard error, where that cannot be done.
fn build(into: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("c-client/echo.c");
    let program = into.join("echo");
    let output = Command::new("cc")
        .args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-o"])
        .args([&program, &source])
        .output();
    match output {
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "cc does not accept echo.c:\n{words}");
            Some(program)
        }
        Err(error) => {
            skip(&format!("there is no C compiler ({error}): apt-get install gcc libc6-dev"));
            None
        }
    }
}

fn readable(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let limit = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    poll(&mut fds, Some(&limit)).unwrap() == 1
}

/// Looks until `done`, or fails.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

struct Daemon {
    pool: Pool,
    queues: DaemonQueues,
    receive: HomeId,
    kick: OwnedFd,
    wake: OwnedFd,
    channel: Channel,
}

impl Daemon {
    /// Waits for the client and gives it what it asks for.
    fn serve(listener: &OwnedFd) -> Self {
        assert!(readable(listener), "the client does not connect");
        let channel = Channel::from(rustix::net::accept(listener).unwrap());
        assert!(readable(&channel), "the client does not ask");
        let (request, message) = channel.receive(RecvFlags::empty()).unwrap();
        let Message::Attach(attach) = message else { panic!("first comes {message:?}") };
        assert_eq!((attach.version, name_from(&attach.name).as_str()), (VERSION, "c-echo"));

        let arena = Arena::reserve(1 << 13, SlotSize::DEFAULT).unwrap();
        // Not at the start of a page, as a part of a segment may be.
        let segment = |name, writer| {
            let segment = arena.add_segment(name, writer, 3 + RING, false).unwrap();
            let fd = segment.as_fd().try_clone_to_owned().unwrap();
            let mut range = SlotRange::whole(segment);
            drop(range.split(3));
            (range.split(RING).unwrap(), fd)
        };
        let port = arena.add_segment("port", Writer::Daemon, 1, false).unwrap();
        let mut pool = Pool::new(SlotRange::whole(port)).unwrap();
        let (transmit, transmit_fd) = segment("transmit", Writer::Client);
        let (receive, receive_fd) = segment("receive", Writer::Daemon);
        let (inbound, inbound_fd) = Region::create(Writer::Daemon, 1, RING, 2048).unwrap();
        let (outbound, outbound_fd) = Region::create(Writer::Client, 1, RING, 2048).unwrap();
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let (wake, client_wake) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let info = |access: SegmentAccess, descriptor, range: &SlotRange| SegmentInfo {
            access: access as u32,
            descriptor,
            first: range.first(),
            count: range.count(),
            offset: range.offset(),
        };
        let none = SegmentInfo::default();
        let attached = Attached {
            version: VERSION,
            session: SESSION.0.into(),
            mode: Mode::Isolated as u32,
            ring_capacity: RING,
            slot_size: 2048,
            mtu: 1500,
            inbound_size: region_size(1, RING) as u64,
            outbound_size: region_size(1, RING) as u64,
            mac: MAC,
            pairs: 1,
            ipv4: Address::new([10, 0, 0, 1].into(), 24),
            ipv6: Address::default(),
            gateway4: Address::default(),
            gateway6: Address::default(),
            segments: [
                info(SegmentAccess::Transmit, 4, &transmit),
                info(SegmentAccess::Receive, 5, &receive),
                none,
                none,
            ],
            features: 0,
            reserved: 0,
        };
        pool.add_home(HomeKind::Transmit(SESSION), transmit).unwrap();
        let receive = pool.add_home(HomeKind::Receive(SESSION), receive).unwrap();
        let fds = [&inbound_fd, &outbound_fd, &kick, &client_wake, &transmit_fd, &receive_fd];
        let fds = fds.map(AsFd::as_fd);
        channel.send(request, &Message::Attached(attached), &fds, SendFlags::empty()).unwrap();

        assert!(readable(&channel), "the client claims nothing");
        let (request, message) = channel.receive(RecvFlags::empty()).unwrap();
        let Message::Claim(claim) = message else { panic!("then comes {message:?}") };
        let expected = Claim { first_port: PORT, count: 1, protocol: 17, ..Claim::default() };
        assert_eq!(claim, expected);
        channel.send(request, &Message::Claimed(claim), &[], SendFlags::empty()).unwrap();
        let queues = DaemonQueues::new(&inbound, &outbound, RING, 0).unwrap();
        Self { pool, queues, receive, kick, wake, channel }
    }

    /// Puts a frame on rx; [`publish`](Self::publish) shows it.
    fn deliver(&mut self, bytes: &[u8]) {
        let mut frame = self.pool.alloc_from(self.receive).expect("the client keeps slots");
        assert!(self.pool.fill(&mut frame, bytes));
        let raw = self.pool.lend(frame, SESSION).unwrap();
        self.queues.rx.refresh().unwrap();
        self.queues.rx.push(raw).unwrap();
    }

    fn publish(&mut self) {
        let new = self.queues.rx.publish() | self.queues.completion.publish();
        if new && self.queues.peer.must_wake() {
            send(&self.wake, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL).unwrap();
        }
    }

    /// Waits until the client gave `count` slots back.
    fn take_fill(&mut self, count: usize) {
        for _ in 0..count {
            until("slots on fill", || self.queues.fill.refresh().unwrap() > 0);
            let raw = self.queues.fill.pop().unwrap();
            assert_eq!(self.pool.take_back(SESSION, raw), Ok(Returned::Free));
            self.queues.fill.release();
        }
    }

    /// Takes what the client has sent, and completes it.
    fn take_sent(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        self.queues.tx.refresh().unwrap();
        while let Some(raw) = self.queues.tx.pop() {
            let frame = self.pool.accept(SESSION, raw).unwrap();
            let mut bytes = vec![0; frame.len()];
            assert_eq!(self.pool.snapshot(&frame, 0, &mut bytes), bytes.len());
            frames.push(bytes);
            let (_, raw) = self.pool.complete(frame).unwrap();
            self.queues.completion.refresh().unwrap();
            self.queues.completion.push(raw).unwrap();
        }
        self.queues.tx.release();
        frames
    }
}

/// A UDP datagram; the other way round if `back`.
fn datagram(back: bool, port: u16, payload: &[u8]) -> Vec<u8> {
    let swap = |a: Vec<u8>, b: Vec<u8>| if back { [b, a].concat() } else { [a, b].concat() };
    let length = u8::try_from(payload.len()).unwrap();
    let mut frame = swap(MAC.to_vec(), PEER.to_vec());
    frame.extend([8, 0, 0x45, 0, 0, 28 + length, 0, 1, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(swap(vec![10, 0, 0, 9], vec![10, 0, 0, 1]));
    frame.extend(swap(vec![0x30, 0x39], port.to_be_bytes().to_vec()));
    frame.extend([0, 8 + length, 0, 0]);
    frame.extend(payload);
    frame
}

#[test]
fn a_client_written_from_the_document_echoes_sleeps_and_wakes() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c_client");
    std::fs::create_dir_all(&directory).unwrap();
    let Some(program) = build(&directory) else { return };
    let socket = directory.join("socket");
    let _ = std::fs::remove_file(&socket);
    let listener = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&socket).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let child = Command::new(program)
        .arg(&socket)
        .arg(PORT.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Running(child);
    let mut daemon = Daemon::serve(&listener);

    // Both sleep; the frame wakes the client, its echo the daemon.
    until("the client sleeps", || daemon.queues.peer.must_wake());
    daemon.queues.sleep.raise();
    daemon.deliver(&datagram(false, PORT, b"hello"));
    daemon.publish();
    assert!(readable(&daemon.kick), "the client sent and did not kick");
    daemon.queues.sleep.lower();
    assert_eq!(daemon.take_sent(), [datagram(true, PORT, b"hello")]);
    daemon.take_fill(1);
    daemon.publish();

    // What is not for it comes back as a slot and not as a frame.
    let mut fragment = datagram(false, PORT, b"part");
    fragment[20] = 0x20;
    let mut tcp = datagram(false, PORT, b"stream");
    tcp[23] = 6;
    let mut arp = vec![0xff; 60];
    arp[12..14].copy_from_slice(&[8, 6]);
    for frame in [fragment, tcp, arp, datagram(false, PORT + 1, b"other"), vec![0; 14]] {
        daemon.deliver(&frame);
        daemon.publish();
        daemon.take_fill(1);
        assert_eq!(daemon.take_sent(), Vec::<Vec<u8>>::new());
    }

    // Every ring goes around many times, in bursts of every size up to a full ring.
    for round in 0..200u8 {
        let burst: Vec<Vec<u8>> = (0..=round % 16).map(|n| vec![round, n]).collect();
        for payload in &burst {
            daemon.deliver(&datagram(false, PORT, payload));
        }
        daemon.publish();
        let mut echoed = Vec::new();
        until("echoes", || {
            echoed.extend(daemon.take_sent());
            daemon.publish();
            echoed.len() == burst.len()
        });
        let expected: Vec<_> = burst.iter().map(|p| datagram(true, PORT, p)).collect();
        assert_eq!(echoed, expected, "round {round}");
        daemon.take_fill(burst.len());
    }
    let (audit, slots) = daemon.pool.audit();
    assert_eq!((audit.taken, audit.total()), (0, slots));
    assert_eq!(audit.lent, RING, "all transmit slots are back, all others are free");

    // The end of the session ends the client.
    drop(daemon.channel);
    until("the client ends", || child.0.try_wait().unwrap().is_some());
    assert!(child.0.wait().unwrap().success());
}

#[test]
fn the_client_echoes_to_a_kernel_through_usnetd() {
    let Some(lab) = Lab::with_usnetd("") else { return };
    let Some(program) = build(lab.directory()) else { return };
    let (program, socket) = (program.display().to_string(), lab.socket().display().to_string());
    let child = lab.inside(&program, &[&socket, "4007"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut child = Running(child);
    let mut words = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut words).unwrap();
    assert!(words.contains("echo on udp port 4007"), "the client says {words:?}");

    let echoed = lab.outside.run(|| {
        let socket = UdpSocket::bind((OUTSIDE, 0)).unwrap();
        socket.connect((INSIDE, 4007)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // More than the rings have cells, one at a time: none may be lost.
        (0..3000u32).all(|number| {
            let payload = vec![number.to_le_bytes()[0]; 1 + number as usize % 1400];
            let mut back = [0; 1500];
            socket.send(&payload).unwrap();
            socket.recv(&mut back).is_ok_and(|length| back[..length] == payload)
        })
    });
    assert!(echoed.unwrap(), "an echo is missing or wrong\n{}", lab.log());
    lab.finish();
}
