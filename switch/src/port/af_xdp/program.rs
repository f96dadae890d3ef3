//! The XDP programs: which frames the switch gets, and which the kernel's stack.
//!
//! ```text
//!   frame --+-- of a kind that the kernel hears by itself --------------> XDP_PASS
//!           +-- plain, to an address of the kernel's and a port that
//!           |   no client can have, or a ping -------------------------> XDP_PASS
//!           +-- any other --> socket of this receive queue, XDP_PASS where there is none
//! ```
//!
//! - The second way is there if counts of claimed ports are. It is for frames that cannot be a client's by
//!   any reading: whole, untagged, without options. All in doubt is the switch's to decide, which hands on
//!   what is the kernel's.
//! - What passes is exactly what [`Pass::covers`] says, bounds of the packet included; a test runs both
//!   on every frame of the corpus. Before that, frames of VLANs that the switch serves go to it, all of them.
//! - A packet is read only behind a comparison with its end, which the kernel's verifier demands.

use super::asm::{AsmError, Assembler, Code, Helper, If, Label, Op, Reg, Size};
use super::firewall::{Firewall, guard};
use crate::classify::{Mac, Protocol};
use crate::net::guard::Pass;
use crate::steer::{CLAIMED_PROTOCOLS, PROTOCOL_BYTES};
use std::net::IpAddr;

/// `enum xdp_action`.
pub(super) const XDP_PASS: i32 = 2;
/// As above.
#[cfg(test)]
pub(super) const XDP_DROP: i32 = 1;

/// Fields of `struct xdp_md` (linux/bpf.h).
pub(super) mod context {
    pub(in super::super) const DATA: i16 = 0;
    pub(in super::super) const DATA_END: i16 = 4;
    pub(in super::super) const RX_QUEUE_INDEX: i16 = 16;
}

pub(super) const ETHERTYPE_IPV4: i32 = 0x0800;
pub(super) const ETHERTYPE_IPV6: i32 = 0x86dd;
const ETHERTYPE_VLAN: i32 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: i32 = 0x88a8;
pub(super) const ICMPV6: i32 = 58;
/// First and last of the messages of router and neighbour discovery (RFC 4861, 4).
const DISCOVERY: (i32, i32) = (133, 137);

/// Names for registers, the same in the whole program.
pub(super) const CONTEXT: Reg = Reg::R6;
/// Where the header that is looked at begins.
pub(super) const HERE: Reg = Reg::R2;
pub(super) const END: Reg = Reg::R3;
pub(super) const SCRATCH: Reg = Reg::R4;
pub(super) const ETHERTYPE: Reg = Reg::R5;

/// What tells the kernel's frames from those of clients.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    /// The interface's link address.
    pub(super) mac: Mac,
    /// Addresses of the kernel, whose ports clients may claim.
    pub(super) addresses: Vec<IpAddr>,
    /// The array of counts of claimed ports.
    pub(super) claimed: i32,
    /// How strictly, if not all that no client has is the kernel's.
    pub(super) firewall: Option<Firewall>,
}

/// A program that redirects all frames but those of the kinds `passing` to the socket that the XSKMAP
/// `sockets` has for their queue. `otherwise` is what becomes of a frame whose queue has none; `vlans`
/// the array that says of which VLANs none pass.
pub(super) fn take(
    sockets: i32,
    vlans: i32,
    passing: &[Pass],
    shares: Option<&Shares>,
    otherwise: i32,
) -> Result<Code, AsmError> {
    let mut a = Assembler::new();
    let (redirect, pass, shared) = (a.label(), a.label(), a.label());
    a.set(CONTEXT, Reg::R1);
    if !passing.is_empty() {
        sort(&mut a, vlans, passing, Ways { take: redirect, other: shared, pass });
    }
    a.bind(shared);
    if let Some(shares) = shares {
        match shares.firewall {
            Some(firewall) => guard(&mut a, shares, firewall, redirect, pass),
            None => share(&mut a, shares, redirect, pass),
        }
    }
    a.bind(redirect);
    a.load(Size::Word, Reg::R2, CONTEXT, context::RX_QUEUE_INDEX);
    a.load_map(Reg::R1, sockets);
    a.set(Reg::R3, otherwise);
    a.call(Helper::RedirectMap);
    a.exit();
    a.bind(pass);
    if !passing.is_empty() || shares.is_some() {
        a.set(Reg::R0, XDP_PASS);
        a.exit();
    }
    a.finish()
}

