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

#[cfg(test)]
mod tests {
    use crate::classify::{IpKind, Malformed, packet_of};
    use usnet_fuzz::frames::{over_ipv4, over_ipv6, patched, tcp, udp};

    /// The ports of this payload in both families, which must be read alike.
    fn ports(protocol: u8, payload: &[u8]) -> Result<(u16, u16, bool), Malformed> {
        let read = |frame: &[u8]| {
            packet_of(frame)
                .map(|it| (it.flow.source_port, it.flow.destination_port, it.flow.ports_known))
        };
        let v4 = read(&over_ipv4(protocol, payload));
        assert_eq!(v4, read(&over_ipv6(protocol, payload)));
        v4
    }

    #[test]
    fn every_protocol_with_ports_names_them() {
        let dccp = [&[0, 1, 0, 2, 3, 0, 0, 0][..], &[0; 4]].concat();
        let sctp = [&[0, 1, 0, 2][..], &[0; 8]].concat();
        let datagram = udp(1, 2, b"");
        let segment = tcp(1, 2);
        for (protocol, header) in
            [(6, &segment), (17, &datagram), (33, &dccp), (132, &sctp), (136, &datagram)]
        {
            assert_eq!(ports(protocol, header), Ok((1, 2, true)), "protocol {protocol}");
            for len in 0..header.len() {
                let verdict = ports(protocol, &header[..len]);
                assert_eq!(verdict, Err(Malformed::Transport), "protocol {protocol}, {len} bytes");
            }
        }
    }

    #[test]
    fn port_zero_is_a_port() {
        assert_eq!(ports(6, &tcp(0, 0)), Ok((0, 0, true)));
        assert_eq!(ports(17, &udp(0, 0, b"")), Ok((0, 0, true)));
    }

    #[test]
    fn a_protocol_without_ports_has_none() {
        for protocol in [4, 41, 46, 47, 89, 103, 112, 200, 255] {
            assert_eq!(ports(protocol, &[0xff; 40]), Ok((0, 0, false)), "protocol {protocol}");
            assert_eq!(ports(protocol, &[]), Ok((0, 0, false)), "protocol {protocol}");
        }
    }

    #[test]
    fn the_tcp_header_is_five_words_or_more_and_within_the_packet() {
        for words in 0..16_u8 {
            let segment = [patched(tcp(1, 2), 12, &[words << 4 | 0x0f]), vec![0; 16]].concat();
            let expected = (5..=9).contains(&words);
            assert_eq!(ports(6, &segment).is_ok(), expected, "{words} words in 36 bytes");
        }
    }

    #[test]
    fn the_dccp_header_is_three_words_or_more_and_within_the_packet() {
        for words in 0..=255_u8 {
            let packet = [&[0, 1, 0, 2, words][..], &[0; 15]].concat();
            let expected = (3..=5).contains(&words);
            assert_eq!(ports(33, &packet).is_ok(), expected, "{words} words in 20 bytes");
        }
    }

    #[test]
    fn the_udp_length_is_eight_or_more_and_within_the_packet() {
        for len in 0..=30_u16 {
            let datagram = patched(udp(1, 2, &[0; 12]), 4, &len.to_be_bytes());
            assert_eq!(ports(17, &datagram).is_ok(), (8..=20).contains(&len), "{len} of 20");
        }
    }

    #[test]
    fn the_udp_lite_coverage_is_all_or_covers_the_header() {
        for coverage in 0..=30_u16 {
            let datagram = patched(udp(1, 2, &[0; 12]), 4, &coverage.to_be_bytes());
            let expected = coverage == 0 || (8..=20).contains(&coverage);
            assert_eq!(ports(136, &datagram).is_ok(), expected, "{coverage} of 20");
        }
    }

    #[test]
    fn dhcp_is_told_by_family_and_destination_port() {
        let kind = |frame: Vec<u8>| packet_of(&frame).unwrap().kind;
        for (port, v4, v6) in [
            (67, IpKind::DhcpRequest, IpKind::Plain),
            (68, IpKind::DhcpReply, IpKind::Plain),
            (546, IpKind::Plain, IpKind::DhcpReply),
            (547, IpKind::Plain, IpKind::DhcpRequest),
            (53, IpKind::Plain, IpKind::Plain),
        ] {
            assert_eq!(kind(over_ipv4(17, &udp(9, port, b""))), v4, "port {port}");
            assert_eq!(kind(over_ipv6(17, &udp(9, port, b""))), v6, "port {port}");
            assert_eq!(kind(over_ipv4(6, &tcp(9, port))), IpKind::Plain, "only over UDP");
        }
    }

    #[test]
    fn igmp_is_ipv4_only_and_has_its_header() {
        assert_eq!(packet_of(&over_ipv4(2, &[0x11; 8])).unwrap().kind, IpKind::Igmp);
        assert_eq!(packet_of(&over_ipv4(2, &[0x11; 7])), Err(Malformed::Transport));
        assert_eq!(packet_of(&over_ipv6(2, &[0x11; 8])).unwrap().kind, IpKind::Plain);
    }
}
