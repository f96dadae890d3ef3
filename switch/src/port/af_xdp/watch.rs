//! The program behind the kernel's stack: it remembers the flows of what the kernel sends, so that the XDP
//! program knows an answer.
//!
//! ```text
//!   kernel --> qdisc --> tcx egress: this program --> driver       flows: who, to whom, when last
//!                             |
//!                           flows <-- looked up by the XDP program of `take = "firewall"`
//! ```
//!
//! - What clients send does not come by here: XDP sockets hand their frames to the driver.
//! - Flows are as an answer sees them: local is the kernel's side. Of a protocol without ports both are 0, of
//!   an echo request the identifier stands for the local one.
//! - A packet that cannot be read is not remembered; the packet itself is never touched or held.

use super::asm::{AsmError, Assembler, Code, Helper, If, Label, Op, Reg, Size};
use super::program::{
    AUTHENTICATION, ETHERTYPE_IPV4, ETHERTYPE_IPV6, EXTENSIONS, ICMP, ICMPV6, PLAIN_IPV4,
    echo_request,
};
use crate::steer::CLAIMED_PROTOCOLS;
use bytemuck::{Pod, Zeroable};

/// A flow of the kernel's, in network byte order; a key of the map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub(super) struct FlowKey {
    /// An IPv4 address is the first four bytes.
    pub(super) local: [u8; 16],
    pub(super) remote: [u8; 16],
    pub(super) local_port: [u8; 2],
    pub(super) remote_port: [u8; 2],
    pub(super) protocol: u8,
    /// 4 or 6.
    pub(super) version: u8,
    pub(super) zero: [u8; 2],
}
const _: () = assert!(size_of::<FlowKey>() == 40);

/// Where a program has a [`FlowKey`]: at the end of its stack.
pub(super) mod key {
    pub(in super::super) const KEY: i16 = -40;
    pub(in super::super) const LOCAL: i16 = KEY;
    pub(in super::super) const REMOTE: i16 = KEY + 16;
    pub(in super::super) const LOCAL_PORT: i16 = KEY + 32;
    pub(in super::super) const REMOTE_PORT: i16 = KEY + 34;
    pub(in super::super) const PROTOCOL: i16 = KEY + 36;
    pub(in super::super) const VERSION: i16 = KEY + 37;
}

/// Writes a key of zeros.
pub(super) fn clear_key(a: &mut Assembler) {
    for at in (key::KEY..0).step_by(8) {
        a.store(Size::Double, Reg::R10, at, 0);
    }
}

/// Fields of `struct __sk_buff` (linux/bpf.h).
mod context {
    pub(super) const PROTOCOL: i16 = 16;
    pub(super) const VLAN_PRESENT: i16 = 20;
}

/// `TCX_NEXT` and `TC_ACT_UNSPEC`: whatever comes next decides.
const NEXT: i32 = -1;
const CONTEXT: Reg = Reg::R6;
const PROTOCOL: Reg = Reg::R8;
/// Where the transport header begins.
const TRANSPORT: Reg = Reg::R9;
/// The network header on the stack, 40 bytes.
const NETWORK: i16 = -80;
/// The beginning of the transport header on the stack, 8 bytes.
const PORTS: i16 = -48;
/// The time on the stack.
const TIME: i16 = -56;

