//! The double of netmap behaves as the kernel module was seen to behave. Driven through the seam
//! alone, with offsets written out by hand; a region is read and written through its descriptor.

use core::time::Duration;
use memmap2::{MmapOptions, MmapRaw};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use usnet_switch::port::netmap::abi::{ExtMem, PoolsInfo, PortInfo, Register, flag, mode};
use usnet_switch::port::netmap::double::{
    Completion, Double, Generator, MachineSpec, Medium, NicSpec, Overflow, Pools, QueueMedium,
    Quirk, VethSpec, queue_pair,
};
use usnet_switch::port::netmap::{Control, Device, Direction, Kernel};

const BUF_CHANGED: u16 = 1;
const MOREFRAG: u16 = 0x20;

/// A bound device, and its region as bytes of a file.
struct Port {
    device: Box<dyn Device>,
    body: Register,
    file: OwnedFd,
}

fn register(double: &Double, name: &str, mut body: Register) -> Result<Port, Errno> {
    let device = double.open().unwrap();
    let request = Control::Register { body: &mut body, extmem: None };
    device.control(name, request).map_err(|error| errno(&error))?;
    let file = device.memory().try_clone_to_owned().unwrap();
    Ok(Port { device, body, file })
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap()
}

fn open(double: &Double, name: &str, mode: u32) -> Port {
    register(double, name, Register { mode, ..Register::default() }).unwrap()
}

/// One ring of a port, by where it lies.
#[derive(Clone, Copy)]
struct Ring {
    at: u64,
}

impl Port {
    fn bytes<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        assert_eq!(rustix::io::pread(&self.file, &mut bytes, at), Ok(N));
        bytes
    }

    fn word(&self, at: u64) -> u32 {
        u32::from_ne_bytes(self.bytes(at))
    }

    fn set_word(&self, at: u64, value: u32) {
        assert_eq!(rustix::io::pwrite(&self.file, &value.to_ne_bytes(), at), Ok(4));
    }

    /// The table's entry, relative to the port's description.
    fn entry(&self, number: u64) -> i64 {
        i64::from_ne_bytes(self.bytes(self.body.offset + 56 + number * 8))
    }

    fn ring(&self, number: u64) -> Ring {
        let offset = self.entry(number);
        assert_ne!(offset, 0, "ring {number} is not bound");
        Ring { at: self.body.offset.checked_add_signed(offset).unwrap() }
    }

    fn positions(&self, ring: Ring) -> (u32, u32, u32) {
        (self.word(ring.at + 20), self.word(ring.at + 24), self.word(ring.at + 28))
    }

    /// Moves head and cur.
    fn advance(&self, ring: Ring, head: u32) {
        self.set_word(ring.at + 20, head);
        self.set_word(ring.at + 24, head);
    }

    /// Buffer, length, flags.
    fn slot(&self, ring: Ring, number: u64) -> (u32, u16, u16) {
        let at = ring.at + 256 + number * 16;
        (self.word(at), self.short(at + 4), self.short(at + 6))
    }

    fn short(&self, at: u64) -> u16 {
        u16::from_ne_bytes(self.bytes(at))
    }

    fn set_slot(&self, ring: Ring, number: u64, buffer: u32, length: u16, flags: u16) {
        let at = ring.at + 256 + number * 16;
        self.set_word(at, buffer);
        assert_eq!(rustix::io::pwrite(&self.file, &length.to_ne_bytes(), at + 4), Ok(2));
        assert_eq!(rustix::io::pwrite(&self.file, &flags.to_ne_bytes(), at + 6), Ok(2));
    }

    fn buffer_at(&self, ring: Ring, buffer: u32) -> u64 {
        let offset = i64::from_ne_bytes(self.bytes(ring.at));
        ring.at.checked_add_signed(offset).unwrap() + u64::from(buffer) * 2048
    }

    fn frame(&self, ring: Ring, number: u64) -> Vec<u8> {
        let (buffer, length, _) = self.slot(ring, number);
        let mut bytes = vec![0; usize::from(length)];
        let at = self.buffer_at(ring, buffer);
        assert_eq!(rustix::io::pread(&self.file, &mut bytes, at), Ok(bytes.len()));
        bytes
    }

    fn put(&self, ring: Ring, number: u64, frame: &[u8], flags: u16) {
        let (buffer, _, _) = self.slot(ring, number);
        let at = self.buffer_at(ring, buffer);
        assert_eq!(rustix::io::pwrite(&self.file, frame, at), Ok(frame.len()));
        self.set_slot(ring, number, buffer, u16::try_from(frame.len()).unwrap(), flags);
    }

    fn sync(&self, direction: Direction) {
        self.device.sync(direction).unwrap();
    }

    fn is_ready(&self) -> bool {
        is_readable(self.device.readiness())
    }
}

