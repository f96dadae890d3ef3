//! Transport headers: ports, and whether the header is whole and its length field true.
//!
//! | protocol | header | checked |
//! |---|---|---|
//! | TCP (RFC 9293) | 20..=60 | data offset 5..=15 words, within the packet |
//! | UDP (RFC 768) | 8 | length 8..=what the IP packet carries, as in Linux; less is padding |
//! | UDP-Lite (RFC 3828) | 8 | coverage 0, or 8..=what the IP packet carries |
//! | SCTP (RFC 9260) | 12 | |
//! | DCCP (RFC 4340) | 12.. | data offset 3.. words, within the packet |
//! | ICMP, ICMPv6, IGMP | 8 | see `icmp` |
//!
//! The length field of a first piece speaks of the whole datagram, so it is only known to be at least
//! the header. The *header* of a first piece, options included, has to lie within it.

use super::cursor::Cursor;
use super::icmp;
use super::{Address, Flow, Fragment, Icmp, IpKind, IpPacket, Malformed, Protocol};
use bytemuck::{Pod, Zeroable};

/// What the network header said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    pub(super) source: Address,
    pub(super) destination: Address,
    pub(super) protocol: Protocol,
    pub(super) fragment: Fragment,
    /// Where it begins in the frame.
    pub(super) offset: usize,
    pub(super) is_ipv6: bool,
    /// Whether it may carry neighbour discovery: not routed, and without a fragment header.
    pub(super) from_neighbor: bool,
}

/// The beginning of all transport headers with ports.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Ports {
    pub(super) source: [u8; 2],
    pub(super) destination: [u8; 2],
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct TcpHeader {
    ports: Ports,
    sequence: [u8; 4],
    acknowledgment: [u8; 4],
    /// In words of four bytes (4 bits), reserved (4).
    data_offset: u8,
    flags: u8,
    window: [u8; 2],
    checksum: [u8; 2],
    urgent: [u8; 2],
}

