//! What whoever sends to a port that nobody has hears: nothing, a reset, or "port unreachable".

use crate::support::frames::*;
use crate::support::rig::Fate::{Client, Consumed, Dropped, Host, Wire};
use crate::support::rig::{Fate, Options, Rig};
use core::time::Duration;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv6DstUnreachable, Icmpv6Message,
    Icmpv6Packet, IpAddress, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, TcpControl, TcpPacket,
    TcpRepr, TcpSeqNumber, UdpPacket,
};
use usnet_switch::config::Unmatched;
use usnet_switch::verdict::DropReason::{NoReceiver, NotForUs, TooManyAnswers};

const FAMILIES: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.9"), ("fd00::1", "fd00::9")];
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// An interface without the kernel; client 1 holds port 7.
fn rig(unmatched: Unmatched) -> Rig {
    let mut rig = Rig::with(Options { host: false, unmatched, ..Options::default() });
    rig.attach_plain(1);
    for address in ["10.0.0.1", "fd00::1"] {
        rig.listen(1, address, UDP, 7);
        rig.listen(1, address, TCP, 7);
    }
    rig
}

/// The frame with true checksums, as smoltcp sums them.
fn sound(mut frame: Vec<u8>) -> Vec<u8> {
    let (protocol, source, destination, at): (_, IpAddress, IpAddress, _) = if frame[12] == 8 {
        let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
        packet.fill_checksum();
        (packet.next_header(), packet.src_addr().into(), packet.dst_addr().into(), 34)
    } else {
        let packet = Ipv6Packet::new_unchecked(&frame[14..]);
        (packet.next_header(), packet.src_addr().into(), packet.dst_addr().into(), 54)
    };
    match u8::from(protocol) {
        TCP => {
            TcpPacket::new_unchecked(&mut frame[at..]).fill_checksum(&source, &destination);
        }
        UDP => UdpPacket::new_unchecked(&mut frame[at..]).fill_checksum(&source, &destination),
        _ => {}
    }
    frame
}

/// A segment with sequence number 1000 that acknowledges 5000.
fn segment(to: &From, port: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let header = [
        &[0x9c, 0x40][..],
        &port.to_be_bytes(),
        &1000_u32.to_be_bytes(),
        &5000_u32.to_be_bytes(),
        &[0x50, flags, 16, 0, 0, 0, 0, 0],
        payload,
    ];
    sound(to.ip(TCP, &header.concat()))
}

/// What came out on the wire, if that is one answer.
#[track_caller]
fn answer(rig: &mut Rig, frame: &[u8]) -> Vec<u8> {
    let (fates, mut out) = rig.fates(|rig| rig.wires[0].lock().incoming.push_back(frame.to_vec()));
    assert_eq!(fates, [Wire, Consumed]);
    let answer = out.wire.remove(0);
    assert_eq!((&answer[..6], &answer[6..12]), (&PEER.0[..], &OURS.0[..]));
    answer
}

/// The reset in a frame, which smoltcp finds right in every checksum.
fn parse_reset(frame: &[u8], us: &str, them: &str) -> TcpRepr<'static> {
    let caps = ChecksumCapabilities::default();
    let body = if us.contains(':') {
        let packet = Ipv6Packet::new_checked(&frame[14..]).unwrap();
        let repr = Ipv6Repr::parse(&packet).unwrap();
        assert_eq!((repr.src_addr.into(), repr.dst_addr.into()), (ip(us), ip(them)));
        packet.payload().to_vec()
    } else {
        let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
        let repr = Ipv4Repr::parse(&packet, &caps).unwrap();
        assert_eq!((repr.src_addr.into(), repr.dst_addr.into()), (ip(us), ip(them)));
        packet.payload().to_vec()
    };
    let packet = TcpPacket::new_checked(&body).unwrap();
    let repr = TcpRepr::parse(&packet, &ip(us).into(), &ip(them).into(), &caps).unwrap();
    assert_eq!((repr.control, repr.payload.len()), (TcpControl::Rst, 0));
    assert_eq!((repr.src_port, repr.dst_port), (8, 40_000));
    TcpRepr { payload: &[], ..repr }
}