fn is_readable(descriptor: BorrowedFd<'_>) -> bool {
    let mut poll = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    rustix::event::poll(&mut poll, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
}

fn frame(tag: u8) -> Vec<u8> {
    vec![tag; 60]
}

fn next(medium: &mut QueueMedium) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 4096];
    let length = medium.receive(&mut bytes)?;
    bytes.truncate(length);
    Some(bytes)
}

/// A machine with one interface, and the far ends of its wire and of its host.
fn machine(change: impl FnOnce(&mut NicSpec)) -> (Double, QueueMedium, QueueMedium) {
    let double = Double::new().unwrap();
    let (wire, far) = queue_pair(1024).unwrap();
    let (host, stack) = queue_pair(1024).unwrap();
    let mut spec = NicSpec::new("eth0", Box::new(wire)).with_host(Box::new(host));
    change(&mut spec);
    double.add_nic(spec).unwrap();
    (double, far, stack)
}

#[test]
fn the_table_names_bound_rings_and_has_zero_for_others() {
    let (double, ..) = machine(|spec| (spec.tx_rings, spec.rx_rings) = (2, 2));
    let port = open(&double, "eth0", mode::NIC_SW);
    assert_eq!(&port.bytes::<5>(port.body.offset), b"eth0\0");
    let counts: Vec<u32> =
        [24, 28, 36, 40].map(|at| port.word(port.body.offset + at)).into_iter().collect();
    assert_eq!(counts, [2, 2, 1, 1]);
    for number in 0..6 {
        let ring = port.ring(number);
        assert_eq!(ring.at % 64, 0);
        assert_eq!((port.word(ring.at + 8), port.word(ring.at + 12)), (256, 2048));
        assert_eq!(port.short(ring.at + 18), u16::from(number < 3), "direction");
        assert!(port.slot(ring, 0).0 >= 2, "buffers 0 and 1 are in no slot");
    }
    let (tx, rx) = (port.ring(0), port.ring(3));
    assert_eq!((port.positions(tx), port.positions(rx)), ((0, 0, 255), (0, 0, 0)));
    drop(port);

    let one = register(
        &double,
        "eth0",
        Register { mode: mode::ONE_NIC, ring_id: 1, ..Register::default() },
    )
    .unwrap();
    let bound: Vec<u64> = (0..6).filter(|number| one.entry(*number) != 0).collect();
    assert_eq!(bound, [1, 4]);
    let other = register(
        &double,
        "eth0",
        Register { mode: mode::SW, flags: flag::TX_RINGS_ONLY, ..Register::default() },
    )
    .unwrap();
    let bound: Vec<u64> = (0..6).filter(|number| other.entry(*number) != 0).collect();
    assert_eq!(bound, [2]);
}

#[test]
fn frames_pass_in_both_directions_and_tail_moves_only_in_a_sync() {
    let (double, mut far, _stack) = machine(|_| ());
    let port = open(&double, "eth0", mode::ALL_NIC);
    let (tx, rx) = (port.ring(0), port.ring(2));
    assert!(!port.is_ready());
    assert!(far.send(&frame(7)) && far.send(&frame(8)));
    assert!(port.is_ready());
    assert_eq!(port.positions(rx), (0, 0, 0), "nothing before the sync");
    port.sync(Direction::Receive);
    assert_eq!(port.positions(rx), (0, 0, 2));
    assert_eq!((port.frame(rx, 0), port.frame(rx, 1)), (frame(7), frame(8)));
    assert!(port.is_ready(), "not looked at yet");
    port.advance(rx, 2);
    port.sync(Direction::Receive);
    assert!(!port.is_ready());

    port.put(tx, 0, &frame(9), 0);
    port.advance(tx, 1);
    assert_eq!(next(&mut far), None);
    port.sync(Direction::Transmit);
    assert_eq!(next(&mut far), Some(frame(9)));
    assert_eq!(port.positions(tx), (1, 1, 0));
}

