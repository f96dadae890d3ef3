//! The port over netmap, on the double: what is handed on, what is checked, what comes back.

#![allow(clippy::cast_possible_truncation, reason = "frames are made of small numbers")]

mod batch;
mod monitor;
mod rings;

use proptest::collection::vec;
use proptest::prelude::*;
use rustix::io::Errno;
use std::sync::Arc;
use usnet_shmring::arena::{Arena, Segment, SlotRange, SlotSize};
use usnet_shmring::pool::Pool;
use usnet_shmring::region::Writer;
use usnet_switch::classify::Mac;
use usnet_switch::port::netmap::abi::{Register, mode};
use usnet_switch::port::netmap::double::{
    Double, GLOBAL_REGION, MachineSpec, Medium, NicSpec, Pools, QueueMedium, Quirk, queue_pair,
};
use usnet_switch::port::netmap::{Bank, Control, Direction, Kernel, Netmap, NetmapSpec};
use usnet_switch::port::{Burst, Port};
use usnet_switch::time::Time;

const SLOTS: u32 = 1024;
const RING: u32 = 32;

/// A machine with one card, whose wire and whose host's stack are queues here.
struct Machine {
    double: Double,
    wire: QueueMedium,
    host: QueueMedium,
}

impl Machine {
    fn with(spec: MachineSpec, change: impl FnOnce(&mut NicSpec)) -> Self {
        let double = Double::with(spec).unwrap();
        let (wire, card_wire) = queue_pair(2048).unwrap();
        let (host, card_host) = queue_pair(2048).unwrap();
        let mut spec = NicSpec::new("eth0", Box::new(card_wire)).with_host(Box::new(card_host));
        (spec.tx_slots, spec.rx_slots) = (RING, RING);
        change(&mut spec);
        double.add_nic(spec).unwrap();
        Self { double, wire, host }
    }

    fn new() -> Self {
        Self::with(MachineSpec::default(), |_| {})
    }
}

/// The daemon's memory: netmap's objects, the ports' slots.
struct Slots {
    pool: Pool,
    objects: SlotRange,
    port: Arc<Segment>,
}

impl Slots {
    fn of(size: SlotSize) -> Self {
        let arena = Arena::reserve(4 * SLOTS, size).unwrap();
        let add = |name| arena.add_segment(name, Writer::Daemon, SLOTS, false).unwrap();
        let (objects, port) = (SlotRange::whole(add("objects")), SlotRange::whole(add("port")));
        let segment = Arc::clone(port.segment());
        Self { pool: Pool::new(port).unwrap(), objects, port: segment }
    }

    fn new() -> Self {
        Self::of(SlotSize::DEFAULT)
    }

    fn bank(&mut self, double: &Double) -> Arc<Bank> {
        Bank::open(
            double,
            &self.objects,
            &self.port,
            core::slice::from_mut(&mut self.pool),
            4 * RING,
        )
        .unwrap()
    }

    fn burst(&mut self, frames: &[Vec<u8>]) -> Burst {
        let mut burst = Burst::new();
        for bytes in frames {
            let mut frame = self.pool.alloc().unwrap();
            assert!(self.pool.fill(&mut frame, bytes));
            burst.push(frame).unwrap();
        }
        burst
    }

    fn receive(&mut self, port: &mut Netmap) -> Vec<(u32, Vec<u8>)> {
        let mut burst = Burst::new();
        port.receive(Time(0), &mut self.pool, &mut burst).unwrap();
        let mut frames = Vec::new();
        while let Some(frame) = burst.pop() {
            frames.push((frame.slot(), self.pool.bytes(&frame).to_vec()));
            self.pool.free(frame);
        }
        frames
    }
}

fn open(
    double: &Double,
    name: &str,
    mtu: u16,
    bank: Option<&Arc<Bank>>,
) -> std::io::Result<Netmap> {
    let spec = NetmapSpec { name: name.parse().unwrap(), mac: Mac([2, 0, 0, 0, 0, 1]), mtu };
    Netmap::open(double, &spec, bank)
}

