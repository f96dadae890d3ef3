//! Who receives what arrives: exact flow, listener, address, default, nobody.

use crate::support::frames::*;
use crate::support::rig::Fate::{Client, Dropped, Host, Wire};
use crate::support::rig::{Attach, Options, Rig};
use core::time::Duration;
use usnet_shmring::ledger::SessionId;
use usnet_switch::classify::{Flow, Payload, Protocol, classify};
use usnet_switch::steer::Table;
use usnet_switch::switch::SwitchError;
use usnet_switch::time::Time;
use usnet_switch::verdict::DropReason::{Malformed, NoReceiver, NotForUs, SessionEnded};
use usnet_switch::verdict::Receiver;

#[test]
fn the_exact_flow_comes_before_the_listener_before_the_address_before_the_default() {
    let mut rig = Rig::new();
    rig.attach_plain(1);
    rig.attach_plain(2);
    rig.attach_owner(3, "10.0.0.50");
    // 1 learns a flow from a free port, then 2 is given that port.
    assert_eq!(rig.sends(1, &outward("10.0.0.1", "10.0.0.9").udp(40_000, 53)), [Wire]);
    rig.listen(2, "10.0.0.1", UDP, 40_000);
    let answer = inward("10.0.0.9", "10.0.0.1").udp(53, 40_000);
    assert_eq!(rig.arrives(&answer), [Client(1)], "exact");
    let other_port = inward("10.0.0.9", "10.0.0.1").udp(54, 40_000);
    assert_eq!(rig.arrives(&other_port), [Client(2)], "listener, by port");
    let other_end = inward("10.0.0.8", "10.0.0.1").udp(53, 40_000);
    assert_eq!(rig.arrives(&other_end), [Client(2)], "listener, by address");
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").udp(53, 1)), [Host], "address");
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.50").udp(53, 1)), [Client(3)], "address");
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.77").udp(53, 1)), [Host], "default");
}

#[test]
fn without_a_host_what_nobody_claims_is_dropped() {
    let mut rig = Rig::with(Options { host: false, ..Options::default() });
    rig.attach_plain(1);
    rig.listen(1, "10.0.0.1", UDP, 7);
    let to = inward("10.0.0.9", "10.0.0.1");
    assert_eq!(rig.arrives(&to.udp(1, 7)), [Client(1)]);
    assert_eq!(rig.arrives(&to.udp(1, 8)), [Dropped(NoReceiver)]);
    assert_eq!(rig.arrives(&to.echo_request(7)), [Dropped(NoReceiver)]);
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.77").udp(1, 7)), [Dropped(NoReceiver)]);
    assert_eq!(rig.arrives(&ethernet(OURS, PEER, 0x88cc, &[0; 50])), [Dropped(NoReceiver)]);
}

#[test]
fn a_rule_is_no_learned_flow_and_never_grows_old() {
    let flow = |port| Flow {
        source: ip("10.0.0.9").into(),
        destination: ip("10.0.0.1").into(),
        protocol: Protocol::UDP,
        source_port: port,
        destination_port: 7,
        ports_known: true,
    };
    let (a, b) = (Receiver::Client(SessionId(1)), Receiver::Client(SessionId(2)));
    let mut table = Table::new(Some(Receiver::Host), 1);
    table.add_address(ip("10.0.0.1").into(), Some(Receiver::Host));
    assert!(table.set_listener(ip("10.0.0.1").into(), Protocol::UDP, 7, 1, Some(b)));
    // What was learned first becomes a rule, and stays one.
    table.learn(flow(1), a, Time(0)).unwrap();
    table.add_exact(flow(1), a, Time(0)).unwrap();
    let later = Time(0) + Duration::from_secs(1000);
    for port in 2..u16::MAX {
        let _ = table.learn(flow(port), b, later);
    }
    let last = later + Duration::from_secs(1000);
    for port in 2..u16::MAX {
        let _ = table.learn(Flow { protocol: Protocol::TCP, ..flow(port) }, b, last);
    }
    assert_eq!(table.lookup(&flow(1), last), Some(a));
}

