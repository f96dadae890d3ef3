//! The character device behind a macvtap, found and opened without help of udev.
//!
//! ```text
//!   /sys/dev/char/246:1 -> .../net/NAME/macvtap/tap2      which device
//!   a file system of our own, mounted nowhere: tap        a node for it, for as long as the opening takes
//! ```
//!
//! - Devices of links in other network namespaces are listed as well, perhaps of the same name. What was opened is
//!   asked for its name and link address, and only if exactly one answers right it is used.
//! - Making a node is root's in the machine's own user namespace. Where that is forbidden (a container), the
//!   file in `/dev` serves, if there is one.

use super::{Header, sys};
use crate::classify::Mac;
use crate::net::macvtap::{CharacterDevice, devices_of};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, makedev, mknodat, openat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use std::io;
use std::os::fd::OwnedFd;

const NODE: &str = "tap";

/// Opens one more queue of the macvtap with this name and link address.
pub(super) fn open(name: &str, mac: Mac, header: Header) -> io::Result<OwnedFd> {
    let devices = devices_of(name)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read /sys: {error}")))?;
    let mut found = None;
    let mut failed = None;
    for device in &devices {
        let opened = match open_device(device) {
            Ok(opened) => opened,
            Err(error) => {
                failed = Some(error);
                continue;
            }
        };
        let is_ours = sys::attach(&opened, header)? == (name.to_owned(), mac);
        if is_ours && found.replace(opened).is_some() {
            let text = format!("two macvtap links are named {name} and have its link address");
            return Err(io::Error::other(text));
        }
    }
    match (found, failed) {
        (Some(opened), _) => Ok(opened),
        (None, Some(error)) => Err(error),
        (None, None) => {
            let text =
                format!("/sys/dev/char has no device of a macvtap {name}; is sysfs mounted?");
            Err(io::Error::new(io::ErrorKind::NotFound, text))
        }
    }
}

fn open_device(device: &CharacterDevice) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let CharacterDevice { major, minor, file } = device;
    let refused = match open_own_node(*major, *minor, flags) {
        Ok(opened) => return Ok(opened),
        Err(errno) => errno,
    };
    let path = format!("/dev/{file}");
    let opened = rustix::fs::open(&path, flags, Mode::empty());
    let is_it = |fd: &OwnedFd| {
        rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_rdev == makedev(*major, *minor))
    };
    opened.ok().filter(is_it).ok_or_else(|| {
        let text = format!(
            "cannot make a node for character device {major}:{minor} ({refused}), and {path} is not it; run as \
             root of the machine with CAP_MKNOD and CAP_SYS_ADMIN"
        );
        io::Error::new(io::Error::from(refused).kind(), text)
    })
}

/// By a node in a file system that nobody else sees, and that goes with its descriptor.
fn open_own_node(major: u32, minor: u32, flags: OFlags) -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let place = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    mknodat(
        &place,
        NODE,
        FileType::CharacterDevice,
        Mode::RUSR | Mode::WUSR,
        makedev(major, minor),
    )?;
    let opened = openat(&place, NODE, flags, Mode::empty());
    let _ = unlinkat(&place, NODE, AtFlags::empty());
    opened
}
