//! The programs in the kernel: what the verifier and its interpreter make of them.
//!
//! A test that needs privileges skips itself without them, unless `USNET_TESTS_REQUIRE_ALL=1`.

use super::bpf::{Hook, Program, SocketMap, XdpError};
use super::program::{XDP_DROP, XDP_PASS, take};
use crate::net::guard::Pass;
use crate::net::namespace::Namespace;
use crate::net::{NetError, Netlink};
use std::collections::BTreeSet;
use std::path::Path;

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
    for passing in [&[][..], &Pass::NEIGHBOURS, &Pass::ALL, &[Pass::Groups], &[Pass::Tagged]] {
        let code = take(map.number(), passing, XDP_PASS).unwrap();
        let explained = Program::explain(&code).unwrap();
        assert_eq!(lines(&explained), lines(&code.to_string()), "{passing:?}:\n{explained}");
    }
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
    // A packet of BPF_PROG_TEST_RUN is 14 bytes at least, and fits a page with its headroom.
    frames.retain(|frame| (14..=3000).contains(&frame.len()));
    frames
}

#[test]
fn what_passes_is_what_the_guard_lets_pass() {
    let Some(map) = sockets() else { return };
    let frames = corpus();
    assert!(frames.len() > 5000, "{} frames", frames.len());
    let kinds = [&[][..], &Pass::NEIGHBOURS, &Pass::ALL, &[Pass::Groups], &[Pass::LinkLocal]];
    for passing in kinds {
        // The map has no socket, so what would be redirected is dropped.
        let code = take(map.number(), passing, XDP_DROP).unwrap();
        let program = Program::load("usnet_take", &code).unwrap();
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
fn a_program_is_on_its_interface_until_its_link_is_dropped() {
    let Some(map) = sockets() else { return };
    let code = take(map.number(), &Pass::ALL, XDP_PASS).unwrap();
    let program = Program::load("usnet_take", &code).unwrap();
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
    let error = Program::load("usnet_wrong", &a.finish().unwrap()).unwrap_err();
    assert!(error.to_string().contains("invalid access to packet"), "{error}");
}