#[test]
fn slots_come_back_a_sync_later_from_a_card_that_lags() {
    let (double, _far, _stack) = machine(|spec| spec.completion = Completion::NextSync);
    let port = open(&double, "eth0", mode::ALL_NIC);
    let tx = port.ring(0);
    port.put(tx, 0, &frame(1), 0);
    port.advance(tx, 1);
    port.sync(Direction::Transmit);
    assert_eq!(port.positions(tx), (1, 1, 255));
    port.sync(Direction::Transmit);
    assert_eq!(port.positions(tx), (1, 1, 0));
}

#[test]
fn a_bad_head_is_met_with_silence_and_taken_for_good_at_the_next_sync() {
    let (double, mut far, _stack) = machine(|spec| spec.completion = Completion::NextSync);
    let port = open(&double, "eth0", mode::ALL_NIC);
    let (tx, rx) = (port.ring(0), port.ring(2));
    for number in 0..10 {
        port.put(tx, number, &frame(1), 0);
    }
    port.advance(tx, 10);
    port.sync(Direction::Transmit);
    while next(&mut far).is_some() {}
    // Back by 3, while no slot has come back: not sent now, and nearly the whole ring at the next
    // sync.
    port.advance(tx, 7);
    port.sync(Direction::Transmit);
    assert_eq!(far.len(), 0);
    port.sync(Direction::Transmit);
    assert_eq!(far.len(), 253);

    // Too far on reception: phantom frames from then on.
    port.advance(rx, 3);
    port.sync(Direction::Receive);
    assert_eq!(port.positions(rx), (3, 3, 0));
    // Beyond the ring: this resets it.
    port.advance(rx, 256);
    port.sync(Direction::Receive);
    assert_eq!(port.positions(rx), (0, 0, 0));
    // A tail that the user wrote is repaired.
    port.set_word(rx.at + 28, 77);
    port.sync(Direction::Receive);
    assert_eq!(port.positions(rx), (0, 0, 0));
}

#[test]
fn a_card_that_needs_the_flag_goes_on_with_the_old_buffer_without_it() {
    let (double, mut far, _stack) = machine(|spec| {
        spec.quirks = vec![Quirk::NeedsBufChanged];
        (spec.rx_slots, spec.tx_slots) = (2, 2);
    });
    let body = Register { mode: mode::ALL_NIC, extra_buffers: 2, ..Register::default() };
    let port = register(&double, "eth0", body).unwrap();
    let (tx, rx) = (port.ring(0), port.ring(2));
    let spare = port.word(port.body.offset + 32);
    // Slot 0 is received, its buffer exchanged and given back; slot 1 brings the ring round.
    let mut lap = |flags, tag: u8| {
        for number in [0, 1] {
            assert!(far.send(&frame(tag)));
            port.sync(Direction::Receive);
            if number == 0 {
                port.set_slot(rx, 0, spare, 60, flags);
            }
            port.advance(rx, 1 - number);
            port.sync(Direction::Receive);
        }
        assert!(far.send(&frame(tag + 1)));
        port.sync(Direction::Receive);
        let seen = port.frame(rx, 0);
        port.advance(rx, 1);
        port.sync(Direction::Receive);
        assert!(far.send(&frame(0)));
        port.sync(Direction::Receive);
        port.advance(rx, 0);
        port.sync(Direction::Receive);
        seen
    };
    assert_ne!(lap(0, 10), frame(11), "stale: the card fills the buffer that was taken away");
    assert_eq!(lap(BUF_CHANGED, 20), frame(21));

    let (old, ..) = port.slot(tx, 0);
    port.put(tx, 0, &frame(1), 0);
    let at = port.buffer_at(tx, spare);
    rustix::io::pwrite(&port.file, &frame(2), at).unwrap();
    port.set_slot(tx, 0, spare, 60, 0);
    port.advance(tx, 1);
    port.sync(Direction::Transmit);
    assert_eq!(next(&mut far), Some(frame(1)), "the buffer {old} that the card knows");
}

