//! The smallest daemon: a pool, and for each session what the switch does with its rings, without a
//! network. Models and tests put their peers in front of it.

use crate::arena::{Arena, HEAP_SEGMENT_SLOTS, SEGMENT_SLOTS, Segment, SlotRange, SlotSize};
use crate::descriptor::{Fault, RawDescriptor};
use crate::ledger::SessionId;
use crate::pool::{Ended, HomeId, HomeKind, Pool, Returned};
use crate::queues::{ClientQueues, DaemonQueues};
use crate::region::{Region, Writer};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Descriptors that one turn takes from a ring.
pub const BURST: usize = 64;
/// Bytes of a frame that are copied before they are judged.
pub const HEAD: usize = 64;

/// What memory a world is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Allocated; for Miri and for fuzzing without system calls.
    Heap,
    /// Sealed memfds, as in the daemon.
    Mapped,
}

impl Backing {
    /// Room for two segments of the smallest size.
    ///
    /// # Panics
    /// If there is no memory.
    #[must_use]
    pub fn arena(self) -> Arc<Arena> {
        match self {
            Self::Heap => Arena::heap(2 * HEAP_SEGMENT_SLOTS, SlotSize::DEFAULT),
            Self::Mapped => Arena::reserve(2 * SEGMENT_SLOTS, SlotSize::DEFAULT),
        }
        .expect("an arena")
    }
}

/// The two regions of a session as each side sees them. Over [`Backing::Heap`] both see the same.
#[derive(Clone, Debug)]
pub struct Regions {
    /// Written by the daemon, as the daemon sees it.
    pub inbound: Arc<Region>,
    /// Written by the client, as the daemon sees it.
    pub outbound: Arc<Region>,
    /// Written by the daemon, as the client sees it.
    pub client_inbound: Arc<Region>,
    /// Written by the client, as the client sees it.
    pub client_outbound: Arc<Region>,
    /// The memfds, inbound first, if there are any.
    pub descriptors: Option<Arc<[OwnedFd; 2]>>,
}

impl Regions {
    /// New ones for one queue pair.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[must_use]
    pub fn new(backing: Backing, capacity: u32) -> Self {
        if backing == Backing::Heap {
            let (inbound, outbound) = (Region::heap(1, capacity), Region::heap(1, capacity));
            return Self {
                client_inbound: Arc::clone(&inbound),
                client_outbound: Arc::clone(&outbound),
                inbound,
                outbound,
                descriptors: None,
            };
        }
        let create = |writer| {
            let (region, fd) = Region::create(writer, 1, capacity, 2048).expect("a region");
            let client = Region::map(fd.as_fd(), writer, region.size()).expect("its mapping");
            (region, client, fd)
        };
        let (inbound, client_inbound, first) = create(Writer::Daemon);
        let (outbound, client_outbound, second) = create(Writer::Client);
        let descriptors = Some(Arc::new([first, second]));
        Self { inbound, outbound, client_inbound, client_outbound, descriptors }
    }

    /// The client's queues.
    ///
    /// # Panics
    /// If `capacity` is not what the regions were made for.
    #[must_use]
    pub fn client(&self, capacity: u32) -> ClientQueues {
        ClientQueues::new(&self.client_inbound, &self.client_outbound, capacity, 0)
            .expect("regions of this capacity")
    }
}

/// The daemon's half of one session.
#[derive(Debug)]
pub struct DaemonHalf {
    /// Its rings.
    pub queues: DaemonQueues,
    /// Its number.
    pub session: SessionId,
    /// Its receive slots.
    pub receive: HomeId,
    /// Its transmit slots.
    pub transmit: HomeId,
}

/// What one turn moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Slots that came back on the fill ring.
    pub returned: usize,
    /// Frames from the client.
    pub taken: usize,
    /// Frames to the client.
    pub given: usize,
    /// Completions that found no room, since the client sent a slot again before it took the last
    /// completion off the ring. It harms only itself.
    pub lost: usize,
}

