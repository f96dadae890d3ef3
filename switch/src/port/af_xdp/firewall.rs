//! The part of the XDP program that lets to the kernel only answers, and what is for ports that are named.
//!
//! ```text
//!   to our link address, plain --+-- at a shared address, port claimed ------------> the switch
//!                                +-- at a shared address, port named --------------> the kernel
//!                                +-- an answer, or an error about what it sent ----> the kernel
//!                                +-- any other ------------------------------------> the switch
//!   to a group ------------------+-- membership, or to a port that is named -------> the kernel
//!                                +-- any other ------------------------------------> the switch
//! ```
//!
//! - The switch has no way to the kernel then: what no client has is dropped there, and counted.
//! - A flow that was not used for long is none: [`IDLE`], and [`IDLE_TCP`] of connections.
//! - Fragments, tagged frames, IPv4 options and IPv6 extension headers are never the kernel's.

use super::asm::{Assembler, Helper, If, Label, Op, Reg, Size};
use super::program::{
    AUTHENTICATION, CONTEXT, END, ETHERTYPE, ETHERTYPE_IPV4, ETHERTYPE_IPV6, EXTENSIONS, HERE,
    ICMP, ICMPV6, PLAIN_IPV4, PROTOCOL_STEP, SCRATCH, Shares, any_of, context, echo_request,
    halves, need, need_whole_ipv4, octets,
};
use super::watch::{clear_key, key, look_up};
use crate::classify::Protocol;
use crate::steer::CLAIMED_PROTOCOLS;
use std::net::IpAddr;

/// What tells the kernel's frames from all others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Firewall {
    /// The map of the kernel's flows.
    pub(super) flows: i32,
    /// An array as that of claimed ports: not 0 where the kernel serves.
    pub(super) named: i32,
    /// Whether it answers pings.
    pub(super) ping: bool,
}

/// Idle time in units of 2^30 nanoseconds, after which an answer is none: about 3 minutes.
const IDLE: i32 = 168;
/// The same of a TCP connection: about 5 days.
const IDLE_TCP: i32 = 402_331;

const PROTOCOL: Reg = ETHERTYPE;
/// 1 at an address that the kernel shares with clients.
const SHARED: Reg = Reg::R7;
const CLAIMED: Reg = Reg::R8;
const NAMED: Reg = Reg::R9;
/// IGMP; MLD, behind a hop-by-hop header.
const IGMP: i32 = 2;
const HOP_BY_HOP: i32 = 0;

struct Ways {
    take: Label,
    pass: Label,
    flow: Label,
    /// The two arrays.
    claimed: i32,
    named: i32,
}

/// Jumps to `pass` with what is the kernel's, to `take` with all else.
pub(super) fn guard(
    a: &mut Assembler,
    shares: &Shares,
    firewall: Firewall,
    take: Label,
    pass: Label,
) {
    let flow = a.label();
    let Firewall { flows, named, ping } = firewall;
    let ways = Ways { take, pass, flow, claimed: shares.claimed, named };
    let (ipv6, group, ours) = (a.label(), a.label(), a.label());
    a.load(Size::Word, HERE, CONTEXT, context::DATA);
    a.load(Size::Word, END, CONTEXT, context::DATA_END);
    need(a, 14 + 24, take);
    clear_key(a);
    a.load(Size::Half, ETHERTYPE, HERE, 12);
    a.from_big_endian16(ETHERTYPE);
    a.set(SHARED, 0);
    a.load(Size::Byte, SCRATCH, HERE, 0);
    a.alu(Op::And, SCRATCH, 1);
    a.jump_if(SCRATCH, If::NotEqual, 0, group);
    halves(a, 0, &shares.mac.0, take);
    a.jump(ours);

    a.bind(group);
    membership(a, &ways);
    // At a group a port that is named is the kernel's, too.
    a.set(SHARED, 2);

    a.bind(ours);
    a.alu(Op::Add, HERE, 14);
    let (v4, v6): (Vec<_>, Vec<_>) = shares.addresses.iter().partition(|a| a.is_ipv4());
    a.jump_if(ETHERTYPE, If::Equal, ETHERTYPE_IPV6, ipv6);
    a.jump_if(ETHERTYPE, If::NotEqual, ETHERTYPE_IPV4, take);
    need_whole_ipv4(a, take);
    for (from, to) in [(16, key::LOCAL), (12, key::REMOTE)] {
        a.load(Size::Word, SCRATCH, HERE, from);
        a.store(Size::Word, Reg::R10, to, SCRATCH);
    }
    a.store(Size::Byte, Reg::R10, key::VERSION, 4);
    mark_shared(a, 16, &v4);
    a.load(Size::Byte, PROTOCOL, HERE, 9);
    a.jump_if(PROTOCOL, If::Equal, AUTHENTICATION, take);
    a.alu(Op::Add, HERE, 20);
    icmp(a, ICMP, &[3, 11, 12], ping, &ways);
    transport(a, (2, 0), &ways);

    a.bind(ipv6);
    need(a, 40, take);
    for (from, to) in
        [(24, key::LOCAL), (32, key::LOCAL + 8), (8, key::REMOTE), (16, key::REMOTE + 8)]
    {
        a.load(Size::Double, SCRATCH, HERE, from);
        a.store(Size::Double, Reg::R10, to, SCRATCH);
    }
    a.store(Size::Byte, Reg::R10, key::VERSION, 6);
    mark_shared(a, 24, &v6);
    a.load(Size::Byte, PROTOCOL, HERE, 6);
    for header in EXTENSIONS {
        a.jump_if(PROTOCOL, If::Equal, header, take);
    }
    a.alu(Op::Add, HERE, 40);
    icmp(a, ICMPV6, &[1, 2, 3, 4], ping, &ways);
    transport(a, (2, 0), &ways);

    a.bind(flow);
    let old = a.label();
    look_up(a, flows);
    a.jump_if(Reg::R0, If::Equal, 0, take);
    a.load(Size::Double, SHARED, Reg::R0, 0);
    // After the time was read, so that it is not in the future.
    a.call(Helper::Time);
    a.alu(Op::Subtract, Reg::R0, SHARED);
    a.alu(Op::ShiftRight, Reg::R0, 30);
    a.jump_if(Reg::R0, If::Below, IDLE, pass);
    a.load(Size::Byte, Reg::R1, Reg::R10, key::PROTOCOL);
    a.jump_if(Reg::R1, If::NotEqual, i32::from(Protocol::TCP.0), old);
    a.jump_if(Reg::R0, If::Below, IDLE_TCP, pass);
    a.bind(old);
    // What is left falls through to `take`, which the caller binds next.
}