#[test]
fn a_change_acts_on_the_next_frame() {
    let mut rig = Rig::new();
    rig.attach_plain(1);
    rig.attach_plain(2);
    let frame = inward("10.0.0.9", "10.0.0.1").udp(1, 7);
    for _ in 0..3 {
        assert_eq!(rig.arrives(&frame), [Host]);
        rig.listen(1, "10.0.0.1", UDP, 7);
        assert_eq!(rig.arrives(&frame), [Client(1)]);
        rig.listen(2, "10.0.0.1", UDP, 7);
        assert_eq!(rig.arrives(&frame), [Client(2)]);
        rig.claim(0, "10.0.0.1", UDP, 7, None).unwrap();
    }
}

#[test]
fn rules_of_one_interface_never_reach_another() {
    let mut rig = Rig::with(Options { interfaces: 2, ..Options::default() });
    rig.attach(&Attach { id: 1, addresses: vec![ip("10.0.0.1")], ..Attach::default() });
    rig.listen(1, "10.0.0.1", UDP, 7);
    let frame = inward("10.0.0.9", "10.0.0.1").udp(1, 7);
    assert_eq!(rig.arrives(&frame), [Client(1)]);
    let elsewhere = inward("10.0.0.9", "10.0.0.1").to_link(crate::support::rig::mac(1)).udp(1, 7);
    let (fates, _) = rig.fates(|rig| rig.wires[1].lock().incoming.push_back(elsewhere));
    assert_eq!(fates, [Host], "the other interface has no such rule");
    assert_eq!(rig.hosts[0].as_ref().unwrap().lock().outgoing.len(), 0);
    let flooded = arp(BROADCAST, PEER, 2, PEER, "10.0.0.9", "10.0.0.1");
    let (fates, _) = rig.fates(|rig| rig.wires[1].lock().incoming.push_back(flooded));
    assert_eq!(fates, [Host], "nor are its floods heard");
    let refused = rig.claim(1, "10.0.1.1", UDP, 7, Some(1));
    assert!(matches!(refused, Err(SwitchError::NoSession(_))), "{refused:?}");
    let refused = rig.claim(1, "10.0.0.1", UDP, 7, None);
    assert!(matches!(refused, Err(SwitchError::NotClaimable { .. })), "{refused:?}");
}

#[test]
fn a_rule_is_only_for_a_session_that_is_there() {
    let mut rig = Rig::new();
    assert!(matches!(rig.claim(0, "10.0.0.1", UDP, 7, Some(1)), Err(SwitchError::NoSession(_))));
    rig.attach_plain(1);
    rig.listen(1, "10.0.0.1", UDP, 7);
    rig.switch.detach(SessionId(1));
    rig.take_events();
    assert!(matches!(rig.claim(0, "10.0.0.1", UDP, 7, Some(1)), Err(SwitchError::NoSession(_))));
    rig.attach_plain(1);
    let frame = inward("10.0.0.9", "10.0.0.1").udp(1, 7);
    assert_eq!(rig.arrives(&frame), [Host], "a number that is used again inherits nothing");
}

#[test]
fn ports_of_each_protocol_are_their_own() {
    let protocols = [TCP, UDP, UDP_LITE, SCTP, DCCP];
    let mut rig = Rig::new();
    for (id, protocol) in (1..).zip(protocols) {
        rig.attach_plain(id);
        rig.listen(id, "10.0.0.1", protocol, 7);
        rig.listen(id, "fd00::1", protocol, 7);
    }
    for (id, protocol) in (1..).zip(protocols) {
        for (us, them) in [("10.0.0.1", "10.0.0.9"), ("fd00::1", "fd00::9")] {
            let to = inward(them, us);
            assert_eq!(rig.arrives(&to.ports(protocol, 9, 7)), [Client(id)], "{protocol}");
            assert_eq!(rig.arrives(&to.ports(protocol, 7, 9)), [Host], "{protocol}");
        }
    }
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").rest(GRE)), [Host]);
    assert!(matches!(
        rig.claim(0, "10.0.0.1", ICMP, 7, Some(1)),
        Err(SwitchError::NotClaimable { protocol: ICMP, .. })
    ));
}

