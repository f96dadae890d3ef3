//! The programs in the kernel: what the verifier and its interpreter make of them.
//!
//! A test that needs privileges skips itself without them, unless `USNET_TESTS_REQUIRE_ALL=1`.

mod firewall;

use super::bpf::{ClaimMap, Hook, Kind, Program, SocketMap, VlanMap, XdpError};
use super::program::{Shares, XDP_DROP, XDP_PASS, take};
use crate::classify::{Fragment, Mac, Payload, Protocol, classify};
use crate::net::guard::Pass;
use crate::net::namespace::Namespace;
use crate::net::{NetError, Netlink};
use crate::steer::{CLAIMED_PROTOCOLS, Table};
use crate::time::Time;
use crate::verdict::Receiver;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use usnet_shmring::ledger::SessionId;

const PLAIN: Kind = Kind::Xdp { fragments: false };

fn required() -> bool {
    std::env::var_os("USNET_TESTS_REQUIRE_ALL").is_some_and(|value| value == "1")
}

/// A map of sockets; `None`, and the reason on standard error, without the privilege.
fn sockets() -> Option<SocketMap> {
    match SocketMap::sockets(4) {
        Ok(map) => Some(map),
        Err(error) => {
            assert!(!required(), "a BPF map: {error:?}");
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}

/// What the verifier prints of each instruction, without what it knows of registers.
fn lines(text: &str) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for line in text.lines() {
        let Some((number, rest)) = line.split_once(": (") else { continue };
        // It says where it came from, "from 5 to 9", before it goes on there.
        if number.parse::<usize>().is_err() {
            continue;
        }
        let text = rest.split(';').next().unwrap_or_default().trim_end();
        // The map is an address there, and a descriptor here.
        let text = if text.starts_with("18") { text.split(" = ").next().unwrap() } else { text };
        lines.insert(format!("{number}: ({text}"));
    }
    lines
}

#[test]
fn the_verifier_reads_the_same_instructions() {
    let Some(map) = sockets() else { return };
    let (claimed, vlans) = (ClaimMap::new(1).unwrap(), VlanMap::new().unwrap());
    let shares = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        Shares { mac: OURS, addresses, claimed: claimed.number(), firewall: None }
    };
    let shares = [
        None,
        Some(shares(&["10.0.0.1"])),
        Some(shares(&["fd00::1"])),
        Some(shares(&["10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2"])),
    ];
    for passing in
        [&[][..], &Pass::NEIGHBOURS, &Pass::ALL, &[Pass::Groups], &[Pass::Tagged], &[Pass::Dhcp]]
    {
        for shares in &shares {
            let code =
                take(map.number(), vlans.number(), passing, shares.as_ref(), XDP_PASS).unwrap();
            let explained = Program::explain(PLAIN, &code).unwrap();
            assert_eq!(lines(&explained), lines(&code.to_string()), "{passing:?}:\n{explained}");
        }
    }
}

/// Frames at the edges of what the programs compare.
fn grid() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let plain = |ethertype: [u8; 2]| {
        let mut frame = vec![0_u8; 80];
        frame[12..14].copy_from_slice(&ethertype);
        frame
    };
    for byte in 0..=255 {
        let mut v4 = plain([8, 0]);
        (v4[14], v4[23], v4[30]) = (0x45, 17, byte);
        frames.push(v4.clone());
        v4[30..34].fill(255);
        v4[33] = byte;
        frames.push(v4.clone());
        (v4[30], v4[14]) = (10, byte);
        frames.push(v4.clone());
        (v4[14], v4[20]) = (0x45, byte);
        frames.push(v4.clone());
        (v4[20], v4[21]) = (0, byte);
        frames.push(v4.clone());
        (v4[21], v4[23]) = (0, byte);
        frames.push(v4.clone());
        (v4[23], v4[37]) = (17, byte);
        frames.push(v4.clone());
        (v4[36], v4[37]) = (byte, 68);
        frames.push(v4.clone());
        (v4[36], v4[20]) = (0, byte);
        frames.push(v4.clone());
        (v4[20], v4[14]) = (0, byte);
        frames.push(v4.clone());
        (v4[14], v4[37]) = (0x45, 0);
        (v4[23], v4[34]) = (1, byte);
        frames.push(v4);
        for first in [0xfd, 0xfe, 0xff] {
            let mut v6 = plain([0x86, 0xdd]);
            (v6[14], v6[20], v6[38], v6[39]) = (0x60, 17, first, byte);
            frames.push(v6.clone());
            (v6[20], v6[54]) = (58, byte);
            frames.push(v6.clone());
            (v6[20], v6[38]) = (byte, 0xfd);
            frames.push(v6);
        }
        for ethertype in [[0x81, 0], [0x88, 0xa8], [byte, 0], [8, byte], [0x86, byte]] {
            let mut other = plain(ethertype);
            (other[15], other[16]) = (byte, 8);
            frames.push(other.clone());
            (other[14], other[15]) = (byte, 0);
            frames.push(other);
        }
    }
    frames
}

