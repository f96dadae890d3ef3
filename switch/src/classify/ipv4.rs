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