/// UDP, and UDP-Lite where `len` is the checksum's coverage.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct UdpHeader {
    ports: Ports,
    len: [u8; 2],
    checksum: [u8; 2],
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SctpHeader {
    ports: Ports,
    verification_tag: [u8; 4],
    checksum: [u8; 4],
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DccpHeader {
    ports: Ports,
    /// In words of four bytes.
    data_offset: u8,
    coverage: u8,
    checksum: [u8; 2],
    kind_sequence: [u8; 4],
}

/// What the transport header says.
struct Transport {
    source_port: u16,
    destination_port: u16,
    ports_known: bool,
    kind: IpKind,
}

impl Transport {
    const WITHOUT_PORTS: Self =
        Self { source_port: 0, destination_port: 0, ports_known: false, kind: IpKind::Plain };

    #[inline]
    fn with_ports(ports: Ports) -> Self {
        Self {
            source_port: u16::from_be_bytes(ports.source),
            destination_port: u16::from_be_bytes(ports.destination),
            ports_known: true,
            kind: IpKind::Plain,
        }
    }
}

/// Reads the transport header that begins here, and puts the answer together.
#[inline]
pub(super) fn parse(network: Network, cursor: Cursor<'_>) -> Result<IpPacket, Malformed> {
    let transport = header(&network, cursor)?;
    // A frame has at most 65,535 bytes, so no offset is longer.
    let offset = |at: usize| u16::try_from(at).map_err(|_| Malformed::Link);
    Ok(IpPacket {
        flow: Flow {
            source: network.source,
            destination: network.destination,
            protocol: network.protocol,
            source_port: transport.source_port,
            destination_port: transport.destination_port,
            ports_known: transport.ports_known,
        },
        fragment: network.fragment,
        kind: transport.kind,
        network_offset: u8::try_from(network.offset).map_err(|_| Malformed::Link)?,
        transport_offset: offset(cursor.at())?,
        end: offset(cursor.at().saturating_add(cursor.left()))?,
    })
}

#[inline]
fn header(network: &Network, cursor: Cursor<'_>) -> Result<Transport, Malformed> {
    let (is_whole, cut) = match network.fragment {
        Fragment::Whole => (true, Malformed::Transport),
        Fragment::First { .. } => (false, Malformed::Fragment),
        Fragment::Later { .. } => return Ok(Transport::WITHOUT_PORTS),
    };
    match network.protocol {
        Protocol::TCP => Ok(Transport::with_ports(tcp(cursor, cut)?)),
        Protocol::UDP => {
            let transport = Transport::with_ports(udp(cursor, is_whole, cut)?);
            let kind = dhcp(network.is_ipv6, transport.destination_port);
            Ok(Transport { kind, ..transport })
        }
        _ => rare(network, cursor, is_whole, cut),
    }
}

/// The ports of the TCP header that begins here; `cut` if not all of it is in the packet.
#[inline(always)]
pub(super) fn tcp(cursor: Cursor<'_>, cut: Malformed) -> Result<Ports, Malformed> {
    let header = cursor.peek::<TcpHeader>(cut)?;
    let len = usize::from(header.data_offset >> 4) << 2;
    if len < size_of::<TcpHeader>() {
        return Err(Malformed::Transport);
    }
    if len > cursor.left() { Err(cut) } else { Ok(header.ports) }
}

/// The ports of the UDP header that begins here; `cut` if not all of it is in the packet.
#[inline(always)]
pub(super) fn udp(cursor: Cursor<'_>, is_whole: bool, cut: Malformed) -> Result<Ports, Malformed> {
    let header = cursor.peek::<UdpHeader>(cut)?;
    let len = usize::from(u16::from_be_bytes(header.len));
    if len < size_of::<UdpHeader>() || (is_whole && len > cursor.left()) {
        return Err(Malformed::Transport);
    }
    Ok(header.ports)
}

/// Every protocol but TCP and UDP.
#[cold]
fn rare(
    network: &Network,
    cursor: Cursor<'_>,
    is_whole: bool,
    cut: Malformed,
) -> Result<Transport, Malformed> {
    match (network.protocol, network.is_ipv6) {
        (Protocol::UDP_LITE, _) => {
            let header = cursor.peek::<UdpHeader>(cut)?;
            let coverage = usize::from(u16::from_be_bytes(header.len));
            let is_cut = coverage != 0 && coverage < size_of::<UdpHeader>();
            if is_cut || (is_whole && coverage > cursor.left()) {
                return Err(Malformed::Transport);
            }
            Ok(Transport::with_ports(header.ports))
        }
        (Protocol::SCTP, _) => Ok(Transport::with_ports(cursor.peek::<SctpHeader>(cut)?.ports)),
        (Protocol::DCCP, _) => {
            let header = cursor.peek::<DccpHeader>(cut)?;
            let len = usize::from(header.data_offset) << 2;
            if len < size_of::<DccpHeader>() {
                return Err(Malformed::Transport);
            }
            if len > cursor.left() {
                return Err(cut);
            }
            Ok(Transport::with_ports(header.ports))
        }
        (Protocol::ICMP, false) => Ok(message(icmp::parse_v4(cursor, cut)?)),
        (Protocol::ICMPV6, true) => {
            Ok(message(icmp::parse_v6(cursor, cut, network.from_neighbor)?))
        }
        (Protocol::IGMP, false) => {
            cursor.peek::<[u8; 8]>(cut)?;
            Ok(Transport { kind: IpKind::Igmp, ..Transport::WITHOUT_PORTS })
        }
        _ => Ok(Transport::WITHOUT_PORTS),
    }
}

/// An echo's identifier stands in both ports, so that request and answer are one flow.
fn message((icmp, identifier): (Icmp, Option<u16>)) -> Transport {
    let port = identifier.unwrap_or(0);
    Transport {
        source_port: port,
        destination_port: port,
        ports_known: identifier.is_some(),
        kind: IpKind::Icmp(icmp),
    }
}

#[inline]
fn dhcp(is_ipv6: bool, destination_port: u16) -> IpKind {
    match (destination_port, is_ipv6) {
        (67, false) | (547, true) => IpKind::DhcpRequest,
        (68, false) | (546, true) => IpKind::DhcpReply,
        _ => IpKind::Plain,
    }
}
