//! The common frame, in one straight line: no tag, IPv4 without options or IPv6 without extension
//! headers, a whole datagram, TCP or UDP but not DHCP.
//!
//! Either this gives exactly the answer of the long way, or none at all; so it only has to know what
//! is common, and never why something is wrong. It exists for speed: the answer is small, and its
//! callers have it inlined, so that it stays in registers.

use super::cursor::Cursor;
use super::ethernet::{self, EtherType};
use super::transport::{self, Ports};
use super::{Address, Classified, Flow, Mac, Malformed, Plain, Protocol};
use super::{address, ipv4, ipv6, parse_any};

/// What the frame is, if it is a common one.
#[inline(always)]
pub(super) fn parse(cursor: Cursor<'_>) -> Option<Plain> {
    let header = cursor.peek::<ethernet::Header>(Malformed::Link).ok()?;
    let plain = match header.ether_type() {
        EtherType::IPV4 => parse_ipv4(cursor),
        EtherType::IPV6 => parse_ipv6(cursor),
        _ => None,
    };
    // Every test and every fuzzed input that comes by here compares the two ways.
    debug_assert!(
        plain.is_none_or(|plain| parse_any(cursor) == Ok(Classified::from(plain))),
        "two ways, one answer"
    );
    plain
}

#[inline(always)]
fn parse_ipv4(mut cursor: Cursor<'_>) -> Option<Plain> {
    let link = cursor.take::<ethernet::Header>(Malformed::Link).ok()?;
    if Mac(link.source).is_group() {
        return None;
    }
    let header = cursor.take::<ipv4::Header>(Malformed::Ipv4).ok()?;
    if header.version_words != ipv4::WITHOUT_OPTIONS || header.is_piece_or_reserved() {
        return None;
    }
    cursor.end_after(header.rest_len()?, Malformed::Ipv4).ok()?;
    address::check_ipv4(header.source, header.destination, false).ok()?;
    let protocol = Protocol(header.protocol);
    let ports = ports(protocol, cursor)?;
    let source = Address::v4(header.source);
    let destination = Address::v4(header.destination);
    answer(link, flow(source, destination, protocol, ports), cursor)
}

#[inline(always)]
fn parse_ipv6(mut cursor: Cursor<'_>) -> Option<Plain> {
    let link = cursor.take::<ethernet::Header>(Malformed::Link).ok()?;
    if Mac(link.source).is_group() {
        return None;
    }
    let header = cursor.take::<ipv6::Header>(Malformed::Ipv6).ok()?;
    if !header.is_version_6() {
        return None;
    }
    cursor.end_after(header.rest_len(), Malformed::Ipv6).ok()?;
    let protocol = Protocol(header.next);
    let ports = ports(protocol, cursor)?;
    address::check_ipv6(&header.source, &header.destination, false).ok()?;
    let source = Address(header.source);
    let destination = Address(header.destination);
    answer(link, flow(source, destination, protocol, ports), cursor)
}

/// The ports of TCP and UDP; `None` where they say more than who talks to whom.
#[inline(always)]
fn ports(protocol: Protocol, cursor: Cursor<'_>) -> Option<Ports> {
    let ports = match protocol {
        Protocol::TCP => transport::tcp(cursor, Malformed::Transport).ok()?,
        Protocol::UDP => transport::udp(cursor, true, Malformed::Transport).ok()?,
        _ => return None,
    };
    let is_dhcp = matches!(u16::from_be_bytes(ports.destination), 67 | 68 | 546 | 547);
    if is_dhcp { None } else { Some(ports) }
}

#[inline(always)]
fn flow(source: Address, destination: Address, protocol: Protocol, ports: Ports) -> Flow {
    Flow {
        source,
        destination,
        protocol,
        source_port: u16::from_be_bytes(ports.source),
        destination_port: u16::from_be_bytes(ports.destination),
        ports_known: true,
    }
}

#[inline(always)]
fn answer(link: &ethernet::Header, flow: Flow, cursor: Cursor<'_>) -> Option<Plain> {
    Some(Plain {
        destination: Mac(link.destination),
        source: Mac(link.source),
        flow,
        transport_offset: u16::try_from(cursor.at()).ok()?,
        end: u16::try_from(cursor.at().saturating_add(cursor.left())).ok()?,
    })
}
