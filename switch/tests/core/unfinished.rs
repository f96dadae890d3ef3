//! Frames whose checksum is left open and frames that are to be cut: finished for whoever does not do that,
//! handed on as they are to whoever does, refused if they are not what they are said to be.

use crate::support::frames::*;
use crate::support::rig::{Attach, Fate, Mode, Rig};
use Fate::{Client, Consumed, Dropped, Host, Wire};
use core::num::NonZeroU16;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};
use std::net::IpAddr;
use usnet_shmring::descriptor::{Fault, RawDescriptor, RingName};
use usnet_shmring::offload::{OPEN, Offload, SEGMENT_SHIFT, SOUND};
use usnet_switch::verdict::DropReason;

/// Leaves things to others.
const SENDER: u16 = 1;
/// Takes what others left.
const MODERN: u16 = 2;
/// Knows only finished frames.
const PLAIN: u16 = 3;
const FIN_PSH_CWR_ACK: u8 = 0x01 | 0x08 | 0x80 | 0x10;
const SIZE: usize = 504;

const PAIRS: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.99"), ("fd00::1", "fd00::99")];

fn rig(mode: Mode) -> Rig {
    let mut rig = Rig::new();
    for (id, offload) in [(SENDER, true), (MODERN, true), (PLAIN, false)] {
        rig.attach(&Attach { id, mode, offload, ..Attach::default() });
        for protocol in [TCP, UDP] {
            for (address, _) in PAIRS {
                rig.listen(id, address, protocol, id);
            }
        }
    }
    rig
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 % 251) as u8).collect()
}

/// A TCP header with nonsense for a checksum, and `data`.
fn tcp(to: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let ports = [SENDER.to_be_bytes(), to.to_be_bytes()].concat();
    let sequence = 0xffff_ff00u32.to_be_bytes();
    [&ports[..], &sequence, &[0, 0, 0, 9, 0x50, flags, 0xff, 0xff, 0xba, 0xad, 0, 0], data].concat()
}

fn segments() -> u16 {
    Offload::segments(NonZeroU16::new(SIZE as u16).unwrap()).to_flags()
}

/// Where a frame ends that client `id` sends with these flags.
#[track_caller]
fn sends(
    rig: &mut Rig,
    id: u16,
    frame: &[u8],
    flags: u16,
) -> (Vec<Fate>, crate::support::rig::Out) {
    rig.fates(|rig| put(rig.client(id), frame, flags))
}

fn put(client: &mut crate::support::client::Client, frame: &[u8], flags: u16) {
    let slot = client.free.pop().expect("a free slot");
    client.transmit.write(slot, 0, frame);
    let raw = RawDescriptor::new(slot, 0, frame.len() as u16);
    client.send_raw(raw.with_flags(flags));
}

/// What an honest stack reads in a frame: its checksums are right.
struct Seen {
    ip_id: u16,
    sequence: u32,
    flags: u8,
    data: Vec<u8>,
}

#[track_caller]
fn read(frame: &[u8]) -> Seen {
    let link = EthernetFrame::new_checked(frame).unwrap();
    let (source, destination, packet, ip_id): (IpAddr, IpAddr, Vec<u8>, u16) =
        match link.ethertype() {
            EthernetProtocol::Ipv4 => {
                let ip = Ipv4Packet::new_checked(link.payload()).unwrap();
                assert!(ip.verify_checksum() || ip.checksum() == 0, "IPv4 header");
                assert_eq!(usize::from(ip.total_len()), frame.len() - 14);
                (ip.src_addr().into(), ip.dst_addr().into(), ip.payload().to_vec(), ip.ident())
            }
            _ => {
                let ip = Ipv6Packet::new_checked(link.payload()).unwrap();
                assert_eq!(usize::from(ip.payload_len()), frame.len() - 54);
                (ip.src_addr().into(), ip.dst_addr().into(), ip.payload().to_vec(), 0)
            }
        };
    let is_udp = frame[if source.is_ipv4() { 23 } else { 20 }] == UDP;
    let (source, destination) = (source.into(), destination.into());
    if is_udp {
        let udp = UdpPacket::new_checked(&packet).unwrap();
        assert!(udp.checksum() != 0 && udp.verify_checksum(&source, &destination), "UDP");
        assert_eq!(usize::from(udp.len()), packet.len());
        return Seen { ip_id, sequence: 0, flags: 0, data: udp.payload().to_vec() };
    }
    let tcp = TcpPacket::new_checked(&packet).unwrap();
    assert!(tcp.verify_checksum(&source, &destination), "TCP");
    let sequence = u32::from_be_bytes(packet[4..8].try_into().unwrap());
    Seen { ip_id, sequence, flags: packet[13], data: tcp.payload().to_vec() }
}

