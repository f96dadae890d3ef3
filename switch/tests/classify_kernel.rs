//! The kernel as judge: of random packets with every oddity of their headers, those that we would give
//! to a socket's owner are those that the kernel gives to the socket.
//!
//! ```text
//!   this test ── TAP ──► the kernel's stack of a namespace ──► UDP sockets, two ports a family
//! ```
//!
//! A packet that we accept and the kernel does not is a failure without exception: it would reach a
//! client although a kernel in its place would show it to nobody. We may refuse more than the
//! kernel does, but only for the reasons listed in [`may_be_stricter`]. What is written to the TAP is
//! in the socket, or nowhere, when the call returns; so no verdict depends on time.

mod isolated;

use isolated::{isolated, skip};
use std::net::UdpSocket;
use std::thread::sleep;
use std::time::Duration;
use usnet_fuzz::frames::{
    HERE_MAC, HERE_V4, HERE_V6, IPV4, IPV6, PEER_V4, PEER_V6, ethernet, ipv4, ipv6, tag, udp,
};
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::pool::Pool;
use usnet_shmring::region::Writer;
use usnet_switch::classify::{Address, Fragment, Mac, Malformed, Payload, Protocol, classify};
use usnet_switch::net::sysctl::Setting;
use usnet_switch::net::{InterfaceAddress, Netlink};
use usnet_switch::port::tap::{Header, Tap, TapSpec};
use usnet_switch::port::{Burst, Port};
use usnet_switch::time::Time;

const PORTS: [u16; 2] = [7001, 7002];
const TAP: &str = "judge0";
/// Few enough for each to have an identification of its own: no two pieces ever make a datagram.
const FRAMES: u32 = 60_000;

/// A xorshift generator: the same frames in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.roll(256)).unwrap()
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.roll(choices.len())]
    }

    /// The first in most cases.
    fn mostly<T: Copy>(&mut self, usual: T, odd: &[T]) -> T {
        if self.roll(5) > 0 { usual } else { self.pick(odd) }
    }
}

/// The kernel: a TAP into it, and sockets that show what it lets pass.
struct Judge {
    tap: Tap,
    pool: Pool,
    sockets: Vec<(u16, UdpSocket)>,
}

impl Judge {
    fn new() -> Option<Self> {
        let spec =
            TapSpec { name: TAP.into(), mac: Mac(HERE_MAC), mtu: 9000, header: Header::None };
        let tap = Tap::open(&spec).ok()?;
        Setting::Ipv4ReversePath.write("all", 0).unwrap();
        Setting::Ipv4ReversePath.write(TAP, 0).unwrap();
        Setting::Ipv6DuplicateDetection.write(TAP, 0).unwrap();
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{TAP}/accept_dad"), "0").unwrap();
        let mut net = Netlink::open().unwrap();
        net.add_address(TAP, InterfaceAddress::new(HERE_V4.into(), 24)).unwrap();
        net.set_up(TAP).unwrap();
        net.add_address(TAP, InterfaceAddress::new(HERE_V6.into(), 64)).unwrap();
        let mut sockets = Vec::new();
        for port in PORTS {
            // The address of IPv6 alone would take the port of IPv4 too.
            for address in [[0; 4].into(), std::net::IpAddr::from(HERE_V6)] {
                let socket = UdpSocket::bind((address, port)).unwrap();
                socket.set_nonblocking(true).unwrap();
                sockets.push((port, socket));
            }
        }
        let arena = Arena::reserve(64, SlotSize::DEFAULT).unwrap();
        let segment = arena.add_segment("judge", Writer::Daemon, 64, false).unwrap();
        let pool = Pool::new(SlotRange::whole(segment)).unwrap();
        let mut judge = Self { tap, pool, sockets };
        judge.wait_for_ipv6();
        Some(judge)
    }

