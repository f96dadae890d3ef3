//! What the classifier says of a frame: plain values, no references into the frame.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address (IEEE 802.3, 48 bits, in the order of the wire).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The broadcast address, `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set: broadcast or multicast.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An IP protocol number (IANA), the last one of the header chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Protocol(pub u8);

#[allow(missing_docs, reason = "the names are IANA's")]
impl Protocol {
    pub const ICMP: Self = Self(1);
    pub const IGMP: Self = Self(2);
    pub const TCP: Self = Self(6);
    pub const UDP: Self = Self(17);
    pub const DCCP: Self = Self(33);
    pub const ENCRYPTED: Self = Self(50);
    pub const AUTHENTICATION: Self = Self(51);
    pub const ICMPV6: Self = Self(58);
    pub const NO_NEXT_HEADER: Self = Self(59);
    pub const SCTP: Self = Self(132);
    pub const UDP_LITE: Self = Self(136);

    /// Whether the first four bytes of its header are a source and a destination port.
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::DCCP | Self::SCTP | Self::UDP_LITE)
    }

    /// Whether it can be a client's: not what hosts and routers say about the network itself, and not what is
    /// only ever a header before another (IPv6's, AH, no next header).
    #[must_use]
    pub const fn can_be_claimed(self) -> bool {
        !matches!(self.0, 0 | 1 | 2 | 43 | 44 | 51 | 58 | 59 | 60 | 135 | 139 | 140)
    }
}

/// An IPv4 or IPv6 address in one shape: IPv4 is stored as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2), so
/// that a key is compared and hashed without a branch on the family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// From the four bytes of an IPv4 header.
    #[must_use]
    pub const fn v4(b: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, b[0], b[1], b[2], b[3]])
    }

    /// The four bytes of an IPv4 address; `None` of an IPv6 address.
    #[inline(always)]
    #[must_use]
    pub const fn v4_part(self) -> Option<[u8; 4]> {
        let [.., a, b, c, d] = self.0;
        if u128::from_be_bytes(self.0) >> 32 == 0xffff { Some([a, b, c, d]) } else { None }
    }

    /// The same in words, one for one.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "halves")]
    pub(crate) const fn words(self) -> [u64; 2] {
        let all = u128::from_ne_bytes(self.0);
        [all as u64, (all >> 64) as u64]
    }

    /// What [`words`](Self::words) were made of.
    #[inline(always)]
    pub(crate) const fn from_words([a, b]: [u64; 2]) -> Self {
        Self((a as u128 | (b as u128) << 64).to_ne_bytes())
    }

    /// As the standard library's type.
    #[must_use]
    pub fn to_ip(self) -> IpAddr {
        Ipv6Addr::from(self.0).to_canonical()
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4(ip.octets())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_ip(), f)
    }
}

/// Who talks to whom: the exact key of steering. Where the protocol has no ports both are zero, and
/// `ports_known` tells that from port zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Last protocol of the header chain.
    pub protocol: Protocol,
    /// Source port; of an echo reply, the identifier.
    pub source_port: u16,
    /// Destination port; of an echo request, the identifier.
    pub destination_port: u16,
    /// Whether the two ports were read from the frame; so too the identifier of an echo. False for
    /// protocols without ports, later fragments, and encrypted payloads.
    pub ports_known: bool,
}

impl Flow {
    /// The flow of the answers: both ends exchanged.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            protocol: self.protocol,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ports_known: self.ports_known,
        }
    }

    /// The same in words, one for one: what tables are keyed by.
    #[inline(always)]
    pub(crate) const fn words(&self) -> [u64; 5] {
        let [a, b] = self.source.words();
        let [c, d] = self.destination.words();
        let rest = self.source_port as u64
            | (self.destination_port as u64) << 16
            | (self.protocol.0 as u64) << 32
            | (self.ports_known as u64) << 40;
        [a, b, c, d, rest]
    }

    /// What [`words`](Self::words) were made of.
    #[expect(clippy::cast_possible_truncation, reason = "parts of a word")]
    pub(crate) const fn from_words([a, b, c, d, rest]: [u64; 5]) -> Self {
        Self {
            source: Address::from_words([a, b]),
            destination: Address::from_words([c, d]),
            protocol: Protocol((rest >> 32) as u8),
            source_port: rest as u16,
            destination_port: (rest >> 16) as u16,
            ports_known: rest >> 40 & 1 != 0,
        }
    }
}

/// Which part of a datagram a frame carries (RFC 791, 3.1; RFC 8200, 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it. An IPv6 atomic fragment (offset 0, no more) counts as whole (RFC 6946).
    Whole,
    /// The first piece, which names the ports.
    First {
        /// The datagram's identification; 16 bits in IPv4, 32 in IPv6.
        id: u32,
    },
    /// A later piece; its ports are not known. In IPv6 its protocol is what the fragment header names,
    /// which may be an extension header, so it does not belong in the key of a datagram.
    Later {
        /// The datagram's identification.
        id: u32,
    },
}