/// All frames of the corpora, and every frame cut to the shortest that the kernel lets a program see.
fn corpus() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut frames: Vec<Vec<u8>> = std::fs::read_dir(root.join("classify"))
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    let pcap = std::fs::read(root.join("tcpdump-ethernet.pcap")).unwrap();
    let mut at = 24;
    while let Some(length) = pcap.get(at + 8..at + 12) {
        let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
        frames.push(pcap[at + 16..at + 16 + length].to_vec());
        at += 16 + length;
    }
    let cut: Vec<Vec<u8>> = frames
        .iter()
        .take(300)
        .flat_map(|f| (14..f.len().min(80)).map(|n| f[..n].to_vec()))
        .collect();
    frames.extend(cut);
    frames.extend(grid());
    // A packet of BPF_PROG_TEST_RUN is 14 bytes at least, and fits a page with its headroom.
    frames.retain(|frame| (14..=3000).contains(&frame.len()));
    frames
}

#[test]
fn what_passes_is_what_the_guard_lets_pass() {
    let Some(map) = sockets() else { return };
    let vlans = VlanMap::new().unwrap();
    let frames = corpus();
    assert!(frames.len() > 5000, "{} frames", frames.len());
    let kinds = [
        &[][..],
        &Pass::NEIGHBOURS,
        &Pass::ALL,
        &[Pass::Groups],
        &[Pass::LinkLocal],
        &[Pass::Dhcp],
    ];
    for passing in kinds {
        // The map has no socket, so what would be redirected is dropped.
        let code = take(map.number(), vlans.number(), passing, None, XDP_DROP).unwrap();
        let program = Program::load(PLAIN, "usnet_take", &code).unwrap();
        let mut passed = 0;
        for frame in &frames {
            let covered = passing.iter().any(|pass| pass.covers(frame));
            let seen = program.run(frame).unwrap();
            let expected = if covered { XDP_PASS } else { XDP_DROP };
            assert_eq!(seen, expected.cast_unsigned(), "{passing:?}: {frame:02x?}");
            passed += usize::from(covered);
        }
        assert_eq!(passed == 0, passing.is_empty());
    }
}

