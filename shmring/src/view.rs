//! A client's half of the memory: its mapped segments, and frames used in them where they lie.
//!
//! ```text
//!   Receiver      rx ----> [ burst of RxFrame ] ----> fill          one look, one answer a burst
//!   Transmitter   free list -> TxFrame -> tx ~~~> daemon ~~~> completion -> free list
//! ```
//!
//! | segment  | who may write it          | what the client sees of it                        |
//! |----------|---------------------------|---------------------------------------------------|
//! | Transmit | this client               | `&mut [u8]` of a slot on its free list            |
//! | Receive  | the daemon (`FUTURE_WRITE`) | `&[u8]` of a slot between rx and fill           |
//! | Group    | any client of the group   | copies: there is never a reference                |
//!
//! - A slot that a client sends is away until it comes back on the completion ring; what comes back
//!   is checked against the private record of what is away.
//! - A slot that a client receives is its own to read from the moment it took the descriptor until it
//!   publishes it on the fill ring, which needs `&mut Receiver` and so outlives no [`RxFrame`].
//! - A session has a queue pair for each worker of the daemon, and a [`View`] for each pair. The slots
//!   to send from are divided evenly among them; what arrives on a pair goes back on the same.
//! - The daemon is trusted with its clients' memory, as the kernel is: it does not write a slot that
//!   it has lent. All numbers that it sends are checked nevertheless.

#![expect(unsafe_code, reason = "turns slots that this client holds into byte slices")]

use crate::arena::SlotSize;
use crate::control::{Attached, SegmentAccess, SegmentInfo, features};
use crate::copy::copy_racy;
use crate::descriptor::{Fault, RawDescriptor, RingName};
use crate::offload::Offload;
use crate::pool::MIN_FRAME;
use crate::prefetch;
use crate::queues::{ClientQueues, MappedConsumer, MappedProducer};
use crate::region::{Mapped, Region, RegionError, Writer, check_received};
use crate::ring::{PeerSleepFlag, SleepFlag, is_capacity};
use core::marker::PhantomData;
use core::slice;
use memmap2::{MmapOptions, MmapRaw};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use thiserror::Error;

/// Most frames in one burst.
pub const BURST: usize = 64;

/// Why a session's memory could not be mapped.
#[derive(Debug, Error)]
pub enum ViewError {
    /// A region or segment is not as promised, or the kernel refused.
    #[error("cannot map the {what}")]
    Map {
        /// Which one.
        what: &'static str,
        /// What failed.
        source: RegionError,
    },
    /// The daemon's answer contradicts itself.
    #[error("the daemon's answer makes no sense: {what} is {found}")]
    Nonsense {
        /// Which property.
        what: &'static str,
        /// What it is.
        found: u64,
    },
}

fn nonsense(what: &'static str, found: impl Into<u64>) -> ViewError {
    ViewError::Nonsense { what, found: found.into() }
}

/// A client's side of one queue pair of its session, with the memory behind it.
#[derive(Debug)]
pub struct View {
    /// Frames to this client.
    pub receiver: Receiver,
    /// Frames from this client.
    pub transmitter: Transmitter,
    /// Raised while this client sleeps.
    pub sleep: SleepFlag<Mapped>,
    /// Raised while the worker at the other end sleeps.
    pub peer: PeerSleepFlag<Mapped>,
}

/// The two descriptors of a session that are no memory.
#[derive(Debug)]
pub struct Signals {
    /// Eventfd: written to wake the daemon.
    pub kick: OwnedFd,
    /// Socket: readable when the daemon wakes this client, hung up when it is gone.
    pub wake: OwnedFd,
}

