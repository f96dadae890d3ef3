//! The firewall: what the kernel sends, seen by one program, lets its answers pass by the other.

use super::{OURS, PLAIN, corpus, lines, sockets};
use crate::classify::{Classified, Fragment, Payload, Protocol, classify};
use crate::net::guard::Pass;
use crate::port::af_xdp::bpf::{ClaimMap, FlowMap, Kind, Program, VlanMap};
use crate::port::af_xdp::firewall::Firewall;
use crate::port::af_xdp::program::{Shares, XDP_DROP, XDP_PASS, take};
use crate::port::af_xdp::watch::{FlowKey, watch};
use crate::steer::{CLAIMED_PROTOCOLS, ClaimedPorts, PROTOCOL_BYTES};
use bytemuck::Zeroable;
use core::sync::atomic::Ordering;
use std::net::IpAddr;

/// Both programs, and the maps between them.
struct Wall {
    xdp: Program,
    egress: Program,
    flows: FlowMap,
    claimed: ClaimMap,
    named: ClaimMap,
}

fn index(protocol: Protocol, port: u16) -> usize {
    let index = CLAIMED_PROTOCOLS.iter().position(|p| *p == protocol).unwrap();
    index * PROTOCOL_BYTES + usize::from(port)
}

impl Wall {
    /// `None` without the privilege.
    fn new(addresses: &[&str], ping: bool) -> Option<Self> {
        let map = sockets()?;
        let (flows, vlans) = (FlowMap::flows().unwrap(), VlanMap::new().unwrap());
        let (claimed, named) = (ClaimMap::new(0).unwrap(), ClaimMap::new(0).unwrap());
        let firewall = Firewall { flows: flows.number(), named: named.number(), ping };
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let (mac, firewall) = (OURS, Some(firewall));
        let shares = Shares { mac, addresses, claimed: claimed.number(), firewall };
        let code =
            take(map.number(), vlans.number(), &Pass::NEIGHBOURS, Some(&shares), XDP_DROP).unwrap();
        let explained = Program::explain(PLAIN, &code).unwrap();
        assert_eq!(lines(&explained), lines(&code.to_string()), "{explained}");
        let xdp = Program::load(PLAIN, "usnet_take", &code).unwrap();
        let code = watch(flows.number()).unwrap();
        let explained = Program::explain(Kind::Egress, &code).unwrap();
        assert_eq!(lines(&explained), lines(&code.to_string()), "{explained}");
        let egress = Program::load(Kind::Egress, "usnet_watch", &code).unwrap();
        Some(Self { xdp, egress, flows, claimed, named })
    }

    fn passes(&self, frame: &[u8]) -> bool {
        self.xdp.run(frame).unwrap() == XDP_PASS.cast_unsigned()
    }

    /// The kernel sends this.
    fn send(&self, frame: &[u8]) {
        assert_eq!(self.egress.run(frame).unwrap().cast_signed(), -1, "the packet goes on");
    }
}

const SHARED: [&str; 2] = ["10.0.0.1", "fd00::1"];

/// A whole frame without options: from one address and port to another.
fn frame(protocol: Protocol, from: (&str, u16), to: (&str, u16)) -> Vec<u8> {
    let mut frame = [OURS.0, [2, 0, 0, 0, 0, 9]].concat();
    match (from.0.parse().unwrap(), to.0.parse().unwrap()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            frame.extend([8, 0, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, protocol.0, 0, 0]);
            frame.extend([a.octets(), b.octets()].concat());
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 26, protocol.0, 64]);
            frame.extend([a.octets(), b.octets()].concat());
        }
        _ => panic!("one family"),
    }
    frame.extend([from.1.to_be_bytes(), to.1.to_be_bytes()].concat());
    let mut rest = [0; 22];
    match protocol {
        Protocol::TCP => rest[8] = 0x50,
        Protocol::UDP => rest[1] = 26,
        _ => {}
    }
    frame.extend(rest);
    frame
}

