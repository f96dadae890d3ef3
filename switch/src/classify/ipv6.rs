//! The IPv6 header (RFC 8200).

use super::cursor::Cursor;
use super::extension::Extent;
use super::transport::{self, Network};
use super::{Address, IpPacket, Malformed, Protocol};
use super::{address, extension};
use bytemuck::{Pod, Zeroable};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Header {
    /// Version (4 bits), traffic class (8), flow label (20).
    pub(super) version_class_label: [u8; 4],
    payload_len: [u8; 2],
    pub(super) next: u8,
    hop_limit: u8,
    pub(super) source: [u8; 16],
    pub(super) destination: [u8; 16],
}

impl Header {
    #[inline]
    pub(super) fn is_version_6(&self) -> bool {
        let [first, ..] = self.version_class_label;
        first >> 4 == 6
    }

    /// Bytes of the packet behind this header.
    #[inline]
    pub(super) fn rest_len(&self) -> usize {
        usize::from(u16::from_be_bytes(self.payload_len))
    }
}

/// The hop limit that no router lets through (RFC 5082).
const FROM_THIS_LINK: u8 = 255;

/// Reads the packet that begins here.
///
/// A payload length of zero means just that: jumbograms (RFC 2675) are refused with their option.
#[inline]
pub(super) fn parse(mut cursor: Cursor<'_>) -> Result<IpPacket, Malformed> {
    let offset = cursor.at();
    let header = cursor.take::<Header>(Malformed::Ipv6)?;
    if !header.is_version_6() {
        return Err(Malformed::Ipv6);
    }
    cursor.end_after(header.rest_len(), Malformed::Ipv6)?;
    let chain = extension::walk(header.next, &mut cursor, Extent::Packet)?;
    // No hop on a route is a group.
    if chain.has_routing_header && address::is_ipv6_multicast(&header.destination) {
        return Err(Malformed::ExtensionHeaders);
    }
    let is_icmp = chain.protocol == Protocol::ICMPV6;
    address::check_ipv6(&header.source, &header.destination, is_icmp)?;
    let network = Network {
        source: Address(header.source),
        destination: Address(header.destination),
        protocol: chain.protocol,
        fragment: chain.fragment,
        offset,
        is_ipv6: true,
        from_neighbor: header.hop_limit == FROM_THIS_LINK && !chain.has_fragment_header,
    };
    transport::parse(network, cursor)
}

#[cfg(test)]
mod tests {
    use crate::classify::{Address, Malformed, Protocol, packet_of};
    use usnet_fuzz::frames::{HERE_V6, PEER_V6, over_ipv6, patched, tcp};

    #[test]
    fn a_packet_says_who_talks_to_whom_and_where_its_headers_are() {
        let mut frame = over_ipv6(6, &tcp(40_000, 80));
        frame.extend([0xaa; 6]);
        let packet = packet_of(&frame).unwrap();
        assert_eq!(packet.flow.source, Address(PEER_V6));
        assert_eq!(packet.flow.destination, Address(HERE_V6));
        assert_eq!(packet.flow.protocol, Protocol::TCP);
        assert_eq!((packet.flow.source_port, packet.flow.destination_port), (40_000, 80));
        assert_eq!((packet.network_offset, packet.transport_offset, packet.end), (14, 54, 74));
    }

    #[test]
    fn only_version_six_is_read() {
        for version in 0..16_u8 {
            let frame = patched(over_ipv6(6, &tcp(1, 2)), 14, &[version << 4 | 0x0f]);
            assert_eq!(packet_of(&frame).is_ok(), version == 6, "{version}");
        }
    }

    #[test]
    fn the_payload_lies_within_the_frame_and_may_be_empty() {
        for len in 0..=40_u16 {
            let frame = patched(over_ipv6(253, &[0; 20]), 18, &len.to_be_bytes());
            let packet = packet_of(&frame);
            if len <= 20 {
                assert_eq!(packet.unwrap().end, 54 + len);
            } else {
                assert_eq!(packet, Err(Malformed::Ipv6), "{len}");
            }
        }
    }

    #[test]
    fn a_jumbogram_is_refused() {
        let jumbo = [&[6, 0, 0xc2, 4, 0, 1, 0, 0][..], &tcp(1, 2)].concat();
        let frame = patched(over_ipv6(0, &jumbo), 18, &[0, 0]);
        assert_eq!(packet_of(&frame), Err(Malformed::ExtensionHeaders));
        assert_eq!(packet_of(&over_ipv6(0, &jumbo)), Err(Malformed::ExtensionHeaders));
    }
}
