//! One suite for every port: what the switch relies on, whatever the medium.

#![allow(clippy::cast_possible_truncation, reason = "numbers of test frames are small")]

use std::io;
use std::time::Duration;
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::pool::{Frame, Pool};
use usnet_shmring::region::Writer;
use usnet_switch::classify::Mac;
use usnet_switch::net::Netlink;
use usnet_switch::net::namespace::Namespace;
use usnet_switch::port::af_packet::{AfPacket, AfPacketSpec, RingVersion};
use usnet_switch::port::tap::{Tap, TapSpec};
use usnet_switch::port::wire::{Faults, Wire, WireSpec};
use usnet_switch::port::{BURST, Burst, Port};
use usnet_switch::time::Time;

/// Two ports that are joined, and a pool for both.
struct Pair {
    pool: Pool,
    slots: u32,
    a: Box<dyn Port>,
    b: Box<dyn Port>,
    now: Time,
    /// Whether the medium works by itself, so that tests must give it time.
    real: bool,
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
        Self { pool, slots, a, b, now: Time(0), real }
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
        while idle < 50 {
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
        assert_eq!((audit.free, slots), (self.slots, self.slots), "{audit:?}");
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
fn ours(frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let is_ours = |f: &Vec<u8>| f.windows(2).take(24).any(|w| w == [0x88, 0xb5]);
    frames.into_iter().filter(is_ours).collect()
}

macro_rules! port_conformance {
    ($name:ident, $make:expr) => {
        mod $name {
            use super::*;

            fn with(test: impl FnOnce(&mut Pair)) {
                if let Some(mut pair) = $make {
                    test(&mut pair);
                    pair.assert_no_slot_is_lost();
                }
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
                    let got = ours(pair.exchange(&sent));
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

port_conformance!(wire, {
    let (a, b) = wire_pair(&WireSpec::default()).expect("a wire");
    Some(Pair::new(Box::new(a), Box::new(b), false))
});

/// Two packet sockets on the ends of a veth in a namespace of their own; `None`, said aloud, where
/// that cannot be had.
fn af_packet_pair(ring: RingVersion) -> Option<Pair> {
    let open = |netlink: &mut Netlink, name: &str| {
        netlink.set_up(name).expect("a link that was just made");
        let link = netlink.link(name).expect("a link that was just made");
        let spec = AfPacketSpec {
            name: link.name,
            index: link.index,
            mac: link.mac,
            mtu: 1500,
            ring,
            frames: 256,
            promiscuous: true,
            bypass_qdisc: false,
        };
        AfPacket::open(&spec).expect("a packet socket")
    };
    let ends = in_namespace(|| {
        let mut netlink = Netlink::open().expect("netlink");
        netlink.add_veth("a", "b", None).expect("a veth pair");
        let a = open(&mut netlink, "a");
        let b = open(&mut netlink, "b");
        wait_until_running(&mut netlink, &["a", "b"]);
        (a, b)
    })?;
    Some(Pair::new(Box::new(ends.0), Box::new(ends.1), true))
}

/// A TAP device and a packet socket on the kernel's side of it.
fn tap_pair(vnet_header: bool, tap_sends: bool) -> Option<Pair> {
    let ends = in_namespace(|| {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let spec = TapSpec { name: "t0".into(), mac, mtu: 1500, vnet_header };
        let tap = match Tap::open(&spec) {
            Ok(tap) => tap,
            Err(error) => {
                skip(&format!("no TAP device: {error} (needs /dev/net/tun and root)"));
                return None;
            }
        };
        let mut netlink = Netlink::open().expect("netlink");
        netlink.set_up("t0").expect("a link that was just made");
        let link = netlink.link("t0").expect("a link that was just made");
        assert_eq!((link.mac, link.mtu), (mac, 1500));
        let spec = AfPacketSpec {
            name: link.name,
            index: link.index,
            mac,
            mtu: 1500,
            ring: RingVersion::V2,
            frames: 256,
            promiscuous: true,
            bypass_qdisc: false,
        };
        wait_until_running(&mut netlink, &["t0"]);
        Some((tap, AfPacket::open(&spec).expect("a packet socket")))
    })??;
    let (tap, socket) = ends;
    Some(if tap_sends {
        Pair::new(Box::new(tap), Box::new(socket), true)
    } else {
        Pair::new(Box::new(socket), Box::new(tap), true)
    })
}

fn wait_until_running(netlink: &mut Netlink, names: &[&str]) {
    for name in names {
        for _ in 0..1000 {
            if netlink.link(name).expect("a link").is_running() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn in_namespace<T: Send>(make: impl FnOnce() -> T + Send) -> Option<T> {
    match Namespace::create() {
        Ok(namespace) => Some(namespace.run(make).expect("a namespace that was just made")),
        Err(error) => {
            skip(&format!("no network namespace: {error} (run as root)"));
            None
        }
    }
}

/// Says why a test does nothing, or fails where it must run.
fn skip(why: &str) {
    let required = std::env::var_os("USNET_TESTS_REQUIRE_ALL").is_some();
    assert!(!required, "this test must run here, but there is {why}");
    eprintln!("skipped: {why}");
}

port_conformance!(af_packet_v2, af_packet_pair(RingVersion::V2));
port_conformance!(af_packet_v3, af_packet_pair(RingVersion::V3));
port_conformance!(tap_to_kernel, tap_pair(false, true));
port_conformance!(tap_from_kernel, tap_pair(false, false));
port_conformance!(tap_with_vnet_header_to_kernel, tap_pair(true, true));
port_conformance!(tap_with_vnet_header_from_kernel, tap_pair(true, false));

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
