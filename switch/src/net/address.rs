//! Addresses and routes of an interface (linux/if_addr.h, linux/rtnetlink.h).

use super::error::NetError;
use super::link::Netlink;
use super::netlink::{Message, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, split_body};
use bytemuck::{Pod, Zeroable};
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `struct ifaddrmsg`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct AddressHeader {
    family: u8,
    prefix_len: u8,
    flags: u8,
    scope: u8,
    index: u32,
}
const _: () = assert!(size_of::<AddressHeader>() == 8);

/// `struct rtmsg`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct RouteHeader {
    family: u8,
    destination_len: u8,
    source_len: u8,
    tos: u8,
    table: u8,
    protocol: u8,
    scope: u8,
    kind: u8,
    flags: u32,
}
const _: () = assert!(size_of::<RouteHeader>() == 12);

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 0x02;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// How far an address is known (`RT_SCOPE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everywhere.
    Global,
    /// On its site (deprecated by RFC 3879).
    Site,
    /// On its link.
    Link,
    /// In its host only.
    Host,
    /// Another of the kernel's 256.
    Other(u8),
}

impl Scope {
    const fn from_raw(raw: u8) -> Self {
        match raw {
            0 => Self::Global,
            200 => Self::Site,
            253 => Self::Link,
            254 => Self::Host,
            other => Self::Other(other),
        }
    }

    const fn raw(self) -> u8 {
        match self {
            Self::Global => 0,
            Self::Site => 200,
            Self::Link => 253,
            Self::Host => 254,
            Self::Other(raw) => raw,
        }
    }
}

/// An address that an interface has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub ip: IpAddr,
    /// Length of its network's prefix in bits: 0..=32, or 0..=128 for IPv6.
    pub prefix_len: u8,
    /// How far it is known.
    pub scope: Scope,
}

impl InterfaceAddress {
    /// An address that is known everywhere; IPv6 link-local ones (fe80::/10) on their link.
    #[must_use]
    pub fn new(ip: IpAddr, prefix_len: u8) -> Self {
        let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        Self { ip, prefix_len, scope: if link_local { Scope::Link } else { Scope::Global } }
    }

    fn parse(body: &[u8]) -> Option<(u32, Self)> {
        let (header, attributes) = split_body::<AddressHeader>(body)?;
        // On a point-to-point link IFA_ADDRESS is the other end, and IFA_LOCAL is ours.
        let bytes = attributes.find(IFA_LOCAL).or_else(|| attributes.find(IFA_ADDRESS))?;
        let ip = match header.family {
            AF_INET => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
            AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
            _ => return None,
        };
        let scope = Scope::from_raw(header.scope);
        Some((header.index, Self { ip, prefix_len: header.prefix_len, scope }))
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix_len)
    }
}

const fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// The bytes of an address in network order.
struct Octets([u8; 16], usize);

impl Octets {
    fn of(ip: IpAddr) -> Self {
        let mut bytes = [0; 16];
        match ip {
            IpAddr::V4(v4) => {
                bytes[..4].copy_from_slice(&v4.octets());
                Self(bytes, 4)
            }
            IpAddr::V6(v6) => Self(v6.octets(), 16),
        }
    }

    fn as_slice(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

impl Netlink {
    /// The addresses of an interface, IPv4 before IPv6, in the kernel's order.
    ///
    /// # Errors
    /// There is no such interface, or the kernel refused.
    pub fn addresses(&mut self, name: &str) -> Result<Vec<InterfaceAddress>, NetError> {
        let index = self.link(name)?.index;
        let mut addresses = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let header = AddressHeader { family, ..AddressHeader::default() };
            self.socket
                .query(Message::new(RTM_GETADDR, 0, &header), NLM_F_DUMP, |_, body| {
                    if let Some((at, address)) = InterfaceAddress::parse(body)
                        && at == index
                    {
                        addresses.push(address);
                    }
                })
                .map_err(|e| e.of("list the addresses of", name))?;
        }
        Ok(addresses)
    }

    /// Gives an interface an address. IPv6 ones are usable at once: duplicate address detection is
    /// left out.
    ///
    /// # Errors
    /// There is no such interface, it has the address already, or the privilege is missing.
    pub fn add_address(&mut self, name: &str, address: InterfaceAddress) -> Result<(), NetError> {
        let message =
            self.address_message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, name, address)?;
        self.socket.request(message).map_err(|e| e.of("add an address to", name))
    }