#[test]
fn bad_indices_and_lengths_on_transmission_send_junk_without_an_error() {
    let (double, mut far, _stack) = machine(|_| ());
    let port = open(&double, "eth0", mode::ALL_NIC);
    let tx = port.ring(0);
    let (own, ..) = port.slot(tx, 0);
    port.set_slot(tx, 0, 99_999_999, 60, BUF_CHANGED);
    let (second, ..) = port.slot(tx, 1);
    port.set_slot(tx, 1, second, 5000, 0);
    port.advance(tx, 2);
    port.sync(Direction::Transmit);
    assert_eq!(next(&mut far), Some(vec![0; 60]), "buffer 0");
    assert_eq!(next(&mut far).map(|frame| frame.len()), Some(2048));
    port.set_slot(tx, 0, own, 60, BUF_CHANGED);
}

#[test]
fn pipes_hand_over_slots_unchecked_and_share_a_region_of_their_own() {
    let double = Double::new().unwrap();
    let (a, b) = (open(&double, "x{1", mode::PIPE_MASTER), open(&double, "x}1", mode::ALL_NIC));
    assert_eq!(a.body.memory_id, b.body.memory_id);
    assert_ne!(a.body.memory_id, 1);
    assert_eq!((a.body.host_tx_rings, a.word(a.body.offset + 36)), (0, 1), "told and tabled");
    assert_eq!(a.entry(1), 0, "the host ring cannot be bound");
    let (tx, rx) = (a.ring(0), b.ring(2));
    let (own, ..) = a.slot(tx, 0);
    assert_eq!(b.slot(rx, 0).0, own, "one buffer in both ends' slots");
    assert!(!b.is_ready());
    a.set_slot(tx, 0, 99_999_999, 5000, BUF_CHANGED);
    a.put(tx, 1, &frame(3), 0);
    a.advance(tx, 2);
    a.sync(Direction::Transmit);
    assert!(b.is_ready());
    b.sync(Direction::Receive);
    assert_eq!(b.slot(rx, 0), (99_999_999, 5000, BUF_CHANGED));
    assert_eq!(b.frame(rx, 1), frame(3));
    // Given back with the right buffer, flagged: the peer hears of it.
    b.set_slot(rx, 0, own, 60, BUF_CHANGED);
    b.advance(rx, 2);
    b.sync(Direction::Receive);
    assert_eq!(a.slot(tx, 0), (own, 60, BUF_CHANGED));
    a.sync(Direction::Transmit);
    assert_eq!(a.positions(tx), (2, 2, 1));
    let id = a.body.memory_id;
    drop((a, b));
    assert_eq!((double.leaks(id), double.double_frees(id)), (0, 0));
}

#[test]
fn a_pipe_closed_with_frames_in_it_frees_each_buffer_once() {
    let double = Double::new().unwrap();
    let (a, b) = (open(&double, "x{1", mode::ALL_NIC), open(&double, "x}1", mode::ALL_NIC));
    a.advance(a.ring(0), 20);
    a.sync(Direction::Transmit);
    b.sync(Direction::Receive);
    b.advance(b.ring(2), 5);
    b.sync(Direction::Receive);
    let id = a.body.memory_id;
    drop((a, b));
    assert_eq!((double.leaks(id), double.double_frees(id)), (0, 0));
}

#[test]
fn a_native_veth_is_a_pipe_and_hides_the_peers_kernel() {
    let double = Double::new().unwrap();
    let ((one, mut first), (two, mut second)) = (queue_pair(8).unwrap(), queue_pair(8).unwrap());
    double
        .add_veth(VethSpec {
            names: ["v0".into(), "v1".into()],
            rings: 2,
            slots: 64,
            hosts: [Some(Box::new(one)), Some(Box::new(two))],
            mtu: 1500,
        })
        .unwrap();
    assert!(first.send(&frame(1)));
    double.pump();
    assert_eq!(next(&mut second), Some(frame(1)));
    let a = open(&double, "v0", mode::NIC_SW);
    assert!(second.send(&frame(2)));
    double.pump();
    a.sync(Direction::Receive);
    assert_eq!(a.positions(a.ring(3)), (0, 0, 0), "what the peer's kernel sends never arrives");
    assert_eq!(double.nic_counters("v1").unwrap().lost, 1);
    let b = open(&double, "v1", mode::ALL_NIC);
    a.put(a.ring(1), 0, &frame(3), 0);
    a.advance(a.ring(1), 1);
    a.sync(Direction::Transmit);
    b.sync(Direction::Receive);
    assert_eq!(b.frame(b.ring(4), 0), frame(3));
    drop((a, b));
    assert_eq!((double.leaks(1), double.double_frees(1)), (0, 0));
    assert!(first.send(&frame(4)));
    double.pump();
    assert_eq!(next(&mut second), Some(frame(4)));
}

