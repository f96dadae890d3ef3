//! Whose a socket's file is: of the daemon's user, and of the group of those who may connect.

use rustix::fs::Gid;
use rustix::io::Errno;
use std::path::Path;

/// Gives a file of the daemon's own to a group. One that is the group's already, as of a daemon that runs under that
/// group, is left alone: a service may be kept from calling chown at all.
pub(crate) fn give_to_group(path: &Path, group: u32) -> Result<(), Errno> {
    if rustix::fs::lstat(path)?.st_gid != group {
        rustix::fs::chown(path, None, Some(Gid::from_raw(group)))?;
    }
    Ok(())
}
