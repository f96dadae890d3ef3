//! A region's memory, and the rings and buffers in it: the one place where netmap's numbers become
//! addresses.
//!
//! ```text
//!   region   | netmap_if objects | rings | buffers 0 1 2 ...             |
//!              offset of a port -> table of rings -> slots -> buffer number
//! ```
//!
//! - The kernel, and through pipes and native veth other processes, write here at any time. Nothing is
//!   ever a Rust reference; words are loaded once, as atomics, and checked before they are used.
//! - Places of rings, numbers of slots and the size of buffers are read once, when a port is opened,
//!   checked to lie in the region, and kept in private memory.
//! - A buffer number is below the number of buffers and not one of the two that netmap keeps for
//!   itself, or it is no [`BufferIndex`].

#![expect(unsafe_code, reason = "rings and buffers that the kernel writes too")]

use super::abi::layout::{port, ring, slot};
use super::abi::{PoolsInfo, slot_flag};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use memmap2::{MmapOptions, MmapRaw};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use usnet_shmring::arena::Segment;
use usnet_shmring::copy::{copy_racy, write_racy};

/// Most slots that a ring may have here.
const MAX_SLOTS: u32 = 1 << 16;
/// Most rings of one direction that a port may have here.
const MAX_RINGS: u32 = 256;

/// What keeps the memory.
#[derive(Debug)]
enum Backing {
    /// The kernel's own memory, mapped from the device.
    Mapped { _map: MmapRaw },
    /// Our own, which was given to the kernel.
    Segments { _segments: Vec<Arc<Segment>> },
}

/// The memory of one region.
#[derive(Debug)]
pub(super) struct Region {
    base: NonNull<u8>,
    /// Everything but buffers lies before this.
    buffers_at: usize,
    buffer_size: usize,
    buffers: u32,
    _backing: Backing,
}

// SAFETY: an address range and its owner. All access is by atomics and by copies that allow for other
// writers.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// A buffer of a region that is for use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct BufferIndex(pub(super) u32);

/// Buffers that netmap keeps for itself.
pub(super) const RESERVED_BUFFERS: u32 = 2;

/// What cannot be in memory that the kernel wrote.
pub(super) fn inconsistent(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("netmap's memory has {what}"))
}

