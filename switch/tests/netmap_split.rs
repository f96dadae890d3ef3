//! Frames whose rest is sent from a client's slot, through the whole switch over netmap's double.

#![allow(clippy::cast_possible_truncation, reason = "frames are built from small numbers")]

#[path = "support/mod.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::client::Memory;
use support::frames::*;
use support::rig::{Attach, Mode, Options, Place, Rig};
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::descriptor::RawDescriptor;
use usnet_shmring::pool::Pool;
use usnet_shmring::region::Writer;
use usnet_switch::port::Sends;
use usnet_switch::port::netmap::double::{
    Completion, Double, Medium, NicSpec, QueueMedium, Quirk, queue_pair,
};
use usnet_switch::port::netmap::{Bank, Kernel, Netmap, NetmapSpec, Wish};
use usnet_switch::session::InterfaceId;
use usnet_switch::switch::{Behind, Event, InterfaceSpec};
use usnet_switch::verdict::DropReason;

const RING: u32 = 32;
/// Payload of a frame that fills the MTU.
const FULL: usize = 1472;

/// A switch over the card `eth0` whose buffers are the daemon's slots and the clients'.
struct World {
    rig: Rig,
    double: Double,
    bank: Arc<Bank>,
    wire: QueueMedium,
    host: QueueMedium,
}

fn spec(name: &str) -> NetmapSpec {
    NetmapSpec { name: format!("netmap:{name}").parse().unwrap(), mac: OURS, mtu: 1500 }
}

/// As the daemon asks.
fn card(double: &Double, bank: &Arc<Bank>) -> Netmap {
    let wish = match double.sends_from_several_slots("eth0") {
        Ok(()) => Wish::Split,
        Err(why) => Wish::Copy(why),
    };
    Netmap::open_wishing(double, &spec("eth0"), Some(bank), wish).unwrap()
}

fn host(double: &Double, bank: &Arc<Bank>) -> Netmap {
    Netmap::open(double, &spec("eth0^"), Some(bank)).unwrap()
}

impl World {
    /// With a wire that takes `queue` frames.
    fn with(queue: usize, change: impl FnOnce(&mut NicSpec)) -> Self {
        let double = Double::new().unwrap();
        let (wire, far) = queue_pair(queue).unwrap();
        let (stack, near) = queue_pair(256).unwrap();
        let mut nic = NicSpec::new("eth0", Box::new(far)).with_host(Box::new(near));
        (nic.tx_slots, nic.rx_slots) = (RING, RING);
        // A missing NS_BUF_CHANGED sends and fills what lay there before.
        nic.quirks = vec![Quirk::NeedsBufChanged];
        change(&mut nic);
        double.add_nic(nic).unwrap();
        let mut bank = None;
        let rig = Rig::in_memory(Options::default(), true, |place: &mut Place<'_>, _| {
            let groups = [Arc::clone(place.clients.segment())];
            let opened = Bank::with_groups(
                &double,
                place.objects.as_ref().unwrap(),
                &groups,
                &place.port,
                core::slice::from_mut(place.pool),
                4 * RING,
            );
            let bank = bank.insert(opened.unwrap());
            (Box::new(card(&double, bank)), Some(Box::new(host(&double, bank)) as _))
        });
        Self { rig, double, bank: bank.unwrap(), wire, host: stack }
    }

    fn new() -> Self {
        Self::with(256, |_| {})
    }

    fn attach(&mut self, id: u16, mode: Mode) {
        self.rig.attach(&Attach { id, mode, ..Attach::default() });
        self.rig.listen(id, "10.0.0.1", UDP, id);
    }

    fn come_out(&mut self) -> Vec<Vec<u8>> {
        let mut bytes = [0; 4096];
        core::iter::from_fn(|| {
            let length = self.wire.receive(&mut bytes)?;
            Some(bytes[..length].to_vec())
        })
        .collect()
    }

    fn split(&self) -> u64 {
        self.rig.check().interfaces[0].wire.counters.split
    }

    /// Lets the port ask the card once more.
    fn later(&mut self) {
        self.rig.now = self.rig.now + Duration::from_millis(10);
        self.rig.run();
    }

    /// Closes everything; every buffer of the region is where netmap looks for it.
    fn end(self) {
        let Self { rig, double, bank, .. } = self;
        let id = bank.memory_id();
        let pool = rig.switch.close();
        assert_eq!(pool.audit().0.taken, 0, "every client's slot came back");
        drop((pool, bank));
        assert_eq!(double.double_frees(id), 0);
    }
}

