//! A daemon in miniature: one pool, real rings, real descriptors, and a switch that gives every frame
//! to every other client.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, send, socketpair};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use usnet::{Options, Session};
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::control::{
    Address, Attached, Channel, Message, Mode, RefusalCode, SegmentAccess, SegmentInfo,
};
use usnet_shmring::layout::{self, VERSION};
use usnet_shmring::ledger::SessionId;
use usnet_shmring::pool::{HomeId, HomeKind, Pool, Returned};
use usnet_shmring::queues::DaemonQueues;
use usnet_shmring::region::{Region, Writer};

pub const RING: u32 = 1024;
pub const SLOTS: u32 = 1024;

/// What the daemon keeps of one client.
pub struct Peer {
    pub channel: Channel,
    pub queues: DaemonQueues,
    pub kick: OwnedFd,
    pub wake: OwnedFd,
    pub id: SessionId,
    pub receive: HomeId,
    pub transmit_first: u32,
    next_port: u16,
    claims: Vec<usnet_shmring::control::Claim>,
}

pub struct Fake {
    pub arena: Arc<Arena>,
    pub pool: Pool,
    pub peers: Vec<Peer>,
    /// Frames that the switch loses: every n-th, if any.
    pub lose_every: Option<u64>,
    pub switched: u64,
}

pub fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

/// What [`Fake::prepare`] made, for tests that spoil a part of it.
pub struct Answer {
    pub attached: Attached,
    pub descriptors: Vec<OwnedFd>,
    pub daemon: Channel,
    pub client: Channel,
    pub peer: PeerParts,
}

pub struct PeerParts {
    queues: DaemonQueues,
    kick: OwnedFd,
    wake: OwnedFd,
    id: SessionId,
    receive: HomeId,
    transmit_first: u32,
}

impl Fake {
    pub fn new() -> Self {
        let arena = Arena::reserve(1 << 16, SlotSize::DEFAULT).unwrap();
        let port = arena.add_segment("port", Writer::Daemon, SLOTS, false).unwrap();
        let pool = Pool::new(SlotRange::whole(port)).unwrap();
        Self { arena, pool, peers: Vec::new(), lose_every: None, switched: 0 }
    }

    pub fn prepare(&mut self) -> Answer {
        let number = u8::try_from(self.peers.len()).unwrap() + 1;
        let id = SessionId(number.into());
        let (inbound, inbound_fd) = Region::create(Writer::Daemon, 1, RING, 2048).unwrap();
        let (outbound, outbound_fd) = Region::create(Writer::Client, 1, RING, 2048).unwrap();
        let segment = |name, writer| {
            let segment = self.arena.add_segment(name, writer, SLOTS, false).unwrap();
            let fd = segment.as_fd().try_clone_to_owned().unwrap();
            (SlotRange::whole(segment), fd)
        };
        let (transmit, transmit_fd) = segment("transmit", Writer::Client);
        let (receive, receive_fd) = segment("receive", Writer::Daemon);
        let info = |access: SegmentAccess, descriptor, range: &SlotRange| SegmentInfo {
            access: access as u32,
            descriptor,
            first: range.first(),
            count: range.count(),
            offset: range.offset(),
        };
        let address = Ipv4Addr::new(10, 7, 0, number);
        let attached = Attached {
            version: VERSION,
            session: number.into(),
            mode: Mode::Isolated as u32,
            ring_capacity: RING,
            slot_size: 2048,
            mtu: 1500,
            inbound_size: layout::region_size(1, RING) as u64,
            outbound_size: layout::region_size(1, RING) as u64,
            mac: [2, 0, 0, 0, 0, number],
            pairs: 1,
            ipv4: Address::new(IpAddr::V4(address), 24),
            ipv6: Address::new(format!("fd07::{number}").parse().unwrap(), 64),
            gateway4: Address::default(),
            gateway6: Address::default(),
            segments: [
                info(SegmentAccess::Transmit, 4, &transmit),
                info(SegmentAccess::Receive, 5, &receive),
                SegmentInfo::default(),
                SegmentInfo::default(),
            ],
            features: 0,
            reserved: 0,
        };
        let transmit_first = transmit.first();
        self.pool.add_home(HomeKind::Transmit(id), transmit).unwrap();
        let receive = self.pool.add_home(HomeKind::Receive(id), receive).unwrap();
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let (wake, client_wake) = pair(SocketType::SEQPACKET);
        let (daemon, client) = pair(SocketType::SEQPACKET);
        let client_kick = kick.try_clone().unwrap();
        let descriptors =
            vec![inbound_fd, outbound_fd, client_kick, client_wake, transmit_fd, receive_fd];
        let queues = DaemonQueues::new(&inbound, &outbound, RING, 0).unwrap();
        Answer {
            attached,
            descriptors,
            daemon: daemon.into(),
            client: client.into(),
            peer: PeerParts { queues, kick, wake, id, receive, transmit_first },
        }
    }