fn frame(number: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| number.wrapping_mul(31).wrapping_add(at as u8)).collect()
}

#[test]
fn a_received_buffer_is_the_slot_that_is_handed_on() {
    let mut machine = Machine::new();
    let mut slots = Slots::new();
    let bank = slots.bank(&machine.double);
    let mut port = open(&machine.double, "netmap:eth0", 1500, Some(&bank)).unwrap();
    let mut seen = Vec::new();
    for lap in 0..4 {
        for number in 0..20 {
            assert!(machine.wire.send(&frame(lap * 20 + number, 100)));
        }
        let got = slots.receive(&mut port);
        let expected: Vec<_> = (0..20).map(|n| frame(lap * 20 + n, 100)).collect();
        assert_eq!(got.iter().map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>(), expected);
        seen.extend(got.into_iter().map(|(slot, _)| slot));
    }
    // In the first lap these are the slots that were in the ring from the beginning.
    let first: std::collections::BTreeSet<u32> =
        seen[..RING as usize - 1].iter().copied().collect();
    assert_eq!(first.len(), RING as usize - 1, "each another");
    let free = slots.pool.claim(|_| true);
    assert!(free.iter().filter(|f| first.contains(&f.slot())).count() > 0, "and they are free now");
    for frame in free {
        slots.pool.free(frame);
    }
}

#[test]
fn what_the_kernel_sends_and_receives_goes_through_the_host_rings() {
    let mut machine = Machine::new();
    let mut slots = Slots::new();
    let bank = slots.bank(&machine.double);
    let mut nic = open(&machine.double, "netmap:eth0", 1500, Some(&bank)).unwrap();
    let mut host = open(&machine.double, "netmap:eth0^", 1500, Some(&bank)).unwrap();
    assert!(machine.host.send(&frame(1, 80)) && machine.wire.send(&frame(2, 90)));
    let (from_kernel, from_wire) = (slots.receive(&mut host), slots.receive(&mut nic));
    assert_eq!((&from_kernel[0].1, &from_wire[0].1), (&frame(1, 80), &frame(2, 90)));
    for (port, medium, number) in
        [(&mut host, &mut machine.host, 3), (&mut nic, &mut machine.wire, 4)]
    {
        let mut burst = slots.burst(&[frame(number, 70)]);
        port.transmit(Time(0), &mut slots.pool, &mut burst).unwrap();
        let mut bytes = [0; 2048];
        let length = medium.receive(&mut bytes).expect("a frame");
        assert_eq!(bytes[..length], frame(number, 70));
    }
}

#[test]
fn the_kernels_own_path_is_back_when_the_port_is_closed() {
    let mut machine = Machine::new();
    let port = open(&machine.double, "netmap:eth0", 1500, None).unwrap();
    assert!(machine.double.is_open("eth0"));
    drop(port);
    assert!(!machine.double.is_open("eth0"));
    assert!(machine.wire.send(&frame(1, 60)));
    machine.double.pump();
    let mut bytes = [0; 2048];
    assert_eq!(machine.host.receive(&mut bytes), Some(60));
}

#[test]
fn a_thousand_times_opened_and_closed_no_buffer_is_lost() {
    let machine = Machine::new();
    let mut slots = Slots::new();
    let bank = slots.bank(&machine.double);
    let (free, kept) = (slots.pool.free_slots(), bank.kept());
    let id = bank.memory_id();
    for turn in 0..1000u32 {
        let bank = (turn % 2 == 0).then_some(&bank);
        let mut nic = open(&machine.double, "netmap:eth0", 1500, bank).unwrap();
        let mut host = open(&machine.double, "netmap:eth0^", 1500, bank).unwrap();
        // Buffers change places in between.
        let mut machine_wire = slots.burst(&[frame(1, 60), frame(2, 60), frame(3, 60)]);
        nic.transmit(Time(0), &mut slots.pool, &mut machine_wire).unwrap();
        slots.receive(&mut host);
        for mut port in [nic, host] {
            port.close(&mut slots.pool);
        }
        assert_eq!(bank.map_or(kept, |bank| bank.kept()), kept, "turn {turn}");
        assert_eq!(slots.pool.free_slots(), free, "turn {turn}");
    }
    for region in [id, GLOBAL_REGION] {
        let (leaks, twice) = (machine.double.leaks(region), machine.double.double_frees(region));
        assert_eq!((leaks, twice), (0, 0), "region {region}");
    }
}

