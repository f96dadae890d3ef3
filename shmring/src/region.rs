//! One region: a sealed memfd, its mapping, and references to the words in it.
//!
//! ```text
//!   daemon:  memfd_create -> size -> map read-write, populated -> seal -> hand the descriptor over
//!   client:  check seals and size -> map (inbound: read-only, outbound: read-write)
//! ```
//!
//! - The daemon makes every memfd and never maps one that a client made.
//! - SHRINK and GROW keep the mapping from being cut off (no SIGBUS); FUTURE_WRITE keeps everybody
//!   who did not map the region before the seal from writing it, also through `/proc`; SEAL keeps
//!   the set as it is.
//! - Words are only ever seen as atomics, cells by position modulo their power-of-two count.

#![expect(unsafe_code, reason = "turns one mapping into references to atomics")]

use crate::layout::{self, RegionHeader, Word};
use crate::words::{LoadCells, LoadWord, Memory, StoreCells, StoreWord};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use thiserror::Error;

/// Why a region could not be made or mapped.
#[derive(Debug, Error)]
pub enum RegionError {
    /// A system call failed.
    #[error("cannot {what} a region of {size} bytes")]
    System {
        /// What was tried.
        what: &'static str,
        /// Bytes asked for.
        size: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// A received descriptor is not what was promised.
    #[error("the region is not as promised: {what} is {found}, expected {expected}")]
    Unexpected {
        /// Which property.
        what: &'static str,
        /// What it is.
        found: u64,
        /// What it should be.
        expected: u64,
    },
}

/// Who may write a region after it was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The daemon alone: sealed against future writable mappings.
    Daemon,
    /// The client; the daemon only reads.
    Client,
}

impl Writer {
    /// The seals of such a region.
    #[must_use]
    pub fn seals(self) -> SealFlags {
        let fixed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        match self {
            Self::Daemon => fixed | SealFlags::FUTURE_WRITE,
            Self::Client => fixed,
        }
    }
}

/// Makes an unsealed memfd of `size` bytes, all zero, on huge pages if asked.
pub(crate) fn create_memfd(name: &str, size: usize, huge: bool) -> Result<OwnedFd, RegionError> {
    let system =
        |what| move |e: rustix::io::Errno| RegionError::System { what, size, source: e.into() };
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if huge {
        flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    }
    // NOEXEC_SEAL is Linux 6.3; older kernels refuse the flag, and the seal is only a belt.
    let fd = rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| rustix::fs::memfd_create(name, flags))
        .map_err(system("create"))?;
    rustix::fs::ftruncate(&fd, size as u64).map_err(system("size"))?;
    Ok(fd)
}

/// Adds the seals of `writer`, and checks that they are there.
pub(crate) fn seal(fd: BorrowedFd<'_>, writer: Writer, size: usize) -> Result<(), RegionError> {
    rustix::fs::fcntl_add_seals(fd, writer.seals()).map_err(|e| RegionError::System {
        what: "seal",
        size,
        source: e.into(),
    })?;
    check_seals(fd, writer)
}

fn check_seals(fd: BorrowedFd<'_>, writer: Writer) -> Result<(), RegionError> {
    let found = rustix::fs::fcntl_get_seals(fd).map_err(|e| RegionError::System {
        what: "read the seals of",
        size: 0,
        source: e.into(),
    })?;
    if !found.contains(writer.seals()) {
        return Err(RegionError::Unexpected {
            what: "set of seals",
            found: found.bits().into(),
            expected: writer.seals().bits().into(),
        });
    }
    Ok(())
}

#[derive(Debug)]
enum Backing {
    Map {
        _map: MmapRaw,
    },
    /// Ordinary memory, for tests, benches and Miri. A raw pointer, since a `Box` that moves says
    /// that nothing else points there.
    Heap {
        words: NonNull<[AtomicU64]>,
    },
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Self::Heap { words } = self {
            // SAFETY: came out of a box in `Region::heap`; the last reference to the region is gone.
            drop(unsafe { Box::from_raw(words.as_ptr()) });
        }
    }
}

/// A mapping of shared words, kept alive by every reference into it.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    size: usize,
    writable: bool,
    _backing: Backing,
}

// SAFETY: `Region` is an address range and its owner. All access goes through atomics, which any
// number of threads may use; `_backing` is only dropped, which is fine on any thread.
unsafe impl Send for Region {}
// SAFETY: as above; `&Region` allows nothing but the making of handles to atomics.
unsafe impl Sync for Region {}

