//! A daemon half and a client in two real processes, which sleep and wake each other as they will
//! in earnest: the daemon is woken by an eventfd that it never reads, the client by a socket.
//!
//! ```text
//!   this process (daemon half)                the same binary again (client)
//!      regions, segments, kick, wake  ---->   maps them, clears O_NONBLOCK on all it got
//!      a million numbered frames      <--->   a million numbered frames
//! ```
//!
//! A lost wake-up is a hang, which a watch in the parent turns into a failure.

#![cfg(not(miri))]

mod support;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use support::sys::Mapping;
use support::{Guarded, Peer, attached, parent, role, socket_pair};
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::control::{Message, SegmentInfo};
use usnet_shmring::descriptor::RawDescriptor;
use usnet_shmring::layout::region_size;
use usnet_shmring::ledger::SessionId;
use usnet_shmring::model::world::{BURST, DaemonHalf, HEAD, Turn};
use usnet_shmring::pool::{HomeKind, Pool};
use usnet_shmring::queues::{ClientQueues, DaemonQueues};
use usnet_shmring::region::{Region, Writer};

const CAPACITY: u32 = 256;
const SESSION: SessionId = SessionId(1);
const SLOT: usize = 2048;
/// Bytes of a segment of 1,024 slots.
const SEGMENT: usize = 1024 * SLOT;
/// Where the transmit segment begins, as a slot number.
const FIRST_TRANSMIT: u32 = 1024;
/// Frames each way.
const FRAMES: u64 = 1_000_000;

/// The daemon's side of a session with a real client.
struct Daemon {
    half: DaemonHalf,
    pool: Pool,
    kick: OwnedFd,
    wake: OwnedFd,
    epoll: OwnedFd,
    client: Guarded,
    /// Wake-ups sent, and those that found the client's socket full.
    wakes: (u64, u64),
}

impl Daemon {
    fn start(test: &str) -> Self {
        let (inbound, first) = Region::create(Writer::Daemon, 1, CAPACITY, 2048).unwrap();
        let (outbound, second) = Region::create(Writer::Client, 1, CAPACITY, 2048).unwrap();
        let arena = Arena::reserve(2048, SlotSize::DEFAULT).unwrap();
        let receive = arena.add_segment("receive", Writer::Daemon, 1024, false).unwrap();
        let transmit = arena.add_segment("transmit", Writer::Client, 1024, false).unwrap();
        assert_eq!(transmit.first(), FIRST_TRANSMIT);
        let kick = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
        let (wake, theirs) = socket_pair().unwrap();

        let client = Peer::start(test, "client").unwrap();
        let message =
            attached(CAPACITY, [inbound.size(), outbound.size()], [SegmentInfo::default(); 4]);
        let descriptors = [
            first.as_fd(),
            second.as_fd(),
            kick.as_fd(),
            theirs.as_fd(),
            receive.as_fd(),
            transmit.as_fd(),
        ];
        client.channel.send(1, &message, &descriptors, SendFlags::empty()).unwrap();
        let client = client.guarded();

        let mut range = SlotRange::whole(receive);
        let mut pool = Pool::new(range.split(64).unwrap()).unwrap();
        let range = range.split(CAPACITY).unwrap();
        let receive = pool.add_home(HomeKind::Receive(SESSION), range).unwrap();
        let range = SlotRange::whole(transmit).split(CAPACITY).unwrap();
        let transmit = pool.add_home(HomeKind::Transmit(SESSION), range).unwrap();
        let queues = DaemonQueues::new(&inbound, &outbound, CAPACITY, 0).unwrap();
        let half = DaemonHalf { queues, session: SESSION, receive, transmit };

        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        // Edges only: the eventfd's counter belongs to the client as well, so nobody reads it.
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &kick, EventData::new_u64(0), edge).unwrap();
        // A hang-up is always reported: the end of the client ends every sleep.
        let hang_up = EventFlags::empty();
        epoll::add(&epoll, &client.channel, EventData::new_u64(1), hang_up).unwrap();
        Self { half, pool, kick, wake, epoll, client, wakes: (0, 0) }
    }

    fn wake_if_asleep(&mut self) {
        if self.half.queues.peer.must_wake() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.wake, &[0], flags) {
                Ok(_) => self.wakes.0 += 1,
                Err(Errno::AGAIN) => self.wakes.1 += 1,
                // The client has ended; the loop sees it.
                Err(Errno::PIPE | Errno::CONNRESET) => {}
                Err(e) => panic!("waking failed: {e}"),
            }
        }
    }

    fn sleep(&self) {
        let mut events = Vec::with_capacity(2);
        let waited = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None);
        assert!(matches!(waited, Ok(_) | Err(Errno::INTR)));
    }
}

