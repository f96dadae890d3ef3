//! An address with the length of its network's prefix.

use core::fmt;
use core::str::FromStr;
use std::net::IpAddr;
use usnet_shmring::control::Address;

/// `10.0.0.1/24`: an address and the network that it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// The text is no address with a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotANetwork;

const fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl Network {
    /// `None` if the prefix is longer than the address.
    #[must_use]
    pub const fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        if prefix > bits(address) { None } else { Some(Self { address, prefix }) }
    }

    /// A network of this address alone.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        Self { address, prefix: bits(address) }
    }

    /// The address, host part included.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// Bits of the prefix.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether `other` lies in this network.
    #[must_use]
    pub fn contains(self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let differing = a.to_bits() ^ b.to_bits();
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let differing = a.to_bits() ^ b.to_bits();
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        }
    }

    /// As it lies in messages.
    #[must_use]
    pub fn to_wire(self) -> Address {
        Address::new(self.address, self.prefix)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, prefix) = text.split_once('/').ok_or(NotANetwork)?;
        let address = address.parse().map_err(|_| NotANetwork)?;
        let prefix = prefix.parse().map_err(|_| NotANetwork)?;
        Self::new(address, prefix).ok_or(NotANetwork)
    }
}