    /// Answers before it is asked: a connection keeps what was sent.
    pub fn attach(&mut self) -> Session {
        let answer = self.prepare();
        self.answer(answer).unwrap()
    }

    pub fn answer(&mut self, answer: Answer) -> Result<Session, usnet::AttachError> {
        let Answer { attached, descriptors, daemon, client, peer } = answer;
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        daemon.send(1, &Message::Attached(attached), &borrowed, SendFlags::empty()).unwrap();
        let session = Session::attach_over(client, Options::default());
        let asked = daemon.receive(RecvFlags::empty()).unwrap().1;
        assert!(matches!(asked, Message::Attach(a) if a.version == VERSION));
        let PeerParts { queues, kick, wake, id, receive, transmit_first } = peer;
        self.peers.push(Peer {
            channel: daemon,
            queues,
            kick,
            wake,
            id,
            receive,
            transmit_first,
            next_port: 40_000,
            claims: Vec::new(),
        });
        session
    }

    /// Lends a frame to client `to` and publishes it.
    pub fn deliver(&mut self, to: usize, bytes: &[u8]) -> bool {
        let peer = &mut self.peers[to];
        if peer.queues.rx.room() == 0 && peer.queues.rx.refresh().unwrap() == 0 {
            return false;
        }
        let Some(mut frame) = self.pool.alloc_from(peer.receive) else { return false };
        assert!(self.pool.fill(&mut frame, bytes));
        let raw = self.pool.lend(frame, peer.id).unwrap();
        peer.queues.rx.push(raw).unwrap();
        true
    }