/// A datagram from port 3 with bytes that tell it from others.
fn datagram(number: u16, length: usize) -> Vec<u8> {
    let data: Vec<u8> = (0..length).map(|at| (at as u8) ^ (number as u8).rotate_left(3)).collect();
    outward("10.0.0.1", "10.0.0.9").udp_with(3, 1000 + number, &data)
}

#[test]
fn long_frames_leave_in_two_slots_as_they_were_given_and_short_ones_in_one() {
    for quirks in [vec![Quirk::NeedsBufChanged], vec![Quirk::NeedsBufChanged, Quirk::WholePackets]]
    {
        let mut world = World::with(256, |nic| nic.quirks = quirks);
        world.attach(3, Mode::Group(1));
        let mut sent = Vec::new();
        // Several laps of the ring, so that slots of either kind follow each other in all ways.
        for lap in 0..8u16 {
            for number in 0..24 {
                let length =
                    if (number * 7 + lap) % 3 == 0 { 18 } else { FULL - usize::from(number) };
                let frame = datagram(lap * 24 + number, length);
                world.rig.client(3).send(&frame);
                sent.push(frame);
                if number % 5 == 0 {
                    world.rig.run();
                }
            }
            world.rig.run();
        }
        assert_eq!(world.come_out(), sent);
        let long = sent.iter().filter(|frame| frame.len() > 512).count() as u64;
        assert_eq!(world.split(), long);
        let port = &world.rig.check().interfaces[0].wire;
        assert_eq!(port.exchange.as_ref().unwrap().sends, Sends::Split);
        let host = world.rig.check().interfaces[0].host.clone().unwrap();
        assert_eq!(host.exchange.unwrap().sends, Sends::Copied, "to the kernel");
        assert_eq!(world.rig.check().slots.taken, 0, "all are back with the client");
        world.end();
    }
}

#[test]
fn a_frame_may_begin_anywhere_in_its_slot() {
    let mut world = World::new();
    world.attach(3, Mode::Group(1));
    for offset in [1, 64, 333, 534] {
        let frame = datagram(offset, FULL);
        let client = world.rig.client(3);
        let slot = client.free.pop().unwrap();
        client.transmit.write(slot, offset, &frame);
        client.send_raw(RawDescriptor::new(slot, offset, frame.len() as u16));
        world.rig.run();
        assert_eq!(world.come_out(), [frame], "at {offset}");
    }
    assert_eq!(world.split(), 4);
    world.end();
}

#[test]
fn clients_slots_come_back_only_when_the_card_has_sent() {
    for completion in [Completion::AtOnce, Completion::NextSync] {
        // The wire takes four frames, and no more until somebody reads.
        let mut world = World::with(4, |nic| nic.completion = completion);
        world.attach(3, Mode::Group(1));
        let slots: Vec<u32> =
            (0..10).map(|n| world.rig.client(3).send(&datagram(n, FULL))).collect();
        let mut back = Vec::new();
        for came in [4, 4, 2] {
            world.later();
            world.later();
            back.extend(world.rig.client(3).collect());
            let sent = slots.iter().take(back.len()).copied().collect::<Vec<_>>();
            let mut sorted = back.clone();
            sorted.sort_unstable();
            let mut expected = sent.clone();
            expected.sort_unstable();
            assert_eq!(sorted, expected, "the first that were sent");
            assert_eq!(world.rig.check().slots.taken as usize, 10 - back.len());
            assert_eq!(world.come_out().len(), came, "{completion:?}");
        }
        world.later();
        assert_eq!((back.len(), world.rig.client(3).free.len()), (10, 64), "all, once each");
        world.end();
    }
}

