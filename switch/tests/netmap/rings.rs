//! What of a card a port binds: all its rings, one pair, the host's, both on one descriptor, one
//! direction; and that no frame comes out of a port whose it is not.

use super::{Machine, RING, SLOTS, Slots, frame, open};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::sync::Arc;
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::pool::Pool;
use usnet_shmring::region::Writer;
use usnet_switch::classify::Mac;
use usnet_switch::port::netmap::double::{MachineSpec, Medium, NicSpec};
use usnet_switch::port::netmap::{Bank, Netmap, NetmapSpec, PortName};
use usnet_switch::port::{Burst, Port};
use usnet_switch::time::Time;

fn send(slots: &mut Slots, port: &mut Netmap, number: u8) {
    let mut burst = slots.burst(&[frame(number, 70)]);
    port.transmit(Time(0), &mut slots.pool, &mut burst).unwrap();
    assert!(burst.is_empty());
}

fn next(medium: &mut dyn Medium) -> Option<Vec<u8>> {
    let mut bytes = [0; 2048];
    medium.receive(&mut bytes).map(|length| bytes[..length].to_vec())
}

/// Frames of `count` flows.
fn flows(count: u8) -> Vec<Vec<u8>> {
    (0..count).map(|number| frame(number, 60 + usize::from(number))).collect()
}

fn bodies(frames: Vec<(u32, Vec<u8>)>) -> Vec<Vec<u8>> {
    frames.into_iter().map(|(_, bytes)| bytes).collect()
}

fn both() -> NetmapSpec {
    let name = "netmap:eth0*".parse().unwrap();
    NetmapSpec { name, mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500 }
}

#[test]
fn card_and_host_on_one_descriptor_are_two_ports_that_keep_their_frames_apart() {
    for swaps in [false, true] {
        let mut machine = Machine::new();
        let mut slots = Slots::new();
        let bank = swaps.then(|| slots.bank(&machine.double));
        let free = slots.pool.free_slots();
        let opened = Netmap::open_both(&machine.double, &both(), bank.as_ref());
        let (mut card, mut host) = opened.unwrap();
        assert_eq!((card.swaps(), card.rings(), host.rings()), (swaps, (1, 1), (1, 1)));
        assert!(card.descriptor().is_some() && host.descriptor().is_none(), "one for both");
        for number in 0..100 {
            assert!(machine.wire.send(&frame(number, 90)));
            assert!(machine.host.send(&frame(number, 80)));
            // In either order.
            let (from_wire, from_host) = if number % 2 == 0 {
                (slots.receive(&mut card), slots.receive(&mut host))
            } else {
                let from_host = slots.receive(&mut host);
                (slots.receive(&mut card), from_host)
            };
            assert_eq!(bodies(from_wire), [frame(number, 90)]);
            assert_eq!(bodies(from_host), [frame(number, 80)]);
            send(&mut slots, &mut card, number);
            send(&mut slots, &mut host, number + 100);
            assert_eq!(next(&mut machine.wire), Some(frame(number, 70)));
            assert_eq!(next(&mut machine.host), Some(frame(number + 100, 70)));
            assert_eq!((next(&mut machine.wire), next(&mut machine.host)), (None, None));
        }
        card.close(&mut slots.pool);
        drop(card);
        assert!(machine.double.is_open("eth0"), "the other half is");
        host.close(&mut slots.pool);
        drop(host);
        assert!(!machine.double.is_open("eth0"));
        assert_eq!(slots.pool.free_slots(), free);
        let id = bank.as_ref().map_or(1, |bank| bank.memory_id());
        assert_eq!((machine.double.leaks(id), machine.double.double_frees(id)), (0, 0));
    }
}

#[test]
fn a_name_that_is_two_ports_is_refused_as_one_with_the_way_out() {
    let machine = Machine::new();
    let error = open(&machine.double, "netmap:eth0*", 1500, None).unwrap_err().to_string();
    assert!(error.contains("netmap:eth0 or netmap:eth0^"), "{error}");
    assert!(!machine.double.is_open("eth0"));
    let one = NetmapSpec { name: "netmap:eth0".parse().unwrap(), ..both() };
    let error = Netmap::open_both(&machine.double, &one, None).unwrap_err().to_string();
    assert!(error.contains("netmap:eth0 is one port"), "{error}");
}