/// Jumps to `short` unless `length` bytes from here lie in the packet.
pub(super) fn need(a: &mut Assembler, length: i32, short: Label) {
    a.set(SCRATCH, HERE);
    a.alu(Op::Add, SCRATCH, length);
    a.jump_if(SCRATCH, If::Above, END, short);
}

/// Where [`sort`] goes.
struct Ways {
    /// With what is the switch's.
    take: Label,
    /// With what is undecided.
    other: Label,
    /// With what the kernel hears.
    pass: Label,
}

/// Jumps to `take` with a frame of a VLAN that the switch serves; to `pass` or to `other` with any other.
fn sort(a: &mut Assembler, vlans: i32, passing: &[Pass], ways: Ways) {
    let Ways { take, other, pass } = ways;
    let has = |kind| passing.contains(&kind);
    let to = |yes| if yes { pass } else { other };
    let (customer, tagged) = (a.label(), a.label());
    let (network, v4, v6) = (a.label(), a.label(), a.label());
    a.load(Size::Word, HERE, CONTEXT, context::DATA);
    a.load(Size::Word, END, CONTEXT, context::DATA_END);
    need(a, 14, other);
    a.load(Size::Half, ETHERTYPE, HERE, 12);
    a.from_big_endian16(ETHERTYPE);
    a.jump_if(ETHERTYPE, If::Equal, ETHERTYPE_VLAN, customer);
    a.jump_if(ETHERTYPE, If::Equal, ETHERTYPE_SERVICE_VLAN, tagged);
    a.alu(Op::Add, HERE, 14);
    a.jump(network);

    a.bind(customer);
    need(a, 18, other);
    a.load(Size::Half, SCRATCH, HERE, 14);
    a.from_big_endian16(SCRATCH);
    a.alu(Op::And, SCRATCH, 0xfff);
    a.load_map_value(Reg::R1, vlans, 0);
    a.alu(Op::Add, Reg::R1, SCRATCH);
    a.load(Size::Byte, Reg::R0, Reg::R1, 0);
    a.jump_if(Reg::R0, If::NotEqual, 0, take);

    a.bind(tagged);
    need(a, 18, other);
    if has(Pass::Tagged) {
        a.load(Size::Half, SCRATCH, HERE, 14);
        a.from_big_endian16(SCRATCH);
        a.alu(Op::And, SCRATCH, 0xfff);
        a.jump_if(SCRATCH, If::NotEqual, 0, pass);
    }
    a.load(Size::Half, ETHERTYPE, HERE, 16);
    a.from_big_endian16(ETHERTYPE);
    a.alu(Op::Add, HERE, 18);

    a.bind(network);
    a.jump_if(ETHERTYPE, If::Equal, ETHERTYPE_IPV4, v4);
    a.jump_if(ETHERTYPE, If::Equal, ETHERTYPE_IPV6, v6);
    a.jump(to(has(Pass::NotIp)));

    a.bind(v4);
    if has(Pass::Groups) {
        need(a, 20, other);
        a.load(Size::Byte, SCRATCH, HERE, 16);
        a.alu(Op::And, SCRATCH, 0xf0);
        a.jump_if(SCRATCH, If::Equal, 0xe0, pass);
        // 255.255.255.255, by halves: an immediate of 32 bits would be extended with its sign.
        let unicast = a.label();
        for half in [16, 18] {
            a.load(Size::Half, SCRATCH, HERE, half);
            a.jump_if(SCRATCH, If::NotEqual, 0xffff, unicast);
        }
        a.jump(pass);
        a.bind(unicast);
    }
    if has(Pass::Dhcp) {
        need(a, 24, other);
        need_whole_ipv4(a, other);
        a.load(Size::Byte, SCRATCH, HERE, 9);
        a.jump_if(SCRATCH, If::NotEqual, i32::from(Protocol::UDP.0), other);
        a.load(Size::Half, SCRATCH, HERE, 22);
        a.from_big_endian16(SCRATCH);
        a.jump_if(SCRATCH, If::Equal, DHCP_CLIENT, pass);
    }
    a.jump(other);

    a.bind(v6);
    let discovery = a.label();
    if has(Pass::Groups) {
        need(a, 25, other);
        a.load(Size::Byte, SCRATCH, HERE, 24);
        a.jump_if(SCRATCH, If::Equal, 0xff, pass);
    }
    if has(Pass::LinkLocal) {
        need(a, 26, other);
        a.load(Size::Byte, SCRATCH, HERE, 24);
        a.jump_if(SCRATCH, If::NotEqual, 0xfe, discovery);
        a.load(Size::Byte, SCRATCH, HERE, 25);
        a.alu(Op::And, SCRATCH, 0xc0);
        a.jump_if(SCRATCH, If::Equal, 0x80, pass);
    }
    a.bind(discovery);
    if has(Pass::NeighbourDiscovery) {
        need(a, 41, other);
        a.load(Size::Byte, SCRATCH, HERE, 6);
        a.jump_if(SCRATCH, If::NotEqual, ICMPV6, other);
        a.load(Size::Byte, SCRATCH, HERE, 40);
        a.jump_if(SCRATCH, If::Below, DISCOVERY.0, other);
        a.jump_if(SCRATCH, If::Above, DISCOVERY.1, other);
        a.jump(pass);
    }
    // What is left falls through to `other`, which the caller binds next.
}

