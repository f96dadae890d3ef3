//! Neither side sleeps on work, and nobody is woken for nothing.

use crate::support::frames::*;
use crate::support::rig::{Attach, Mode, Rig};
use usnet_shmring::descriptor::RawDescriptor;
use usnet_shmring::layout::Word;

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.attach(&Attach { id: 1, mode: Mode::Shared, ..Attach::default() });
    rig.attach_plain(2);
    for id in 1..=2 {
        rig.listen(id, "10.0.0.1", UDP, id);
    }
    rig.run();
    rig
}

fn to(id: u16) -> Vec<u8> {
    inward("10.0.0.9", "10.0.0.1").udp(9, id)
}

fn out(id: u16) -> Vec<u8> {
    outward("10.0.0.1", "10.0.0.9").udp(id, 9)
}

#[test]
fn a_switch_without_work_may_sleep_and_its_clients_know() {
    let mut rig = rig();
    for _ in 0..3 {
        assert!(!rig.client(1).queues.peer.must_wake());
        assert!(rig.switch.prepare_sleep());
        assert!(rig.client(1).queues.peer.must_wake());
        assert!(rig.client(2).queues.peer.must_wake());
        rig.switch.woke();
        assert!(!rig.client(1).queues.peer.must_wake());
        assert!(!rig.client(2).queues.peer.must_wake());
    }
}

#[test]
fn a_frame_sent_just_before_the_announcement_keeps_the_switch_awake() {
    let mut rig = rig();
    rig.client(2).send(&out(2));
    assert!(!rig.switch.prepare_sleep());
    assert!(!rig.client(1).queues.peer.must_wake(), "the announcement is taken back");
    assert!(!rig.switch.prepare_sleep(), "as long as it lies there");
    rig.run();
    assert_eq!(rig.wires[0].lock().outgoing.len(), 1);
    assert!(rig.switch.prepare_sleep());
}

#[test]
fn a_slot_given_back_just_before_the_announcement_keeps_the_switch_awake() {
    let mut rig = rig();
    rig.wires[0].lock().incoming.push_back(to(1));
    rig.run();
    assert!(rig.switch.prepare_sleep());
    rig.switch.woke();
    assert_eq!(rig.received(1).len(), 1);
    assert!(!rig.switch.prepare_sleep());
    rig.run();
    assert!(rig.switch.prepare_sleep());
}

#[test]
fn a_lie_told_just_before_the_announcement_is_found_by_the_next_step() {
    for word in [Word::FirstProduced, Word::SecondProduced] {
        let mut rig = rig();
        rig.client(1).store(word, 5000);
        assert!(!rig.switch.prepare_sleep());
        rig.step();
        assert_eq!(rig.ended().len(), 1);
        rig.run();
        assert!(rig.switch.prepare_sleep());
    }
}

#[test]
fn a_client_that_takes_no_completions_does_not_keep_the_switch_awake() {
    let mut rig = Rig::new();
    rig.attach(&Attach { id: 1, capacity: 64, transmit: 64, ..Attach::default() });
    rig.listen(1, "10.0.0.1", UDP, 1);
    for _ in 0..64 {
        rig.client(1).send(&out(1));
    }
    rig.run();
    let slot = rig.client(1).transmit.first;
    rig.client(1).send_raw(RawDescriptor::new(slot, 0, 60));
    assert_eq!(rig.step(), 0, "there is no place to give the slot back");
    assert!(rig.switch.prepare_sleep(), "no step could change that");
    rig.switch.woke();
    rig.client(1).collect();
    assert!(!rig.switch.prepare_sleep(), "now one could");
}

#[test]
fn a_sleeping_client_is_woken_once_a_burst() {
    let mut rig = rig();
    for id in 1..=2 {
        // Awake: it will look.
        rig.wires[0].lock().incoming.extend((0..10).map(|_| to(id)));
        rig.step();
        assert_eq!(rig.client(id).wakeups(), 0);
        rig.received(id);
        rig.step();
        // Asleep: one for frames and completions together.
        rig.client(id).queues.sleep.raise();
        rig.wires[0].lock().incoming.extend((0..10).map(|_| to(id)));
        rig.client(id).send(&out(id));
        rig.step();
        assert_eq!(rig.client(id).wakeups(), 1);
        // Nothing came: none.
        rig.step();
        rig.wires[0].lock().incoming.push_back(to(3 - id));
        rig.step();
        assert_eq!(rig.client(id).wakeups(), 0);
        rig.received(3 - id);
        // Awake again.
        rig.client(id).queues.sleep.lower();
        rig.wires[0].lock().incoming.push_back(to(id));
        rig.step();
        assert_eq!(rig.client(id).wakeups(), 0);
        let sessions = rig.check().sessions;
        assert_eq!(sessions[usize::from(id) - 1].counters.wakeups, 1);
        rig.received(id);
        rig.run();
    }
}

#[test]
fn a_client_that_never_reads_its_wake_socket_blocks_nobody() {
    let mut rig = rig();
    rig.client(1).queues.sleep.raise();
    for _ in 0..3000 {
        rig.wires[0].lock().incoming.push_back(to(1));
        rig.step();
        rig.client(1).take(1);
        rig.client(1).give_back(1);
    }
    assert_eq!(rig.check().sessions[0].counters.delivered, 3000);
    // Nor one that has closed it.
    rig.client(1).wake = None;
    rig.wires[0].lock().incoming.push_back(to(1));
    rig.step();
    assert_eq!(rig.check().sessions[0].counters.delivered, 3001);
}

#[test]
fn slots_that_come_home_from_a_liar_wake_their_owner() {
    let mut rig = Rig::new();
    for id in 1..=2 {
        rig.attach(&Attach { id, mode: Mode::Group(1), ..Attach::default() });
        rig.listen(id, "10.0.0.1", UDP, id);
    }
    let slot = rig.client(1).send(&outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp(1, 2));
    rig.run();
    rig.client(1).queues.sleep.raise();
    rig.client(2).store(Word::FirstProduced, 5000);
    // As the daemon goes: it steps until there is nothing to do, and then sleeps.
    let mut steps = 0;
    while rig.step() > 0 || !rig.switch.prepare_sleep() {
        steps += 1;
        assert!(steps < 10);
    }
    assert_eq!(rig.client(1).wakeups(), 1);
    assert_eq!(rig.client(1).collect(), [slot]);
}
