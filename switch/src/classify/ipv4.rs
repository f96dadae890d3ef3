//! The IPv4 header (RFC 791).

use super::cursor::Cursor;
use super::fragment::Piece;
use super::transport::{self, Network};
use super::{Address, Fragment, IpPacket, Malformed, Protocol};
use super::{address, extension, options};
use bytemuck::{Pod, Zeroable};

/// The part of the header that every packet has.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Header {
    /// Version (4 bits) and length of the header in words of four bytes (4).
    pub(super) version_words: u8,
    service: u8,
    total_len: [u8; 2],
    id: [u8; 2],
    /// Reserved (1 bit), don't fragment (1), more fragments (1), offset in units of eight bytes (13).
    fragment: [u8; 2],
    hop_limit: u8,
    pub(super) protocol: u8,
    checksum: [u8; 2],
    pub(super) source: [u8; 4],
    pub(super) destination: [u8; 4],
}

const RESERVED: u16 = 0x8000;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
const FIXED_LEN: usize = size_of::<Header>();

/// Version 4, five words.
pub(super) const WITHOUT_OPTIONS: u8 = 0x45;

impl Header {
    /// Bytes of options, if version and length can be true.
    #[inline]
    pub(super) fn options_len(&self) -> Option<usize> {
        match self.version_words {
            WITHOUT_OPTIONS => Some(0),
            0x46..=0x4f => (usize::from(self.version_words & 0x0f) << 2).checked_sub(FIXED_LEN),
            _ => None,
        }
    }

    /// Bytes of the packet behind the fixed part.
    #[inline]
    pub(super) fn rest_len(&self) -> Option<usize> {
        usize::from(u16::from_be_bytes(self.total_len)).checked_sub(FIXED_LEN)
    }

    /// Whether any of those bits is set that a plain, whole packet does not have.
    #[inline]
    pub(super) fn is_piece_or_reserved(&self) -> bool {
        u16::from_be_bytes(self.fragment) & (RESERVED | MORE | OFFSET) != 0
    }

    /// Whether this is a piece of a datagram but not the first.
    #[inline]
    pub(super) fn is_later_piece(&self) -> bool {
        u16::from_be_bytes(self.fragment) & OFFSET != 0
    }
}

/// Reads the packet that begins here.
#[inline]
pub(super) fn parse(mut cursor: Cursor<'_>) -> Result<IpPacket, Malformed> {
    let offset = cursor.at();
    let header = cursor.take::<Header>(Malformed::Ipv4)?;
    let options_len = header.options_len().ok_or(Malformed::Ipv4)?;
    cursor.end_after(header.rest_len().ok_or(Malformed::Ipv4)?, Malformed::Ipv4)?;
    if options_len != 0 {
        options::check_ipv4(cursor.take_bytes(options_len, Malformed::Ipv4)?)?;
    }
    let bits = u16::from_be_bytes(header.fragment);
    if bits & RESERVED != 0 {
        return Err(Malformed::Ipv4);
    }
    let mut protocol = Protocol(header.protocol);
    address::check_ipv4(header.source, header.destination, protocol == Protocol::IGMP)?;
    let fragment = if bits & (MORE | OFFSET) == 0 {
        Fragment::Whole
    } else {
        let piece = Piece {
            id: u32::from(u16::from_be_bytes(header.id)),
            offset: usize::from(bits & OFFSET) << 3,
            more: bits & MORE != 0,
            len: Some(cursor.left()),
            repeated: options_len.saturating_add(FIXED_LEN),
            protocol,
        };
        piece.check()?
    };
    if protocol == Protocol::AUTHENTICATION && !matches!(fragment, Fragment::Later { .. }) {
        protocol = extension::walk_authentication(&mut cursor)?;
    }
    let network = Network {
        source: Address::v4(header.source),
        destination: Address::v4(header.destination),
        protocol,
        fragment,
        offset,
        is_ipv6: false,
        from_neighbor: false,
    };
    transport::parse(network, cursor)
}

#[cfg(test)]
mod tests {
    use crate::classify::{Address, Malformed, Protocol, packet_of};
    use usnet_fuzz::frames::{HERE_V4, IPV4, PEER_V4, ethernet, ipv4, over_ipv4, patched, tcp};

    #[test]
    fn a_packet_says_who_talks_to_whom_and_where_its_headers_are() {
        let mut frame = over_ipv4(6, &tcp(40_000, 80));
        frame.extend([0xaa; 6]);
        let packet = packet_of(&frame).unwrap();
        assert_eq!(packet.flow.source, Address::v4(PEER_V4));
        assert_eq!(packet.flow.destination, Address::v4(HERE_V4));
        assert_eq!(packet.flow.protocol, Protocol::TCP);
        assert_eq!((packet.flow.source_port, packet.flow.destination_port), (40_000, 80));
        assert!(packet.flow.ports_known);
        assert_eq!((packet.network_offset, packet.transport_offset, packet.end), (14, 34, 54));
    }

    #[test]
    fn options_move_the_transport_header() {
        for words in 0..=10 {
            let frame = ethernet(IPV4, &ipv4(6, &[1; 4].repeat(words), 0, &tcp(1, 2)));
            let packet = packet_of(&frame).unwrap();
            assert_eq!(usize::from(packet.transport_offset), 34 + 4 * words);
            assert_eq!(packet.flow.destination_port, 2);
        }
    }

    #[test]
    fn the_length_of_the_header_is_five_words_or_more_and_within_the_packet() {
        for first in 0..=255_u8 {
            let frame = patched(over_ipv4(253, &[1; 12]), 14, &[first]);
            // Twelve bytes of "no operation" are the most that options can take here.
            assert_eq!(packet_of(&frame).is_ok(), matches!(first, 0x45..=0x48), "{first:#x}");
        }
    }

    #[test]
    fn the_total_length_covers_the_header_and_lies_within_the_frame() {
        for len in 0..=60_u16 {
            let frame = patched(over_ipv4(253, &[0; 20]), 16, &len.to_be_bytes());
            let packet = packet_of(&frame);
            if (20..=40).contains(&len) {
                assert_eq!(packet.unwrap().end, 14 + len);
            } else {
                assert_eq!(packet, Err(Malformed::Ipv4), "{len}");
            }
        }
    }

    #[test]
    fn the_reserved_flag_is_malformed_and_dont_fragment_is_not() {
        let with = |bits: u16| packet_of(&ethernet(IPV4, &ipv4(6, &[], bits, &tcp(1, 2))));
        assert_eq!(with(0x8000), Err(Malformed::Ipv4));
        assert_eq!(with(0x4000), with(0));
        assert!(with(0).is_ok());
    }
}