/// The frame as its answer's question: the other way round.
fn turned(frame: &[u8]) -> Vec<u8> {
    let mut turned = frame.to_vec();
    let (addresses, length, ports) = match frame.get(12..14) {
        Some([8, 0]) => (26, 4, 34),
        _ => (22, 16, 54),
    };
    turned[..6].copy_from_slice(&frame[6..12]);
    turned[6..12].copy_from_slice(&frame[..6]);
    for (at, length) in [(addresses, length), (ports, 2)] {
        if frame.len() >= at + 2 * length {
            turned[at..at + length].copy_from_slice(&frame[at + length..at + 2 * length]);
            turned[at + length..at + 2 * length].copy_from_slice(&frame[at..at + length]);
        }
    }
    turned
}

/// Whether a frame is whole, untagged, and without options.
fn is_plain(seen: &Classified, frame: &[u8]) -> bool {
    let Payload::Ip(packet) = &seen.payload else { return false };
    seen.destination == OURS
        && packet.fragment == Fragment::Whole
        && [34, 54].contains(&packet.transport_offset)
        && (frame[12..14] == [8, 0] || frame[12..14] == [0x86, 0xdd])
}

/// The kernel's flow that a frame would be an answer to, as the classifier sees it. ICMP has tests of its own.
fn key_of(seen: &Classified) -> Option<FlowKey> {
    let Payload::Ip(packet) = &seen.payload else { return None };
    if [1, 58].contains(&packet.flow.protocol.0) {
        return None;
    }
    let mut key = FlowKey { protocol: packet.flow.protocol.0, ..FlowKey::zeroed() };
    let mut put = |address: IpAddr, remote: bool| {
        let octets = match address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        key.version = if octets.len() == 4 { 4 } else { 6 };
        let place = if remote { &mut key.remote } else { &mut key.local };
        place[..octets.len()].copy_from_slice(&octets);
    };
    put(packet.flow.destination.to_ip(), false);
    put(packet.flow.source.to_ip(), true);
    if CLAIMED_PROTOCOLS.contains(&packet.flow.protocol) {
        key.local_port = packet.flow.destination_port.to_be_bytes();
        key.remote_port = packet.flow.source_port.to_be_bytes();
    }
    Some(key)
}

#[test]
fn what_answers_the_kernel_passes_and_nothing_else_does() {
    let Some(wall) = Wall::new(&SHARED, false) else { return };
    let (mut answers, mut others) = (0, 0);
    for mut frame in corpus() {
        frame[..6].copy_from_slice(&OURS.0);
        if Pass::NEIGHBOURS.iter().any(|pass| pass.covers(&frame)) {
            assert!(wall.passes(&frame));
            continue;
        }
        assert!(!wall.passes(&frame), "nobody asked: {frame:02x?}");
        // The kernel judges for itself what is malformed.
        let Ok(seen) = classify(&frame) else { continue };
        let Some(key) = key_of(&seen) else { continue };
        wall.send(&turned(&frame));
        let passes = wall.passes(&frame);
        if is_plain(&seen, &frame) {
            answers += 1;
            assert!(passes, "an answer: {frame:02x?}");
            assert!(wall.flows.remove(&key), "{key:?}");
            assert!(!wall.passes(&frame), "forgotten: {frame:02x?}");
        } else {
            others += 1;
            assert!(!passes, "in doubt: {frame:02x?}");
            wall.flows.remove(&key);
        }
    }
    assert!(answers > 1000 && others > 300, "{answers} {others}");
}

#[test]
fn each_part_of_a_flow_counts() {
    let Some(wall) = Wall::new(&SHARED, false) else { return };
    for (here, elsewhere, there, other) in [
        ("10.0.0.1", "10.0.0.2", "10.9.9.9", "10.9.9.8"),
        ("fd00::1", "fd00::2", "2001:db8::9", "2001:db8::8"),
    ] {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            wall.send(&frame(protocol, (here, 40_000), (there, 53)));
            assert!(wall.passes(&frame(protocol, (there, 53), (here, 40_000))));
            for wrong in [
                frame(protocol, (other, 53), (here, 40_000)),
                frame(protocol, (there, 54), (here, 40_000)),
                frame(protocol, (there, 53), (elsewhere, 40_000)),
                frame(protocol, (there, 53), (here, 40_001)),
                frame(Protocol::SCTP, (there, 53), (here, 40_000)),
            ] {
                assert!(!wall.passes(&wrong), "{wrong:02x?}");
            }
            let mut to_another = frame(protocol, (there, 53), (here, 40_000));
            to_another[5] ^= 1;
            assert!(!wall.passes(&to_another), "of another link address");
        }
    }
}

