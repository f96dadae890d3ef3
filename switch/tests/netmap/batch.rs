//! How many syncs frames cost: counted, so that no clock decides.

use super::{Machine, Slots, frame};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use usnet_switch::classify::Mac;
use usnet_switch::port::netmap::double::{Double, MachineSpec, Medium};
use usnet_switch::port::netmap::{Control, Device, Direction, Kernel, Netmap, NetmapSpec};
use usnet_switch::port::{BURST, Port};
use usnet_switch::time::Time;

/// The double, with syncs counted: transmit, receive.
#[derive(Clone, Debug)]
struct Counting(Double, Arc<[AtomicU32; 2]>);

#[derive(Debug)]
struct CountingDevice(Box<dyn Device>, Arc<[AtomicU32; 2]>);

impl Kernel for Counting {
    fn open(&self) -> io::Result<Box<dyn Device>> {
        Ok(Box::new(CountingDevice(self.0.open()?, Arc::clone(&self.1))))
    }
}

impl Device for CountingDevice {
    fn control(&self, name: &str, request: Control<'_>) -> io::Result<()> {
        self.0.control(name, request)
    }

    fn sync(&self, direction: Direction) -> io::Result<()> {
        let index = usize::from(direction == Direction::Receive);
        self.1[index].fetch_add(1, Ordering::Relaxed);
        self.0.sync(direction)
    }

    fn memory(&self) -> BorrowedFd<'_> {
        self.0.memory()
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.0.readiness()
    }
}

struct Counted {
    machine: Machine,
    kernel: Counting,
    slots: Slots,
}

impl Counted {
    fn new(ring: u32) -> Self {
        let machine = Machine::with(MachineSpec::default(), |spec| {
            (spec.tx_slots, spec.rx_slots) = (ring, ring);
        });
        let kernel = Counting(machine.double.clone(), Arc::default());
        Self { machine, kernel, slots: Slots::new() }
    }

    fn spec(name: &str) -> NetmapSpec {
        NetmapSpec { name: name.parse().unwrap(), mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500 }
    }

    fn open(&self, name: &str) -> Netmap {
        Netmap::open(&self.kernel, &Self::spec(name), None).unwrap()
    }

    /// Syncs since the last call: transmit, receive.
    fn syncs(&self) -> (u32, u32) {
        let [transmit, receive] = &*self.kernel.1;
        (transmit.swap(0, Ordering::Relaxed), receive.swap(0, Ordering::Relaxed))
    }

    /// Takes what the wire has.
    fn empty(&mut self) {
        while self.machine.wire.receive(&mut [0; 2048]).is_some() {}
    }

    /// One round of a switch: receive, then send so many frames.
    fn round(&mut self, port: &mut Netmap, frames: usize) {
        self.slots.receive(port);
        if frames > 0 {
            let mut burst = self.slots.burst(&vec![frame(1, 60); frames]);
            port.transmit(Time(0), &mut self.slots.pool, &mut burst).unwrap();
            assert!(burst.is_empty());
        }
    }
}

#[test]
fn a_frame_that_comes_alone_is_sent_at_once() {
    let mut it = Counted::new(1024);
    let mut port = it.open("netmap:eth0");
    for frames in [1, 2, BURST - 1] {
        it.syncs();
        it.round(&mut port, frames);
        assert_eq!((it.syncs().0, it.machine.wire.len()), (1, frames), "{frames} frames");
        it.empty();
    }
    assert_eq!(port.next_event(), None);
}

#[test]
fn full_bursts_share_a_sync() {
    let mut it = Counted::new(1024);
    let mut port = it.open("netmap:eth0");
    it.syncs();
    for _ in 0..16 {
        it.round(&mut port, BURST);
        it.empty();
    }
    assert_eq!(it.syncs().0, 4, "for 1,024 frames");
    // The last of a train goes with it.
    it.round(&mut port, BURST);
    it.round(&mut port, 1);
    assert_eq!((it.syncs().0, it.machine.wire.len()), (1, BURST + 1));
    // In a short ring less is kept.
    let mut it = Counted::new(128);
    let mut port = it.open("netmap:eth0");
    it.syncs();
    it.round(&mut port, BURST);
    assert_eq!((it.syncs().0, it.machine.wire.len()), (1, BURST));
}

#[test]
fn a_full_burst_that_nothing_follows_leaves_in_the_second_round() {
    let mut it = Counted::new(1024);
    let mut port = it.open("netmap:eth0");
    it.round(&mut port, BURST);
    assert_eq!((it.machine.wire.len(), port.next_event()), (0, Some(Time(0))), "it asks for them");
    it.round(&mut port, 0);
    it.round(&mut port, 0);
    assert_eq!((it.machine.wire.len(), port.next_event()), (BURST, None));
}

#[test]
fn one_sync_receives_what_half_a_ring_holds_and_slots_come_back_in_time() {
    let mut it = Counted::new(1024);
    let mut port = it.open("netmap:eth0");
    it.slots.receive(&mut port);
    it.syncs();
    for _ in 0..1023 {
        assert!(it.machine.wire.send(&frame(1, 60)));
    }
    for _ in 0..16 {
        it.slots.receive(&mut port);
    }
    assert_eq!(port.counters().received, 1023);
    // Once for all of them, once when half of the ring could go back.
    assert_eq!(it.syncs().1, 2);
    it.slots.receive(&mut port);
    assert_eq!(it.syncs().1, 1, "empty: it asks");
}

#[test]
fn the_halves_of_a_descriptor_share_their_syncs() {
    let mut it = Counted::new(64);
    let (mut card, mut host) =
        Netmap::open_both(&it.kernel, &Counted::spec("netmap:eth0*"), None).unwrap();
    it.syncs();
    assert!(it.machine.wire.send(&frame(1, 60)) && it.machine.host.send(&frame(2, 60)));
    assert_eq!(it.slots.receive(&mut card).len(), 1);
    assert_eq!(it.slots.receive(&mut host)[0].1, frame(2, 60));
    assert_eq!(it.syncs().1, 1);
}