/// Numbers of frames, checked to come in order.
#[derive(Debug, Default)]
struct Count(u64);

impl Count {
    fn expect(&mut self, number: u64) {
        assert_eq!(number, self.0, "a frame was lost, repeated or changed");
        self.0 += 1;
    }

    fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0 - 1
    }
}

#[test]
fn a_million_frames_cross_both_ways_and_no_wake_up_is_lost() {
    if role().is_some() {
        return Client::attach().exchange();
    }
    let mut daemon = Daemon::start("a_million_frames_cross_both_ways_and_no_wake_up_is_lost");
    let (mut from, mut to, mut returned, mut slept) = (Count(0), Count(0), 0, 0u64);
    let mut turn = |daemon: &mut Daemon| -> bool {
        let wanted = usize::try_from(FRAMES - to.0).unwrap_or(BURST).min(BURST);
        let read = |head: &[u8]| {
            let (number, rest) = head.split_first_chunk().unwrap();
            from.expect(u64::from_ne_bytes(*number));
            assert!(rest.chunks_exact(8).all(|word| word == number), "a torn frame");
        };
        let write = |bytes: &mut [u8]| {
            let number = to.next().to_ne_bytes();
            bytes.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&number));
        };
        let moved = daemon.half.turn(&mut daemon.pool, wanted, read, write).unwrap();
        returned += moved.returned as u64;
        assert_eq!(moved.lost, 0, "an honest client's completions always have room");
        if moved != Turn::default() {
            daemon.wake_if_asleep();
        }
        moved != Turn::default()
    };
    while daemon.client.is_running() {
        if turn(&mut daemon) {
            continue;
        }
        daemon.half.queues.sleep.raise();
        if !turn(&mut daemon) {
            slept += 1;
            daemon.sleep();
        }
        daemon.half.queues.sleep.lower();
    }
    // What the client published last, before it ended.
    while turn(&mut daemon) {}
    println!("daemon slept {slept} times, woke the client {} times", daemon.wakes.0);
    assert_eq!((from.0, to.0, returned), (FRAMES, FRAMES, FRAMES));
    let Daemon { client, mut pool, .. } = daemon;
    assert!(client.succeeded());
    let ended = pool.end_session(SESSION);
    assert_eq!((ended.recovered, ended.away), (0, 0));
    let (audit, slots) = pool.audit();
    assert_eq!((audit.total(), audit.free), (slots, 64));
}

/// The client's side.
struct Client {
    queues: ClientQueues,
    kick: OwnedFd,
    wake: OwnedFd,
    receive: Mapping,
    transmit: Mapping,
}

/// What a turn of the client did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moved {
    None,
    Some,
    All,
}

fn clear_nonblock(fd: BorrowedFd<'_>) {
    let flags = rustix::fs::fcntl_getfl(fd).unwrap();
    // Memfds do not mind; it is tried on all the same.
    rustix::fs::fcntl_setfl(fd, flags - OFlags::NONBLOCK).unwrap();
}

impl Client {
    fn attach() -> Self {
        let mut fds = Vec::new();
        let (_, message) = parent().receive_with_descriptors(&mut fds).unwrap();
        assert!(matches!(message, Message::Attached(_)));
        fds.iter().for_each(|fd| clear_nonblock(fd.as_fd()));
        let [inbound, outbound, kick, wake, receive, transmit] =
            <[OwnedFd; 6]>::try_from(fds).unwrap();
        let size = region_size(1, CAPACITY);
        let inbound = Region::map(inbound.as_fd(), Writer::Daemon, size).unwrap();
        let outbound = Region::map(outbound.as_fd(), Writer::Client, size).unwrap();
        let queues = ClientQueues::new(&inbound, &outbound, CAPACITY, 0).unwrap();
        let receive = Mapping::shared_read_only(receive, SEGMENT).unwrap();
        let transmit = Mapping::shared_writable(transmit, SEGMENT).unwrap();
        Self { queues, kick, wake, receive, transmit }
    }

