//! The system calls that a client could try on its descriptors: everything that maps memory.

#![expect(unsafe_code, reason = "maps memory as an attacker would")]

use core::ptr;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use std::os::fd::{AsFd, BorrowedFd};

/// A mapping of a memfd, seen as atomics only.
#[derive(Debug)]
pub(crate) struct Mapping {
    at: *mut u8,
    size: usize,
}

// SAFETY: an address range that is unmapped once; it is accessed by atomics only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(crate) fn new(
        fd: impl AsFd,
        size: usize,
        prot: ProtFlags,
        flags: MapFlags,
    ) -> Result<Self, Errno> {
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let at = unsafe { rustix::mm::mmap(ptr::null_mut(), size, prot, flags, fd, 0) }?;
        Ok(Self { at: at.cast(), size })
    }

    pub(crate) fn shared_read_only(fd: impl AsFd, size: usize) -> Result<Self, Errno> {
        Self::new(fd, size, ProtFlags::READ, MapFlags::SHARED)
    }

    pub(crate) fn shared_writable(fd: impl AsFd, size: usize) -> Result<Self, Errno> {
        Self::new(fd, size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)
    }

    pub(crate) fn address(&self) -> u64 {
        self.at.addr() as u64
    }

    pub(crate) fn make_writable(&self) -> Result<(), Errno> {
        let flags = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the whole of this mapping, which nobody has a reference into.
        unsafe { rustix::mm::mprotect(self.at.cast(), self.size, flags) }
    }

    pub(crate) fn remove_pages(&self) -> Result<(), Errno> {
        // SAFETY: as above; the bytes become zeros at most.
        unsafe { rustix::mm::madvise(self.at.cast(), self.size, Advice::LinuxRemove) }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.size, "outside the mapping");
        // SAFETY: in the mapping and aligned by the check above; any bits are a valid word, and an
        // atomic may be written by another process.
        unsafe { AtomicU64::from_ptr(self.at.add(at).cast()) }
    }

    pub(crate) fn load(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Relaxed)
    }

    /// For writable mappings only.
    pub(crate) fn store(&self, at: usize, value: u64) {
        self.word(at).store(value, Ordering::Relaxed);
    }

    /// For writable mappings only.
    pub(crate) fn store_byte(&self, at: usize, value: u8) {
        assert!(at < self.size, "outside the mapping");
        // SAFETY: in the mapping by the check above.
        unsafe { AtomicU8::from_ptr(self.at.add(at)) }.store(value, Ordering::Relaxed);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new`; every reference borrows `self`.
        let _ = unsafe { rustix::mm::munmap(self.at.cast(), self.size) };
    }
}

/// Number of a descriptor, for paths in /proc.
pub(crate) fn number(fd: BorrowedFd<'_>) -> i32 {
    use std::os::fd::AsRawFd;
    fd.as_raw_fd()
}
