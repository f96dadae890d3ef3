//! One contiguous range of the daemon's address space over all slots of all segments.
//!
//! ```text
//!   |<------------- reserved once, no access, costs no memory ------------->|
//!   | port pool | transmit A | receive A |   (hole)   | transmit B | ...    |
//!   slot 0      8192         9216        ...
//! ```
//!
//! - A slot has one global number; its address is `base + number * slot_size`.
//! - A segment is one sealed memfd mapped over a part of the range. Dropping it puts the hole back.
//! - One registration of the whole range (an `AF_XDP` UMEM, a netmap external memory) covers every
//!   pool, and a client maps only the segments that it may see.

#![expect(unsafe_code, reason = "maps segments at fixed places of a range that it reserved")]

use crate::descriptor::MAX_SLOTS;
use crate::region::{RegionError, Writer, create_memfd, seal};
use core::ffi::c_void;
use core::ptr::{self, NonNull};
use rustix::mm::{MapFlags, ProtFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use thiserror::Error;

/// Slots that a segment is rounded up to: 2 MiB of the smallest slots, one huge page.
pub const SEGMENT_SLOTS: u32 = 1024;

/// The same in an arena on the heap: few, so that models look at all of them after every step.
#[cfg(feature = "model")]
pub const HEAP_SEGMENT_SLOTS: u32 = 64;

/// Bytes of a slot: a power of two, 2,048..=65,536.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotSize {
    shift: u8,
}

impl SlotSize {
    /// The default, 2,048 bytes: a frame of 1,514 bytes and headroom.
    pub const DEFAULT: Self = Self { shift: 11 };

    /// `None` unless `bytes` is a power of two, 2,048..=65,536.
    #[must_use]
    pub const fn new(bytes: u32) -> Option<Self> {
        match bytes {
            2048 => Some(Self { shift: 11 }),
            4096 => Some(Self { shift: 12 }),
            8192 => Some(Self { shift: 13 }),
            16_384 => Some(Self { shift: 14 }),
            32_768 => Some(Self { shift: 15 }),
            65_536 => Some(Self { shift: 16 }),
            _ => None,
        }
    }

    /// Bytes of a slot.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        1 << self.shift
    }
}

/// Why a segment could not be had.
#[derive(Debug, Error)]
pub enum ArenaError {
    /// The whole range could not be reserved.
    #[error("cannot reserve address space for {slots} slots")]
    Reserve {
        /// Slots asked for.
        slots: u32,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// No hole is large enough.
    #[error("no room for a segment of {slots} slots in an arena of {total}")]
    Exhausted {
        /// Slots asked for.
        slots: u32,
        /// Slots of the arena.
        total: u32,
    },
    /// The memfd or its mapping failed.
    #[error("cannot make a segment of {slots} slots")]
    Segment {
        /// Slots asked for.
        slots: u32,
        /// What failed.
        source: RegionError,
    },
}

/// What lies behind the range.
#[derive(Debug)]
enum Backing {
    /// Address space, in which segments map their memfds.
    Reserved,
    /// Ordinary memory in one piece, for models and Miri.
    #[cfg(feature = "model")]
    Heap(std::alloc::Layout),
}

/// The range. Made once; segments come and go in it.
#[derive(Debug)]
pub struct Arena {
    base: NonNull<u8>,
    backing: Backing,
    slots: u32,
    slot_size: SlotSize,
    /// Parts in use, sorted by first slot. Only the control path takes this lock.
    used: Mutex<Vec<(u32, u32)>>,
}

// SAFETY: `Arena` is an address range; what it allows on `&self` (reserve a part, compute an address)
// is guarded by the mutex or has no effect on memory.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Reserves room for `slots` slots (at most 2^24) without using memory.
    ///
    /// # Errors
    /// [`ArenaError::Reserve`] if the address space cannot be had.
    pub fn reserve(slots: u32, slot_size: SlotSize) -> Result<Arc<Self>, ArenaError> {
        let slots = slots.clamp(SEGMENT_SLOTS, MAX_SLOTS);
        let size = slots as usize * slot_size.bytes() as usize;
        let huge = 2 << 20;
        // SAFETY: a fresh private mapping at an address of the kernel's choice replaces nothing.
        let at = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                size + huge,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(|e| ArenaError::Reserve { slots, source: e.into() })?;
        // Huge pages can only be mapped at multiples of their size; what lies around that is given
        // back at once.
        let pad = at.align_offset(huge).min(huge);
        let base = at.wrapping_byte_add(pad);
        for (start, length) in [(at, pad), (base.wrapping_byte_add(size), huge - pad)] {
            if length > 0 {
                // SAFETY: a part of the mapping just made, `pad <= huge`, that nobody knows of.
                let _ = unsafe { rustix::mm::munmap(start, length) };
            }
        }
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(|| ArenaError::Reserve {
            slots,
            source: std::io::ErrorKind::OutOfMemory.into(),
        })?;
        let (backing, used) = (Backing::Reserved, Mutex::new(Vec::new()));
        Ok(Arc::new(Self { base, backing, slots, slot_size, used }))
    }