impl Region {
    /// Maps a region that the kernel has made.
    pub(super) fn map(memory: BorrowedFd<'_>, pools: &PoolsInfo) -> io::Result<Arc<Self>> {
        let size = usize::try_from(pools.memory_size).map_err(io::Error::other)?;
        // Not populated: it is hundreds of megabytes, of which a port uses few.
        let map = MmapOptions::new().len(size).map_raw(&memory)?;
        let base = NonNull::new(map.as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
        Self::over(base, size, pools, Backing::Mapped { _map: map })
    }

    /// A region over segments of ours that lie side by side, the first of which has all but buffers.
    pub(super) fn of_segments(
        segments: Vec<Arc<Segment>>,
        pools: &PoolsInfo,
    ) -> io::Result<Arc<Self>> {
        let neighbours = segments.iter().zip(segments.iter().skip(1));
        let end = |segment: &Segment| {
            let bytes = segment.bytes();
            bytes.cast::<u8>().as_ptr().wrapping_add(bytes.len())
        };
        let follow = |(first, second): (&Arc<Segment>, &Arc<Segment>)| {
            end(first) == second.bytes().cast::<u8>().as_ptr()
        };
        let (true, Some(first)) = (neighbours.into_iter().all(follow), segments.first()) else {
            return Err(inconsistent("parts that are no neighbours"));
        };
        let base = first.bytes().cast();
        let size = segments.iter().map(|segment| segment.bytes().len()).sum();
        if pools.buffer_offset > first.bytes().len() as u64 {
            return Err(inconsistent("rings where buffers should be"));
        }
        Self::over(base, size, pools, Backing::Segments { _segments: segments })
    }

    fn over(
        base: NonNull<u8>,
        size: usize,
        pools: &PoolsInfo,
        backing: Backing,
    ) -> io::Result<Arc<Self>> {
        let buffers_at = usize::try_from(pools.buffer_offset).map_err(io::Error::other)?;
        let buffer_size = pools.buffer_size as usize;
        let buffers = pools.buffer_total;
        let end =
            (buffers as usize).checked_mul(buffer_size).and_then(|n| n.checked_add(buffers_at));
        if buffer_size == 0 || buffers <= RESERVED_BUFFERS || end.is_none_or(|end| end > size) {
            return Err(inconsistent("buffers outside of it"));
        }
        Ok(Arc::new(Self { base, buffers_at, buffer_size, buffers, _backing: backing }))
    }

    /// Bytes of a buffer.
    pub(super) fn buffer_size(&self) -> usize {
        self.buffer_size
    }

    /// Whether a slot may name this buffer.
    #[inline]
    pub(super) fn buffer(&self, number: u32) -> Option<BufferIndex> {
        (number >= RESERVED_BUFFERS && number < self.buffers).then_some(BufferIndex(number))
    }

    /// Where `length` bytes from the beginning of a buffer lie, if these are in it.
    #[inline]
    fn place(&self, BufferIndex(number): BufferIndex, length: usize) -> Option<*mut u8> {
        if number >= self.buffers || length > self.buffer_size {
            return None;
        }
        // Inside the region: `over` has checked the last buffer.
        let at = self.buffers_at + number as usize * self.buffer_size;
        Some(self.base.as_ptr().wrapping_add(at))
    }

    /// Copies the first bytes of a buffer; false if they are not all in it.
    #[inline]
    pub(super) fn read(&self, buffer: BufferIndex, into: &mut [u8]) -> bool {
        let Some(from) = self.place(buffer, into.len()) else { return false };
        // SAFETY: `place` says that these bytes lie in a buffer of the region, which `self` keeps
        // mapped. Others may write them meanwhile.
        unsafe { copy_racy(from, into) };
        true
    }

    /// Copies bytes to the beginning of a buffer; false if they do not fit.
    #[inline]
    pub(super) fn write(&self, buffer: BufferIndex, bytes: &[u8]) -> bool {
        let Some(into) = self.place(buffer, bytes.len()) else { return false };
        // SAFETY: as above; `bytes` is ordinary memory of this process, so the two do not overlap
        // unless it lies in this region, of which the port copies from nothing but a frame's slot
        // into another buffer.
        unsafe { write_racy(bytes, into) };
        true
    }

    #[inline]
    fn word(&self, at: usize) -> Option<&AtomicU32> {
        // Never in a buffer, which others may be able to write.
        let fits =
            at.is_multiple_of(4) && at.checked_add(4).is_some_and(|end| end <= self.buffers_at);
        // SAFETY: aligned (the base is at a page), in the region (`over`), which `self` keeps mapped;
        // both sides use it as a word.
        fits.then(|| unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(at).cast()) })
    }

    #[inline]
    fn long(&self, at: usize) -> Option<&AtomicU64> {
        let fits =
            at.is_multiple_of(8) && at.checked_add(8).is_some_and(|end| end <= self.buffers_at);
        // SAFETY: as for `word`.
        fits.then(|| unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) })
    }

    fn load(&self, at: usize) -> io::Result<u32> {
        let word = self.word(at).ok_or_else(|| inconsistent("a structure outside of it"))?;
        Ok(word.load(Ordering::Relaxed))
    }

    /// The rings of the port whose `netmap_if` lies at `offset`.
    pub(super) fn rings(self: &Arc<Self>, offset: u64) -> io::Result<Rings> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let count = |field| {
            let count = self.load(at.saturating_add(field))?;
            if count > MAX_RINGS { Err(inconsistent("too many rings")) } else { Ok(count) }
        };
        let (tx, host_tx) = (count(port::TX_RINGS)?, count(port::HOST_TX_RINGS)?);
        let (rx, host_rx) = (count(port::RX_RINGS)?, count(port::HOST_RX_RINGS)?);
        let ring = |index: u32| {
            let entry = at + port::RING_OFFSETS + 8 * index as usize;
            let distance = self
                .long(entry)
                .ok_or_else(|| inconsistent("a table of rings outside of it"))?
                .load(Ordering::Relaxed);
            if distance == 0 {
                return Ok(None);
            }
            let place = usize::try_from(distance).ok().and_then(|d| at.checked_add(d));
            let place = place.ok_or_else(|| inconsistent("a ring outside of it"))?;
            Ring::new(self, place).map(Some)
        };
        let bound = |range: core::ops::Range<u32>| {
            range.filter_map(|index| ring(index).transpose()).collect::<io::Result<Vec<_>>>()
        };
        let (transmit, receive) = (tx + host_tx, rx + host_rx);
        Ok(Rings {
            card: Sides { transmit: bound(0..tx)?, receive: bound(transmit..transmit + rx)? },
            host: Sides {
                transmit: bound(tx..transmit)?,
                receive: bound(transmit + rx..transmit + receive)?,
            },
        })
    }

    /// Walks the list of extra buffers of the port at `offset`: at most as many as there are.
    pub(super) fn extra_buffers(&self, offset: u64) -> io::Result<Vec<BufferIndex>> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let mut next = self.load(at.saturating_add(port::EXTRA_HEAD))?;
        let mut seen = Vec::new();
        while next != 0 {
            let buffer =
                self.buffer(next).ok_or_else(|| inconsistent("a list that ends nowhere"))?;
            if seen.len() >= self.buffers as usize {
                return Err(inconsistent("a list without end"));
            }
            seen.push(buffer);
            let mut word = [0; 4];
            self.read(buffer, &mut word);
            next = u32::from_ne_bytes(word);
        }
        Ok(seen)
    }

    /// Makes these buffers the list of extra buffers of the port at `offset`.
    pub(super) fn set_extra_buffers(
        &self,
        offset: u64,
        buffers: impl Iterator<Item = BufferIndex>,
    ) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let mut head = 0u32;
        for buffer in buffers {
            self.write(buffer, &head.to_ne_bytes());
            head = buffer.0;
        }
        let word = self.word(at.saturating_add(port::EXTRA_HEAD));
        word.ok_or_else(|| inconsistent("a structure outside of it"))?
            .store(head, Ordering::Relaxed);
        Ok(())
    }
}