#[test]
fn a_region_that_nobody_uses_any_more_goes_without_a_word_in_slots_of_the_pool() {
    let machine = Machine::new();
    let mut slots = Slots::new();
    let bank = slots.bank(&machine.double);
    let port = open(&machine.double, "netmap:eth0", 1500, Some(&bank)).unwrap();
    // What clients hold when the last card goes.
    let mut burst = slots.burst(&(0..60).map(|n| frame(n, 100)).collect::<Vec<_>>());
    let id = bank.memory_id();
    drop((port, bank));
    for number in 0..60 {
        let held = burst.pop().unwrap();
        assert_eq!(slots.pool.bytes(&held).to_vec(), frame(number, 100));
        slots.pool.free(held);
    }
    let region = machine.double.region(id).unwrap();
    assert_eq!((region.users, machine.double.double_frees(id)), (0, 0));
}

#[test]
fn a_card_behind_an_iommu_is_never_asked_to_take_the_daemons_memory() {
    let mut machine = Machine::with(MachineSpec::default(), |spec| spec.iommu_group = Some(4));
    let mut slots = Slots::new();
    let bank = slots.bank(&machine.double);
    for _ in 0..2 {
        let mut nic = open(&machine.double, "netmap:eth0", 1500, Some(&bank)).unwrap();
        let host = open(&machine.double, "netmap:eth0^", 1500, Some(&bank)).unwrap();
        assert!(!nic.swaps() && !host.swaps());
        assert!(machine.wire.send(&frame(1, 100)));
        assert_eq!(slots.receive(&mut nic).pop().unwrap().1, frame(1, 100));
    }
}

#[test]
fn a_removed_interface_ends_its_port_alone() {
    let machine = Machine::new();
    let (_, other) = queue_pair(16).unwrap();
    machine.double.add_nic(NicSpec::new("eth1", Box::new(other))).unwrap();
    let mut slots = Slots::new();
    let mut gone = open(&machine.double, "netmap:eth0", 1500, None).unwrap();
    let mut stays = open(&machine.double, "netmap:eth1", 1500, None).unwrap();
    machine.double.remove("eth0").unwrap();
    let mut burst = Burst::new();
    let error = gone.receive(Time(0), &mut slots.pool, &mut burst).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::IO));
    assert_eq!(stays.receive(Time(0), &mut slots.pool, &mut burst).unwrap(), 0);
}

#[test]
fn without_external_memory_the_module_says_so_and_frames_are_copied() {
    let mut machine =
        Machine::with(MachineSpec { extmem: false, ..MachineSpec::default() }, |_| {});
    let mut slots = Slots::new();
    let free = slots.pool.free_slots();
    let refused = Bank::open(
        &machine.double,
        &slots.objects,
        &slots.port,
        core::slice::from_mut(&mut slots.pool),
        4 * RING,
    );
    assert_eq!(Errno::from_io_error(&refused.unwrap_err()), Some(Errno::OPNOTSUPP));
    assert_eq!(slots.pool.free_slots(), free, "the pool is as it was");
    let mut port = open(&machine.double, "netmap:eth0", 1500, None).unwrap();
    assert!(!port.swaps());
    assert!(machine.wire.send(&frame(1, 60)));
    assert_eq!(slots.receive(&mut port)[0].1, frame(1, 60));
}

