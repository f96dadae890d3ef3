//! The ioctls of a TAP device (linux/if_tun.h, netdevice(7)).

#![expect(unsafe_code, reason = "ioctls without a safe wrapper")]

use crate::classify::Mac;
use core::mem::zeroed;
use std::ffi::CStr;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// A request with `name` in it; names have at most 15 bytes.
fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is plain data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() >= request.ifr_name.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a name of 1 to 15 bytes is needed",
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    Ok(request)
}

fn ioctl(fd: &impl AsRawFd, what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: every ioctl used here reads or writes one `ifreq`, which `request` is.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), what, core::ptr::from_mut(request)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Opens `/dev/net/tun` as a TAP device, or as one more queue of it, non-blocking; the device is gone
/// when all are closed. Returns its full name.
pub(super) fn open(
    name: &str,
    vnet_header: bool,
    several_queues: bool,
) -> io::Result<(OwnedFd, String)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
    let device = options.open("/dev/net/tun")?;
    let mut request = request(name)?;
    let flags = libc::IFF_TAP
        | libc::IFF_NO_PI
        | if vnet_header { libc::IFF_VNET_HDR } else { 0 }
        | if several_queues { libc::IFF_MULTI_QUEUE } else { 0 };
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap_or(0);
    ioctl(&device, libc::TUNSETIFF, &mut request)?;
    if vnet_header {
        let features = libc::c_ulong::from(libc::TUN_F_CSUM);
        // SAFETY: this ioctl takes a number, not a pointer.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD, features) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: the kernel has written a name that ends in a zero within the array.
    let name = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) }.to_string_lossy().into_owned();
    Ok((device.into(), name))
}

/// Sets the link address and the MTU of a device that is down.
pub(super) fn configure(name: &str, mac: Mac, mtu: u16) -> io::Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    let mut by_mac = request(name)?;
    // SAFETY: `sockaddr` is plain data, for which all zeros is a value.
    let mut address: libc::sockaddr = unsafe { zeroed() };
    address.sa_family = libc::ARPHRD_ETHER;
    for (to, from) in address.sa_data.iter_mut().zip(mac.0) {
        *to = from.cast_signed();
    }
    by_mac.ifr_ifru.ifru_hwaddr = address;
    ioctl(&socket, libc::SIOCSIFHWADDR, &mut by_mac)?;
    let mut by_mtu = request(name)?;
    by_mtu.ifr_ifru.ifru_mtu = i32::from(mtu);
    ioctl(&socket, libc::SIOCSIFMTU, &mut by_mtu)
}
