//! One suite for every port: what the switch relies on, whatever the medium.

//!
//! Ports over a real medium run in a network namespace of their own, a child process a test, as root
//! or as an ordinary user.

#![allow(clippy::cast_possible_truncation, reason = "numbers of test frames are small")]

mod isolated;

use isolated::{isolated, skip};
use std::io;
use std::path::Path;
use std::time::Duration;
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::pool::{Frame, Pool};
use usnet_shmring::region::Writer;
use usnet_switch::classify::Mac;
use usnet_switch::net::macvtap::MacvtapLink;
use usnet_switch::net::sysctl::Setting;
use usnet_switch::net::{MacvtapMode, Netlink};
use usnet_switch::port::af_packet::{AfPacket, AfPacketSpec, RingVersion};
use usnet_switch::port::af_xdp::{AfXdp, AfXdpSpec};
use usnet_switch::port::netmap::double::{Completion, Double, NicSpec, Quirk, queue_pair};
use usnet_switch::port::netmap::{Bank, Netmap, NetmapSpec};
use usnet_switch::port::tap::{Header, Tap, TapSpec};
use usnet_switch::port::wire::{Faults, Wire, WireSpec};
use usnet_switch::port::{BURST, Burst, Port};
use usnet_switch::time::Time;

/// Two ports that are joined, and a pool for both.
struct Pair {
    pool: Pool,
    slots: u32,
    /// Of these, slots that the ports keep even when they are closed.
    kept: u32,
    a: Box<dyn Port>,
    b: Box<dyn Port>,
    now: Time,
    /// Whether the medium works by itself, so that tests must give it time.
    real: bool,
    /// What the ports need, dropped after them.
    _keep: Option<Box<dyn std::any::Any>>,
}

fn pool() -> (Pool, u32) {
    let arena = Arena::reserve(1024, SlotSize::DEFAULT).expect("address space");
    let segment = arena.add_segment("test", Writer::Daemon, 1024, false).expect("memory");
    let range = SlotRange::whole(segment);
    let slots = range.count();
    (Pool::new(range).expect("a pool"), slots)
}

impl Pair {
    fn new(a: Box<dyn Port>, b: Box<dyn Port>, real: bool) -> Self {
        let (pool, slots) = pool();
        Self { pool, slots, kept: 0, a, b, now: Time(0), real, _keep: None }
    }

    fn frame(&mut self, bytes: &[u8]) -> Frame {
        let mut frame = self.pool.alloc().expect("a free slot");
        assert!(self.pool.fill(&mut frame, bytes));
        frame
    }