/// The port that DHCP servers answer to.
const DHCP_CLIENT: i32 = 68;
pub(super) const ICMP: i32 = 1;
/// The first byte of an IPv4 header without options.
pub(super) const PLAIN_IPV4: i32 = 0x45;
/// Everything of an IPv4 header's fragment word but "do not fragment".
const FRAGMENT_WORD: i32 = 0xbfff;

/// Goes on with an IPv4 packet without options that is no piece, at [`HERE`]; others are for `otherwise`. 8 bytes of it
/// must be there.
pub(super) fn need_whole_ipv4(a: &mut Assembler, otherwise: Label) {
    a.load(Size::Byte, SCRATCH, HERE, 0);
    a.jump_if(SCRATCH, If::NotEqual, PLAIN_IPV4, otherwise);
    a.load(Size::Half, SCRATCH, HERE, 6);
    a.from_big_endian16(SCRATCH);
    a.alu(Op::And, SCRATCH, FRAGMENT_WORD);
    a.jump_if(SCRATCH, If::NotEqual, 0, otherwise);
}

/// Next headers of IPv6 behind which others follow.
pub(super) const EXTENSIONS: [i32; 8] = [0, 43, 44, AUTHENTICATION, 60, 135, 139, 140];
/// The one of them that IPv4 has, too.
pub(super) const AUTHENTICATION: i32 = 51;

/// The type of an echo request of [`ICMP`] or [`ICMPV6`].
pub(super) const fn echo_request(icmp: i32) -> i32 {
    if icmp == ICMP { 8 } else { 128 }
}

