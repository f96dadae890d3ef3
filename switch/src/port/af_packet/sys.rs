//! System calls and memory of a packet socket (packet(7), Documentation/networking/packet_mmap.rst).
//!
//! The rings are one mapping that the kernel and this process both write. A status word says whose a
//! frame is at the moment; it is only ever touched as an atomic. What the kernel writes as offsets
//! and lengths is checked against the mapping before use.

#![expect(
    unsafe_code,
    reason = "socket options without a safe wrapper, and a ring shared with the kernel"
)]

use super::layout::RingRequest;
use bytemuck::Pod;
use core::mem::{size_of, zeroed};
use core::slice;
use core::sync::atomic::AtomicU32;
use memmap2::{MmapOptions, MmapRaw};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A packet socket, not yet bound.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

impl Socket {
    /// A raw packet socket that hears nothing until it is bound.
    pub(super) fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: takes no pointers; a descriptor that is returned is ours alone.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: `fd` was just made and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The descriptor alone.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Has the kernel show only frames that a filter of classic BPF accepts.
    pub(super) fn set_filter(&self, filter: &mut [libc::sock_filter]) -> io::Result<()> {
        let len =
            libc::c_ushort::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
        let length = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).unwrap_or(0);
        // SAFETY: the kernel reads `program`, and `len` instructions where it points; both live until
        // the call returns.
        check(unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                core::ptr::from_ref(&program).cast(),
                length,
            )
        })?;
        Ok(())
    }

    /// Sets an option of level `SOL_PACKET`.
    pub(super) fn set<T: Pod>(&self, option: libc::c_int, value: &T) -> io::Result<()> {
        let bytes = bytemuck::bytes_of(value);
        let length = libc::socklen_t::try_from(bytes.len()).unwrap_or(0);
        // SAFETY: `bytes` is readable for `length` bytes.
        check(unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                bytes.as_ptr().cast(),
                length,
            )
        })?;
        Ok(())
    }

    /// Reads an option of level `SOL_PACKET`.
    pub(super) fn get<T: Pod>(&self, option: libc::c_int) -> io::Result<T> {
        let mut value = T::zeroed();
        let bytes = bytemuck::bytes_of_mut(&mut value);
        let mut length = libc::socklen_t::try_from(bytes.len()).unwrap_or(0);
        // SAFETY: `bytes` is writable for `length` bytes, and any bits are a valid `T`.
        check(unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                bytes.as_mut_ptr().cast(),
                &raw mut length,
            )
        })?;
        Ok(value)
    }

    /// Begins to hear all frames of interface `index`.
    pub(super) fn bind(&self, index: u32) -> io::Result<()> {
        // SAFETY: `sockaddr_ll` is plain data, for which all zeros is a value.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(0);
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or(0).to_be();
        address.sll_ifindex = i32::try_from(index).unwrap_or(0);
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
        // SAFETY: `address` is readable for `length` bytes.
        check(unsafe { libc::bind(self.0.as_raw_fd(), (&raw const address).cast(), length) })?;
        Ok(())
    }

    /// Asks the kernel to send what stands in the transmit ring; never waits.
    pub(super) fn kick(&self) -> io::Result<()> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: a null buffer of no bytes and no address: the frames are in the ring.
        let sent = unsafe {
            libc::sendto(self.0.as_raw_fd(), core::ptr::null(), 0, flags, core::ptr::null(), 0)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Maps both rings: the receive ring, then the transmit ring.
    pub(super) fn map(&self, rx: &RingRequest, tx: &RingRequest) -> io::Result<Rings> {
        let map = MmapOptions::new().len(rx.size() + tx.size()).map_raw(&self.0)?;
        Ok(Rings { map })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The mapping of both rings.
#[derive(Debug)]
pub(super) struct Rings {
    map: MmapRaw,
}

impl Rings {
    fn contains(&self, at: usize, length: usize) -> bool {
        at.checked_add(length).is_some_and(|end| end <= self.map.len())
    }

    /// A status word.
    #[inline]
    pub(super) fn status(&self, at: usize) -> Option<&AtomicU32> {
        if !self.contains(at, size_of::<AtomicU32>()) || !at.is_multiple_of(4) {
            return None;
        }
        // SAFETY: in the mapping and aligned, by the check above and a page-aligned base. Any bits
        // are a valid `AtomicU32`, which the kernel may write at any time.
        Some(unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().add(at).cast()) })
    }

    /// A copy of a header.
    #[inline]
    pub(super) fn read<T: Pod>(&self, at: usize) -> Option<T> {
        if !self.contains(at, size_of::<T>()) {
            return None;
        }
        // SAFETY: in the mapping by the check above; any bits are a valid `T`. The caller has seen
        // the status word that makes the frame ours, and works on the copy alone.
        Some(unsafe { self.map.as_ptr().add(at).cast::<T>().read_unaligned() })
    }

    /// The bytes of a frame that the kernel has handed over.
    #[inline]
    pub(super) fn bytes(&self, at: usize, length: usize) -> Option<&[u8]> {
        if !self.contains(at, length) {
            return None;
        }
        // SAFETY: in the mapping by the check above. The caller has seen the status word that makes
        // the frame ours; the kernel does not write it again before that word is given back, which
        // takes `&mut` of the port that holds this borrow.
        Some(unsafe { slice::from_raw_parts(self.map.as_ptr().add(at), length) })
    }

    /// A transmit frame that the kernel does not look at now, to be written.
    #[inline]
    pub(super) fn bytes_mut(&mut self, at: usize, length: usize) -> Option<&mut [u8]> {
        if !self.contains(at, length) {
            return None;
        }
        // SAFETY: in the mapping by the check above; `&mut self` keeps our own references away, and
        // the caller has seen the status word that makes the frame ours.
        Some(unsafe { slice::from_raw_parts_mut(self.map.as_mut_ptr().add(at), length) })
    }

    /// Copies `length` bytes from one place to another; they may overlap. Nothing happens outside of
    /// the mapping.
    pub(super) fn copy_within(&mut self, from: usize, to: usize, length: usize) {
        if self.contains(from, length) && self.contains(to, length) {
            let base = self.map.as_mut_ptr();
            // SAFETY: both ranges are in the mapping by the check above, `copy` allows them to
            // overlap, and `&mut self` keeps our own references away.
            unsafe { core::ptr::copy(base.add(from), base.add(to), length) };
        }
    }
}
