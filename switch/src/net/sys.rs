//! The system calls of this module that have no safe wrapper.
#![expect(
    unsafe_code,
    reason = "setsockopt with options rustix lacks, SIOCETHTOOL, unshare, pre_exec"
)]

use bytemuck::NoUninit;
use rustix::io::Errno;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Bytes of an interface name with its zero byte.
pub(crate) const NAME_LEN: usize = libc::IFNAMSIZ;

/// Sets a socket option to a plain value.
pub(crate) fn set_option<T: NoUninit>(
    fd: impl AsFd,
    level: c_int,
    option: c_int,
    value: &T,
) -> io::Result<()> {
    let bytes = bytemuck::bytes_of(value);
    let len = libc::socklen_t::try_from(bytes.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel reads `len` bytes at the pointer, which is what `bytes` has, all
    // initialised (`NoUninit`); the descriptor is open while `fd` is borrowed.
    let result = unsafe {
        libc::setsockopt(fd.as_fd().as_raw_fd(), level, option, bytes.as_ptr().cast(), len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `struct ethtool_value` (linux/ethtool.h).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Runs one `ETHTOOL_G*` or `ETHTOOL_S*` command that takes an `ethtool_value` on the interface
/// named by `name` (zero-terminated), and returns its data.
pub(super) fn ethtool_value(
    fd: impl AsFd,
    name: [u8; NAME_LEN],
    command: u32,
    data: u32,
) -> io::Result<u32> {
    let mut value = EthtoolValue { command, data };
    let mut request = libc::ifreq {
        ifr_name: name.map(u8::cast_signed),
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() },
    };
    // SAFETY: SIOCETHTOOL takes an `ifreq` whose data pointer leads, for the commands this module
    // passes, to an `ethtool_value`; both live on this stack until the call returns.
    let result =
        unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result == 0 { Ok(value.data) } else { Err(io::Error::last_os_error()) }
}

/// Moves the calling thread into new namespaces; `NEWUSER` needs a process with one thread.
pub(super) fn unshare(flags: rustix::thread::UnshareFlags) -> Result<(), Errno> {
    let allowed = rustix::thread::UnshareFlags::NEWUSER | rustix::thread::UnshareFlags::NEWNET;
    if !allowed.contains(flags) {
        return Err(Errno::INVAL);
    }
    // SAFETY: the danger is CLONE_FILES, after which descriptors mean different files in different
    // threads; the check above lets only namespace flags through.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Runs `work` in the child of `command` between fork and exec.
pub(super) fn before_exec(
    command: &mut Command,
    work: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: between fork and exec only async-signal-safe things may be done, since another thread
    // may have held a lock at the fork. The callers, all in `namespace.rs`, make system calls with
    // values that they own, and neither allocate nor lock.
    unsafe { command.pre_exec(work) };
}
