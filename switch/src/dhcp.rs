//! What a message of DHCP says of its transaction, and whether a client may ask so.
//!
//! ```text
//!   DHCPv4: op 1 | htype 1 | hlen 1 | hops 1 | xid 4 | secs, flags 4 | ciaddr 4 | yiaddr, siaddr 8 | giaddr 4
//!           | chaddr 16 | sname, file 192 | cookie 4 | options                               (RFC 2131, 2; 2132)
//!   DHCPv6: type 1 | transaction 3 | options                                                 (RFC 8415, 8)
//! ```
//!
//! - Kernel and clients share a link address, so a server may take them for one and give all of them the same lease. A
//!   client may ask for one; it may not give one up (RELEASE, DECLINE), which could be the kernel's.
//! - What servers could read in two ways is refused: a message without a type or with two, options beside the options
//!   (overload), a relay's message, one in pieces.

use crate::classify::{Address, Fragment, IpKind, IpPacket, Mac};
use crate::steer::Asked;

const UDP_HEADER: usize = 8;
const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
const ETHERNET: [u8; 2] = [1, 6];
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Ports of clients and servers, DHCPv4 and DHCPv6.
const PORTS_V4: (u16, u16) = (68, 67);
const PORTS_V6: (u16, u16) = (546, 547);
/// DISCOVER, REQUEST, INFORM.
const MAY_ASK_V4: [u8; 3] = [1, 3, 8];
/// SOLICIT, REQUEST, CONFIRM, RENEW, REBIND, INFORMATION-REQUEST.
const MAY_ASK_V6: [u8; 6] = [1, 3, 4, 5, 6, 11];
/// From a relay agent, to a relay agent: these have no transaction of their own (RFC 8415, 9).
const RELAYED: [u8; 2] = [12, 13];

/// The message of a packet that is whole or begins here.
fn message<'a>(packet: &IpPacket, frame: &'a [u8]) -> Option<&'a [u8]> {
    let datagram = frame.get(packet.transport_offset.into()..packet.end.into())?;
    let [_, _, _, _, high, low, ..] = *datagram else { return None };
    let length = usize::from(u16::from_be_bytes([high, low])).min(datagram.len());
    datagram.get(UDP_HEADER..length)
}

fn is_v4(packet: &IpPacket) -> bool {
    packet.flow.destination.v4_part().is_some()
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// What is asked for here, or answered.
fn asked(packet: &IpPacket, frame: &[u8], is_answer: bool) -> Option<Asked> {
    let message = message(packet, frame)?;
    if is_v4(packet) {
        let operation = if is_answer { BOOT_REPLY } else { BOOT_REQUEST };
        if message.get(..3)? != [operation, ETHERNET[0], ETHERNET[1]] {
            return None;
        }
        let client = Mac(message.get(28..34)?.try_into().ok()?);
        return Some(Asked::V4 { number: number(message.get(4..8)?), client });
    }
    if RELAYED.contains(message.first()?) {
        return None;
    }
    let flow = &packet.flow;
    let client = if is_answer { flow.destination } else { flow.source };
    Some(Asked::V6 { number: number(message.get(1..4)?), client })
}

/// Which question a server answers with this.
pub(crate) fn answered(packet: &IpPacket, frame: &[u8]) -> Option<Asked> {
    asked(packet, frame, true).filter(|_| packet.kind == IpKind::DhcpReply)
}

/// What is asked with this.
pub(crate) fn question(packet: &IpPacket, frame: &[u8]) -> Option<Asked> {
    asked(packet, frame, false).filter(|_| packet.kind == IpKind::DhcpRequest)
}

/// What a client behind link address `mac` asks, if it may ask so. `frame` is the whole frame, where its sender
/// cannot change it; `owns` says which addresses it may use.
pub(crate) fn permitted(
    packet: &IpPacket,
    frame: &[u8],
    mac: Mac,
    owns: impl Fn(Address) -> bool,
) -> Option<Asked> {
    let asked = question(packet, frame)?;
    let message = message(packet, frame)?;
    let flow = &packet.flow;
    let ports = if is_v4(packet) { PORTS_V4 } else { PORTS_V6 };
    if packet.fragment != Fragment::Whole || (flow.source_port, flow.destination_port) != ports {
        return None;
    }
    match asked {
        Asked::V4 { client, .. } => {
            let address = |at: usize| Some(Address::v4(message.get(at..at + 4)?.try_into().ok()?));
            let is_none = |address: Address| address.to_ip().is_unspecified();
            let (current, relay) = (address(12)?, address(24)?);
            let is_relayed = message.get(3)? != &0 || !is_none(relay);
            let is_own = is_none(current) || owns(current);
            let may = message_type(message).is_some_and(|kind| MAY_ASK_V4.contains(&kind));
            (client == mac && !is_relayed && is_own && may).then_some(asked)
        }
        Asked::V6 { .. } => MAY_ASK_V6.contains(message.first()?).then_some(asked),
    }
}

/// The type of a DHCPv4 message that every server reads alike.
fn message_type(message: &[u8]) -> Option<u8> {
    const FIXED: usize = 236;
    const PAD: u8 = 0;
    const OVERLOAD: u8 = 52;
    const MESSAGE_TYPE: u8 = 53;
    const END: u8 = 255;
    let mut options = message.get(FIXED..)?.strip_prefix(&COOKIE)?;
    let mut found = None;
    loop {
        match *options {
            [END, ..] => return found,
            [PAD, ref rest @ ..] => options = rest,
            [option, length, ref rest @ ..] => {
                let (value, rest) = rest.split_at_checked(length.into())?;
                match (option, value) {
                    (MESSAGE_TYPE, [kind]) if found.is_none() => found = Some(*kind),
                    (MESSAGE_TYPE | OVERLOAD, _) => return None,
                    _ => {}
                }
                options = rest;
            }
            [_] | [] => return None,
        }
    }
}