    /// The same over ordinary memory, for models and Miri: a segment is a part of it, its descriptor
    /// an eventfd, which nobody can map.
    ///
    /// # Errors
    /// [`ArenaError::Reserve`] if the memory cannot be had.
    #[cfg(feature = "model")]
    pub fn heap(slots: u32, slot_size: SlotSize) -> Result<Arc<Self>, ArenaError> {
        let slots = slots.clamp(HEAP_SEGMENT_SLOTS, MAX_SLOTS);
        let size = slots as usize * slot_size.bytes() as usize;
        let fail = |source| ArenaError::Reserve { slots, source };
        let layout = std::alloc::Layout::from_size_align(size, 4096)
            .map_err(|_| fail(std::io::ErrorKind::InvalidInput.into()))?;
        // SAFETY: the size is not zero, since `slots` is not.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })
            .ok_or_else(|| fail(std::io::ErrorKind::OutOfMemory.into()))?;
        let (backing, used) = (Backing::Heap(layout), Mutex::new(Vec::new()));
        Ok(Arc::new(Self { base, backing, slots, slot_size, used }))
    }

    /// Slots that the arena numbers.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Bytes of each slot.
    #[must_use]
    pub fn slot_size(&self) -> SlotSize {
        self.slot_size
    }

    /// Makes a segment of at least `slots` slots that `writer` writes: a memfd, mapped here
    /// read-write, populated, then sealed. `huge` asks for 2 MiB pages and falls back to ordinary
    /// ones where there are none; [`Segment::is_huge`] tells.
    ///
    /// # Errors
    /// [`ArenaError`]: no hole, no memory, no descriptor.
    pub fn add_segment(
        self: &Arc<Self>,
        name: &str,
        writer: Writer,
        slots: u32,
        huge: bool,
    ) -> Result<Segment, ArenaError> {
        let slots = slots.clamp(1, MAX_SLOTS + 1).next_multiple_of(self.segment_slots());
        let range = Part { first: self.take(slots)?, count: slots, arena: Arc::clone(self) };
        let size = range.size();
        let fail = |source| ArenaError::Segment { slots, source };
        #[cfg(feature = "model")]
        if let Backing::Heap(_) = self.backing {
            let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
                .map_err(|e| fail(RegionError::System { what: "name", size, source: e.into() }))?;
            return Ok(Segment { part: range, writer, fd, is_huge: false });
        }
        let attempt = |huge| {
            let fd = create_memfd(name, size, huge)?;
            range.map(fd.as_fd())?;
            Ok(fd)
        };
        let (fd, is_huge) = match huge.then(|| attempt(true)) {
            Some(Ok(fd)) => (fd, true),
            _ => (attempt(false).map_err(fail)?, false),
        };
        seal(fd.as_fd(), writer, size).map_err(fail)?;
        Ok(Segment { part: range, writer, fd, is_huge })
    }

    /// What segments are rounded up to.
    fn segment_slots(&self) -> u32 {
        match self.backing {
            Backing::Reserved => SEGMENT_SLOTS,
            #[cfg(feature = "model")]
            Backing::Heap(_) => HEAP_SEGMENT_SLOTS,
        }
    }

    /// The address of a slot. Computing it is always allowed; using it needs a live segment.
    #[inline]
    pub(crate) fn address(&self, slot: u32, offset: u16) -> *mut u8 {
        let at = ((slot & (MAX_SLOTS - 1)) as usize) << self.slot_size.shift;
        self.base.as_ptr().wrapping_add(at).wrapping_add(offset as usize)
    }