#[test]
fn every_port_from_the_first_to_the_last_can_be_held() {
    let mut rig = Rig::new();
    rig.attach_plain(1);
    for port in [0, 1, 1023, 32_768, 65_535] {
        rig.listen(1, "10.0.0.1", UDP, port);
        let to = inward("10.0.0.9", "10.0.0.1");
        assert_eq!(rig.arrives(&to.udp(9, port)), [Client(1)], "{port}");
        for beside in [port.checked_sub(1), port.checked_add(1)].into_iter().flatten() {
            assert_eq!(rig.arrives(&to.udp(9, beside)), [Host], "{beside}");
        }
        rig.claim(0, "10.0.0.1", UDP, port, None).unwrap();
    }
}

#[test]
fn later_pieces_follow_the_first_and_no_other_listener() {
    for (us, them) in [("10.0.0.1", "10.0.0.9"), ("fd00::1", "fd00::9")] {
        let mut rig = Rig::new();
        rig.attach_plain(1);
        rig.attach_plain(2);
        rig.listen(1, us, UDP, 7);
        rig.listen(2, us, UDP, 8);
        let to = inward(them, us);
        assert_eq!(rig.arrives(&to.first(1).udp(9, 7)), [Client(1)]);
        assert_eq!(rig.arrives(&to.first(2).udp(9, 8)), [Client(2)]);
        assert_eq!(rig.arrives(&to.first(3).udp(9, 9)), [Host]);
        assert_eq!(rig.arrives(&to.later(1).rest(UDP)), [Client(1)]);
        assert_eq!(rig.arrives(&to.later(2).rest(UDP)), [Client(2)]);
        assert_eq!(rig.arrives(&to.later(3).rest(UDP)), [Host]);
        let other_end = inward(if them == "fd00::9" { "fd00::8" } else { "10.0.0.8" }, us);
        assert_eq!(rig.arrives(&other_end.later(1).rest(UDP)), [], "another datagram");
        // A second first piece that names another port is nobody's.
        assert_eq!(rig.arrives(&to.first(1).udp(9, 8)), [Dropped(NoReceiver)]);
        assert_eq!(rig.arrives(&to.first(3).udp(9, 8)), [Dropped(NoReceiver)]);
        assert_eq!(rig.arrives(&to.first(1).udp(9, 7)), [Client(1)], "the same one again is fine");
        rig.now = rig.now + Duration::from_secs(31);
        let (fates, _) = rig.fates(|_| {});
        assert_eq!(fates, [Host], "of the other datagram");
        assert_eq!(rig.arrives(&to.later(2).rest(UDP)), [], "too late");
        assert_eq!(rig.arrives(&to.first(1).udp(9, 8)), [Client(2)], "a new datagram");
    }
}

#[test]
fn later_pieces_follow_a_first_whose_transport_lies_behind_another_header() {
    let mut rig = Rig::new();
    rig.attach_plain(1);
    rig.listen(1, "fd00::1", UDP, 7);
    let to = inward("fd00::9", "fd00::1");
    // Destination options (eight bytes of padding), then UDP; every piece names the options.
    let body = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &[0, 9, 0, 7, 0, 96, 0, 0], &[0; 8]].concat();
    assert_eq!(rig.arrives(&to.first(1).ip(DESTINATION_OPTIONS, &body)), [Client(1)]);
    assert_eq!(rig.arrives(&to.later(1).rest(DESTINATION_OPTIONS)), [Client(1)]);
}

#[test]
fn learned_flows_of_one_client_are_not_shown_to_the_next_with_its_number() {
    let mut rig = Rig::new();
    rig.attach_plain(1);
    assert_eq!(rig.sends(1, &outward("10.0.0.1", "10.0.0.9").udp(40_000, 53)), [Wire]);
    assert_eq!(rig.switch.snapshot().interfaces[0].flows, 1);
    rig.switch.detach(SessionId(1));
    rig.take_events();
    assert_eq!(rig.switch.snapshot().interfaces[0].flows, 0);
    rig.attach_plain(1);
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").udp(53, 40_000)), [Host]);
}