impl View {
    /// Maps what came with an [`Attached`] message: a view for each queue pair, at least one. The
    /// descriptors are used up, so that no second view with a free list of its own comes to lie over
    /// the same slots.
    ///
    /// # Errors
    /// [`ViewError`]: wrong seals, too small, contradictory, or refused by the kernel.
    pub fn map(
        attached: &Attached,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Vec<Self>, Signals), ViewError> {
        let slot_size = SlotSize::new(attached.slot_size)
            .ok_or_else(|| nonsense("slot size", attached.slot_size))?;
        let capacity = attached.ring_capacity;
        if !is_capacity(capacity) {
            return Err(nonsense("ring capacity", capacity));
        }
        let find = |index: u32| {
            let missing = || nonsense("index of a descriptor", index);
            descriptors.get(index as usize).map(AsFd::as_fd).ok_or_else(missing)
        };
        let region = |what, index, writer, size: u64| {
            let size = usize::try_from(size).map_err(|_| nonsense("size of a region", size))?;
            Region::map(find(index)?, writer, size)
                .map_err(|source| ViewError::Map { what, source })
        };
        let inbound = region("inbound region", 0, Writer::Daemon, attached.inbound_size)?;
        let outbound = region("outbound region", 1, Writer::Client, attached.outbound_size)?;
        let pairs = u32::from(attached.pairs);

        let mut transmit = None;
        let mut received = Vec::new();
        for info in attached.segments.iter().take_while(|s| s.access != 0) {
            let segment = Segment::map(info, find(info.descriptor)?, slot_size)?;
            match segment.access {
                SegmentAccess::Transmit if transmit.is_none() => transmit = Some(segment),
                SegmentAccess::Transmit => return Err(nonsense("second transmit segment", 1u32)),
                // Those that can be read in place are looked at first.
                SegmentAccess::Receive => received.insert(0, segment),
                SegmentAccess::Group => received.push(segment),
            }
        }
        let transmit = transmit.ok_or_else(|| nonsense("number of transmit segments", 0u32))?;
        if pairs == 0 || !transmit.count.is_multiple_of(pairs) {
            return Err(nonsense("number of queue pairs", pairs));
        }
        let own = (transmit.first, transmit.count);
        let received: Arc<[Segment]> = received.into();
        let view = |pair| {
            let ClientQueues { rx, fill, tx, completion, sleep, peer } =
                ClientQueues::new(&inbound, &outbound, capacity, pair)
                    .ok_or_else(|| nonsense("size of a region", attached.inbound_size))?;
            let mut receiver = Receiver::new(rx, fill, Arc::clone(&received), own, slot_size);
            receiver.takes_unfinished = attached.features & features::UNFINISHED != 0;
            let share = transmit.share(pair, transmit.count / pairs, slot_size);
            let transmitter = Transmitter::new(tx, completion, share, slot_size);
            Ok(Self { receiver, transmitter, sleep, peer })
        };
        let views = (0..pairs).map(view).collect::<Result<Vec<_>, ViewError>>()?;
        let mut rest = descriptors.into_iter().skip(2);
        let (Some(kick), Some(wake)) = (rest.next(), rest.next()) else {
            return Err(nonsense("number of descriptors", 3u32));
        };
        Ok((views, Signals { kick, wake }))
    }
}

/// One mapped run of slots.
struct Segment {
    access: SegmentAccess,
    first: u32,
    count: u32,
    /// Address of the first slot; `count` slots from here lie in `_map`.
    base: *mut u8,
    _map: Arc<MmapRaw>,
}

// SAFETY: `Segment` is an address range and the mapping that it lies in. Who may look at its bytes is
// decided by the exclusive owners below, not by the thread.
unsafe impl Send for Segment {}
// SAFETY: as above; `&Segment` only computes addresses.
unsafe impl Sync for Segment {}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { access, first, count, .. } = self;
        write!(f, "{access:?}({first}..+{count})")
    }
}

