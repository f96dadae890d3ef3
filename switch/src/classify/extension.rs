//! The chain of IPv6 extension headers (RFC 8200 4), and the authentication header in both families.
//!
//! ```text
//!   hop-by-hop?  (destination options | routing | fragment | authentication)*  upper layer
//!   only first   at most eight headers in all, at most one of them a fragment header
//! ```
//!
//! The walk ends at a transport protocol, at an encrypted payload, at "no next header", at anything
//! else, and at the fragment header of a piece that is not the first.

use super::cursor::Cursor;
use super::fragment::Piece;
use super::{Fragment, Malformed, Protocol, options};
use bytemuck::{Pod, Zeroable};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

const MAX_HEADERS: usize = 8;

/// How much of a packet there is to walk in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// All of it.
    Packet,
    /// Its beginning, quoted by an error: where the packet ends is not known.
    Quote,
}

/// What a chain of extension headers comes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    pub(super) protocol: Protocol,
    pub(super) fragment: Fragment,
    /// Also of an atomic fragment, which counts as whole.
    pub(super) has_fragment_header: bool,
    /// Used up, or the walk would have ended.
    pub(super) has_routing_header: bool,
}

impl Chain {
    #[inline(always)]
    fn beginning_with(first: u8) -> Self {
        Self {
            protocol: Protocol(first),
            fragment: Fragment::Whole,
            has_fragment_header: false,
            has_routing_header: false,
        }
    }
}

