//! The memory of a region, as the kernel sees it.
//!
//! ```text
//!   user's mapping --+
//!                    +--> the same pages: words by atomics, bytes by copies that may race
//!   Memory ----------+
//! ```
//!
//! - No reference to the memory is ever made: somebody else writes it at any moment.
//! - Every access is checked against the region's length. One that does not fit does nothing, and a
//!   load then gives 0; the double's own offsets always fit.

#![expect(unsafe_code, reason = "the double's view of memory that a port writes too")]

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use memmap2::{MmapOptions, MmapRaw};
use rustix::io::Errno;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use usnet_shmring::copy::{copy_racy, write_racy};

/// A contiguous range of memory that is shared with the user of a port.
#[derive(Debug)]
pub(super) struct Memory {
    base: NonNull<u8>,
    len: usize,
    /// Keeps the range mapped; none if the range is the caller's own.
    _mapping: Option<MmapRaw>,
}

// SAFETY: all access is by atomics or by copies that expect races, so it may come from any thread;
// nothing in it is tied to the thread that made it.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps the first `len` bytes of `file`.
    pub(super) fn map(file: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let mapping = MmapOptions::new().len(len).map_raw(file.as_raw_fd())?;
        let base = NonNull::new(mapping.as_mut_ptr()).ok_or(Errno::FAULT)?;
        Ok(Self { base, len, _mapping: Some(mapping) })
    }

    /// Memory of this process, as with `EXTMEM`. The kernel pins the pages; here they must stay
    /// mapped until the last port over them is closed, which is what the caller of `EXTMEM` owes.
    pub(super) fn of_caller(address: u64, len: u64) -> io::Result<Self> {
        let end = address.checked_add(len).ok_or(Errno::FAULT)?;
        if len == 0 || !is_mapped(address, end, &fs::read_to_string("/proc/self/maps")?) {
            return Err(Errno::FAULT.into());
        }
        let address = usize::try_from(address).map_err(|_| Errno::FAULT)?;
        let len = usize::try_from(len).map_err(|_| Errno::FAULT)?;
        let base = NonNull::new(ptr::with_exposed_provenance_mut(address)).ok_or(Errno::FAULT)?;
        Ok(Self { base, len, _mapping: None })
    }

    /// A pointer to `len` bytes at `offset`, if they are within and aligned.
    #[inline]
    fn at(&self, offset: usize, len: usize, alignment: usize) -> Option<*mut u8> {
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.len);
        if !fits {
            return None;
        }
        // SAFETY: `offset + len <= self.len`, and the range is one mapping of that length, which
        // `_mapping` or the caller of `of_caller` keeps.
        let place = unsafe { self.base.as_ptr().add(offset) };
        place.addr().is_multiple_of(alignment).then_some(place)
    }

    #[inline]
    pub(super) fn load32(&self, offset: usize) -> u32 {
        match self.at(offset, 4, 4) {
            // SAFETY: `at` checked range and alignment; the memory is only reached by atomics and
            // racing copies.
            Some(place) => unsafe { AtomicU32::from_ptr(place.cast()) }.load(Ordering::Relaxed),
            None => 0,
        }
    }

    #[inline]
    pub(super) fn store32(&self, offset: usize, value: u32) {
        if let Some(place) = self.at(offset, 4, 4) {
            // SAFETY: as in `load32`.
            unsafe { AtomicU32::from_ptr(place.cast()) }.store(value, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn load64(&self, offset: usize) -> u64 {
        match self.at(offset, 8, 8) {
            // SAFETY: as in `load32`, with 8 bytes.
            Some(place) => unsafe { AtomicU64::from_ptr(place.cast()) }.load(Ordering::Relaxed),
            None => 0,
        }
    }

    #[inline]
    pub(super) fn store64(&self, offset: usize, value: u64) {
        if let Some(place) = self.at(offset, 8, 8) {
            // SAFETY: as in `load32`, with 8 bytes.
            unsafe { AtomicU64::from_ptr(place.cast()) }.store(value, Ordering::Relaxed);
        }
    }

    /// Copies bytes out of the region; false if they do not lie in it.
    #[inline]
    pub(super) fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        let Some(place) = self.at(offset, into.len(), 1) else { return false };
        // SAFETY: `at` checked that `into.len()` bytes at `place` are mapped; `into` is private.
        unsafe { copy_racy(place, into) };
        true
    }

    /// Copies bytes into the region; false if they would not lie in it.
    #[inline]
    pub(super) fn write(&self, offset: usize, from: &[u8]) -> bool {
        let Some(place) = self.at(offset, from.len(), 1) else { return false };
        // SAFETY: `at` checked that `from.len()` bytes at `place` are mapped; `from` is private.
        unsafe { write_racy(from, place) };
        true
    }
}

/// Whether `maps`, in the form of `/proc/self/maps`, has all of `from..end` readable and writable.
fn is_mapped(from: u64, end: u64, maps: &str) -> bool {
    let mut reached = from;
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        let Some((first, last)) = range.split_once('-') else { continue };
        let number = |text| u64::from_str_radix(text, 16).ok();
        let (Some(first), Some(last)) = (number(first), number(last)) else { continue };
        if first <= reached && reached < last && rights.starts_with("rw") {
            reached = last;
        }
        if reached >= end {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;
    use std::os::fd::AsFd;

    fn memory(len: usize) -> Memory {
        let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, len as u64).unwrap();
        Memory::map(file.as_fd(), len).unwrap()
    }

    #[test]
    fn every_length_is_copied_in_and_out_exactly() {
        let memory = memory(4096);
        let source: Vec<u8> = (0..1600u32).map(|i| (i * 7 % 251) as u8).collect();
        for length in (0..80).chain([255, 256, 511, 512, 513, 1514]) {
            assert!(memory.write(100, &source[..length]));
            let mut back = vec![0xee; length + 1];
            assert!(memory.read(100, &mut back[..length]));
            assert_eq!(back[..length], source[..length]);
            assert_eq!(back[length], 0xee);
        }
    }

    #[test]
    fn nothing_outside_the_region_is_touched() {
        let memory = memory(4096);
        memory.store32(4092, 7);
        memory.store32(4096, 8);
        memory.store64(4092, 9);
        memory.store32(usize::MAX - 1, 9);
        assert_eq!((memory.load32(4092), memory.load32(4096), memory.load64(4092)), (7, 0, 0));
        assert!(!memory.write(4095, &[1, 2]) && !memory.read(usize::MAX, &mut [0; 2]));
    }

    #[test]
    fn only_memory_that_is_mapped_can_be_a_region() {
        let maps = "1000-2000 rw-p 0 0 0\n2000-3000 rw-s 0 0 0\n3000-4000 r--p 0 0 0\n";
        assert!(is_mapped(0x1000, 0x3000, maps));
        assert!(!is_mapped(0x1000, 0x3001, maps), "not writable");
        assert!(!is_mapped(0xfff, 0x2000, maps) && !is_mapped(0x5000, 0x6000, maps));
        assert!(Memory::of_caller(0x1000, u64::MAX).is_err());
    }
}