/// Rings of both directions.
#[derive(Debug)]
pub(super) struct Sides {
    pub(super) transmit: Vec<Ring>,
    pub(super) receive: Vec<Ring>,
}

impl Sides {
    pub(super) fn is_empty(&self) -> bool {
        self.transmit.is_empty() && self.receive.is_empty()
    }
}

/// All rings that are bound: the host's come last in the table of each direction.
#[derive(Debug)]
pub(super) struct Rings {
    pub(super) card: Sides,
    pub(super) host: Sides,
}

/// A slot's content, loaded or stored as one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Which buffer; anything until [`Region::buffer`] has checked it.
    pub(super) buffer: u32,
    /// Bytes of the frame.
    pub(super) length: u16,
    /// Of [`slot_flag`].
    pub(super) flags: u16,
}

impl Slot {
    /// One that holds `length` bytes in another buffer than before.
    pub(super) fn swapped(BufferIndex(buffer): BufferIndex, length: u16) -> Self {
        Self { buffer, length, flags: slot_flag::BUF_CHANGED }
    }

    #[expect(clippy::cast_possible_truncation, reason = "parts of a word")]
    #[cfg(target_endian = "little")]
    fn unpack(word: u64) -> Self {
        Self { buffer: word as u32, length: (word >> 32) as u16, flags: (word >> 48) as u16 }
    }

    #[cfg(target_endian = "little")]
    fn pack(self) -> u64 {
        u64::from(self.buffer) | u64::from(self.length) << 32 | u64::from(self.flags) << 48
    }
}

/// One ring. Positions are private and are stored for the kernel; only `tail` and the slots that it
/// shows are read back.
#[derive(Debug)]
pub(super) struct Ring {
    region: Arc<Region>,
    at: usize,
    /// Where the slots lie: `count` of them, in the region.
    slots: NonNull<u8>,
    count: u32,
    head: u32,
    tail: u32,
    /// Slots that were given back and of which the kernel does not know.
    unpublished: u32,
}

// SAFETY: `slots` points into the region that `region` keeps, which may be used by any thread.
unsafe impl Send for Ring {}

impl Ring {
    fn new(region: &Arc<Region>, at: usize) -> io::Result<Self> {
        let load = |field: usize| region.load(at.saturating_add(field));
        let (count, size) = (load(ring::SLOT_COUNT)?, load(ring::BUFFER_SIZE)?);
        if !(2..=MAX_SLOTS).contains(&count) {
            return Err(inconsistent("a ring of too few or too many slots"));
        }
        let end = at + ring::SLOTS + count as usize * slot::SIZE;
        if end > region.buffers_at || !at.is_multiple_of(8) {
            return Err(inconsistent("a ring outside of it"));
        }
        let buffers =
            region.long(at + ring::BUFFERS).map_or(0, |distance| distance.load(Ordering::Relaxed));
        let buffers_at = usize::try_from(buffers).ok().and_then(|d| at.checked_add(d));
        if size as usize != region.buffer_size || buffers_at != Some(region.buffers_at) {
            return Err(inconsistent("a ring with buffers of its own"));
        }
        // Not outside of the region: `end` was compared with its size.
        let slots = NonNull::new(region.base.as_ptr().wrapping_add(at + ring::SLOTS))
            .ok_or_else(|| inconsistent("a ring nowhere"))?;
        let region = Arc::clone(region);
        let mut ring = Self { region, at, slots, count, head: 0, tail: 0, unpublished: 0 };
        ring.head = load(ring::HEAD)?;
        if ring.head >= count {
            return Err(inconsistent("a ring with its head outside"));
        }
        ring.tail = ring.head;
        ring.refresh()?;
        Ok(ring)
    }