#[test]
fn several_host_rings_are_one_port_or_one_each() {
    let mut machine = Machine::new();
    let mut slots = Slots::new();
    // The first to open the card decides how many there are.
    let name = "netmap:eth0@conf:host-rings=3";
    let mut card = open(&machine.double, name, 1500, None).unwrap();
    let mut all = open(&machine.double, "netmap:eth0^", 1500, None).unwrap();
    assert_eq!(all.rings(), (3, 3));
    let sent = flows(30);
    let send_all = |machine: &mut Machine| sent.iter().for_each(|f| assert!(machine.host.send(f)));
    send_all(&mut machine);
    let mut got: Vec<_> = (0..4).flat_map(|_| bodies(slots.receive(&mut all))).collect();
    got.sort_by_key(Vec::len);
    assert_eq!(got, sent);
    send(&mut slots, &mut all, 1);
    assert_eq!(next(&mut machine.host), Some(frame(1, 70)));
    drop(all);

    let mut each = [0, 1, 2]
        .map(|ring| open(&machine.double, &format!("netmap:eth0^{ring}"), 1500, None).unwrap());
    send_all(&mut machine);
    let mut seen = Vec::new();
    for (ring, port) in each.iter_mut().enumerate() {
        assert_eq!(port.rings(), (1, 1));
        let got: Vec<_> = (0..2).flat_map(|_| bodies(slots.receive(port))).collect();
        assert!(!got.is_empty(), "ring {ring} has a share");
        seen.extend(got);
        send(&mut slots, port, 100 + ring as u8);
        assert_eq!(next(&mut machine.host), Some(frame(100 + ring as u8, 70)));
    }
    seen.sort_by_key(Vec::len);
    assert_eq!(seen, sent, "each frame once");
    assert_eq!(slots.receive(&mut card), [], "none of them is the card's");
    assert_eq!(next(&mut machine.wire), None);
    let beyond = open(&machine.double, "netmap:eth0^3", 1500, None).unwrap_err();
    assert_eq!(Errno::from_io_error(&beyond), Some(Errno::INVAL));
}

#[test]
fn ring_pairs_of_a_card_are_ports_that_share_nothing() {
    let mut machine = Machine::with(MachineSpec::default(), |spec| {
        (spec.tx_rings, spec.rx_rings) = (4, 4);
    });
    let mut slots = Slots::new();
    let mut ports = [0, 1, 2, 3]
        .map(|ring| open(&machine.double, &format!("netmap:eth0-{ring}"), 1500, None).unwrap());
    let sent = flows(40);
    sent.iter().for_each(|f| assert!(machine.wire.send(f)));
    let mut seen = Vec::new();
    let mut shares = BTreeSet::new();
    for (ring, port) in ports.iter_mut().enumerate() {
        assert_eq!(port.rings(), (1, 1));
        let got: Vec<_> = (0..2).flat_map(|_| bodies(slots.receive(port))).collect();
        shares.extend((!got.is_empty()).then_some(ring));
        seen.extend(got);
        send(&mut slots, port, ring as u8);
        assert_eq!(next(&mut machine.wire), Some(frame(ring as u8, 70)));
    }
    seen.sort_by_key(Vec::len);
    assert_eq!(seen, sent, "each frame once");
    assert_eq!(shares.len(), 4);
}

#[test]
fn a_port_of_one_direction_has_no_other() {
    let mut machine = Machine::new();
    let mut slots = Slots::new();
    let mut ears = open(&machine.double, "netmap:eth0/R", 1500, None).unwrap();
    let mut mouth = open(&machine.double, "netmap:eth0/T", 1500, None).unwrap();
    assert_eq!((ears.rings(), mouth.rings()), ((0, 1), (1, 0)));
    assert!(ears.descriptor().is_some() && mouth.descriptor().is_none());
    assert!(machine.wire.send(&frame(1, 60)));
    assert_eq!(slots.receive(&mut mouth), []);
    assert_eq!(bodies(slots.receive(&mut ears)), [frame(1, 60)]);
    send(&mut slots, &mut ears, 2);
    assert_eq!((next(&mut machine.wire), ears.counters().transmit_errors), (None, 1));
    send(&mut slots, &mut mouth, 3);
    assert_eq!(next(&mut machine.wire), Some(frame(3, 70)));
}