#[test]
fn a_segment_to_a_port_that_nobody_has_is_reset_as_its_sender_expects() {
    for unmatched in [Unmatched::Reset, Unmatched::Unreachable] {
        for (us, them) in FAMILIES {
            let mut rig = rig(unmatched);
            let to = inward(them, us);
            for (flags, payload, sequence, acknowledged) in [
                (SYN, &b""[..], 0, Some(1001)),
                (SYN, b"fast open", 0, Some(1010)),
                (FIN, b"12", 0, Some(1003)),
                (SYN | ACK, b"", 5000, None),
                (ACK, b"data", 5000, None),
                (FIN | ACK, b"", 5000, None),
                (0, b"", 0, Some(1000)),
            ] {
                let frame = answer(&mut rig, &segment(&to, 8, flags, payload));
                let reset = parse_reset(&frame, us, them);
                assert_eq!(reset.seq_number, TcpSeqNumber(sequence), "{flags:#x}");
                assert_eq!(reset.ack_number, acknowledged.map(TcpSeqNumber), "{flags:#x}");
            }
            for flags in [RST, RST | ACK] {
                let fates = rig.arrives(&segment(&to, 8, flags, b""));
                assert_eq!(fates, [Dropped(NoReceiver)], "a reset of a reset");
            }
            assert_eq!(rig.arrives(&segment(&to, 7, SYN, b"")), [Client(1)], "its own business");
        }
    }
}

#[test]
fn a_datagram_to_a_port_that_nobody_has_is_answered_with_its_own_beginning() {
    for (us, them) in FAMILIES {
        for payload in [0, 1, 8, 500, 800, 1400] {
            let mut rig = rig(Unmatched::Unreachable);
            let payload: Vec<u8> = (0..payload).map(|n: u16| n as u8).collect();
            let datagram = sound(inward(them, us).udp_with(9, 8, &payload));
            let frame = answer(&mut rig, &datagram);
            let quoted = if us.contains(':') {
                let packet = Ipv6Packet::new_checked(&frame[14..]).unwrap();
                assert!(packet.total_len() <= 1280);
                let message = Icmpv6Packet::new_checked(packet.payload()).unwrap();
                let (from, to) = (packet.src_addr(), packet.dst_addr());
                assert!(message.verify_checksum(&from, &to));
                assert_eq!(message.msg_type(), Icmpv6Message::DstUnreachable);
                assert_eq!(message.msg_code(), u8::from(Icmpv6DstUnreachable::PortUnreachable));
                packet.payload()[8..].to_vec()
            } else {
                let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
                assert!(packet.total_len() <= 576 && packet.verify_checksum());
                let message = Icmpv4Packet::new_checked(packet.payload()).unwrap();
                assert!(message.verify_checksum());
                assert_eq!(message.msg_type(), Icmpv4Message::DstUnreachable);
                assert_eq!(message.msg_code(), u8::from(Icmpv4DstUnreachable::PortUnreachable));
                packet.payload()[8..].to_vec()
            };
            let most = if us.contains(':') { 1280 - 48 } else { 576 - 28 };
            assert_eq!(quoted, datagram[14..][..most.min(datagram.len() - 14)]);
        }
    }
    for protocol in [UDP_LITE, SCTP, DCCP] {
        let mut rig = rig(Unmatched::Unreachable);
        let frame = sound(inward("10.0.0.9", "10.0.0.1").ports(protocol, 9, 8));
        assert_eq!(rig.arrives(&frame), [Wire, Consumed], "{protocol}");
    }
}

#[test]
fn only_what_was_set_is_answered() {
    for (us, them) in FAMILIES {
        let to = inward(them, us);
        let (syn, datagram) = (segment(&to, 8, SYN, b""), sound(to.udp(9, 8)));
        let mut silent = rig(Unmatched::Drop);
        assert_eq!(silent.arrives(&syn), [Dropped(NoReceiver)]);
        assert_eq!(silent.arrives(&datagram), [Dropped(NoReceiver)]);
        let mut resets = rig(Unmatched::Reset);
        assert_eq!(resets.arrives(&syn), [Wire, Consumed]);
        assert_eq!(resets.arrives(&datagram), [Dropped(NoReceiver)]);
        // The kernel has its own opinion of what is for it.
        let options = Options { unmatched: Unmatched::Unreachable, ..Options::default() };
        let mut shared = Rig::with(options);
        assert_eq!(shared.arrives(&syn), [Host]);
        assert_eq!(shared.arrives(&datagram), [Host]);
    }
    let mut rig = rig(Unmatched::Unreachable);
    rig.attach_owner(2, "10.0.0.50");
    let to = inward("10.0.0.9", "10.0.0.50");
    assert_eq!(rig.arrives(&segment(&to, 8, SYN, b"")), [Client(2)], "who answers for itself");
}