#[test]
fn switch_ports_learn_where_addresses_are() {
    let double = Double::new().unwrap();
    let ports = ["vale0:a", "vale0:b", "vale0:c"].map(|name| open(&double, name, mode::ALL_NIC));
    let [a, b, c] = &ports;
    assert_ne!(a.body.memory_id, b.body.memory_id);
    let to = |to: u8, from: u8| [vec![to; 6], vec![from; 6], vec![0; 48]].concat();
    a.put(a.ring(0), 0, &to(2, 1), 0);
    a.advance(a.ring(0), 1);
    a.sync(Direction::Transmit);
    b.put(b.ring(0), 0, &to(1, 2), 0);
    b.advance(b.ring(0), 1);
    b.sync(Direction::Transmit);
    for port in &ports {
        port.sync(Direction::Receive);
    }
    assert_eq!(a.frame(a.ring(2), 0), to(1, 2));
    assert_eq!(b.positions(b.ring(2)).2, 1, "flooded");
    assert_eq!(c.positions(c.ring(2)).2, 1, "flooded, and not the answer");
}

#[test]
fn extra_buffers_are_a_list_that_the_close_frees_and_leaks_are_counted() {
    let (double, ..) = machine(|_| ());
    let keeper = open(&double, "eth0", mode::SW);
    let body = Register { mode: mode::ALL_NIC, extra_buffers: 100, ..Register::default() };
    let free = double.region(1).unwrap().free_buffers;
    let port = register(&double, "eth0", body).unwrap();
    assert_eq!(port.body.extra_buffers, 100);
    let (ring, head) = (port.ring(0), port.body.offset + 32);
    let mut list = vec![port.word(head)];
    while let link @ 1.. = port.word(port.buffer_at(ring, list[list.len() - 1])) {
        list.push(link);
    }
    assert_eq!(list.len(), 100);
    // Exchanged with a slot: still true to what is held.
    let (own, length, _) = port.slot(ring, 0);
    port.set_slot(ring, 0, list[0], length, BUF_CHANGED);
    port.set_word(port.buffer_at(ring, own), list[1]);
    port.set_word(head, own);
    drop(port);
    assert_eq!((double.leaks(1), double.double_frees(1)), (0, 0));
    assert_eq!(double.region(1).unwrap().free_buffers, free);

    // The list is lost.
    let port = register(&double, "eth0", body).unwrap();
    port.set_word(port.body.offset + 32, 0);
    drop(port);
    assert_eq!((double.leaks(1), double.double_frees(1)), (100, 0));
    // A buffer in the list and in a slot: one freed twice, and the rest of the list is lost.
    let body = Register { extra_buffers: 2, ..body };
    let port = register(&double, "eth0", body).unwrap();
    let first = port.word(port.body.offset + 32);
    port.set_slot(port.ring(0), 0, first, 0, BUF_CHANGED);
    drop(port);
    assert_eq!((double.leaks(1), double.double_frees(1)), (102, 1));
    // The last user's end makes all good.
    assert_eq!(double.region(1).unwrap().leaked_now, 102);
    drop(keeper);
    let region = double.region(1).unwrap();
    assert_eq!((region.leaked_now, region.leaked_before, region.free_buffers), (0, 102, 8190));
}

#[test]
fn a_port_without_rings_is_a_pool_of_buffers() {
    let double = Double::new().unwrap();
    let body = Register { mode: mode::NULL, extra_buffers: 512, ..Register::default() };
    assert_eq!(register(&double, "pool", body).err(), Some(Errno::INVAL), "no region named");
    let port = register(&double, "pool", Register { memory_id: 1, ..body }).unwrap();
    assert_eq!((port.body.memory_id, port.body.extra_buffers), (1, 512));
    assert_eq!(port.body.tx_rings, 0);
    let too_many = Register { memory_id: 1, extra_buffers: 10_000, ..body };
    let other = register(&double, "other", too_many).unwrap();
    assert_eq!(other.body.extra_buffers, 8190 - 512, "as many as there are");
}