/// Jumps to `pass` with what keeps the kernel's groups alive.
fn membership(a: &mut Assembler, ways: &Ways) {
    let (not_v4, other) = (a.label(), a.label());
    a.jump_if(ETHERTYPE, If::NotEqual, ETHERTYPE_IPV4, not_v4);
    a.load(Size::Byte, SCRATCH, HERE, 14 + 9);
    a.jump_if(SCRATCH, If::Equal, IGMP, ways.pass);
    a.jump(other);
    a.bind(not_v4);
    a.jump_if(ETHERTYPE, If::NotEqual, ETHERTYPE_IPV6, other);
    need(a, 14 + 40 + 8, other);
    a.load(Size::Byte, SCRATCH, HERE, 14 + 6);
    a.jump_if(SCRATCH, If::NotEqual, HOP_BY_HOP, other);
    a.load(Size::Byte, SCRATCH, HERE, 14 + 40);
    a.jump_if(SCRATCH, If::Equal, ICMPV6, ways.pass);
    a.bind(other);
}

/// Notes whether one of these addresses lies at `at`, of a frame that is no group's.
fn mark_shared(a: &mut Assembler, at: i16, addresses: &[&IpAddr]) {
    // The verifier refuses instructions that nothing leads to.
    if addresses.is_empty() {
        return;
    }
    let none = a.label();
    a.jump_if(SHARED, If::NotEqual, 0, none);
    any_of(a, at, addresses.iter().copied().map(octets), none);
    a.set(SHARED, 1);
    a.bind(none);
}

