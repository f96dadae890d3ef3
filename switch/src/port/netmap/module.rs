//! The real thing: `/dev/netmap` of the kernel module.

#![expect(unsafe_code, reason = "ioctl with structures that hold addresses")]

use super::abi::{self, API, Header, NAME_SIZE, OptionHeader, PoolsInfo, PortInfo, Register};
use super::kernel::{Control, Device, Direction, Kernel};
use crate::net;
use core::ffi::c_void;
use core::mem::size_of;
use core::ptr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

/// Where the module's device is.
pub const PATH: &str = "/dev/netmap";

/// The kernel module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Module;

impl Kernel for Module {
    fn open(&self) -> io::Result<Box<dyn Device>> {
        let file = OpenOptions::new().read(true).write(true).open(PATH)?;
        Ok(Box::new(OpenModule { file }))
    }

    fn sends_from_several_slots(&self, name: &str) -> Result<(), &'static str> {
        let driver = net::driver(name).map_err(|_| "nobody says which driver it has")?;
        if !GATHERING.contains(&driver.as_str()) {
            return Err("its driver does not send a frame from several slots");
        }
        // With the same name, but without netmap: the generic adapter sends each slot as a frame.
        if is_served_by_driver(&driver) {
            Ok(())
        } else {
            Err(
                "its driver is not netmap's own, and the generic adapter sends each slot as a frame",
            )
        }
    }
}

/// Drivers of netmap 89607e1406c1 that take `NS_MOREFRAG` when they transmit, and offsets in slots.
const GATHERING: [&str; 7] = ["e1000", "e1000e", "igb", "ixgbe", "ixgbevf", "i40e", "ice"];

/// Whether a driver (a kernel module of that name) was built with netmap, and netmap was not told to leave
/// it alone.
fn is_served_by_driver(driver: &str) -> bool {
    let serves_drivers = || {
        let mode = std::fs::read_to_string("/sys/module/netmap/parameters/admode");
        // 2: never by the driver.
        mode.is_ok_and(|mode| mode.trim() != "2")
    };
    Path::new("/sys/module/netmap/holders").join(driver).exists() && serves_drivers()
}

/// Whether an interface of this kind (`Link::kind`) is a veth whose driver netmap serves itself. Such a
/// one is a pipe between the two ends: its rings lie in one region with those of its peer, so memory of
/// the daemon's own must not be asked for. The module takes it and frees its buffers twice at the end
/// (seen with netmap 89607e1406c1).
#[must_use]
pub fn is_native_veth(kind: Option<&str>) -> bool {
    kind == Some("veth") && is_served_by_driver("veth")
}

#[derive(Debug)]
struct OpenModule {
    file: File,
}

impl OpenModule {
    fn ioctl(&self, request: u64, argument: *mut c_void) -> io::Result<()> {
        // SAFETY: TX_SYNC and RX_SYNC take no argument. CTRL reads and writes a `Header` and the body
        // and options that it points to: `control`, the only caller with an argument, passes
        // structures of exactly the kinds that the request has, which live through the call, and each
        // of which is plain words that may hold any value.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), request, argument) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Device for OpenModule {
    fn control(&self, name: &str, request: Control<'_>) -> io::Result<()> {
        let mut header = Header {
            version: API,
            request: 0,
            reserved: 0,
            name: [0; NAME_SIZE],
            options: 0,
            body: 0,
        };
        // The last byte stays zero.
        let Some(place) = header.name.get_mut(..name.len()).filter(|n| n.len() < NAME_SIZE) else {
            return Err(io::ErrorKind::InvalidFilename.into());
        };
        place.copy_from_slice(name.as_bytes());
        let address = |body: *mut c_void| body.expose_provenance() as u64;
        match request {
            Control::Register { body, extmem, offsets } => {
                header.request = abi::request::REGISTER;
                header.body = address(ptr::from_mut::<Register>(body).cast());
                if let Some(extmem) = extmem {
                    extmem.option =
                        OptionHeader { kind: abi::option::EXTMEM, ..OptionHeader::default() };
                    header.options = address(ptr::from_mut(extmem).cast());
                } else if let Some(offsets) = offsets {
                    offsets.option =
                        OptionHeader { kind: abi::option::OFFSETS, ..OptionHeader::default() };
                    header.options = address(ptr::from_mut(offsets).cast());
                }
            }
            Control::PortInfo(body) => {
                header.request = abi::request::PORT_INFO_GET;
                header.body = address(ptr::from_mut::<PortInfo>(body).cast());
            }
            Control::PoolsInfo(body) => {
                header.request = abi::request::POOLS_INFO_GET;
                header.body = address(ptr::from_mut::<PoolsInfo>(body).cast());
            }
        }
        const { assert!(size_of::<Header>() == 88, "the number of CTRL names this size") };
        self.ioctl(abi::ioctl::CTRL, ptr::from_mut(&mut header).cast())
    }

    fn sync(&self, direction: Direction) -> io::Result<()> {
        let request = match direction {
            Direction::Transmit => abi::ioctl::TX_SYNC,
            Direction::Receive => abi::ioctl::RX_SYNC,
        };
        self.ioctl(request, ptr::null_mut())
    }

    fn memory(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