/// The pieces of a large segment, as a stack would put them together again.
#[track_caller]
fn joined(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut data = Vec::new();
    for (number, piece) in pieces.iter().enumerate() {
        let seen = read(piece);
        assert_eq!(usize::from(seen.ip_id) % pieces.len(), if piece[12] == 8 { number } else { 0 });
        let sequence = 0xffff_ff00u32.wrapping_add(data.len() as u32);
        assert_eq!(seen.sequence, sequence, "it goes on, over the end of the numbers");
        let (first, last) = (number == 0, number + 1 == pieces.len());
        assert_eq!(seen.flags & 0x10, 0x10, "ACK everywhere");
        assert_eq!(seen.flags & 0x09, if last { 0x09 } else { 0 }, "FIN and PSH at the end");
        assert_eq!(seen.flags & 0x80, if first { 0x80 } else { 0 }, "CWR at the beginning");
        assert_eq!(seen.data.len(), if last { seen.data.len() } else { SIZE });
        data.extend(seen.data);
    }
    data
}

#[test]
fn a_large_segment_leaves_as_frames_that_a_stack_accepts() {
    let mut rig = rig(Mode::Isolated);
    for (source, destination) in PAIRS {
        for length in [1, SIZE - 1, SIZE, SIZE + 1, 3 * SIZE, 1900] {
            let data = payload(length);
            let frame = outward(source, destination).ip(TCP, &tcp(7, FIN_PSH_CWR_ACK, &data));
            let (fates, out) = sends(&mut rig, SENDER, &frame, segments());
            let pieces = length.div_ceil(SIZE);
            let mut expected = vec![Wire; pieces];
            expected.push(Consumed);
            assert_eq!(fates, expected, "{length} bytes");
            assert_eq!(joined(&out.wire), data, "{length} bytes");
        }
    }
}

#[test]
fn joined_datagrams_leave_one_by_one() {
    let mut rig = rig(Mode::Isolated);
    for (source, destination) in PAIRS {
        let data = payload(2 * SIZE + 7);
        let frame = outward(source, destination).udp_with(SENDER, 7, &data);
        let (_, out) = sends(&mut rig, SENDER, &frame, segments());
        let read: Vec<Vec<u8>> = out.wire.iter().map(|frame| read(frame).data).collect();
        assert_eq!(read, data.chunks(SIZE).collect::<Vec<_>>());
        // To a client as well, whatever it agreed on: where one ends means something.
        let frame = outward(source, source).to_link(OURS).udp_with(SENDER, MODERN, &data);
        let (fates, _) = sends(&mut rig, SENDER, &frame, segments());
        assert_eq!(fates, [Client(MODERN), Client(MODERN), Client(MODERN), Consumed]);
    }
}

#[test]
fn an_open_checksum_is_completed_for_the_wire_the_host_and_a_client_that_needs_it() {
    for mode in [Mode::Isolated, Mode::Shared, Mode::Group(1)] {
        let mut rig = rig(mode);
        for (source, destination) in PAIRS {
            let data = payload(100);
            for protocol in [TCP, UDP] {
                let to = |port| match protocol {
                    TCP => tcp(port, 0x10, &data),
                    _ => {
                        let whole = outward(source, destination).udp_with(SENDER, port, &data);
                        whole[if source.contains(':') { 54 } else { 34 }..].to_vec()
                    }
                };
                let away = outward(source, destination).ip(protocol, &to(7));
                let here = |port| outward(source, source).to_link(OURS).ip(protocol, &to(port));
                for (frame, fate) in [(away, Wire), (here(9), Host), (here(PLAIN), Client(PLAIN))] {
                    let (fates, out) = sends(&mut rig, SENDER, &frame, OPEN);
                    assert_eq!(fates, [fate], "{mode:?}");
                    let frames =
                        [out.wire, out.host, out.clients.into_iter().map(|c| c.1).collect()];
                    assert_eq!(read(&frames.concat()[0]).data, data, "{mode:?}");
                }
            }
        }
    }
}