    /// Lets time pass: virtual, and a little real time for a real medium.
    fn wait(&mut self) {
        self.now = self.now + Duration::from_millis(1);
        if self.real {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Sends all, in bursts, and returns what the other end received of them.
    fn exchange(&mut self, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut burst = Burst::new();
        let mut received = Vec::new();
        let mut next = 0;
        let mut idle = 0;
        // A real medium takes its time; what has all arrived is not waited for.
        let patience = if self.real { 2000 } else { 50 };
        while idle < patience && ours_in(&received) < frames.len() {
            while next < frames.len() && burst.room() > 0 {
                let frame = self.frame(&frames[next]);
                burst.push(frame).expect("room was there");
                next += 1;
            }
            self.a.transmit(self.now, &mut self.pool, &mut burst).expect("a port that is there");
            let got = self.receive();
            idle = if got.is_empty() && next == frames.len() { idle + 1 } else { 0 };
            received.extend(got);
            self.wait();
        }
        assert!(burst.is_empty(), "{} frames found no room for ever", burst.len());
        received
    }

    fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut burst = Burst::new();
        let count =
            self.b.receive(self.now, &mut self.pool, &mut burst).expect("a port that is there");
        assert_eq!(count, burst.len());
        let mut frames = Vec::new();
        while let Some(frame) = burst.pop() {
            frames.push(self.pool.bytes(&frame).to_vec());
            self.pool.free(frame);
        }
        frames
    }

    fn assert_no_slot_is_lost(&mut self) {
        self.a.close(&mut self.pool);
        self.b.close(&mut self.pool);
        let (audit, slots) = self.pool.audit();
        let ours = self.slots - self.kept;
        assert_eq!((audit.free, slots), (ours, ours), "{audit:?}");
    }
}

/// A frame of an experimental EtherType (IEEE 802, 0x88b5), so that no kernel answers it.
fn test_frame(number: u32, length: usize) -> Vec<u8> {
    let mut frame = vec![0; length];
    frame[..6].copy_from_slice(&[0xff; 6]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 9, 9]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    for (at, byte) in frame.iter_mut().enumerate().skip(14) {
        *byte = ((number as usize * 31 + at) % 256) as u8;
    }
    frame
}

/// What a medium may lie in between (router advertisements and the like) is no concern of a test.
fn ours(mut frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    frames.retain(|frame| is_ours(frame));
    frames
}

fn ours_in(frames: &[Vec<u8>]) -> usize {
    frames.iter().filter(|frame| is_ours(frame)).count()
}

fn is_ours(frame: &[u8]) -> bool {
    frame.windows(2).take(24).any(|w| w == [0x88, 0xb5])
}

/// Runs a test on a pair of ports. `skipped` says why there is none.
fn run(make: fn() -> Result<Pair, String>, name: &str, test: impl FnOnce(&mut Pair)) {
    match make() {
        Ok(mut pair) => {
            test(&mut pair);
            pair.assert_no_slot_is_lost();
        }
        Err(reason) => skip(name, &reason),
    }
}

/// `port_conformance!(name, make)`: `make` gives two joined ports, or says why it cannot.
/// `port_conformance!(isolated name, make)`: the same in a network namespace of its own.
macro_rules! port_conformance {
    ($name:ident, $make:expr) => {
        port_conformance!(@suite $name, |_name: &str, body: &dyn Fn()| body(), $make);
    };
    (isolated $name:ident, $make:expr) => {
        port_conformance!(@suite $name, |name: &str, body: &dyn Fn()| isolated(name, body), $make);
    };
    (@suite $name:ident, $place:expr, $make:expr) => {
        mod $name {
            use super::*;

            fn with(test: fn(&mut Pair)) {
                // A test's thread has its name.
                let name = std::thread::current().name().unwrap_or_default().to_owned();
                $place(&name, &|| run($make, &name, test));
            }

            #[test]
            fn a_frame_arrives_byte_for_byte() {
                with(|pair| {
                    let sent: Vec<_> =
                        [60, 61, 64, 127, 128, 594, 1513, 1514].map(|n| test_frame(1, n)).into();
                    assert_eq!(ours(pair.exchange(&sent)), sent);
                });
            }

            #[test]
            fn many_frames_keep_their_order() {
                with(|pair| {
                    let sent: Vec<_> =
                        (0..1000).map(|n| test_frame(n, 60 + n as usize % 200)).collect();
                    let got = ours(pair.exchange(&sent));
                    assert_eq!(got.len(), sent.len());
                    assert!(got == sent, "the order or a byte differs");
                });
            }

            #[test]
            fn a_tagged_frame_keeps_its_tag() {
                with(|pair| {
                    let mut frame = test_frame(7, 100);
                    frame.splice(12..12, [0x81, 0x00, 0x60, 0x2a]);
                    assert_eq!(ours(pair.exchange(&[frame.clone()])), [frame]);
                });
            }

            #[test]
            fn too_long_a_frame_is_refused_and_counted() {
                with(|pair| {
                    let before = pair.a.counters();
                    let long = test_frame(3, usize::from(pair.a.info().mtu) + 14 + 8 + 1);
                    assert_eq!(ours(pair.exchange(&[long])), Vec::<Vec<u8>>::new());
                    assert_eq!(pair.a.counters().transmit_errors, before.transmit_errors + 1);
                });
            }

            #[test]
            fn an_idle_port_returns_nothing_and_takes_no_slot() {
                with(|pair| {
                    let free = pair.pool.free_slots();
                    for _ in 0..100 {
                        assert_eq!(ours(pair.receive()), Vec::<Vec<u8>>::new());
                    }
                    assert_eq!(pair.pool.free_slots(), free);
                });
            }

            #[test]
            fn what_is_sent_and_received_is_counted() {
                with(|pair| {
                    let (a, b) = (pair.a.counters(), pair.b.counters());
                    let sent: Vec<_> = (0..100).map(|n| test_frame(n, 100)).collect();
                    assert_eq!(ours(pair.exchange(&sent)).len(), 100);
                    assert_eq!(pair.a.counters().transmitted, a.transmitted + 100);
                    assert_eq!(pair.a.counters().transmitted_bytes, a.transmitted_bytes + 10_000);
                    assert!(pair.b.counters().received >= b.received + 100);
                });
            }

            #[test]
            fn without_a_free_slot_the_port_goes_on_as_soon_as_there_is_one() {
                with(|pair| {
                    let mut held = Vec::new();
                    let mut burst = Burst::new();
                    for n in 0..8 {
                        let frame = pair.frame(&test_frame(n, 100));
                        burst.push(frame).expect("room");
                    }
                    while let Some(frame) = pair.pool.alloc() {
                        held.push(frame);
                    }
                    // Transmission needs no slot, and gives back those of the frames sent.
                    pair.a.transmit(pair.now, &mut pair.pool, &mut burst).expect("a port");
                    while let Some(frame) = pair.pool.alloc() {
                        held.push(frame);
                    }
                    for _ in 0..20 {
                        pair.wait();
                        assert_eq!(pair.receive(), Vec::<Vec<u8>>::new());
                    }
                    for frame in held {
                        pair.pool.free(frame);
                    }
                    let sent = vec![test_frame(99, 100)];
                    let mut got = ours(pair.exchange(&sent));
                    // What had waited in the medium comes first, and may be all that came so far.
                    for _ in 0..2000 {
                        if got.last() == sent.last() {
                            break;
                        }
                        pair.wait();
                        got.extend(ours(pair.receive()));
                    }
                    assert_eq!(got.last(), sent.last());
                });
            }
        }
    };
}

fn wire_pair(spec: &WireSpec) -> io::Result<(Wire, Wire)> {
    let mut ends = Wire::ends(spec)?.into_iter();
    let (Some(a), Some(b)) = (ends.next(), ends.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    Ok((a, b))
}

port_conformance!(wire, || {
    let (a, b) = wire_pair(&WireSpec::default()).expect("a wire");
    Ok(Pair::new(Box::new(a), Box::new(b), false))
});

/// A packet socket on an interface that is up.
fn packet_port(name: &str, ring: RingVersion) -> AfPacket {
    let link = Netlink::open().expect("netlink").link(name).expect("an interface");
    let spec = AfPacketSpec {
        name: name.into(),
        index: link.index,
        mac: link.mac,
        mtu: link.mtu as u16,
        ring,
        frames: 256,
        promiscuous: false,
        bypass_qdisc: false,
    };
    AfPacket::open(&spec).expect("a packet socket")
}

/// Keeps the kernel from sending anything of its own.
fn silence(name: &str) {
    for (setting, value) in [(Setting::Ipv6Disable, 1), (Setting::Ipv4ArpIgnore, 8)] {
        setting.change(name, value).expect("a setting").keep();
    }
}

/// Packet sockets at both ends of a veth.
fn veth_pair(ring: RingVersion) -> Result<Pair, String> {
    let mut net = Netlink::open().expect("netlink");
    net.add_veth("ca", "cb", None).map_err(|error| error.to_string())?;
    for name in ["ca", "cb"] {
        silence(name);
        net.set_up(name).expect("an interface");
    }
    let (a, b) = (packet_port("ca", ring), packet_port("cb", ring));
    Ok(Pair::new(Box::new(a), Box::new(b), true))
}

port_conformance!(isolated af_packet_v2, || veth_pair(RingVersion::V2));
port_conformance!(isolated af_packet_v3, || veth_pair(RingVersion::V3));

/// XDP sockets at both ends of a veth, over one pool.
fn xdp_pair(generic: bool) -> Result<Pair, String> {
    let mut net = Netlink::open().expect("netlink");
    net.add_veth("xa", "xb", None).map_err(|error| error.to_string())?;
    let arena = Arena::reserve(1024, SlotSize::DEFAULT).expect("address space");
    let segment = arena.add_segment("test", Writer::Daemon, 1024, false).expect("memory");
    let range = SlotRange::whole(segment);
    let (segment, slots) = (std::sync::Arc::clone(range.segment()), range.count());
    let mut pool = Pool::new(range).expect("a pool");
    let mut burst = Burst::new();
    let mut open = |name: &str| {
        silence(name);
        net.set_up(name).expect("an interface");
        let link = net.link(name).expect("an interface");
        let spec = AfXdpSpec {
            name: name.into(),
            index: link.index,
            mac: link.mac,
            mtu: link.mtu as u16,
            queues: 1,
            frames: 128,
            passing: Vec::new(),
            shared: Vec::new(),
            firewall: None,
            unfinished: false,
            generic,
            copy: false,
            busy_poll: None,
            groups: Vec::new(),
            as_zero_copy: false,
        };
        let mut port = match AfXdp::open(&spec, &segment) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(error.to_string());
            }
            opened => opened.expect("XDP sockets"),
        };
        // The first look gives the kernel the slots that it keeps.
        port.receive(Time(0), &mut pool, &mut burst).expect("a port that is there");
        assert!(burst.is_empty());
        Ok(Box::new(port))
    };
    let (a, b) = (open("xa")?, open("xb")?);
    let expected = if generic { "generic, copy" } else { "driver, copy" };
    assert_eq!((a.mode(), b.mode()), (Some(expected), Some(expected)));
    Ok(Pair { pool, slots, kept: 0, a, b, now: Time(0), real: true, _keep: None })
}