/// An address as it lies in a packet.
pub(super) fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// Jumps to `pass` with what cannot be a client's, to `take` with all else.
fn share(a: &mut Assembler, shares: &Shares, take: Label, pass: Label) {
    const PROTOCOL: Reg = ETHERTYPE;
    const PORT: Reg = SCRATCH;
    let (ipv6, transport) = (a.label(), a.label());
    a.load(Size::Word, HERE, CONTEXT, context::DATA);
    a.load(Size::Word, END, CONTEXT, context::DATA_END);
    need(a, 14 + 24, take);
    halves(a, 0, &shares.mac.0, take);
    a.load(Size::Half, ETHERTYPE, HERE, 12);
    a.from_big_endian16(ETHERTYPE);
    a.alu(Op::Add, HERE, 14);
    let (v4, v6): (Vec<_>, Vec<_>) = shares.addresses.iter().partition(|a| a.is_ipv4());
    // The verifier refuses instructions that nothing leads to.
    if !v6.is_empty() {
        a.jump_if(ETHERTYPE, If::Equal, ETHERTYPE_IPV6, ipv6);
    }
    if v4.is_empty() {
        a.jump(take);
    } else {
        a.jump_if(ETHERTYPE, If::NotEqual, ETHERTYPE_IPV4, take);
        need_whole_ipv4(a, take);
        any_of(a, 16, v4.into_iter().map(octets), take);
        a.load(Size::Byte, PROTOCOL, HERE, 9);
        a.alu(Op::Add, HERE, 20);
        echo(a, PROTOCOL, ICMP, take, pass);
        a.jump(transport);
    }
    a.bind(ipv6);
    if !v6.is_empty() {
        need(a, 44, take);
        any_of(a, 24, v6.into_iter().map(octets), take);
        a.load(Size::Byte, PROTOCOL, HERE, 6);
        a.alu(Op::Add, HERE, 40);
        echo(a, PROTOCOL, ICMPV6, take, pass);
    }

    a.bind(transport);
    let test = a.label();
    need(a, 4, take);
    let labels: Vec<(Protocol, Label)> =
        CLAIMED_PROTOCOLS.iter().map(|protocol| (*protocol, a.label())).collect();
    for (protocol, label) in &labels {
        a.jump_if(PROTOCOL, If::Equal, i32::from(protocol.0), *label);
    }
    a.jump(take);
    for (index, (_, label)) in (0..).zip(labels) {
        a.bind(label);
        a.load_map_value(Reg::R1, shares.claimed, index * PROTOCOL_STEP);
        a.jump(test);
    }
    a.bind(test);
    a.load(Size::Half, PORT, HERE, 2);
    a.from_big_endian16(PORT);
    // A bound that older verifiers do not see by themselves.
    a.alu(Op::And, PORT, 0xffff);
    a.alu(Op::Add, Reg::R1, PORT);
    a.load(Size::Byte, Reg::R0, Reg::R1, 0);
    a.jump_if(Reg::R0, If::Equal, 0, pass);
    // What is left falls through to `take`, which the caller binds next.
}

/// The counts of one protocol, as a distance for an instruction.
pub(super) const PROTOCOL_STEP: i32 = 1 << 16;
const _: () = assert!(PROTOCOL_STEP.cast_unsigned() as usize == PROTOCOL_BYTES);

/// Jumps to `other` unless the bytes at `at` are these, an even number. By halves: an immediate of 32
/// bits would be extended with its sign.
pub(super) fn halves(a: &mut Assembler, at: i16, bytes: &[u8], other: Label) {
    for (at, half) in (at..).step_by(2).zip(bytes.as_chunks::<2>().0) {
        a.load(Size::Half, SCRATCH, HERE, at);
        a.from_big_endian16(SCRATCH);
        a.jump_if(SCRATCH, If::NotEqual, i32::from(u16::from_be_bytes(*half)), other);
    }
}

/// Jumps to `none` unless one of these addresses lies at `at`.
pub(super) fn any_of(
    a: &mut Assembler,
    at: i16,
    addresses: impl Iterator<Item = Vec<u8>>,
    none: Label,
) {
    let found = a.label();
    for address in addresses {
        let next = a.label();
        halves(a, at, &address, next);
        a.jump(found);
        a.bind(next);
    }
    a.jump(none);
    a.bind(found);
}

/// Jumps to `pass` with an echo request, to `take` with any other message of that protocol.
fn echo(a: &mut Assembler, protocol: Reg, icmp: i32, take: Label, pass: Label) {
    let other = a.label();
    a.jump_if(protocol, If::NotEqual, icmp, other);
    a.load(Size::Byte, SCRATCH, HERE, 0);
    a.jump_if(SCRATCH, If::Equal, echo_request(icmp), pass);
    a.jump(take);
    a.bind(other);
}