    /// Number of slots.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Position of the first slot that is ours.
    #[inline]
    pub(super) fn head(&self) -> u32 {
        self.head
    }

    /// The position `offset` slots behind the first that is ours; `offset` is at most their number.
    #[inline]
    pub(super) fn after_head(&self, offset: u32) -> u32 {
        let index = self.head + offset;
        if index >= self.count { index - self.count } else { index }
    }

    /// Slots given back since the last sync.
    #[inline]
    pub(super) fn given_back(&self) -> u32 {
        self.unpublished
    }

    /// Slots that are ours.
    #[inline]
    pub(super) fn available(&self) -> u32 {
        if self.tail >= self.head {
            self.tail - self.head
        } else {
            self.tail + self.count - self.head
        }
    }

    /// Reads how far the kernel has come; to be asked after each sync.
    ///
    /// # Errors
    /// It says what cannot be.
    #[inline]
    pub(super) fn refresh(&mut self) -> io::Result<()> {
        let tail = self.region.load(self.at + ring::TAIL)?;
        if tail >= self.count {
            return Err(inconsistent("a ring with its tail outside"));
        }
        self.tail = tail;
        Ok(())
    }

    /// Gives the first slot to the kernel, at the next sync.
    #[inline]
    pub(super) fn advance(&mut self) {
        self.advance_by(1);
    }

    /// Gives the first `count` slots to the kernel, at the next sync; no more than are ours.
    #[inline]
    pub(super) fn advance_by(&mut self, count: u32) {
        let count = count.min(self.available());
        self.head = self.after_head(count);
        self.unpublished += count;
    }

    /// Writes the positions for the kernel: `cur` is `head`.
    #[inline]
    pub(super) fn publish(&mut self) {
        self.unpublished = 0;
        for field in [ring::CURRENT, ring::HEAD] {
            if let Some(word) = self.region.word(self.at + field) {
                word.store(self.head, Ordering::Release);
            }
        }
    }

    #[inline(always)]
    fn slot_at(&self, index: u32) -> Option<&AtomicU64> {
        // SAFETY: `new` has checked that `count` slots lie in the region, which `self` keeps mapped, from
        // an address that is a multiple of eight on; a slot begins with this word, which both sides use
        // as words.
        (index < self.count).then(|| unsafe {
            let at = index as usize * slot::SIZE + slot::BUFFER;
            AtomicU64::from_ptr(self.slots.as_ptr().add(at).cast())
        })
    }

    /// The content of slot `index`.
    #[inline(always)]
    pub(super) fn slot(&self, index: u32) -> Option<Slot> {
        Some(Slot::unpack(self.slot_at(index)?.load(Ordering::Relaxed)))
    }

    /// Writes where in its buffer the frame of slot `index` begins; without effect for the kernel unless
    /// offsets were granted for the ring.
    #[inline]
    pub(super) fn set_offset(&mut self, index: u32, offset: u16) {
        let at = self.at + ring::SLOTS + index as usize * slot::SIZE + slot::POINTER;
        if let Some(word) = (index < self.count).then(|| self.region.long(at)).flatten() {
            word.store(offset.into(), Ordering::Relaxed);
        }
    }

    /// The position after `index`.
    #[inline]
    pub(super) fn after(&self, index: u32) -> u32 {
        if index + 1 >= self.count { 0 } else { index + 1 }
    }

    /// Whether the kernel has done with what it was given in slot `index`. So it has with the one under
    /// `tail`, which is not ours all the same.
    #[inline]
    pub(super) fn is_done(&self, index: u32) -> bool {
        let distance =
            if index >= self.head { index - self.head } else { index + self.count - self.head };
        distance <= self.available()
    }

    /// Writes slot `index`.
    #[inline(always)]
    pub(super) fn set_slot(&mut self, index: u32, content: Slot) {
        if let Some(word) = self.slot_at(index) {
            word.store(content.pack(), Ordering::Relaxed);
        }
    }
}

const _: () = {
    // One word holds buffer, length and flags, and is aligned in every slot of an aligned ring.
    assert!(slot::LENGTH == slot::BUFFER + 4 && slot::FLAGS == slot::LENGTH + 2);
    assert!(ring::SLOTS.is_multiple_of(8) && slot::SIZE.is_multiple_of(8));
    assert!(slot::BUFFER.is_multiple_of(8) && slot::BUFFER + 8 <= slot::SIZE);
};
