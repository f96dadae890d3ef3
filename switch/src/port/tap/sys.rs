//! The ioctls of TAP and macvtap devices (linux/if_tun.h, netdevice(7)).

#![expect(unsafe_code, reason = "ioctls without a safe wrapper")]

use super::Header;
use crate::classify::Mac;
use core::mem::zeroed;
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
    header: Header,
    several_queues: bool,
) -> io::Result<(OwnedFd, String)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
    let device = options.open("/dev/net/tun")?;
    let several = if several_queues { libc::IFF_MULTI_QUEUE } else { 0 };
    let name = set_flags(&device, name, header, several)?;
    Ok((device.into(), name))
}

/// Prepares a queue of a macvtap, whose device was opened. Returns the link's name and link address.
pub(super) fn attach(device: &OwnedFd, header: Header) -> io::Result<(String, Mac)> {
    // The kernel does not look at the name.
    set_flags(device, "tap", header, 0)?;
    let name = link_of(device)?;
    let mut by_mac = request(&name)?;
    ioctl(device, libc::SIOCGIFHWADDR, &mut by_mac)?;
    // SAFETY: the kernel has answered with a link address, and any bytes are one.
    let address = unsafe { by_mac.ifr_ifru.ifru_hwaddr };
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(address.sa_data) {
        *to = from.cast_unsigned();
    }
    Ok((name, Mac(mac)))
}

/// The name of the link that a queue belongs to; an error if that is gone.
pub(super) fn link_of(device: &OwnedFd) -> io::Result<String> {
    let mut request = request("tap")?;
    ioctl(device, libc::TUNGETIFF, &mut request)?;
    Ok(name_in(&request))
}

fn set_flags(
    device: &impl AsRawFd,
    name: &str,
    header: Header,
    more: libc::c_int,
) -> io::Result<String> {
    let mut request = request(name)?;
    let with_header = if header == Header::None { 0 } else { libc::IFF_VNET_HDR };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | with_header | more;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap_or(0);
    ioctl(device, libc::TUNSETIFF, &mut request)?;
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    match header {
        Header::None => {}
        Header::Checksums => set_features(device, libc::TUN_F_CSUM)?,
        // Before Linux 6.2 there is no joining of datagrams.
        Header::Segments => set_features(device, tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6)
            .or_else(|_| set_features(device, tcp))?,
    }
    if header != Header::None {
        let length = libc::c_int::try_from(super::vnet::LENGTH).unwrap_or(0);
        // SAFETY: this ioctl reads one `int`, which `length` is.
        let result = unsafe {
            libc::ioctl(device.as_raw_fd(), libc::TUNSETVNETHDRSZ, core::ptr::from_ref(&length))
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(name_in(&request))
}

/// Says what we do in the kernel's stead.
fn set_features(device: &impl AsRawFd, features: libc::c_uint) -> io::Result<()> {
    // SAFETY: this ioctl takes a number, not a pointer.
    let result = unsafe {
        libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(features))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The name that the kernel has written.
fn name_in(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.iter().map(|byte| byte.cast_unsigned());
    let bytes: Vec<u8> = bytes.take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
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