/// How hop-by-hop and destination options begin.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct OptionsHeader {
    next: u8,
    /// In units of eight bytes, without the first eight.
    len: u8,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RoutingHeader {
    next: u8,
    /// In units of eight bytes, without the first eight.
    len: u8,
    kind: u8,
    segments_left: u8,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct FragmentHeader {
    next: u8,
    reserved: u8,
    /// Offset in bytes (the lowest three bits masked), reserved (2 bits), more fragments (1).
    offset_more: [u8; 2],
    id: [u8; 4],
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct AuthenticationHeader {
    next: u8,
    /// In units of four bytes, without the first eight (RFC 4302 2.2).
    len: u8,
    reserved: [u8; 2],
    parameters: [u8; 4],
    sequence: [u8; 4],
}

/// Walks the chain that begins with a header of type `first`; the cursor is then behind it.
#[inline]
pub(super) fn walk(first: u8, cursor: &mut Cursor<'_>, extent: Extent) -> Result<Chain, Malformed> {
    if is_extension(first) {
        return walk_on(first, cursor, extent);
    }
    Ok(Chain::beginning_with(first))
}

#[inline]
fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

#[cold]
fn walk_on(first: u8, cursor: &mut Cursor<'_>, extent: Extent) -> Result<Chain, Malformed> {
    let begin = cursor.at();
    let mut chain = Chain::beginning_with(first);
    for position in 0..MAX_HEADERS {
        chain.protocol.0 = match chain.protocol.0 {
            HOP_BY_HOP if position == 0 => skip_options(cursor)?,
            DESTINATION_OPTIONS => skip_options(cursor)?,
            ROUTING => {
                chain.has_routing_header = true;
                skip_routing(cursor)?
            }
            AUTHENTICATION => skip_authentication(cursor)?,
            FRAGMENT if !chain.has_fragment_header => {
                chain.has_fragment_header = true;
                // `begin` was an earlier value of `at`.
                let repeated = cursor.at().saturating_sub(begin);
                let (next, piece) = read_fragment(cursor, repeated, extent)?;
                chain.fragment = piece;
                next
            }
            // A second fragment header, or hop-by-hop options that are not first.
            _ => return Err(Malformed::ExtensionHeaders),
        };
        let is_later = matches!(chain.fragment, Fragment::Later { .. });
        if is_later || !is_extension(chain.protocol.0) {
            return Ok(chain);
        }
    }
    Err(Malformed::ExtensionHeaders)
}

fn skip_options(cursor: &mut Cursor<'_>) -> Result<u8, Malformed> {
    let header = cursor.take::<OptionsHeader>(Malformed::ExtensionHeaders)?;
    let len = (usize::from(header.len) << 3) | 6;
    options::check_ipv6(cursor.take_bytes(len, Malformed::ExtensionHeaders)?)?;
    Ok(header.next)
}

/// Passes a routing header that has been used up. With segments left the packet is on its way to
/// someone else; mobile (2), RPL (3) and segment routing (4) headers mean something even then.
fn skip_routing(cursor: &mut Cursor<'_>) -> Result<u8, Malformed> {
    let header = cursor.take::<RoutingHeader>(Malformed::ExtensionHeaders)?;
    if header.segments_left != 0 || matches!(header.kind, 2..=4) {
        return Err(Malformed::ExtensionHeaders);
    }
    cursor.take_bytes((usize::from(header.len) << 3) | 4, Malformed::ExtensionHeaders)?;
    Ok(header.next)
}

fn read_fragment(
    cursor: &mut Cursor<'_>,
    repeated: usize,
    extent: Extent,
) -> Result<(u8, Fragment), Malformed> {
    let header = cursor.take::<FragmentHeader>(Malformed::ExtensionHeaders)?;
    if matches!(header.next, HOP_BY_HOP | FRAGMENT) {
        return Err(Malformed::ExtensionHeaders);
    }
    let bits = u16::from_be_bytes(header.offset_more);
    let piece = Piece {
        id: u32::from_be_bytes(header.id),
        offset: usize::from(bits & 0xfff8),
        more: bits & 1 != 0,
        len: (extent == Extent::Packet).then_some(cursor.left()),
        repeated,
        protocol: Protocol(header.next),
    };
    Ok((header.next, piece.check()?))
}

fn skip_authentication(cursor: &mut Cursor<'_>) -> Result<u8, Malformed> {
    let header = cursor.take::<AuthenticationHeader>(Malformed::ExtensionHeaders)?;
    let Some(rest) = header.len.checked_sub(1) else { return Err(Malformed::ExtensionHeaders) };
    cursor.take_bytes(usize::from(rest) << 2, Malformed::ExtensionHeaders)?;
    Ok(header.next)
}

/// Passes authentication headers of an IPv4 packet; the cursor is at the first one.
#[cold]
pub(super) fn walk_authentication(cursor: &mut Cursor<'_>) -> Result<Protocol, Malformed> {
    for _ in 0..MAX_HEADERS {
        let next = skip_authentication(cursor)?;
        if next != AUTHENTICATION {
            return Ok(Protocol(next));
        }
    }
    Err(Malformed::ExtensionHeaders)
}

#[cfg(test)]
mod tests {
    use crate::classify::{Fragment, Malformed, Protocol, packet_of};
    use usnet_fuzz::frames::{
        ipv6_fragment, ipv6_options, over_ipv4, over_ipv6, patched, tcp, udp,
    };

    const ROUTING_USED_UP: [u8; 8] = [60, 0, 0, 0, 0, 0, 0, 0];

    /// A packet whose chain of headers these are, each saying what follows it, and TCP at its end.
    fn chain(first: u8, headers: &[&[u8]]) -> Vec<u8> {
        over_ipv6(first, &[headers.concat(), tcp(1, 2)].concat())
    }

    fn authentication(next: u8, len: u8) -> Vec<u8> {
        let mut header = vec![0; (usize::from(len) + 2) * 4];
        header[..2].copy_from_slice(&[next, len]);
        header
    }

    #[test]
    fn the_walk_passes_every_kind_of_header_and_finds_the_ports() {
        let headers: [&[u8]; 5] = [
            &ipv6_options(43),
            &ROUTING_USED_UP,
            &ipv6_options(44),
            &ipv6_fragment(51, 0, false),
            &authentication(6, 4),
        ];
        let packet = packet_of(&chain(0, &headers)).unwrap();
        assert_eq!(packet.flow.protocol, Protocol::TCP);
        assert_eq!((packet.flow.source_port, packet.flow.destination_port), (1, 2));
        assert_eq!(packet.fragment, Fragment::Whole, "an atomic fragment");
        assert_eq!(packet.transport_offset, 54 + 8 + 8 + 8 + 8 + 24);
    }

    #[test]
    fn eight_headers_pass_and_nine_do_not() {
        for count in 1..=9 {
            let mut headers = ipv6_options(60).repeat(count - 1);
            headers.extend(ipv6_options(6));
            let verdict = packet_of(&chain(60, &[&headers])).map(|it| it.flow.destination_port);
            let expected = if count <= 8 { Ok(2) } else { Err(Malformed::ExtensionHeaders) };
            assert_eq!(verdict, expected, "{count} headers");
        }
    }

    #[test]
    fn hop_by_hop_options_come_first_or_not_at_all() {
        assert!(packet_of(&chain(0, &[&ipv6_options(6)])).is_ok());
        let verdict = packet_of(&chain(60, &[&ipv6_options(0), &ipv6_options(6)]));
        assert_eq!(verdict, Err(Malformed::ExtensionHeaders));
        let verdict = packet_of(&chain(0, &[&ipv6_options(0), &ipv6_options(6)]));
        assert_eq!(verdict, Err(Malformed::ExtensionHeaders));
        let verdict = packet_of(&chain(44, &[&ipv6_fragment(0, 0, false), &ipv6_options(6)]));
        assert_eq!(verdict, Err(Malformed::ExtensionHeaders));
    }

    #[test]
    fn a_header_past_the_packet_is_malformed() {
        for kind in [0, 43, 44, 51, 60] {
            for len in 0..8 {
                let cut = over_ipv6(kind, &[6, 0, 0, 0, 0, 0, 0, 0][..len]);
                assert_eq!(packet_of(&cut), Err(Malformed::ExtensionHeaders), "{kind}, {len}");
            }
        }
        let long = [&[6, 3, 1, 4, 0, 0, 0, 0][..], &[0; 20]].concat();
        for kind in [0, 43, 60] {
            assert_eq!(packet_of(&over_ipv6(kind, &long)), Err(Malformed::ExtensionHeaders));
        }
    }

    #[test]
    fn a_routing_header_has_no_segments_left_and_no_further_meaning() {
        for kind in 0..=255 {
            for left in [0, 1, 255] {
                let header = [6, 0, kind, left, 0, 0, 0, 0];
                let is_idle = left == 0 && !(2..=4).contains(&kind);
                let verdict = packet_of(&chain(43, &[&header]));
                assert_eq!(verdict.is_ok(), is_idle, "type {kind}, {left} left");
            }
        }
    }

    #[test]
    fn a_route_does_not_lead_to_a_group() {
        let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let routed = patched(chain(43, &[&[6, 0, 0, 0, 0, 0, 0, 0]]), 38, &group);
        assert_eq!(packet_of(&routed), Err(Malformed::ExtensionHeaders));
        assert!(packet_of(&patched(chain(6, &[]), 38, &group)).is_ok());
    }

    #[test]
    fn a_second_fragment_header_is_malformed() {
        let atomic = ipv6_fragment(44, 0, false);
        let verdict = packet_of(&chain(44, &[&atomic, &ipv6_fragment(6, 0, false)]));
        assert_eq!(verdict, Err(Malformed::ExtensionHeaders));
        let between = [ipv6_fragment(60, 0, false), ipv6_options(44)].concat();
        let verdict = packet_of(&chain(44, &[&between, &ipv6_fragment(6, 0, false)]));
        assert_eq!(verdict, Err(Malformed::ExtensionHeaders));
    }

    #[test]
    fn encrypted_and_absent_payloads_end_the_walk_without_ports() {
        for next in [50, 59, 135, 139, 253] {
            let packet = packet_of(&chain(60, &[&ipv6_options(next)])).unwrap();
            assert_eq!(packet.flow.protocol, Protocol(next));
            assert!(!packet.flow.ports_known);
            assert_eq!((packet.flow.source_port, packet.flow.destination_port), (0, 0));
        }
        assert!(packet_of(&over_ipv6(59, b"")).is_ok());
    }

    #[test]
    fn an_authentication_header_is_passed_in_both_families() {
        for len in 1..=40 {
            let payload = [authentication(17, len), udp(1, 2, b"x")].concat();
            for frame in [over_ipv4(51, &payload), over_ipv6(51, &payload)] {
                let flow = packet_of(&frame).unwrap().flow;
                assert_eq!((flow.protocol, flow.destination_port), (Protocol::UDP, 2));
            }
        }
        let zero = [&[17, 0][..], &[0; 30]].concat();
        let past = [&[17, 255][..], &[0; 30]].concat();
        for payload in [&zero[..], &past, &zero[..11]] {
            for frame in [over_ipv4(51, payload), over_ipv6(51, payload)] {
                assert_eq!(packet_of(&frame), Err(Malformed::ExtensionHeaders));
            }
        }
        let nine =
            [authentication(51, 1).repeat(8), authentication(17, 1), udp(1, 2, b"")].concat();
        for frame in [over_ipv4(51, &nine), over_ipv6(51, &nine)] {
            assert_eq!(packet_of(&frame), Err(Malformed::ExtensionHeaders));
        }
    }
}