impl DaemonHalf {
    /// Serves each ring once: takes returned slots, then frames (each copied whole, its head given
    /// to `read`), then sends up to `wanted` frames of [`HEAD`] bytes that `write` fills.
    ///
    /// # Errors
    /// The peer's [`Fault`]. No token is left over.
    ///
    /// # Panics
    /// If a frame leaves with another head than the one that was checked.
    pub fn turn(
        &mut self,
        pool: &mut Pool,
        wanted: usize,
        mut read: impl FnMut(&[u8]),
        mut write: impl FnMut(&mut [u8]),
    ) -> Result<Turn, Fault> {
        let mut turn = Turn::default();
        let mut burst = [RawDescriptor::default(); BURST];
        let queues = &mut self.queues;
        queues.fill.refresh()?;
        let count = queues.fill.pop_burst(&mut burst);
        for raw in burst.iter().take(count) {
            let back = pool.take_back(self.session, *raw)?;
            assert_eq!(back, Returned::Free, "no session was given another's transmit slot");
            turn.returned += 1;
        }
        queues.fill.release();

        queues.tx.refresh()?;
        queues.completion.refresh()?;
        let count = queues.tx.pop_burst(&mut burst);
        for raw in burst.iter().take(count) {
            let frame = pool.accept(self.session, *raw)?;
            let mut head = [0; HEAD];
            let seen = pool.snapshot(&frame, 0, &mut head);
            assert_eq!(seen, HEAD.min(frame.len()));
            let head = head.get(..seen).unwrap_or_default();
            if let Some(mut copy) = pool.alloc() {
                assert!(pool.copy_vetted(head, &frame, &mut copy));
                assert_eq!(pool.bytes(&copy).len(), frame.len());
                assert_eq!(pool.bytes(&copy).get(..seen), Some(head), "sent what was not checked");
                pool.free(copy);
            }
            read(head);
            let (to, raw) = pool.complete(frame).expect("its session lives");
            assert_eq!(to, self.session);
            turn.lost += usize::from(queues.completion.push(raw).is_err());
            turn.taken += 1;
        }
        queues.tx.release();
        queues.completion.publish();

        queues.rx.refresh()?;
        let room = usize::try_from(queues.rx.room()).unwrap_or(0);
        for _ in 0..wanted.min(room) {
            let Some(mut frame) = pool.alloc_from(self.receive) else { break };
            assert!(pool.fill(&mut frame, &[0; HEAD]));
            write(pool.bytes_mut(&mut frame));
            let raw = pool.lend(frame, self.session).expect("a frame of this pool");
            queues.rx.push(raw).expect("room was asked for");
            turn.given += 1;
        }
        queues.rx.publish();
        Ok(turn)
    }
}

/// A pool and spare ranges for the homes of sessions.
#[derive(Debug)]
pub struct World {
    /// All slots.
    pub pool: Pool,
    /// Cells of each ring.
    pub capacity: u32,
    backing: Backing,
    /// Segment that clients write.
    pub client_segment: Arc<Segment>,
    spare_receive: Vec<SlotRange>,
    spare_transmit: Vec<SlotRange>,
}

impl World {
    /// A pool with `port_slots` slots for the ports, and receive and transmit ranges of `capacity`
    /// slots each for as many sessions as one segment has room for.
    ///
    /// # Panics
    /// If the kernel refuses, or one segment has no room for that.
    #[must_use]
    pub fn new(backing: Backing, capacity: u32, port_slots: u32) -> Self {
        let arena = backing.arena();
        let add = |writer| {
            let segment = arena.add_segment("model", writer, 1, false).expect("a segment");
            SlotRange::whole(segment)
        };
        let (mut daemon, mut client) = (add(Writer::Daemon), add(Writer::Client));
        let port = daemon.split(port_slots).expect("room for the port home");
        let spare = |range: &mut SlotRange| -> Vec<SlotRange> {
            std::iter::from_fn(|| range.split(capacity)).collect()
        };
        let client_segment = Arc::clone(client.segment());
        let (spare_receive, spare_transmit) = (spare(&mut daemon), spare(&mut client));
        let pool = Pool::new(port).expect("a daemon-written range");
        Self { pool, capacity, backing, client_segment, spare_receive, spare_transmit }
    }

    /// Makes a session: homes, regions, queues. Number `session` must not be in use.
    ///
    /// # Panics
    /// If there is no range left, or the number is in use.
    pub fn attach(&mut self, session: SessionId) -> (DaemonHalf, Regions) {
        assert!(!self.pool.has_homes(session), "a number is used again before its slots are home");
        self.collect();
        let regions = Regions::new(self.backing, self.capacity);
        let receive = self.spare_receive.pop().expect("a range");
        let transmit = self.spare_transmit.pop().expect("a range");
        let queues = DaemonQueues::new(&regions.inbound, &regions.outbound, self.capacity, 0)
            .expect("regions of this capacity");
        let receive = self.pool.add_home(HomeKind::Receive(session), receive).expect("a home");
        let transmit = self.pool.add_home(HomeKind::Transmit(session), transmit).expect("a home");
        (DaemonHalf { queues, session, receive, transmit }, regions)
    }

    /// Ends a session that the daemon holds no token of, and checks that all its slots came back.
    ///
    /// # Panics
    /// If not.
    pub fn end(&mut self, half: DaemonHalf) -> Ended {
        let session = half.session;
        let ended = self.pool.end_session(session);
        self.check();
        assert!(!self.pool.has_homes(session), "slots of an ended session did not come back");
        ended
    }

    /// Takes closed ranges over for new sessions.
    fn collect(&mut self) {
        for range in self.pool.take_closed() {
            match range.segment().writer() {
                Writer::Daemon => self.spare_receive.push(range),
                Writer::Client => self.spare_transmit.push(range),
            }
        }
    }

    /// Checks that every slot of every home is in one state.
    ///
    /// # Panics
    /// If not.
    pub fn check(&self) {
        let (audit, slots) = self.pool.audit();
        assert_eq!(audit.total(), slots, "slots were lost or made: {audit:?}");
    }
}
