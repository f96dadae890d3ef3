//! What a stack says of groups, byte by byte, and what `std` says of the same mistakes.

mod common;

use common::{Fake, Running, within};
use smoltcp::wire::{EthernetFrame, IpProtocol, Ipv4Packet, Ipv6Packet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket as StdSocket};
use std::time::Duration;
use usnet::net::UdpSocket;
use usnet::{Session, Stack, StackOptions};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 130, 3);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 1, 3);
const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// A stack at 10.7.0.1, and who hears all that it sends.
fn stack_and_wire() -> (Stack, Session, Running) {
    let mut fake = Fake::new();
    let (stack, wire) = (fake.attach(), fake.attach());
    let running = fake.run();
    (Stack::over(stack, StackOptions::default()).unwrap(), wire, running)
}

/// The next frame that the stack sends.
fn next(wire: &mut Session) -> Vec<u8> {
    let frames = wire.frames();
    while frames.receive().unwrap() == 0 {
        frames.wait(None, &[]).unwrap();
    }
    let mut bytes = vec![0; 2048];
    let length = frames.next().unwrap().copy_to(&mut bytes);
    frames.flush().unwrap();
    bytes.truncate(length);
    bytes
}

fn send(wire: &mut Session, bytes: &[u8]) {
    let mut slot = wire.frames().transmit().unwrap();
    slot.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
    slot.send(bytes.len()).unwrap();
    wire.frames().flush().unwrap();
}

/// One's complement sum of everything: that of what carries its own checksum is all ones.
fn sum(pieces: &[&[u8]]) -> u16 {
    let bytes = pieces.concat();
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// Reads an IGMP message as a router does; returns its kind, where it goes and its group.
fn igmp(frame: &[u8]) -> (u8, Ipv4Addr, Ipv4Addr) {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    let packet = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
    assert_eq!((packet.next_header(), packet.hop_limit()), (IpProtocol::Igmp, 1), "{frame:?}");
    assert!(packet.verify_checksum() && packet.src_addr() == Ipv4Addr::new(10, 7, 0, 1));
    assert_eq!(frame[34..38], [148, 4, 0, 0], "a router alert");
    let [_, b, c, d] = packet.dst_addr().octets();
    assert_eq!(ethernet.dst_addr().0, [1, 0, 0x5e, b & 0x7f, c, d]);
    let message = &ethernet.payload()[24..];
    assert_eq!((message.len(), sum(&[message])), (8, 0xffff));
    (message[0], packet.dst_addr(), Ipv4Addr::from(*message[4..].first_chunk().unwrap()))
}

/// The same of MLD.
fn mld(frame: &[u8]) -> (u8, Ipv6Addr, Ipv6Addr) {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    let packet = Ipv6Packet::new_checked(ethernet.payload()).unwrap();
    assert_eq!((packet.next_header(), packet.hop_limit()), (IpProtocol::HopByHop, 1), "{frame:?}");
    assert!(packet.src_addr().is_unspecified(), "it has no link-local address");
    assert_eq!(frame[54..62], [58, 0, 5, 2, 0, 0, 1, 0], "a router alert");
    let to = packet.dst_addr().octets();
    assert_eq!(ethernet.dst_addr().0, [0x33, 0x33, to[12], to[13], to[14], to[15]]);
    let message = &packet.payload()[8..];
    let ends = [packet.src_addr().octets(), to].concat();
    assert_eq!((message.len(), sum(&[&ends, &[0, 24, 0, 58], message])), (24, 0xffff));
    (message[0], packet.dst_addr(), Ipv6Addr::from(*message[8..].first_chunk().unwrap()))
}

/// A router's question about all groups, to be answered within no time.
fn question() -> Vec<u8> {
    let mut frame = vec![1, 0, 0x5e, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([
        0x46, 0xc0, 0, 32, 0, 0, 0, 0, 1, 2, 0, 0, 10, 7, 0, 2, 224, 0, 0, 1, 148, 4, 0, 0,
    ]);
    frame.extend([0x11, 0, 0xee, 0xff, 0, 0, 0, 0]);
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
    packet.fill_checksum();
    frame
}

fn question6() -> Vec<u8> {
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
    frame.extend([0x60, 0, 0, 0, 0, 32, 0, 1]);
    let (from, to): (Ipv6Addr, Ipv6Addr) = ("fe80::2".parse().unwrap(), "ff02::1".parse().unwrap());
    frame.extend([from.octets(), to.octets()].concat());
    frame.extend([58, 0, 5, 2, 0, 0, 1, 0]);
    let mut message = vec![130, 0, 0, 0, 0, 0, 0, 0];
    message.extend([0; 16]);
    let rest = !sum(&[&from.octets(), &to.octets(), &[0, 24, 0, 58], &message]);
    message[2..4].copy_from_slice(&rest.to_be_bytes());
    frame.extend(message);
    frame
}

#[test]
fn a_group_is_reported_twice_and_to_each_question_until_the_last_socket_leaves_it() {
    within(60, "the reports", || {
        let (stack, mut wire, _running) = stack_and_wire();
        let one = UdpSocket::bind(&stack, (ANY, 7000)).unwrap();
        let two = UdpSocket::bind(&stack, (Ipv6Addr::UNSPECIFIED, 7001)).unwrap();
        // Every host is in these, and nobody says so.
        one.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 1), &ANY).unwrap();
        two.join_multicast_v6(&"ff02::1".parse().unwrap(), 0).unwrap();
        two.join_multicast_v6(&"ff01::7".parse().unwrap(), 0).unwrap();
        one.join_multicast_v4(&GROUP, &ANY).unwrap();
        two.join_multicast_v4(&GROUP, &Ipv4Addr::new(10, 7, 0, 1)).unwrap();
        // Unasked, and again while the stack sleeps: no frame and no user wakes it.
        for _ in 0..2 {
            assert_eq!(igmp(&next(&mut wire)), (0x16, GROUP, GROUP));
        }
        two.join_multicast_v6(&GROUP6, 0).unwrap();
        for _ in 0..2 {
            assert_eq!(mld(&next(&mut wire)), (131, GROUP6, GROUP6));
        }
        for _ in 0..3 {
            send(&mut wire, &question());
            assert_eq!(igmp(&next(&mut wire)), (0x16, GROUP, GROUP));
            send(&mut wire, &question6());
            assert_eq!(mld(&next(&mut wire)), (131, GROUP6, GROUP6));
        }
        drop(one);
        send(&mut wire, &question());
        assert_eq!(igmp(&next(&mut wire)), (0x16, GROUP, GROUP), "another socket is in it");
        two.leave_multicast_v4(&GROUP, &ANY).unwrap();
        assert_eq!(igmp(&next(&mut wire)), (0x17, Ipv4Addr::new(224, 0, 0, 2), GROUP));
        two.leave_multicast_v6(&GROUP6, 0).unwrap();
        assert_eq!(mld(&next(&mut wire)), (132, "ff02::2".parse().unwrap(), GROUP6));
        send(&mut wire, &question());
        send(&mut wire, &question6());
        // The answer to what comes after them is the next frame.
        two.join_multicast_v4(&GROUP, &ANY).unwrap();
        assert_eq!(igmp(&next(&mut wire)), (0x16, GROUP, GROUP));
    });
}