/// Groups, errors, pieces, forged and broken frames: RFC 1122, 3.2.2, and RFC 4443, 2.4.
#[test]
fn what_must_not_be_answered_is_not() {
    let mut rig = rig(Unmatched::Unreachable);
    let to = inward("10.0.0.9", "10.0.0.1");
    let datagram = sound(to.udp(9, 8));
    let with = |at: usize, value: u8| {
        let mut frame = datagram.clone();
        frame[at] ^= value;
        frame
    };
    let quoted = outward("10.0.0.1", "10.0.0.9").quoted_udp(8, 9);
    let nobodys: [(&str, Vec<u8>); 15] = [
        ("a broadcast on the link", sound(to.to_link(BROADCAST).udp(9, 8))),
        ("a broadcast", sound(inward("10.0.0.9", "255.255.255.255").to_link(BROADCAST).udp(9, 8))),
        ("a group", sound(inward("10.0.0.9", "224.0.0.251").to_link(BROADCAST).udp(9, 8))),
        ("a group at our link address", sound(inward("10.0.0.9", "224.0.0.251").udp(9, 8))),
        ("an error", to.unreachable(&quoted)),
        ("an echo", to.echo_request(1)),
        ("a piece", to.first(1).udp(9, 8)),
        ("without ports", to.rest(GRE)),
        ("at no address of ours", sound(inward("10.0.0.9", "10.0.0.77").udp(9, 8))),
        ("from our own address", sound(inward("10.0.0.1", "10.0.0.1").udp(9, 8))),
        ("from our own link address", sound(to.link(OURS).udp(9, 8))),
        ("a wrong header checksum", with(24, 1)),
        ("a wrong checksum", with(41, 1)),
        ("a wrong payload", with(45, 1)),
        ("tagged", tagged(&datagram, 5)),
    ];
    let mut answered = Vec::new();
    for (what, frame) in nobodys {
        let fates = rig.arrives(&frame);
        if !matches!(fates[..], [Dropped(NoReceiver) | Consumed]) {
            answered.push((what, fates));
        }
    }
    assert!(answered.is_empty(), "{answered:?}");
    let other = sound(to.to_link(PEER).udp(9, 8));
    assert_eq!(rig.arrives(&other), [Dropped(NotForUs)]);
    let mut unsummed = to.udp(9, 8);
    Ipv4Packet::new_unchecked(&mut unsummed[14..]).fill_checksum();
    assert_eq!(rig.arrives(&unsummed), [Wire, Consumed], "UDP over IPv4 may have no checksum");
    let mut broken = segment(&to, 8, SYN, b"x");
    *broken.last_mut().unwrap() ^= 1;
    assert_eq!(rig.arrives(&broken), [Dropped(NoReceiver)]);
}

#[test]
fn answers_are_limited_and_what_is_over_is_counted() {
    let mut rig = rig(Unmatched::Unreachable);
    rig.now = rig.now + Duration::from_secs(5);
    let to = inward("10.0.0.9", "10.0.0.1");
    let flood = |rig: &mut Rig| {
        let frames = [sound(to.udp(9, 8)), segment(&to, 8, SYN, b"")];
        let (fates, _) = rig.fates(|rig| {
            rig.wires[0].lock().incoming.extend(frames.iter().cycle().take(100).cloned());
        });
        let of = |fate: Fate| fates.iter().filter(|f| **f == fate).count();
        (of(Wire), of(Consumed), of(Dropped(TooManyAnswers)))
    };
    assert_eq!(flood(&mut rig), (50, 50, 50));
    assert_eq!(flood(&mut rig), (0, 0, 100));
    rig.now = rig.now + Duration::from_millis(10);
    assert_eq!(flood(&mut rig), (10, 10, 90));
}