/// What an ICMP or ICMPv6 message is to the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    /// Echo request; the flow's `destination_port` and `source_port` both hold the identifier.
    EchoRequest,
    /// Echo reply; the flow's ports both hold the identifier.
    EchoReply,
    /// An error about a packet that `quoted` (as sent, so its `source` is the one to be told).
    /// `None` where the quote is too short or malformed to say.
    Error {
        /// The packet that the error is about.
        quoted: Option<Flow>,
    },
    /// Router solicitation or advertisement (types 133 and 134).
    Router,
    /// Neighbour solicitation (type 135) for `target`.
    NeighborSolicitation {
        /// The address asked for.
        target: Address,
    },
    /// Neighbour advertisement (type 136) of `target`.
    NeighborAdvertisement {
        /// The address told of.
        target: Address,
    },
    /// Multicast listener discovery (types 130, 131, 132, 143).
    MulticastListener,
    /// Any other type.
    Other {
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
    },
}

/// What an IP packet is beside its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpKind {
    /// Nothing that the switch treats on its own.
    Plain,
    /// ICMP or ICMPv6.
    Icmp(Icmp),
    /// IGMP (IPv4 multicast membership).
    Igmp,
    /// DHCPv4 or DHCPv6, from a client to a server (UDP to port 67 or 547).
    DhcpRequest,
    /// DHCPv4 or DHCPv6, from a server to a client (UDP to port 68 or 546).
    DhcpReply,
}

/// An IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket {
    /// Who talks to whom.
    pub flow: Flow,
    /// Which part of a datagram this is.
    pub fragment: Fragment,
    /// What it is beside that.
    pub kind: IpKind,
    /// Where the IP header begins in the frame, in bytes.
    pub network_offset: u8,
    /// Where the last protocol's header begins in the frame, in bytes.
    pub transport_offset: u16,
    /// Where the IP packet ends in the frame, in bytes; what follows is padding.
    pub end: u16,
}

/// An ARP packet for IPv4 over Ethernet (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// 1 is a request, 2 a reply; nothing else passes.
    pub operation: u16,
    /// Who says it, link address.
    pub sender_mac: Mac,
    /// Who says it, network address.
    pub sender: Address,
    /// Who is meant, link address.
    pub target_mac: Mac,
    /// Who is asked for.
    pub target: Address,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// ARP for IPv4 over Ethernet.
    Arp(ArpPacket),
    /// IPv4 or IPv6.
    Ip(IpPacket),
    /// EAP over LAN (0x888e).
    Eapol,
    /// Anything else, by its EtherType (a value under 0x0600 is an 802.3 length).
    Other(u16),
}

/// A frame that was understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classified {
    /// Link address that it is sent to.
    pub destination: Mac,
    /// Link address that it comes from.
    pub source: Mac,
    /// The outer VLAN identifier (1..=4094). A priority tag (identifier 0) counts as none.
    pub vlan: Option<u16>,
    /// The inner VLAN identifier of a doubly tagged frame.
    pub inner_vlan: Option<u16>,
    /// What it carries.
    pub payload: Payload,
}

/// A frame of the most common kind: no tag, IPv4 without options or IPv6 without extension headers, a
/// whole datagram, TCP or UDP but not DHCP. Everything that there is to say of it, in few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Link address that it is sent to.
    pub destination: Mac,
    /// Link address that it comes from.
    pub source: Mac,
    /// Who talks to whom; the ports are known.
    pub flow: Flow,
    /// Where the TCP or UDP header begins in the frame, in bytes.
    pub transport_offset: u16,
    /// Where the IP packet ends in the frame, in bytes.
    pub end: u16,
}

impl From<Plain> for Classified {
    #[inline(always)]
    fn from(plain: Plain) -> Self {
        let packet = IpPacket {
            flow: plain.flow,
            fragment: Fragment::Whole,
            kind: IpKind::Plain,
            network_offset: 14,
            transport_offset: plain.transport_offset,
            end: plain.end,
        };
        Self {
            destination: plain.destination,
            source: plain.source,
            vlan: None,
            inner_vlan: None,
            payload: Payload::Ip(packet),
        }
    }
}

/// Why a frame was not understood. Every case is dropped and counted, never forwarded by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Malformed {
    /// Shorter than its link header, or longer than any frame may be.
    Link,
    /// More than two VLAN tags, or a reserved identifier (4095).
    Vlan,
    /// ARP that is not a whole request or reply for IPv4 over Ethernet, or says what cannot be.
    Arp,
    /// IPv4 header: version, header length, total length, or a reserved flag.
    Ipv4,
    /// IPv6 header or payload length.
    Ipv6,
    /// IPv6 extension headers: too many, out of the frame, or a fragment header that cannot be.
    ExtensionHeaders,
    /// A fragment that cannot be: overlapping the header, past 65,535 bytes, a first piece without
    /// its whole transport header, a piece but the last not a multiple of eight.
    Fragment,
    /// The transport header is cut or its length field is wrong; or a neighbour discovery message that
    /// a router passed on, that is in fragments, or that names a target that cannot be.
    Transport,
    /// Source address that nobody can have (multicast, broadcast, unspecified where not allowed,
    /// loopback from outside), link or network; or a destination where no frame may go (unspecified,
    /// loopback). An IPv6 packet never has an IPv4-mapped address.
    Address,
    /// Headers reach past the part of the frame that was given (only of `classify_head`).
    HeadTooShort,
}