impl Segment {
    fn map(info: &SegmentInfo, fd: BorrowedFd<'_>, slot_size: SlotSize) -> Result<Self, ViewError> {
        let (access, writer) = match info.access {
            1 => (SegmentAccess::Transmit, Writer::Client),
            2 => (SegmentAccess::Receive, Writer::Daemon),
            3 => (SegmentAccess::Group, Writer::Client),
            other => return Err(nonsense("access of a segment", other)),
        };
        let end = info.offset.checked_add(u64::from(info.count) * u64::from(slot_size.bytes()));
        let end = end.and_then(|end| usize::try_from(end).ok());
        let start = usize::try_from(info.offset).ok();
        let (Some(start), Some(end)) = (start, end) else {
            return Err(nonsense("offset of a segment", info.offset));
        };
        let room = u64::from(crate::descriptor::MAX_SLOTS);
        if info.count == 0 || u64::from(info.first) + u64::from(info.count) > room {
            return Err(nonsense("number of slots of a segment", info.count));
        }
        let fail = |source| ViewError::Map { what: "segment of slots", source };
        check_received(fd, writer, end).map_err(fail)?;
        // A memfd on huge pages can only be mapped in whole ones.
        let block = rustix::fs::fstat(fd).map_or(4096, |s| s.st_blksize);
        let page = usize::try_from(block).unwrap_or(4096).max(4096);
        let skipped = start % page;
        let length = (end - (start - skipped)).next_multiple_of(page);
        let mut options = MmapOptions::new();
        options.offset((start - skipped) as u64).len(length).populate();
        let map = match access {
            SegmentAccess::Transmit => options.map_raw(&fd),
            SegmentAccess::Receive | SegmentAccess::Group => options.map_raw_read_only(&fd),
        }
        .map_err(|source: io::Error| RegionError::System { what: "map", size: length, source })
        .map_err(fail)?;
        let base = map.as_mut_ptr().wrapping_add(skipped);
        Ok(Self { access, first: info.first, count: info.count, base, _map: Arc::new(map) })
    }

    /// Run number `index` of `count` slots each, in a segment that is divided into such runs.
    fn share(&self, index: u32, count: u32, slot_size: SlotSize) -> Self {
        let skipped = index * count;
        debug_assert!(skipped + count <= self.count);
        let base = self.base.wrapping_add(skipped as usize * slot_size.bytes() as usize);
        let first = self.first + skipped;
        Self { access: self.access, first, count, base, _map: Arc::clone(&self._map) }
    }

    /// The address of byte `offset` of slot number `slot`, if the slot lies here.
    #[inline]
    fn address(&self, slot: u32, offset: u16, slot_size: SlotSize) -> Option<*mut u8> {
        let index = slot.wrapping_sub(self.first);
        let start = index as usize * slot_size.bytes() as usize;
        (index < self.count).then(|| self.base.wrapping_add(start + usize::from(offset)))
    }
}

/// A received frame, in its slot. Its slot goes back to the daemon some time after it is gone.
#[derive(Debug)]
pub struct RxFrame<'a> {
    place: Place,
    receiver: PhantomData<&'a Receiver>,
}

/// Where a checked frame lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: *const u8,
    length: u16,
    /// What of the frame is left to do.
    offload: Offload,
    /// Nobody writes it while it is lent.
    still: bool,
}

impl<'a> RxFrame<'a> {
    /// Bytes of the frame, at least an Ethernet header.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.place.length.into()
    }

    /// What of it is left to do; nothing, unless that was agreed on.
    #[inline]
    #[must_use]
    pub fn offload(&self) -> Offload {
        self.place.offload
    }

    /// The frame where it lies; `None` if another client could write it meanwhile, so that it must
    /// be copied before it is looked at.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> Option<&'a [u8]> {
        if !self.place.still {
            return None;
        }
        // SAFETY: `check` found `length` bytes at `at` to lie in a slot of a mapped
        // Receive segment, and the receiver, which keeps the mapping, is borrowed for `'a`. The
        // segment's memfd carries FUTURE_WRITE (checked before it was mapped), so this client and
        // all others have it read-only; its one writer is the daemon's own mapping, and the slot
        // was taken from rx and is not yet published on fill, so it is lent to us: publishing needs
        // `&mut Receiver`, which `'a` excludes.
        Some(unsafe { slice::from_raw_parts(self.place.at, self.len()) })
    }

    /// Copies the first bytes of the frame, as many as `into` has, and returns how many. Works for
    /// every frame.
    #[inline]
    pub fn copy_to(&self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.len());
        if let Some(into) = into.get_mut(..count) {
            // SAFETY: `check` found `length >= count` bytes at `at` to lie in a mapped
            // slot, and the receiver, which keeps the mapping, is borrowed. Others may write it.
            unsafe { copy_racy(self.place.at, into) };
        }
        count
    }
}

