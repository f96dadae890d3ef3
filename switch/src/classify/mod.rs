//! Stage 1 of a frame's way: bytes to a [`Classified`] or a [`Malformed`].
//!
//! ```text
//!   frame ─► common: plain TCP and UDP, done
//!     └────► ethernet ─► tags ─┬─► arp
//!                              ├─► ipv4 ─► options ───────────┐
//!                              ├─► ipv6 ─► extension headers ─┼─► fragment ─► transport ─► flow
//!                              └─► EAPOL, other               │                 └─► icmp ─► quote
//! ```
//!
//! One file a header, no state, no allocation. Invariants:
//!
//! - Total: any bytes give an answer, and no byte past the frame is read. Every header is cut from a
//!   `Cursor`, which knows how much of the frame was given and where the packet ends.
//! - Strict: what is accepted is what the RFC allows *and* what Linux accepts; a frame that two
//!   stacks could read differently is [`Malformed`], hence dropped, never forwarded by default.
//! - Every loop is bounded: two tags, eight extension headers, options within their header.
//! - Checksums are *not* verified. Of received frames the NIC or the receiving stack does that; a
//!   frame with a wrong checksum can only reach the client that its header names. Frames with a
//!   checksum left to the hardware are therefore accepted as they are.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod address;
mod arp;
mod common;
mod cursor;
mod ethernet;
mod extension;
mod fragment;
mod icmp;
mod ipv4;
mod ipv6;
mod key;
mod options;
mod quote;
mod transport;

pub use key::{
    Address, ArpPacket, Classified, Flow, Fragment, Icmp, IpKind, IpPacket, Mac, Malformed,
    Payload, Plain, Protocol,
};

use cursor::Cursor;
use ethernet::EtherType;

/// How many leading bytes of a client's frame are copied first: one cache line, which has all headers
/// of nearly every frame that is [`Plain`].
pub const FIRST_LEN: usize = 64;

/// How many leading bytes of a client's frame are copied at most, and given to [`classify_head`].
///
/// Enough for two tags, an IPv6 header, 60 bytes of extension headers and a TCP header, and for an
/// ICMPv6 error with the quoted ports.
pub const HEAD_LEN: usize = 128;

/// The longest frame that is accepted, in bytes: what the 16 bits of a descriptor can say.
pub const MAX_FRAME_LEN: usize = u16::MAX as usize;

/// Says what a whole frame is.
///
/// `frame` begins with the Ethernet destination address and has no frame check sequence. It may be
/// of any length and hold any bytes.
///
/// # Errors
///
/// The reason for which the frame has to be dropped; never [`Malformed::HeadTooShort`].
#[inline]
pub fn classify(frame: &[u8]) -> Result<Classified, Malformed> {
    parse(frame, frame.len())
}

/// Says what a frame of `frame_len` bytes is, given only its beginning.
///
/// `head` is the first `min(frame_len, HEAD_LEN)` bytes of the frame (more or fewer are fine too),
/// copied to where the frame's sender cannot change them. The answer is that of [`classify`] on the
/// whole frame if all headers that decide it lie within `head`.
///
/// # Errors
///
/// As [`classify`], and [`Malformed::HeadTooShort`] where a header that decides reaches past `head`.
#[inline]
pub fn classify_head(head: &[u8], frame_len: usize) -> Result<Classified, Malformed> {
    parse(head.get(..frame_len).unwrap_or(head), frame_len)
}

/// Says what a frame of `frame_len` bytes is, given only its beginning, if it is of the most common
/// kind: then the answer is that of [`classify_head`]. `None` says nothing about the frame.
#[inline(always)]
#[must_use]
pub fn classify_plain(head: &[u8], frame_len: usize) -> Option<Plain> {
    if frame_len > MAX_FRAME_LEN {
        return None;
    }
    common::parse(Cursor::new(head.get(..frame_len).unwrap_or(head), frame_len))
}

fn parse(head: &[u8], frame_len: usize) -> Result<Classified, Malformed> {
    if frame_len > MAX_FRAME_LEN {
        return Err(Malformed::Link);
    }
    let cursor = Cursor::new(head, frame_len);
    match common::parse(cursor) {
        Some(plain) => Ok(plain.into()),
        None => parse_any(cursor),
    }
}

/// The long way, which is right for every frame.
#[inline(never)]
fn parse_any(mut cursor: Cursor<'_>) -> Result<Classified, Malformed> {
    let link = ethernet::parse(&mut cursor)?;
    let payload = match link.ether_type {
        EtherType::IPV4 => Payload::Ip(ipv4::parse(cursor)?),
        EtherType::IPV6 => Payload::Ip(ipv6::parse(cursor)?),
        EtherType::ARP => Payload::Arp(arp::parse(cursor)?),
        EtherType::EAPOL => Payload::Eapol,
        other => Payload::Other(other.0),
    };
    Ok(Classified {
        destination: link.destination,
        source: link.source,
        vlan: link.vlan,
        inner_vlan: link.inner_vlan,
        payload,
    })
}

/// The IP packet in a frame, for the tests of each header.
#[cfg(test)]
fn packet_of(frame: &[u8]) -> Result<IpPacket, Malformed> {
    classify(frame).map(|it| match it.payload {
        Payload::Ip(packet) => packet,
        other => panic!("{other:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use usnet_fuzz::frames::{over_ipv4, over_ipv6, tcp};

    #[test]
    fn a_head_with_all_headers_answers_like_the_frame() {
        for (mut frame, headers) in [(over_ipv4(6, &tcp(1, 2)), 54), (over_ipv6(6, &tcp(1, 2)), 74)]
        {
            frame.resize(1514, 0);
            let end = u16::try_from(frame.len()).unwrap();
            // The packet fills the frame, so that the head alone cannot say where it ends.
            let len = if headers == 54 { end - 14 } else { end - 54 };
            let at = if headers == 54 { 16 } else { 18 };
            frame[at..at + 2].copy_from_slice(&len.to_be_bytes());
            let whole = classify(&frame);
            assert!(whole.is_ok());
            for len in 0..headers {
                let answer = classify_head(&frame[..len], frame.len());
                assert_eq!(answer, Err(Malformed::HeadTooShort), "{len} bytes");
            }
            for len in [headers, HEAD_LEN, frame.len()] {
                assert_eq!(classify_head(&frame[..len], frame.len()), whole, "{len} bytes");
            }
        }
    }

    #[test]
    fn a_head_longer_than_the_frame_is_cut() {
        let frame = over_ipv4(6, &tcp(1, 2));
        let mut head = frame.clone();
        head.extend([0xff; 40]);
        assert_eq!(classify_head(&head, frame.len()), classify(&frame));
        assert_eq!(classify_head(&head, 13), Err(Malformed::Link));
    }

    #[test]
    fn what_is_wrong_in_the_head_needs_no_more_of_the_frame() {
        let mut frame = over_ipv4(6, &tcp(1, 2));
        frame[14] = 0x65;
        assert_eq!(classify_head(&frame[..34], 1514), Err(Malformed::Ipv4));
        assert_eq!(classify_head(&[], MAX_FRAME_LEN + 1), Err(Malformed::Link));
    }
}