#[test]
fn an_address_that_a_client_gave_back_is_as_before() {
    let mut rig = Rig::new();
    rig.attach_plain(2);
    let frame = inward("10.0.0.9", "10.0.0.50").udp(9, 7);
    let question = who_has(OURS, "10.0.0.1", "10.0.0.50");
    for _ in 0..3 {
        assert_eq!(rig.arrives(&frame), [Host]);
        assert_eq!(rig.sends(2, &question), [Wire], "nobody here has it");
        assert!(matches!(
            rig.claim(0, "10.0.0.50", UDP, 7, Some(2)),
            Err(SwitchError::NotClaimable { .. })
        ));
        rig.attach_owner(1, "10.0.0.50");
        assert_eq!(rig.arrives(&frame), [Client(1)]);
        rig.switch.detach(SessionId(1));
        rig.take_events();
    }
    // An address of the interface itself goes back to the host.
    rig.attach_owner(1, "10.0.0.1");
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").udp(9, 7)), [Client(1)]);
    rig.switch.detach(SessionId(1));
    rig.take_events();
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").udp(9, 7)), [Host]);
}

#[test]
fn an_address_is_exclusive_to_one_client() {
    let mut rig = Rig::new();
    rig.attach_owner(1, "10.0.0.50");
    let mut second = Attach { id: 2, ..Attach::default() };
    second.exclusive.push(ip("10.0.0.50"));
    let refused = rig.try_attach(&second);
    assert!(matches!(refused, Err(SwitchError::AddressTaken(_))), "{refused:?}");
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.50").udp(9, 7)), [Client(1)]);
    rig.attach_plain(2);
}

#[test]
fn malformed_frames_and_those_for_others_go_nowhere() {
    let mut rig = Rig::new();
    rig.attach_owner(1, "10.0.0.50");
    rig.listen(1, "10.0.0.1", UDP, 7);
    let good = inward("10.0.0.9", "10.0.0.1").udp(9, 7);
    let with = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        frame
    };
    let malformed = [
        Vec::new(),
        good[..13].to_vec(),
        good[..30].to_vec(),
        good[..good.len() - 1].to_vec(),
        with(14, 0x44),
        with(14, 0x55),
        with(17, 19),
        with(39, 7),
        with(6, 1),
        tagged(&tagged(&tagged(&good, 1), 2), 3),
        arp(OURS, PEER, 3, PEER, "10.0.0.9", "10.0.0.1"),
        inward("127.0.0.1", "10.0.0.1").udp(9, 7),
        inward("224.0.0.1", "10.0.0.1").udp(9, 7),
    ];
    for frame in malformed {
        assert_eq!(rig.arrives(&frame), [Dropped(Malformed)], "{frame:02x?}");
        if frame.len() >= 14 {
            assert_eq!(rig.host_sends(&frame), [Dropped(Malformed)], "{frame:02x?}");
            assert_eq!(rig.sends(1, &frame), [Dropped(Malformed)], "{frame:02x?}");
        }
    }
    let other = inward("10.0.0.9", "10.0.0.1").to_link(PEER).udp(9, 7);
    assert_eq!(rig.arrives(&other), [Dropped(NotForUs)]);
}

