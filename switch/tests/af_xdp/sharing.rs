//! One worker's port: what it takes, what it leaves to the kernel, what it gives back.

use crate::isolated::{skip, two_hosts};
use crate::{Memory, fold, mac_of, payload, receive_until, send_one, spec, udp_frame, with_xdp};
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;
use usnet_shmring::arena::SlotRange;
use usnet_shmring::ledger::SessionId;
use usnet_shmring::pool::HomeKind;
use usnet_shmring::region::Writer;
use usnet_switch::classify::Protocol;
use usnet_switch::net::guard::Pass;
use usnet_switch::net::{Channels, Netlink};
use usnet_switch::port::af_xdp::{AfXdpSpec, BusyPoll};
use usnet_switch::port::{Burst, Port};
use usnet_switch::steer::Table;
use usnet_switch::time::Time;
use usnet_switch::verdict::Receiver;

#[test]
fn the_kernel_has_its_frames_back_at_once_when_the_port_goes() {
    let name = name!("the_kernel_has_its_frames_back_at_once_when_the_port_goes");
    with_xdp(name, || {
        let peer = two_hosts();
        let mut memory = Memory::new();
        let here = UdpSocket::bind("10.9.0.1:7000").unwrap();
        let there = peer.run(|| UdpSocket::bind("10.9.0.2:7000").unwrap()).unwrap();
        let mut bytes = [0; 64];
        let mut port = memory.open(&spec("sv0")).unwrap();
        there.send_to(b"to the switch", "10.9.0.1:7000").unwrap();
        let is_it = |frame: &Vec<u8>| payload(frame).is_some_and(|p| p == b"to the switch");
        let got = receive_until(&mut port, &mut memory.pool, |got| got.iter().any(is_it));
        assert!(got.iter().any(is_it), "{} other frames", got.len());
        here.set_nonblocking(true).unwrap();
        assert_eq!(here.recv(&mut bytes).unwrap_err().kind(), ErrorKind::WouldBlock);
        // As after SIGKILL: nobody closes anything by hand.
        drop(port);
        there.send_to(b"to the kernel", "10.9.0.1:7000").unwrap();
        here.set_nonblocking(false).unwrap();
        here.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let length = here.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"to the kernel");
    });
}

#[test]
fn an_interface_that_is_removed_is_told_and_every_slot_comes_back() {
    let name = name!("an_interface_that_is_removed_is_told_and_every_slot_comes_back");
    with_xdp(name, || {
        let peer = two_hosts();
        let mut memory = Memory::new();
        let spec = spec("sv0");
        let mut port = memory.open(&spec).unwrap();
        let (from, to) = (spec.mac, mac_of(&peer, "pv0"));
        send_one(&mut port, &mut memory.pool, &udp_frame(from, to, 9, b"before"));
        peer.run(|| Netlink::open().unwrap().delete_link("pv0").unwrap()).unwrap();
        let mut burst = Burst::new();
        let told = (0..1000).any(|n| {
            let result = port.receive(Time(n * 20_000_000), &mut memory.pool, &mut burst);
            burst.clear(&mut memory.pool);
            result.is_err()
        });
        assert!(told, "the interface was removed");
        port.close(&mut memory.pool);
        memory.assert_all_free();
    });
}

#[test]
fn an_interface_is_taken_once_and_can_be_taken_again_at_once() {
    with_xdp(name!("an_interface_is_taken_once_and_can_be_taken_again_at_once"), || {
        let _peer = two_hosts();
        let mut memory = Memory::new();
        let mut port = memory.open(&spec("sv0")).unwrap();
        let error = memory.open(&spec("sv0")).unwrap_err();
        assert!(error.to_string().contains("another socket has the queue"), "{error}");
        port.close(&mut memory.pool);
        memory.assert_all_free();
        for _ in 0..20 {
            let mut port = memory.open(&spec("sv0")).unwrap();
            port.close(&mut memory.pool);
        }
        memory.assert_all_free();
    });
}