#[test]
fn an_mtu_longer_than_a_buffer_is_refused_with_the_way_out() {
    let machine = Machine::new();
    let error = open(&machine.double, "netmap:eth0", 9000, None).unwrap_err().to_string();
    assert!(error.contains("9000") && error.contains("2048") && error.contains("buf_size=16384"));
}

#[test]
fn a_packet_in_several_buffers_is_put_together() {
    let pools = Pools { buffer_size: 1024, ..Pools::default() };
    let mut machine = Machine::with(MachineSpec { pools, ..MachineSpec::default() }, |spec| {
        spec.quirks = vec![Quirk::Generic];
        spec.mtu = 900;
    });
    let mut slots = Slots::of(SlotSize::new(4096).unwrap());
    let mut port = open(&machine.double, "netmap:eth0", 900, None).unwrap();
    for length in [1024, 1025, 3000, 60] {
        assert!(machine.wire.send(&frame(7, length)));
        let got = slots.receive(&mut port);
        assert_eq!(got.len(), 1, "{length} bytes");
        assert_eq!(got[0].1, frame(7, length));
    }
    // One that no slot has room for is skipped as a whole.
    assert!(machine.wire.send(&frame(7, 6000)) && machine.wire.send(&frame(8, 60)));
    assert_eq!(slots.receive(&mut port)[0].1, frame(8, 60));
    assert_eq!(port.counters().receive_errors, 1);
}

#[test]
fn what_a_peer_writes_into_the_slots_of_a_pipe_is_checked() {
    let machine = Machine::new();
    let mut slots = Slots::new();
    let mut ours = open(&machine.double, "netmap:x{1", 1500, None).unwrap();
    // The peer does without the port's code and without its manners.
    let device = machine.double.open().unwrap();
    let mut body = Register { mode: mode::ALL_NIC, ..Register::default() };
    device
        .control("x}1", Control::Register { body: &mut body, extmem: None, offsets: None })
        .unwrap();
    let memory = device.memory();
    let write = |at: u64, bytes: &[u8]| {
        assert_eq!(rustix::io::pwrite(memory, bytes, at), Ok(bytes.len()));
    };
    let mut entry = [0; 8];
    rustix::io::pread(memory, &mut entry, body.offset + 56).unwrap();
    let ring = body.offset.checked_add_signed(i64::from_ne_bytes(entry)).unwrap();
    let mut head = 0u32;
    for (buffer, length) in
        [(99_999_999u32, 60u16), (0, 60), (1, 60), (u32::MAX, 60), (7, 5000), (7, 0), (7, 13)]
    {
        let slot = ring + 256 + u64::from(head) * 16;
        let mut before = [0; 8];
        rustix::io::pread(memory, &mut before, slot).unwrap();
        let own = u32::from_ne_bytes([before[0], before[1], before[2], before[3]]);
        let buffer = if buffer == 7 { own } else { buffer };
        write(slot, &buffer.to_ne_bytes());
        write(slot + 4, &length.to_ne_bytes());
        head += 1;
        for field in [20, 24] {
            write(ring + field, &head.to_ne_bytes());
        }
        device.sync(Direction::Transmit).unwrap();
        assert_eq!(slots.receive(&mut ours), [], "buffer {buffer}, {length} bytes");
    }
    assert_eq!(ours.counters().receive_errors, 7);
    let (audit, total) = slots.pool.audit();
    assert_eq!((audit.free, audit.total()), (SLOTS, total));
}

/// A card and its host rings, opened and closed at any time, with frames on their way between them.
struct World {
    machine: Machine,
    slots: Slots,
    bank: Arc<Bank>,
    nic: Option<Netmap>,
    host: Option<Netmap>,
    /// Frames for the host, and for the wire.
    inwards: Burst,
    outwards: Burst,
    sent: u32,
}

