//! Decisions that are remembered: nobody can tell them from those that are made anew.

use crate::support::frames::*;
use crate::support::rig::Fate::{Client, Dropped, Host, Wire};
use crate::support::rig::{Attach, Rig};
use core::time::Duration;
use usnet_shmring::ledger::SessionId;
use usnet_switch::verdict::DropReason::{Malformed, SpoofedPort, TableFull};

#[test]
fn a_client_that_loses_its_port_may_not_send_one_frame_more_from_it() {
    let mut rig = Rig::new();
    rig.attach_plain(1);
    rig.attach_plain(2);
    let frame = outward("10.0.0.1", "10.0.0.9").udp(7, 9);
    for _ in 0..3 {
        rig.listen(1, "10.0.0.1", UDP, 7);
        assert_eq!([1, 1, 1].map(|id| rig.sends(id, &frame)), [[Wire], [Wire], [Wire]]);
        assert_eq!(rig.sends(2, &frame), [Dropped(SpoofedPort)], "it is another's decision");
        rig.listen(2, "10.0.0.1", UDP, 7);
        assert_eq!(rig.sends(1, &frame), [Dropped(SpoofedPort)]);
        assert_eq!(rig.sends(2, &frame), [Wire]);
    }
}

#[test]
fn frames_between_two_clients_follow_the_listener_at_once() {
    let mut rig = Rig::new();
    for id in 1..=3 {
        rig.attach_plain(id);
    }
    rig.listen(1, "10.0.0.1", UDP, 7);
    let frame = outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp(7, 9);
    for _ in 0..3 {
        rig.listen(2, "10.0.0.1", UDP, 9);
        assert_eq!([(); 2].map(|()| rig.sends(1, &frame)), [[Client(2)], [Client(2)]]);
        rig.listen(3, "10.0.0.1", UDP, 9);
        assert_eq!(rig.sends(1, &frame), [Client(3)]);
        rig.claim(0, "10.0.0.1", UDP, 9, None).unwrap();
        assert_eq!(rig.sends(1, &frame), [Host]);
    }
}

#[test]
fn the_next_client_with_a_number_inherits_no_decision() {
    let mut rig = Rig::new();
    rig.attach_owner(1, "10.0.0.50");
    let (to, from) = (inward("10.0.0.9", "10.0.0.50"), outward("10.0.0.50", "10.0.0.9"));
    for _ in 0..2 {
        assert_eq!(rig.arrives(&to.udp(9, 7)), [Client(1)]);
        assert_eq!(rig.sends(1, &from.udp(7, 9)), [Wire]);
    }
    rig.switch.detach(SessionId(1));
    rig.take_events();
    rig.attach_plain(1);
    assert_eq!(rig.arrives(&to.udp(9, 7)), [Host]);
    assert_ne!(rig.sends(1, &from.udp(7, 9)), [Wire]);
}

#[test]
fn a_learned_flow_stays_fresh_by_every_frame_in_either_direction() {
    let mut rig = Rig::new();
    rig.attach(&Attach { id: 1, quota: 1, ..Attach::default() });
    let frame = outward("10.0.0.1", "10.0.0.9").udp(40_000, 53);
    let answer = inward("10.0.0.9", "10.0.0.1").udp(53, 40_000);
    let other = outward("10.0.0.1", "10.0.0.9").udp(40_001, 53);
    assert_eq!(rig.sends(1, &frame), [Wire]);
    for turn in 0..20 {
        rig.now = rig.now + Duration::from_secs(100);
        if turn < 10 {
            assert_eq!(rig.sends(1, &frame), [Wire]);
        } else {
            assert_eq!(rig.arrives(&answer), [Client(1)]);
        }
    }
    rig.now = rig.now + Duration::from_secs(100);
    assert_eq!(rig.sends(1, &other), [Dropped(TableFull)], "its one flow is in use");
    rig.now = rig.now + Duration::from_secs(100);
    assert_eq!(rig.sends(1, &other), [Wire], "its one flow is idle");
    assert_eq!(rig.arrives(&answer), [Host]);
    assert_eq!(rig.sends(1, &frame), [Dropped(TableFull)]);
}

#[test]
fn the_lengths_of_every_frame_of_a_flow_are_checked() {
    let mut rig = Rig::new();
    rig.attach_plain(1);
    rig.listen(1, "10.0.0.1", UDP, 7);
    rig.listen(1, "10.0.0.1", TCP, 7);
    for (protocol, at, wrong) in [
        (UDP, 16, [0xff, 0xff]),
        (UDP, 16, [0, 20]),
        (UDP, 38, [0, 7]),
        (UDP, 38, [1, 0]),
        (TCP, 46, [0x40, 0x10]),
        (TCP, 46, [0xf0, 0x10]),
        (TCP, 16, [0, 39]),
    ] {
        let (arrives, leaves) = (inward("10.0.0.9", "10.0.0.1"), outward("10.0.0.1", "10.0.0.9"));
        let (good_in, good_out) = (arrives.ports(protocol, 9, 7), leaves.ports(protocol, 7, 9));
        for _ in 0..2 {
            assert_eq!(rig.arrives(&good_in), [Client(1)]);
            assert_eq!(rig.sends(1, &good_out), [Wire]);
        }
        let spoil = |frame: &[u8]| {
            let mut bad = frame.to_vec();
            bad[at..at + 2].copy_from_slice(&wrong);
            bad
        };
        assert_eq!(rig.arrives(&spoil(&good_in)), [Dropped(Malformed)], "{protocol} {at}");
        assert_eq!(rig.sends(1, &spoil(&good_out)), [Dropped(Malformed)], "{protocol} {at}");
    }
}