port_conformance!(isolated af_xdp, || xdp_pair(false));
port_conformance!(isolated af_xdp_generic, || xdp_pair(true));

/// A TAP device, and a packet socket on the kernel's side of it; the TAP sends if `outwards`.
fn tap_pair(header: Header, outwards: bool) -> Result<Pair, String> {
    const DEVICE: &str = "/dev/net/tun";
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open(DEVICE) {
        let hint = if Path::new(DEVICE).exists() { "run as root" } else { "modprobe tun" };
        return Err(format!("cannot open {DEVICE}: {error} ({hint})"));
    }
    let mac = Mac([2, 0, 0, 0, 0, 7]);
    let spec = TapSpec { name: "ct".into(), mac, mtu: 1500, header };
    let tap = Tap::open(&spec).expect("a TAP device");
    silence("ct");
    Netlink::open().expect("netlink").set_up("ct").expect("an interface");
    let kernel = Box::new(packet_port("ct", RingVersion::V2));
    let (a, b): (Box<dyn Port>, Box<dyn Port>) =
        if outwards { (Box::new(tap), kernel) } else { (kernel, Box::new(tap)) };
    Ok(Pair::new(a, b, true))
}

/// A macvtap over one end of a veth, and a packet socket on the other; the macvtap sends if `outwards`.
fn macvtap_pair(mode: MacvtapMode, header: Header, outwards: bool) -> Result<Pair, String> {
    let mut net = Netlink::open().expect("netlink");
    net.add_veth("ma", "mb", None).map_err(|error| error.to_string())?;
    for name in ["ma", "mb"] {
        silence(name);
        net.set_up(name).expect("an interface");
    }
    let lower = net.link("ma").expect("an interface");
    let made = MacvtapLink::make(&mut net, &lower, mode).map_err(|error| error.to_string())?;
    let link = made.link().expect("an interface");
    let spec = TapSpec { name: link.name, mac: link.mac, mtu: link.mtu as u16, header };
    let port = match Tap::open_macvtap(&spec, "ma", 1) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(error.to_string());
        }
        opened => opened.expect("a macvtap's device").pop().expect("one queue"),
    };
    assert_eq!((port.name(), port.info().backend), ("ma", "macvtap"));
    let far = Box::new(packet_port("mb", RingVersion::V2));
    let (a, b): (Box<dyn Port>, Box<dyn Port>) =
        if outwards { (Box::new(port), far) } else { (far, Box::new(port)) };
    Ok(Pair { _keep: Some(Box::new(made)), ..Pair::new(a, b, true) })
}

