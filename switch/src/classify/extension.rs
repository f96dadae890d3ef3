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
    let protocol = Protocol(first);
    Ok(Chain { protocol, fragment: Fragment::Whole, has_fragment_header: false })
}

#[inline]
fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

#[cold]
fn walk_on(first: u8, cursor: &mut Cursor<'_>, extent: Extent) -> Result<Chain, Malformed> {
    let begin = cursor.at();
    let mut fragment = Fragment::Whole;
    let mut has_fragment_header = false;
    let mut next = first;
    for position in 0..=MAX_HEADERS {
        if !is_extension(next) {
            return Ok(Chain { protocol: Protocol(next), fragment, has_fragment_header });
        }
        if position == MAX_HEADERS {
            break;
        }
        next = match next {
            HOP_BY_HOP if position == 0 => skip_options(cursor)?,
            DESTINATION_OPTIONS => skip_options(cursor)?,
            ROUTING => skip_routing(cursor)?,
            AUTHENTICATION => skip_authentication(cursor)?,
            FRAGMENT if !has_fragment_header => {
                has_fragment_header = true;
                // `begin` was an earlier value of `at`.
                let repeated = cursor.at().saturating_sub(begin);
                let (after, piece) = read_fragment(cursor, repeated, extent)?;
                fragment = piece;
                if let Fragment::Later { .. } = fragment {
                    return Ok(Chain { protocol: Protocol(after), fragment, has_fragment_header });
                }
                after
            }
            // A second fragment header, or hop-by-hop options that are not first.
            _ => break,
        };
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