#[test]
fn a_port_that_a_client_has_is_not_the_kernel_s_whatever_it_sent() {
    let Some(wall) = Wall::new(&SHARED, false) else { return };
    for (here, there) in [("10.0.0.1", "10.9.9.9"), ("fd00::1", "2001:db8::9")] {
        let answer = frame(Protocol::UDP, (there, 53), (here, 40_000));
        wall.send(&turned(&answer));
        let (at, protocol) = (index(Protocol::UDP, 40_000), Protocol::UDP);
        let named = &wall.named.counts()[at];
        named.store(1, Ordering::SeqCst);
        assert!(wall.passes(&answer));
        let claimed = &wall.claimed.counts()[at];
        claimed.store(1, Ordering::SeqCst);
        assert!(!wall.passes(&answer));
        claimed.store(0, Ordering::SeqCst);
        assert!(wall.passes(&answer));
        named.store(0, Ordering::SeqCst);
        // Only where clients may have ports.
        let elsewhere = if here.contains(':') { "fd00::7" } else { "10.0.0.7" };
        let answer = frame(protocol, (there, 53), (elsewhere, 40_000));
        wall.send(&turned(&answer));
        claimed.store(1, Ordering::SeqCst);
        assert!(wall.passes(&answer));
        claimed.store(0, Ordering::SeqCst);
    }
}

#[test]
fn a_named_port_is_the_kernel_s_at_shared_addresses_and_at_groups() {
    let Some(wall) = Wall::new(&SHARED, false) else { return };
    wall.named.counts()[index(Protocol::TCP, 22)].store(1, Ordering::SeqCst);
    wall.named.counts()[index(Protocol::UDP, 5353)].store(1, Ordering::SeqCst);
    for (here, elsewhere, there, group) in [
        ("10.0.0.1", "10.0.0.2", "10.9.9.9", "224.0.0.251"),
        ("fd00::1", "fd00::2", "2001:db8::9", "ff02::fb"),
    ] {
        let to = |protocol, address, port| frame(protocol, (there, 4000), (address, port));
        assert!(wall.passes(&to(Protocol::TCP, here, 22)));
        assert!(!wall.passes(&to(Protocol::TCP, here, 23)));
        assert!(!wall.passes(&to(Protocol::UDP, here, 22)));
        assert!(!wall.passes(&to(Protocol::TCP, elsewhere, 22)));
        let to_group = |protocol, port| {
            let mut frame = to(protocol, group, port);
            frame[0] = if here.contains(':') { 0x33 } else { 1 };
            frame
        };
        assert!(wall.passes(&to_group(Protocol::UDP, 5353)));
        assert!(!wall.passes(&to_group(Protocol::UDP, 5354)));
        assert_eq!(wall.passes(&to_group(Protocol(2), 0)), here.contains('.'), "IGMP");
    }
    // MLD, behind a router alert.
    let mut report = frame(Protocol(0), ("fe80::1", 0x3a00), ("ff02::16", 0x0502));
    report[0] = 0x33;
    report[62] = 143;
    assert!(wall.passes(&report));
    report[54] = 17;
    assert!(!wall.passes(&report));
}

/// A message of ICMP: type, and what follows the checksum.
fn icmp(from: &str, to: &str, kind: u8, rest: &[u8]) -> Vec<u8> {
    let is_v4 = from.contains('.');
    let mut frame = frame(Protocol(if is_v4 { 1 } else { 58 }), (from, 0), (to, 0));
    frame.truncate(if is_v4 { 34 } else { 54 });
    frame.extend([kind, 0, 0, 0]);
    frame.extend(rest);
    frame.resize(frame.len().max(80), 0);
    frame
}

