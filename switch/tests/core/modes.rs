//! How frames are handed over: copied, lent, passed on; and what happens to slots whose owner or
//! holder is gone, slow or full.

use crate::support::frames::*;
use crate::support::rig::Fate::{Client, Dropped, Wire};
use crate::support::rig::{Attach, Mode, Rig};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use usnet_shmring::ledger::SessionId;
use usnet_switch::switch::{Event, SwitchError};
use usnet_switch::verdict::DropReason::{NoSlot, PortFull, RingFull, TooManyHeld};

const PORT_SLOTS: u32 = 512;

fn with_modes(modes: &[Mode]) -> Rig {
    let mut rig = Rig::new();
    for (id, mode) in (1..).zip(modes) {
        rig.attach(&Attach { id, mode: *mode, ..Attach::default() });
        rig.listen(id, "10.0.0.1", UDP, id);
    }
    rig
}

/// From client `from` to client `to`.
fn between(from: u16, to: u16) -> Vec<u8> {
    outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp(from, to)
}

fn to(client: u16) -> Vec<u8> {
    inward("10.0.0.9", "10.0.0.1").udp(9, client)
}

#[test]
fn an_isolated_client_gets_copies_in_slots_of_its_own() {
    let mut rig = with_modes(&[Mode::Isolated]);
    rig.wires[0].lock().incoming.push_back(to(1));
    rig.run();
    let raws = rig.client(1).take(9);
    assert!(raws[0].slot() >= PORT_SLOTS, "{raws:?}");
    assert_eq!(rig.read(raws[0]), to(1));
    let slots = rig.check().slots;
    assert_eq!(slots.daemon, 0, "the port's slot is free again");
    let mine = slots.lent;
    rig.client(1).give_back(9);
    rig.run();
    assert_eq!(rig.check().slots.lent, mine - 1);
}

#[test]
fn a_shared_client_gets_the_ports_own_slot() {
    let mut rig = with_modes(&[Mode::Shared]);
    // The pool gives the slot freed last, so the port will use the one that this frame leaves.
    for _ in 0..3 {
        rig.wires[0].lock().incoming.push_back(to(1));
        rig.run();
        let raws = rig.client(1).take(9);
        assert_eq!(raws.len(), 1);
        assert_eq!(raws[0].slot(), 0, "the slot that the port filled, and no copy");
        assert_eq!(rig.read(raws[0]), to(1));
        rig.client(1).give_back(9);
        rig.run();
    }
}

#[test]
fn what_a_client_writes_after_sending_changes_nothing_that_was_delivered() {
    for modes in [[Mode::Isolated, Mode::Isolated], [Mode::Shared, Mode::Shared]] {
        let mut rig = with_modes(&modes);
        let slot = rig.client(1).send(&between(1, 2));
        rig.run();
        rig.client(1).transmit.write(slot, 0, &[0xff; 60]);
        let delivered = rig.received(2);
        assert_eq!(delivered, [between(1, 2)]);
        let slot = rig.client(1).send(&outward("10.0.0.1", "10.0.0.9").udp(1, 9));
        rig.wires[0].lock().room = Some(0);
        rig.step();
        rig.client(1).transmit.write(slot, 0, &[0xff; 60]);
        rig.wires[0].lock().room = None;
        let out = rig.drain();
        assert_eq!(out.wire, [outward("10.0.0.1", "10.0.0.9").udp(1, 9)]);
    }
}

#[test]
fn what_leaves_is_what_was_judged_though_the_slot_changes_meanwhile() {
    let mut rig = with_modes(&[Mode::Isolated]);
    let good = outward("10.0.0.1", "10.0.0.9").udp_with(1, 9, &[7; 400]);
    let forged = outward("10.0.0.77", "10.0.0.9").udp_with(1, 9, &[8; 400]);
    let slot = rig.client(1).send(&good);
    rig.drain();
    let stop = Arc::new(AtomicBool::new(false));
    let racer = {
        // The same slots through another descriptor, as the client's own other thread has them.
        let fd = rig.client(1).transmit.again();
        let (stop, good, forged) = (stop.clone(), good.clone(), forged.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                fd.write(slot, 0, &forged);
                fd.write(slot, 0, &good);
            }
        })
    };
    for _ in 0..3000 {
        rig.client(1).collect();
        rig.client(1).free.clear();
        let raw = usnet_shmring::descriptor::RawDescriptor::new(slot, 0, good.len() as u16);
        rig.client(1).send_raw(raw);
        rig.step();
    }
    stop.store(true, Ordering::Relaxed);
    racer.join().unwrap();
    let out = rig.drain();
    for frame in out.wire {
        assert_eq!(frame[26..30], [10, 0, 0, 1], "a forged head left");
    }
}

