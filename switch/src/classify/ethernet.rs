//! The link header: Ethernet II or 802.3, with up to two VLAN tags (IEEE 802.1Q, 802.1ad).
//!
//! ```text
//!   destination 6 | source 6 | [0x8100 or 0x88a8, tag 2] x 0..=2 | EtherType 2 | payload
//! ```
//!
//! A priority tag (identifier 0) says nothing about membership and counts as absent, in either place,
//! as in Linux: 0 then 5 is VLAN 5. Customer and service tags are not told apart in the answer; who
//! cares looks at bytes 12 and 13 of the frame.

use super::cursor::Cursor;
use super::{Mac, Malformed};
use bytemuck::{Pod, Zeroable};

/// What follows the link header; under 0x0600 an 802.3 length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EtherType(pub(super) u16);

impl EtherType {
    pub(super) const IPV4: Self = Self(0x0800);
    pub(super) const ARP: Self = Self(0x0806);
    pub(super) const IPV6: Self = Self(0x86dd);
    pub(super) const EAPOL: Self = Self(0x888e);
    const CUSTOMER_TAG: Self = Self(0x8100);
    const SERVICE_TAG: Self = Self(0x88a8);

    fn is_tag(self) -> bool {
        matches!(self, Self::CUSTOMER_TAG | Self::SERVICE_TAG)
    }
}

/// A link header, tags included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) destination: Mac,
    pub(super) source: Mac,
    pub(super) vlan: Option<u16>,
    pub(super) inner_vlan: Option<u16>,
    pub(super) ether_type: EtherType,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Header {
    pub(super) destination: [u8; 6],
    pub(super) source: [u8; 6],
    ether_type: [u8; 2],
}

impl Header {
    #[inline]
    pub(super) fn ether_type(&self) -> EtherType {
        EtherType(u16::from_be_bytes(self.ether_type))
    }
}

/// A tag as it follows the 0x8100 that announces it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Tag {
    /// Priority (3 bits), drop eligible (1), identifier (12).
    control: [u8; 2],
    ether_type: [u8; 2],
}

/// Reads the link header; the cursor is then at what it carries.
#[inline]
pub(super) fn parse(cursor: &mut Cursor<'_>) -> Result<Link, Malformed> {
    let header = cursor.take::<Header>(Malformed::Link)?;
    let mut link = Link {
        destination: Mac(header.destination),
        source: Mac(header.source),
        vlan: None,
        inner_vlan: None,
        ether_type: header.ether_type(),
    };
    if link.source.is_group() {
        return Err(Malformed::Address);
    }
    if link.ether_type.is_tag() {
        tags(cursor, &mut link)?;
    }
    Ok(link)
}

#[cold]
fn tags(cursor: &mut Cursor<'_>, link: &mut Link) -> Result<(), Malformed> {
    let outer = tag(cursor, link)?;
    let inner = if link.ether_type.is_tag() { tag(cursor, link)? } else { None };
    if link.ether_type.is_tag() {
        return Err(Malformed::Vlan);
    }
    (link.vlan, link.inner_vlan) = match (outer, inner) {
        (None, inner) => (inner, None),
        both => both,
    };
    Ok(())
}

/// One tag's identifier; `None` for a priority tag.
fn tag(cursor: &mut Cursor<'_>, link: &mut Link) -> Result<Option<u16>, Malformed> {
    const RESERVED: u16 = 0x0fff;
    let tag = cursor.take::<Tag>(Malformed::Link)?;
    link.ether_type = EtherType(u16::from_be_bytes(tag.ether_type));
    match u16::from_be_bytes(tag.control) & 0x0fff {
        0 => Ok(None),
        RESERVED => Err(Malformed::Vlan),
        id => Ok(Some(id)),
    }
}

#[cfg(test)]
mod tests {
    use crate::classify::{Classified, Mac, Malformed, Payload, classify};
    use usnet_fuzz::frames::{HERE_MAC, PEER_MAC, ethernet, over_ipv4, patched, tag, tcp};

    const OTHER: u16 = 0x88cc;

    /// Which VLANs a frame with these tags, outermost first, is in.
    fn vlans(tags: &[(u16, u16)]) -> Result<(Option<u16>, Option<u16>), Malformed> {
        let mut frame = ethernet(OTHER, b"payload");
        for &(kind, control) in tags.iter().rev() {
            frame = tag(kind, control, &frame);
        }
        classify(&frame).map(|it| {
            assert_eq!(it.payload, Payload::Other(OTHER), "what the tags carry");
            (it.vlan, it.inner_vlan)
        })
    }

