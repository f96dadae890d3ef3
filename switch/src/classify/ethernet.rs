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