/// With a message of this protocol: an answer to a ping is looked up, an error is judged by what it quotes. Falls
/// through with other protocols.
fn icmp(a: &mut Assembler, icmp: i32, errors: &[i32], ping: bool, ways: &Ways) {
    let (other, quoted, reply) = (a.label(), a.label(), a.label());
    let is_v4 = icmp == ICMP;
    a.jump_if(PROTOCOL, If::NotEqual, icmp, other);
    need(a, 8, ways.take);
    a.store(Size::Byte, Reg::R10, key::PROTOCOL, PROTOCOL);
    a.load(Size::Byte, SCRATCH, HERE, 0);
    a.jump_if(SCRATCH, If::Equal, if is_v4 { 0 } else { 129 }, reply);
    for kind in errors {
        a.jump_if(SCRATCH, If::Equal, *kind, quoted);
    }
    if ping {
        a.jump_if(SCRATCH, If::NotEqual, echo_request(icmp), ways.take);
        a.jump_if(SHARED, If::Equal, 1, ways.pass);
    }
    a.jump(ways.take);

    a.bind(reply);
    a.load(Size::Half, SCRATCH, HERE, 4);
    a.store(Size::Half, Reg::R10, key::LOCAL_PORT, SCRATCH);
    a.jump(ways.flow);

    // What it is about: the kernel's side is the source there.
    a.bind(quoted);
    a.alu(Op::Add, HERE, 8);
    if is_v4 {
        need(a, 20 + 8, ways.take);
        a.load(Size::Byte, SCRATCH, HERE, 0);
        a.jump_if(SCRATCH, If::NotEqual, PLAIN_IPV4, ways.take);
        a.load(Size::Half, SCRATCH, HERE, 6);
        a.from_big_endian16(SCRATCH);
        a.alu(Op::And, SCRATCH, 0x1fff);
        a.jump_if(SCRATCH, If::NotEqual, 0, ways.take);
        a.load(Size::Word, SCRATCH, HERE, 12);
        a.load(Size::Word, PROTOCOL, Reg::R10, key::LOCAL);
        a.jump_if(SCRATCH, If::NotEqual, PROTOCOL, ways.take);
        a.load(Size::Word, SCRATCH, HERE, 16);
        a.store(Size::Word, Reg::R10, key::REMOTE, SCRATCH);
        a.load(Size::Byte, PROTOCOL, HERE, 9);
        a.alu(Op::Add, HERE, 20);
    } else {
        need(a, 40 + 8, ways.take);
        for (from, at) in [(8, key::LOCAL), (16, key::LOCAL + 8)] {
            a.load(Size::Double, SCRATCH, HERE, from);
            a.load(Size::Double, PROTOCOL, Reg::R10, at);
            a.jump_if(SCRATCH, If::NotEqual, PROTOCOL, ways.take);
        }
        for (from, to) in [(24, key::REMOTE), (32, key::REMOTE + 8)] {
            a.load(Size::Double, SCRATCH, HERE, from);
            a.store(Size::Double, Reg::R10, to, SCRATCH);
        }
        a.load(Size::Byte, PROTOCOL, HERE, 6);
        a.alu(Op::Add, HERE, 40);
    }
    let ports = a.label();
    a.jump_if(PROTOCOL, If::NotEqual, icmp, ports);
    a.store(Size::Byte, Reg::R10, key::PROTOCOL, PROTOCOL);
    a.load(Size::Byte, SCRATCH, HERE, 0);
    a.jump_if(SCRATCH, If::NotEqual, echo_request(icmp), ways.take);
    a.load(Size::Half, SCRATCH, HERE, 4);
    a.store(Size::Half, Reg::R10, key::LOCAL_PORT, SCRATCH);
    a.jump(ways.flow);
    a.bind(ports);
    transport(a, (0, 2), ways);
    a.bind(other);
}

/// Judges by the ports, which lie at these distances, local and remote.
fn transport(a: &mut Assembler, (local, remote): (i16, i16), ways: &Ways) {
    const PORT: Reg = SCRATCH;
    let (ported, named) = (a.label(), a.label());
    a.store(Size::Byte, Reg::R10, key::PROTOCOL, PROTOCOL);
    let labels: Vec<(Protocol, Label)> =
        CLAIMED_PROTOCOLS.iter().map(|protocol| (*protocol, a.label())).collect();
    for (protocol, label) in &labels {
        a.jump_if(PROTOCOL, If::Equal, i32::from(protocol.0), *label);
    }
    a.jump(ways.flow);
    for (index, (_, label)) in (0..).zip(labels) {
        a.bind(label);
        a.load_map_value(CLAIMED, ways.claimed, index * PROTOCOL_STEP);
        a.load_map_value(NAMED, ways.named, index * PROTOCOL_STEP);
        a.jump(ported);
    }
    a.bind(ported);
    need(a, 4, ways.take);
    a.load(Size::Half, SCRATCH, HERE, remote);
    a.store(Size::Half, Reg::R10, key::REMOTE_PORT, SCRATCH);
    a.load(Size::Half, PORT, HERE, local);
    a.store(Size::Half, Reg::R10, key::LOCAL_PORT, PORT);
    a.jump_if(SHARED, If::Equal, 0, ways.flow);
    a.from_big_endian16(PORT);
    a.alu(Op::And, PORT, 0xffff);
    a.alu(Op::Add, CLAIMED, PORT);
    a.alu(Op::Add, NAMED, PORT);
    a.jump_if(SHARED, If::Equal, 2, named);
    a.load(Size::Byte, Reg::R0, CLAIMED, 0);
    a.jump_if(Reg::R0, If::NotEqual, 0, ways.take);
    a.bind(named);
    a.load(Size::Byte, Reg::R0, NAMED, 0);
    a.jump_if(Reg::R0, If::NotEqual, 0, ways.pass);
    a.jump(ways.flow);
}