/// Takes frames off the rx ring and gives their slots back on the fill ring, by bursts.
pub struct Receiver {
    rx: MappedConsumer,
    fill: MappedProducer,
    segments: Arc<[Segment]>,
    /// First number and count of the client's own transmit slots, which never arrive here.
    own: (u32, u32),
    slot_size: SlotSize,
    /// The burst: `given..at` were seen and wait for fill, `at..count` were not seen yet.
    taken: [RawDescriptor; BURST],
    places: [Place; BURST],
    given: usize,
    at: usize,
    count: usize,
    /// Slots of other clients were given back since somebody asked.
    owed: bool,
    /// It was agreed that frames may be unfinished.
    takes_unfinished: bool,
}

// SAFETY: the addresses in `places` point into `segments`, which the receiver owns; it can be used
// from any thread that has it.
unsafe impl Send for Receiver {}
// SAFETY: `&Receiver` reads counts only.
unsafe impl Sync for Receiver {}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segments, at, count, .. } = self;
        write!(f, "Receiver {{ segments: {segments:?}, frame {at} of a burst of {count} }}")
    }
}

impl Receiver {
    fn new(
        rx: MappedConsumer,
        fill: MappedProducer,
        segments: Arc<[Segment]>,
        own: (u32, u32),
        slot_size: SlotSize,
    ) -> Self {
        let offload = Offload::NONE;
        let nowhere = Place { at: core::ptr::null(), length: 0, offload, still: false };
        let (taken, places) = ([RawDescriptor(0); BURST], [nowhere; BURST]);
        let (given, at, count, owed) = (0, 0, 0, false);
        let takes_unfinished = false;
        Self {
            rx,
            fill,
            segments,
            own,
            slot_size,
            taken,
            places,
            given,
            at,
            count,
            owed,
            takes_unfinished,
        }
    }

    /// Takes the next burst, at most [`BURST`] frames, after giving back the one before. Returns how
    /// many frames [`next`](Self::next) will yield; while frames of the last burst are left, those.
    ///
    /// # Errors
    /// A [`Fault`]: the daemon broke the protocol, the session is of no use any more.
    #[inline]
    pub fn receive(&mut self) -> Result<usize, Fault> {
        if self.at < self.count {
            return Ok(self.count - self.at);
        }
        self.give_back();
        let waiting = self.refresh()?;
        // Each frame taken will need a cell of fill, so no more are taken than there is room.
        let most = waiting.min(self.fill.room() as usize).min(BURST);
        let Some(taken) = self.taken.get_mut(..most) else { return Ok(0) };
        let count = self.rx.pop_burst(taken);
        (self.given, self.at, self.count) = (0, 0, 0);
        for (raw, place) in self.taken.iter_mut().zip(&mut self.places).take(count) {
            let offload = match raw.flags() {
                0 => Some(Offload::NONE),
                flags => Offload::from_flags(flags).filter(|_| self.takes_unfinished),
            };
            let Some(offload) = offload else {
                return Err(Fault::UnknownFlags { ring: RingName::Rx, flags: raw.flags() });
            };
            *place = check(&self.segments, self.own, self.slot_size, *raw)?;
            place.offload = offload;
            // It goes back without.
            *raw = raw.with_flags(0);
            prefetch::to_read(place.at);
        }
        self.count = count;
        Ok(count)
    }

