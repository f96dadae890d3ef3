//! The packet that an ICMP error quotes: as much of it as names its flow.
//!
//! A quote is the beginning of a packet, so its length fields speak of bytes that are not there and
//! are not looked at. Whether the quoted packet was ever sent is a question for who knows the flows.

use super::cursor::Cursor;
use super::extension::Extent;
use super::transport::Ports;
use super::{Address, Flow, Fragment, Malformed, Protocol};
use super::{address, extension, ipv4, ipv6};
use bytemuck::{Pod, Zeroable};

/// How much of a quoted transport header there has to be (RFC 792): Linux asks for as much.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Beginning {
    ports: Ports,
    identifier: [u8; 2],
    rest: [u8; 2],
}

/// A bad quote is no quote; only a head that is too short for it leaves the question open.
pub(super) fn unless_cut(quoted: Result<Flow, Malformed>) -> Result<Option<Flow>, Malformed> {
    match quoted {
        Err(Malformed::HeadTooShort) => Err(Malformed::HeadTooShort),
        quoted => Ok(quoted.ok()),
    }
}

/// The flow of a quoted IPv4 packet.
pub(super) fn parse_v4(mut cursor: Cursor<'_>) -> Result<Flow, Malformed> {
    let header = cursor.take::<ipv4::Header>(Malformed::Ipv4)?;
    let options_len = header.options_len().ok_or(Malformed::Ipv4)?;
    cursor.take_bytes(options_len, Malformed::Ipv4)?;
    let protocol = Protocol(header.protocol);
    address::check_ipv4(header.source, header.destination, protocol == Protocol::IGMP)?;
    let flow = Flow {
        source: Address::v4(header.source),
        destination: Address::v4(header.destination),
        protocol,
        source_port: 0,
        destination_port: 0,
        ports_known: false,
    };
    with_ports(flow, cursor, header.is_later_piece(), Protocol::ICMP, [8, 0])
}

/// The flow of a quoted IPv6 packet.
pub(super) fn parse_v6(mut cursor: Cursor<'_>) -> Result<Flow, Malformed> {
    let header = cursor.take::<ipv6::Header>(Malformed::Ipv6)?;
    if !header.is_version_6() {
        return Err(Malformed::Ipv6);
    }
    let chain = extension::walk(header.next, &mut cursor, Extent::Quote)?;
    let is_icmp = chain.protocol == Protocol::ICMPV6;
    address::check_ipv6(&header.source, &header.destination, is_icmp)?;
    let flow = Flow {
        source: Address(header.source),
        destination: Address(header.destination),
        protocol: chain.protocol,
        source_port: 0,
        destination_port: 0,
        ports_known: false,
    };
    let is_later = matches!(chain.fragment, Fragment::Later { .. });
    with_ports(flow, cursor, is_later, Protocol::ICMPV6, [128, 129])
}

/// Adds what the first eight bytes behind the network header say. Of ICMP only echoes are answered
/// with errors, so any other quoted message is refused.
fn with_ports(
    flow: Flow,
    cursor: Cursor<'_>,
    is_later: bool,
    icmp: Protocol,
    echoes: [u8; 2],
) -> Result<Flow, Malformed> {
    let beginning = cursor.peek::<Beginning>(Malformed::Transport)?;
    if is_later {
        return Ok(flow);
    }
    let (source_port, destination_port) = if flow.protocol.has_ports() {
        (beginning.ports.source, beginning.ports.destination)
    } else if flow.protocol == icmp {
        let [kind, _code] = beginning.ports.source;
        if !echoes.contains(&kind) {
            return Err(Malformed::Transport);
        }
        (beginning.identifier, beginning.identifier)
    } else {
        return Ok(flow);
    };
    Ok(Flow {
        source_port: u16::from_be_bytes(source_port),
        destination_port: u16::from_be_bytes(destination_port),
        ports_known: true,
        ..flow
    })
}

#[cfg(test)]
mod tests {
    use crate::classify::{Address, Flow, Icmp, IpKind, Malformed, classify_head, packet_of};
    use usnet_fuzz::frames::{
        HERE_V4, HERE_V6, PEER_V4, PEER_V6, icmp, ipv4, ipv6, ipv6_fragment, ipv6_options,
        over_ipv4, over_ipv6, patched, tcp, udp,
    };

    fn error(quote: &[u8]) -> Vec<u8> {
        let is_ipv6 = quote.first().is_some_and(|first| first >> 4 == 6);
        if is_ipv6 {
            over_ipv6(58, &icmp(1, 4, [0; 4], quote))
        } else {
            over_ipv4(1, &icmp(3, 3, [0; 4], quote))
        }
    }

    fn quoted(quote: &[u8]) -> Option<Flow> {
        match packet_of(&error(quote)).unwrap().kind {
            IpKind::Icmp(Icmp::Error { quoted }) => quoted,
            other => panic!("{other:?}"),
        }
    }

