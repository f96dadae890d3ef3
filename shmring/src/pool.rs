//! The daemon's slots: frames as tokens that move, and the ledger behind them.
//!
//! ```text
//!   home        written by   its free slots       goes to              comes back by
//!   Port        daemon, NIC  free list            port, shared client  free, fill ring
//!   Receive     daemon       free list            its session          fill ring
//!   Transmit    its session  with the session     daemon, its group    completion ring
//! ```
//!
//! - A [`Frame`] or [`ClientFrame`] is a token, neither `Copy` nor `Clone`: whoever holds it owns
//!   the slot. The ledger holds the same fact, and memory is touched only if the ledger agrees.
//! - Bytes that a client may write are only ever copied out; there is no reference to them.
//! - What a client returns is checked against the ledger; anything else than what it holds is a
//!   [`Fault`].
//! - A frame may go on in a client's slot ([`Pool::join`]). Nobody sees bytes of such a one but who asks for
//!   its parts.

#![expect(unsafe_code, reason = "turns slots that the ledger grants into byte slices")]

mod share;
mod tail;

pub use share::{MOST_RECEIVERS, MOST_SHARED};
pub use tail::Tail;

use crate::arena::{Arena, Segment, SlotRange};
use crate::copy::copy_racy;
use crate::descriptor::{Fault, MAX_OFFSET, RawDescriptor, RingName};
use crate::ledger::{Audit, IllegalEdge, Ledger, Owner, SessionId};
use crate::offload::Offload;
use crate::prefetch;
use crate::region::Writer;
use core::slice;
use share::Shares;
use std::sync::Arc;
use tail::Tails;
use thiserror::Error;

/// How many slots before it is taken a slot's first line is fetched: its last reader was another
/// processor.
const AHEAD: usize = 8;

/// Shortest frame: an Ethernet header.
pub const MIN_FRAME: u16 = 14;

/// A daemon-written slot with a frame in it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a dropped frame leaks its slot; give it to `Pool::free`"]
pub struct Frame {
    slot: u32,
    offset: u16,
    length: u16,
    /// What of it is left to do.
    offload: Offload,
}

impl Frame {
    /// Bytes of the frame.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length.into()
    }

    /// Whether the frame has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Where the frame begins in its slot, in bytes.
    #[must_use]
    pub fn offset(&self) -> u16 {
        self.offset
    }

    /// The slot, for ports that tell the kernel where frames lie.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// What of it is left to do.
    #[inline]
    #[must_use]
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// Says what of it is left to do.
    #[inline]
    pub fn set_offload(&mut self, offload: Offload) {
        self.offload = offload;
    }
}

/// A client-written slot with a frame in it, checked to lie within the slot. Its bytes may change
/// at any time.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a dropped frame leaks its slot; give it to `Pool::complete` or `Pool::pass`"]
pub struct ClientFrame {
    slot: u32,
    offset: u16,
    length: u16,
    /// Whose slot it is.
    of: SessionId,
}

impl ClientFrame {
    /// Bytes of the frame.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length.into()
    }

    /// The slot.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Whether the frame has no bytes; [`Pool::accept`] lets none such pass.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// A slot of a port segment that is in no pool: a kernel has it, and a pool will get it with the port that it
/// belongs to.
#[derive(Debug)]
#[must_use = "a dropped slot is lost to all pools"]
pub struct Loose {
    slot: u32,
    /// Where it lies; kept mapped by this.
    segment: Arc<Segment>,
}

impl Loose {
    /// Its number.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slot
    }
}

/// Names a home in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HomeId(u16);

/// What a home's slots are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HomeKind {
    /// Frames of the ports, and everything that the daemon makes.
    Port,
    /// Frames to one session.
    Receive(SessionId),
    /// Frames from one session.
    Transmit(SessionId),
}

/// Why a home could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HomeError {
    /// The range lies in another arena.
    #[error("the slots belong to another arena")]
    OtherArena,
    /// The range can be written by the wrong side.
    #[error("the slots of a {0:?} home must have another writer")]
    WrongWriter(HomeKind),
    /// There are as many homes as a ledger entry can name.
    #[error("too many homes")]
    TooMany,
}

