//! Clients that lie: each lie ends its own session with the numbers, and nobody else notices.

use crate::support::client::Client as Peer;
use crate::support::frames::*;
use crate::support::rig::Fate::{Client, Host, Wire};
use crate::support::rig::{Attach, Mode, Rig, SLOTS};
use std::sync::Arc;
use usnet_shmring::arena::SlotRange;
use usnet_shmring::descriptor::{Fault, RawDescriptor, RingName};
use usnet_shmring::layout::Word;
use usnet_shmring::ledger::SessionId;
use usnet_shmring::region::Writer;

const LIAR: u16 = 1;
const VICTIM: u16 = 2;

/// Descriptors have no defined flags yet.
const FLAG: u64 = 1 << 52;

fn to(port: u16) -> Vec<u8> {
    inward("10.0.0.9", "10.0.0.1").udp(9, port)
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    for id in [LIAR, VICTIM] {
        let mode = Mode::Group(1);
        rig.attach(&Attach { id, mode, capacity: 64, transmit: 64, ..Attach::default() });
        rig.listen(id, "10.0.0.1", UDP, id);
    }
    rig
}

/// A lie, and what the switch must say of it.
type Lie = (&'static str, fn(&mut Rig) -> Fault);

fn tx(rig: &mut Rig, raw: RawDescriptor) {
    rig.client(LIAR).send_raw(raw);
}

fn fill(rig: &mut Rig, raw: RawDescriptor) {
    rig.client(LIAR).return_raw(raw);
}

fn own(rig: &mut Rig) -> u32 {
    rig.client(LIAR).transmit.first
}

/// Brings a slot of the port's into the liar's hands.
fn lent(rig: &mut Rig) -> u32 {
    rig.wires[0].lock().incoming.push_back(to(LIAR));
    rig.run();
    rig.client(LIAR).take(1)[0].slot()
}

const LIES: &[Lie] = &[
    ("tx: more than the ring holds", |rig| {
        rig.client(LIAR).store(Word::FirstProduced, 65);
        Fault::Overrun { ring: RingName::Tx, claimed: 65, capacity: 64 }
    }),
    ("tx: the largest number", |rig| {
        rig.client(LIAR).store(Word::FirstProduced, u32::MAX);
        Fault::Overrun { ring: RingName::Tx, claimed: u32::MAX, capacity: 64 }
    }),
    ("tx: back", |rig| {
        let frame = outward("10.0.0.1", "10.0.0.9").udp(LIAR, 9);
        for _ in 0..3 {
            rig.client(LIAR).send(&frame);
        }
        rig.run();
        rig.client(LIAR).store(Word::FirstProduced, 2);
        Fault::Overrun { ring: RingName::Tx, claimed: u32::MAX, capacity: 64 }
    }),
    ("tx: a slot that does not exist", |rig| {
        tx(rig, RawDescriptor::new(SLOTS, 0, 60));
        Fault::NoSuchSlot { ring: RingName::Tx, slot: SLOTS, count: SLOTS }
    }),
    ("tx: the last number", |rig| {
        tx(rig, RawDescriptor::new(0xff_ffff, 0, 60));
        Fault::NoSuchSlot { ring: RingName::Tx, slot: 0xff_ffff, count: SLOTS }
    }),
    ("tx: a slot that is not mapped", |rig| {
        tx(rig, RawDescriptor::new(SLOTS - 1, 0, 60));
        Fault::NotHeld { ring: RingName::Tx, slot: SLOTS - 1 }
    }),
    ("tx: a slot of the port", |rig| {
        tx(rig, RawDescriptor::new(3, 0, 60));
        Fault::NotHeld { ring: RingName::Tx, slot: 3 }
    }),
    ("tx: a slot that it was lent", |rig| {
        let slot = lent(rig);
        tx(rig, RawDescriptor::new(slot, 0, 60));
        Fault::NotHeld { ring: RingName::Tx, slot }
    }),
    ("tx: another client's slot", |rig| {
        let slot = rig.client(VICTIM).transmit.first;
        tx(rig, RawDescriptor::new(slot, 0, 60));
        Fault::NotHeld { ring: RingName::Tx, slot }
    }),
    ("tx: a slot that is with another", |rig| {
        let frame = outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp(LIAR, VICTIM);
        let slot = rig.client(LIAR).send(&frame);
        tx(rig, RawDescriptor::new(slot, 0, 60));
        Fault::NotHeld { ring: RingName::Tx, slot }
    }),
    ("tx: no frame", |rig| {
        let raw = RawDescriptor::new(own(rig), 0, 0);
        tx(rig, raw);
        Fault::OutOfSlot { ring: RingName::Tx, offset: 0, length: 0, slot_size: 2048 }
    }),
    ("tx: less than a link header", |rig| {
        let raw = RawDescriptor::new(own(rig), 0, 13);
        tx(rig, raw);
        Fault::OutOfSlot { ring: RingName::Tx, offset: 0, length: 13, slot_size: 2048 }
    }),
    ("tx: over the slot's end", |rig| {
        let raw = RawDescriptor::new(own(rig), 2000, 49);
        tx(rig, raw);
        Fault::OutOfSlot { ring: RingName::Tx, offset: 2000, length: 49, slot_size: 2048 }
    }),
    ("tx: far out", |rig| {
        let raw = RawDescriptor::new(own(rig), 4095, u16::MAX);
        tx(rig, raw);
        Fault::OutOfSlot { ring: RingName::Tx, offset: 4095, length: u16::MAX, slot_size: 2048 }
    }),
    ("tx: flags", |rig| {
        let raw = RawDescriptor(RawDescriptor::new(own(rig), 0, 60).0 | FLAG);
        tx(rig, raw);
        Fault::UnknownFlags { ring: RingName::Tx, flags: 1 }
    }),
    ("fill: more than the ring holds", |rig| {
        rig.client(LIAR).store(Word::SecondProduced, 66);
        Fault::Overrun { ring: RingName::Fill, claimed: 66, capacity: 64 }
    }),
    ("fill: a slot that does not exist", |rig| {
        fill(rig, RawDescriptor::new(SLOTS + 5, 0, 0));
        Fault::NoSuchSlot { ring: RingName::Fill, slot: SLOTS + 5, count: SLOTS }
    }),
    ("fill: a slot that it was not lent", |rig| {
        fill(rig, RawDescriptor::new(7, 0, 0));
        Fault::NotHeld { ring: RingName::Fill, slot: 7 }
    }),
    ("fill: a slot twice", |rig| {
        let slot = lent(rig);
        fill(rig, RawDescriptor::new(slot, 0, 0));
        fill(rig, RawDescriptor::new(slot, 0, 0));
        Fault::NotHeld { ring: RingName::Fill, slot }
    }),
    ("fill: its own transmit slot", |rig| {
        let slot = own(rig);
        fill(rig, RawDescriptor::new(slot, 0, 0));
        Fault::NotHeld { ring: RingName::Fill, slot }
    }),
    ("fill: another client's transmit slot", |rig| {
        let slot = rig.client(VICTIM).transmit.first + 1;
        fill(rig, RawDescriptor::new(slot, 0, 0));
        Fault::NotHeld { ring: RingName::Fill, slot }
    }),
    ("fill: flags", |rig| {
        let slot = lent(rig);
        fill(rig, RawDescriptor(RawDescriptor::new(slot, 0, 0).0 | FLAG << 11));
        Fault::UnknownFlags { ring: RingName::Fill, flags: 1 << 11 }
    }),
    ("rx: took what was never given", |rig| {
        rig.client(LIAR).store(Word::FirstConsumed, 65);
        rig.wires[0].lock().incoming.extend((0..65).map(|_| to(LIAR)));
        // One was published before this burst.
        Fault::Position { ring: RingName::Rx, moved: 65, most: 1 }
    }),
    ("rx: back", |rig| {
        rig.wires[0].lock().incoming.extend((0..64).map(|_| to(LIAR)));
        rig.run();
        rig.received(LIAR);
        rig.wires[0].lock().incoming.extend((0..64).map(|_| to(LIAR)));
        rig.run();
        rig.received(LIAR);
        rig.client(LIAR).store(Word::FirstConsumed, 60);
        rig.wires[0].lock().incoming.extend((0..65).map(|_| to(LIAR)));
        Fault::Position { ring: RingName::Rx, moved: 60u32.wrapping_sub(64), most: 64 }
    }),
    ("completion: took what was never given", |rig| {
        let frame = outward("10.0.0.1", "10.0.0.9").udp(LIAR, 9);
        rig.client(LIAR).send(&frame);
        rig.run();
        rig.client(LIAR).store(Word::SecondConsumed, 1000);
        rig.client(LIAR).send(&frame);
        Fault::Position { ring: RingName::Completion, moved: 1000, most: 1 }
    }),
];

#[test]
fn every_lie_ends_the_liars_session_with_its_numbers_and_no_other() {
    for (name, lie) in LIES {
        let mut rig = rig();
        // The victim has something in every place while it happens.
        rig.wires[0].lock().incoming.extend((0..9).map(|_| to(VICTIM)));
        rig.run();
        assert_eq!(rig.client(VICTIM).take(4).len(), 4);
        let held = outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp(VICTIM, LIAR);
        rig.client(VICTIM).send(&held);
        rig.run();
        let expected = lie(&mut rig);
        // In the step that ends the liar the victim's frames move.
        let sent = outward("10.0.0.1", "10.0.0.9").udp(VICTIM, 9);
        rig.client(VICTIM).send(&sent);
        rig.wires[0].lock().outgoing.clear();
        rig.step();
        rig.step();
        assert_eq!(rig.wires[0].lock().outgoing.as_slice(), std::slice::from_ref(&sent), "{name}");
        assert_eq!(rig.ended(), [(LIAR, Some(expected))], "{name}");
        let rest = rig.client(VICTIM).take(9).len();
        assert!((5..=6).contains(&rest), "{name}: {rest}, and perhaps one from the liar");
        rig.client(VICTIM).give_back(9);
        rig.drain();
        assert_eq!(rig.client(VICTIM).free.len(), 64, "{name}: its slot came home");
        // Nothing is left of the liar.
        assert_eq!(rig.arrives(&to(LIAR)), [Host], "{name}: its port is free");
        assert_eq!(rig.arrives(&to(VICTIM)), [Client(VICTIM)], "{name}");
        assert_eq!(rig.check().slots.total, 512 + 64, "{name}");
        assert_eq!(rig.check().slots.free, 512, "{name}");
        rig.attach(&Attach { id: LIAR, ..Attach::default() });
        rig.listen(LIAR, "10.0.0.1", UDP, LIAR);
        assert_eq!(rig.arrives(&to(LIAR)), [Client(LIAR)], "{name}: the number is free");
    }
}

#[test]
fn whatever_word_a_client_writes_the_others_go_on() {
    let words = [
        Word::FirstProduced,
        Word::SecondProduced,
        Word::FirstConsumed,
        Word::SecondConsumed,
        Word::Sleeps,
    ];
    let values = [0, 1, 2, 63, 64, 65, 128, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1, u32::MAX];
    let mut rig = rig();
    for word in words {
        for value in values {
            if rig.clients.iter().all(|c| c.id.0 != LIAR) {
                rig.attach(&Attach { id: LIAR, capacity: 64, ..Attach::default() });
                rig.listen(LIAR, "10.0.0.1", UDP, LIAR);
            }
            rig.client(LIAR).store(word, value);
            for _ in 0..3 {
                rig.wires[0].lock().incoming.extend((0..64).map(|_| to(LIAR)));
                rig.wires[0].lock().incoming.push_back(to(VICTIM));
                for _ in 0..3 {
                    rig.step();
                }
                assert_eq!(rig.received(VICTIM).len(), 1, "{word:?} = {value}");
                rig.step();
            }
            if rig.clients.iter().any(|c| c.id.0 == LIAR) {
                rig.switch.detach(SessionId(LIAR));
            }
            rig.take_events();
            rig.step();
            let slots = rig.check().slots;
            assert_eq!((slots.free, slots.lent), (512, 64), "{word:?} = {value}");
        }
    }
}

#[test]
fn a_slot_sent_again_before_its_completion_was_read_is_only_copied_twice() {
    // The switch had it back already; the client has only not looked.
    let mut rig = Rig::new();
    rig.attach_plain(1);
    rig.listen(1, "10.0.0.1", UDP, 1);
    let frame = outward("10.0.0.1", "10.0.0.9").udp(1, 9);
    let slot = rig.client(1).send(&frame);
    rig.client(1).send_raw(RawDescriptor::new(slot, 0, frame.len() as u16));
    rig.run();
    assert_eq!(rig.ended(), []);
    assert_eq!(rig.wires[0].lock().outgoing.len(), 2);
}

#[test]
fn ten_thousand_clients_come_and_go_and_leave_nothing() {
    let mut rig = Rig::new();
    rig.attach_plain(9);
    rig.run();
    let slots = rig.check().slots;
    let shape = |rig: &Rig| format!("{:?}", rig.switch).len();
    let mut before = usize::MAX;
    for n in 0..10_000u32 {
        if n == 1000 {
            before = shape(&rig);
        }
        let id = (n % 7) as u16;
        let mode = [Mode::Isolated, Mode::Shared, Mode::Group(1)][n as usize % 3];
        let mut attach = Attach { id, mode, receive: 16, transmit: 16, ..Attach::default() };
        attach.capacity = 16;
        if n % 2 == 0 {
            attach.exclusive.push(ip(&format!("10.9.{}.{}", n >> 8, n & 255)));
        }
        rig.attach(&attach);
        rig.listen(id, "10.0.0.1", UDP, id);
        if n % 50 == 0 {
            rig.client(id).send(&outward("10.0.0.1", "10.0.0.9").udp(40_000, 9));
            rig.wires[0].lock().incoming.push_back(to(id));
            rig.run();
        }
        if n % 4 == 0 {
            rig.client(id).store(Word::FirstProduced, 500);
            rig.switch.step(rig.now);
        } else {
            rig.switch.detach(SessionId(id));
        }
        rig.take_events();
        rig.events.clear();
    }
    rig.wires[0].lock().outgoing.clear();
    assert_eq!(rig.check().slots, slots);
    assert_eq!(rig.check().interfaces[0].flows, 0);
    assert_eq!(rig.check().sessions.len(), 1);
    let after = shape(&rig);
    // Some counters have one digit more now.
    assert!(after < before + 40, "the state grew from {before} to {after} characters");
}

#[test]
fn the_memory_of_a_session_is_gone_with_it() {
    let mut rig = Rig::new();
    let mut hole = None;
    for _ in 0..50 {
        let (mut spec, _) = rig.spec(&Attach { receive: 8, transmit: 8, ..Attach::default() });
        let arena = spec.transmit.segment().arena().clone();
        let segment = arena.add_segment("test", Writer::Client, 64, false).unwrap();
        let mut whole = SlotRange::whole(segment);
        let segment = Arc::downgrade(whole.segment());
        assert_eq!(*hole.get_or_insert(whole.first()), whole.first(), "the hole is there again");
        spec.transmit = whole.split(64).unwrap();
        drop(whole);
        rig.switch.attach(spec).unwrap();
        rig.switch.step(rig.now);
        assert!(segment.upgrade().is_some());
        rig.switch.detach(SessionId(0));
        drop(rig.switch.take_events());
        assert!(segment.upgrade().is_none(), "unmapped");
    }
}

#[test]
fn a_liar_is_a_client_like_any_other_until_it_lies() {
    // Guards the table above: its rig must work without a lie.
    let mut rig = rig();
    let frame = outward("10.0.0.1", "10.0.0.9").udp(LIAR, 9);
    assert_eq!(rig.sends(LIAR, &frame), [Wire]);
    assert_eq!(rig.arrives(&to(LIAR)), [Client(LIAR)]);
    let peer: &mut Peer = rig.client(LIAR);
    assert_eq!(peer.free.len(), 64);
    assert_eq!(rig.ended(), []);
}
