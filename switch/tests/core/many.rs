//! Frames for many: one slot for all who read the port's slots, however they give it back, or do not.

use super::support::frames::*;
use super::support::rig::{Attach, Mode, Options, Rig};
use usnet_shmring::descriptor::{Fault, RawDescriptor, RingName};
use usnet_switch::snapshot::SlotCount;

/// An announcement, which all are told.
fn announcement() -> Vec<u8> {
    arp(BROADCAST, PEER, 2, PEER, "10.0.0.9", "10.0.0.9")
}

/// Without a host; clients 1.. in these modes.
fn rig(modes: &[Mode], capacity: u32) -> Rig {
    let mut rig = Rig::with(Options { host: false, port_slots: 1536, ..Options::default() });
    for (id, mode) in (1..).zip(modes) {
        rig.attach(&Attach {
            id,
            mode: *mode,
            capacity,
            transmit: 8,
            receive: 64,
            ..Attach::default()
        });
    }
    rig
}

fn slots(rig: &Rig) -> SlotCount {
    rig.check().slots
}

fn arrive(rig: &mut Rig, count: usize) {
    rig.wires[0].lock().incoming.extend((0..count).map(|_| announcement()));
    rig.run();
}

fn take(rig: &mut Rig, id: u16) -> RawDescriptor {
    let raws = rig.client(id).take(1);
    assert_eq!(raws.len(), 1, "client {id}");
    assert_eq!(rig.read(raws[0]), announcement());
    raws[0]
}

#[test]
fn all_who_read_the_ports_slots_get_a_frame_in_one_slot() {
    let modes = [Mode::Shared, Mode::Isolated, Mode::Group(3), Mode::Shared, Mode::Isolated];
    let mut rig = rig(&modes, 64);
    let before = slots(&rig);
    arrive(&mut rig, 1);
    let seen = slots(&rig);
    assert_eq!(
        (seen.shared, seen.lent),
        (1, before.lent + 2),
        "one for three, and a copy for each other"
    );
    assert_eq!(seen.free, before.free - 3);
    let shared: Vec<RawDescriptor> = [1, 3, 4].map(|id| take(&mut rig, id)).to_vec();
    assert!(shared.iter().all(|raw| raw.slot() == shared[0].slot()));
    assert_ne!(take(&mut rig, 2).slot(), take(&mut rig, 5).slot());
    for (id, left) in [(3, 1), (1, 1), (4, 0)] {
        rig.client(id).return_raw(shared[0]);
        rig.run();
        assert_eq!(slots(&rig).shared, left, "after client {id}");
    }
    assert_eq!(slots(&rig).free, before.free - 2);
    let totals = rig.check().totals;
    assert_eq!((totals.received, totals.generated, totals.to_clients), (1, 4, 5));
}

#[test]
fn more_than_can_share_a_slot_and_more_slots_than_can_be_shared_are_copied() {
    let mut crowd = rig(&[Mode::Shared; 19], 16);
    let before = slots(&crowd);
    arrive(&mut crowd, 1);
    let seen = slots(&crowd);
    assert_eq!((seen.shared, before.free - seen.free), (1, 4), "sixteen share, three have copies");
    for id in 1..=19 {
        let _ = take(&mut crowd, id);
    }
    assert_eq!(crowd.check().totals.to_clients, 19);

    let mut rig = rig(&[Mode::Shared; 2], 1024);
    let before = slots(&rig);
    arrive(&mut rig, 600);
    let seen = slots(&rig);
    assert_eq!((seen.shared, before.free - seen.free), (512, 512 + 2 * 88));
    for id in [1, 2] {
        let mut got = 0;
        loop {
            let raws = rig.client(id).take(64);
            got += raws.len();
            if raws.is_empty() {
                break;
            }
            for raw in raws {
                rig.client(id).return_raw(raw);
            }
            rig.run();
        }
        assert_eq!(got, 600, "client {id}");
    }
    assert_eq!((slots(&rig).shared, slots(&rig).free), (0, before.free));
}

#[test]
fn who_gives_a_shared_slot_back_twice_or_never_had_it_ends_alone() {
    let held = |raw: RawDescriptor| Fault::NotHeld { ring: RingName::Fill, slot: raw.slot() };
    // Twice; never; as its own, to send from it.
    for case in 0..3 {
        let mut rig = rig(&[Mode::Shared, Mode::Shared, Mode::Shared, Mode::Isolated], 64);
        let before = slots(&rig);
        arrive(&mut rig, 1);
        let shared = take(&mut rig, 1);
        let (bad, fault) = match case {
            0 => {
                rig.client(1).return_raw(shared);
                rig.run();
                rig.client(1).return_raw(shared);
                (1, held(shared))
            }
            1 => {
                let _ = take(&mut rig, 4);
                rig.client(4).return_raw(shared);
                (4, held(shared))
            }
            _ => {
                rig.client(2).send_raw(RawDescriptor::new(shared.slot(), 0, 60));
                (2, Fault::NotHeld { ring: RingName::Tx, slot: shared.slot() })
            }
        };
        rig.run();
        assert_eq!(rig.ended(), [(bad, Some(fault))], "case {case}");
        assert_eq!(slots(&rig).shared, 1, "the others hold it still");
        for id in (1..=3).filter(|id| *id != bad) {
            if case == 0 || id != 1 {
                assert_eq!(take(&mut rig, id).slot(), shared.slot());
            }
            rig.client(id).return_raw(shared);
            rig.run();
        }
        assert_eq!(slots(&rig).shared, 0, "case {case}");
        for id in 1..=4 {
            rig.switch.detach(usnet_shmring::ledger::SessionId(id));
        }
        rig.take_events();
        let seen = slots(&rig);
        assert_eq!((seen.free, seen.total), (1536, 1536), "case {case}: {before:?}");
    }
}

#[test]
fn whoever_ends_at_whatever_point_a_shared_slot_comes_home_once() {
    // Of three, each: has not looked, has taken it, has given it back; then it ends, in every order.
    let orders = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];
    for points in 0..27u32 {
        for order in orders {
            let mut rig = rig(&[Mode::Shared; 3], 64);
            arrive(&mut rig, 2);
            let mut left = 3;
            for (turn, id) in (0..).zip(order) {
                let point = points / 3u32.pow(turn) % 3;
                if point > 0 {
                    let raw = take(&mut rig, id);
                    if point == 2 {
                        rig.client(id).return_raw(raw);
                    }
                    rig.run();
                }
                rig.switch.detach(usnet_shmring::ledger::SessionId(id));
                rig.take_events();
                left -= 1;
                assert_eq!(slots(&rig).shared, if left > 0 { 2 } else { 0 }, "{points} {order:?}");
            }
            assert_eq!(slots(&rig).free, 1536, "{points} {order:?}");
        }
    }
}