#[derive(Debug)]
struct Home {
    kind: HomeKind,
    range: SlotRange,
    /// Slots that it has: those of `range`, but for slots that a port home gave up or took in.
    count: u32,
    free: Vec<u32>,
    /// Transmit homes: slots that are not with their session.
    away: u32,
    /// The session has ended; the home goes when its last slot is back.
    closing: bool,
}

/// Where a slot went that a client gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    /// To a free list.
    Free,
    /// It is another session's transmit slot: put the descriptor on that session's completion ring.
    Completed(SessionId, RawDescriptor),
    /// Nowhere yet: others hold it still.
    Shared,
}

/// What is left of a session after [`Pool::end_session`].
#[derive(Debug, Default)]
pub struct Ended {
    /// Other sessions' transmit slots that it held: for their completion rings.
    pub completed: Vec<(SessionId, RawDescriptor)>,
    /// Slots that came back from it.
    pub recovered: u32,
    /// Slots of its own that others still hold.
    pub away: u32,
}

/// All slots of one worker.
#[derive(Debug)]
pub struct Pool {
    arena: Arc<Arena>,
    ledger: Ledger,
    homes: Vec<Option<Home>>,
    /// Ranges of homes that closed, for whoever made them.
    closed: Vec<SlotRange>,
    port: HomeId,
    tails: Tails,
    shares: Shares,
}

impl Pool {
    /// A pool whose port home is `port`.
    ///
    /// # Errors
    /// [`HomeError`] if the range is not one that the daemon writes.
    pub fn new(port: SlotRange) -> Result<Self, HomeError> {
        let arena = Arc::clone(port.segment().arena());
        let ledger = Ledger::new(arena.slots());
        let homes = Vec::with_capacity(64);
        let (closed, tails, shares) = (Vec::new(), Tails::default(), Shares::default());
        let mut pool = Self { arena, ledger, homes, closed, port: HomeId(0), tails, shares };
        pool.port = pool.add_home(HomeKind::Port, port)?;
        Ok(pool)
    }

    /// Takes a range of slots in. Slots of a transmit home are with its session at once, all others
    /// are free.
    ///
    /// # Errors
    /// [`HomeError`]; the range is dropped.
    pub fn add_home(&mut self, kind: HomeKind, range: SlotRange) -> Result<HomeId, HomeError> {
        if !Arc::ptr_eq(range.segment().arena(), &self.arena) {
            return Err(HomeError::OtherArena);
        }
        let (writer, owner) = match kind {
            HomeKind::Port | HomeKind::Receive(_) => (Writer::Daemon, Owner::Free),
            HomeKind::Transmit(session) => (Writer::Client, Owner::AtRest(session)),
        };
        if range.segment().writer() != writer {
            return Err(HomeError::WrongWriter(kind));
        }
        let index = self.homes.iter().position(Option::is_none).unwrap_or(self.homes.len());
        let id =
            u16::try_from(index).ok().filter(|id| *id != u16::MAX).ok_or(HomeError::TooMany)?;
        self.ledger.set_range(range.first(), range.count(), owner, id);
        let (first, end) = (range.first(), range.first() + range.count());
        let free = if owner == Owner::Free { (first..end).rev().collect() } else { Vec::new() };
        let count = range.count();
        let home = Home { kind, range, count, free, away: 0, closing: false };
        match self.homes.get_mut(index) {
            Some(place) => *place = Some(home),
            None => self.homes.push(Some(home)),
        }
        Ok(HomeId(id))
    }

    /// The arena that all slots lie in.
    #[must_use]
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Bytes of a slot.
    #[must_use]
    pub fn slot_size(&self) -> usize {
        self.arena.slot_size().bytes() as usize
    }

    /// Free slots of the port home.
    #[must_use]
    pub fn free_slots(&self) -> usize {
        self.home(self.port.0).map_or(0, |h| h.free.len())
    }

    /// The home for frames of ports.
    #[must_use]
    pub fn port_home(&self) -> HomeId {
        self.port
    }

    #[inline]
    fn home(&self, id: u16) -> Option<&Home> {
        self.homes.get(id as usize).and_then(Option::as_ref)
    }

    #[inline]
    fn home_mut(&mut self, id: u16) -> Option<&mut Home> {
        self.homes.get_mut(id as usize).and_then(Option::as_mut)
    }