    /// Source port, destination port, and whether they are known.
    fn ports(quote: &[u8]) -> Option<(u16, u16, bool)> {
        quoted(quote).map(|it| (it.source_port, it.destination_port, it.ports_known))
    }

    #[test]
    fn a_quote_is_the_flow_as_it_was_sent() {
        let v4 = quoted(&ipv4(6, &[], 0, &tcp(1, 2))).unwrap();
        assert_eq!((v4.source, v4.destination), (Address::v4(PEER_V4), Address::v4(HERE_V4)));
        let v6 = quoted(&ipv6(6, &tcp(1, 2))).unwrap();
        assert_eq!((v6.source, v6.destination), (Address(PEER_V6), Address(HERE_V6)));
        for flow in [v4, v6] {
            assert_eq!((flow.protocol.0, flow.source_port, flow.destination_port), (6, 1, 2));
            assert!(flow.ports_known);
        }
    }

    #[test]
    fn eight_bytes_of_transport_are_enough_and_seven_are_not() {
        let v4 = ipv4(6, &[1; 8], 0, &tcp(1, 2));
        assert_eq!(ports(&v4[..36]), Some((1, 2, true)));
        assert_eq!(ports(&v4[..35]), None);
        let v6 = ipv6(60, &[ipv6_options(6), tcp(1, 2)].concat());
        assert_eq!(ports(&v6[..56]), Some((1, 2, true)));
        assert_eq!(ports(&v6[..55]), None);
        for len in 0..36 {
            assert_eq!(ports(&v4[..len]), None, "{len} bytes");
        }
    }

    #[test]
    fn lengths_in_a_quote_speak_of_what_is_not_there() {
        let v4 = patched(ipv4(17, &[], 0, &udp(1, 2, b"")), 2, &[0xff, 0xff]);
        assert_eq!(ports(&v4), Some((1, 2, true)));
        let v6 = patched(ipv6(17, &udp(1, 2, b"")), 4, &[0, 0]);
        assert_eq!(ports(&v6), Some((1, 2, true)));
        let piece = [ipv6_fragment(17, 0, true), udp(1, 2, b"odd")].concat();
        assert_eq!(ports(&ipv6(44, &piece)), Some((1, 2, true)));
    }

    #[test]
    fn of_a_later_piece_only_the_addresses_are_known() {
        let v4 = ipv4(17, &[], 4, &udp(1, 2, b""));
        assert_eq!(ports(&v4), Some((0, 0, false)));
        let v6 = ipv6(44, &[ipv6_fragment(17, 32, false), udp(1, 2, b"")].concat());
        assert_eq!(ports(&v6), Some((0, 0, false)));
        assert_eq!(ports(&ipv4(50, &[], 0, &[0xff; 8])), Some((0, 0, false)), "encrypted");
    }

    #[test]
    fn a_quoted_echo_has_its_identifier_in_both_ports() {
        for kind in 0..=255 {
            let echo = icmp(kind, 0, [0x12, 0x34, 0, 1], &[]);
            let expected = [0, 8].contains(&kind).then_some((0x1234, 0x1234, true));
            assert_eq!(ports(&ipv4(1, &[], 0, &echo)), expected, "ICMP {kind}");
            let expected = [128, 129].contains(&kind).then_some((0x1234, 0x1234, true));
            assert_eq!(ports(&ipv6(58, &echo)), expected, "ICMPv6 {kind}");
        }
    }

    #[test]
    fn what_cannot_have_been_sent_is_no_quote() {
        let v4 = ipv4(6, &[], 0, &tcp(1, 2));
        for (at, bytes) in
            [(0, &[0x44][..]), (0, &[0x55]), (12, &[127]), (12, &[0xe0]), (16, &[127])]
        {
            assert_eq!(quoted(&patched(v4.clone(), at, bytes)), None, "{bytes:?} at {at}");
        }
        let v6 = ipv6(6, &tcp(1, 2));
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        for (at, bytes) in [(8, &mapped[..]), (8, &[0xff]), (24, &mapped), (6, &[43])] {
            assert_eq!(quoted(&patched(v6.clone(), at, bytes)), None, "{bytes:?} at {at}");
        }
        let other_family = over_ipv4(1, &icmp(3, 3, [0; 4], &v6));
        let kind = packet_of(&other_family).unwrap().kind;
        assert_eq!(kind, IpKind::Icmp(Icmp::Error { quoted: None }));
    }

    #[test]
    fn a_head_without_the_whole_quote_is_too_short() {
        for quote in [ipv4(6, &[], 0, &tcp(1, 2)), ipv6(6, &tcp(1, 2))] {
            let frame = error(&quote);
            let needed = frame.len() - 12;
            let whole = classify_head(&frame, frame.len());
            assert_eq!(classify_head(&frame[..needed], frame.len()), whole);
            let short = classify_head(&frame[..needed - 1], frame.len());
            assert_eq!(short, Err(Malformed::HeadTooShort));
        }
    }
}
