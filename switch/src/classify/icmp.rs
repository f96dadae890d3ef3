//! ICMP (RFC 792) and ICMPv6 (RFC 4443, RFC 4861): echoes, errors, and what runs the link.

use super::address::is_ipv6_unicast;
use super::cursor::Cursor;
use super::quote;
use super::{Address, Icmp, Malformed};
use bytemuck::{Pod, Zeroable};

/// How every message begins.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    kind: u8,
    code: u8,
    checksum: [u8; 2],
    /// Of an echo; otherwise something else.
    identifier: [u8; 2],
    sequence: [u8; 2],
}

/// A message, and its identifier if it is an echo.
pub(super) type Message = (Icmp, Option<u16>);

/// Reads an ICMP message; `cut` if it is shorter than its header.
pub(super) fn parse_v4(mut cursor: Cursor<'_>, cut: Malformed) -> Result<Message, Malformed> {
    let header = cursor.take::<Header>(cut)?;
    let identifier = Some(u16::from_be_bytes(header.identifier));
    Ok(match (header.kind, header.code) {
        (8, 0) => (Icmp::EchoRequest, identifier),
        (0, 0) => (Icmp::EchoReply, identifier),
        // Unreachable, source quench, redirect, time exceeded, parameter problem.
        (3 | 4 | 5 | 11 | 12, _) => {
            (Icmp::Error { quoted: quote::unless_cut(quote::parse_v4(cursor))? }, None)
        }
        (kind, code) => (Icmp::Other { kind, code }, None),
    })
}

/// Reads an ICMPv6 message; `cut` if it is shorter than its header. `from_neighbor`: it was not
/// routed and has no fragment header, without which neighbour discovery must not be believed
/// (RFC 4861 7.1, RFC 6980).
pub(super) fn parse_v6(
    mut cursor: Cursor<'_>,
    cut: Malformed,
    from_neighbor: bool,
) -> Result<Message, Malformed> {
    const NEIGHBOR_SOLICITATION: u8 = 135;

    let header = cursor.take::<Header>(cut)?;
    let identifier = Some(u16::from_be_bytes(header.identifier));
    if matches!(header.kind, 133..=137) && !(from_neighbor && header.code == 0) {
        return Err(Malformed::Transport);
    }
    Ok(match (header.kind, header.code) {
        (128, 0) => (Icmp::EchoRequest, identifier),
        (129, 0) => (Icmp::EchoReply, identifier),
        // Unreachable, too big, time exceeded, parameter problem.
        (1..=4, _) => (Icmp::Error { quoted: quote::unless_cut(quote::parse_v6(cursor))? }, None),
        (130 | 131 | 132 | 143, _) => (Icmp::MulticastListener, None),
        (133, _) => (Icmp::Router, None),
        (134, _) => {
            // Reachable time and retransmission timer.
            cursor.take::<[u8; 8]>(cut)?;
            (Icmp::Router, None)
        }
        (kind @ (135 | 136), _) => {
            let target = cursor.take::<[u8; 16]>(cut)?;
            if !is_ipv6_unicast(target) {
                return Err(Malformed::Transport);
            }
            let target = Address(*target);
            let icmp = if kind == NEIGHBOR_SOLICITATION {
                Icmp::NeighborSolicitation { target }
            } else {
                Icmp::NeighborAdvertisement { target }
            };
            (icmp, None)
        }
        (kind @ 137, code) => {
            // The better next hop and the destination.
            cursor.take::<[u8; 32]>(cut)?;
            (Icmp::Other { kind, code }, None)
        }
        (kind, code) => (Icmp::Other { kind, code }, None),
    })
}
