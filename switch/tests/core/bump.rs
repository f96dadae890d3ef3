//! A bump in the wire: another network behind the host port. What no client claims goes through it as if
//! it were a cable.

use crate::any_frame::{HERE, THERE, any_frame};
use crate::support::frames::*;
use crate::support::rig::Fate::{Client, Consumed, Dropped, Host, Wire};
use crate::support::rig::{Attach, Fate, Mode, Options, Rig};
use proptest::collection::vec;
use proptest::prelude::*;
use usnet_switch::classify::{Mac, classify};
use usnet_switch::switch::Behind;
use usnet_switch::verdict::DropReason::{Malformed, NoReceiver, SpoofedMac, SpoofedPort};

fn bump() -> Rig {
    Rig::with(Options { behind: Behind::Network, ..Options::default() })
}

/// With client 1, who has port 7 of the shared address, and client 2, who has an address alone.
fn with_clients() -> Rig {
    let mut rig = bump();
    rig.attach_plain(1);
    rig.listen(1, "10.0.0.1", UDP, 7);
    rig.attach_owner(2, "10.0.0.50");
    rig
}

/// One frame of every kind that is no client's, as a station sends it to `to`.
fn strangers(from: Mac, to: Mac) -> Vec<Vec<u8>> {
    let at = |destination| inward("10.0.0.9", destination).link(from).to_link(to);
    let six = inward("fd00::9", "fd00::8").link(from).to_link(to);
    vec![
        at("10.0.0.8").udp(9, 7),
        at("192.0.2.1").tcp(9, 80),
        at("10.0.0.8").echo_request(1),
        at("10.0.0.8").first(3).udp(9, 9),
        at("10.0.0.8").later(3).rest(UDP),
        at("10.0.0.8").ip(GRE, &[0; 32]),
        six.udp(9, 7),
        tagged(&at("10.0.0.8").udp(9, 7), 5),
        arp(to, from, 2, from, "10.0.0.9", "10.0.0.8"),
        ethernet(to, from, 0x88cc, &[0; 50]),
        ethernet(to, from, 0x0800, &[0x45; 20]),
        ethernet(to, from, 0x0800, &[]),
    ]
}

#[test]
fn whatever_is_for_another_link_address_goes_through_as_it_came_both_ways() {
    for mut rig in [bump(), with_clients()] {
        for frame in strangers(HERE, THERE) {
            let (fates, out) =
                rig.fates(|rig| rig.wires[0].lock().incoming.push_back(frame.clone()));
            assert_eq!((fates, out.host), (vec![Host], vec![frame]));
        }
        for frame in strangers(THERE, HERE) {
            let host = rig.hosts[0].clone().unwrap();
            let (fates, out) = rig.fates(|_| host.lock().incoming.push_back(frame.clone()));
            assert_eq!((fates, out.wire), (vec![Wire], vec![frame]));
        }
    }
}

#[test]
fn what_no_client_claims_at_the_shared_address_goes_through_and_the_rest_does_not() {
    let mut rig = with_clients();
    let to = |port| inward("10.0.0.9", "10.0.0.1").udp(9, port);
    for _ in 0..3 {
        assert_eq!(rig.arrives(&to(7)), [Client(1)]);
        assert_eq!(rig.arrives(&to(22)), [Host]);
        assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.50").tcp(9, 22)), [Client(2)]);
        assert_eq!(rig.arrives(&inward("10.0.0.9", "203.0.113.9").tcp(9, 22)), [Host], "routed");
        // From behind alike.
        assert_eq!(rig.host_sends(&to(7)), [Client(1)]);
        assert_eq!(rig.host_sends(&to(22)), [Wire]);
        assert_eq!(rig.host_sends(&inward("10.0.0.9", "10.0.0.50").tcp(9, 22)), [Client(2)]);
    }
    rig.claim(0, "10.0.0.1", UDP, 7, None).unwrap();
    assert_eq!(rig.arrives(&to(7)), [Host]);
    assert_eq!(rig.host_sends(&to(7)), [Wire]);
}

#[test]
fn tags_stay_on_what_goes_through_and_a_priority_is_taken_off_for_clients() {
    let mut rig = with_clients();
    let frame = inward("10.0.0.9", "10.0.0.1").udp(9, 7);
    let (fates, out) = rig.fates(|rig| rig.wires[0].lock().incoming.push_back(tagged(&frame, 0)));
    assert_eq!((fates, &out.clients[0].1), (vec![Client(1)], &frame));
    // Of a VLAN, which clients have none of, though the port is claimed.
    for frame in [tagged(&frame, 5), tagged(&inward("10.0.0.9", "10.0.0.1").udp(9, 8), 0)] {
        let (fates, out) = rig.fates(|rig| rig.wires[0].lock().incoming.push_back(frame.clone()));
        assert_eq!((fates, out.host), (vec![Host], vec![frame]));
    }
    let to_all = tagged(&inward("10.0.0.9", "10.0.0.255").to_link(BROADCAST).udp(9, 7), 0);
    let (fates, out) = rig.fates(|rig| rig.wires[0].lock().incoming.push_back(to_all.clone()));
    assert_eq!(fates, [Client(1), Host]);
    assert_eq!(out.host, std::slice::from_ref(&to_all));
    assert!(
        classify(&out.clients[0].1).unwrap().vlan.is_none()
            && out.clients[0].1.len() + 4 == to_all.len()
    );
}