    /// Until the kernel has made up its mind that nobody else has the IPv6 address.
    fn wait_for_ipv6(&mut self) {
        let number = u32::MAX;
        let mut dice = Dice(1);
        for _ in 0..10_000 {
            let mut payload = datagram(&mut dice, number, &PEER_V6, &HERE_V6);
            while ours(&ethernet(IPV6, &ipv6(17, &payload))) != Ok(Some(PORTS[0])) {
                payload = datagram(&mut dice, number, &PEER_V6, &HERE_V6);
            }
            if self.deliver(&ethernet(IPV6, &ipv6(17, &payload)), number).is_some() {
                return;
            }
            sleep(Duration::from_millis(1));
        }
        panic!("the kernel does not take its own address");
    }

    /// The port of the socket that got the frame with this number in it.
    fn deliver(&mut self, frame: &[u8], number: u32) -> Option<u16> {
        let mut slot = self.pool.alloc().unwrap();
        assert!(self.pool.fill(&mut slot, frame));
        let mut burst = Burst::new();
        burst.push(slot).unwrap();
        self.tap.transmit(Time(0), &mut self.pool, &mut burst).unwrap();
        assert!(burst.is_empty());
        let mut delivered = None;
        let mut data = [0; 64];
        for (port, socket) in &self.sockets {
            while let Ok(len) = socket.recv(&mut data) {
                assert_eq!(data[..len][4..8], number.to_be_bytes(), "a frame of long ago");
                assert_eq!(delivered.replace(*port), None, "two sockets got it");
            }
        }
        delivered
    }
}

/// The port of the socket that we would give it to.
fn ours(frame: &[u8]) -> Result<Option<u16>, Malformed> {
    let classified = classify(frame)?;
    let Payload::Ip(packet) = classified.payload else { return Ok(None) };
    let flow = packet.flow;
    let broadcasts = [[255; 4], [10, 0, 0, 255]].map(Address::v4);
    let is_here = [Address::v4(HERE_V4), Address(HERE_V6)].contains(&flow.destination)
        || broadcasts.contains(&flow.destination);
    let is_ours = is_here
        && classified.vlan.is_none()
        && packet.fragment == Fragment::Whole
        && flow.protocol == Protocol::UDP
        && PORTS.contains(&flow.destination_port);
    Ok(is_ours.then_some(flow.destination_port))
}

/// Whether we may refuse what the kernel takes.
fn may_be_stricter(malformed: Malformed) -> bool {
    matches!(
        malformed,
        // Group addresses of links as a source; IPv6 from `::` or from IPv4 in disguise.
        Malformed::Address
        // More than eight; options that mean nothing there but are malformed.
        | Malformed::ExtensionHeaders
        // The reserved flag; labels; forms of timestamps that are not defined but have no room.
        | Malformed::Ipv4
        // A third tag, if the first two are priority tags.
        | Malformed::Vlan
    )
}

fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap();
    if sum == 0 { [0xff; 2] } else { sum.to_be_bytes() }
}

/// A datagram with a number in it, and a length that may be wrong; the checksum covers that length.
fn datagram(dice: &mut Dice, number: u32, source: &[u8], destination: &[u8]) -> Vec<u8> {
    let payload = [&[0xa5; 4][..], &number.to_be_bytes(), &b"0123456789"[..dice.roll(10)]].concat();
    let port = dice.mostly(PORTS[0], &[PORTS[1], PORTS[1], 7003, 0]);
    let mut bytes = udp(40_000, port, &payload);
    let whole = bytes.len();
    // Never one too many: where the packet's length is that too, it would cover a byte of padding. And
    // never so short that the number is cut off.
    let len = dice.mostly(whole, &[0, 7, whole - 1, whole + 2, 65_535]);
    let len = if (8..16).contains(&len) { whole } else { len };
    bytes[4..6].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    let length = u32::try_from(len).unwrap().to_be_bytes();
    let pseudo = [source, destination, &length, &[0, 0, 0, 17]].concat();
    let covered = if len < 8 { whole } else { len.min(whole) };
    let sum = checksum(&[&pseudo, &bytes[..covered]]);
    bytes[6..8].copy_from_slice(&sum);
    bytes
}

