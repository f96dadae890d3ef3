//! Interfaces: look up, make, remove, configure (linux/if_link.h, rtnetlink(7)).

use super::error::NetError;
use super::netlink::{
    Failure, Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Socket, split_body,
};
use super::sys::NAME_LEN;
use crate::classify::Mac;
use bytemuck::{Pod, Zeroable};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// `struct ifinfomsg`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct LinkHeader {
    family: u8,
    padding: u8,
    hardware: u16,
    index: i32,
    flags: u32,
    change: u32,
}
const _: () = assert!(size_of::<LinkHeader>() == 16);

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_QDISC: u16 = 6;
const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_MACVLAN_FLAGS: u16 = 2;
const IFLA_MACVLAN_BC_QUEUE_LEN: u16 = 7;
const MACVLAN_MODE_BRIDGE: u32 = 4;
const MACVLAN_MODE_PASSTHRU: u32 = 8;
/// Leave the lower interface's filter of link addresses alone.
const MACVLAN_FLAG_NOPROMISC: u16 = 1;
/// Frames that may wait for the reader of a queue, and group frames that may wait for the kernel's worker.
const MACVTAP_QUEUE: u32 = 4096;
const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;
const IFF_PROMISC: u32 = 0x100;
const IFF_ALLMULTI: u32 = 0x200;
const IFF_LOWER_UP: u32 = 0x1_0000;
const ARPHRD_ETHER: u16 = 1;

/// RFC 2863 operational state (linux/if.h `IF_OPER_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Not told; loopback and many virtual interfaces stay here while they work.
    Unknown,
    /// There is none: removed, or its driver does not have it yet.
    NotPresent,
    /// No carrier, or set down.
    Down,
    /// A lower interface is down.
    LowerLayerDown,
    /// In a test mode.
    Testing,
    /// Waits for something, 802.1X for instance.
    Dormant,
    /// Ready to carry frames.
    Up,
}

impl LinkState {
    const fn from_raw(raw: u8) -> Self {
        match raw {
            1 => Self::NotPresent,
            2 => Self::Down,
            3 => Self::LowerLayerDown,
            4 => Self::Testing,
            5 => Self::Dormant,
            6 => Self::Up,
            _ => Self::Unknown,
        }
    }
}

/// What the kernel says of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number, unique in its namespace while it exists.
    pub index: u32,
    /// Its name, 1 to 15 bytes.
    pub name: String,
    /// Its Ethernet address; zero for the loopback, and where the medium has no 6-byte addresses.
    pub mac: Mac,
    /// Whether its frames begin with an Ethernet header (the loopback's do not count).
    pub is_ethernet: bool,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Raw `IFF_*` flags.
    pub flags: u32,
    /// Operational state.
    pub state: LinkState,
    /// Driver kind for virtual interfaces: `veth`, `tun`, `bridge` ...
    pub kind: Option<String>,
    /// Queueing discipline at its root: `noqueue`, `fq_codel`, `mq` ...
    pub qdisc: Option<String>,
}

impl Link {
    /// Whether the administrator has set it up.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.flags & IFF_UP != 0
    }

    /// Whether it is set up and has a carrier, that is: frames can pass.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.is_up() && self.flags & IFF_LOWER_UP != 0
    }

    /// Whether it is a loopback.
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        self.flags & IFF_LOOPBACK != 0
    }

    /// Whether somebody listens to foreign frames on it.
    #[must_use]
    pub const fn is_promiscuous(&self) -> bool {
        self.flags & IFF_PROMISC != 0
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let (header, attributes) = split_body::<LinkHeader>(body)?;
        let mac = attributes.find(IFLA_ADDRESS).and_then(|b| b.try_into().ok()).unwrap_or([0; 6]);
        let state = attributes.find(IFLA_OPERSTATE).and_then(|b| b.first().copied()).unwrap_or(0);
        let info = attributes.find(IFLA_LINKINFO).map(super::netlink::Attributes);
        Some(Self {
            index: u32::try_from(header.index).ok()?,
            name: attributes.find_text(IFLA_IFNAME)?,
            mac: Mac(mac),
            is_ethernet: header.hardware == ARPHRD_ETHER,
            mtu: attributes.find_u32(IFLA_MTU)?,
            flags: header.flags,
            state: LinkState::from_raw(state),
            kind: info.and_then(|info| info.find_text(IFLA_INFO_KIND)),
            qdisc: attributes.find_text(IFLA_QDISC),
        })
    }
}