#[test]
fn opening_cuts_the_kernels_path_and_closing_restores_it() {
    let (double, mut far, mut stack) = machine(|_| ());
    let both_ways = |far: &mut QueueMedium, stack: &mut QueueMedium| {
        assert!(far.send(&frame(1)) && stack.send(&frame(2)));
        double.pump();
        (next(stack), next(far))
    };
    let through = (Some(frame(1)), Some(frame(2)));
    assert_eq!(both_ways(&mut far, &mut stack), through);
    let port = open(&double, "eth0", mode::ALL_NIC);
    assert!(double.is_open("eth0"));
    assert_eq!(both_ways(&mut far, &mut stack), (None, None));
    port.sync(Direction::Receive);
    assert_eq!(port.frame(port.ring(2), 0), frame(1));
    drop(port);
    assert_eq!(both_ways(&mut far, &mut stack), through);
    assert_eq!((double.leaks(1), double.double_frees(1)), (0, 0));
}

#[test]
fn host_rings_fill_only_while_the_card_is_open() {
    let (double, mut far, mut stack) = machine(|_| ());
    let host = open(&double, "eth0", mode::SW);
    let (tx, rx) = (host.ring(1), host.ring(3));
    assert!(stack.send(&frame(1)));
    host.sync(Direction::Receive);
    assert_eq!(host.positions(rx), (0, 0, 0));
    double.pump();
    assert_eq!(next(&mut far), Some(frame(1)), "the kernel's path goes on");

    let card = open(&double, "eth0", mode::ALL_NIC);
    assert!(stack.send(&frame(2)));
    assert!(host.is_ready());
    host.sync(Direction::Receive);
    assert_eq!((host.positions(rx), host.frame(rx, 0)), ((0, 0, 1), frame(2)));
    host.put(tx, 0, &frame(3), 0);
    host.put(tx, 1, &frame(4)[..13], 0);
    host.advance(tx, 2);
    host.sync(Direction::Transmit);
    assert_eq!(host.positions(tx), (2, 2, 1), "complete at once");
    assert_eq!((next(&mut stack), next(&mut stack)), (Some(frame(3)), None), "13 bytes are lost");
    drop(card);
}

/// Memory of this process that the test can also read as a file.
fn memory(size: u64) -> (OwnedFd, MmapRaw) {
    let file = rustix::fs::memfd_create("memory", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, size).unwrap();
    let length = usize::try_from(size).unwrap();
    let map = MmapOptions::new().len(length).map_raw(file.as_fd().as_raw_fd()).unwrap();
    (file, map)
}

#[test]
fn memory_of_the_caller_becomes_a_region_with_buffers_at_its_end() {
    let (double, mut far, _stack) = machine(|_| ());
    let size = 16 << 20;
    let (file, map) = memory(size);
    let pools = PoolsInfo { memory_size: size, ring_total: 8, ..PoolsInfo::default() };
    let address = map.as_mut_ptr().expose_provenance() as u64;
    let mut extmem = ExtMem { address, pools, ..ExtMem::default() };
    let mut body = Register { mode: mode::ALL_NIC, ..Register::default() };
    let device = double.open().unwrap();
    let request = Control::Register { body: &mut body, extmem: Some(&mut extmem) };
    device.control("eth0", request).unwrap();
    let pools = extmem.pools;
    assert_eq!((pools.if_total, pools.if_size, pools.if_offset), (2, 1024, 0));
    assert_eq!((pools.ring_total, pools.ring_size, pools.ring_offset), (8, 20480, 2048));
    assert_eq!((pools.buffer_size, pools.buffer_offset), (2048, 2048 + 8 * 20480));
    assert_eq!(u64::from(pools.buffer_total), (size - pools.buffer_offset) / 2048);
    assert_eq!((extmem.option.status, body.memory_id), (0, 2));

    let port = Port { device, body, file };
    assert!(far.send(&frame(5)));
    port.sync(Direction::Receive);
    assert_eq!(port.frame(port.ring(2), 0), frame(5));

    // Joined by number, and by naming the memory again.
    let pipe = register(
        &double,
        "x{1",
        Register { mode: mode::ALL_NIC, memory_id: 2, tx_slots: 64, rx_slots: 64, ..body },
    )
    .unwrap();
    assert_eq!(pipe.body.memory_id, 2);
    drop(pipe);
    let mut again = Register { mode: mode::NULL, ..Register::default() };
    let device = double.open().unwrap();
    let request = Control::Register { body: &mut again, extmem: Some(&mut extmem) };
    device.control("pool", request).unwrap();
    assert_eq!(again.memory_id, 2);
    drop((device, port));
    assert_eq!((double.leaks(2), double.double_frees(2)), (0, 0));
}