fn ipv4_options(dice: &mut Dice) -> Vec<u8> {
    let mut options = Vec::new();
    for _ in 0..dice.roll(4) {
        let any = dice.byte();
        let kind = dice.pick(&[0, 1, 7, 7, 68, 68, 130, 131, 134, 137, 148, 222, any]);
        if kind < 2 {
            options.push(kind);
            continue;
        }
        let len = dice.pick(&[0, 1, 2, 3, 4, 4, 7, 8, 11, 12]);
        let pointer = dice.pick(&[0, 3, 4, 5, 6, 8, 9, 12, 13]);
        let form = dice.pick(&[0, 1, 2, 3, 0x10, 0xe1, 0xf0, 0xff]);
        let option: Vec<_> = [kind, len, pointer, form].into_iter().chain([0; 8]).collect();
        options.extend_from_slice(&option[..usize::from(len).clamp(2, 12)]);
    }
    options.truncate(40);
    options.resize(options.len().next_multiple_of(4), dice.pick(&[0, 1]));
    options
}

fn ipv4_packet(dice: &mut Dice, number: u32) -> Vec<u8> {
    let odd = [[127, 0, 0, 1], [224, 0, 0, 1], [255; 4], [0; 4], [240, 0, 0, 1], [0, 0, 0, 1]];
    let source = dice.mostly(PEER_V4, &odd);
    let odd = [[10, 0, 0, 6], [0; 4], [127, 0, 0, 1], [255; 4], [10, 0, 0, 255]];
    let destination = dice.mostly(HERE_V4, &odd);
    let payload = datagram(dice, number, &source, &destination);
    let options = if dice.roll(2) == 0 { ipv4_options(dice) } else { Vec::new() };
    let fragment = dice.mostly(0, &[0x4000, 0x8000, 0x2000, 1, 2]);
    let mut packet = ipv4(17, &options, fragment, &payload);
    packet[12..16].copy_from_slice(&source);
    packet[16..20].copy_from_slice(&destination);
    packet[4..6].copy_from_slice(&number.to_be_bytes()[2..]);
    packet[8] = dice.pick(&[64, 1, 0, 255]);
    if dice.roll(20) == 0 {
        packet[0] = dice.byte();
    }
    if dice.roll(20) == 0 {
        let len = packet.len();
        let total = dice.pick(&[0, 19, 20, 28, len - 1, len + 1, 65_535]);
        packet[2..4].copy_from_slice(&u16::try_from(total).unwrap().to_be_bytes());
    }
    let header = (usize::from(packet[0] & 0x0f) * 4).clamp(20, packet.len());
    let sum = checksum(&[&packet[..header]]);
    packet[10..12].copy_from_slice(&sum);
    packet
}

fn ipv6_options(dice: &mut Dice, next: u8) -> Vec<u8> {
    let mut header = vec![next, 0];
    for _ in 0..dice.roll(5) {
        let any = dice.byte();
        let kind = dice.pick(&[0, 1, 1, 4, 5, 0x1e, 0x3e, 0x5e, 0x9e, 0xc2, 0xc9, any]);
        header.push(kind);
        if kind != 0 {
            let len = dice.pick(&[0, 1, 2, 2, 3, 4, 5, 6]);
            header.push(len);
            let filler = dice.mostly(0, &[1, 0xff]);
            header.resize(header.len() + usize::from(len), filler);
        }
    }
    match header.len().next_multiple_of(8) - header.len() {
        0 => {}
        1 => header.push(0),
        // Sometimes the last option does not fit.
        room => {
            let len = u8::try_from(room - 2).unwrap();
            header.extend([1, dice.mostly(len, &[len + 1, 0])]);
            header.resize(header.len() + usize::from(len), 0);
        }
    }
    header[1] = u8::try_from(header.len() / 8 - 1).unwrap();
    header
}