const OWN_ADDRESS: MacvtapMode = MacvtapMode::Bridge(Mac([2, 0, 0, 0, 0, 8]));

port_conformance!(isolated macvtap_to_wire, || macvtap_pair(MacvtapMode::Passthru, Header::None, true));
port_conformance!(isolated macvtap_from_wire, || macvtap_pair(MacvtapMode::Passthru, Header::None, false));
port_conformance!(isolated macvtap_to_wire_with_vnet_header, || {
    macvtap_pair(MacvtapMode::Passthru, Header::Segments, true)
});
port_conformance!(isolated macvtap_from_wire_with_vnet_header, || {
    macvtap_pair(MacvtapMode::Passthru, Header::Segments, false)
});
port_conformance!(isolated macvtap_bridged_to_wire, || macvtap_pair(OWN_ADDRESS, Header::Checksums, true));
port_conformance!(isolated macvtap_bridged_from_wire, || macvtap_pair(OWN_ADDRESS, Header::Checksums, false));

port_conformance!(isolated tap_to_kernel, || tap_pair(Header::None, true));
port_conformance!(isolated tap_from_kernel, || tap_pair(Header::None, false));
port_conformance!(isolated tap_with_header_to_kernel, || tap_pair(Header::Segments, true));
port_conformance!(isolated tap_with_header_from_kernel, || tap_pair(Header::Segments, false));