    /// Takes the first hole of `slots` slots.
    fn take(&self, slots: u32) -> Result<u32, ArenaError> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first = 0;
        let mut at = used.len();
        for (index, &(start, count)) in used.iter().enumerate() {
            if start - first >= slots {
                at = index;
                break;
            }
            first = start + count;
        }
        if self.slots - first < slots {
            return Err(ArenaError::Exhausted { slots, total: self.slots });
        }
        used.insert(at, (first, slots));
        Ok(first)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        #[cfg(feature = "model")]
        if let Backing::Heap(layout) = self.backing {
            // SAFETY: allocated by `heap` with this layout; every segment in it is gone.
            unsafe { std::alloc::dealloc(self.base.as_ptr(), layout) };
            return;
        }
        let size = self.slots as usize * self.slot_size.bytes() as usize;
        // SAFETY: the range was reserved by `reserve` and every segment in it is gone, since each
        // holds an `Arc` of this arena.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), size) };
    }
}

/// A part of the range, taken from the arena and given back when dropped.
#[derive(Debug)]
struct Part {
    first: u32,
    count: u32,
    arena: Arc<Arena>,
}

impl Part {
    fn size(&self) -> usize {
        self.count as usize * self.arena.slot_size.bytes() as usize
    }

    fn base(&self) -> *mut c_void {
        self.arena.address(self.first, 0).cast()
    }

    fn map(&self, fd: BorrowedFd<'_>) -> Result<(), RegionError> {
        let flags = MapFlags::SHARED | MapFlags::FIXED | MapFlags::POPULATE;
        // SAFETY: replaces a part of the arena's own reservation, which `take` gave to nobody else
        // and which no slot number in use refers to.
        let mapped = unsafe {
            rustix::mm::mmap(
                self.base(),
                self.size(),
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                fd,
                0,
            )
        };
        mapped.map(drop).map_err(|e| RegionError::System {
            what: "map",
            size: self.size(),
            source: e.into(),
        })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        let reserved = matches!(self.arena.backing, Backing::Reserved);
        // SAFETY: puts the reservation back over this part only. `Pool` drops a segment only when no
        // token for any of its slots exists.
        let hole = reserved.then(|| unsafe {
            rustix::mm::mmap_anonymous(self.base(), self.size(), ProtFlags::empty(), flags)
        });
        if hole.is_none_or(|h| h.is_ok()) {
            let mut used = self.arena.used.lock().unwrap_or_else(PoisonError::into_inner);
            used.retain(|&(first, _)| first != self.first);
        }
        // Otherwise the old mapping stays and its numbers are never given out again.
    }
}

/// A run of slots in one sealed memfd.
#[derive(Debug)]
pub struct Segment {
    part: Part,
    writer: Writer,
    fd: OwnedFd,
    is_huge: bool,
}

impl Segment {
    /// First slot number.
    #[must_use]
    pub fn first(&self) -> u32 {
        self.part.first
    }