#[test]
fn members_of_a_group_pass_slots_and_the_slot_comes_back_by_completion() {
    let mut rig = with_modes(&[Mode::Group(5), Mode::Group(5)]);
    let slot = rig.client(1).send(&between(1, 2));
    rig.run();
    assert_eq!(rig.client(1).collect(), [0; 0], "it is away");
    let raws = rig.client(2).take(9);
    assert_eq!(raws[0].slot(), slot, "the very slot");
    assert_eq!(rig.read(raws[0]), between(1, 2));
    rig.run();
    assert_eq!(rig.client(1).collect(), [0; 0], "still away");
    rig.client(2).give_back(9);
    rig.run();
    assert_eq!(rig.client(1).collect(), [slot], "home");
    assert_eq!(rig.check().slots.taken, 0);
}

#[test]
fn nobody_else_is_passed_a_slot() {
    let pairs = [
        [Mode::Group(5), Mode::Group(6)],
        [Mode::Group(5), Mode::Shared],
        [Mode::Shared, Mode::Group(5)],
        [Mode::Shared, Mode::Shared],
        [Mode::Isolated, Mode::Group(5)],
        [Mode::Group(5), Mode::Isolated],
    ];
    for modes in pairs {
        let mut rig = with_modes(&modes);
        let slot = rig.client(1).send(&between(1, 2));
        rig.run();
        assert_eq!(rig.client(1).collect(), [slot], "{modes:?}: copied, so it is home at once");
        let raws = rig.client(2).take(9);
        assert!(!rig.client(1).transmit.holds(raws[0].slot()), "{modes:?}");
        assert_eq!(rig.read(raws[0]), between(1, 2), "{modes:?}");
    }
}

#[test]
fn an_isolated_client_is_of_no_group() {
    let mut rig = Rig::new();
    for id in 1..=2 {
        let attach = Attach { id, mode: Mode::Group(5), ..Attach::default() };
        let (mut spec, client) = rig.spec(&attach);
        if id == 2 {
            let isolated = Attach { id, mode: Mode::Isolated, ..Attach::default() };
            spec.receive = rig.spec(&isolated).0.receive;
        }
        rig.switch.attach(spec).unwrap();
        rig.clients.push(client);
        rig.listen(id, "10.0.0.1", UDP, id);
    }
    let slot = rig.client(1).send(&between(1, 2));
    rig.run();
    let raws = rig.client(2).take(9);
    assert_ne!(raws[0].slot(), slot, "it has not mapped that slot");
    assert_eq!(rig.read(raws[0]), between(1, 2));
}

#[test]
fn a_slot_comes_home_from_a_receiver_that_died_with_it() {
    let mut rig = with_modes(&[Mode::Group(5), Mode::Group(5)]);
    let mut sent: Vec<u32> = (0..4).map(|_| rig.client(1).send(&between(1, 2))).collect();
    rig.run();
    rig.client(2).take(2);
    rig.client(1).queues.sleep.raise();
    rig.switch.detach(SessionId(2));
    // What nobody has been shown yet is work.
    assert!(!rig.switch.prepare_sleep(), "its owner waits for the slot");
    rig.step();
    let mut back = rig.client(1).collect();
    back.sort_unstable();
    sent.sort_unstable();
    assert_eq!(back, sent, "those in its hands and those on its ring");
    assert_eq!(rig.client(1).wakeups(), 1);
    rig.take_events();
    let ended = rig.events.iter().find_map(|event| match event {
        Event::SessionEnded { id: SessionId(2), fault: None, recovered, away, .. } => {
            Some((*recovered, *away))
        }
        _ => None,
    });
    assert_eq!(ended, Some((4, 0)));
    rig.attach(&Attach { id: 2, mode: Mode::Group(5), ..Attach::default() });
}