/// What arrives, and when, over a wire with all faults.
fn faulty_run(seed: u64) -> Vec<(u64, Vec<u8>)> {
    let faults = Faults {
        drop: 100_000,
        duplicate: 100_000,
        reorder: 200_000,
        late_by: Duration::from_millis(5),
        corrupt: 100_000,
    };
    let spec = WireSpec {
        seed,
        faults,
        delay: Duration::from_micros(300),
        rate: Some(10_000_000),
        ..WireSpec::default()
    };
    let (mut a, mut b) = wire_pair(&spec).expect("a wire");
    let (mut pool, _) = pool();
    let mut arrived = Vec::new();
    let mut burst = Burst::new();
    for tick in 0..2000 {
        let now = Time(tick * 100_000);
        if tick < 500 {
            let mut frame = pool.alloc().expect("a slot");
            assert!(pool.fill(&mut frame, &test_frame(tick as u32, 100)));
            burst.push(frame).expect("room");
            a.transmit(now, &mut pool, &mut burst).expect("a port");
        }
        b.receive(now, &mut pool, &mut burst).expect("a port");
        while let Some(frame) = burst.pop() {
            arrived.push((tick, pool.bytes(&frame).to_vec()));
            pool.free(frame);
        }
    }
    let counters = b.medium_counters();
    assert!(counters.dropped > 0 && counters.duplicated > 0, "{counters:?}");
    assert!(counters.reordered > 0 && counters.corrupted > 0, "{counters:?}");
    assert_eq!(
        arrived.len() as u64,
        counters.sent - counters.dropped + counters.duplicated,
        "the medium loses nothing but what it counts"
    );
    arrived
}