#[test]
fn memory_of_the_caller_that_will_not_do_is_refused_with_a_status() {
    let (double, ..) = machine(|_| ());
    let size = 1 << 20;
    let (_file, map) = memory(size);
    let address = map.as_mut_ptr().expose_provenance() as u64;
    let attempt = |double: &Double, address| {
        let pools = PoolsInfo { memory_size: size, ..PoolsInfo::default() };
        let mut extmem = ExtMem { address, pools, ..ExtMem::default() };
        let mut body = Register { mode: mode::ALL_NIC, ..Register::default() };
        let request = Control::Register { body: &mut body, extmem: Some(&mut extmem) };
        let error = double.open().unwrap().control("eth0", request).unwrap_err();
        (errno(&error), extmem.option.status)
    };
    assert_eq!(attempt(&double, address), (Errno::NOMEM, 12), "smaller than the defaults");
    let without = Double::with(MachineSpec { extmem: false, ..MachineSpec::default() }).unwrap();
    assert_eq!(attempt(&without, address), (Errno::OPNOTSUPP, 95));
}

#[test]
fn errors_have_the_modules_numbers() {
    let (double, ..) = machine(|_| ());
    let refused = |name: &str, body: Register| register(&double, name, body).err().unwrap();
    let body = Register { mode: mode::ALL_NIC, ..Register::default() };
    assert_eq!(refused("eth9", body), Errno::NXIO);
    assert_eq!(refused("eth0", Register { mode: 0, ..body }), Errno::INVAL);
    assert_eq!(refused("eth0", Register { mode: 9, ..body }), Errno::INVAL);
    assert_eq!(refused("eth0", Register { mode: mode::ONE_NIC, ring_id: 1, ..body }), Errno::INVAL);
    assert_eq!(refused("x{1", Register { mode: mode::SW, ..body }), Errno::INVAL);
    assert_eq!(refused("eth0", Register { memory_id: 9, ..body }), Errno::INVAL);

    let device = double.open().unwrap();
    assert!(is_readable(device.readiness()), "in error before it is bound");
    assert_eq!(errno(&device.sync(Direction::Receive).unwrap_err()), Errno::NXIO);
    let exclusive = Register { flags: flag::EXCLUSIVE, ..body };
    let held = register(&double, "eth0", exclusive).unwrap();
    assert_eq!(refused("eth0", body), Errno::BUSY);
    let mut again = body;
    let request = Control::Register { body: &mut again, extmem: None };
    assert_eq!(errno(&held.device.control("eth0", request).unwrap_err()), Errno::BUSY);
    let host = open(&double, "eth0", mode::SW);
    drop(held);
    let plain = register(&double, "eth0", body).unwrap();
    assert_eq!(refused("eth0", exclusive), Errno::BUSY);
    drop((plain, host));

    double.set_mtu("eth0", 9000).unwrap();
    assert_eq!(refused("eth0", body), Errno::INVAL, "a frame would not fit a buffer");
    double.set_mtu("eth0", 1500).unwrap();
    let _open = open(&double, "eth0", mode::ALL_NIC);
    assert_eq!(double.set_mtu("eth0", 9000).map_err(|e| errno(&e)), Err(Errno::INVAL));

    let small = Pools { buffer_total: 300, ..Pools::default() };
    let double = Double::with(MachineSpec { pools: small, extmem: true }).unwrap();
    double.add_nic(NicSpec::new("eth0", Box::new(Generator::new(&[]).unwrap()))).unwrap();
    assert_eq!(register(&double, "eth0", body).err(), Some(Errno::NOMEM));
    let region = double.region(1).unwrap();
    assert_eq!((region.free_buffers, region.leaked_now, region.users), (298, 0, 0));
}

