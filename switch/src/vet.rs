//! May this client say this? Judged on a private copy of the headers, before anything leaves.
//!
//! A client may send from its link address, its network addresses and the ports that it holds; ask
//! for neighbours; answer pings for an address that is its alone; report errors about what was sent
//! to it; report which of the groups that its policy names it has joined; ask servers of DHCP and be the supplicant, if
//! its policy says so (`dhcp.rs`). Everything else (tags, other protocols' control frames, router advertisements, DHCP service) is refused:
//! what is not named here is not permitted.

use crate::classify::{
    Address, ArpPacket, Classified, Flow, Fragment, Icmp, IpKind, IpPacket, Mac, Payload, Plain,
};
use crate::membership::{is_of_groups, report};
use crate::session::Session;
use crate::steer::{DatagramKey, FlowIndex, FragmentTable, Held, Table};
use crate::time::Time;
use crate::verdict::{DropReason, Receiver};
use usnet_shmring::ledger::SessionId;

/// What a frame needs beside permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vetted {
    /// Nothing.
    Plain,
    /// Nothing: its answers were learned before, there.
    Known(FlowIndex),
    /// Its answers have to be learned: this flow, as it will arrive.
    Learn(Flow),
    /// A look at the whole message: it asks a server of DHCP.
    Dhcp,
    /// Its answers should be learned if there is room, so that they stay with it when its group changes.
    Keep(Flow),
}

/// What [`vet`] says of a plain frame.
#[inline(always)]
pub(crate) fn vet_plain(
    session: &Session,
    mac: Mac,
    table: &mut Table,
    frame: &Plain,
    now: Time,
) -> Result<Vetted, DropReason> {
    if frame.source != mac {
        return Err(DropReason::SpoofedMac);
    }
    if !owns(session, table, &frame.flow) {
        return Err(DropReason::SpoofedAddress);
    }
    vet_ports(session, table, &frame.flow, now)
}

/// Whether a session may send from where this flow comes from: its addresses, or those of a prefix that it has.
#[inline(always)]
fn owns(session: &Session, table: &Table, flow: &Flow) -> bool {
    session.owns(flow.source)
        || table.has_prefix(flow.source, flow.protocol, Receiver::Client(session.id))
}

/// Whether all of an address is a session's.
pub(crate) fn is_alone(session: &Session, table: &Table, address: Address) -> bool {
    session.exclusive.contains(&address)
        || table.prefix_owner(address) == Some(Receiver::Client(session.id))
}

/// Judges a frame of `session`, sent on an interface with link address `mac`. `frame` was read from
/// `head`.
#[inline]
pub(crate) fn vet(
    session: &Session,
    mac: Mac,
    table: &mut Table,
    sent: &mut FragmentTable<SessionId>,
    frame: &Classified,
    head: &[u8],
    now: Time,
) -> Result<Vetted, DropReason> {
    if frame.source != mac {
        return Err(DropReason::SpoofedMac);
    }
    if frame.vlan.is_some() {
        return Err(DropReason::Vlan);
    }
    match &frame.payload {
        Payload::Ip(packet) => {
            if let IpKind::Icmp(
                Icmp::NeighborSolicitation { .. } | Icmp::NeighborAdvertisement { .. },
            ) = packet.kind
                && !tells_only(mac, packet, 24, head)
            {
                return Err(DropReason::SpoofedMac);
            }
            if packet.kind == IpKind::Icmp(Icmp::Router) {
                return vet_router(session, mac, packet, head);
            }
            if is_of_groups(packet) {
                return vet_report(session, packet, frame.destination, head);
            }
            if packet.kind == IpKind::DhcpRequest {
                return vet_dhcp(session, packet);
            }
            vet_ip(session, table, sent, packet, now)
        }
        Payload::Arp(arp) => vet_arp(session, mac, table, arp),
        Payload::Eapol => vet_eapol(session, table, frame.destination, head),
        Payload::Other(_) => Err(DropReason::NotPermitted),
    }
}

/// A report of groups, all of which the session may join.
fn vet_report(
    session: &Session,
    packet: &IpPacket,
    destination: Mac,
    head: &[u8],
) -> Result<Vetted, DropReason> {
    let source = packet.flow.source;
    // Whoever has no address that serves for it reports as nobody (RFC 3376, 4.2.13; RFC 3590).
    if !session.owns(source) && !source.to_ip().is_unspecified() {
        return Err(DropReason::SpoofedAddress);
    }
    let is_whole = packet.fragment == Fragment::Whole;
    match report(packet, destination, head).filter(|_| is_whole) {
        Some(report) if report.groups().all(|group| session.may_join(group)) => Ok(Vetted::Plain),
        _ => Err(DropReason::NotPermitted),
    }
}

/// A question to servers of DHCP, which may come from nobody.
fn vet_dhcp(session: &Session, packet: &IpPacket) -> Result<Vetted, DropReason> {
    let source = packet.flow.source;
    if !session.may.dhcp {
        return Err(DropReason::NotPermitted);
    }
    if !session.owns(source) && !source.to_ip().is_unspecified() {
        return Err(DropReason::SpoofedAddress);
    }
    Ok(Vetted::Dhcp)
}