#[test]
fn the_same_seed_gives_the_same_bytes_in_the_same_order_at_the_same_times() {
    assert!(faulty_run(42) == faulty_run(42));
    assert!(faulty_run(42) != faulty_run(43));
}

#[test]
fn a_limited_wire_delivers_at_its_rate_and_not_before_the_delay() {
    let spec =
        WireSpec { rate: Some(8_000_000), delay: Duration::from_millis(3), ..WireSpec::default() };
    let (mut a, mut b) = wire_pair(&spec).expect("a wire");
    let (mut pool, _) = pool();
    let mut burst = Burst::new();
    // 976 bytes and 24 around them: a millisecond each.
    for n in 0..10 {
        let mut frame = pool.alloc().expect("a slot");
        assert!(pool.fill(&mut frame, &test_frame(n, 976)));
        burst.push(frame).expect("room");
    }
    a.transmit(Time(0), &mut pool, &mut burst).expect("a port");
    let mut times = Vec::new();
    while let Some(due) = b.next_event() {
        let early = Time(due.0 - 1);
        assert_eq!(b.receive(early, &mut pool, &mut burst).expect("a port"), 0);
        assert_eq!(b.receive(due, &mut pool, &mut burst).expect("a port"), 1);
        burst.clear(&mut pool);
        times.push(due.0);
    }
    let expected: Vec<u64> = (1..=10).map(|n| (n + 3) * 1_000_000).collect();
    assert_eq!(times, expected);
}

#[test]
fn a_full_wire_leaves_frames_in_the_burst_in_order() {
    let (mut a, mut b) = wire_pair(&WireSpec { queue: 10, ..WireSpec::default() }).expect("a wire");
    let (mut pool, _) = pool();
    let mut burst = Burst::new();
    for n in 0..BURST {
        let mut frame = pool.alloc().expect("a slot");
        assert!(pool.fill(&mut frame, &test_frame(n as u32, 60)));
        burst.push(frame).expect("room");
    }
    let sent = a.transmit(Time(0), &mut pool, &mut burst).expect("a port");
    assert!(sent < BURST && sent + burst.len() == BURST, "{sent} sent");
    let first = burst.first().map(|frame| pool.bytes(frame).to_vec());
    assert_eq!(first, Some(test_frame(sent as u32, 60)));
    let mut arrived = Burst::new();
    let mut count = 0;
    for tick in 1..100 {
        count += b.receive(Time(tick), &mut pool, &mut arrived).expect("a port");
        arrived.clear(&mut pool);
        a.transmit(Time(tick), &mut pool, &mut burst).expect("a port");
    }
    assert_eq!(count, BURST);
}

#[test]
fn every_other_end_of_a_wire_hears_a_frame() {
    let mut ends = Wire::ends(&WireSpec { ends: 4, ..WireSpec::default() }).expect("a wire");
    let (mut pool, _) = pool();
    let mut burst = Burst::new();
    let mut frame = pool.alloc().expect("a slot");
    assert!(pool.fill(&mut frame, &test_frame(1, 60)));
    burst.push(frame).expect("room");
    ends[2].transmit(Time(0), &mut pool, &mut burst).expect("a port");
    let heard: Vec<usize> = ends
        .iter_mut()
        .map(|end| {
            let count = end.receive(Time(0), &mut pool, &mut burst).expect("a port");
            burst.clear(&mut pool);
            count
        })
        .collect();
    assert_eq!(heard, [1, 1, 0, 1]);
}