#[test]
fn the_switch_gets_what_is_claimed_and_the_kernel_the_rest() {
    with_xdp(name!("the_switch_gets_what_is_claimed_and_the_kernel_the_rest"), || {
        let peer = two_hosts();
        let mut memory = Memory::new();
        let shared: Vec<IpAddr> = ["10.9.0.1", "fd09::1"].map(|a| a.parse().unwrap()).into();
        let passing = Pass::ALL.to_vec();
        let spec = AfXdpSpec { shared: shared.clone(), passing, ..spec("sv0") };
        let mut port = memory.open(&spec).unwrap();
        let mut table = Table::new(Some(Receiver::Host), 1);
        table.set_claimed(port.claimed_ports().unwrap());
        for (address, from) in shared.iter().zip(["10.9.0.2", "fd09::2"]) {
            table.add_address((*address).into(), Some(Receiver::Host));
            let client = Some(Receiver::Client(SessionId(1)));
            assert!(table.set_listener((*address).into(), Protocol::UDP, 7000, 1, client));
            let here = UdpSocket::bind((*address, 7001)).unwrap();
            here.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let from: IpAddr = from.parse().unwrap();
            let there = peer.run(|| UdpSocket::bind((from, 0)).unwrap()).unwrap();
            for n in 0..10 {
                there.send_to(&[n; 20], (*address, 7000)).unwrap();
                there.send_to(&[n; 20], (*address, 7001)).unwrap();
            }
            for n in 0..10 {
                let mut bytes = [0; 64];
                assert_eq!(here.recv(&mut bytes).unwrap(), 20);
                assert_eq!(bytes[0], n);
            }
            // Ports lie at the beginning of the datagram.
            let at = if address.is_ipv4() { 36 } else { 56 };
            let is_for =
                |frame: &[u8], port: u16| frame.get(at..at + 2) == Some(&port.to_be_bytes());
            let ours = |got: &[Vec<u8>]| got.iter().filter(|f| is_for(f, 7000)).count();
            let got = receive_until(&mut port, &mut memory.pool, |got| ours(got) == 10);
            assert_eq!(ours(&got), 10, "{address}");
            assert!(!got.iter().any(|frame| is_for(frame, 7001)), "{address}");
        }
        port.close(&mut memory.pool);
        memory.assert_all_free();
    });
}

#[test]
fn a_checksum_that_was_left_to_a_card_is_completed() {
    with_xdp(name!("a_checksum_that_was_left_to_a_card_is_completed"), || {
        let peer = two_hosts();
        let mut memory = Memory::new();
        let mut port = memory.open(&spec("sv0")).unwrap();
        let there = peer.run(|| UdpSocket::bind("10.9.0.2:0").unwrap()).unwrap();
        for length in [1, 2, 63, 700, 1400] {
            let text = vec![0x5a; length];
            there.send_to(&text, "10.9.0.1:7000").unwrap();
            let is_it = |frame: &Vec<u8>| payload(frame).is_some_and(|p| p.starts_with(&text));
            let got = receive_until(&mut port, &mut memory.pool, |got| got.iter().any(is_it));
            let frame = got.iter().find(|frame| is_it(frame)).unwrap();
            let udp = &frame[34..42 + length];
            let mut sum = frame[26..34].to_vec();
            sum.extend([0, 17]);
            sum.extend(u16::try_from(udp.len()).unwrap().to_be_bytes());
            sum.extend(udp);
            assert_eq!(fold(&sum), 0xffff, "UDP of {length} bytes");
        }
        port.close(&mut memory.pool);
        memory.assert_all_free();
    });
}

#[test]
fn a_frame_that_lies_elsewhere_is_sent_by_a_copy() {
    with_xdp(name!("a_frame_that_lies_elsewhere_is_sent_by_a_copy"), || {
        let peer = two_hosts();
        let mut memory = Memory::new();
        let other = memory.arena.add_segment("session", Writer::Daemon, 1024, false).unwrap();
        let home = HomeKind::Receive(SessionId(1));
        let home = memory.pool.add_home(home, SlotRange::whole(other)).unwrap();
        let spec = spec("sv0");
        let mut port = memory.open(&spec).unwrap();
        let there = peer.run(|| UdpSocket::bind("10.9.0.2:7000").unwrap()).unwrap();
        there.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let text = udp_frame(spec.mac, mac_of(&peer, "pv0"), 7000, b"from a session's slot");
        let mut frame = memory.pool.alloc_from(home).unwrap();
        assert!(memory.pool.fill(&mut frame, &text));
        let mut burst = Burst::new();
        burst.push(frame).unwrap();
        assert_eq!(port.transmit(Time(0), &mut memory.pool, &mut burst).unwrap(), 1);
        let mut bytes = [0; 64];
        let length = there.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"from a session's slot");
        port.close(&mut memory.pool);
        memory.assert_all_free();
    });
}

#[test]
fn frames_to_a_link_that_is_down_are_refused_until_it_is_up_again() {
    let name = name!("frames_to_a_link_that_is_down_are_refused_until_it_is_up_again");
    with_xdp(name, || {
        let peer = two_hosts();
        let mut memory = Memory::new();
        let spec = spec("sv0");
        let mut port = memory.open(&spec).unwrap();
        let to = mac_of(&peer, "pv0");
        let mut net = Netlink::open().unwrap();
        net.set_down("sv0").unwrap();
        let frame = udp_frame(spec.mac, to, 7000, b"x");
        // The first is in the ring when the kernel says that the link is down.
        for _ in 0..3 {
            send_one(&mut port, &mut memory.pool, &frame);
        }
        assert_eq!(port.counters().transmit_errors, 2);
        net.set_up("sv0").unwrap();
        let there = peer.run(|| UdpSocket::bind("10.9.0.2:7000").unwrap()).unwrap();
        there.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut burst = Burst::new();
        // Time passes: the port tries again by itself.
        port.receive(Time(1_000_000_000), &mut memory.pool, &mut burst).unwrap();
        let mut bytes = [0; 64];
        assert_eq!(there.recv(&mut bytes).unwrap(), 1);
        burst.clear(&mut memory.pool);
        port.close(&mut memory.pool);
        memory.assert_all_free();
    });
}