#[test]
fn datagrams_to_a_group_go_one_hop_unless_a_socket_says_otherwise() {
    within(60, "the datagrams", || {
        let (stack, mut wire, _running) = stack_and_wire();
        let socket = UdpSocket::bind(&stack, (ANY, 7000)).unwrap();
        let hops = |wire: &mut Session| next(wire)[22];
        assert_eq!(socket.multicast_ttl_v4().unwrap(), 1);
        socket.send_to(b"near", (GROUP, 9)).unwrap();
        assert_eq!(hops(&mut wire), 1);
        socket.set_multicast_ttl_v4(7).unwrap();
        socket.send_to(b"far", (GROUP, 9)).unwrap();
        assert_eq!(hops(&mut wire), 7);
        // This goes nowhere, but to broadcast as ever.
        socket.set_multicast_ttl_v4(0).unwrap();
        assert_eq!(socket.send_to(b"nowhere", (GROUP, 9)).unwrap(), 7);
        socket.send_to(b"all", (Ipv4Addr::BROADCAST, 9)).unwrap();
        assert_eq!(hops(&mut wire), 64);
        let six = UdpSocket::bind(&stack, (Ipv6Addr::UNSPECIFIED, 7001)).unwrap();
        six.send_to(b"near", (GROUP6, 9)).unwrap();
        assert_eq!(next(&mut wire)[21], 1);
    });
}