    /// Takes a free slot of the port home, as an empty frame at offset 0. The last slot freed comes
    /// first: it is the one still in the cache.
    #[inline]
    pub fn alloc(&mut self) -> Option<Frame> {
        self.alloc_from(self.port)
    }

    /// Takes a free slot of `home`, as an empty frame at offset 0.
    #[inline]
    pub fn alloc_from(&mut self, home: HomeId) -> Option<Frame> {
        let Self { arena, homes, .. } = self;
        let home = homes.get_mut(usize::from(home.0))?.as_mut().filter(|h| !h.closing)?;
        let slot = home.free.pop()?;
        if let Some(soon) = home.free.len().checked_sub(AHEAD).and_then(|at| home.free.get(at)) {
            prefetch::to_write(arena.address(*soon, 0));
        }
        match self.ledger.change(slot, Owner::Free, Owner::Daemon) {
            Ok(_) => Some(Frame { slot, offset: 0, length: 0, offload: Offload::NONE }),
            Err(_) => None,
        }
    }

    /// Takes all free slots of the port home that `wanted` names, as empty frames: for a port whose
    /// rings hold certain slots. Looks at every free slot, so it is for opening ports.
    pub fn claim(&mut self, wanted: impl Fn(u32) -> bool) -> Vec<Frame> {
        let mut claimed = Vec::new();
        let Self { ledger, homes, port, .. } = self;
        if let Some(Some(home)) = homes.get_mut(usize::from(port.0)) {
            home.free.retain(|&slot| {
                let take = wanted(slot) && ledger.change(slot, Owner::Free, Owner::Daemon).is_ok();
                if take {
                    claimed.push(Frame { slot, offset: 0, length: 0, offload: Offload::NONE });
                }
                !take
            });
        }
        claimed
    }

    /// Takes a frame's slot out of the pool; a tail of it is [released](Self::release_tail). `None` if it is
    /// not one of the port home's.
    pub fn give_up(&mut self, frame: Frame) -> Option<Loose> {
        self.release_tail(&frame);
        let slot = frame.slot;
        if !self.ledger.is(slot, Owner::Daemon) || self.ledger.home(slot) != self.port.0 {
            return None;
        }
        let home = self.home_mut(self.port.0)?;
        home.count -= 1;
        let segment = Arc::clone(home.range.segment());
        self.ledger.set_range(slot, 1, Owner::Unmapped, u16::MAX);
        Some(Loose { slot, segment })
    }

    /// Takes a slot into the port home, as an empty frame. Allocates, so it is for opening ports.
    ///
    /// # Errors
    /// The slot itself, if it lies in another segment than the port home's.
    pub fn take_in(&mut self, loose: Loose) -> Result<Frame, Loose> {
        let Loose { slot, .. } = loose;
        let is_ours = self.home(self.port.0).is_some_and(|home| {
            // So the home keeps it mapped, and nobody but the daemon writes it.
            Arc::ptr_eq(home.range.segment(), &loose.segment)
        });
        if !is_ours || !self.ledger.is(slot, Owner::Unmapped) {
            return Err(loose);
        }
        let id = self.port.0;
        let Some(home) = self.home_mut(id) else { return Err(loose) };
        home.count += 1;
        // `put_free` never allocates.
        let all = home.count as usize;
        home.free.reserve(all - home.free.len().min(all));
        self.ledger.set_range(slot, 1, Owner::Daemon, id);
        Ok(Frame { slot, offset: 0, length: 0, offload: Offload::NONE })
    }

    /// Puts a frame's slot back on its home's free list, and has a tail's on its way to its session
    /// ([`take_released`](Self::take_released)).
    #[inline]
    pub fn free(&mut self, frame: Frame) {
        match self.ledger.change(frame.slot, Owner::Daemon, Owner::Free) {
            Ok(home) => self.put_free(frame.slot, home),
            Err(IllegalEdge(Owner::Joined)) => self.free_joined(frame),
            Err(_) => {}
        }
    }

    fn put_free(&mut self, slot: u32, home: u16) {
        if let Some(h) = self.home_mut(home) {
            // Within the capacity that `add_home` made: a home never has more than its own slots.
            h.free.push(slot);
            if h.closing {
                self.close_if_home(home);
            }
        }
    }

