//! What a session is made of: regions, slots, the two ways to wake each other.
//!
//! ```text
//!   isolated   transmit segment (its own)                receive segment (its own)
//!   shared     a range of its group's transmit segment   the port's slots, for all groups
//! ```
//!
//! - Every descriptor is made here and sealed before it leaves; nothing that a client made comes in.
//! - A range of a group's segment is zeroed before another session gets it.
//! - Segments of isolated sessions are never used again: dropping the range unmaps them.
//! - Segments of groups that are there from the beginning are the ports' neighbours, so that a card can be
//!   given both, and stay; those that come with a session go with the last one.

use crate::config::{self, Quota, Sharing};
use crate::session::GroupId;
use rustix::event::EventfdFlags;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use thiserror::Error;
use usnet_shmring::arena::{Arena, ArenaError, SEGMENT_SLOTS, Segment, SlotRange, SlotSize};
use usnet_shmring::control::{Attach, SegmentAccess, SegmentInfo};
use usnet_shmring::pool::{HomeError, Pool};
use usnet_shmring::queues::DaemonQueues;
use usnet_shmring::region::{Region, RegionError, Writer};

/// Cells of each ring if the client leaves it to the daemon.
const DEFAULT_CAPACITY: u32 = 1024;

/// Why a session's memory could not be made.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// No slots are left, or no memory for them.
    #[error("no memory for the session's slots")]
    Slots(#[from] ArenaError),
    /// A region could not be made.
    #[error("no memory for the session's rings")]
    Region(#[from] RegionError),
    /// The group's segment has no room.
    #[error("trust group {group:?} has no {slots} slots left (memory.group_slots)")]
    GroupFull {
        /// Name of the group.
        group: String,
        /// Slots asked for.
        slots: u32,
    },
    /// A system call failed.
    #[error("cannot {what} for the session")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The pool refused its own slots.
    #[error("the pool refuses the port's slots")]
    Pool(#[from] HomeError),
    /// The rings do not lie in the regions that were made for them.
    #[error("rings of {0} cells do not fit their regions")]
    Layout(u32),
}

/// How large a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Queue pairs: one for each worker.
    pub pairs: u16,
    /// Cells of each ring.
    pub ring_capacity: u32,
    /// Slots that it sends from, on each pair.
    pub transmit_slots: u32,
    /// Slots that it receives into, on each pair; 0 in mode `shared`.
    pub receive_slots: u32,
}

impl Shape {
    /// What a client gets that asks for this much: a wish is cut to the quota and to what fits.
    #[must_use]
    pub fn grant(wish: &Attach, quota: &Quota, mode: Sharing, pairs: u16) -> Self {
        let or_default = |wish: u32, default| if wish == 0 { default } else { wish };
        let most = or_default(wish.ring_capacity, DEFAULT_CAPACITY).min(quota.ring_capacity);
        // The largest power of two that is not more.
        let ring_capacity = 1 << most.max(2).ilog2();
        // A ring takes all slots of its pool at once, so that giving back never waits.
        let slots = |wish| or_default(wish, ring_capacity).min(ring_capacity);
        let receive_slots = match mode {
            Sharing::Isolated => slots(wish.receive_slots),
            Sharing::Shared => 0,
        };
        Self { pairs, ring_capacity, transmit_slots: slots(wish.transmit_slots), receive_slots }
    }

    /// Slots that it costs its user: isolated sessions have whole segments.
    #[must_use]
    pub const fn cost(&self) -> u32 {
        if self.receive_slots == 0 {
            return self.transmit();
        }
        self.transmit().next_multiple_of(SEGMENT_SLOTS)
            + self.receive().next_multiple_of(SEGMENT_SLOTS)
    }

    /// Slots that it sends from, in all.
    #[must_use]
    pub const fn transmit(&self) -> u32 {
        self.transmit_slots * self.pairs as u32
    }

    /// Slots that it receives into, in all.
    #[must_use]
    pub const fn receive(&self) -> u32 {
        self.receive_slots * self.pairs as u32
    }
}

/// One worker's part of a session's memory.
#[derive(Debug)]
pub struct WorkerShare {
    /// Rings.
    pub queues: DaemonQueues,
    /// Slots that it sends from.
    pub transmit: SlotRange,
    /// Slots that it receives into, if they are its own.
    pub receive: Option<SlotRange>,
    /// Its trust group.
    pub group: Option<GroupId>,
    /// Readable when the client has something. Shared with the client: never to be read.
    pub kick: OwnedFd,
    /// Wakes the client.
    pub wake: OwnedFd,
}

/// The client's part: what goes with the [`Attached`](usnet_shmring::control::Attached) message.
#[derive(Debug)]
pub struct ClientShare {
    inbound: OwnedFd,
    outbound: OwnedFd,
    kick: OwnedFd,
    wake: OwnedFd,
    memfds: Vec<Arc<Segment>>,
    /// Bytes of the inbound region.
    pub inbound_size: u64,
    /// Bytes of the outbound region.
    pub outbound_size: u64,
    /// What lies where.
    pub segments: [SegmentInfo; 4],
}

impl ClientShare {
    /// In the order in which the message counts them.
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let first = [&self.inbound, &self.outbound, &self.kick, &self.wake];
        first.into_iter().map(AsFd::as_fd).chain(self.memfds.iter().map(|s| s.as_fd())).collect()
    }
}