#[test]
fn groups_go_on_and_to_the_clients_that_care() {
    let mut rig = with_clients();
    let to_all = |port| inward("10.0.0.9", "224.0.0.251").to_link(BROADCAST).udp(9, port);
    assert_eq!(rig.arrives(&to_all(7)), [Client(1), Host]);
    assert_eq!(rig.host_sends(&to_all(7)), [Client(1), Wire]);
    assert_eq!(rig.arrives(&to_all(9)), [Host, Consumed], "a copy that nobody wants");
    let spanning_tree = ethernet(Mac([1, 0x80, 0xc2, 0, 0, 0]), HERE, 0x0026, &[0x42; 38]);
    assert_eq!(rig.arrives(&spanning_tree), [Host]);
    assert_eq!(
        rig.arrives(&inward("10.0.0.9", "255.255.255.255").to_link(BROADCAST).udp(68, 67)),
        [Host]
    );
    // Answers that say where somebody is: to all clients, and on.
    let answer = |from| arp(OURS, from, 2, from, "10.0.0.9", "10.0.0.1");
    assert_eq!(rig.arrives(&answer(HERE)), [Client(1), Client(2), Host]);
    assert_eq!(rig.host_sends(&answer(THERE)), [Client(1), Client(2), Wire]);
    let mut rig = bump();
    assert_eq!(rig.arrives(&to_all(7)), [Host]);
    assert_eq!(rig.host_sends(&to_all(7)), [Wire]);
}

#[test]
fn for_an_address_that_a_client_has_alone_the_switch_answers_where_it_was_asked() {
    let mut rig = with_clients();
    let (fates, out) = rig.fates(|rig| {
        rig.wires[0].lock().incoming.push_back(who_has(HERE, "10.0.0.9", "10.0.0.50"))
    });
    assert_eq!(fates, [Wire, Consumed]);
    assert_eq!(out.wire[0][..12], [HERE.0, OURS.0].concat());
    let host = rig.hosts[0].clone().unwrap();
    let (fates, out) =
        rig.fates(|_| host.lock().incoming.push_back(who_has(THERE, "10.0.0.8", "10.0.0.50")));
    assert_eq!(fates, [Host, Consumed]);
    assert_eq!(out.host[0][..12], [THERE.0, OURS.0].concat());
    // Whoever has the shared address answers for it.
    assert_eq!(rig.arrives(&who_has(HERE, "10.0.0.9", "10.0.0.1")), [Host]);
    assert_eq!(rig.host_sends(&who_has(THERE, "10.0.0.8", "10.0.0.1")), [Wire]);
    let ask = inward("fd00::9", "ff02::1:ff00:1").to_link(Mac([0x33, 0x33, 0xff, 0, 0, 1]));
    assert_eq!(rig.arrives(&ask.neighbor(135, "fd00::1", HERE)), [Host]);
}

#[test]
fn what_cannot_be_read_is_dropped_only_if_it_may_be_a_clients() {
    let mut rig = with_clients();
    let broken = |to| ethernet(to, HERE, 0x0800, &[0x45; 20]);
    assert!(classify(&broken(OURS)).is_err());
    assert_eq!(rig.arrives(&broken(OURS)), [Dropped(Malformed)]);
    assert_eq!(rig.host_sends(&broken(OURS)), [Dropped(Malformed)]);
    assert_eq!(rig.arrives(&broken(THERE)), [Host]);
    assert_eq!(rig.arrives(&broken(BROADCAST)), [Host]);
    assert_eq!(rig.host_sends(&broken(BROADCAST)), [Wire]);
}

