//! Socket options that rustix does not have.

#![expect(unsafe_code, reason = "getsockopt and setsockopt with options that rustix lacks")]

use rustix::io::Errno;
use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `SO_PEERGROUPS` (asm-generic/socket.h), Linux 4.13.
const SO_PEERGROUPS: c_int = 59;
/// `SO_PEERPIDFD` (asm-generic/socket.h), Linux 6.5.
const SO_PEERPIDFD: c_int = 77;
/// `SO_PASSRIGHTS` (asm-generic/socket.h), Linux 6.16.
const SO_PASSRIGHTS: c_int = 83;

/// A copy of the descriptor of this number that whoever started the process has left open for it; both are
/// closed on exec.
///
/// # Errors
/// `EBADF` if there is none.
pub(super) fn inherited(number: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: the number is borrowed for two system calls only, which fail with `EBADF` if it is not open; the
    // caller names it because it was passed by the service manager, and nothing in this process closes it.
    let there = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(there, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::fcntl_dupfd_cloexec(there, 3)
}

/// Reads an option into `words`; returns how many bytes the kernel wrote, or wants.
fn get_option(socket: impl AsFd, option: c_int, words: &mut [c_int]) -> Result<usize, Errno> {
    let bytes = size_of_val(words);
    let mut length = libc::socklen_t::try_from(bytes).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel writes at most `length` bytes at the pointer, which is what `words` has;
    // any bits are a valid `c_int`. The descriptor is open while `socket` is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            words.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(length as usize) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Process, user and group at the other end, as they were when it connected (`SO_PEERCRED`). The
/// process is 0 if it cannot be seen from here.
///
/// # Errors
/// As `getsockopt(2)`.
pub(super) fn peer_credentials(socket: impl AsFd) -> Result<(i32, u32, u32), Errno> {
    // `struct ucred` of linux/socket.h: three ints.
    let mut credentials = [0; 3];
    let length = get_option(socket, libc::SO_PEERCRED, &mut credentials)?;
    let [pid, uid, gid] = credentials;
    if length != size_of_val(&credentials) {
        return Err(Errno::INVAL);
    }
    Ok((pid, uid.cast_unsigned(), gid.cast_unsigned()))
}

/// A descriptor of the process at the other end: readable once it has ended. Names that very
/// process, also if its number is used again.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 6.5; `ESRCH`, `EINVAL` or `ENODATA` if the process cannot be named.
pub(super) fn peer_pidfd(socket: impl AsFd) -> Result<OwnedFd, Errno> {
    let mut fd = [-1];
    get_option(socket, SO_PEERPIDFD, &mut fd)?;
    if fd[0] < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: the kernel has just made this descriptor for this call, close-on-exec; nobody else
    // knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd[0]) })
}

/// Further groups of the process at the other end, as they were when it connected. At most 256 are
/// looked at; none if there are more, or the kernel does not tell.
pub(super) fn peer_groups(socket: impl AsFd) -> Vec<u32> {
    let mut groups = [0; 256];
    let bytes = get_option(socket, SO_PEERGROUPS, &mut groups).unwrap_or(0);
    let groups = groups.get(..bytes / size_of::<c_int>()).unwrap_or_default();
    groups.iter().map(|group| group.cast_unsigned()).collect()
}

/// Has the kernel refuse descriptors that are sent to this socket, or to one that it accepts. Set
/// before `listen`: then no connection is ever without it.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 6.16.
pub(super) fn refuse_descriptors(socket: impl AsFd) -> Result<(), Errno> {
    let off: c_int = 0;
    let length = libc::socklen_t::try_from(size_of::<c_int>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel reads `length` bytes at the pointer, the size of the `c_int` behind it. The
    // descriptor is open while `socket` is borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const off).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}