    /// Number of slots.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.part.count
    }

    /// Who may write it beside the daemon.
    #[must_use]
    pub fn writer(&self) -> Writer {
        self.writer
    }

    /// Whether it lies on huge pages.
    #[must_use]
    pub fn is_huge(&self) -> bool {
        self.is_huge
    }

    /// The arena that it lies in.
    #[must_use]
    pub fn arena(&self) -> &Arc<Arena> {
        &self.part.arena
    }

    /// Where the segment lies, for those who give it to the kernel. The bytes are there while `self`
    /// lives; who may use them is for the pool and the kernel to say.
    #[must_use]
    pub fn bytes(&self) -> NonNull<[u8]> {
        let base = self.part.arena.base;
        let at = self.part.first as usize * self.part.arena.slot_size.bytes() as usize;
        // SAFETY: `take` gave this part of the arena's range, so `at` lies in it.
        let start = unsafe { base.add(at) };
        NonNull::slice_from_raw_parts(start, self.part.size())
    }

    /// Stores a byte at `at` of a client-written segment, as its client would, for models. Nothing
    /// happens outside such a segment.
    #[cfg(feature = "model")]
    pub fn scribble(&self, at: usize, byte: u8) {
        if self.writer == Writer::Client && at < self.part.size() {
            let place = self.part.base().cast::<u8>().wrapping_add(at);
            // SAFETY: in the segment by the check above, mapped while `self` lives; nobody ever holds
            // a reference to bytes that a client writes.
            let place = unsafe { core::sync::atomic::AtomicU8::from_ptr(place) };
            place.store(byte, core::sync::atomic::Ordering::Relaxed);
        }
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Slots of a segment that one pool may own: whoever holds the range decides over its slots. It is
/// neither `Copy` nor `Clone`, so no two pools hand out the same slot.
#[derive(Debug)]
pub struct SlotRange {
    segment: Arc<Segment>,
    first: u32,
    count: u32,
}

impl SlotRange {
    /// All slots of a segment.
    #[must_use]
    pub fn whole(segment: Segment) -> Self {
        let (first, count) = (segment.first(), segment.count());
        Self { segment: Arc::new(segment), first, count }
    }

    /// Takes the first `count` slots off; `None` (and nothing taken) if there are fewer.
    #[must_use]
    pub fn split(&mut self, count: u32) -> Option<Self> {
        if count > self.count {
            return None;
        }
        let front = Self { segment: Arc::clone(&self.segment), first: self.first, count };
        self.first += count;
        self.count -= count;
        Some(front)
    }

    /// Puts `next`, which must begin where this range ends, in the same segment, at its end.
    ///
    /// # Errors
    /// `next` itself if it lies elsewhere.
    pub fn join(&mut self, next: Self) -> Result<(), Self> {
        let follows =
            Arc::ptr_eq(&self.segment, &next.segment) && next.first == self.first + self.count;
        if !follows {
            return Err(next);
        }
        self.count += next.count;
        Ok(())
    }

    /// First slot number.
    #[must_use]
    pub fn first(&self) -> u32 {
        self.first
    }

    /// Number of slots.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Where the range begins in its segment's memfd, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        let size = self.segment.arena().slot_size().bytes();
        u64::from(self.first - self.segment.first()) * u64::from(size)
    }

    /// The segment that it is a part of.
    #[must_use]
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Zeroes every slot. For ranges that held another session's frames.
    pub fn zero(&mut self) {
        let arena = self.segment.arena();
        let size = self.count as usize * arena.slot_size().bytes() as usize;
        // SAFETY: the range lies in its segment, which `self` keeps mapped read-write, and `&mut
        // self` says that no pool hands out its slots now.
        unsafe { ptr::write_bytes(arena.address(self.first, 0), 0, size) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "reserves address space")]
    fn segments_fill_the_first_hole_and_give_it_back() {
        let arena = Arena::reserve(4 * SEGMENT_SLOTS, SlotSize::DEFAULT).unwrap();
        let add = |n| arena.add_segment("t", Writer::Daemon, n, false);
        let a = add(1).unwrap();
        let b = add(SEGMENT_SLOTS + 1).unwrap();
        assert_eq!((a.first(), b.first(), b.count()), (0, SEGMENT_SLOTS, 2 * SEGMENT_SLOTS));
        drop(a);
        let c = add(SEGMENT_SLOTS).unwrap();
        assert_eq!(c.first(), 0);
        assert!(matches!(add(2 * SEGMENT_SLOTS), Err(ArenaError::Exhausted { .. })));
        assert_eq!(add(1).unwrap().first(), 3 * SEGMENT_SLOTS);
    }

    #[test]
    #[cfg_attr(miri, ignore = "reserves address space")]
    fn only_neighbours_of_one_segment_are_joined() {
        let arena = Arena::reserve(4 * SEGMENT_SLOTS, SlotSize::DEFAULT).unwrap();
        let whole = || SlotRange::whole(arena.add_segment("t", Writer::Client, 1, false).unwrap());
        let (mut rest, other) = (whole(), whole());
        let (mut a, b) = (rest.split(10).unwrap(), rest.split(20).unwrap());
        let rest = a.join(rest).unwrap_err();
        a.join(b).unwrap();
        a.join(rest).unwrap();
        assert_eq!((a.first(), a.count()), (0, SEGMENT_SLOTS));
        assert!(a.join(other).is_err(), "adjacent numbers in another memfd are no neighbours");
    }
}