#[derive(Debug)]
struct Group {
    name: String,
    segment: Arc<Segment>,
    /// Ranges that no session has, by first slot; neighbours are joined.
    free: Vec<SlotRange>,
    /// Also without a session: a card may read its slots.
    stays: bool,
}

impl Group {
    fn new(arena: &Arc<Arena>, name: &str, slots: u32, huge: bool) -> Result<Self, ArenaError> {
        let segment = arena.add_segment("usnet-group", Writer::Client, slots, huge)?;
        let range = SlotRange::whole(segment);
        let segment = Arc::clone(range.segment());
        Ok(Self { name: name.to_owned(), segment, free: vec![range], stays: false })
    }

    fn take(&mut self, slots: u32) -> Option<SlotRange> {
        let index = self.free.iter().position(|range| range.count() >= slots)?;
        let range = self.free.get_mut(index)?.split(slots);
        self.free.retain(|range| range.count() > 0);
        range
    }

    fn put(&mut self, mut range: SlotRange) {
        range.zero();
        self.free.push(range);
        self.free.sort_by_key(SlotRange::first);
        let mut joined: Vec<SlotRange> = Vec::with_capacity(self.free.len());
        for range in self.free.drain(..) {
            let apart = match joined.last_mut() {
                Some(last) => last.join(range).err(),
                None => Some(range),
            };
            joined.extend(apart);
        }
        self.free = joined;
    }

    fn is_unused(&self) -> bool {
        self.free.iter().map(SlotRange::count).sum::<u32>() == self.segment.count()
    }
}

/// All memory of the daemon.
#[derive(Debug)]
pub struct Memory {
    arena: Arc<Arena>,
    port: Arc<Segment>,
    /// By number; a place is empty while its group has no session and need not stay.
    groups: Vec<Option<Group>>,
    group_slots: u32,
    huge: bool,
}

impl Memory {
    /// Reserves the arena and makes the pools of the ports, one for each of `workers` workers.
    ///
    /// # Errors
    /// [`MemoryError`]
    pub fn new(config: &config::Memory, workers: usize) -> Result<(Self, Vec<Pool>), MemoryError> {
        Self::with_groups(config, workers, &[])
    }

    /// The same with the segments of `groups` before the ports' slots, for drivers that send from both.
    ///
    /// # Errors
    /// [`MemoryError`]
    pub fn with_groups(
        config: &config::Memory,
        workers: usize,
        groups: &[&str],
    ) -> Result<(Self, Vec<Pool>), MemoryError> {
        let arena = Arena::reserve(config.arena_slots, config.slot_size)?;
        Self::in_arena(arena, config, workers, groups)
    }

    /// The same with a segment before the ports' slots that no client ever maps, for what the kernel
    /// puts into memory that it is given. On huge pages if there are any: its objects must not lie
    /// across pages. Between the two lie the segments of `groups`.
    ///
    /// # Errors
    /// [`MemoryError`]
    pub fn with_objects(
        config: &config::Memory,
        workers: usize,
        groups: &[&str],
    ) -> Result<((Self, Vec<Pool>), SlotRange), MemoryError> {
        let arena = Arena::reserve(config.arena_slots, config.slot_size)?;
        let objects = arena.add_segment("usnet-objects", Writer::Daemon, SEGMENT_SLOTS, true)?;
        Ok((Self::in_arena(arena, config, workers, groups)?, SlotRange::whole(objects)))
    }