#[test]
fn slots_of_a_dead_sender_stay_mapped_until_they_come_back() {
    let mut rig = with_modes(&[Mode::Group(5), Mode::Group(5)]);
    for _ in 0..3 {
        rig.client(1).send(&between(1, 2));
    }
    rig.run();
    let raws = rig.client(2).take(9);
    let before = rig.check().slots;
    rig.switch.detach(SessionId(1));
    rig.take_events();
    let away = rig.events.iter().find_map(|event| match event {
        Event::SessionEnded { id: SessionId(1), away, .. } => Some(*away),
        _ => None,
    });
    assert_eq!(away, Some(3));
    let gone = |rig: &Rig| {
        rig.events.iter().any(|event| matches!(event, Event::SessionGone(SessionId(1))))
    };
    assert!(!gone(&rig));
    assert_eq!(rig.check().slots.total, before.total, "all its slots are still there");
    for raw in &raws {
        assert_eq!(rig.read(*raw), between(1, 2), "and can be read");
    }
    let again = Attach { id: 1, transmit: 32, ..Attach::default() };
    let refused = rig.try_attach(&again);
    assert!(matches!(refused, Err(SwitchError::SessionNumber(_))), "{refused:?}");
    rig.client(2).give_back(2);
    rig.run();
    assert!(!gone(&rig), "one is still out");
    rig.client(2).give_back(1);
    rig.run();
    assert!(gone(&rig));
    assert_eq!(rig.check().slots.total, before.total - 64);
    rig.attach(&again);
}

#[test]
fn both_ends_of_a_passed_slot_may_die_in_either_order() {
    for order in [[1, 2], [2, 1]] {
        let mut rig = with_modes(&[Mode::Group(5), Mode::Group(5)]);
        for _ in 0..3 {
            rig.client(1).send(&between(1, 2));
            rig.client(2).send(&between(2, 1));
        }
        rig.run();
        for id in order {
            rig.switch.detach(SessionId(id));
        }
        rig.step();
        let slots = rig.check().slots;
        assert_eq!((slots.free, slots.total), (PORT_SLOTS, PORT_SLOTS));
    }
}

#[test]
fn a_full_ring_costs_its_own_client_and_nobody_else() {
    for mode in [Mode::Isolated, Mode::Shared] {
        let mut rig = with_modes(&[mode, mode]);
        let (fates, _) = rig.fates(|rig| {
            for n in 0..200 {
                rig.wires[0].lock().incoming.push_back(to(1));
                if n % 4 == 0 {
                    rig.wires[0].lock().incoming.push_back(to(2));
                }
            }
        });
        let count = |fate| fates.iter().filter(|f| **f == fate).count();
        assert_eq!(count(Client(1)), 128, "{mode:?}");
        assert_eq!(count(Dropped(RingFull)), 72, "{mode:?}");
        assert_eq!(count(Client(2)), 50, "{mode:?}");
        let sessions = rig.check().sessions;
        assert_eq!(sessions[0].counters.dropped_to.get(RingFull), 72);
        assert_eq!(sessions[1].counters.dropped_to.total(), 0);
        assert_eq!(rig.arrives(&to(1)), [Client(1)], "drained, it flows again");
    }
}

#[test]
fn a_client_without_receive_slots_drops_its_own_frames() {
    let mut rig = Rig::new();
    rig.attach(&Attach { id: 1, receive: 8, ..Attach::default() });
    rig.attach_plain(2);
    rig.listen(1, "10.0.0.1", UDP, 1);
    rig.listen(2, "10.0.0.1", UDP, 2);
    let (fates, _) = rig.fates(|rig| {
        for id in [1, 2] {
            rig.wires[0].lock().incoming.extend((0..20).map(|_| to(id)));
        }
    });
    let count = |fate| fates.iter().filter(|f| **f == fate).count();
    assert_eq!((count(Client(1)), count(Dropped(NoSlot)), count(Client(2))), (8, 12, 20));
    assert_eq!(rig.arrives(&to(1)), [Client(1)]);
}

#[test]
fn a_client_that_keeps_what_it_receives_keeps_no_more_than_its_rings_hold() {
    let mut rig = with_modes(&[Mode::Shared, Mode::Shared, Mode::Group(5), Mode::Group(5)]);
    for _ in 0..20 {
        rig.wires[0].lock().incoming.extend((0..64).map(|_| to(1)));
        rig.run();
        rig.client(1).take(usize::MAX);
    }
    assert_eq!(rig.client(1).held.len(), 256);
    assert_eq!(rig.dropped(TooManyHeld), 20 * 64 - 256);
    assert_eq!(rig.arrives(&to(2)), [Client(2)], "there are slots for others");
    rig.client(1).give_back(1);
    rig.run();
    rig.wires[0].lock().incoming.push_back(to(1));
    rig.run();
    assert_eq!(rig.client(1).take(9).len(), 1);
    // The same among members of a group.
    for _ in 0..10 {
        for _ in 0..30 {
            rig.client(3).collect();
            let _ = rig.client(3).try_send(&between(3, 4));
        }
        rig.run();
        rig.client(4).take(usize::MAX);
    }
    assert_eq!(rig.client(4).held.len(), 64, "no more than there are");
}