/// What a macvtap hears of what arrives at the interface below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacvtapMode {
    /// All of it: the link address is that of the interface.
    Passthru,
    /// What is for its own link address, and groups.
    Bridge(Mac),
}

/// A name as the kernel's structures hold it, zero-padded.
///
/// # Errors
/// [`NetError::BadName`] where the kernel would not take it.
pub(crate) fn name_bytes(name: &str) -> Result<[u8; NAME_LEN], NetError> {
    let bad = name.is_empty()
        || name.len() >= NAME_LEN
        || name == "."
        || name == ".."
        || name.bytes().any(|b| matches!(b, 0 | b'/' | b':') || b.is_ascii_whitespace());
    if bad {
        return Err(NetError::BadName { name: name.into() });
    }
    let mut bytes = [0; NAME_LEN];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Ok(bytes)
}

/// A way to ask the kernel about interfaces, addresses and routes of one network namespace: that
/// of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    pub(super) socket: Socket,
}

impl Netlink {
    /// Opens it in the calling thread's network namespace. Needs no privilege.
    ///
    /// # Errors
    /// The socket cannot be had.
    pub fn open() -> Result<Self, NetError> {
        let socket = Socket::open(None).map_err(|e| e.of("open", "netlink"))?;
        Ok(Self { socket })
    }

    /// The interface of this name.
    ///
    /// # Errors
    /// There is none, or the kernel refused.
    pub fn link(&mut self, name: &str) -> Result<Link, NetError> {
        name_bytes(name)?;
        let message = Message::new(RTM_GETLINK, 0, &LinkHeader::default()).text(IFLA_IFNAME, name);
        let mut found = None;
        let result = self.socket.query(message, NLM_F_ACK, |_, body| found = Link::parse(body));
        match result {
            Err(Failure::Refused(error, _)) if error.raw_os_error() == Some(libc::ENODEV) => {
                Err(NetError::NoInterface { name: name.into() })
            }
            Err(failure) => Err(failure.of("look up", name)),
            Ok(()) => found.ok_or_else(|| Failure::Malformed.of("look up", name)),
        }
    }