    fn in_arena(
        arena: Arc<Arena>,
        config: &config::Memory,
        workers: usize,
        groups: &[&str],
    ) -> Result<(Self, Vec<Pool>), MemoryError> {
        let (slots, huge) = (config.port_slots, config.huge_pages);
        let make = |name: &&str| {
            let group = Group::new(&arena, name, config.group_slots, huge)?;
            Ok(Some(Group { stays: true, ..group }))
        };
        let groups = groups.iter().map(make).collect::<Result<Vec<_>, ArenaError>>()?;
        let mut rest =
            SlotRange::whole(arena.add_segment("usnet-port", Writer::Daemon, slots, huge)?);
        let port = Arc::clone(rest.segment());
        let mut pools = Vec::with_capacity(workers);
        for left in (1..=workers).rev() {
            let share = rest.count() / u32::try_from(left).unwrap_or(u32::MAX);
            if let Some(range) = rest.split(share) {
                pools.push(Pool::new(range)?);
            }
        }
        Ok((Self { arena, port, groups, group_slots: config.group_slots, huge }, pools))
    }

    /// The segment of the ports' slots.
    #[must_use]
    pub fn port(&self) -> &Arc<Segment> {
        &self.port
    }

    /// The segments of groups that were made before it, as its neighbours, lowest first.
    #[must_use]
    pub fn lasting_groups(&self) -> Vec<Arc<Segment>> {
        let lasting = self.groups.iter().flatten().filter(|group| group.stays);
        lasting.map(|group| Arc::clone(&group.segment)).collect()
    }

    /// Zeroes the slots of groups that no session has, after somebody else has written there.
    pub fn zero_free_slots_of_groups(&mut self) {
        let groups = self.groups.iter_mut().flatten();
        groups.flat_map(|group| &mut group.free).for_each(SlotRange::zero);
    }

    /// Bytes of a slot.
    #[must_use]
    pub fn slot_size(&self) -> SlotSize {
        self.arena.slot_size()
    }

    /// Makes all that a session needs: a part for each worker, in order, and the client's. `group` names
    /// its trust group, in mode `shared`.
    ///
    /// # Errors
    /// [`MemoryError`], and nothing is left of the attempt.
    pub fn build(
        &mut self,
        shape: Shape,
        group: Option<&str>,
    ) -> Result<(Vec<WorkerShare>, ClientShare), MemoryError> {
        let capacity = shape.ring_capacity;
        let slot_size = self.slot_size().bytes();
        let pairs = u32::from(shape.pairs);
        let (inbound, inbound_fd) = Region::create(Writer::Daemon, pairs, capacity, slot_size)?;
        let (outbound, outbound_fd) = Region::create(Writer::Client, pairs, capacity, slot_size)?;
        let (kick, client_kick) = kick()?;
        let (wake, client_wake) = wake_socket()?;
        let layout = || MemoryError::Layout(capacity);
        let mut parts = Vec::with_capacity(usize::from(shape.pairs));
        for pair in 0..pairs {
            let queues =
                DaemonQueues::new(&inbound, &outbound, capacity, pair).ok_or_else(layout)?;
            parts.push((queues, copy(&kick)?, copy(&wake)?));
        }
        // Last, since what was taken from a group would have to be given back.
        let (mut transmit, mut receive, group) = match group {
            None => {
                let transmit = self.own("usnet-transmit", Writer::Client, shape.transmit())?;
                let receive = self.own("usnet-receive", Writer::Daemon, shape.receive())?;
                (transmit, Some(receive), None)
            }
            Some(name) => {
                let (id, range) = self.take_from_group(name, shape.transmit())?;
                (range, None, Some(id))
            }
        };
        let mut list = SegmentList::default();
        list.add(SegmentAccess::Transmit, &transmit);
        match &receive {
            Some(receive) => list.add(SegmentAccess::Receive, receive),
            None => {
                list.add_whole(SegmentAccess::Group, transmit.segment());
                list.add_whole(SegmentAccess::Receive, &self.port);
            }
        }
        let client = ClientShare {
            inbound: inbound_fd,
            outbound: outbound_fd,
            kick: client_kick,
            wake: client_wake,
            memfds: list.memfds,
            inbound_size: inbound.size() as u64,
            outbound_size: outbound.size() as u64,
            segments: list.segments,
        };
        let part = |(queues, kick, wake)| {
            let own = receive.as_mut().map(|all| all.split(shape.receive_slots).ok_or_else(layout));
            let transmit = transmit.split(shape.transmit_slots).ok_or_else(layout)?;
            Ok(WorkerShare { queues, transmit, receive: own.transpose()?, group, kick, wake })
        };
        let shares = parts.into_iter().map(part).collect::<Result<_, MemoryError>>()?;
        Ok((shares, client))
    }