#[test]
fn a_client_that_does_not_take_its_completions_waits_and_loses_nothing() {
    let mut rig = Rig::new();
    rig.attach(&Attach { id: 1, capacity: 64, transmit: 64, ..Attach::default() });
    rig.listen(1, "10.0.0.1", UDP, 1);
    let frame = outward("10.0.0.1", "10.0.0.9").udp(1, 9);
    for _ in 0..64 {
        rig.client(1).send(&frame);
    }
    rig.run();
    assert_eq!(rig.wires[0].lock().outgoing.len(), 64);
    // It sends slots again that it never took from the ring: they wait, and nothing grows.
    let first = rig.client(1).transmit.first;
    for n in 0..64 {
        let raw = usnet_shmring::descriptor::RawDescriptor::new(first + n, 0, frame.len() as u16);
        rig.client(1).send_raw(raw);
    }
    for _ in 0..10 {
        assert_eq!(rig.step(), 0);
    }
    assert_eq!(rig.wires[0].lock().outgoing.len(), 64);
    assert_eq!(rig.client(1).collect().len(), 64);
    rig.client(1).free.clear();
    rig.run();
    assert_eq!(rig.wires[0].lock().outgoing.len(), 128, "all that waited");
    assert_eq!(rig.client(1).collect().len(), 64);
    assert_eq!(rig.ended(), []);
}

#[test]
fn a_full_port_keeps_a_burst_and_drops_the_rest() {
    let mut rig = with_modes(&[Mode::Isolated]);
    rig.wires[0].lock().room = Some(0);
    let (fates, _) = rig.fates(|rig| {
        for _ in 0..2 {
            for _ in 0..50 {
                rig.client(1).send(&outward("10.0.0.1", "10.0.0.9").udp(1, 9));
            }
            rig.run();
        }
    });
    assert_eq!(fates, [Dropped(PortFull); 36]);
    assert!(rig.switch.has_backlog());
    assert_eq!(rig.check().waiting, 64);
    rig.wires[0].lock().room = None;
    assert_eq!(rig.fates(|_| {}).0, [Wire; 64]);
    assert!(!rig.switch.has_backlog());
}

#[test]
fn a_port_that_keeps_sent_slots_gives_them_back_in_the_end() {
    let mut rig = with_modes(&[Mode::Isolated]);
    rig.wires[0].lock().keeps = 20;
    for _ in 0..50 {
        rig.client(1).send(&outward("10.0.0.1", "10.0.0.9").udp(1, 9));
    }
    rig.run();
    assert_eq!(rig.check().slots.daemon, 20);
    let (audit, slots) = rig.switch.close().audit();
    assert_eq!((audit.free, slots), (PORT_SLOTS, PORT_SLOTS));
}

#[test]
fn a_port_that_fails_is_reported_once_and_the_rest_goes_on() {
    for receiving in [false, true] {
        let mut rig = with_modes(&[Mode::Isolated, Mode::Isolated]);
        if receiving {
            rig.wires[0].lock().breaks_receiving = true;
            rig.wires[0].lock().incoming.extend([to(1), to(1)]);
            rig.step();
            assert_eq!(rig.received(1), [to(1)], "what came before is not lost");
        } else {
            rig.wires[0].lock().breaks = true;
            // More than a burst, so that the port fails in the middle of one.
            for id in [1, 2] {
                for _ in 0..50 {
                    rig.client(id).send(&outward("10.0.0.1", "10.0.0.9").udp(id, 9));
                }
            }
            rig.step();
            assert_eq!(rig.wires[0].lock().outgoing.len(), 1);
            assert_eq!(rig.check().totals.to_ports, 1, "that one left");
        }
        for _ in 0..3 {
            rig.client(1).send(&outward("10.0.0.1", "10.0.0.9").udp(1, 9));
            rig.run();
        }
        let gone = |event: &&Event| matches!(event, Event::PortGone { .. });
        assert_eq!(rig.events.iter().filter(gone).count(), 1, "receiving {receiving}");
        assert_eq!(rig.check().waiting, 0);
        assert!(rig.check().interfaces[0].wire.gone);
        rig.wires[0].lock().outgoing.clear();
        assert_eq!(rig.sends(1, &between(1, 2)), [Client(2)]);
    }
}

#[test]
fn a_frame_that_the_medium_refuses_has_left() {
    let mut rig = with_modes(&[Mode::Isolated]);
    rig.wires[0].lock().limit = Some(100);
    let long = outward("10.0.0.1", "10.0.0.9").udp_with(1, 9, &[0; 400]);
    assert_eq!(rig.sends(1, &long), []);
    assert_eq!(rig.wires[0].lock().refused, 1);
    assert_eq!(rig.check().slots.daemon, 0);
}