/// Two cards of netmap's double on one cable. Their driver looks at a buffer only where a slot says that
/// it is another, as e1000's does: who forgets to say so sees what was there a lap ago.
fn cards() -> Double {
    let double = Double::new().expect("memory");
    let (left, right) = queue_pair(4096).expect("descriptors");
    for (name, end) in [("a", left), ("b", right)] {
        let mut spec = NicSpec::new(name, Box::new(end));
        (spec.tx_slots, spec.rx_slots) = (64, 64);
        spec.quirks = vec![Quirk::NeedsBufChanged];
        spec.completion = Completion::NextSync;
        double.add_nic(spec).expect("a card");
    }
    double
}

fn netmap_spec(name: &str) -> NetmapSpec {
    let name = if name.starts_with("vale") { name.to_owned() } else { format!("netmap:{name}") };
    let name = name.parse().expect("a name");
    NetmapSpec { name, mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500 }
}

/// Ports in regions of netmap's own.
fn netmap_copying(double: &Double, names: [&str; 2]) -> Pair {
    let [a, b] =
        names.map(|n| Box::new(Netmap::open(double, &netmap_spec(n), None).expect("a port")));
    assert!(!a.swaps() && !b.swaps());
    Pair::new(a, b, false)
}

/// Ports whose region is the pool itself.
fn netmap_swapping() -> Pair {
    let double = cards();
    let arena = Arena::reserve(4096, SlotSize::DEFAULT).expect("address space");
    let segment = |name| arena.add_segment(name, Writer::Daemon, 1024, false).expect("memory");
    let (objects, port) = (SlotRange::whole(segment("objects")), SlotRange::whole(segment("port")));
    let port_segment = std::sync::Arc::clone(port.segment());
    let mut pool = Pool::new(port).expect("a pool");
    let slots = 1024;
    // Two cards with a ring of 64 each way, and of the host each way.
    let bank =
        Bank::open(&double, &objects, &port_segment, core::slice::from_mut(&mut pool), 2 * 4 * 64)
            .expect("memory");
    let [a, b] = ["a", "b"].map(|name| {
        let port = Netmap::open(&double, &netmap_spec(name), Some(&bank)).expect("a port");
        assert!(port.swaps());
        Box::new(port)
    });
    let kept = slots - pool.free_slots() as u32;
    Pair { pool, slots, kept, a, b, now: Time(0), real: false, _keep: None }
}

/// The host's half of a descriptor, whose kernel is the wire of another card.
fn netmap_host_half() -> Pair {
    let double = Double::new().expect("memory");
    let (kernel, wire) = queue_pair(4096).expect("descriptors");
    let (nobody, cable) = queue_pair(1).expect("descriptors");
    drop(nobody);
    let h = NicSpec::new("h", Box::new(cable)).with_host(Box::new(kernel));
    for spec in [h, NicSpec::new("b", Box::new(wire))] {
        double.add_nic(spec).expect("a card");
    }
    let both = Netmap::open_both(&double, &netmap_spec("h*"), None);
    // The device stays open for the half that is left, the card's rings too.
    let (_, host) = both.expect("two ports");
    let b = Netmap::open(&double, &netmap_spec("b"), None).expect("a port");
    Pair::new(Box::new(host), Box::new(b), false)
}

port_conformance!(netmap_swapping_buffers, || Ok(netmap_swapping()));
port_conformance!(netmap_copying_frames, || Ok(netmap_copying(&cards(), ["a", "b"])));
port_conformance!(netmap_one_direction_each, || Ok(netmap_copying(&cards(), ["a/T", "b/R"])));
port_conformance!(netmap_one_pair_exclusively, || Ok(netmap_copying(&cards(), ["a-0/x", "b-0/x"])));
port_conformance!(netmap_host_half_of_a_descriptor, || Ok(netmap_host_half()));
port_conformance!(netmap_pipe, || Ok(netmap_copying(&cards(), ["x{1", "x}1"])));
port_conformance!(netmap_vale, || Ok(netmap_copying(&cards(), ["vale0:a", "vale0:b"])));