#[test]
fn between_clients_that_agreed_a_large_segment_goes_whole_and_says_so() {
    for mode in [Mode::Isolated, Mode::Shared, Mode::Group(1)] {
        let mut rig = rig(mode);
        let data = payload(1900);
        let frame = |to| {
            outward("10.0.0.1", "10.0.0.1").to_link(OURS).ip(TCP, &tcp(to, FIN_PSH_CWR_ACK, &data))
        };
        put(rig.client(SENDER), &frame(MODERN), segments());
        rig.run();
        let raws = rig.client(MODERN).take(usize::MAX);
        let flags: Vec<u16> = raws.iter().map(|raw| raw.flags()).collect();
        assert_eq!(flags, [segments()], "{mode:?}");
        assert_eq!(rig.read(raws[0])[54..], data, "{mode:?}");
        rig.client(MODERN).give_back(1);
        rig.run();
        // Who has not agreed gets frames as on a wire, without flags.
        put(rig.client(SENDER), &frame(PLAIN), segments());
        rig.run();
        let raws = rig.client(PLAIN).take(usize::MAX);
        assert!(raws.iter().all(|raw| raw.flags() == 0));
        let frames: Vec<_> = raws.iter().map(|raw| rig.read(*raw)).collect();
        assert_eq!(joined(&frames), data, "{mode:?}");
    }
}

#[test]
fn what_is_not_what_it_is_said_to_be_is_dropped() {
    let mut rig = rig(Mode::Isolated);
    let from = outward("10.0.0.1", "10.0.0.99");
    let unit = |units: u16| OPEN | units << SEGMENT_SHIFT;
    let (malformed, too_long) = (Dropped(DropReason::Malformed), Dropped(DropReason::TooLong));
    let data = payload(1900);
    let cases = [
        ("a segment longer than the interface allows", tcp(7, 0x10, &data), unit(190), too_long),
        ("a long frame that is not to be cut", tcp(7, 0x10, &data), OPEN, too_long),
        ("no payload to cut", tcp(7, 0x10, &[]), segments(), malformed),
        ("a connection that begins large", tcp(7, 0x02, &data), segments(), malformed),
        ("a reset that is large", tcp(7, 0x04, &data), segments(), malformed),
    ];
    for (name, body, flags, fate) in cases {
        assert_eq!(sends(&mut rig, SENDER, &from.ip(TCP, &body), flags).0, [fate], "{name}");
    }
    let echo = from.echo_request(7);
    assert_eq!(sends(&mut rig, SENDER, &echo, OPEN).0, [malformed], "an echo with a checksum left");
    assert_eq!(sends(&mut rig, SENDER, &echo, segments()).0, [malformed], "an echo to be cut");
    let piece = from.first(5).udp(SENDER, 7);
    assert_eq!(sends(&mut rig, SENDER, &piece, OPEN).0, [malformed], "a piece of a datagram");
    // A forged port stays one, however large the segment is.
    let mut forged = tcp(7, 0x10, &data);
    forged[1] = 99;
    rig.listen(PLAIN, "10.0.0.1", TCP, 99);
    let fates = sends(&mut rig, SENDER, &from.ip(TCP, &forged), segments()).0;
    assert_eq!(fates, [Dropped(DropReason::SpoofedPort)]);
}

#[test]
fn flags_that_were_not_agreed_on_or_contradict_each_other_are_a_fault() {
    let frame = outward("10.0.0.1", "10.0.0.99").ip(TCP, &tcp(7, 0x10, b"data"));
    let no_open = 1 << SEGMENT_SHIFT;
    let cases = [
        (PLAIN, OPEN),
        (PLAIN, SOUND),
        (PLAIN, segments()),
        (SENDER, SOUND),
        (SENDER, OPEN | SOUND),
        (SENDER, no_open),
        (SENDER, SOUND | no_open),
    ];
    for (id, flags) in cases {
        let mut rig = rig(Mode::Isolated);
        put(rig.client(id), &frame, flags);
        rig.step();
        let fault = Fault::UnknownFlags { ring: RingName::Tx, flags };
        assert_eq!(rig.ended(), [(id, Some(fault))], "{flags:#x} of client {id}");
        assert_eq!(rig.arrives(&inward("10.0.0.99", "10.0.0.1").udp(7, MODERN)), [Client(MODERN)]);
    }
}

#[test]
fn without_slots_pieces_are_dropped_and_counted() {
    let mut rig = rig(Mode::Isolated);
    let data = payload(1900);
    let frame = outward("10.0.0.1", "10.0.0.99").ip(TCP, &tcp(7, 0x10, &data));
    rig.wires[0].lock().room = Some(0);
    for _ in 0..40 {
        put(rig.client(SENDER), &frame, segments());
        // Books are balanced after each step; the burst of the wire is full soon.
        rig.step();
        rig.client(SENDER).collect();
    }
    assert!(rig.dropped(DropReason::PortFull) > 0);
    rig.wires[0].lock().room = None;
    rig.drain();
}