    /// The first `slots` slots of a new segment; what the segment has beyond them stays unused.
    fn own(&self, name: &str, writer: Writer, slots: u32) -> Result<SlotRange, MemoryError> {
        let mut range = SlotRange::whole(self.arena.add_segment(name, writer, slots, self.huge)?);
        Ok(range.split(slots).unwrap_or(range))
    }

    fn take_from_group(
        &mut self,
        name: &str,
        slots: u32,
    ) -> Result<(GroupId, SlotRange), MemoryError> {
        let is_it = |group: &Option<Group>| group.as_ref().is_some_and(|g| g.name == name);
        let index = match self.groups.iter().position(is_it) {
            Some(index) => index,
            None => {
                let group = Group::new(&self.arena, name, self.group_slots, self.huge)?;
                let index =
                    self.groups.iter().position(Option::is_none).unwrap_or(self.groups.len());
                match self.groups.get_mut(index) {
                    Some(place) => *place = Some(group),
                    None => self.groups.push(Some(group)),
                }
                index
            }
        };
        let full = || MemoryError::GroupFull { group: name.to_owned(), slots };
        let id = u16::try_from(index).map_err(|_| full())?;
        let group = self.groups.get_mut(index).and_then(Option::as_mut);
        Ok((GroupId(id), group.and_then(|group| group.take(slots)).ok_or_else(full)?))
    }

    /// Takes back what the worker has no use for any more: ranges of a group go to their group, the
    /// others are unmapped.
    pub fn take_back(&mut self, ranges: Vec<SlotRange>) {
        for range in ranges {
            let is_it = |group: &&mut Option<Group>| {
                group.as_ref().is_some_and(|g| Arc::ptr_eq(&g.segment, range.segment()))
            };
            let Some(place) = self.groups.iter_mut().find(is_it) else { continue };
            if let Some(group) = place {
                group.put(range);
                if group.is_unused() && !group.stays {
                    *place = None;
                }
            }
        }
    }
}

/// Segments for the message, each memfd once.
#[derive(Default)]
struct SegmentList {
    memfds: Vec<Arc<Segment>>,
    segments: [SegmentInfo; 4],
    used: usize,
}

impl SegmentList {
    fn add(&mut self, access: SegmentAccess, range: &SlotRange) {
        self.entry(access, range.segment(), range.first(), range.count(), range.offset());
    }

    fn add_whole(&mut self, access: SegmentAccess, segment: &Arc<Segment>) {
        self.entry(access, segment, segment.first(), segment.count(), 0);
    }

    fn entry(
        &mut self,
        access: SegmentAccess,
        segment: &Arc<Segment>,
        first: u32,
        count: u32,
        offset: u64,
    ) {
        let known = self.memfds.iter().position(|memfd| Arc::ptr_eq(memfd, segment));
        let index = known.unwrap_or_else(|| {
            self.memfds.push(Arc::clone(segment));
            self.memfds.len() - 1
        });
        // Four descriptors come before the memfds; there are at most three of these.
        let descriptor = 4 + u32::try_from(index).unwrap_or(0);
        if let Some(place) = self.segments.get_mut(self.used) {
            *place = SegmentInfo { access: access as u32, descriptor, first, count, offset };
            self.used += 1;
        }
    }
}

fn system(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> MemoryError {
    move |errno| MemoryError::System { what, source: errno.into() }
}

/// An eventfd that the client writes and the daemon watches, for each side.
fn kick() -> Result<(OwnedFd, OwnedFd), MemoryError> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let kick = rustix::event::eventfd(0, flags).map_err(system("make an eventfd"))?;
    let client = copy(&kick)?;
    Ok((kick, client))
}

fn copy(descriptor: &OwnedFd) -> Result<OwnedFd, MemoryError> {
    rustix::io::fcntl_dupfd_cloexec(descriptor, 0).map_err(system("copy a descriptor"))
}

/// The daemon's and the client's end of the wake socket.
fn wake_socket() -> Result<(OwnedFd, OwnedFd), MemoryError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (daemon, client) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(system("make a wake socket"))?;
    // Nothing can be queued to the daemon: neither bytes that cost memory nor descriptors.
    rustix::net::shutdown(&daemon, Shutdown::Read).map_err(system("shut a wake socket"))?;
    // Wake-ups that wait are as good as one, so few need room; the kernel rounds up to its least.
    rustix::net::sockopt::set_socket_send_buffer_size(&daemon, 1)
        .map_err(system("limit a wake socket"))?;
    Ok((daemon, client))
}

#[cfg(test)]
mod tests;