#[test]
fn no_frame_leaves_with_other_headers_than_were_judged() {
    let mut world = World::with(4096, |nic| (nic.tx_slots, nic.rx_slots) = (RING, RING));
    world.attach(3, Mode::Group(1));
    // Else the port that the other frames come from would be anybody's to use.
    world.attach(4, Mode::Group(1));
    let client = world.rig.client(3);
    let (first, count) = (client.transmit.first, client.transmit.count);
    let ends = Arc::new(AtomicBool::new(false));
    // It writes other frames over all of its slots for as long as the test goes on.
    let hostile = {
        let (memory, ends): (Memory, _) = (client.transmit.again(), Arc::clone(&ends));
        let other = outward("10.0.0.9", "10.0.0.1").link(PEER).udp_with(4, 53, &[0xee; FULL]);
        std::thread::spawn(move || {
            while !ends.load(Ordering::Acquire) {
                for slot in first..first + count {
                    memory.write(slot, 0, &other);
                }
            }
        })
    };
    let (mut came, mut refused) = (0, 0);
    for round in 0..3000u16 {
        let frame = datagram(round % 100, FULL);
        let before = world.rig.check().totals.dropped;
        if world.rig.client(3).try_send(&frame).is_none() {
            world.later();
            continue;
        }
        world.rig.run();
        refused += [DropReason::SpoofedMac, DropReason::SpoofedAddress, DropReason::SpoofedPort]
            .iter()
            .map(|reason| world.rig.dropped(*reason) - before.get(*reason))
            .sum::<u64>();
        for out in world.come_out() {
            came += 1;
            // Link address, network address and port are its own, whatever the payload has become.
            assert_eq!(out[6..12], OURS.0, "round {round}");
            assert_eq!(out[26..30], [10, 0, 0, 1], "round {round}");
            assert_eq!(out[34..36], 3u16.to_be_bytes(), "round {round}");
            assert_eq!(out.len(), frame.len());
        }
    }
    ends.store(true, Ordering::Release);
    hostile.join().unwrap();
    assert!(came > 0, "{came} came, {refused} were refused");
    world.later();
    world.end();
}

#[test]
fn a_session_that_ends_with_frames_in_the_card_gets_its_slots_back_once() {
    let mut world = World::with(2, |nic| nic.completion = Completion::NextSync);
    world.attach(3, Mode::Group(1));
    world.attach(4, Mode::Group(1));
    for number in 0..20 {
        world.rig.client(3).send(&datagram(number, FULL));
    }
    world.later();
    world.rig.switch.detach(usnet_shmring::ledger::SessionId(3));
    world.rig.step();
    let is_gone = |rig: &Rig| rig.events.iter().any(|event| matches!(event, Event::SessionGone(_)));
    assert!(!is_gone(&world.rig) && world.rig.check().slots.taken > 0);
    let mut came = world.come_out();
    for _ in 0..40 {
        world.double.pump();
        world.later();
        came.extend(world.come_out());
    }
    // What waited for room in the ring left as well.
    assert_eq!(came, (0..20).map(|n| datagram(n, FULL)).collect::<Vec<_>>());
    assert!(is_gone(&world.rig), "its last slot has come back");
    assert_eq!(world.rig.check().slots.taken, 0);
    // Whoever has the number next gets clean slots.
    world.attach(3, Mode::Group(1));
    let client = world.rig.client(3);
    let slot = client.transmit.first;
    assert!(client.transmit.read(RawDescriptor::new(slot, 0, 2000)).iter().all(|byte| *byte == 0));
    world.end();
}

#[test]
fn isolated_clients_and_sessions_elsewhere_are_copied() {
    let mut world = World::new();
    world.attach(3, Mode::Group(1));
    world.attach(4, Mode::Group(1));
    // To a member of its group where it lies, to the kernel copied.
    let to_member = outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp_with(3, 4, &[7; FULL]);
    world.rig.client(3).send(&to_member);
    let to_kernel = outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp_with(3, 22, &[8; FULL]);
    world.rig.client(3).send(&to_kernel);
    world.rig.run();
    assert_eq!(world.rig.received(4), [to_member]);
    let mut bytes = [0; 4096];
    assert_eq!(world.host.receive(&mut bytes), Some(to_kernel.len()));
    assert_eq!(bytes[..to_kernel.len()], to_kernel);
    world.rig.run();
    assert_eq!((world.split(), world.rig.check().slots.taken), (0, 0));
    world.end();
}

#[test]
fn a_port_that_fails_or_is_replaced_gives_every_clients_slot_back() {
    for fails in [true, false] {
        let mut world = World::with(2, |_| {});
        world.attach(3, Mode::Group(1));
        for number in 0..30 {
            world.rig.client(3).send(&datagram(number, FULL));
        }
        world.later();
        assert!(world.rig.check().slots.taken > 20);
        if fails {
            world.double.remove("eth0").unwrap();
            world.later();
        }
        let retired = world.rig.switch.retire_ports(InterfaceId(0), !fails).unwrap();
        assert_eq!(retired, fails);
        world.rig.run();
        assert_eq!(world.rig.check().slots.taken, 0);
        assert_eq!(world.rig.client(3).collect().len(), 30, "those that were lost as well");
        if !fails {
            let spec = InterfaceSpec {
                mac: OURS,
                mtu: 1500,
                addresses: Vec::new(),
                wire: Box::new(card(&world.double, &world.bank)),
                host: Some(Box::new(host(&world.double, &world.bank))),
                behind: Behind::Kernel,
                cut_through: true,
                kernel_hears: Vec::new(),
                unmatched: usnet_switch::config::Unmatched::Drop,
            };
            world.rig.switch.replace_ports(InterfaceId(0), spec).unwrap();
            world.come_out();
            world.rig.client(3).send(&datagram(77, FULL));
            world.later();
            assert_eq!(world.come_out(), [datagram(77, FULL)]);
            assert!(world.split() > 0);
        }
        world.end();
    }
}