#[test]
fn a_client_reaches_a_station_on_the_side_where_it_was_heard_and_on_both_before() {
    let mut rig = with_clients();
    let to = |link| outward("10.0.0.1", "10.0.0.8").to_link(link).udp(7, 9);
    for link in [HERE, THERE] {
        let (fates, out) = rig.fates(|rig| {
            rig.client(1).send(&to(link));
        });
        assert_eq!(fates, [Host, Wire]);
        assert_eq!((&out.host, &out.wire), (&vec![to(link)], &vec![to(link)]));
    }
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").link(HERE).udp(9, 7)), [Client(1)]);
    assert_eq!(rig.host_sends(&inward("10.0.0.8", "10.0.0.1").link(THERE).udp(9, 7)), [Client(1)]);
    for _ in 0..2 {
        assert_eq!(rig.sends(1, &to(HERE)), [Wire]);
        assert_eq!(rig.sends(1, &to(THERE)), [Host]);
    }
    // It moves.
    assert_eq!(rig.arrives(&ethernet(HERE, THERE, 0x88cc, &[0; 50])), [Host]);
    assert_eq!(rig.sends(1, &to(THERE)), [Wire]);
    // Whoever shares the address, and its link address, is behind.
    assert_eq!(rig.sends(2, &outward("10.0.0.50", "10.0.0.1").to_link(OURS).tcp(9, 22)), [Host]);
    assert_eq!(
        rig.sends(2, &outward("10.0.0.50", "10.0.0.1").to_link(OURS).udp(9, 7)),
        [Client(1)]
    );
}

#[test]
fn a_clients_question_is_asked_on_both_sides_and_its_datagram_to_all_heard_on_both() {
    let mut rig = with_clients();
    assert_eq!(rig.sends(1, &who_has(OURS, "10.0.0.1", "10.0.0.9")), [Host, Wire]);
    let to_all = outward("10.0.0.50", "10.0.0.255").to_link(BROADCAST).udp(7, 7);
    assert_eq!(rig.sends(2, &to_all), [Client(1), Host, Wire]);
    // That one the switch answers.
    assert_eq!(rig.sends(1, &who_has(OURS, "10.0.0.1", "10.0.0.50")), [Client(1), Consumed]);
}

#[test]
fn clients_are_vetted_as_ever() {
    let mut rig = with_clients();
    assert_eq!(
        rig.sends(1, &outward("10.0.0.1", "10.0.0.9").link(THERE).udp(7, 9)),
        [Dropped(SpoofedMac)]
    );
    rig.listen(2, "10.0.0.50", UDP, 8);
    rig.attach_plain(3);
    assert_eq!(rig.sends(3, &outward("10.0.0.1", "10.0.0.9").udp(7, 9)), [Dropped(SpoofedPort)]);
    // Answers of what it began itself are its own, from whichever side.
    assert_eq!(rig.sends(3, &outward("10.0.0.1", "10.0.0.9").udp(40_000, 53)), [Host, Wire]);
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").udp(53, 40_000)), [Client(3)]);
    assert_eq!(rig.host_sends(&inward("10.0.0.9", "10.0.0.1").udp(53, 40_000)), [Client(3)]);
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").udp(54, 40_000)), [Host]);
}

#[test]
fn when_the_network_behind_is_gone_its_frames_are_counted_and_clients_serve_on() {
    let mut rig = with_clients();
    rig.hosts[0].as_ref().unwrap().lock().breaks = true;
    rig.arrives(&inward("10.0.0.9", "10.0.0.1").udp(9, 22));
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").udp(9, 22)), [Dropped(NoReceiver)]);
    assert_eq!(rig.arrives(&strangers(HERE, THERE)[0]), [Dropped(NoReceiver)]);
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").udp(9, 7)), [Client(1)]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// And both ways are alike: what a frame meets does not depend on the port it came in on.
    #[test]
    fn no_frame_leaves_by_the_port_that_it_came_in_on(frames in vec(any_frame(), 1..60)) {
        let rig = || {
            let mut rig = with_clients();
            rig.attach(&Attach { id: 3, mode: Mode::Shared, ..Attach::default() });
            rig.listen(3, "10.0.0.1", UDP, 3);
            rig
        };
        let (mut inwards, mut outwards) = (rig(), rig());
        let host = outwards.hosts[0].clone().unwrap();
        for frame in frames {
            let (there, out) = inwards.fates(|r| r.wires[0].lock().incoming.push_back(frame.clone()));
            // The switch's own answers begin with its address.
            prop_assert!(out.wire.iter().all(|back| back[6..12] == OURS.0 && *back != frame));
            prop_assert!(out.host.iter().all(|on| *on == frame), "it goes on as it came");
            let (back, out) = outwards.fates(|_| host.lock().incoming.push_back(frame.clone()));
            prop_assert!(out.host.iter().all(|back| back[6..12] == OURS.0 && *back != frame));
            prop_assert!(out.wire.iter().all(|on| *on == frame));
            let other = |fate: &Fate| match fate { Host => Wire, Wire => Host, fate => *fate };
            let mirrored: Vec<Fate> = back.iter().map(other).collect();
            prop_assert_eq!(&mut sorted(there), &mut sorted(mirrored));
        }
    }
}

fn sorted(mut fates: Vec<Fate>) -> Vec<Fate> {
    fates.sort_by_key(|fate| format!("{fate:?}"));
    fates
}