    fn exchange(mut self) {
        let (mut sent, mut got) = (Count(0), Count(0));
        let mut free: Vec<u32> = (0..CAPACITY).collect();
        let mut turn = |client: &mut Self| -> Moved {
            let Self { queues: q, receive, transmit, .. } = client;
            q.completion.refresh().unwrap();
            while let Some(raw) = q.completion.pop() {
                free.push(raw.slot() - FIRST_TRANSMIT);
            }
            q.completion.release();
            q.tx.refresh().unwrap();
            while sent.0 < FRAMES && q.tx.room() > 0 && q.tx.unpublished() < 32 {
                let Some(slot) = free.pop() else { break };
                let number = sent.next();
                let at = slot as usize * SLOT;
                (0..HEAD).step_by(8).for_each(|word| transmit.store(at + word, number));
                q.tx.push(RawDescriptor::new(FIRST_TRANSMIT + slot, 0, 64)).unwrap();
            }
            // In this order: a slot that comes by rx has left fill before, so that all that have come find
            // room there. The other way round the daemon can send a slot again in between.
            q.rx.refresh().unwrap();
            q.fill.refresh().unwrap();
            while let Some(raw) = q.rx.pop() {
                let at = raw.slot() as usize * SLOT + usize::from(raw.offset());
                assert_eq!(usize::from(raw.length()), HEAD);
                let number = receive.load(at);
                assert!((0..HEAD).step_by(8).all(|word| receive.load(at + word) == number));
                got.expect(number);
                q.fill.push(raw).unwrap();
            }
            q.rx.release();
            let published = [q.tx.publish(), q.fill.publish()];
            if published.contains(&true) && q.peer.must_wake() {
                rustix::io::write(&client.kick, &1u64.to_ne_bytes()).unwrap();
            }
            let all_home = free.len() == CAPACITY as usize;
            if sent.0 == FRAMES && got.0 == FRAMES && all_home {
                Moved::All
            } else if published.contains(&true) {
                Moved::Some
            } else {
                Moved::None
            }
        };
        loop {
            match turn(&mut self) {
                Moved::All => break,
                Moved::Some => continue,
                Moved::None => {}
            }
            self.queues.sleep.raise();
            // Looks at all rings once more after it said that it sleeps.
            let moved = turn(&mut self);
            if moved == Moved::None {
                self.wait();
            }
            self.queues.sleep.lower();
            if moved == Moved::All {
                break;
            }
        }
    }

    /// Sleeps until the daemon sends something on the wake socket.
    fn wait(&self) {
        poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], None).unwrap();
        while rustix::net::recv(&self.wake, &mut [0; 1], RecvFlags::DONTWAIT).is_ok() {}
    }
}

/// Fills what can be filled, says that it sleeps, and reads nothing until it is told to go.
fn be_a_wall(client: &Client) {
    // From here on every write of anyone to the eventfd would block: O_NONBLOCK is gone.
    rustix::io::write(&client.kick, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    client.queues.sleep.raise();
    parent().receive(RecvFlags::empty()).unwrap();
}

#[test]
fn a_client_that_fills_every_queue_and_clears_o_nonblock_cannot_block_the_daemon() {
    if role().is_some() {
        return be_a_wall(&Client::attach());
    }
    let mut daemon = Daemon::start(
        "a_client_that_fills_every_queue_and_clears_o_nonblock_cannot_block_the_daemon",
    );
    // The flag raised is the last thing that it does.
    while !daemon.half.queues.peer.must_wake() {
        assert!(daemon.client.is_running());
        std::thread::yield_now();
    }
    let flags = rustix::fs::fcntl_getfl(&daemon.kick).unwrap();
    assert!(!flags.contains(OFlags::NONBLOCK), "the flag is shared, so the client cleared it");
    let mut given = 0;
    for _ in 0..10_000 {
        let turn = daemon.half.turn(&mut daemon.pool, BURST, |_| (), |_| ()).unwrap();
        given += turn.given;
        daemon.wake_if_asleep();
    }
    assert_eq!(given, CAPACITY as usize, "a client that takes nothing is given one ring full");
    assert!(daemon.wakes.0 > 0 && daemon.wakes.1 > 0, "the socket was never full");
    // One edge from its write, then silence, however full the counter is.
    daemon.sleep();
    assert!(daemon.client.is_running(), "the daemon went on only since the client was killed");
    let flags = SendFlags::DONTWAIT;
    daemon.client.channel.send(2, &Message::Detach, &[], flags).unwrap();
    assert!(daemon.client.succeeded());
    let ended = daemon.pool.end_session(SESSION);
    assert_eq!((ended.recovered, ended.away), (0, 0));
    let (audit, slots) = daemon.pool.audit();
    assert_eq!((audit.total(), audit.free), (slots, 64));
}