/// A question to routers, by who configures its stack by what they say.
fn vet_router(
    session: &Session,
    mac: Mac,
    packet: &IpPacket,
    head: &[u8],
) -> Result<Vetted, DropReason> {
    const SOLICITATION: u8 = 133;
    let source = packet.flow.source;
    if !session.may.dhcp || head.get(usize::from(packet.transport_offset)) != Some(&SOLICITATION) {
        return Err(DropReason::NotPermitted);
    }
    if !session.owns(source) && !source.to_ip().is_unspecified() {
        return Err(DropReason::SpoofedAddress);
    }
    if !tells_only(mac, packet, 8, head) {
        return Err(DropReason::SpoofedMac);
    }
    Ok(Vetted::Plain)
}

/// What a supplicant says (IEEE 802.1X, 11.3; RFC 3748, 4): it starts, ends, answers, and speaks of keys. Requests are an
/// authenticator's. The first who speaks has the part until its session ends.
fn vet_eapol(
    session: &Session,
    table: &Table,
    destination: Mac,
    head: &[u8],
) -> Result<Vetted, DropReason> {
    const AUTHENTICATORS: Mac = Mac([0x01, 0x80, 0xc2, 0, 0, 0x03]);
    const PACKET: u8 = 0;
    const START_LOGOFF_KEY: core::ops::RangeInclusive<u8> = 1..=3;
    const RESPONSE: u8 = 2;
    // With a priority tag there is something else at these places.
    let is_untagged = head.get(12..14) == Some(&[0x88, 0x8e]);
    let says = match head.get(15) {
        Some(&PACKET) => head.get(18) == Some(&RESPONSE),
        Some(kind) => START_LOGOFF_KEY.contains(kind),
        None => false,
    } && is_untagged;
    let may = session.may.eapol && (destination == AUTHENTICATORS || !destination.is_group());
    if says && may && table.supplicant.take(session.id) {
        Ok(Vetted::Plain)
    } else {
        Err(DropReason::NotPermitted)
    }
}

fn vet_arp(
    session: &Session,
    mac: Mac,
    table: &Table,
    arp: &ArpPacket,
) -> Result<Vetted, DropReason> {
    if arp.sender_mac != mac {
        return Err(DropReason::SpoofedMac);
    }
    let own = Receiver::Client(session.id);
    if !session.owns(arp.sender) && !table.speaks_from(arp.sender, own) {
        return Err(DropReason::SpoofedAddress);
    }
    // The owner of a shared address answers for it, and that is the kernel.
    if arp.operation != 1 && !is_alone(session, table, arp.sender) {
        return Err(DropReason::NotPermitted);
    }
    Ok(Vetted::Plain)
}

#[inline]
fn vet_ip(
    session: &Session,
    table: &mut Table,
    sent: &mut FragmentTable<SessionId>,
    packet: &IpPacket,
    now: Time,
) -> Result<Vetted, DropReason> {
    let flow = &packet.flow;
    let is_solicitation = matches!(packet.kind, IpKind::Icmp(Icmp::NeighborSolicitation { .. }));
    let asks = || is_solicitation && table.speaks_from(flow.source, Receiver::Client(session.id));
    if !owns(session, table, flow) && !asks() {
        return Err(DropReason::SpoofedAddress);
    }
    let key = |id| DatagramKey::of(packet, id);
    match packet.fragment {
        Fragment::Whole => vet_transport(session, table, packet, now),
        Fragment::First { id } => {
            let vetted = vet_transport(session, table, packet, now)?;
            if sent.bind(key(id), session.id, now) != session.id {
                return Err(DropReason::SpoofedPort);
            }
            Ok(vetted)
        }
        Fragment::Later { id } => match sent.get(&key(id), now) {
            Some(owner) if owner == session.id => Ok(Vetted::Plain),
            _ => Err(DropReason::SpoofedPort),
        },
    }
}

#[inline]
fn vet_transport(
    session: &Session,
    table: &mut Table,
    packet: &IpPacket,
    now: Time,
) -> Result<Vetted, DropReason> {
    let flow = &packet.flow;
    match packet.kind {
        IpKind::Plain => {
            if !flow.ports_known {
                return vet_protocol(session, table, flow);
            }
            vet_ports(session, table, flow, now)
        }
        IpKind::Icmp(icmp) => vet_icmp(session, table, flow, &icmp, now),
        IpKind::Igmp | IpKind::DhcpReply | IpKind::DhcpRequest => Err(DropReason::NotPermitted),
    }
}