#[test]
fn a_driver_that_is_polled_moves_frames_both_ways() {
    with_xdp(name!("a_driver_that_is_polled_moves_frames_both_ways"), || {
        let peer = two_hosts();
        let mut memory = Memory::new();
        let busy_poll = Some(BusyPoll { microseconds: 20, budget: 16 });
        let spec = AfXdpSpec { busy_poll, ..spec("sv0") };
        let mut port = memory.open(&spec).unwrap();
        assert_eq!(port.mode(), Some("driver, copy, busy polling"));
        let there = peer.run(|| UdpSocket::bind("10.9.0.2:7000").unwrap()).unwrap();
        there.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let to = mac_of(&peer, "pv0");
        for n in 0..50 {
            there.send_to(&[n; 30], "10.9.0.1:7000").unwrap();
            let is_it = |frame: &Vec<u8>| payload(frame).is_some_and(|p| p == [n; 30]);
            let got = receive_until(&mut port, &mut memory.pool, |got| got.iter().any(is_it));
            assert!(got.iter().any(is_it), "datagram {n}");
            send_one(&mut port, &mut memory.pool, &udp_frame(spec.mac, to, 7000, &[n; 9]));
            let mut bytes = [0; 64];
            assert_eq!((there.recv(&mut bytes).unwrap(), bytes[0]), (9, n));
        }
        port.close(&mut memory.pool);
        memory.assert_all_free();
    });
}

#[test]
fn an_mtu_above_a_slot_is_refused_with_the_way_out() {
    with_xdp(name!("an_mtu_above_a_slot_is_refused_with_the_way_out"), || {
        let _peer = two_hosts();
        let mut memory = Memory::new();
        let fits = AfXdpSpec { mtu: 2048 - 256 - 22, ..spec("sv0") };
        memory.open(&fits).unwrap().close(&mut memory.pool);
        let error = memory.open(&AfXdpSpec { mtu: fits.mtu + 1, ..fits }).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("slots of 4096 bytes") && text.contains("af_packet"), "{text}");
        memory.assert_all_free();
    });
}

#[test]
fn every_queue_of_an_interface_is_received_from() {
    with_xdp(name!("every_queue_of_an_interface_is_received_from"), || {
        let peer = two_hosts();
        let two = Channels { receive: 2, transmit: 2, combined: 0 };
        if let Err(error) = two.set("sv0") {
            return skip(name!("every_queue_of_an_interface_is_received_from"), &error.to_string());
        }
        peer.run(move || two.set("pv0").unwrap()).unwrap();
        assert_eq!(Channels::of("sv0").unwrap().receiving(), 2);
        let mut memory = Memory::new();
        let mut port = memory.open(&AfXdpSpec { queues: 2, ..spec("sv0") }).unwrap();
        // Different flows go different ways; none of them is the kernel's.
        let here = UdpSocket::bind("10.9.0.1:7000").unwrap();
        here.set_nonblocking(true).unwrap();
        let sockets: Vec<UdpSocket> =
            peer.run(|| (0..64).map(|_| UdpSocket::bind("10.9.0.2:0").unwrap()).collect()).unwrap();
        for (n, socket) in sockets.iter().enumerate() {
            socket.send_to(&[u8::try_from(n).unwrap(); 20], "10.9.0.1:7000").unwrap();
        }
        let ours = |got: &[Vec<u8>]| got.iter().filter(|f| payload(f).is_some()).count();
        let got = receive_until(&mut port, &mut memory.pool, |got| ours(got) == 64);
        assert_eq!(ours(&got), 64);
        assert_eq!(here.recv(&mut [0; 64]).unwrap_err().kind(), ErrorKind::WouldBlock);
        port.close(&mut memory.pool);
        memory.assert_all_free();
        // With a socket for the first queue only, the other's frames are the kernel's.
        let mut port = memory.open(&spec("sv0")).unwrap();
        for socket in &sockets {
            socket.send_to(b"again", "10.9.0.1:7000").unwrap();
        }
        here.set_nonblocking(false).unwrap();
        here.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(here.recv(&mut [0; 64]).unwrap(), 5);
        port.close(&mut memory.pool);
        memory.assert_all_free();
    });
}
