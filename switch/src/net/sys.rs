//! The system calls of this module that have no safe wrapper.
#![expect(
    unsafe_code,
    reason = "setsockopt with options rustix lacks or that hold addresses, SIOCETHTOOL, unshare, pre_exec"
)]

use bytemuck::NoUninit;
use core::mem::size_of;
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

/// Gives a socket a filter that lets nothing in (`SO_ATTACH_FILTER`): its one instruction is "return 0".
pub(super) fn let_nothing_in(fd: impl AsFd) -> io::Result<()> {
    let mut nothing = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: nothing.as_mut_ptr() };
    let len = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel reads one `sock_fprog`, and `len` (one) instructions where it leads to. Both live
    // until the call returns, in which the kernel copies them. The descriptor is open while `fd` is borrowed.
    let result = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Structures of linux/ethtool.h, which begin with the command that they are for.
pub(super) trait EthtoolRequest: NoUninit {}

/// `struct ethtool_value`.
#[repr(C)]
#[derive(Clone, Copy, Debug, NoUninit)]
pub(super) struct EthtoolValue {
    pub(super) command: u32,
    pub(super) data: u32,
}

impl EthtoolRequest for EthtoolValue {}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, NoUninit)]
pub(super) struct EthtoolChannels {
    pub(super) command: u32,
    pub(super) most: [u32; 4],
    pub(super) rx: u32,
    pub(super) tx: u32,
    pub(super) other: u32,
    pub(super) combined: u32,
}

impl EthtoolRequest for EthtoolChannels {}

/// `struct ethtool_drvinfo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, NoUninit)]
pub(super) struct EthtoolDriver {
    pub(super) command: u32,
    pub(super) driver: [u8; 32],
    /// Versions and the like, each text of 32 bytes.
    pub(super) texts: [[u8; 32]; 4],
    pub(super) reserved: [u8; 12],
    pub(super) counts: [u32; 5],
}

impl EthtoolRequest for EthtoolDriver {}

const _: () = assert!(size_of::<EthtoolDriver>() == 196);

/// Entries of the largest table that fits a request; a card has up to 2,048 today.
const MOST_ENTRIES: u16 = 4096;

/// `struct ethtool_rxfh_indir` with room for so many entries. Not seen outside of this file, since the kernel goes by
/// `entries`, which it changes.
#[repr(C)]
#[derive(Clone, Copy, Debug, NoUninit)]
struct EthtoolIndirection {
    command: u32,
    entries: u32,
    queues: [u32; MOST_ENTRIES as usize],
}

impl EthtoolRequest for EthtoolIndirection {}

/// Runs `ETHTOOL_GRXFHINDIR`: the queue of each entry of an interface's indirection table.
pub(super) fn indirection(fd: impl AsFd, name: [u8; NAME_LEN]) -> io::Result<Vec<u32>> {
    const GET: u32 = 0x38;
    let mut request = EthtoolIndirection {
        command: GET,
        entries: MOST_ENTRIES.into(),
        queues: [0; MOST_ENTRIES as usize],
    };
    ethtool(fd, name, &mut request)?;
    let entries = usize::try_from(request.entries).map_err(|_| Errno::OVERFLOW)?;
    Ok(request.queues.get(..entries).ok_or(Errno::OVERFLOW)?.to_vec())
}

/// Runs `ETHTOOL_SRXFHINDIR`; without entries the driver chooses.
pub(super) fn set_indirection(
    fd: impl AsFd,
    name: [u8; NAME_LEN],
    entries: &[u32],
) -> io::Result<()> {
    const SET: u32 = 0x39;
    let mut queues = [0; MOST_ENTRIES as usize];
    queues.get_mut(..entries.len()).ok_or(Errno::OVERFLOW)?.copy_from_slice(entries);
    let entries = u32::try_from(entries.len()).map_err(|_| Errno::OVERFLOW)?;
    ethtool(fd, name, &mut EthtoolIndirection { command: SET, entries, queues })
}

/// Runs one command that takes `request` on the interface named by `name` (zero-terminated).
pub(super) fn ethtool<T: EthtoolRequest>(
    fd: impl AsFd,
    name: [u8; NAME_LEN],
    request: &mut T,
) -> io::Result<()> {
    let mut outer = libc::ifreq {
        ifr_name: name.map(u8::cast_signed),
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: core::ptr::from_mut(request).cast() },
    };
    // SAFETY: SIOCETHTOOL takes an `ifreq` whose data pointer leads to the structure of the command
    // that it begins with: each type that is an `EthtoolRequest` is given by `offload.rs`, `channels.rs`
    // and `driver.rs` the commands that are for it alone. Of the one whose length is in it, the kernel reads and
    // writes no more than `entries` say, which the two functions above keep within the array. Both live until the call
    // returns, and any numbers that the kernel writes are valid.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::SIOCETHTOOL, &raw mut outer) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs one `ETHTOOL_G*` or `ETHTOOL_S*` command that takes an `ethtool_value`, and returns its data.
pub(super) fn ethtool_value(
    fd: impl AsFd,
    name: [u8; NAME_LEN],
    command: u32,
    data: u32,
) -> io::Result<u32> {
    let mut value = EthtoolValue { command, data };
    ethtool(fd, name, &mut value)?;
    Ok(value.data)
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