/// Whether the session may use the source port of this flow.
#[inline(always)]
fn vet_ports(
    session: &Session,
    table: &mut Table,
    flow: &Flow,
    now: Time,
) -> Result<Vetted, DropReason> {
    let (answer, own) = (flow.reversed(), Receiver::Client(session.id));
    match table.holder(&answer, own) {
        Held::By(owner) if owner == own => Ok(Vetted::Plain),
        Held::ByGroup(true) => vet_member(session, table, answer, now),
        Held::By(_) | Held::ByGroup(false) | Held::Elsewhere => Err(DropReason::SpoofedPort),
        Held::Free => match learned(session, table, answer, now)? {
            Vetted::Learn(_) if !may_teach(session, table, flow) => Err(DropReason::SpoofedPort),
            vetted => Ok(vetted),
        },
    }
}

/// A member of a group may have every flow that no other member has.
#[inline(never)]
fn vet_member(
    session: &Session,
    table: &mut Table,
    answer: Flow,
    now: Time,
) -> Result<Vetted, DropReason> {
    Ok(match learned(session, table, answer, now)? {
        Vetted::Learn(answer) => Vetted::Keep(answer),
        vetted => vetted,
    })
}

/// Whether the session may send a protocol that has no ports.
fn vet_protocol(session: &Session, table: &Table, flow: &Flow) -> Result<Vetted, DropReason> {
    let own = Receiver::Client(session.id);
    match table.holder(&flow.reversed(), own) {
        Held::By(owner) if owner == own => Ok(Vetted::Plain),
        Held::ByGroup(true) => Ok(Vetted::Plain),
        Held::By(_) | Held::ByGroup(false) | Held::Elsewhere => Err(DropReason::SpoofedPort),
        Held::Free => Err(DropReason::NotPermitted),
    }
}

/// Whether answers to this flow may be learned: at an address that the kernel shares its port could be
/// one of the kernel's.
#[inline(never)]
fn may_teach(session: &Session, table: &Table, flow: &Flow) -> bool {
    session.exclusive.contains(&flow.source) || table.may_teach(flow.protocol, flow.source_port)
}

/// A port that nobody holds may be used for a flow that nobody else has.
fn learned(
    session: &Session,
    table: &mut Table,
    answer: Flow,
    now: Time,
) -> Result<Vetted, DropReason> {
    match table.exact(&answer, now) {
        Some((Receiver::Client(owner), flow)) if owner == session.id => Ok(Vetted::Known(flow)),
        Some(_) => Err(DropReason::SpoofedPort),
        None => Ok(Vetted::Learn(answer)),
    }
}

fn vet_icmp(
    session: &Session,
    table: &mut Table,
    flow: &Flow,
    icmp: &Icmp,
    now: Time,
) -> Result<Vetted, DropReason> {
    match icmp {
        Icmp::EchoRequest => learned(session, table, echo_answer(flow), now),
        Icmp::EchoReply if is_alone(session, table, flow.source) => Ok(Vetted::Plain),
        // An error may speak of what was sent to the client, and to nobody but its sender.
        Icmp::Error { quoted: Some(quoted) }
            if quoted.destination == flow.source && quoted.source == flow.destination =>
        {
            match table.lookup(quoted, now) {
                Some(Receiver::Client(owner)) if owner == session.id => Ok(Vetted::Plain),
                _ => Err(DropReason::SpoofedPort),
            }
        }
        Icmp::NeighborSolicitation { .. } => Ok(Vetted::Plain),
        Icmp::NeighborAdvertisement { target } if is_alone(session, table, *target) => {
            Ok(Vetted::Plain)
        }
        _ => Err(DropReason::NotPermitted),
    }
}

/// The flow under which answers to an echo request arrive: the reply's own flow.
fn echo_answer(request: &Flow) -> Flow {
    request.reversed()
}

/// Whether a neighbour discovery message names no link address but `mac` (RFC 4861, 4.6.1). One that
/// does not lie in `head` as a whole could name any.
fn tells_only(mac: Mac, packet: &IpPacket, before_options: usize, head: &[u8]) -> bool {
    const LINK_ADDRESSES: [u8; 2] = [1, 2];
    let start = usize::from(packet.transport_offset) + before_options;
    let Some(mut options) = head.get(start..usize::from(packet.end)) else { return false };
    while let [kind, length, ..] = *options {
        let Some((option, rest)) = options.split_at_checked(usize::from(length) * 8) else {
            return false;
        };
        let names_another = LINK_ADDRESSES.contains(&kind) && option.get(2..) != Some(&mac.0[..]);
        if length == 0 || names_another {
            return false;
        }
        options = rest;
    }
    options.is_empty()
}

/// Whether an address is one of a group of hosts: IPv4 multicast or limited broadcast, IPv6
/// multicast.
#[inline]
pub(crate) fn is_group_address(address: Address) -> bool {
    let [first, ..] = address.0;
    match address.v4_part() {
        Some([a, b, c, d]) => a & 0xf0 == 0xe0 || [a, b, c, d] == [0xff; 4],
        None => first == 0xff,
    }
}

/// The key under which an ICMP error finds its owner: the quoted packet's answers.
pub(crate) fn quoted_answer(icmp: &Icmp) -> Option<Flow> {
    match icmp {
        Icmp::Error { quoted: Some(quoted) } => Some(quoted.reversed()),
        _ => None,
    }
}
