//! The XDP programs: which frames the switch gets, and which the kernel's stack.
//!
//! ```text
//!   frame --+-- of a kind that the kernel hears by itself --> XDP_PASS
//!           +-- any other --> socket of this receive queue, XDP_PASS where there is none
//! ```
//!
//! - What passes is exactly what [`Pass::covers`] says, bounds of the packet included; a test runs both
//!   on every frame of the corpus.
//! - A packet is read only behind a comparison with its end, which the kernel's verifier demands.

use super::asm::{AsmError, Assembler, Code, Helper, If, Label, Op, Reg, Size};
use crate::net::guard::Pass;

/// `enum xdp_action`.
pub(super) const XDP_PASS: i32 = 2;
/// As above.
#[cfg(test)]
pub(super) const XDP_DROP: i32 = 1;

/// Fields of `struct xdp_md` (linux/bpf.h).
mod context {
    pub(super) const DATA: i16 = 0;
    pub(super) const DATA_END: i16 = 4;
    pub(super) const RX_QUEUE_INDEX: i16 = 16;
}

const ETHERTYPE_IPV4: i32 = 0x0800;
const ETHERTYPE_IPV6: i32 = 0x86dd;
const ETHERTYPE_VLAN: i32 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: i32 = 0x88a8;
const ICMPV6: i32 = 58;
/// First and last of the messages of router and neighbour discovery (RFC 4861, 4).
const DISCOVERY: (i32, i32) = (133, 137);

/// Names for registers, the same in the whole program.
const CONTEXT: Reg = Reg::R6;
/// Where the header that is looked at begins.
const HERE: Reg = Reg::R2;
const END: Reg = Reg::R3;
const SCRATCH: Reg = Reg::R4;
const ETHERTYPE: Reg = Reg::R5;

/// A program that redirects all frames but those of the kinds `passing` to the socket that the XSKMAP
/// `sockets` has for their queue. `otherwise` is what becomes of a frame whose queue has none.
pub(super) fn take(sockets: i32, passing: &[Pass], otherwise: i32) -> Result<Code, AsmError> {
    let mut a = Assembler::new();
    let (redirect, pass) = (a.label(), a.label());
    a.set(CONTEXT, Reg::R1);
    if !passing.is_empty() {
        sort(&mut a, passing, redirect, pass);
    }
    a.bind(redirect);
    a.load(Size::Word, Reg::R2, CONTEXT, context::RX_QUEUE_INDEX);
    a.load_map(Reg::R1, sockets);
    a.set(Reg::R3, otherwise);
    a.call(Helper::RedirectMap);
    a.exit();
    a.bind(pass);
    if !passing.is_empty() {
        a.set(Reg::R0, XDP_PASS);
        a.exit();
    }
    a.finish()
}

/// Jumps to `short` unless `length` bytes from here lie in the packet.
fn need(a: &mut Assembler, length: i32, short: Label) {
    a.set(SCRATCH, HERE);
    a.alu(Op::Add, SCRATCH, length);
    a.jump_if(SCRATCH, If::Above, END, short);
}

/// Jumps to `pass` or to `other`.
fn sort(a: &mut Assembler, passing: &[Pass], other: Label, pass: Label) {
    let has = |kind| passing.contains(&kind);
    let to = |yes| if yes { pass } else { other };
    let (tagged, network, v4, v6) = (a.label(), a.label(), a.label(), a.label());
    a.load(Size::Word, HERE, CONTEXT, context::DATA);
    a.load(Size::Word, END, CONTEXT, context::DATA_END);
    need(a, 14, other);
    a.load(Size::Half, ETHERTYPE, HERE, 12);
    a.from_big_endian16(ETHERTYPE);
    a.jump_if(ETHERTYPE, If::Equal, ETHERTYPE_VLAN, tagged);
    a.jump_if(ETHERTYPE, If::Equal, ETHERTYPE_SERVICE_VLAN, tagged);
    a.alu(Op::Add, HERE, 14);
    a.jump(network);

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
        for half in [16, 18] {
            a.load(Size::Half, SCRATCH, HERE, half);
            a.jump_if(SCRATCH, If::NotEqual, 0xffff, other);
        }
        a.jump(pass);
    } else {
        a.jump(other);
    }

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