/// A program that enters into the map `flows` what it sees.
pub(super) fn watch(flows: i32) -> Result<Code, AsmError> {
    let mut a = Assembler::new();
    let (ipv6, transport, record, out) = (a.label(), a.label(), a.label(), a.label());
    a.set(CONTEXT, Reg::R1);
    // Of a VLAN interface; the flows here are of untagged frames.
    a.load(Size::Word, Reg::R2, CONTEXT, context::VLAN_PRESENT);
    a.jump_if(Reg::R2, If::NotEqual, 0, out);
    clear_key(&mut a);
    a.load(Size::Word, Reg::R7, CONTEXT, context::PROTOCOL);
    a.from_big_endian16(Reg::R7);
    a.jump_if(Reg::R7, If::Equal, ETHERTYPE_IPV6, ipv6);
    a.jump_if(Reg::R7, If::NotEqual, ETHERTYPE_IPV4, out);

    a.set(TRANSPORT, 14);
    load_bytes(&mut a, NETWORK, 20, out);
    a.load(Size::Byte, Reg::R2, Reg::R10, NETWORK);
    a.jump_if(Reg::R2, If::NotEqual, PLAIN_IPV4, out);
    a.load(Size::Half, Reg::R2, Reg::R10, NETWORK + 6);
    a.from_big_endian16(Reg::R2);
    a.alu(Op::And, Reg::R2, 0x1fff);
    a.jump_if(Reg::R2, If::NotEqual, 0, out);
    for (from, to) in [(12, key::LOCAL), (16, key::REMOTE)] {
        a.load(Size::Word, Reg::R2, Reg::R10, NETWORK + from);
        a.store(Size::Word, Reg::R10, to, Reg::R2);
    }
    a.store(Size::Byte, Reg::R10, key::VERSION, 4);
    a.load(Size::Byte, PROTOCOL, Reg::R10, NETWORK + 9);
    a.jump_if(PROTOCOL, If::Equal, AUTHENTICATION, out);
    a.set(TRANSPORT, 34);
    echo(&mut a, ICMP, record, out);
    a.jump(transport);

    a.bind(ipv6);
    a.set(TRANSPORT, 14);
    load_bytes(&mut a, NETWORK, 40, out);
    for (from, to) in
        [(8, key::LOCAL), (16, key::LOCAL + 8), (24, key::REMOTE), (32, key::REMOTE + 8)]
    {
        a.load(Size::Double, Reg::R2, Reg::R10, NETWORK + from);
        a.store(Size::Double, Reg::R10, to, Reg::R2);
    }
    a.store(Size::Byte, Reg::R10, key::VERSION, 6);
    a.load(Size::Byte, PROTOCOL, Reg::R10, NETWORK + 6);
    for header in EXTENSIONS {
        a.jump_if(PROTOCOL, If::Equal, header, out);
    }
    a.set(TRANSPORT, 54);
    echo(&mut a, ICMPV6, record, out);

    a.bind(transport);
    let ports = a.label();
    for protocol in CLAIMED_PROTOCOLS {
        a.jump_if(PROTOCOL, If::Equal, i32::from(protocol.0), ports);
    }
    a.jump(record);
    a.bind(ports);
    load_bytes(&mut a, PORTS, 4, out);
    for (from, to) in [(0, key::LOCAL_PORT), (2, key::REMOTE_PORT)] {
        a.load(Size::Half, Reg::R2, Reg::R10, PORTS + from);
        a.store(Size::Half, Reg::R10, to, Reg::R2);
    }

    a.bind(record);
    let known = a.label();
    a.store(Size::Byte, Reg::R10, key::PROTOCOL, PROTOCOL);
    look_up(&mut a, flows);
    a.jump_if(Reg::R0, If::NotEqual, 0, known);
    a.call(Helper::Time);
    a.store(Size::Double, Reg::R10, TIME, Reg::R0);
    a.load_map(Reg::R1, flows);
    stack(&mut a, Reg::R2, key::KEY);
    stack(&mut a, Reg::R3, TIME);
    a.set(Reg::R4, 0);
    a.call(Helper::MapUpdate);
    a.jump(out);
    a.bind(known);
    // One that is known costs no change of the map.
    a.set(Reg::R7, Reg::R0);
    a.call(Helper::Time);
    a.store(Size::Double, Reg::R7, 0, Reg::R0);
    a.bind(out);
    a.set(Reg::R0, NEXT);
    a.exit();
    a.finish()
}

/// `reg = ` the address of a place on the stack.
fn stack(a: &mut Assembler, reg: Reg, at: i16) {
    a.set(reg, Reg::R10);
    a.alu(Op::Add, reg, i32::from(at));
}

/// `r0 = ` the time at which the flow of the key was last seen, by address; 0 if it is not known.
pub(super) fn look_up(a: &mut Assembler, flows: i32) {
    a.load_map(Reg::R1, flows);
    stack(a, Reg::R2, key::KEY);
    a.call(Helper::MapLookup);
}

/// Copies `length` bytes from where [`TRANSPORT`] says to the stack; jumps to `out` if there are fewer.
fn load_bytes(a: &mut Assembler, to: i16, length: i32, out: Label) {
    a.set(Reg::R1, CONTEXT);
    a.set(Reg::R2, TRANSPORT);
    stack(a, Reg::R3, to);
    a.set(Reg::R4, length);
    a.call(Helper::LoadBytes);
    a.jump_if(Reg::R0, If::NotEqual, 0, out);
}

/// With a message of this protocol: jumps to `record` with an echo request, to `out` with any other.
fn echo(a: &mut Assembler, icmp: i32, record: Label, out: Label) {
    let other = a.label();
    a.jump_if(PROTOCOL, If::NotEqual, icmp, other);
    load_bytes(a, PORTS, 8, out);
    a.load(Size::Byte, Reg::R2, Reg::R10, PORTS);
    a.jump_if(Reg::R2, If::NotEqual, echo_request(icmp), out);
    a.load(Size::Half, Reg::R2, Reg::R10, PORTS + 4);
    a.store(Size::Half, Reg::R10, key::LOCAL_PORT, Reg::R2);
    a.jump(record);
    a.bind(other);
}