#[test]
fn a_removed_interface_is_an_error_at_the_next_sync() {
    let (double, ..) = machine(|_| ());
    let port = open(&double, "eth0", mode::ALL_NIC);
    double.remove("eth0").unwrap();
    assert!(port.is_ready());
    for direction in [Direction::Receive, Direction::Transmit] {
        assert_eq!(errno(&port.device.sync(direction).unwrap_err()), Errno::IO);
    }
    assert!(port.is_ready());
    assert_eq!(port.word(port.body.offset + 24), 1, "the memory stays");
    drop(port);
    assert_eq!((double.is_open("eth0"), double.region(1).unwrap().users), (false, 0));
}

#[test]
fn a_full_ring_waits_or_loses_as_the_card_is_made() {
    for (overflow, left, missed) in [(Overflow::Wait, 3, 0), (Overflow::Drop, 0, 3)] {
        let (double, mut far, _stack) = machine(|spec| {
            spec.overflow = overflow;
            spec.rx_slots = 8;
        });
        let port = open(&double, "eth0", mode::ALL_NIC);
        assert!((0..10).all(|tag| far.send(&frame(tag))));
        port.sync(Direction::Receive);
        assert_eq!(port.positions(port.ring(2)).2, 7, "one slot less than there are");
        assert_eq!(double.nic_counters("eth0").unwrap().missed, missed);
        port.advance(port.ring(2), 7);
        port.sync(Direction::Receive);
        assert_eq!(double.nic_counters("eth0").unwrap().received, 7 + left);
    }
}

#[test]
fn a_link_that_is_reset_passes_nothing() {
    let (double, mut far, _stack) = machine(|spec| spec.link_reset = Duration::from_secs(3600));
    let port = open(&double, "eth0", mode::ALL_NIC);
    port.put(port.ring(0), 0, &frame(1), 0);
    port.advance(port.ring(0), 1);
    port.sync(Direction::Transmit);
    assert!(far.send(&frame(2)));
    port.sync(Direction::Receive);
    assert_eq!((next(&mut far), port.positions(port.ring(2)).2), (None, 0));
    double.end_link_reset("eth0").unwrap();
    port.sync(Direction::Transmit);
    assert_eq!(next(&mut far), Some(frame(1)));
    assert_eq!(double.nic_counters("eth0").unwrap().lost, 1);
}

#[test]
fn fragments_are_one_frame_but_for_the_generic_adapter() {
    for (quirks, frames) in [(vec![], 1), (vec![Quirk::Generic], 2)] {
        let is_generic = !quirks.is_empty();
        let (double, mut far, _stack) = machine(|spec| spec.quirks = quirks);
        let port = open(&double, "eth0", mode::ALL_NIC);
        let (tx, rx) = (port.ring(0), port.ring(2));
        port.put(tx, 0, &frame(1), MOREFRAG);
        port.put(tx, 1, &frame(2), 0);
        port.advance(tx, 2);
        port.sync(Direction::Transmit);
        assert_eq!(far.len(), frames);
        assert!(far.send(&[3; 3000]));
        port.sync(Direction::Receive);
        if is_generic {
            assert_eq!((port.slot(rx, 0).1, port.slot(rx, 0).2), (2048, MOREFRAG));
            assert_eq!((port.slot(rx, 1).1, port.slot(rx, 1).2), (952, 0));
        } else {
            assert_eq!(port.positions(rx), (0, 0, 0));
            assert_eq!(double.nic_counters("eth0").unwrap().bad_length, 1);
        }
    }
}

#[test]
fn cards_of_an_iommu_group_have_a_region_of_their_own() {
    let (double, ..) = machine(|spec| spec.iommu_group = Some(4));
    let port = open(&double, "eth0", mode::ALL_NIC);
    assert_eq!(port.body.memory_id, 2);
    let pipe = open(&double, "eth0{1", mode::PIPE_MASTER);
    assert_eq!(pipe.body.memory_id, 2);
    drop((port, pipe));
    let body = Register { mode: mode::ALL_NIC, memory_id: 1, ..Register::default() };
    assert_eq!(register(&double, "eth0", body).err(), Some(Errno::NOMEM));
    let (mut info, mut pools) = (PortInfo::default(), PoolsInfo::default());
    let device = double.open().unwrap();
    device.control("eth0", Control::PortInfo(&mut info)).unwrap();
    device.control("eth0", Control::PoolsInfo(&mut pools)).unwrap();
    assert_eq!((info.memory_id, info.rx_slots, info.host_rx_rings), (2, 256, 1));
    assert_eq!((pools.memory_id, pools.buffer_total, pools.ring_offset), (2, 8192, 16384));
}