    /// All interfaces of the namespace.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn links(&mut self) -> Result<Vec<Link>, NetError> {
        let message = Message::new(RTM_GETLINK, 0, &LinkHeader::default());
        let mut links = Vec::new();
        self.socket
            .query(message, NLM_F_DUMP, |_, body| links.extend(Link::parse(body)))
            .map_err(|e| e.of("list", "interfaces"))?;
        Ok(links)
    }

    /// Makes a veth pair, both ends down: `name` here and `peer` here or in the namespace that
    /// `peer_namespace` (`/proc/.../ns/net`) leads to.
    ///
    /// # Errors
    /// A name is bad or taken, or the privilege is missing.
    pub fn add_veth(
        &mut self,
        name: &str,
        peer: &str,
        peer_namespace: Option<BorrowedFd<'_>>,
    ) -> Result<(), NetError> {
        self.add_veth_of(None, name, peer, peer_namespace)
    }

    /// The same with so many queues of each direction at both ends, if that is given.
    ///
    /// # Errors
    /// As [`add_veth`](Self::add_veth).
    pub fn add_veth_of(
        &mut self,
        queues: Option<u32>,
        name: &str,
        peer: &str,
        peer_namespace: Option<BorrowedFd<'_>>,
    ) -> Result<(), NetError> {
        name_bytes(name)?;
        name_bytes(peer)?;
        let namespace = peer_namespace.map(|fd| fd.as_raw_fd().cast_unsigned());
        let header = LinkHeader::default();
        let sized = |message: Message| match queues {
            Some(count) => message.u32(IFLA_NUM_TX_QUEUES, count).u32(IFLA_NUM_RX_QUEUES, count),
            None => message,
        };
        let message =
            Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &header).text(IFLA_IFNAME, name);
        let message = sized(message).nested(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |end| {
                    let end = sized(end.raw(&header).text(IFLA_IFNAME, peer));
                    match namespace {
                        Some(fd) => end.u32(IFLA_NET_NS_FD, fd),
                        None => end,
                    }
                })
            })
        });
        self.socket
            .request(message)
            .map_err(|e| e.of("make the veth pair", format!("{name} and {peer}")))
    }

    /// Makes a macvtap `name` over `lower`, an interface of this namespace, in the namespace that `namespace`
    /// leads to. It is up. It goes with the interface below it and with its namespace.
    ///
    /// # Errors
    /// The name is bad, the interface has an upper one already that leaves no place for this (in
    /// [`Passthru`](MacvtapMode::Passthru) any), or the privilege is missing.
    pub fn add_macvtap(
        &mut self,
        name: &str,
        lower: &Link,
        mode: MacvtapMode,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), NetError> {
        name_bytes(name)?;
        let header = LinkHeader { flags: IFF_UP, change: IFF_UP, ..LinkHeader::default() };
        let message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &header)
            .text(IFLA_IFNAME, name)
            .u32(IFLA_LINK, lower.index)
            .u32(IFLA_TXQLEN, MACVTAP_QUEUE)
            .u32(IFLA_NET_NS_FD, namespace.as_raw_fd().cast_unsigned());
        let (number, flags, mac) = match mode {
            MacvtapMode::Passthru => (MACVLAN_MODE_PASSTHRU, MACVLAN_FLAG_NOPROMISC, None),
            MacvtapMode::Bridge(mac) => (MACVLAN_MODE_BRIDGE, 0, Some(mac)),
        };
        let message = match mac {
            Some(mac) => message.attribute(IFLA_ADDRESS, &mac.0),
            None => message,
        };
        let message = message.nested(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "macvtap").nested(IFLA_INFO_DATA, |data| {
                data.u32(IFLA_MACVLAN_MODE, number)
                    .attribute(IFLA_MACVLAN_FLAGS, &flags.to_ne_bytes())
                    .u32(IFLA_MACVLAN_BC_QUEUE_LEN, MACVTAP_QUEUE)
            })
        });
        self.socket.request(message).map_err(|e| e.of("make a macvtap over", lower.name.as_str()))
    }

    /// Has an interface hear frames to all groups.
    ///
    /// # Errors
    /// There is none, or the privilege is missing.
    pub fn set_all_groups(&mut self, name: &str) -> Result<(), NetError> {
        let header = self.header_of(name)?;
        let header = LinkHeader { flags: IFF_ALLMULTI, change: IFF_ALLMULTI, ..header };
        let message = Message::new(RTM_NEWLINK, 0, &header);
        self.socket.request(message).map_err(|e| e.of("hear all groups on", name))
    }

    /// Removes an interface (of a veth pair, both ends).
    ///
    /// # Errors
    /// There is none, it cannot be removed, or the privilege is missing.
    pub fn delete_link(&mut self, name: &str) -> Result<(), NetError> {
        let header = self.header_of(name)?;
        let message = Message::new(RTM_DELLINK, 0, &header);
        self.socket.request(message).map_err(|e| e.of("remove", name))
    }

    /// What has the kernel remove an interface, and the socket to say it to.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn into_deletion(mut self, name: &str) -> Result<(OwnedFd, Vec<u8>), NetError> {
        let header = self.header_of(name)?;
        Ok(self.socket.into_last(Message::new(RTM_DELLINK, 0, &header)))
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// There is none, or the privilege is missing.
    pub fn set_up(&mut self, name: &str) -> Result<(), NetError> {
        self.set_flags(name, IFF_UP, "set up")
    }

    /// Sets an interface down.
    ///
    /// # Errors
    /// There is none, or the privilege is missing.
    pub fn set_down(&mut self, name: &str) -> Result<(), NetError> {
        self.set_flags(name, 0, "set down")
    }

    fn set_flags(
        &mut self,
        name: &str,
        flags: u32,
        operation: &'static str,
    ) -> Result<(), NetError> {
        let header = LinkHeader { flags, change: IFF_UP, ..self.header_of(name)? };
        let message = Message::new(RTM_NEWLINK, 0, &header);
        self.socket.request(message).map_err(|e| e.of(operation, name))
    }

    /// Sets the Ethernet address. Some interfaces take it only while they are down.
    ///
    /// # Errors
    /// There is no such interface, it refuses, or the privilege is missing.
    pub fn set_mac(&mut self, name: &str, mac: Mac) -> Result<(), NetError> {
        let message = self.change(name)?.attribute(IFLA_ADDRESS, &mac.0);
        self.socket.request(message).map_err(|e| e.of("set the Ethernet address of", name))
    }

    /// Sets the largest IP packet, in bytes.
    ///
    /// # Errors
    /// There is no such interface, it refuses, or the privilege is missing.
    pub fn set_mtu(&mut self, name: &str, mtu: u32) -> Result<(), NetError> {
        let message = self.change(name)?.u32(IFLA_MTU, mtu);
        self.socket.request(message).map_err(|e| e.of("set the MTU of", name))
    }

    /// Sets how long frames of joined segments may be that the kernel sends on an interface, in bytes.
    ///
    /// # Errors
    /// There is no such interface, it refuses, or the privilege is missing.
    pub fn limit_joined(&mut self, name: &str, bytes: u32) -> Result<(), NetError> {
        let message = self.change(name)?.u32(IFLA_GSO_MAX_SIZE, bytes);
        self.socket.request(message).map_err(|e| e.of("limit joined segments of", name))
    }

    /// Moves an interface into the namespace that `namespace` (`/proc/.../ns/net`) leads to. It
    /// arrives there down and without addresses.
    ///
    /// # Errors
    /// There is no such interface, its name is taken there, or the privilege is missing.
    pub fn move_link(&mut self, name: &str, namespace: BorrowedFd<'_>) -> Result<(), NetError> {
        let fd = namespace.as_raw_fd().cast_unsigned();
        let message = self.change(name)?.u32(IFLA_NET_NS_FD, fd);
        self.socket.request(message).map_err(|e| e.of("move to another namespace", name))
    }

    fn header_of(&mut self, name: &str) -> Result<LinkHeader, NetError> {
        let index = self.link(name)?.index;
        // The kernel numbers interfaces with a positive `int`.
        Ok(LinkHeader { index: index.cast_signed(), ..LinkHeader::default() })
    }

    fn change(&mut self, name: &str) -> Result<Message, NetError> {
        Ok(Message::new(RTM_NEWLINK, 0, &self.header_of(name)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_refused_where_the_kernel_would() {
        for bad in ["", ".", "..", "a/b", "a b", "a:b", "sixteen-bytes-xx", "a\0"] {
            assert!(name_bytes(bad).is_err(), "{bad:?}");
        }
        assert_eq!(name_bytes("fifteen-bytes-x").unwrap().iter().filter(|&&b| b == 0).count(), 1);
    }

    #[test]
    fn the_loopback_is_found_and_an_absent_name_is_not() {
        let mut net = Netlink::open().unwrap();
        let lo = net.link("lo").unwrap();
        assert!(lo.is_loopback() && !lo.is_ethernet);
        assert!(net.links().unwrap().contains(&lo));
        let error = net.link("no-such-link").unwrap_err();
        assert_eq!(error.to_string(), "no interface is named \"no-such-link\"");
    }
}