#[test]
fn tagged_frames_reach_the_host_and_no_client() {
    let mut rig = Rig::new();
    rig.attach_owner(1, "10.0.0.50");
    rig.attach_plain(2);
    rig.listen(2, "10.0.0.1", UDP, 7);
    let frames = [
        inward("10.0.0.9", "10.0.0.1").udp(9, 7),
        inward("10.0.0.9", "10.0.0.50").udp(9, 7),
        inward("10.0.0.9", "10.0.0.255").to_link(BROADCAST).udp(9, 7),
        arp(BROADCAST, PEER, 2, PEER, "10.0.0.9", "10.0.0.9"),
        arp(BROADCAST, PEER, 1, PEER, "10.0.0.9", "10.0.0.50"),
    ];
    for frame in &frames {
        for tagged in [tagged(frame, 5), tagged(&tagged(frame, 6), 5), tagged(&tagged(frame, 6), 0)]
        {
            assert_eq!(rig.arrives(&tagged), [Host], "{tagged:02x?}");
        }
    }
    let from_kernel = arp(BROADCAST, OURS, 2, OURS, "10.0.0.1", "10.0.0.1");
    assert_eq!(rig.host_sends(&tagged(&from_kernel, 5)), [Wire]);
    let question = arp(BROADCAST, OURS, 1, OURS, "10.0.0.1", "10.0.0.50");
    assert_eq!(rig.host_sends(&tagged(&question, 5)), [Wire], "another network's address");
    let broadcast = outward("10.0.0.1", "10.0.0.255").to_link(BROADCAST).udp(9, 7);
    assert_eq!(rig.host_sends(&tagged(&broadcast, 5)), [Wire]);
}

#[test]
fn a_priority_tag_is_taken_off_before_a_client_sees_the_frame() {
    let mut rig = Rig::new();
    rig.attach_plain(1);
    rig.listen(1, "10.0.0.1", UDP, 7);
    let frame = inward("10.0.0.9", "10.0.0.1").udp(9, 7);
    for given in [tagged(&frame, 0), tagged(&tagged(&frame, 0), 0), tagged(&frame, 0xe000)] {
        let (fates, out) = rig.fates(|rig| rig.wires[0].lock().incoming.push_back(given));
        assert_eq!(fates, [Client(1)]);
        assert_eq!(out.clients[0].1, frame);
    }
}

#[test]
fn what_goes_between_local_ends_never_touches_the_wire() {
    let mut rig = Rig::new();
    rig.attach_plain(1);
    rig.attach_owner(2, "10.0.0.50");
    rig.listen(1, "10.0.0.1", UDP, 7);
    let to_own = outward("10.0.0.1", "10.0.0.50").to_link(OURS).udp(7, 9);
    assert_eq!(rig.sends(1, &to_own), [Client(2)]);
    let to_host = outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp(7, 22);
    assert_eq!(rig.sends(1, &to_host), [Host]);
    let from_host = outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp(22, 7);
    assert_eq!(rig.host_sends(&from_host), [Client(1)]);
    let to_neighbor = outward("10.0.0.1", "10.0.0.9").udp(22, 7);
    assert_eq!(rig.host_sends(&to_neighbor), [Wire]);
}

#[test]
fn a_frame_for_a_session_that_has_ended_is_counted() {
    let mut rig = Rig::new();
    rig.attach_plain(1);
    rig.attach_plain(2);
    rig.listen(1, "10.0.0.1", UDP, 7);
    rig.listen(2, "10.0.0.1", UDP, 8);
    // 1 lies about what it has consumed: found in the middle of a burst, when its ring looks full.
    let (fates, _) = rig.fates(|rig| {
        rig.client(1).store(usnet_shmring::layout::Word::FirstConsumed, 999);
        for _ in 0..130 {
            let frame = inward("10.0.0.9", "10.0.0.1").udp(9, 7);
            rig.wires[0].lock().incoming.push_back(frame);
        }
        let frame = inward("10.0.0.9", "10.0.0.1").udp(9, 8);
        rig.wires[0].lock().incoming.push_back(frame);
    });
    assert!(fates.contains(&Client(2)), "{fates:?}");
    assert!(fates.contains(&Dropped(SessionEnded)), "{fates:?}");
}

#[test]
fn frames_are_what_the_builders_say() {
    // The tests lean on the frames; the classifier's own tests are elsewhere.
    for protocol in [TCP, UDP, UDP_LITE, SCTP, DCCP] {
        for (us, them) in [("10.0.0.1", "10.0.0.9"), ("fd00::1", "fd00::9")] {
            let seen = classify(&inward(them, us).ports(protocol, 9, 7)).unwrap();
            let Payload::Ip(packet) = seen.payload else { panic!("{seen:?}") };
            assert_eq!((packet.flow.source_port, packet.flow.destination_port), (9, 7));
        }
    }
}