/// A frame that says who it is in every byte.
fn numbered(number: u32) -> Vec<u8> {
    let mut bytes = frame(number as u8, 60 + number as usize % 200);
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

impl World {
    fn new() -> Self {
        let machine = Machine::with(MachineSpec::default(), |spec| {
            spec.quirks = vec![Quirk::NeedsBufChanged];
        });
        let mut slots = Slots::new();
        let bank = slots.bank(&machine.double);
        let (inwards, outwards) = (Burst::new(), Burst::new());
        Self { machine, slots, bank, nic: None, host: None, inwards, outwards, sent: 0 }
    }

    fn operate(&mut self, what: u8, count: u8) {
        let Self { machine, slots, bank, nic, host, inwards, outwards, sent } = self;
        let reopen = |port: &mut Option<Netmap>, pool: &mut Pool, name: &str| {
            *port = match port.take() {
                Some(mut port) => {
                    port.close(pool);
                    None
                }
                None => Some(open(&machine.double, name, 1500, Some(bank)).unwrap()),
            };
        };
        match what % 8 {
            0 | 1 => {
                let medium =
                    if what.is_multiple_of(8) { &mut machine.wire } else { &mut machine.host };
                for _ in 0..count % 40 {
                    *sent += u32::from(medium.send(&numbered(*sent)));
                }
            }
            2 => {
                for (port, burst) in [(nic, inwards), (host, outwards)] {
                    if let Some(port) = port {
                        port.receive(Time(0), &mut slots.pool, burst).unwrap();
                    }
                }
            }
            3 => {
                for (port, burst) in [(host, inwards), (nic, outwards)] {
                    if let Some(port) = port {
                        port.transmit(Time(0), &mut slots.pool, burst).unwrap();
                    }
                }
            }
            4 => reopen(nic, &mut slots.pool, "netmap:eth0"),
            5 => reopen(host, &mut slots.pool, "netmap:eth0^"),
            6 => {
                for burst in [inwards, outwards] {
                    for frame in (0..count % 8).filter_map(|_| burst.pop()) {
                        slots.pool.free(frame);
                    }
                }
            }
            _ => {
                machine.double.pump();
                let mut bytes = [0; 2048];
                for medium in [&mut machine.wire, &mut machine.host] {
                    while let Some(length) = medium.receive(&mut bytes) {
                        let number = u32::from_be_bytes(*bytes.first_chunk().unwrap());
                        assert_eq!(bytes[..length], numbered(number), "frame {number}");
                    }
                }
            }
        }
    }

    fn check(&self) {
        let open = u32::from(self.nic.is_some()) + u32::from(self.host.is_some());
        let bursts = self.inwards.len() + self.outwards.len();
        let held = bursts + self.bank.kept() + (open * 2 * RING) as usize;
        assert_eq!(self.slots.pool.free_slots() + held, SLOTS as usize);
        let (audit, total) = self.slots.pool.audit();
        assert_eq!((audit.total(), audit.free as usize), (total, self.slots.pool.free_slots()));
    }

    fn end(self) {
        let Self { machine, mut slots, bank, nic, host, mut inwards, mut outwards, .. } = self;
        for mut port in [nic, host].into_iter().flatten() {
            port.close(&mut slots.pool);
        }
        inwards.clear(&mut slots.pool);
        outwards.clear(&mut slots.pool);
        assert_eq!(slots.pool.free_slots() + bank.kept(), SLOTS as usize);
        let id = bank.memory_id();
        assert_eq!((machine.double.leaks(id), machine.double.double_frees(id)), (0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn swapped_buffers_are_conserved_whatever_is_opened_moved_and_closed(
        program in vec((any::<u8>(), any::<u8>()), 0..300),
    ) {
        let mut world = World::new();
        // Open from the beginning, or most programs would move nothing.
        world.operate(4, 0);
        world.operate(5, 0);
        for (what, count) in program {
            world.operate(what, count);
            world.check();
        }
        world.end();
    }
}