impl Region {
    /// Makes a region in the daemon: sized, populated, sealed for `writer`, header written. The
    /// returned descriptor is for the client.
    ///
    /// # Errors
    /// What the kernel refused: descriptors, memory, seals.
    pub fn create(
        writer: Writer,
        pairs: u32,
        ring_capacity: u32,
        slot_size: u32,
    ) -> Result<(Arc<Self>, OwnedFd), RegionError> {
        let size = layout::region_size(pairs, ring_capacity);
        let (name, magic) = match writer {
            Writer::Daemon => ("usnet-inbound", layout::INBOUND_MAGIC),
            Writer::Client => ("usnet-outbound", layout::OUTBOUND_MAGIC),
        };
        let fd = create_memfd(name, size, false)?;
        let header = RegionHeader {
            magic,
            version: layout::VERSION,
            pairs,
            ring_capacity,
            slot_size,
            size: size as u64,
            reserved: [0; 96],
        };
        rustix::io::pwrite(&fd, bytemuck::bytes_of(&header), 0)
            .map_err(|e| RegionError::System { what: "label", size, source: e.into() })?;
        // Mapped before it is sealed: FUTURE_WRITE forbids every writable mapping after it.
        let region = Self::from_fd(fd.as_fd(), size, writer == Writer::Daemon)?;
        seal(fd.as_fd(), writer, size)?;
        Ok((Arc::new(region), fd))
    }

    /// Maps a received region in a client: read-only if the daemon writes it.
    ///
    /// # Errors
    /// [`RegionError::Unexpected`] if size or seals are not as promised, or what the kernel refused.
    pub fn map(fd: BorrowedFd<'_>, writer: Writer, size: usize) -> Result<Arc<Self>, RegionError> {
        check_received(fd, writer, size)?;
        Ok(Arc::new(Self::from_fd(fd, size, writer == Writer::Client)?))
    }

    fn from_fd(fd: BorrowedFd<'_>, size: usize, writable: bool) -> Result<Self, RegionError> {
        let mut options = MmapOptions::new();
        options.len(size).populate();
        let map = if writable { options.map_raw(&fd) } else { options.map_raw_read_only(&fd) }
            .map_err(|source| RegionError::System { what: "map", size, source })?;
        let base = NonNull::new(map.as_mut_ptr()).ok_or(RegionError::Unexpected {
            what: "address",
            found: 0,
            expected: 1,
        })?;
        Ok(Self { base, size, writable, _backing: Backing::Map { _map: map } })
    }

    /// The same over ordinary memory, for tests and benches in one process.
    #[must_use]
    pub fn heap(pairs: u32, ring_capacity: u32) -> Arc<Self> {
        let size = layout::region_size(pairs, ring_capacity);
        let words: Box<[AtomicU64]> = (0..size.div_ceil(8)).map(|_| AtomicU64::new(0)).collect();
        let words = NonNull::from(Box::leak(words));
        let (base, backing) = (words.cast(), Backing::Heap { words });
        Arc::new(Self { base, size, writable: true, _backing: backing })
    }

    /// Bytes of the region.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// A word of queue pair `pair` that this process may store; `None` if the mapping is read-only
    /// or the word lies outside it.
    #[must_use]
    pub fn own_word(self: &Arc<Self>, capacity: u32, pair: u32, word: Word) -> Option<OwnWord> {
        self.writable.then(|| self.word(capacity, pair, word)).flatten().map(OwnWord)
    }

    /// A word of queue pair `pair` that the peer stores; `None` if it lies outside the mapping.
    #[must_use]
    pub fn peer_word(self: &Arc<Self>, capacity: u32, pair: u32, word: Word) -> Option<PeerWord> {
        self.word(capacity, pair, word).map(PeerWord)
    }

    /// The cells of ring `ring` (0 or 1) of pair `pair` that this process may store.
    #[must_use]
    pub fn own_cells(self: &Arc<Self>, capacity: u32, pair: u32, ring: u32) -> Option<OwnCells> {
        self.writable.then(|| self.cells(capacity, pair, ring)).flatten().map(OwnCells)
    }

    /// The cells of ring `ring` (0 or 1) of pair `pair` that the peer stores.
    #[must_use]
    pub fn peer_cells(self: &Arc<Self>, capacity: u32, pair: u32, ring: u32) -> Option<PeerCells> {
        self.cells(capacity, pair, ring).map(PeerCells)
    }

    fn pair_start(capacity: u32, pair: u32) -> usize {
        layout::PAIRS + pair as usize * layout::pair_size(capacity)
    }

    fn word(self: &Arc<Self>, capacity: u32, pair: u32, word: Word) -> Option<WordRef> {
        if !crate::ring::is_capacity(capacity) {
            return None;
        }
        let offset = Self::pair_start(capacity, pair) + word.offset();
        if !offset.is_multiple_of(align_of::<AtomicU32>())
            || offset + size_of::<AtomicU32>() > self.size
        {
            return None;
        }
        // SAFETY: `offset` lies within the `size` bytes behind `base`, by the check above.
        let at = unsafe { self.base.add(offset) }.cast();
        Some(WordRef { at, _region: Arc::clone(self) })
    }