#[test]
fn frames_of_vlans_that_the_switch_serves_do_not_pass_whatever_is_in_them() {
    let Some(map) = sockets() else { return };
    let vlans = VlanMap::new().unwrap();
    let frames: Vec<Vec<u8>> = corpus()
        .into_iter()
        .filter(|frame| !matches!(frame[12..14], [0x81, 0] | [0x88, 0xa8]))
        .collect();
    for passing in [&Pass::NEIGHBOURS[..], &Pass::ALL, &[Pass::Groups]] {
        let code = take(map.number(), vlans.number(), passing, None, XDP_DROP).unwrap();
        let program = Program::load(PLAIN, "usnet_take", &code).unwrap();
        let passes = |frame: &[u8]| program.run(frame).unwrap() == XDP_PASS.cast_unsigned();
        for (id, control) in [(1, 1), (42, 0xe02a), (4094, 0x1ffe)] {
            vlans.set(id, true);
            for frame in frames.iter().step_by(7) {
                let tagged = |kind: u16, control: u16| {
                    let mut tagged = frame.clone();
                    let tag = [kind.to_be_bytes(), control.to_be_bytes()].concat();
                    tagged.splice(12..12, tag);
                    tagged
                };
                let covered = |frame: &[u8]| passing.iter().any(|pass| pass.covers(frame));
                assert!(!passes(&tagged(0x8100, control)), "{id}: {frame:02x?}");
                for other in [tagged(0x8100, control ^ 3), tagged(0x88a8, control), frame.clone()] {
                    assert_eq!(passes(&other), covered(&other), "{passing:?}: {other:02x?}");
                }
            }
            vlans.set(id, false);
            let frame = frames.first().unwrap();
            let mut tagged = frame.clone();
            tagged.splice(12..12, [0x81, 0, control.to_be_bytes()[0], control.to_be_bytes()[1]]);
            assert_eq!(passes(&tagged), passing.iter().any(|pass| pass.covers(&tagged)));
        }
    }
}

#[test]
fn a_program_is_on_its_interface_until_its_link_is_dropped() {
    let Some(map) = sockets() else { return };
    let vlans = VlanMap::new().unwrap();
    let code = take(map.number(), vlans.number(), &Pass::ALL, None, XDP_PASS).unwrap();
    let program = Program::load(PLAIN, "usnet_take", &code).unwrap();
    let namespace = Namespace::create().unwrap();
    let body = || -> Result<(), NetError> {
        let mut net = Netlink::open()?;
        net.add_veth("xa", "xb", None)?;
        let index = net.link("xa")?.index;
        for hook in [Hook::Driver, Hook::Generic] {
            let link = program.attach(index, hook).unwrap();
            // An interface has one program, so a second attempt tells whether there is one.
            let error = program.attach(index, hook).unwrap_err();
            let busy = matches!(&error, XdpError::Refused { source, .. }
                if source.raw_os_error() == Some(libc::EBUSY));
            assert!(busy, "{error:?}");
            drop(link);
        }
        Ok(())
    };
    namespace.run(body).unwrap().unwrap();
}

#[test]
fn the_verifier_s_verdict_is_in_the_error() {
    let Some(_) = sockets() else { return };
    let mut a = super::asm::Assembler::new();
    // Reads the packet without a look at its end.
    a.load(super::asm::Size::Word, super::asm::Reg::R2, super::asm::Reg::R1, 0);
    a.load(super::asm::Size::Byte, super::asm::Reg::R0, super::asm::Reg::R2, 0);
    a.exit();
    let error = Program::load(PLAIN, "usnet_wrong", &a.finish().unwrap()).unwrap_err();
    assert!(error.to_string().contains("invalid access to packet"), "{error}");
}

const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// A table of claims, and the program that reads its bits.
fn claims(map: &SocketMap) -> (Table, Program, Vec<IpAddr>) {
    let addresses: Vec<IpAddr> =
        ["10.0.0.1", "fd00::1", "10.0.0.2"].iter().map(|a| a.parse().unwrap()).collect();
    let (claimed, vlans) = (Arc::new(ClaimMap::new(1).unwrap()), VlanMap::new().unwrap());
    let (mac, number) = (OURS, claimed.number());
    let shares = Shares { mac, addresses: addresses.clone(), claimed: number, firewall: None };
    let code = take(map.number(), vlans.number(), &Pass::ALL, Some(&shares), XDP_DROP).unwrap();
    let program = Program::load(PLAIN, "usnet_share", &code).unwrap();
    let mut table = Table::new(Some(Receiver::Host), 1);
    for address in &addresses {
        table.add_address((*address).into(), Some(Receiver::Host));
    }
    table.set_claimed(claimed);
    let client = Some(Receiver::Client(SessionId(1)));
    for (address, protocol, first, count) in [
        (0, Protocol::TCP, 0, 1024),
        (1, Protocol::TCP, 5000, 1),
        (0, Protocol::UDP, 53, 1),
        (2, Protocol::UDP, 1000, 30_000),
        (1, Protocol::SCTP, 0, u16::MAX),
    ] {
        assert!(table.set_listener(addresses[address].into(), protocol, first, count, client));
    }
    (table, program, addresses)
}