#[test]
fn a_ring_that_is_held_exclusively_is_nobody_elses_until_it_is_closed() {
    let machine = Machine::with(MachineSpec::default(), |spec| {
        (spec.tx_rings, spec.rx_rings) = (2, 2);
    });
    let holder = open(&machine.double, "netmap:eth0-0/x", 1500, None).unwrap();
    for name in ["netmap:eth0-0", "netmap:eth0"] {
        let error = open(&machine.double, name, 1500, None).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::BUSY), "{name}");
    }
    // It is a matter of rings, not of the card.
    let other = open(&machine.double, "netmap:eth0-1", 1500, None).unwrap();
    let host = open(&machine.double, "netmap:eth0^", 1500, None).unwrap();
    drop((holder, host));
    let error = open(&machine.double, "netmap:eth0/x", 1500, None).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::BUSY), "ring 1 is in use");
    drop(other);
    let all = open(&machine.double, "netmap:eth0/x", 1500, None).unwrap();
    assert_eq!(all.rings(), (2, 2));
}

/// Two workers, each with a pair of the card's rings and a pair of host rings. Which buffers a ring begins
/// with is the kernel's choice, so they come from either worker's slots.
#[test]
fn slots_of_a_ring_are_its_workers_from_first_use_to_close_whoever_had_them() {
    let two = |nic: &mut NicSpec| (nic.tx_rings, nic.rx_rings) = (2, 2);
    let machine = Machine::with(MachineSpec::default(), two);
    let arena = Arena::reserve(4 * SLOTS, SlotSize::DEFAULT).unwrap();
    let add = |name| arena.add_segment(name, Writer::Daemon, SLOTS, false).unwrap();
    let (objects, mut rest) = (SlotRange::whole(add("objects")), SlotRange::whole(add("port")));
    let port = Arc::clone(rest.segment());
    let first = rest.split(SLOTS / 2).unwrap();
    let mut pools = [first, rest].map(|half| Pool::new(half).unwrap());
    let totals = |pools: &[Pool]| pools.iter().map(|pool| pool.audit().1).sum::<u32>();
    assert_eq!(totals(&pools), SLOTS);
    let bank = Bank::open(&machine.double, &objects, &port, &mut pools, 8 * RING).unwrap();
    let all = |pools: &[Pool], bank: &Bank| totals(pools) as usize + bank.kept();
    assert_eq!(all(&pools, &bank), SLOTS as usize, "each slot is a pool's or the kernel's");
    let mut ports = Vec::new();
    for worker in 0..2u16 {
        for name in [PortName::pair("eth0", worker), PortName::host_pair("eth0", worker)] {
            let spec = NetmapSpec {
                name: name.with_host_rings(2),
                mac: Mac([2, 0, 0, 0, 0, 1]),
                mtu: 1500,
            };
            let port = Netmap::open(&machine.double, &spec, Some(&bank)).unwrap();
            assert!(port.swaps() && port.rings() == (1, 1));
            ports.push((usize::from(worker), port));
        }
    }
    for (worker, port) in &mut ports {
        let mut burst = Burst::new();
        port.receive(Time(0), &mut pools[*worker], &mut burst).unwrap();
        burst.clear(&mut pools[*worker]);
    }
    assert_eq!(all(&pools, &bank), SLOTS as usize, "each slot is a pool's or the kernel's");
    for pool in &pools {
        let (audit, total) = pool.audit();
        assert_eq!((audit.total(), audit.daemon), (total, 4 * RING), "its own four rings'");
    }
    let (open, kept) = (totals(&pools), bank.kept());
    for (worker, mut port) in ports {
        port.close(&mut pools[worker]);
    }
    assert_eq!((totals(&pools), bank.kept()), (open - 8 * RING, kept + 8 * RING as usize));
    let id = bank.memory_id();
    assert_eq!((machine.double.leaks(id), machine.double.double_frees(id)), (0, 0));
}