    /// The next frame of the burst that [`receive`](Self::receive) took.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "a frame borrows the receiver")]
    pub fn next(&mut self) -> Option<RxFrame<'_>> {
        if self.at >= self.count {
            return None;
        }
        let place = *self.places.get(self.at)?;
        self.at += 1;
        Some(RxFrame { place, receiver: PhantomData })
    }

    /// The frame that [`next`](Self::next) will yield.
    #[inline]
    #[must_use]
    pub fn peek(&self) -> Option<RxFrame<'_>> {
        let place = *self.places.get(self.at).filter(|_| self.at < self.count)?;
        Some(RxFrame { place, receiver: PhantomData })
    }

    /// Gives the slots of all frames seen so far back to the daemon. [`receive`](Self::receive) does
    /// so too; this is for before a pause. Returns whether there were any.
    #[inline]
    pub fn give_back(&mut self) -> bool {
        // `receive` made sure of the room, so all are pushed.
        let seen = self.given..self.at;
        self.owed |= self.places.get(seen.clone()).is_some_and(|p| p.iter().any(|p| !p.still));
        if let Some(seen) = self.taken.get(seen) {
            self.given += self.fill.push_burst(seen);
        }
        self.rx.release();
        self.fill.publish()
    }

    /// Whether slots of other clients were given back since the last call. Their owners wait for
    /// them, so the daemon has to be woken if it sleeps.
    #[inline]
    pub fn take_owed(&mut self) -> bool {
        core::mem::take(&mut self.owed)
    }

    /// Looks at the rings once; returns how many frames wait, those of the burst not counted.
    ///
    /// # Errors
    /// A [`Fault`]: the daemon broke the protocol.
    #[inline]
    pub fn refresh(&mut self) -> Result<usize, Fault> {
        if (self.fill.room() as usize) < BURST {
            self.fill.refresh()?;
        }
        Ok(self.rx.refresh()? as usize)
    }

    /// Frames of the burst that were not seen yet.
    #[inline]
    #[must_use]
    pub fn left(&self) -> usize {
        self.count - self.at
    }
}

/// The one place where the daemon's numbers become an address.
#[inline]
fn check(
    segments: &[Segment],
    own: (u32, u32),
    slot_size: SlotSize,
    raw: RawDescriptor,
) -> Result<Place, Fault> {
    let ring = RingName::Rx;
    let (slot, offset, length) = (raw.slot(), raw.offset(), raw.length());
    if length < MIN_FRAME || u32::from(offset) + u32::from(length) > slot_size.bytes() {
        return Err(Fault::OutOfSlot { ring, offset, length, slot_size: slot_size.bytes() });
    }
    for segment in segments {
        if let Some(at) = segment.address(slot, offset, slot_size) {
            let still = segment.access == SegmentAccess::Receive;
            if !still && slot.wrapping_sub(own.0) < own.1 {
                return Err(Fault::NotHeld { ring, slot });
            }
            return Ok(Place { at, length, offload: Offload::NONE, still });
        }
    }
    let count = segments.iter().map(|s| s.count).sum();
    Err(Fault::NoSuchSlot { ring, slot, count })
}

/// How many slots before it is taken a slot's first line is fetched: the daemon has read it since.
const AHEAD: usize = 8;

/// A frame whose length no frame can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a frame of {length} bytes does not fit a slot of {slot_size} or is no Ethernet frame")]
pub struct BadLength {
    /// Its length.
    pub length: usize,
    /// Bytes of a slot.
    pub slot_size: usize,
}

/// An empty slot of this client, to be written and sent. Dropped unsent, it is free as before.
#[derive(Debug)]
pub struct TxFrame<'a> {
    owner: &'a mut Transmitter,
    index: u32,
}

impl TxFrame<'_> {
    /// The whole slot, with whatever an earlier frame left in it.
    #[inline]
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let size = self.owner.slot_size.bytes() as usize;
        let start = self.index as usize * size;
        // SAFETY: `index` came off the free list, so it is less than the segment's `count`, and the
        // whole slot lies in the mapping that `owner` keeps. A slot on the free list is not away:
        // the daemon holds no descriptor of it and so neither reads nor lends it, and this process
        // makes references to it through `&mut Transmitter` alone, which `self` borrows. In a group
        // other members could write it against the rules; being in one mode `shared` group means to
        // trust them with that.
        unsafe { slice::from_raw_parts_mut(self.owner.segment.base.wrapping_add(start), size) }
    }

    /// Puts the slot's first `length` bytes on the tx ring; the daemon sees them after
    /// [`Transmitter::publish`].
    ///
    /// # Errors
    /// [`BadLength`], and the slot stays free.
    #[inline]
    pub fn send(self, length: usize) -> Result<(), BadLength> {
        self.send_unfinished(length, Offload::NONE)
    }

    /// The same of a frame of which something is left to do. That must have been agreed on, or the daemon ends the
    /// session.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    #[inline]
    pub fn send_unfinished(self, length: usize, offload: Offload) -> Result<(), BadLength> {
        let slot_size = self.owner.slot_size.bytes() as usize;
        let fits = (usize::from(MIN_FRAME)..=slot_size).contains(&length);
        let (true, Ok(short)) = (fits, u16::try_from(length)) else {
            return Err(BadLength { length, slot_size });
        };
        let first = self.owner.segment.first;
        let raw = RawDescriptor::new(first + self.index, 0, short).with_flags(offload.to_flags());
        // `Transmitter::next` saw room for it.
        if self.owner.tx.push(raw).is_ok() {
            self.owner.free_count -= 1;
            if let Some(away) = self.owner.away.get_mut(self.index as usize) {
                *away = true;
            }
        }
        Ok(())
    }
}