fn ipv6_packet(dice: &mut Dice, number: u32) -> Vec<u8> {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let odd = ["::", "::1", "::ffff:10.0.0.9", "ff02::1", "fe80::9"].map(address);
    let source = dice.mostly(PEER_V6, &odd);
    let odd = ["ff01::1", "ff02::1", "::", "::ffff:10.0.0.5", "fd00::6"].map(address);
    let destination = dice.mostly(HERE_V6, &odd);
    let mut payload = datagram(dice, number, &source, &destination);
    let mut next = 17;
    let headers = dice.pick(&[0, 0, 1, 1, 2, 3, 8, 9]);
    for left in 0..headers {
        // From the last to the first.
        let kind = if left + 1 == headers { dice.pick(&[0, 60, 43, 44]) } else { 60 };
        let kind = dice.mostly(kind, &[0, 43, 44, 60]);
        let header = match kind {
            43 => {
                let (kind, left) = (dice.pick(&[0, 1, 2, 3, 4, 5, 200]), dice.mostly(0, &[1]));
                vec![next, 0, kind, left, 0, 0, 0, 0]
            }
            44 => {
                let offset_more = dice.mostly(0, &[1, 8]);
                [&[next, 0, 0, offset_more], &number.to_be_bytes()[..]].concat()
            }
            _ if headers > 3 => vec![next, 0, 1, 4, 0, 0, 0, 0],
            _ => ipv6_options(dice, next),
        };
        payload = [header, payload].concat();
        next = kind;
    }
    let mut packet = ipv6(next, &payload);
    packet[7] = dice.pick(&[64, 255, 1, 0]);
    packet[8..24].copy_from_slice(&source);
    packet[24..40].copy_from_slice(&destination);
    if dice.roll(20) == 0 {
        packet[0] = dice.byte();
    }
    if dice.roll(20) == 0 {
        let len = dice.pick(&[0, payload.len() - 1, payload.len() + 1, 8]);
        packet[4..6].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    }
    packet
}

fn frame(dice: &mut Dice, number: u32) -> Vec<u8> {
    let mut frame = if dice.roll(2) == 0 {
        ethernet(IPV4, &ipv4_packet(dice, number))
    } else {
        ethernet(IPV6, &ipv6_packet(dice, number))
    };
    if dice.roll(8) == 0 {
        for _ in 0..dice.pick(&[1, 1, 2, 3]) {
            let kind = dice.pick(&[0x8100, 0x88a8]);
            frame = tag(kind, dice.pick(&[0, 0, 0xe000, 1, 4095]), &frame);
        }
    }
    if dice.roll(30) == 0 {
        frame[6] = 3;
    }
    if dice.roll(4) == 0 {
        frame.resize(frame.len() + 1 + dice.roll(9), 0xaa);
    }
    frame
}

#[test]
fn the_kernel_delivers_what_we_would_and_to_the_same_port() {
    let name = "the_kernel_delivers_what_we_would_and_to_the_same_port";
    isolated(name, || {
        let Some(mut judge) = Judge::new() else {
            return skip(name, "no TAP device can be made; it needs /dev/net/tun");
        };
        let mut dice = Dice(0x5eed_0000_0001);
        let (mut delivered, mut stricter) = (0, 0);
        for number in 0..FRAMES {
            let frame = frame(&mut dice, number);
            let theirs = judge.deliver(&frame, number);
            match ours(&frame) {
                Err(malformed) if theirs.is_some() => {
                    assert!(may_be_stricter(malformed), "{malformed:?} {frame:02x?}");
                    stricter += 1;
                }
                ours => {
                    let ours = ours.unwrap_or(None);
                    assert_eq!(ours, theirs, "frame {number} {frame:02x?}");
                    delivered += u32::from(ours.is_some());
                }
            }
        }
        assert!(delivered > FRAMES / 10, "{delivered} of {FRAMES} were delivered");
        assert!(stricter < delivered, "{stricter} were refused by us alone");
        println!("{FRAMES} frames, {delivered} delivered, {stricter} refused by us alone");
    });
}
