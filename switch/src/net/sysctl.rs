//! Settings of an interface below `/proc/sys/net`, changed with the way back in hand.
//!
//! The files show the network namespace of the thread that opens them. A setting is written only
//! if it differs, and [`Changed::restore`] (or dropping it) writes the old value.

use super::error::NetError;
use super::link::name_bytes;
use std::fs;
use std::path::PathBuf;

/// A setting that an interface has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// `ipv4 rp_filter`: 0 accept any source, 1 the way back must be the same interface, 2 any
    /// interface will do. The kernel takes the larger of this and the one of `all`.
    Ipv4ReversePath,
    /// `ipv4 accept_local`: 1 accepts frames whose source is an address of this host.
    Ipv4AcceptLocal,
    /// `ipv4 arp_ignore`: 8 answers no ARP request at all.
    Ipv4ArpIgnore,
    /// `ipv6 disable_ipv6`: 1 takes IPv6 from the interface, and its addresses.
    Ipv6Disable,
    /// `ipv6 addr_gen_mode`: 1 gives the interface no link-local address by itself.
    Ipv6AddressGeneration,
    /// `ipv6 accept_ra`: 0 ignores router advertisements.
    Ipv6AcceptRouterAdvertisement,
    /// `ipv6 dad_transmits`: 0 leaves duplicate address detection out.
    Ipv6DuplicateDetection,
}

impl Setting {
    const fn family_and_file(self) -> (&'static str, &'static str) {
        match self {
            Self::Ipv4ReversePath => ("ipv4", "rp_filter"),
            Self::Ipv4AcceptLocal => ("ipv4", "accept_local"),
            Self::Ipv4ArpIgnore => ("ipv4", "arp_ignore"),
            Self::Ipv6Disable => ("ipv6", "disable_ipv6"),
            Self::Ipv6AddressGeneration => ("ipv6", "addr_gen_mode"),
            Self::Ipv6AcceptRouterAdvertisement => ("ipv6", "accept_ra"),
            Self::Ipv6DuplicateDetection => ("ipv6", "dad_transmits"),
        }
    }

    fn path(self, interface: &str) -> Result<PathBuf, NetError> {
        name_bytes(interface)?;
        let (family, file) = self.family_and_file();
        Ok(["/proc/sys/net", family, "conf", interface, file].iter().collect())
    }

    /// Its value for an interface (or `all`, or `default`).
    ///
    /// # Errors
    /// There is no such interface, or its family (IPv6) is not in the kernel.
    pub fn read(self, interface: &str) -> Result<i32, NetError> {
        let path = self.path(interface)?;
        let read = fs::read_to_string(&path).and_then(|text| {
            text.trim().parse().map_err(|_| std::io::ErrorKind::InvalidData.into())
        });
        read.map_err(|source| NetError::Setting { operation: "read", path, source })
    }

    /// Writes its value.
    ///
    /// # Errors
    /// There is no such interface, the value is refused, or the privilege is missing.
    pub fn write(self, interface: &str, value: i32) -> Result<(), NetError> {
        let path = self.path(interface)?;
        fs::write(&path, value.to_string()).map_err(|source| NetError::Setting {
            operation: "write",
            path,
            source,
        })
    }

    /// Writes its value if it has another, and keeps the old one.
    ///
    /// # Errors
    /// As [`Setting::read`] and [`Setting::write`].
    pub fn change(self, interface: &str, value: i32) -> Result<Changed, NetError> {
        let before = self.read(interface)?;
        if before == value {
            return Ok(Changed { setting: self, interface: interface.into(), before: None });
        }
        self.write(interface, value)?;
        Ok(Changed { setting: self, interface: interface.into(), before: Some(before) })
    }
}

/// A setting that was changed and goes back to what it was when this is dropped, in a thread of the
/// same network namespace.
#[derive(Debug)]
#[must_use = "dropping it restores the setting"]
pub struct Changed {
    setting: Setting,
    interface: String,
    before: Option<i32>,
}

impl Changed {
    /// The value that was there, if it was another one.
    #[must_use]
    pub fn before(&self) -> Option<i32> {
        self.before
    }

    /// Leaves the new value in place.
    pub fn keep(mut self) {
        self.before = None;
    }

    /// Writes the old value back now.
    ///
    /// # Errors
    /// As [`Setting::write`]; an interface that is gone has nothing to restore.
    pub fn restore(mut self) -> Result<(), NetError> {
        self.write_back()
    }

    fn write_back(&mut self) -> Result<(), NetError> {
        match self.before.take() {
            None => Ok(()),
            Some(before) => match self.setting.write(&self.interface, before) {
                Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
                other => other,
            },
        }
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        if let Err(error) = self.write_back() {
            tracing::warn!(%error, interface = self.interface, "a setting was not restored");
        }
    }
}