/// Writes frames into this client's own slots, and keeps account of them.
#[derive(Debug)]
pub struct Transmitter {
    tx: MappedProducer,
    completion: MappedConsumer,
    segment: Segment,
    slot_size: SlotSize,
    /// The first `free_count` are the slots at rest, the last one back on top: it is still in the
    /// cache. Indexes, not numbers: each less than the segment's count.
    free: Box<[u32]>,
    free_count: usize,
    /// By index: sent, and not back yet.
    away: Box<[bool]>,
    /// The last wish for a slot was not met.
    wanting: bool,
}

impl Transmitter {
    fn new(
        tx: MappedProducer,
        completion: MappedConsumer,
        segment: Segment,
        slot_size: SlotSize,
    ) -> Self {
        let free: Box<[u32]> = (0..segment.count).rev().collect();
        let free_count = free.len();
        let away = vec![false; free_count].into();
        Self { tx, completion, segment, slot_size, free, free_count, away, wanting: false }
    }

    /// Slots that are free now.
    #[inline]
    #[must_use]
    pub fn free(&self) -> usize {
        self.free_count
    }

    /// Slots that there are.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.free.len()
    }

    /// Bytes of a slot: the longest frame.
    #[must_use]
    pub fn slot_size(&self) -> usize {
        self.slot_size.bytes() as usize
    }

    /// An empty slot to write a frame into; `None` if all are away.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "a frame borrows the transmitter")]
    pub fn next(&mut self) -> Option<TxFrame<'_>> {
        let top = self.free_count.checked_sub(1).and_then(|top| self.free.get(top)).copied();
        // A ring with room for every slot, as the daemon makes them, is never full here.
        let has_room = self.tx.room() > 0 || matches!(self.tx.refresh(), Ok(1..));
        self.wanting = top.is_none() || !has_room;
        if self.wanting {
            return None;
        }
        let soon = self.free_count.checked_sub(AHEAD).and_then(|at| self.free.get(at));
        if let Some(index) = soon {
            let size = self.slot_size.bytes() as usize;
            prefetch::to_write(self.segment.base.wrapping_add(*index as usize * size));
        }
        Some(TxFrame { owner: self, index: top? })
    }

    /// Whether [`next`](Self::next) has said that there is no slot, and now there is one.
    #[inline]
    #[must_use]
    pub fn is_relieved(&self) -> bool {
        self.wanting && self.free_count > 0
    }

    /// Shows the daemon all frames sent since the last time. Returns whether there were any: then it
    /// may have to be woken.
    #[inline]
    pub fn publish(&mut self) -> bool {
        self.tx.publish()
    }

    /// Takes the slots back that the daemon has done with, and returns how many.
    ///
    /// # Errors
    /// A [`Fault`]: the daemon named a slot that is not of this client or not away.
    #[inline]
    pub fn reclaim(&mut self) -> Result<usize, Fault> {
        let ring = RingName::Completion;
        self.completion.refresh()?;
        let before = self.free_count;
        while let Some(raw) = self.completion.pop() {
            let slot = raw.slot();
            let index = slot.wrapping_sub(self.segment.first);
            let Some(away) = self.away.get_mut(index as usize) else {
                return Err(Fault::NoSuchSlot { ring, slot, count: self.segment.count });
            };
            if !core::mem::replace(away, false) {
                return Err(Fault::NotHeld { ring, slot });
            }
            // As many slots are away as the list has empty places.
            if let Some(place) = self.free.get_mut(self.free_count) {
                *place = index;
                self.free_count += 1;
            }
        }
        self.completion.release();
        Ok(self.free_count - before)
    }
}