#[test]
fn the_kernel_gets_what_no_client_can_have_and_all_that_is_plainly_so() {
    let Some(map) = sockets() else { return };
    let (mut table, program, addresses) = claims(&map);
    let (mut passed, mut taken, mut must_pass) = (0, 0, 0);
    for original in corpus() {
        // As it is, and as if it were for us.
        let mut variants = vec![original.clone()];
        for address in &addresses {
            let mut frame = original.clone();
            frame[..6].copy_from_slice(&OURS.0);
            let place = match address {
                IpAddr::V4(a) => frame.get_mut(30..34).zip(Some(a.octets().to_vec())),
                IpAddr::V6(a) => frame.get_mut(38..54).zip(Some(a.octets().to_vec())),
            };
            if let Some((place, octets)) = place {
                place.copy_from_slice(&octets);
                variants.push(frame);
            }
        }
        for frame in variants {
            if Pass::ALL.iter().any(|pass| pass.covers(&frame)) {
                continue;
            }
            let passes = program.run(&frame).unwrap() == XDP_PASS.cast_unsigned();
            *(if passes { &mut passed } else { &mut taken }) += 1;
            // The kernel judges for itself what is malformed.
            let Ok(seen) = classify(&frame) else { continue };
            let Payload::Ip(packet) = seen.payload else {
                assert!(!passes, "neither IP nor passed before: {frame:02x?}");
                continue;
            };
            let receiver = table.lookup(&packet.flow, Time(0));
            if passes {
                assert_eq!(receiver, Some(Receiver::Host), "{frame:02x?}");
                assert_eq!((packet.fragment, seen.destination), (Fragment::Whole, OURS));
            }
            let is_plain = seen.destination == OURS
                && packet.fragment == Fragment::Whole
                && CLAIMED_PROTOCOLS.contains(&packet.flow.protocol)
                && addresses.iter().any(|a| packet.flow.destination == (*a).into())
                && [34, 54].contains(&packet.transport_offset)
                && frame[12..14] != [0x81, 0]
                && frame[12..14] != [0x88, 0xa8];
            if is_plain && table.listeners(&packet.flow).next().is_none() {
                must_pass += 1;
                assert!(passes, "no client has it: {frame:02x?}");
            }
        }
    }
    assert!(passed > 1000 && taken > 1000 && must_pass > 1000, "{passed} {taken} {must_pass}");
}

#[test]
fn a_claim_holds_from_the_moment_that_it_is_in_the_table() {
    let Some(map) = sockets() else { return };
    let (mut table, program, addresses) = claims(&map);
    let mut frame = vec![0; 60];
    frame[..6].copy_from_slice(&OURS.0);
    (frame[12], frame[14], frame[23], frame[33]) = (8, 0x45, 6, 1);
    frame[30] = 10;
    let client = Receiver::Client(SessionId(2));
    let mut passes = |port: u16| {
        frame[36..38].copy_from_slice(&port.to_be_bytes());
        program.run(&frame).unwrap() == XDP_PASS.cast_unsigned()
    };
    for port in [1024, 40_000, 40_007, 65_535] {
        assert!(passes(port));
        table.set_listener(addresses[0].into(), Protocol::TCP, port, 1, Some(client));
        assert!(!passes(port), "port {port}");
    }
    assert!(passes(1025) && passes(40_001) && passes(65_534));
    let flow = crate::classify::Flow {
        source: "10.0.0.9".parse::<IpAddr>().unwrap().into(),
        destination: addresses[0].into(),
        protocol: Protocol::TCP,
        source_port: 80,
        destination_port: 2000,
        ports_known: true,
    };
    table.learn(flow, client, Time(0)).unwrap();
    assert!(!passes(2000), "a learned flow's port");
    table.forget(client);
    assert!([1024, 2000, 40_000, 65_535].into_iter().all(passes), "nobody's any more");
}
