//! Macvtap links that end with their maker, and the numbers of the devices behind such links.
//!
//! ```text
//!   namespace of eth0                  private namespace, held by a descriptor
//!     eth0 <-- macvtap's lower link --- um7c1f... <-- character device 246:1
//! ```
//!
//! - The kernel takes a macvtap away with the namespace that it lies in, and that namespace goes with the last
//!   descriptor. So a process that is killed leaves none behind, and below `eth0` nothing was changed. The kernel does that in
//!   its own time, 20 to 40 ms; so a process that outlasts this one has the link removed at once.
//! - `/sys/dev/char` shows devices of all namespaces; a link of ours has a name that nobody else's has.

use super::error::NetError;
use super::link::{Link, MacvtapMode, Netlink};
use super::namespace::Namespace;
use super::outlast::Outlasting;
use super::sysctl::{Changed, Setting};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsFd;

/// Where the kernel lists character devices by their numbers.
const DEVICES: &str = "/sys/dev/char";

/// A macvtap that goes when this is dropped, or with this process.
#[derive(Debug)]
pub struct MacvtapLink {
    namespace: Namespace,
    name: String,
    /// Removes it if this process is killed.
    outlasting: Option<Outlasting>,
}

impl MacvtapLink {
    /// Makes one over `lower`, which `netlink` has in its namespace. It says nothing by itself, hears all groups, and takes
    /// frames from now on: in passthru mode nobody else gets them, so its device is to be opened soon.
    ///
    /// # Errors
    /// The kernel has no macvtap, something else is on top of `lower`, another macvtap has its link address, or the
    /// privilege is missing.
    pub fn make(netlink: &mut Netlink, lower: &Link, mode: MacvtapMode) -> Result<Self, NetError> {
        let namespace = Namespace::create()?;
        // No address, no word of its own. Without IPv6 in the kernel there is nothing to keep quiet.
        let quiet = || Setting::Ipv6Disable.change("default", 1).map(Changed::keep);
        let _ = namespace.run(quiet)?;
        // Keys of the standard library's hasher are random.
        let name = format!("um{:012x}", RandomState::new().hash_one(0) >> 16);
        netlink.add_macvtap(&name, lower, mode, namespace.as_fd())?;
        let made = Self { namespace, name, outlasting: None };
        made.inside(|netlink, name| netlink.set_all_groups(name))?;
        Ok(made)
    }

    /// From now on it is removed at once if this process is killed.
    pub fn outlast(&mut self) {
        let deletion = self.namespace.run(|| Netlink::open()?.into_deletion(&self.name));
        let started = deletion
            .and_then(|deletion| deletion)
            .map(|(socket, word)| Outlasting::say(c"usnetd-macvtap", socket, &word));
        match started {
            Ok(Ok(outlasting)) => self.outlasting = Some(outlasting),
            Ok(Err(error)) => {
                tracing::warn!(%error, "after a kill a macvtap goes with its namespace only")
            }
            Err(error) => {
                tracing::warn!(%error, "after a kill a macvtap goes with its namespace only")
            }
        }
    }

    /// Its name in its namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is.
    ///
    /// # Errors
    /// It is gone, with the interface below it.
    pub fn link(&self) -> Result<Link, NetError> {
        self.inside(|netlink, name| netlink.link(name))
    }

    fn inside<T: Send>(
        &self,
        work: impl FnOnce(&mut Netlink, &str) -> Result<T, NetError> + Send,
    ) -> Result<T, NetError> {
        self.namespace.run(|| work(&mut Netlink::open()?, &self.name))?
    }
}

impl Drop for MacvtapLink {
    fn drop(&mut self) {
        // At once; the kernel takes a namespace apart in its own time.
        match self.inside(|netlink, name| netlink.delete_link(name)) {
            Ok(()) | Err(NetError::NoInterface { .. }) => {}
            Err(error) => tracing::warn!(%error, "a macvtap goes with its namespace only"),
        }
    }
}

/// A character device's numbers, and its file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CharacterDevice {
    /// Which driver.
    pub major: u32,
    /// Which device of it.
    pub minor: u32,
    /// What its file in `/dev` is called, if there is one.
    pub file: String,
}

/// Devices of macvtap links of this name, in whatever namespace they lie.
///
/// # Errors
/// `/sys` cannot be read.
pub fn devices_of(name: &str) -> io::Result<Vec<CharacterDevice>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(DEVICES)? {
        let entry = entry?;
        // A device may go meanwhile.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let numbers = entry.file_name();
        if let (Some(target), Some(numbers)) = (target.to_str(), numbers.to_str()) {
            found.extend(parse_device(numbers, target, name));
        }
    }
    Ok(found)
}

/// From `246:1` and `../../devices/virtual/net/NAME/macvtap/tap2`.
fn parse_device(numbers: &str, target: &str, name: &str) -> Option<CharacterDevice> {
    let (rest, file) = target.rsplit_once('/')?;
    let rest = rest.strip_suffix("/macvtap")?.strip_suffix(name)?;
    let (major, minor) = numbers.split_once(':')?;
    rest.ends_with("/net/").then_some(CharacterDevice {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        file: file.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_the_whole_name_of_its_link() {
        let target = "../../devices/virtual/net/mv0/macvtap/tap12";
        let device = CharacterDevice { major: 246, minor: 3, file: "tap12".into() };
        assert_eq!(parse_device("246:3", target, "mv0"), Some(device));
        for name in ["v0", "mv", "mv00", "", "net/mv0"] {
            assert_eq!(parse_device("246:3", target, name), None, "{name:?}");
        }
        assert_eq!(parse_device("1:3", "../../devices/virtual/mem/null", "mem"), None);
    }
}
