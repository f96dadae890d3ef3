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