    /// Whether the ledger grants the daemon the bytes of this frame: the slot is mapped, written by
    /// the daemon alone, and held by it.
    #[inline]
    fn granted(&self, frame: &Frame) -> bool {
        self.ledger.is(frame.slot, Owner::Daemon)
            && usize::from(frame.offset) + usize::from(frame.length) <= self.slot_size()
    }

    /// The frame's bytes; empty if the frame is not of this pool.
    #[inline]
    #[must_use]
    pub fn bytes(&self, frame: &Frame) -> &[u8] {
        if !self.granted(frame) {
            return &[];
        }
        // SAFETY: `granted` checked that the range lies in a slot that is mapped and that the ledger
        // gives to the daemon. Such a slot lies in a segment that only the daemon writes (checked in
        // `add_home`; sealed against other writers), and `&self` keeps this pool from writing it.
        unsafe { slice::from_raw_parts(self.arena.address(frame.slot, frame.offset), frame.len()) }
    }

    /// The frame's bytes, to change; empty if the frame is not of this pool.
    #[inline]
    #[must_use]
    pub fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        if !self.granted(frame) {
            return &mut [];
        }
        // SAFETY: as for `bytes`, and `&mut self` keeps every other reference away.
        unsafe {
            slice::from_raw_parts_mut(self.arena.address(frame.slot, frame.offset), frame.len())
        }
    }

    /// Makes the frame be `length` bytes from `offset` of its slot. Returns false, and changes
    /// nothing, if that does not lie in the slot.
    #[inline]
    pub fn set_window(&self, frame: &mut Frame, offset: u16, length: u16) -> bool {
        let fits =
            offset <= MAX_OFFSET && usize::from(offset) + usize::from(length) <= self.slot_size();
        if fits {
            (frame.offset, frame.length) = (offset, length);
        }
        fits
    }

    /// Makes the frame a copy of `bytes`, at offset 0. Returns false, and changes nothing, if they
    /// do not fit.
    #[inline]
    pub fn fill(&mut self, frame: &mut Frame, bytes: &[u8]) -> bool {
        let Ok(length) = u16::try_from(bytes.len()) else { return false };
        if !self.set_window(frame, 0, length) {
            return false;
        }
        let into = self.bytes_mut(frame);
        if into.len() != bytes.len() {
            return false;
        }
        into.copy_from_slice(bytes);
        true
    }

    /// Makes `into` a copy of `from`. Returns false if they are not two frames of this pool.
    #[inline]
    pub fn copy(&mut self, from: &Frame, into: &mut Frame) -> bool {
        if !self.granted(from)
            || from.slot == into.slot
            || !self.set_window(into, 0, from.length)
            || !self.granted(into)
        {
            return false;
        }
        let (source, target) =
            (self.arena.address(from.slot, from.offset), self.arena.address(into.slot, 0));
        // SAFETY: both ranges were granted above, so they are mapped and the daemon's; they lie in
        // two slots, so they do not overlap.
        unsafe { core::ptr::copy_nonoverlapping(source, target, from.len()) };
        into.offload = from.offload;
        true
    }

    /// Makes `into` be `head` and then `length` bytes of `from`, those from `at` on. Returns false if they are
    /// not two frames of this pool, `from` does not have these bytes, or a slot does not hold them.
    #[inline]
    pub fn fill_from(
        &mut self,
        into: &mut Frame,
        head: &[u8],
        from: &Frame,
        at: usize,
        length: usize,
    ) -> bool {
        let (Some(end), Ok(all)) = (at.checked_add(length), u16::try_from(head.len() + length))
        else {
            return false;
        };
        if !self.granted(from)
            || end > from.len()
            || from.slot == into.slot
            || !self.set_window(into, 0, all)
            || !self.granted(into)
        {
            return false;
        }
        let source = self.arena.address(from.slot, from.offset).wrapping_add(at);
        let Some((first, rest)) = self.bytes_mut(into).split_at_mut_checked(head.len()) else {
            return false;
        };
        first.copy_from_slice(head);
        // SAFETY: `from` was granted and has the bytes up to `end`, so the source is mapped and the
        // daemon's; `rest` is `length` bytes of another slot, so they do not overlap.
        unsafe { core::ptr::copy_nonoverlapping(source, rest.as_mut_ptr(), rest.len()) };
        true
    }

    /// Puts a copy of the bytes of `from` behind those of `into`. Returns false, and changes nothing, if they do not
    /// fit, or these are not two frames of this pool.
    #[inline]
    pub fn append(&mut self, from: &Frame, into: &mut Frame) -> bool {
        let (begin, end) = (into.len(), into.len() + from.len());
        let place = usize::from(into.offset) + begin;
        let Ok(length) = u16::try_from(end) else { return false };
        if !self.granted(from) || from.slot == into.slot || !self.granted(into) {
            return false;
        }
        let before = into.length;
        let offset = into.offset;
        if !self.set_window(into, offset, length) || !self.granted(into) {
            into.length = before;
            return false;
        }
        let source = self.arena.address(from.slot, from.offset);
        let target = self.arena.address(into.slot, 0);
        // SAFETY: both ranges were granted above, `into` with the new bytes, which begin `place` bytes into its
        // slot; so they are mapped and the daemon's. They lie in two slots, so they do not overlap.
        unsafe { core::ptr::copy_nonoverlapping(source, target.add(place), from.len()) };
        true
    }

    /// Lends a frame to a session; the descriptor is for its rx ring. `None`, and the frame stays
    /// with the caller's pool as free, if the token is not of this pool.
    #[inline]
    pub fn lend(&mut self, frame: Frame, to: SessionId) -> Option<RawDescriptor> {
        self.ledger.change(frame.slot, Owner::Daemon, Owner::Lent(to)).ok()?;
        Some(RawDescriptor::new(frame.slot, frame.offset, frame.length))
    }

    /// Takes a slot back that `session` named on its fill ring.
    ///
    /// # Errors
    /// A [`Fault`] if the session does not hold that slot, or it is one of its own transmit slots.
    #[inline]
    pub fn take_back(
        &mut self,
        session: SessionId,
        returned: RawDescriptor,
    ) -> Result<Returned, Fault> {
        let ring = RingName::Fill;
        let slot = self.existing(ring, returned)?;
        // A session's own transmit slots are at rest, never lent to it: these are refused here too.
        let Ok(home) = self.ledger.change(slot, Owner::Lent(session), Owner::Free) else {
            return self.take_back_shared(session, slot).ok_or(Fault::NotHeld { ring, slot });
        };
        Ok(self.send_home(slot, home))
    }

    /// Brings a slot home that its holder has given back, and that the ledger calls free meanwhile.
    #[inline]
    fn send_home(&mut self, slot: u32, home: u16) -> Returned {
        match self.home(home).map(|h| h.kind) {
            Some(HomeKind::Transmit(of)) => {
                let _ = self.ledger.change(slot, Owner::Free, Owner::AtRest(of));
                self.transmit_slot_is_home(slot, home, of)
            }
            Some(HomeKind::Port | HomeKind::Receive(_)) => {
                self.put_free(slot, home);
                Returned::Free
            }
            None => Returned::Free,
        }
    }

    /// A transmit slot is with its session again, by the ledger.
    #[inline]
    fn transmit_slot_is_home(&mut self, slot: u32, home: u16, of: SessionId) -> Returned {
        let Some(h) = self.home_mut(home) else { return Returned::Free };
        h.away = h.away.saturating_sub(1);
        if h.closing {
            self.close_if_home(home);
            return Returned::Free;
        }
        Returned::Completed(of, RawDescriptor::new(slot, 0, 0))
    }

    /// Takes a frame over that `session` put on its tx ring.
    ///
    /// # Errors
    /// A [`Fault`] if the slot is not one of the session's transmit slots at rest, or the frame does
    /// not lie in it, or is shorter than an Ethernet header, or has flags.
    #[inline]
    pub fn accept(
        &mut self,
        session: SessionId,
        sent: RawDescriptor,
    ) -> Result<ClientFrame, Fault> {
        let ring = RingName::Tx;
        let slot = self.existing(ring, sent)?;
        let (offset, length) = (sent.offset(), sent.length());
        let slot_size = self.arena.slot_size().bytes();
        if length < MIN_FRAME || u32::from(offset) + u32::from(length) > slot_size {
            return Err(Fault::OutOfSlot { ring, offset, length, slot_size });
        }
        let Ok(home) = self.ledger.change(slot, Owner::AtRest(session), Owner::Taken) else {
            return Err(Fault::NotHeld { ring, slot });
        };
        if let Some(h) = self.home_mut(home) {
            h.away += 1;
        }
        Ok(ClientFrame { slot, offset, length, of: session })
    }

    /// [Accepts](Self::accept) a frame and copies its first bytes, as many as it and `head` have.
    /// Returns how many.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    #[inline]
    pub fn accept_head(
        &mut self,
        session: SessionId,
        sent: RawDescriptor,
        head: &mut [u8],
    ) -> Result<(ClientFrame, usize), Fault> {
        let frame = self.accept(session, sent)?;
        let count = head.len().min(frame.len());
        let Some(head) = head.get_mut(..count) else { return Ok((frame, 0)) };
        // SAFETY: `accept` has checked that the frame lies in its slot, and found the ledger to say
        // that the slot is a session's at rest: so its home is in this pool, and it is mapped.
        unsafe { copy_racy(self.arena.address(frame.slot, frame.offset), head) };
        Ok((frame, count))
    }

    #[inline]
    fn existing(&self, ring: RingName, raw: RawDescriptor) -> Result<u32, Fault> {
        let (slot, count) = (raw.slot(), self.ledger.slots());
        if slot >= count {
            return Err(Fault::NoSuchSlot { ring, slot, count });
        }
        if raw.flags() != 0 {
            return Err(Fault::UnknownFlags { ring, flags: raw.flags() });
        }
        Ok(slot)
    }

    /// Starts to fetch a frame's first line.
    #[inline]
    pub fn prefetch(&self, raw: RawDescriptor) {
        prefetch::to_read(self.arena.address(raw.slot(), raw.offset()));
    }

    /// Whether the ledger grants the daemon to copy the bytes of this frame.
    #[inline]
    fn taken(&self, frame: &ClientFrame) -> bool {
        self.ledger.is(frame.slot, Owner::Taken)
            && usize::from(frame.offset) + usize::from(frame.length) <= self.slot_size()
    }

    /// Copies bytes of a client's frame, from `at` on, into private memory: as many as both have.
    /// Returns how many. Each call may see other bytes.
    #[inline]
    pub fn snapshot(&self, frame: &ClientFrame, at: u16, into: &mut [u8]) -> usize {
        let count = into.len().min(usize::from(frame.length.saturating_sub(at)));
        let Some(into) = into.get_mut(..count) else { return 0 };
        if !self.taken(frame) {
            return 0;
        }
        // SAFETY: `at + count <= length`, and `taken` checked that `offset + length` lies in the
        // slot, which is mapped: the ledger says `Taken`, so its home is in this pool.
        unsafe {
            copy_racy(self.arena.address(frame.slot, frame.offset).wrapping_add(at.into()), into);
        }
        count
    }

    /// Makes `into` the client's frame, from where it begins in its slot, with its first bytes replaced by `head`, which was copied
    /// from it and checked: what leaves is what was checked. Returns false if `into` is no frame of
    /// this pool.
    #[inline]
    pub fn copy_vetted(&mut self, head: &[u8], from: &ClientFrame, into: &mut Frame) -> bool {
        self.copy_first(head, from, into, from.length)
    }

    /// The same with the first `length` bytes alone; false also if it is not so long.
    #[inline]
    fn copy_first(
        &mut self,
        head: &[u8],
        from: &ClientFrame,
        into: &mut Frame,
        length: u16,
    ) -> bool {
        let offset = into.offset;
        if !self.taken(from) || length > from.length || !self.set_window(into, offset, length) {
            return false;
        }
        let source = self.arena.address(from.slot, from.offset);
        let target = self.bytes_mut(into);
        if target.len() != usize::from(length) {
            return false;
        }
        let Some((first, rest)) = target.split_at_mut_checked(head.len()) else { return false };
        first.copy_from_slice(head);
        // SAFETY: `into` has `length` bytes, so `head.len() + rest.len()` is that, at most
        // `from.length`, which `taken` checked to lie in the slot; the slot is mapped, since the ledger
        // says `Taken`.
        unsafe { copy_racy(source.wrapping_add(head.len()), rest) };
        true
    }

    /// Gives a client's slot back to its session: whose completion ring, and what to put there.
    /// `None` if the session has ended.
    #[inline]
    pub fn complete(&mut self, frame: ClientFrame) -> Option<(SessionId, RawDescriptor)> {
        let ClientFrame { slot, of, .. } = frame;
        let home = self.ledger.change(slot, Owner::Taken, Owner::AtRest(of)).ok()?;
        match self.transmit_slot_is_home(slot, home, of) {
            Returned::Completed(of, raw) => Some((of, raw)),
            Returned::Free | Returned::Shared => None,
        }
    }

    /// Lends a client's frame on to another session of its group, as it lies.
    ///
    /// # Errors
    /// The frame comes back if it is `to`'s own, which a client does not expect to see on its rx ring,
    /// or is not of this pool.
    #[inline]
    pub fn pass(
        &mut self,
        frame: ClientFrame,
        to: SessionId,
    ) -> Result<RawDescriptor, ClientFrame> {
        if frame.of == to || self.ledger.change(frame.slot, Owner::Taken, Owner::Lent(to)).is_err()
        {
            return Err(frame);
        }
        Ok(RawDescriptor::new(frame.slot, frame.offset, frame.length))
    }

    /// Transmit slots of `home` that are not with their session.
    #[inline]
    #[must_use]
    pub fn away(&self, home: HomeId) -> u32 {
        self.home(home.0).map_or(0, |h| h.away)
    }

    /// Takes everything back from a session that ended, exactly once: what it held goes home, and
    /// its own homes close as soon as nobody else holds their slots.
    pub fn end_session(&mut self, session: SessionId) -> Ended {
        let mut ended = Ended::default();
        // Closing first: no new slot may leave these homes, and none may be lent to the session.
        for home in self.homes.iter_mut().flatten() {
            home.closing |= match home.kind {
                HomeKind::Port => false,
                HomeKind::Receive(of) | HomeKind::Transmit(of) => of == session,
            };
        }
        let held: Vec<u32> = self.ledger.owned_by(Owner::Lent(session)).collect();
        for slot in held {
            let closing = self.home(self.ledger.home(slot)).is_none_or(|h| h.closing);
            let Ok(home) = self.ledger.change(slot, Owner::Lent(session), Owner::Free) else {
                continue;
            };
            if let Returned::Completed(of, raw) = self.send_home(slot, home) {
                ended.completed.push((of, raw));
            }
            ended.recovered += u32::from(!closing);
        }
        ended.recovered += self.end_shares(session);
        let own =
            |kind| matches!(kind, HomeKind::Receive(s) | HomeKind::Transmit(s) if s == session);
        for index in 0..self.homes.len() {
            let Ok(id) = u16::try_from(index) else { break };
            if self.home(id).is_some_and(|h| own(h.kind)) {
                ended.away += self.close_if_home(id);
            }
        }
        ended
    }

    /// Removes a closing home if all its slots are back; returns how many are not.
    fn close_if_home(&mut self, id: u16) -> u32 {
        let Some(home) = self.home(id) else { return 0 };
        let away = match home.kind {
            HomeKind::Transmit(_) => home.away,
            HomeKind::Port | HomeKind::Receive(_) => {
                home.count - u32::try_from(home.free.len()).unwrap_or(0)
            }
        };
        if away == 0 && home.closing {
            self.ledger.set_range(
                home.range.first(),
                home.range.count(),
                Owner::Unmapped,
                u16::MAX,
            );
            if let Some(home) = self.homes.get_mut(id as usize).and_then(Option::take) {
                self.closed.push(home.range);
            }
        }
        away
    }

    /// Whether `session` has a home, perhaps one that still waits for its last slot. Its number must
    /// not be used again before.
    #[must_use]
    pub fn has_homes(&self, session: SessionId) -> bool {
        self.homes.iter().flatten().any(|h| match h.kind {
            HomeKind::Port => false,
            HomeKind::Receive(of) | HomeKind::Transmit(of) => of == session,
        })
    }

    /// Ranges of homes that have closed since the last call. Dropping one unmaps it.
    pub fn take_closed(&mut self) -> Vec<SlotRange> {
        core::mem::take(&mut self.closed)
    }

    /// Counts all slots by state, and the slots that all homes have: the two totals are equal.
    #[must_use]
    pub fn audit(&self) -> (Audit, u32) {
        let slots = self.homes.iter().flatten().map(|h| h.count).sum();
        (self.ledger.audit(), slots)
    }
}