    /// Takes an address from an interface.
    ///
    /// # Errors
    /// There is no such interface, it does not have the address, or the privilege is missing.
    pub fn remove_address(
        &mut self,
        name: &str,
        address: InterfaceAddress,
    ) -> Result<(), NetError> {
        let message = self.address_message(RTM_DELADDR, 0, name, address)?;
        self.socket.request(message).map_err(|e| e.of("remove an address from", name))
    }

    fn address_message(
        &mut self,
        kind: u16,
        flags: u16,
        name: &str,
        address: InterfaceAddress,
    ) -> Result<Message, NetError> {
        let header = AddressHeader {
            family: family(address.ip),
            prefix_len: address.prefix_len,
            flags: if address.ip.is_ipv6() { IFA_F_NODAD } else { 0 },
            scope: address.scope.raw(),
            index: self.link(name)?.index,
        };
        let octets = Octets::of(address.ip);
        Ok(Message::new(kind, flags, &header)
            .attribute(IFA_LOCAL, octets.as_slice())
            .attribute(IFA_ADDRESS, octets.as_slice()))
    }

    /// Sends what goes to `destination/prefix_len` out of an interface, by way of `gateway` if one
    /// is given. A prefix length of zero makes a default route.
    ///
    /// # Errors
    /// There is no such interface, the route exists, the gateway cannot be reached, or the
    /// privilege is missing.
    pub fn add_route(
        &mut self,
        destination: IpAddr,
        prefix_len: u8,
        gateway: Option<IpAddr>,
        name: &str,
    ) -> Result<(), NetError> {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        let message =
            self.route_message(RTM_NEWROUTE, flags, (destination, prefix_len), gateway, name)?;
        self.socket.request(message).map_err(|e| e.of("add a route by way of", name))
    }

    /// Makes `gateway` on an interface the way to all addresses of its family. Another default
    /// route stays first where it is.
    ///
    /// # Errors
    /// As for [`Netlink::add_route`].
    pub fn add_default_route(&mut self, gateway: IpAddr, name: &str) -> Result<(), NetError> {
        let all = match gateway {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let flags = NLM_F_CREATE | NLM_F_APPEND;
        let message = self.route_message(RTM_NEWROUTE, flags, (all, 0), Some(gateway), name)?;
        self.socket.request(message).map_err(|e| e.of("add a default route by way of", name))
    }

    /// Removes a route that [`Netlink::add_route`] made.
    ///
    /// # Errors
    /// There is no such interface or route, or the privilege is missing.
    pub fn remove_route(
        &mut self,
        destination: IpAddr,
        prefix_len: u8,
        gateway: Option<IpAddr>,
        name: &str,
    ) -> Result<(), NetError> {
        let message =
            self.route_message(RTM_DELROUTE, 0, (destination, prefix_len), gateway, name)?;
        self.socket.request(message).map_err(|e| e.of("remove a route by way of", name))
    }

    fn route_message(
        &mut self,
        kind: u16,
        flags: u16,
        (destination, prefix_len): (IpAddr, u8),
        gateway: Option<IpAddr>,
        name: &str,
    ) -> Result<Message, NetError> {
        let on_link = gateway.is_none() && destination.is_ipv4();
        let header = RouteHeader {
            family: family(destination),
            destination_len: prefix_len,
            table: RT_TABLE_MAIN,
            protocol: RTPROT_STATIC,
            scope: if on_link { Scope::Link.raw() } else { Scope::Global.raw() },
            kind: RTN_UNICAST,
            ..RouteHeader::default()
        };
        let mut message = Message::new(kind, flags, &header).u32(RTA_OIF, self.link(name)?.index);
        if prefix_len != 0 {
            message = message.attribute(RTA_DST, Octets::of(destination).as_slice());
        }
        if let Some(gateway) = gateway {
            message = message.attribute(RTA_GATEWAY, Octets::of(gateway).as_slice());
        }
        Ok(message)
    }
}