    /// Publishes everything and wakes those who sleep.
    pub fn publish(&mut self) {
        for peer in &mut self.peers {
            let new = peer.queues.rx.publish() | peer.queues.completion.publish();
            if new && peer.queues.peer.must_wake() {
                let _ = send(&peer.wake, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            }
        }
    }

    /// Takes back what clients filled.
    pub fn take_fill(&mut self) -> usize {
        let mut count = 0;
        for peer in &mut self.peers {
            peer.queues.fill.refresh().unwrap();
            while let Some(raw) = peer.queues.fill.pop() {
                assert_eq!(self.pool.take_back(peer.id, raw), Ok(Returned::Free));
                count += 1;
            }
            peer.queues.fill.release();
        }
        count
    }

    /// Takes frames that client `from` sent and gives their slots back.
    pub fn take_sent(&mut self, from: usize) -> Vec<Vec<u8>> {
        let peer = &mut self.peers[from];
        let mut frames = Vec::new();
        peer.queues.tx.refresh().unwrap();
        peer.queues.completion.refresh().unwrap();
        while let Some(raw) = peer.queues.tx.pop() {
            let frame = self.pool.accept(peer.id, raw).unwrap();
            let mut bytes = vec![0; frame.len()];
            assert_eq!(self.pool.snapshot(&frame, 0, &mut bytes), bytes.len());
            frames.push(bytes);
            let (of, raw) = self.pool.complete(frame).unwrap();
            assert_eq!(of, peer.id);
            peer.queues.completion.push(raw).unwrap();
        }
        peer.queues.tx.release();
        frames
    }

    /// One round of the switch; returns whether anything moved.
    pub fn step(&mut self) -> bool {
        let mut moved = self.take_fill() > 0;
        for from in 0..self.peers.len() {
            for bytes in self.take_sent(from) {
                moved = true;
                self.switched += 1;
                if self.lose_every.is_some_and(|n| self.switched.is_multiple_of(n)) {
                    continue;
                }
                for to in (0..self.peers.len()).filter(|to| *to != from) {
                    self.deliver(to, &bytes);
                }
            }
        }
        self.publish();
        moved | self.serve_control()
    }

    fn serve_control(&mut self) -> bool {
        let mut served = false;
        self.peers.retain_mut(|peer| {
            loop {
                match peer.channel.receive(RecvFlags::DONTWAIT) {
                    Err(error) if error.is_would_block() => return true,
                    // A client that has gone: its slots stay where they are.
                    Err(_) => return false,
                    Ok((request, message)) => {
                        served = true;
                        let answer = peer.answer(message);
                        let _ = peer.channel.send(request, &answer, &[], SendFlags::empty());
                    }
                }
            }
        });
        served
    }

    /// Runs the switch in a thread of its own until the handle is dropped. It sleeps whenever it has
    /// nothing to do, and only kicks and requests wake it: a client that forgets one hangs.
    pub fn run(self) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let (bell, ring) = pair(SocketType::SEQPACKET);
        let fake = Arc::new(Mutex::new(self));
        let (flag, shared) = (Arc::clone(&stop), Arc::clone(&fake));
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Acquire) {
                let mut fake = shared.lock().unwrap();
                if fake.step() {
                    continue;
                }
                fake.peers.iter().for_each(|p| p.queues.sleep.raise());
                if !fake.step() {
                    let fake = &*fake;
                    let kicks = fake.peers.iter().flat_map(|p| [p.kick.as_fd(), p.channel.as_fd()]);
                    let mut fds: Vec<_> = kicks
                        .chain([ring.as_fd()])
                        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                        .collect();
                    let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
                    poll(&mut fds, Some(&limit)).unwrap();
                }
                for peer in &fake.peers {
                    let _ = rustix::io::read(&peer.kick, &mut [0u8; 8]);
                    peer.queues.sleep.lower();
                }
            }
        });
        Running { fake, stop, bell, thread: Some(thread) }
    }
}

impl Peer {
    fn answer(&mut self, message: Message) -> Message {
        match message {
            Message::Claim(mut claim) => {
                if claim.first_port == 0 {
                    claim.first_port = self.next_port;
                    self.next_port += claim.count;
                }
                let (first, last) = (claim.first_port, claim.first_port + claim.count - 1);
                let overlaps = |held: &usnet_shmring::control::Claim| {
                    held.protocol == claim.protocol
                        && first < held.first_port + held.count
                        && held.first_port <= last
                };
                if self.claims.iter().any(overlaps) {
                    return Message::refused(RefusalCode::InUse, "somebody has these ports");
                }
                self.claims.push(claim);
                Message::Claimed(claim)
            }
            Message::Release(claim) => {
                let before = self.claims.len();
                self.claims.retain(|held| *held != claim);
                if self.claims.len() == before {
                    return Message::refused(RefusalCode::NotFound, "no such claim");
                }
                Message::Claimed(claim)
            }
            Message::Detach => Message::Detached,
            _ => Message::refused(RefusalCode::Protocol, "not expected here"),
        }
    }

    pub fn claims(&self) -> usize {
        self.claims.len()
    }
}

/// A switch that runs.
pub struct Running {
    pub fake: Arc<Mutex<Fake>>,
    stop: Arc<AtomicBool>,
    bell: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = send(&self.bell, &[1], SendFlags::NOSIGNAL);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = send(&self.bell, &[1], SendFlags::NOSIGNAL);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Fails the test instead of letting it hang.
pub fn within<T: Send + 'static>(
    seconds: u64,
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || sender.send(work()));
    match receiver.recv_timeout(Duration::from_secs(seconds)) {
        Ok(value) => value,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
            panic!("{what} did not end within {seconds} seconds")
        }
        Err(_) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(_) => unreachable!("the thread sends before it ends"),
        },
    }
}