#[test]
fn many_times_opened_and_closed_under_way_no_buffer_changes_hands() {
    let mut world = World::with(1, |_| {});
    let (kept, groups) = (world.bank.kept(), world.bank.groups());
    for turn in 0..200u16 {
        world.attach(3, Mode::Group(1));
        for number in 0..12 {
            world.rig.client(3).send(&datagram(number, FULL));
        }
        world.later();
        world.rig.switch.retire_ports(InterfaceId(0), true).unwrap();
        world.rig.switch.detach(usnet_shmring::ledger::SessionId(3));
        world.rig.run();
        // The kernel took no client's slot for a ring: opening would be refused.
        let ports = (card(&world.double, &world.bank), host(&world.double, &world.bank));
        assert_eq!(world.bank.kept(), kept, "turn {turn}");
        let spec = InterfaceSpec {
            mac: OURS,
            mtu: 1500,
            addresses: Vec::new(),
            wire: Box::new(ports.0),
            host: Some(Box::new(ports.1)),
            behind: Behind::Kernel,
            cut_through: true,
            kernel_hears: Vec::new(),
            unmatched: usnet_switch::config::Unmatched::Drop,
        };
        world.rig.switch.replace_ports(InterfaceId(0), spec).unwrap();
        world.come_out();
        world.rig.check();
    }
    assert_eq!(groups.len(), 1024);
    world.end();
}

#[test]
fn drivers_that_cannot_are_given_copies() {
    for quirk in [Quirk::OneSlot, Quirk::Generic] {
        let mut world = World::with(256, |nic| nic.quirks = vec![quirk]);
        world.attach(3, Mode::Group(1));
        world.rig.client(3).send(&datagram(1, FULL));
        world.rig.run();
        assert_eq!(world.come_out(), [datagram(1, FULL)], "{quirk:?}");
        let port = &world.rig.check().interfaces[0].wire;
        assert_eq!(port.exchange.as_ref().unwrap().sends, Sends::Copied);
        assert_eq!(port.counters.split, 0);
        world.end();
    }
}

#[test]
fn receiving_is_not_changed_by_offsets_for_what_is_sent() {
    let mut world = World::new();
    world.attach(3, Mode::Group(1));
    let frame = inward("10.0.0.9", "10.0.0.1").udp_with(9, 3, &[5; FULL]);
    assert!(world.wire.send(&frame));
    world.rig.run();
    assert_eq!(world.rig.received(3), [frame]);
    world.end();
}

#[test]
fn a_region_in_which_rings_could_get_a_clients_slot_is_refused() {
    let double = Double::new().unwrap();
    let arena = Arena::reserve(4096, SlotSize::DEFAULT).unwrap();
    let add = |name, writer| arena.add_segment(name, writer, 1024, false).unwrap();
    let objects = SlotRange::whole(add("objects", Writer::Daemon));
    let group = Arc::new(add("group", Writer::Client));
    let port = SlotRange::whole(add("port", Writer::Daemon));
    let segment = Arc::clone(port.segment());
    let mut pool = Pool::new(port).unwrap();
    // As many for rings as the ports have slots leaves the last of them all, and no more.
    for (ring_buffers, is_taken) in [(1024, true), (1025, false)] {
        let pools = core::slice::from_mut(&mut pool);
        let groups = [Arc::clone(&group)];
        let bank = Bank::with_groups(&double, &objects, &groups, &segment, pools, ring_buffers);
        assert_eq!(bank.is_ok(), is_taken, "{ring_buffers}: {bank:?}");
    }
    // Neither are segments that do not lie side by side.
    let far = Arc::new(add("far", Writer::Client));
    let pools = core::slice::from_mut(&mut pool);
    assert!(Bank::with_groups(&double, &objects, &[far], &segment, pools, 64).is_err());
}