    fn cells(self: &Arc<Self>, capacity: u32, pair: u32, ring: u32) -> Option<CellsRef> {
        if ring > 1 || !crate::ring::is_capacity(capacity) {
            return None;
        }
        let bytes = layout::cells_size(capacity);
        let offset = Self::pair_start(capacity, pair) + layout::CELLS + ring as usize * bytes;
        if !offset.is_multiple_of(align_of::<AtomicU64>()) || offset + bytes > self.size {
            return None;
        }
        // SAFETY: `offset + bytes` lies within the `size` bytes behind `base`, by the check above.
        let at = unsafe { self.base.add(offset) }.cast();
        Some(CellsRef { at, mask: capacity - 1, _region: Arc::clone(self) })
    }
}

/// Checks what a client received before it maps it: size as promised, seals as promised.
pub(crate) fn check_received(
    fd: BorrowedFd<'_>,
    writer: Writer,
    size: usize,
) -> Result<(), RegionError> {
    let stat = rustix::fs::fstat(fd).map_err(|e| RegionError::System {
        what: "look at",
        size,
        source: e.into(),
    })?;
    let found = u64::try_from(stat.st_size).unwrap_or(0);
    if found < size as u64 || size == 0 {
        return Err(RegionError::Unexpected { what: "size", found, expected: size as u64 });
    }
    check_seals(fd, writer)
}

#[derive(Debug)]
struct WordRef {
    at: NonNull<AtomicU32>,
    _region: Arc<Region>,
}

// SAFETY: the target is an atomic, which any thread may use, kept mapped by the `Arc`.
unsafe impl Send for WordRef {}
// SAFETY: as above.
unsafe impl Sync for WordRef {}

impl WordRef {
    #[inline]
    fn get(&self) -> &AtomicU32 {
        // SAFETY: `Region::word` checked bounds and alignment; `_region` keeps the mapping. Any bits
        // are a valid `AtomicU32`, and another process may write an atomic at any time.
        unsafe { self.at.as_ref() }
    }
}

#[derive(Debug)]
struct CellsRef {
    at: NonNull<AtomicU64>,
    /// One less than the number of cells, which is a power of two.
    mask: u32,
    _region: Arc<Region>,
}

// SAFETY: the targets are atomics, which any thread may use, kept mapped by the `Arc`.
unsafe impl Send for CellsRef {}
// SAFETY: as above.
unsafe impl Sync for CellsRef {}

impl CellsRef {
    #[inline]
    fn get(&self, position: u32) -> &AtomicU64 {
        // SAFETY: `position & mask` is less than the number of cells; `Region::cells` checked that
        // all of them lie in the mapping, aligned; `_region` keeps it. Any bits are a valid
        // `AtomicU64`, and another process may write an atomic at any time.
        unsafe { self.at.add((position & self.mask) as usize).as_ref() }
    }
}

/// A word that this process may store.
#[derive(Debug)]
pub struct OwnWord(WordRef);

impl StoreWord for OwnWord {
    #[inline]
    fn store(&self, value: u32, order: Ordering) {
        self.0.get().store(value, order);
    }
}

/// A word that the peer stores.
#[derive(Debug)]
pub struct PeerWord(WordRef);

impl LoadWord for PeerWord {
    #[inline]
    fn load(&self, order: Ordering) -> u32 {
        self.0.get().load(order)
    }
}

/// Cells that this process may store.
#[derive(Debug)]
pub struct OwnCells(CellsRef);

impl StoreCells for OwnCells {
    fn capacity(&self) -> u32 {
        self.0.mask + 1
    }

    #[inline]
    fn store(&self, position: u32, value: u64) {
        self.0.get(position).store(value, Ordering::Relaxed);
    }
}

/// Cells that the peer stores.
#[derive(Debug)]
pub struct PeerCells(CellsRef);

impl LoadCells for PeerCells {
    fn capacity(&self) -> u32 {
        self.0.mask + 1
    }

    #[inline]
    fn load(&self, position: u32) -> u64 {
        self.0.get(position).load(Ordering::Relaxed)
    }
}

/// Mapped (or heap) memory: what the shipped programs run over.
#[derive(Debug)]
pub struct Mapped;

impl Memory for Mapped {
    type OwnWord = OwnWord;
    type PeerWord = PeerWord;
    type OwnCells = OwnCells;
    type PeerCells = PeerCells;

    #[inline]
    fn fence() {
        fence(Ordering::SeqCst);
    }
}