    #[test]
    fn both_link_addresses_are_read() {
        let Classified { destination, source, .. } = classify(&ethernet(OTHER, b"")).unwrap();
        assert_eq!((destination, source), (Mac(HERE_MAC), Mac(PEER_MAC)));
    }

    #[test]
    fn a_frame_shorter_than_its_link_header_is_malformed() {
        let frame = tag(0x8100, 5, &ethernet(OTHER, b""));
        for len in 0..frame.len() {
            let verdict = classify(&frame[..len]);
            assert_eq!(verdict, Err(Malformed::Link), "{len} bytes");
        }
        assert!(classify(&frame).is_ok());
    }

    #[test]
    fn a_frame_longer_than_a_descriptor_can_say_is_malformed() {
        let mut frame = over_ipv4(6, &tcp(1, 2));
        frame.resize(65_535, 0);
        assert!(classify(&frame).is_ok());
        frame.push(0);
        assert_eq!(classify(&frame), Err(Malformed::Link));
    }

    #[test]
    fn nobody_sends_from_a_group_address() {
        for source in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            let frame = patched(over_ipv4(6, &tcp(1, 2)), 6, &source);
            assert_eq!(classify(&frame), Err(Malformed::Address));
        }
    }

    #[test]
    fn tags_name_the_outer_and_the_inner_vlan() {
        assert_eq!(vlans(&[]), Ok((None, None)));
        assert_eq!(vlans(&[(0x8100, 5)]), Ok((Some(5), None)));
        assert_eq!(vlans(&[(0x88a8, 4094)]), Ok((Some(4094), None)));
        assert_eq!(vlans(&[(0x88a8, 7), (0x8100, 5)]), Ok((Some(7), Some(5))));
        assert_eq!(vlans(&[(0x8100, 7), (0x8100, 7)]), Ok((Some(7), Some(7))));
    }

    #[test]
    fn priority_is_no_part_of_the_identifier() {
        assert_eq!(vlans(&[(0x8100, 0xf005)]), Ok((Some(5), None)));
    }

    #[test]
    fn a_priority_tag_counts_as_absent_wherever_it_stands() {
        assert_eq!(vlans(&[(0x8100, 0xe000)]), Ok((None, None)));
        assert_eq!(vlans(&[(0x8100, 0), (0x8100, 5)]), Ok((Some(5), None)));
        assert_eq!(vlans(&[(0x8100, 5), (0x8100, 0)]), Ok((Some(5), None)));
        assert_eq!(vlans(&[(0x88a8, 0), (0x8100, 0)]), Ok((None, None)));
    }

    #[test]
    fn a_third_tag_and_the_reserved_identifier_are_malformed() {
        assert_eq!(vlans(&[(0x8100, 5); 3]), Err(Malformed::Vlan));
        assert_eq!(vlans(&[(0x8100, 0); 3]), Err(Malformed::Vlan));
        assert_eq!(vlans(&[(0x8100, 0x0fff)]), Err(Malformed::Vlan));
        assert_eq!(vlans(&[(0x8100, 5), (0x8100, 0xffff)]), Err(Malformed::Vlan));
    }

    #[test]
    fn a_tagged_packet_is_read_like_an_untagged_one() {
        let plain = over_ipv4(6, &tcp(40_000, 80));
        let flow = |frame: &[u8]| match classify(frame).unwrap().payload {
            Payload::Ip(packet) => (packet.flow, packet.network_offset, packet.transport_offset),
            other => panic!("{other:?}"),
        };
        let (untagged, ..) = flow(&plain);
        assert_eq!(flow(&tag(0x8100, 5, &plain)), (untagged, 18, 38));
        assert_eq!(flow(&tag(0x88a8, 6, &tag(0x8100, 5, &plain))), (untagged, 22, 42));
    }

    #[test]
    fn what_is_not_understood_is_named_by_its_ether_type_or_length() {
        for kind in [0, 38, 1500, 0x0600, 0x9100, 0xffff] {
            let payload = classify(&ethernet(kind, b"x")).unwrap().payload;
            assert_eq!(payload, Payload::Other(kind));
        }
        assert_eq!(classify(&ethernet(0x888e, b"")).unwrap().payload, Payload::Eapol);
    }
}
