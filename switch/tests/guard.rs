//! What the kernel hears through the guard is what `Pass::covers` says: frame by frame, against the
//! kernel's own nf_tables.

mod isolated;

use isolated::isolated;
use rustix::net::{AddressFamily, Protocol, RawProtocol, RecvFlags, SocketFlags, SocketType};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::pool::Pool;
use usnet_shmring::region::Writer;
use usnet_switch::net::Netlink;
use usnet_switch::net::guard::{Guard, Pass};
use usnet_switch::net::sysctl::Setting;
use usnet_switch::port::af_packet::{AfPacket, AfPacketSpec, RingVersion};
use usnet_switch::port::{Burst, Port};
use usnet_switch::time::Time;

const PATIENCE: Duration = Duration::from_secs(20);
/// `ETH_P_ALL`: heard before the guard.
const EVERYTHING: u16 = 3;

/// A packet socket for frames of one EtherType.
fn listen(ethertype: u16) -> OwnedFd {
    let protocol = Protocol::from_raw(RawProtocol::new(u32::from(ethertype.to_be())).unwrap());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = SocketType::RAW;
    rustix::net::socket_with(AddressFamily::PACKET, kind, flags, Some(protocol)).unwrap()
}

/// The numbers of the frames heard: each ends in a mark and its number.
fn heard(socket: &OwnedFd) -> Vec<usize> {
    let mut numbers = Vec::new();
    let mut bytes = [0; 2048];
    while let Ok((_, len)) = rustix::net::recv(socket, &mut bytes, RecvFlags::empty()) {
        if let [.., b'm', b'a', b'r', b'k', number] = bytes[..len] {
            numbers.push(usize::from(number));
        }
    }
    numbers
}

fn ethernet(tag: &[u8], ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend(tag);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

fn ipv4(to: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 9];
    packet.extend(to);
    packet.extend([0; 20]);
    packet
}

fn ipv6(to: [u8; 16], next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 24, next_header, 255];
    packet.extend([0xfd; 16]);
    packet.extend(to);
    packet.extend(payload);
    packet.resize(64, 0);
    packet
}

/// Frames on both sides of every limit.
fn frames() -> Vec<Vec<u8>> {
    let mut packets = vec![(0x0806, vec![0; 28]), (0x88b5, vec![0; 40])];
    for to in [
        [10, 9, 0, 1],
        [223, 255, 255, 255],
        [224, 0, 0, 0],
        [239, 255, 255, 255],
        [240, 0, 0, 0],
        [255, 255, 255, 254],
        [255, 255, 255, 255],
    ] {
        packets.push((0x0800, ipv4(to)));
    }
    // Answers of DHCP, and what is almost one.
    let unicast = ipv4([10, 9, 0, 1]);
    let with = |changes: &[(usize, u8)]| {
        let mut packet = unicast.clone();
        packet[23] = 68;
        changes.iter().for_each(|(at, byte)| packet[*at] = *byte);
        (0x0800, packet)
    };
    packets.extend([
        with(&[]),
        with(&[(6, 0x40)]),
        with(&[(23, 67)]),
        with(&[(22, 1)]),
        with(&[(9, 6)]),
        with(&[(0, 0x46)]),
        with(&[(6, 0x20)]),
        with(&[(7, 1)]),
    ]);
    for first in [[0xfd, 9], [0xfe, 0x7f], [0xfe, 0x80], [0xfe, 0xbf], [0xfe, 0xc0], [0xff, 2]] {
        let mut to = [0; 16];
        to[..2].copy_from_slice(&first);
        packets.push((0x86dd, ipv6(to, 17, &[0; 24])));
    }
    for kind in [0, 132, 133, 134, 135, 136, 137, 138, 255] {
        packets.push((0x86dd, ipv6([0xfd; 16], 58, &[kind])));
    }
    // Discovery behind an extension header, and a type that only looks like one.
    packets.push((0x86dd, ipv6([0xfd; 16], 0, &[58, 0, 5, 2, 0, 0, 1, 0, 135])));
    packets.push((0x86dd, ipv6([0xfd; 16], 17, &[135])));
    let mut frames = Vec::new();
    for tag in [&[][..], &[0x81, 0, 0xe0, 0], &[0x81, 0, 0xe0, 1], &[0x88, 0xa8, 0xf, 0xfe]] {
        frames.extend(packets.iter().map(|(kind, packet)| ethernet(tag, *kind, packet)));
    }
    for (number, frame) in frames.iter_mut().enumerate() {
        frame.extend(b"mark");
        frame.push(u8::try_from(number).unwrap());
    }
    frames
}

fn open(name: &str) -> AfPacket {
    let link = Netlink::open().unwrap().link(name).unwrap();
    let spec = AfPacketSpec {
        name: name.into(),
        index: link.index,
        mac: link.mac,
        mtu: 1500,
        ring: RingVersion::V2,
        frames: 256,
        promiscuous: false,
        bypass_qdisc: false,
    };
    AfPacket::open(&spec).unwrap()
}

fn send(port: &mut AfPacket, frames: &[Vec<u8>]) {
    let arena = Arena::reserve(1024, SlotSize::DEFAULT).unwrap();
    let segment = arena.add_segment("test", Writer::Daemon, 1024, false).unwrap();
    let mut pool = Pool::new(SlotRange::whole(segment)).unwrap();
    let mut burst = Burst::new();
    for bytes in frames {
        let mut frame = pool.alloc().unwrap();
        assert!(pool.fill(&mut frame, bytes));
        burst.push(frame).unwrap();
        while !burst.is_empty() {
            port.transmit(Time(0), &mut pool, &mut burst).unwrap();
        }
    }
}

#[test]
fn the_kernel_hears_exactly_what_is_said_to_pass() {
    isolated("the_kernel_hears_exactly_what_is_said_to_pass", || {
        let mut net = Netlink::open().unwrap();
        net.add_veth("ga", "gb", None).unwrap();
        for name in ["ga", "gb"] {
            Setting::Ipv6Disable.change(name, 1).unwrap().keep();
            net.set_up(name).unwrap();
        }
        let mut port = open("ga");
        let frames = frames();
        let mut sets: Vec<Vec<Pass>> = Pass::ALL.iter().map(|&pass| vec![pass]).collect();
        sets.extend([vec![], Pass::NEIGHBOURS.to_vec(), Pass::ALL.to_vec()]);
        for passing in sets {
            let _guard = Guard::install("gb", &passing).unwrap();
            let before = listen(EVERYTHING);
            let behind = [0x0800, 0x86dd, 0x0806, 0x88b5].map(listen);
            let (mut sent, mut arrived) = (0, 0);
            // Few at a time, since a socket has room for no more.
            for some in frames.chunks(64) {
                send(&mut port, some);
                sent += some.len();
                let start = Instant::now();
                // Each is seen as it leaves one end and as it comes to the other.
                while arrived < 2 * sent {
                    assert!(start.elapsed() < PATIENCE, "{arrived} of {} seen", 2 * sent);
                    arrived += heard(&before).len();
                    thread::sleep(Duration::from_millis(1));
                }
            }
            // Late ones could only be missed, and then the next comparison fails.
            thread::sleep(Duration::from_millis(50));
            let mut passed: Vec<usize> = behind.iter().flat_map(heard).collect();
            passed.sort_unstable();
            passed.dedup();
            let covered: Vec<usize> = (0..frames.len())
                .filter(|&n| passing.iter().any(|pass| pass.covers(&frames[n])))
                .collect();
            assert_eq!(passed, covered, "{passing:?}");
        }
    });
}
