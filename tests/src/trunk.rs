//! The other host's stack in VLANs, where its kernel may have none of its own: a TAP device for each, whose frames a
//! thread tags and untags. It is no part of usnetd, and does it the plainest way.
//!
//! ```text
//!   kernel <--> v42 <--+
//!   kernel <--> v43 <--+-- tags --> packet socket on cl0 --> usnetd
//! ```

use crate::lab::{Lab, set_up_host};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::pool::Pool;
use usnet_shmring::region::Writer;
use usnet_switch::net::Netlink;
use usnet_switch::port::af_packet::{AfPacket, AfPacketSpec, RingVersion};
use usnet_switch::port::tap::{Header, Tap, TapSpec};
use usnet_switch::port::{Burst, Port};
use usnet_switch::time::Time;

/// Frames that arrived, by what is behind their link addresses.
pub type Arrived = BTreeMap<Tag, u64>;

/// What a frame has behind its link addresses: the identifier of a tag, or none.
pub type Tag = Option<u16>;

/// A running stack in VLANs.
#[derive(Debug)]
pub struct Trunk {
    stop: Arc<AtomicBool>,
    arrived: Arc<Mutex<Arrived>>,
    /// Frames to be sent as they are.
    raw: Sender<Vec<u8>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Trunk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Ports {
    wire: AfPacket,
    taps: Vec<(u16, Tap)>,
    pool: Pool,
}

impl Trunk {
    /// The other host of a lab, on interface `cl0`, with these addresses in these VLANs.
    ///
    /// # Panics
    /// If a device cannot be made.
    #[must_use]
    pub fn open(lab: &Lab, vlans: &[(u16, [&str; 2])]) -> Self {
        let open = || {
            let link = Netlink::open().and_then(|mut netlink| netlink.link("cl0")).expect("cl0");
            let mtu = u16::try_from(link.mtu).expect("an MTU");
            let spec = AfPacketSpec {
                name: link.name,
                index: link.index,
                mac: link.mac,
                mtu,
                ring: RingVersion::V2,
                frames: 1024,
                promiscuous: false,
                bypass_qdisc: false,
            };
            let wire = AfPacket::open(&spec).expect("a packet socket");
            let tap = |(id, addresses): &(u16, [&str; 2])| {
                let name = format!("v{id}");
                // Frames as on the wire, and the link address of the port that they leave by.
                let spec = TapSpec { name, mac: link.mac, mtu, header: Header::None };
                let tap = Tap::open(&spec).expect("a TAP device");
                set_up_host(tap.name(), *addresses).expect("an interface");
                (*id, tap)
            };
            (wire, vlans.iter().map(tap).collect::<Vec<_>>())
        };
        let (wire, taps) = lab.outside.run(open).expect("a namespace");
        let arena = Arena::reserve(4096, SlotSize::DEFAULT).expect("address space");
        let segment = arena.add_segment("trunk", Writer::Daemon, 4096, false).expect("memory");
        let pool = Pool::new(SlotRange::whole(segment)).expect("a pool");
        let (stop, arrived) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Arrived>>::default());
        let (raw, queue) = channel();
        let (until, counts) = (Arc::clone(&stop), Arc::clone(&arrived));
        let ports = Ports { wire, taps, pool };
        let thread = std::thread::spawn(move || carry(ports, &queue, &until, &counts));
        Self { stop, arrived, raw, thread: Some(thread) }
    }

    /// How many frames have arrived.
    #[must_use]
    pub fn arrived(&self) -> Arrived {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a frame as it is.
    ///
    /// # Panics
    /// If the thread is gone.
    pub fn send(&self, frame: &[u8]) {
        self.raw.send(frame.to_vec()).expect("the thread runs");
    }
}

/// The identifier of a frame's tag.
fn tag_of(frame: &[u8]) -> Tag {
    match frame.get(12..16)? {
        [0x81, 0, high, low] => Some(u16::from_be_bytes([*high, *low]) & 0x0fff),
        _ => None,
    }
}

fn carry(ports: Ports, raw: &Receiver<Vec<u8>>, until: &AtomicBool, arrived: &Mutex<Arrived>) {
    let Ports { mut wire, mut taps, mut pool } = ports;
    let start = Instant::now();
    let mut burst = Burst::new();
    while !until.load(Ordering::Relaxed) {
        let now = Time(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let mut moved = 0;
        wire.receive(now, &mut pool, &mut burst).expect("cl0 is there");
        for frame in take(&mut pool, &mut burst) {
            moved += 1;
            let tag = tag_of(&frame);
            let mut counts = arrived.lock().unwrap_or_else(PoisonError::into_inner);
            *counts.entry(tag).or_default() += 1;
            drop(counts);
            if let Some((_, tap)) = taps.iter_mut().find(|(id, _)| Some(*id) == tag) {
                let bare = [&frame[..12], &frame[16..]].concat();
                give(tap, &mut pool, now, &[bare]);
            }
        }
        for (id, tap) in &mut taps {
            tap.receive(now, &mut pool, &mut burst).expect("the device is there");
            let frames: Vec<Vec<u8>> = take(&mut pool, &mut burst)
                .iter()
                .map(|frame| {
                    [&frame[..12], &[0x81, 0], &id.to_be_bytes()[..], &frame[12..]].concat()
                })
                .collect();
            moved += frames.len();
            give(&mut wire, &mut pool, now, &frames);
        }
        let frames: Vec<Vec<u8>> = raw.try_iter().collect();
        moved += frames.len();
        give(&mut wire, &mut pool, now, &frames);
        if moved == 0 {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    wire.close(&mut pool);
    taps.iter_mut().for_each(|(_, tap)| tap.close(&mut pool));
}

/// The bytes of all frames, whose slots are free then.
fn take(pool: &mut Pool, burst: &mut Burst) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some(frame) = burst.pop() {
        frames.push(pool.bytes(&frame).to_vec());
        pool.free(frame);
    }
    frames
}

/// Sends frames; waits for room.
fn give(port: &mut dyn Port, pool: &mut Pool, now: Time, frames: &[Vec<u8>]) {
    for bytes in frames {
        let mut burst = Burst::new();
        let mut frame = pool.alloc().expect("a slot");
        assert!(pool.fill(&mut frame, bytes), "{} bytes", bytes.len());
        let _ = burst.push(frame);
        let end = Instant::now() + Duration::from_millis(100);
        while !burst.is_empty() && Instant::now() < end {
            port.transmit(now, pool, &mut burst).expect("the port is there");
        }
        burst.clear(pool);
    }
}
