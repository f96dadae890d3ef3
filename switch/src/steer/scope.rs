//! Whom a rule is for beside its address, protocol and ports: the remote end, how strong it is, whether it is shared.

use crate::classify::Address;
use core::fmt;
use core::net::IpAddr;

/// Addresses that begin with the same bits. IPv4 lies in `::ffff:0:0/96`, as in [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Prefix {
    address: Address,
    bits: u8,
}

/// A number whose first `bits` bits are set.
const fn mask(bits: u8) -> u128 {
    match 128 - bits as u32 {
        128.. => 0,
        rest => u128::MAX << rest,
    }
}

impl Prefix {
    /// Every address of both families.
    pub const ANY: Self = Self { address: Address([0; 16]), bits: 0 };

    /// The first `bits` bits of an address, as counted in its own family. `None` if it has no so many.
    #[must_use]
    pub fn new(ip: IpAddr, bits: u8) -> Option<Self> {
        let bits = match ip {
            IpAddr::V4(_) => 96 + Some(bits).filter(|bits| *bits <= 32)?,
            IpAddr::V6(_) => Some(bits).filter(|bits| *bits <= 128)?,
        };
        Some(Self { address: masked(ip.into(), bits), bits })
    }

    /// Of an address that is masked.
    pub(super) const fn from_parts(address: Address, bits: u8) -> Self {
        Self { address, bits }
    }

    /// This address alone.
    #[must_use]
    pub fn host(ip: IpAddr) -> Self {
        Self { address: ip.into(), bits: 128 }
    }

    /// The lowest address.
    #[must_use]
    pub const fn address(self) -> Address {
        self.address
    }

    /// Bits that are the same, of the 128 of an [`Address`].
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// The lowest address and the bits in its own family; `None` of every address.
    #[must_use]
    pub fn to_network(self) -> Option<(IpAddr, u8)> {
        let ip = self.address.to_ip();
        match (self, ip) {
            (Self::ANY, _) => None,
            (_, IpAddr::V4(_)) if self.bits >= 96 => Some((ip, self.bits - 96)),
            _ => Some((core::net::Ipv6Addr::from(self.address.0).into(), self.bits)),
        }
    }

    /// Whether an address begins with these bits.
    #[must_use]
    pub fn contains(self, address: Address) -> bool {
        masked(address, self.bits) == self.address
    }

    /// Whether every address of `other` is one of these.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.bits <= other.bits && self.contains(other.address)
    }
}

/// The first `bits` bits of an address, the others zero.
#[inline]
pub(super) fn masked(address: Address, bits: u8) -> Address {
    Address((u128::from_be_bytes(address.0) & mask(bits)).to_be_bytes())
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_network() {
            None => f.write_str("anywhere"),
            Some((ip, _)) if self.bits == 128 => write!(f, "{ip}"),
            Some((ip, bits)) => write!(f, "{ip}/{bits}"),
        }
    }
}

/// Beside address, protocol and ports. The default is that of a plain claim: from anywhere, for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Scope {
    /// Where frames come from.
    pub remote: Prefix,
    /// From which port; 0 is any.
    pub remote_port: u16,
    /// Of two rules that fit, the one with more is asked first; among equals, the one that says more of the
    /// remote end.
    pub priority: u8,
    /// Whether others may hold the same, each with a part of the flows.
    pub spread: bool,
}

impl Scope {
    /// Whether this is what a plain claim is for.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a remote end can be meant by both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let ports = self.remote_port == other.remote_port
            || self.remote_port == 0
            || other.remote_port == 0;
        ports && (self.remote.covers(other.remote) || other.remote.covers(self.remote))
    }

    /// Whether every remote end that `other` means is meant here.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let ports = self.remote_port == 0 || self.remote_port == other.remote_port;
        ports && self.remote.covers(other.remote)
    }

    /// Whether both are asked at the same place for the same ends: there can be one holder, or a group.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        let place = |s: &Self| (s.remote, s.remote_port, s.priority);
        place(self) == place(other)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.remote == Prefix::ANY, self.remote_port) {
            (true, 0) => {}
            (_, 0) => write!(f, " from {}", self.remote)?,
            (_, port) => write!(f, " from {} port {port}", self.remote)?,
        }
        if self.priority != 0 {
            write!(f, " with priority {}", self.priority)?;
        }
        if self.spread {
            f.write_str(", spread")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(ip: &str, bits: u8) -> Prefix {
        Prefix::new(ip.parse().unwrap(), bits).unwrap()
    }

    #[test]
    fn a_prefix_holds_the_addresses_that_begin_with_its_bits() {
        let at = |ip: &str| Address::from(ip.parse::<IpAddr>().unwrap());
        let net = prefix("192.0.2.77", 24);
        assert_eq!(net.to_string(), "192.0.2.0/24");
        assert!(net.contains(at("192.0.2.255")) && !net.contains(at("192.0.3.0")));
        assert!(!net.contains(at("2001:db8::1")) && !prefix("0.0.0.0", 0).contains(at("::1")));
        assert!(prefix("::", 0).contains(at("192.0.2.1")) && Prefix::ANY.contains(at("fd00::1")));
        assert_eq!(prefix("0.0.0.0", 0).to_string(), "0.0.0.0/0");
        assert_eq!(prefix("2001:db8:1::1", 32).to_string(), "2001:db8::/32");
        assert_eq!(Prefix::host("fd00::1".parse().unwrap()).to_string(), "fd00::1");
        assert!(prefix("192.0.2.0", 24).covers(prefix("192.0.2.128", 25)));
        assert!(!prefix("192.0.2.128", 25).covers(net));
        assert_eq!(Prefix::new("192.0.2.1".parse().unwrap(), 33), None);
    }

    #[test]
    fn scopes_overlap_where_one_remote_end_is_meant_by_both() {
        let of = |remote, remote_port| Scope { remote, remote_port, ..Scope::default() };
        let (net, half) = (prefix("192.0.2.0", 24), prefix("192.0.2.128", 25));
        assert!(of(net, 0).overlaps(&of(half, 9)) && of(half, 9).overlaps(&of(net, 0)));
        assert!(!of(net, 8).overlaps(&of(half, 9)) && of(net, 9).overlaps(&of(half, 9)));
        assert!(!of(prefix("192.0.2.0", 25), 0).overlaps(&of(half, 0)));
        assert!(Scope::default().covers(&of(half, 9)) && !of(half, 9).covers(&of(half, 0)));
    }
}
