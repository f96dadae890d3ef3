//! XDP sockets against real kernel stacks at the other end of a veth.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "frames are built from small numbers"
)]

/// The test's own name, with its module.
macro_rules! name {
    ($name:literal) => {
        concat!(module_path!(), "::", $name).split_once("::").unwrap().1
    };
}

#[path = "../isolated/mod.rs"]
mod isolated;

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod support;

mod firewall;
mod jumbo;
mod rate;
mod sharing;
mod split;
mod workers;

use isolated::{isolated, skip};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};
use usnet_shmring::arena::{Arena, Segment, SlotRange, SlotSize};
use usnet_shmring::pool::Pool;
use usnet_shmring::region::Writer;
use usnet_switch::classify::Mac;
use usnet_switch::net::Netlink;
use usnet_switch::net::guard::Pass;
use usnet_switch::net::namespace::Namespace;
use usnet_switch::port::af_xdp::{AfXdp, AfXdpSpec};
use usnet_switch::port::{Burst, Port};
use usnet_switch::time::Time;

/// Slots of a test's pool.
const SLOTS: u32 = 4096;

/// A pool, and its port segment.
pub(crate) struct Memory {
    pub(crate) arena: Arc<Arena>,
    pub(crate) segment: Arc<Segment>,
    pub(crate) pool: Pool,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self::of(SlotSize::DEFAULT)
    }

    pub(crate) fn of(size: SlotSize) -> Self {
        let arena = Arena::reserve(4 * SLOTS, size).unwrap();
        // So that the port segment is not at the beginning.
        let before = arena.add_segment("before", Writer::Daemon, 1024, false).unwrap();
        let range = arena.add_segment("test", Writer::Daemon, SLOTS, false).map(SlotRange::whole);
        let range = range.unwrap();
        drop(before);
        let segment = Arc::clone(range.segment());
        Self { arena, segment, pool: Pool::new(range).unwrap() }
    }

    pub(crate) fn open(&mut self, spec: &AfXdpSpec) -> std::io::Result<AfXdp> {
        let mut port = AfXdp::open(spec, &self.segment)?;
        // The first look gives the kernel its slots.
        let mut burst = Burst::new();
        port.receive(Time(0), &mut self.pool, &mut burst)?;
        burst.clear(&mut self.pool);
        Ok(port)
    }

    pub(crate) fn assert_all_free(&self) {
        let (audit, slots) = self.pool.audit();
        assert_eq!((audit.free, slots), (slots, slots), "{audit:?}");
    }
}

pub(crate) fn spec(name: &str) -> AfXdpSpec {
    let link = Netlink::open().unwrap().link(name).unwrap();
    AfXdpSpec {
        name: name.into(),
        index: link.index,
        mac: link.mac,
        mtu: u16::try_from(link.mtu).unwrap(),
        queues: 1,
        frames: 64,
        passing: Pass::NEIGHBOURS.to_vec(),
        shared: Vec::new(),
        firewall: None,
        unfinished: true,
        generic: false,
        copy: false,
        busy_poll: None,
        groups: Vec::new(),
        as_zero_copy: false,
    }
}

/// Runs a test in namespaces of its own, if XDP programs may be loaded.
pub(crate) fn with_xdp(name: &str, body: impl FnOnce()) {
    isolated(name, || {
        let mut net = Netlink::open().unwrap();
        net.add_veth("probe0", "probe1", None).unwrap();
        match Memory::new().open(&spec("probe0")) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                skip(name, &error.to_string());
            }
            opened => {
                drop(opened.unwrap());
                net.delete_link("probe0").unwrap();
                body();
            }
        }
    });
}

pub(crate) fn mac_of(peer: &Namespace, name: &str) -> Mac {
    peer.run(|| Netlink::open().unwrap().link(name).unwrap().mac).unwrap()
}

/// Receives until `enough` says so.
pub(crate) fn receive_until(
    port: &mut AfXdp,
    pool: &mut Pool,
    mut enough: impl FnMut(&[Vec<u8>]) -> bool,
) -> Vec<Vec<u8>> {
    let start = Instant::now();
    let mut burst = Burst::new();
    let mut frames = Vec::new();
    while !enough(&frames) && start.elapsed() < Duration::from_secs(20) {
        let now = Time(u64::try_from(start.elapsed().as_nanos()).unwrap());
        port.receive(now, pool, &mut burst).unwrap();
        while let Some(frame) = burst.pop() {
            frames.push(pool.bytes(&frame).to_vec());
            pool.free(frame);
        }
    }
    frames
}

/// Payload of an UDP datagram over IPv4, if the frame is one.
pub(crate) fn payload(frame: &[u8]) -> Option<&[u8]> {
    (frame.get(12..14)? == [8, 0] && frame.get(23) == Some(&17)).then(|| frame.get(42..))?
}

/// The sum of RFC 1071.
pub(crate) fn fold(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// UDP from 10.9.0.1 to 10.9.0.2 without a UDP checksum.
pub(crate) fn udp_frame(from: Mac, to: Mac, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    frame.extend([8, 0]);
    let total = u16::try_from(28 + payload.len()).unwrap().to_be_bytes();
    let mut ip = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 17, 0, 0];
    ip.extend([10, 9, 0, 1, 10, 9, 0, 2]);
    let sum = (!fold(&ip)).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    frame.extend(ip);
    frame.extend([0x30, 0x39]);
    frame.extend(port.to_be_bytes());
    frame.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

pub(crate) fn send_one(port: &mut AfXdp, pool: &mut Pool, bytes: &[u8]) {
    let mut burst = Burst::new();
    let mut frame = pool.alloc().unwrap();
    assert!(pool.fill(&mut frame, bytes));
    burst.push(frame).unwrap();
    port.transmit(Time(0), pool, &mut burst).unwrap();
    assert!(burst.is_empty());
}
