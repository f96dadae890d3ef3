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