#[test]
fn who_has_not_joined_hears_nothing_of_a_group() {
    within(60, "the datagrams", || {
        let mut fake = Fake::new();
        let (a, b) = (fake.attach(), fake.attach());
        let _running = fake.run();
        let [a, b] = [a, b].map(|s| Stack::over(s, StackOptions::default()).unwrap());
        let socket = UdpSocket::bind(&a, (ANY, 7000)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let other = UdpSocket::bind(&b, (ANY, 7001)).unwrap();
        let mut bytes = [0; 16];
        let hears = |bytes: &mut [u8]| socket.recv(bytes).map(|count| bytes[..count].to_vec());
        other.send_to(b"before", (GROUP, 7000)).unwrap();
        other.send_to(b"to all", (Ipv4Addr::BROADCAST, 7000)).unwrap();
        assert_eq!(hears(&mut bytes).unwrap(), b"to all");
        socket.join_multicast_v4(&GROUP, &ANY).unwrap();
        other.send_to(b"joined", (GROUP, 7000)).unwrap();
        assert_eq!(hears(&mut bytes).unwrap(), b"joined");
        socket.leave_multicast_v4(&GROUP, &ANY).unwrap();
        other.send_to(b"after", (GROUP, 7000)).unwrap();
        other.send_to(b"to all", (Ipv4Addr::BROADCAST, 7000)).unwrap();
        assert_eq!(hears(&mut bytes).unwrap(), b"to all");
    });
}

/// What is compared: nothing, or the kernel's number of the error.
fn outcome(done: io::Result<()>) -> Option<i32> {
    done.err().map(|error| error.raw_os_error().expect("a number of the kernel's"))
}

#[test]
fn mistakes_have_the_errors_that_std_has() {
    within(60, "the comparison", || {
        let (stack, _wire, _running) = stack_and_wire();
        // The loopback interface: nothing leaves it.
        let (here, loopback) = (Ipv4Addr::new(10, 7, 0, 1), 1);
        let ours = UdpSocket::bind(&stack, (ANY, 7000)).unwrap();
        let theirs = StdSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let other = Ipv4Addr::new(239, 1, 2, 9);
        let elsewhere = Ipv4Addr::new(192, 0, 2, 77);
        for (group, is_here) in [(GROUP, true), (GROUP, true), (other, false), (here, true)] {
            let pick = |own| if is_here { own } else { elsewhere };
            assert_eq!(
                outcome(ours.join_multicast_v4(&group, &pick(here))),
                outcome(theirs.join_multicast_v4(&group, &pick(Ipv4Addr::LOCALHOST))),
                "{group} joined, {is_here}"
            );
        }
        for (group, is_here) in
            [(other, true), (GROUP, false), (GROUP, true), (GROUP, true), (here, true)]
        {
            let pick = |own| if is_here { own } else { elsewhere };
            assert_eq!(
                outcome(ours.leave_multicast_v4(&group, &pick(here))),
                outcome(theirs.leave_multicast_v4(&group, &pick(Ipv4Addr::LOCALHOST))),
                "{group} left, {is_here}"
            );
        }
        assert_eq!(
            outcome(ours.set_multicast_ttl_v4(256)),
            outcome(theirs.set_multicast_ttl_v4(256))
        );
        assert_eq!(ours.multicast_ttl_v4().unwrap(), theirs.multicast_ttl_v4().unwrap());
        assert_eq!(
            outcome(ours.join_multicast_v6(&GROUP6, 0)),
            outcome(theirs.join_multicast_v6(&GROUP6, loopback)),
            "a socket of the other family"
        );
        let ours = UdpSocket::bind(&stack, (Ipv6Addr::UNSPECIFIED, 7001)).unwrap();
        let theirs = StdSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        let unicast: Ipv6Addr = "fd07::1".parse().unwrap();
        for (group, number) in [
            (GROUP6, None),
            (GROUP6, None),
            (unicast, None),
            ("ff15::9".parse().unwrap(), Some(999)),
        ] {
            assert_eq!(
                outcome(ours.join_multicast_v6(&group, number.unwrap_or(0))),
                outcome(theirs.join_multicast_v6(&group, number.unwrap_or(loopback))),
                "{group} joined, {number:?}"
            );
        }
        for group in [unicast, GROUP6, GROUP6] {
            assert_eq!(
                outcome(ours.leave_multicast_v6(&group, 0)),
                outcome(theirs.leave_multicast_v6(&group, loopback)),
                "{group} left"
            );
        }
        // A kernel has room for 20 of IPv4; the switch knows 16 of both families.
        let no_room = 105;
        let joined = (0..17).map(|n| ours.join_multicast_v4(&Ipv4Addr::new(239, 1, 1, n), &ANY));
        let joined: Vec<_> = joined.map(outcome).collect();
        assert!(
            joined[..16].iter().all(Option::is_none) && joined[16] == Some(no_room),
            "{joined:?}"
        );
    });
}
