//! Frames that are longer than what the kernel takes for one buffer.

use crate::isolated::two_hosts;
use crate::{Memory, mac_of, payload, receive_until, send_one, spec, udp_frame, with_xdp};
use std::net::UdpSocket;
use std::time::Duration;
use usnet_shmring::arena::SlotSize;
use usnet_switch::net::Netlink;
use usnet_switch::net::namespace::Namespace;
use usnet_switch::port::Port;
use usnet_switch::port::af_xdp::AfXdpSpec;

/// Frames of this MTU fit a slot of 16,384 bytes, and not a page.
const MTU: u16 = 9000;
/// Lengths of datagrams about the ends of pieces: 3,840 bytes of a page can be received into.
const LENGTHS: [usize; 12] =
    [1, 1472, 3797, 3798, 3799, 4053, 4054, 4055, 7637, 7638, 7639, MTU as usize - 28];

fn jumbo_hosts() -> Namespace {
    let peer = two_hosts();
    Netlink::open().unwrap().set_mtu("sv0", MTU.into()).unwrap();
    peer.run(|| Netlink::open().unwrap().set_mtu("pv0", MTU.into()).unwrap()).unwrap();
    peer
}

/// Bytes that tell where they belong.
fn text(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

fn both_ways(generic: bool) {
    let peer = jumbo_hosts();
    let mut memory = Memory::of(SlotSize::new(16_384).unwrap());
    let spec = AfXdpSpec { generic, ..spec("sv0") };
    assert_eq!(spec.mtu, MTU);
    let mut port = memory.open(&spec).unwrap();
    let there = peer.run(|| UdpSocket::bind("10.9.0.2:7000").unwrap()).unwrap();
    there.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let to = mac_of(&peer, "pv0");
    for round in 0..20 {
        for length in LENGTHS {
            let text = text(length);
            there.send_to(&text, "10.9.0.1:7000").unwrap();
            // A short frame is padded.
            let is_it = |frame: &Vec<u8>| payload(frame).is_some_and(|p| p.starts_with(&text));
            let got = receive_until(&mut port, &mut memory.pool, |got| got.iter().any(is_it));
            assert!(got.iter().any(is_it), "round {round}: {length} bytes were not received");
            send_one(&mut port, &mut memory.pool, &udp_frame(spec.mac, to, 7000, &text));
            let mut bytes = vec![0; 10_000];
            let received = there.recv(&mut bytes).unwrap();
            assert!(bytes[..received] == text[..], "round {round}: {length} bytes came otherwise");
        }
    }
    assert_eq!((port.counters().receive_errors, port.counters().transmit_errors), (0, 0));
    port.close(&mut memory.pool);
    memory.assert_all_free();
}

#[test]
fn a_frame_of_several_pages_is_joined_in_one_slot_and_sent_from_one() {
    with_xdp(name!("a_frame_of_several_pages_is_joined_in_one_slot_and_sent_from_one"), || {
        both_ways(false);
    });
}

#[test]
fn a_frame_of_several_pages_is_joined_in_generic_mode_too() {
    with_xdp(name!("a_frame_of_several_pages_is_joined_in_generic_mode_too"), || {
        both_ways(true);
    });
}

#[test]
fn a_frame_that_is_longer_than_a_slot_is_counted_and_the_next_is_whole() {
    with_xdp(name!("a_frame_that_is_longer_than_a_slot_is_counted_and_the_next_is_whole"), || {
        let peer = jumbo_hosts();
        let mut memory = Memory::of(SlotSize::new(8192).unwrap());
        // The link takes more than the port was told of.
        let mut port = memory.open(&AfXdpSpec { mtu: 7000, ..spec("sv0") }).unwrap();
        let there = peer.run(|| UdpSocket::bind("10.9.0.2:0").unwrap()).unwrap();
        for length in [5000, 8900, 6000, 8900, 8900, 100] {
            there.send_to(&text(length), "10.9.0.1:7000").unwrap();
        }
        let is_last = |frame: &Vec<u8>| payload(frame).is_some_and(|p| p.len() == 100);
        let got = receive_until(&mut port, &mut memory.pool, |got| got.iter().any(is_last));
        let got: Vec<&[u8]> = got.iter().filter_map(|frame| payload(frame)).collect();
        assert_eq!(got.iter().map(|p| p.len()).collect::<Vec<_>>(), [5000, 6000, 100]);
        assert!(got.iter().all(|p| **p == text(p.len())));
        assert_eq!(port.counters().receive_errors, 3);
        port.close(&mut memory.pool);
        memory.assert_all_free();
    });
}

#[test]
fn a_port_that_closes_amid_a_frame_gives_all_slots_back() {
    with_xdp(name!("a_port_that_closes_amid_a_frame_gives_all_slots_back"), || {
        let peer = jumbo_hosts();
        let mut memory = Memory::of(SlotSize::new(16_384).unwrap());
        let mut port = memory.open(&spec("sv0")).unwrap();
        let there = peer.run(|| UdpSocket::bind("10.9.0.2:0").unwrap()).unwrap();
        // Three pieces each: a burst of 64 ends amid the twenty-second.
        for _ in 0..21 {
            there.send_to(&text(8900), "10.9.0.1:7000").unwrap();
        }
        let mut looks = 0;
        let got = receive_until(&mut port, &mut memory.pool, |got| {
            looks += usize::from(!got.is_empty());
            looks > 0
        });
        assert!(!got.is_empty());
        port.close(&mut memory.pool);
        memory.assert_all_free();
    });
}
