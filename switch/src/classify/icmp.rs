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

#[cfg(test)]
mod tests {
    use crate::classify::{Address, Icmp, IpKind, IpPacket, Malformed, packet_of};
    use usnet_fuzz::frames::{HERE_V6, icmp, over_ipv4, over_ipv6, patched};

    const HOP_LIMIT_AT: usize = 21;

    fn v4(kind: u8, code: u8) -> IpPacket {
        packet_of(&over_ipv4(1, &icmp(kind, code, [0x12, 0x34, 0, 1], &[]))).unwrap()
    }

    fn v6(kind: u8, code: u8, body: &[u8]) -> Result<IpPacket, Malformed> {
        packet_of(&over_ipv6(58, &icmp(kind, code, [0x12, 0x34, 0, 1], body)))
    }

    #[test]
    fn an_echo_has_its_identifier_in_both_ports() {
        for (packet, expected) in [
            (v4(8, 0), Icmp::EchoRequest),
            (v4(0, 0), Icmp::EchoReply),
            (v6(128, 0, &[]).unwrap(), Icmp::EchoRequest),
            (v6(129, 0, &[]).unwrap(), Icmp::EchoReply),
        ] {
            assert_eq!(packet.kind, IpKind::Icmp(expected));
            let flow = packet.flow;
            assert_eq!((flow.source_port, flow.destination_port), (0x1234, 0x1234));
            assert!(flow.ports_known);
        }
    }

    #[test]
    fn any_other_message_has_no_ports() {
        for kind in 0..=255 {
            for code in [0, 1] {
                let is_echo = matches!((kind, code), (0 | 8, 0));
                assert_eq!(v4(kind, code).flow.ports_known, is_echo, "{kind}, {code}");
                if let Ok(packet) = v6(kind, code, &[0xfd; 32]) {
                    let is_echo = matches!((kind, code), (128 | 129, 0));
                    assert_eq!(packet.flow.ports_known, is_echo, "{kind}, {code}");
                }
            }
        }
    }

    #[test]
    fn a_message_shorter_than_its_header_is_malformed() {
        for len in 0..8 {
            let (v4, v6) = (over_ipv4(1, &[8; 8][..len]), over_ipv6(58, &[128; 8][..len]));
            assert_eq!(packet_of(&v4), Err(Malformed::Transport));
            assert_eq!(packet_of(&v6), Err(Malformed::Transport));
        }
    }

    #[test]
    fn errors_are_told_by_their_type() {
        for kind in 0..=255 {
            let is_error = matches!(v4(kind, 1).kind, IpKind::Icmp(Icmp::Error { .. }));
            assert_eq!(is_error, [3, 4, 5, 11, 12].contains(&kind), "ICMP {kind}");
            let is_error = v6(kind, 1, &[])
                .is_ok_and(|it| matches!(it.kind, IpKind::Icmp(Icmp::Error { .. })));
            assert_eq!(is_error, [1, 2, 3, 4].contains(&kind), "ICMPv6 {kind}");
        }
    }

    #[test]
    fn neighbours_are_asked_for_and_tell_of_a_target() {
        let target = Address(HERE_V6);
        let kind = |kind| v6(kind, 0, &HERE_V6).unwrap().kind;
        assert_eq!(kind(135), IpKind::Icmp(Icmp::NeighborSolicitation { target }));
        assert_eq!(kind(136), IpKind::Icmp(Icmp::NeighborAdvertisement { target }));
    }

    #[test]
    fn routers_and_listeners_are_told_apart() {
        let kind = |kind| v6(kind, 0, &[0; 8]).unwrap().kind;
        for router in [133, 134] {
            assert_eq!(kind(router), IpKind::Icmp(Icmp::Router));
        }
        for listener in [130, 131, 132, 143] {
            assert_eq!(kind(listener), IpKind::Icmp(Icmp::MulticastListener));
        }
        assert_eq!(kind(138), IpKind::Icmp(Icmp::Other { kind: 138, code: 0 }));
    }

    #[test]
    fn a_target_is_a_host() {
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 5];
        for target in [[0; 16], [0xff; 16], mapped] {
            for kind in [135, 136] {
                assert_eq!(v6(kind, 0, &target), Err(Malformed::Transport), "{target:?}");
            }
        }
    }

    #[test]
    fn neighbour_discovery_is_whole() {
        for (kind, body) in [(133, 0), (134, 8), (135, 16), (136, 16), (137, 32)] {
            assert!(v6(kind, 0, &vec![0xfd; body]).is_ok(), "type {kind}");
            for len in 0..body {
                let verdict = v6(kind, 0, &vec![0xfd; len]);
                assert_eq!(verdict, Err(Malformed::Transport), "type {kind}, {len} bytes");
            }
        }
    }

    #[test]
    fn neighbour_discovery_comes_from_the_link_itself() {
        for kind in 133..=137 {
            let frame = over_ipv6(58, &icmp(kind, 0, [0; 4], &[0xfd; 32]));
            assert!(packet_of(&frame).is_ok());
            for hops in [0, 1, 64, 254] {
                let routed = patched(frame.clone(), HOP_LIMIT_AT, &[hops]);
                assert_eq!(packet_of(&routed), Err(Malformed::Transport), "{kind}, {hops} hops");
            }
            assert_eq!(v6(kind, 1, &[0xfd; 32]), Err(Malformed::Transport), "code 1");
        }
        let routed = patched(over_ipv6(58, &icmp(128, 0, [0; 4], &[])), HOP_LIMIT_AT, &[64]);
        assert!(packet_of(&routed).is_ok(), "an echo may be routed");
    }

    #[test]
    fn each_family_has_its_own_icmp() {
        assert_eq!(packet_of(&over_ipv6(1, &[8; 8])).unwrap().kind, IpKind::Plain);
        assert_eq!(packet_of(&over_ipv4(58, &[128; 8])).unwrap().kind, IpKind::Plain);
    }
}