#[test]
fn pings_of_the_kernel_are_answered_and_others_only_where_it_is_wanted() {
    let Some(wall) = Wall::new(&SHARED, false) else { return };
    let Some(open) = Wall::new(&SHARED, true) else { return };
    for (here, elsewhere, there, request, reply) in [
        ("10.0.0.1", "10.0.0.2", "10.9.9.9", 8, 0),
        ("fd00::1", "fd00::2", "2001:db8::9", 128, 129),
    ] {
        wall.send(&icmp(here, there, request, &[0x12, 0x34]));
        assert!(wall.passes(&icmp(there, here, reply, &[0x12, 0x34])));
        assert!(!wall.passes(&icmp(there, here, reply, &[0x12, 0x35])), "another's");
        assert!(!wall.passes(&icmp(there, here, request, &[0x12, 0x34])), "a question");
        assert!(open.passes(&icmp(there, here, request, &[0x12, 0x34])));
        assert!(!open.passes(&icmp(there, elsewhere, request, &[0x12, 0x34])));
        assert!(!open.passes(&icmp(there, here, reply, &[0x12, 0x34])), "nobody asked");
    }
}

#[test]
fn an_error_passes_if_it_is_about_what_the_kernel_sent() {
    let Some(wall) = Wall::new(&SHARED, false) else { return };
    for (here, elsewhere, there, router, errors) in [
        ("10.0.0.1", "10.0.0.2", "10.9.9.9", "10.0.0.254", [3, 11, 12]),
        ("fd00::1", "fd00::2", "2001:db8::9", "fd00::fe", [1, 2, 3]),
    ] {
        let sent = frame(Protocol::TCP, (here, 40_000), (there, 80));
        let about = |sent: &[u8]| [&[0; 4][..], &sent[14..]].concat();
        for kind in errors {
            let error = icmp(router, here, kind, &about(&sent));
            assert!(!wall.passes(&error), "{kind}: nothing was sent");
            wall.send(&sent);
            assert!(wall.passes(&error), "{kind}");
            let lie = icmp(router, elsewhere, kind, &about(&sent));
            assert!(!wall.passes(&lie), "{kind}: of another address");
            let other = frame(Protocol::TCP, (here, 40_001), (there, 80));
            assert!(!wall.passes(&icmp(router, here, kind, &about(&other))), "{kind}");
            let claimed = &wall.claimed.counts()[index(Protocol::TCP, 40_000)];
            claimed.store(1, Ordering::SeqCst);
            assert!(!wall.passes(&error), "{kind}: a client's");
            claimed.store(0, Ordering::SeqCst);
            let answer = frame(Protocol::TCP, (there, 80), (here, 40_000));
            let key = key_of(&classify(&answer).unwrap()).unwrap();
            assert!(wall.flows.remove(&key));
        }
        let ping = icmp(here, there, if here.contains('.') { 8 } else { 128 }, &[7, 7]);
        let error = icmp(router, here, errors[0], &about(&ping));
        assert!(!wall.passes(&error));
        wall.send(&ping);
        assert!(wall.passes(&error), "about a ping");
    }
}

#[test]
fn a_flow_that_was_not_used_for_long_is_none_but_for_a_connection() {
    let Some(wall) = Wall::new(&SHARED, false) else { return };
    for (protocol, lives) in [(Protocol::UDP, false), (Protocol::TCP, true)] {
        let answer = frame(protocol, ("10.9.9.9", 53), ("10.0.0.1", 40_000));
        wall.send(&turned(&answer));
        assert!(wall.passes(&answer));
        let key = key_of(&classify(&answer).unwrap()).unwrap();
        let hours = |hours: u64| {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            let now = u64::try_from(now.tv_sec).unwrap() * 1_000_000_000;
            now.wrapping_sub(hours * 3600 * 1_000_000_000)
        };
        wall.flows.insert(&key, &hours(1)).unwrap();
        assert_eq!(wall.passes(&answer), lives);
        wall.flows.insert(&key, &hours(24 * 6)).unwrap();
        assert!(!wall.passes(&answer));
        // Used again, it is as new.
        wall.send(&turned(&answer));
        assert!(wall.passes(&answer));
    }
}
