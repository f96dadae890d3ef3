//! Nobody waits longer because somebody else is busy.

use crate::support::frames::*;
use crate::support::rig::{Attach, Mode, Rig};
use usnet_switch::port::BURST;

fn with_clients(count: u16) -> Rig {
    let mut rig = Rig::new();
    for id in 1..=count {
        rig.attach_plain(id);
        rig.listen(id, "10.0.0.1", UDP, id);
    }
    rig
}

fn out(id: u16) -> Vec<u8> {
    outward("10.0.0.1", "10.0.0.9").udp(id, 9)
}

/// Fills the client's tx ring again.
fn flood(rig: &mut Rig, id: u16, frame: &[u8]) {
    rig.client(id).collect();
    while rig.client(id).try_send(frame).is_some() {}
}

#[test]
fn each_source_moves_at_most_a_burst_a_step() {
    let mut rig = Rig::new();
    for id in 1..=2 {
        let attach = Attach { id, transmit: 128, capacity: 256, receive: 256, ..Attach::default() };
        rig.attach(&attach);
        rig.listen(id, "10.0.0.1", UDP, id);
    }
    let host = rig.hosts[0].clone().unwrap();
    for _ in 0..3 {
        let to = inward("10.0.0.9", "10.0.0.1").udp(9, 1);
        rig.wires[0].lock().incoming.extend((0..200).map(|_| to.clone()));
        host.lock().incoming.extend((0..200).map(|_| to.clone()));
        flood(&mut rig, 1, &out(1));
        flood(&mut rig, 2, &out(2));
        let before = rig.check();
        rig.step();
        let after = rig.check();
        assert_eq!(after.totals.received - before.totals.received, 2 * BURST as u64);
        for (before, after) in before.sessions.iter().zip(&after.sessions) {
            assert_eq!(after.counters.sent - before.counters.sent, BURST as u64);
        }
        rig.received(1);
    }
    // So do slots that come back.
    let mut rig = Rig::new();
    rig.attach(&Attach { id: 1, mode: Mode::Shared, capacity: 256, ..Attach::default() });
    rig.listen(1, "10.0.0.1", UDP, 1);
    let to = inward("10.0.0.9", "10.0.0.1").udp(9, 1);
    rig.wires[0].lock().incoming.extend((0..200).map(|_| to.clone()));
    rig.run();
    assert_eq!(rig.received(1).len(), 200);
    let moved: Vec<usize> = (0..5).map(|_| rig.step()).collect();
    assert_eq!(moved, [64, 64, 64, 8, 0]);
}

#[test]
fn a_flooding_client_delays_nobody_by_more_than_its_burst() {
    let mut rig = with_clients(3);
    for step in 0..50 {
        flood(&mut rig, 1, &out(1));
        let to_client = outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp(2, 3);
        rig.client(2).send(&out(2));
        rig.client(2).send(&to_client);
        rig.wires[0].lock().incoming.push_back(inward("10.0.0.9", "10.0.0.1").udp(9, 3));
        rig.step();
        let sent = std::mem::take(&mut rig.wires[0].lock().outgoing);
        assert_eq!(sent.iter().filter(|frame| **frame == out(2)).count(), 1, "step {step}");
        assert!(sent.len() <= BURST + 1, "step {step}");
        assert_eq!(rig.received(3).len(), 2, "step {step}");
    }
    assert_eq!(rig.check().totals.dropped.total(), 0);
}

#[test]
fn a_client_that_floods_another_hurts_only_what_goes_there() {
    let mut rig = with_clients(3);
    let to_victim = outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp(1, 2);
    for _ in 0..50 {
        flood(&mut rig, 1, &to_victim);
        rig.client(2).send(&out(2));
        rig.client(3).send(&out(3));
        rig.wires[0].lock().incoming.push_back(inward("10.0.0.9", "10.0.0.1").udp(9, 3));
        rig.step();
        let sent = std::mem::take(&mut rig.wires[0].lock().outgoing);
        assert_eq!(sent.len(), 2);
        assert_eq!(rig.received(3).len(), 1);
        for id in [2, 3] {
            rig.client(id).collect();
        }
    }
    let counters = rig.check().sessions;
    assert_eq!(counters[2].counters.dropped_to.total(), 0);
}

#[test]
fn clients_share_a_slow_port_in_turns() {
    let mut rig = with_clients(2);
    let mut shares = [0usize; 2];
    for _ in 0..400 {
        flood(&mut rig, 1, &out(1));
        flood(&mut rig, 2, &out(2));
        rig.wires[0].lock().room = Some(8);
        rig.step();
        for frame in std::mem::take(&mut rig.wires[0].lock().outgoing) {
            shares[usize::from(frame == out(2))] += 1;
        }
    }
    let all: usize = shares.iter().sum();
    assert_eq!(all, 3200, "the port is never idle");
    assert!(shares.iter().all(|share| share * 10 > all * 4), "{shares:?}");
}

#[test]
fn a_stopped_client_does_not_stop_the_others() {
    let mut rig = with_clients(2);
    let to = |id| inward("10.0.0.9", "10.0.0.1").udp(9, id);
    for _ in 0..100 {
        rig.wires[0].lock().incoming.extend((0..32).map(|_| to(1)));
        rig.wires[0].lock().incoming.extend((0..32).map(|_| to(2)));
        rig.step();
        assert_eq!(rig.received(2).len(), 32);
    }
    assert_eq!(rig.received(1).len(), 128, "its ring, and no more");
    rig.wires[0].lock().incoming.push_back(to(1));
    rig.step();
    assert_eq!(rig.received(1).len(), 1, "and it goes on as if nothing had been");
}
