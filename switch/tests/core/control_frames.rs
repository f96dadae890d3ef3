//! Frames that keep a network running: errors, echoes, address questions, broadcasts.

use crate::support::frames::*;
use crate::support::rig::Fate::{Client, Consumed, Dropped, Host, Wire};
use crate::support::rig::{Attach, Options, Rig};
use usnet_switch::classify::{Icmp, IpKind, Mac, Payload, classify};
use usnet_switch::verdict::DropReason::{NoReceiver, SpoofedPort, ToSelf};

const FAMILIES: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.9"), ("fd00::1", "fd00::9")];

#[test]
fn an_error_reaches_the_owner_of_the_flow_that_it_quotes() {
    for (us, them) in FAMILIES {
        let mut rig = Rig::new();
        rig.attach_plain(1);
        rig.attach_plain(2);
        rig.listen(1, us, UDP, 7);
        assert_eq!(rig.sends(2, &outward(us, them).udp(40_000, 53)), [Wire]);
        assert_eq!(rig.sends(2, &outward(us, them).echo_request(77)), [Wire]);
        let error = inward(them, us);
        let sent = outward(us, them);
        let about = |packet: &[u8]| error.unreachable(packet);
        assert_eq!(rig.arrives(&about(&sent.quoted_udp(7, 9))), [Client(1)], "listener");
        assert_eq!(rig.arrives(&about(&sent.quoted_udp(40_000, 53))), [Client(2)], "learned");
        assert_eq!(rig.arrives(&about(&sent.quoted_echo(77))), [Client(2)], "echo");
        assert_eq!(rig.arrives(&about(&sent.quoted_echo(78))), [Host], "another's echo");
        assert_eq!(rig.arrives(&about(&sent.quoted_udp(22, 9))), [Host]);
        assert_eq!(rig.arrives(&about(&sent.quoted_udp(40_000, 54))), [Host], "another flow");
        assert_eq!(rig.arrives(&about(&[0x45])), [Host], "no quote");
        // A router on the way reports it too.
        let router = if us.contains(':') { "fd00::fe" } else { "10.0.0.254" };
        let error = inward(router, us).unreachable(&sent.quoted_udp(7, 9));
        assert_eq!(rig.arrives(&error), [Client(1)]);
    }
}

#[test]
fn an_error_about_what_another_address_sent_is_not_believed() {
    let mut rig = Rig::new();
    rig.attach_owner(1, "10.0.0.50");
    let quoted = outward("10.0.0.50", "10.0.0.9").quoted_udp(7, 9);
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.50").unreachable(&quoted)), [Client(1)]);
    // To the host, about a flow of the client: for neither of them.
    let crossed = inward("10.0.0.9", "10.0.0.1").unreachable(&quoted);
    assert_eq!(rig.arrives(&crossed), [Dropped(NoReceiver)]);
}

#[test]
fn pieces_of_an_error_stay_together() {
    let mut rig = Rig::new();
    rig.attach_plain(1);
    rig.listen(1, "10.0.0.1", UDP, 7);
    let mut quoted = outward("10.0.0.1", "10.0.0.9").quoted_udp(7, 9);
    quoted.extend([0; 4]);
    let to = inward("10.0.0.9", "10.0.0.1");
    assert_eq!(rig.arrives(&to.first(5).unreachable(&quoted)), [Client(1)]);
    assert_eq!(rig.arrives(&to.later(5).rest(ICMP)), [Client(1)]);
    // Of a question too, though its identifier is a client's.
    assert_eq!(rig.sends(1, &outward("10.0.0.1", "10.0.0.9").echo_request(77)), [Wire]);
    assert_eq!(rig.arrives(&to.first(6).echo_request(77)), [Host]);
    assert_eq!(rig.arrives(&to.later(6).rest(ICMP)), [Host]);
    assert_eq!(rig.arrives(&to.first(7).echo_reply(77)), [Client(1), Host]);
    assert_eq!(rig.arrives(&to.later(7).rest(ICMP)), [Client(1)]);
}

#[test]
fn an_echo_reply_reaches_who_asked_and_the_kernel_which_may_have_asked_too() {
    for (us, them) in FAMILIES {
        let mut rig = Rig::new();
        rig.attach_plain(1);
        rig.attach_plain(2);
        assert_eq!(rig.sends(1, &outward(us, them).echo_request(77)), [Wire]);
        assert_eq!(rig.sends(2, &outward(us, them).echo_request(78)), [Wire]);
        assert_eq!(rig.arrives(&inward(them, us).echo_reply(77)), [Client(1), Host]);
        assert_eq!(rig.arrives(&inward(them, us).echo_reply(78)), [Client(2), Host]);
        assert_eq!(rig.arrives(&inward(them, us).echo_reply(79)), [Host], "the kernel's own");
        let other = if us.contains(':') { "fd00::8" } else { "10.0.0.8" };
        assert_eq!(rig.arrives(&inward(other, us).echo_reply(77)), [Host], "not asked");
        // The kernel chooses an identifier that a client has: neither loses an answer.
        assert_eq!(rig.host_sends(&outward(us, them).echo_request(77)), [Wire]);
        assert_eq!(rig.arrives(&inward(them, us).echo_reply(77)), [Client(1), Host]);
        assert_eq!(rig.sends(1, &outward(us, them).echo_request(77)), [Wire]);
    }
}

#[test]
fn an_echo_reply_to_a_clients_own_address_is_for_it_alone() {
    let mut rig = Rig::new();
    rig.attach_owner(1, "10.0.0.50");
    assert_eq!(rig.sends(1, &outward("10.0.0.50", "10.0.0.9").echo_request(7)), [Wire]);
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.50").echo_reply(7)), [Client(1)]);
    // Nor is there anybody else without a kernel.
    let mut rig = Rig::with(Options { host: false, ..Options::default() });
    rig.attach_plain(1);
    assert_eq!(rig.sends(1, &outward("10.0.0.1", "10.0.0.9").echo_request(7)), [Wire]);
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").echo_reply(7)), [Client(1)]);
    // What the kernel has heard by itself it does not get again; an echo it never has.
    let mut rig = Rig::with(Options { host_sees_arp: true, ..Options::default() });
    rig.attach_plain(1);
    assert_eq!(rig.sends(1, &outward("10.0.0.1", "10.0.0.9").echo_request(7)), [Wire]);
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").echo_reply(7)), [Client(1), Host]);
}

#[test]
fn an_echo_identifier_that_another_uses_towards_the_same_host_is_refused() {
    for (us, them) in FAMILIES {
        let mut rig = Rig::new();
        rig.attach_plain(1);
        rig.attach_plain(2);
        let other = if us.contains(':') { "fd00::8" } else { "10.0.0.8" };
        assert_eq!(rig.sends(1, &outward(us, them).echo_request(77)), [Wire]);
        assert_eq!(rig.host_sends(&outward(us, them).echo_request(99)), [Wire]);
        for id in [77, 99] {
            let taken = outward(us, them).echo_request(id);
            assert_eq!(rig.sends(2, &taken), [Dropped(SpoofedPort)], "{id}");
            assert_eq!(rig.sends(2, &outward(us, other).echo_request(id)), [Wire], "{id}");
        }
        assert_eq!(rig.arrives(&inward(them, us).echo_reply(77)), [Client(1), Host]);
        assert_eq!(rig.arrives(&inward(them, us).echo_reply(99)), [Host]);
        assert_eq!(rig.arrives(&inward(other, us).echo_reply(99)), [Client(2), Host]);
        // Of the kernel's own, 256 at a time, until they have been idle.
        for id in 1000..1255 {
            assert_eq!(rig.host_sends(&outward(us, them).echo_request(id)), [Wire]);
        }
        let beyond = outward(us, them).echo_request(2000);
        assert_eq!(rig.host_sends(&beyond), [Wire]);
        assert_eq!(rig.sends(2, &beyond), [Wire], "it was not noted");
        rig.now = rig.now + core::time::Duration::from_secs(120);
        let late = outward(us, them).echo_request(2001);
        assert_eq!(rig.host_sends(&late), [Wire]);
        assert_eq!(rig.sends(2, &late), [Dropped(SpoofedPort)], "the oldest made room");
        let freed = outward(us, them).echo_request(1000);
        assert_eq!(rig.sends(2, &freed), [Wire], "which was looked at after the first");
    }
}

#[test]
fn an_echo_request_reaches_the_owner_of_the_address_though_a_client_uses_its_identifier() {
    for (us, them) in FAMILIES {
        let mut rig = Rig::new();
        rig.attach_plain(1);
        assert_eq!(rig.sends(1, &outward(us, them).echo_request(77)), [Wire]);
        assert_eq!(rig.arrives(&inward(them, us).echo_request(77)), [Host]);
    }
    let mut rig = Rig::new();
    rig.attach_owner(1, "10.0.0.50");
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.50").echo_request(1)), [Client(1)]);
    let reply = outward("10.0.0.50", "10.0.0.9").echo_reply(1);
    assert_eq!(rig.sends(1, &reply), [Wire], "and it may answer");
}

#[test]
fn a_clients_question_about_a_local_address_is_answered_by_the_switch() {
    let mut rig = Rig::new();
    rig.attach_plain(1);
    rig.attach_owner(2, "10.0.0.50");
    for target in ["10.0.0.1", "10.0.0.50"] {
        let question = who_has(OURS, "10.0.0.1", target);
        let (fates, out) = rig.fates(|rig| {
            rig.client(1).send(&question);
        });
        assert_eq!(fates, [Client(1), Consumed], "{target}");
        let seen = classify(&out.clients[0].1).unwrap();
        let Payload::Arp(answer) = seen.payload else { panic!("{seen:?}") };
        assert_eq!((answer.operation, answer.sender_mac), (2, OURS));
        assert_eq!(answer.sender.to_ip(), ip(target));
        assert_eq!(answer.target.to_ip(), ip("10.0.0.1"));
    }
    let question = outward("fd00::1", "ff02::1:ff00:1").to_link(Mac([0x33, 0x33, 0xff, 0, 0, 1]));
    let question = question.neighbor(135, "fd00::1", OURS);
    let (fates, out) = rig.fates(|rig| {
        rig.client(1).send(&question);
    });
    assert_eq!(fates, [Client(1), Consumed]);
    let seen = classify(&out.clients[0].1).unwrap();
    let Payload::Ip(packet) = seen.payload else { panic!("{seen:?}") };
    let target = ip("fd00::1").into();
    assert_eq!(packet.kind, IpKind::Icmp(Icmp::NeighborAdvertisement { target }));
    // About anybody else they are asked on the wire, and nobody here hears of it.
    assert_eq!(rig.sends(1, &who_has(OURS, "10.0.0.1", "10.0.0.9")), [Wire]);
}

#[test]
fn questions_of_a_whole_burst_are_all_answered() {
    let mut rig = Rig::new();
    rig.attach_plain(1);
    let (fates, _) = rig.fates(|rig| {
        for _ in 0..64 {
            rig.client(1).send(&who_has(OURS, "10.0.0.1", "10.0.0.1"));
        }
    });
    assert_eq!(fates.iter().filter(|fate| **fate == Client(1)).count(), 64);
    assert_eq!(fates.len(), 128);
}

#[test]
fn neighbors_answers_and_announcements_reach_all_who_may_have_asked() {
    for host_sees_arp in [false, true] {
        let mut rig = Rig::with(Options { host_sees_arp, ..Options::default() });
        rig.attach_plain(1);
        rig.attach_plain(2);
        let to_all: &[_] =
            if host_sees_arp { &[Client(1), Client(2)] } else { &[Client(1), Client(2), Host] };
        let frames = [
            arp(OURS, PEER, 2, PEER, "10.0.0.9", "10.0.0.1"),
            arp(BROADCAST, PEER, 2, PEER, "10.0.0.9", "10.0.0.9"),
            arp(BROADCAST, PEER, 1, PEER, "10.0.0.9", "10.0.0.9"),
            inward("fd00::9", "fd00::1").neighbor(136, "fd00::9", PEER),
            inward("fd00::9", "ff02::1")
                .to_link(Mac([0x33, 0x33, 0, 0, 0, 1]))
                .neighbor(136, "fd00::9", PEER),
        ];
        for frame in frames {
            assert_eq!(rig.arrives(&frame), to_all, "{frame:02x?}");
        }
    }
}

#[test]
fn an_answer_that_nobody_waits_for_is_used_up() {
    let mut rig = Rig::with(Options { host_sees_arp: true, ..Options::default() });
    let answer = arp(OURS, PEER, 2, PEER, "10.0.0.9", "10.0.0.1");
    assert_eq!(rig.arrives(&answer), [Consumed]);
}

#[test]
fn a_neighbors_question_goes_to_the_kernel_once() {
    let solicitation = inward("fd00::9", "ff02::1:ff00:1")
        .to_link(Mac([0x33, 0x33, 0xff, 0, 0, 1]))
        .neighbor(135, "fd00::1", PEER);
    let questions = [
        who_has(PEER, "10.0.0.9", "10.0.0.1"),
        who_has(PEER, "10.0.0.9", "10.0.0.77"),
        arp(OURS, PEER, 1, PEER, "10.0.0.9", "10.0.0.1"),
        solicitation,
        inward("fe80::9", "ff02::1").to_link(Mac([0x33, 0x33, 0, 0, 0, 1])).icmp(133, 0, 0),
    ];
    for (host_sees_arp, fate) in [(false, Host), (true, Consumed)] {
        let mut rig = Rig::with(Options { host_sees_arp, ..Options::default() });
        rig.attach_plain(1);
        for question in &questions {
            assert_eq!(rig.arrives(question), [fate], "{question:02x?}");
        }
    }
}

#[test]
fn questions_about_exclusive_addresses_are_answered_to_wire_and_host() {
    for host_sees_arp in [false, true] {
        let mut rig = Rig::with(Options { host_sees_arp, ..Options::default() });
        let own = vec![ip("10.0.0.50"), ip("fd00::50")];
        rig.attach(&Attach { id: 1, exclusive: own, ..Attach::default() });
        let solicitation = |from: &str, link| {
            outward(from, "ff02::1:ff00:50")
                .link(link)
                .to_link(Mac([0x33, 0x33, 0xff, 0, 0, 0x50]))
                .neighbor(135, "fd00::50", link)
        };
        for question in [
            who_has(PEER, "10.0.0.9", "10.0.0.50"),
            who_has(PEER, "0.0.0.0", "10.0.0.50"),
            arp(OURS, PEER, 1, PEER, "10.0.0.9", "10.0.0.50"),
            solicitation("fd00::9", PEER),
        ] {
            let (fates, out) = rig.fates(|rig| rig.wires[0].lock().incoming.push_back(question));
            assert_eq!(fates, [Wire, Consumed]);
            let seen = classify(&out.wire[0]).unwrap();
            assert_eq!((seen.destination, seen.source), (PEER, OURS));
        }
        for question in [
            who_has(OURS, "10.0.0.1", "10.0.0.50"),
            arp(OURS, OURS, 1, OURS, "10.0.0.1", "10.0.0.50"),
            solicitation("fd00::1", OURS),
        ] {
            assert_eq!(rig.host_sends(&question), [Host, Consumed], "{question:02x?}");
        }
    }
}

#[test]
fn without_a_kernel_the_switch_answers_for_the_shared_addresses_too() {
    let mut rig = Rig::with(Options { host: false, ..Options::default() });
    assert_eq!(rig.arrives(&who_has(PEER, "10.0.0.9", "10.0.0.1")), [Wire, Consumed]);
    assert_eq!(rig.arrives(&who_has(PEER, "10.0.0.9", "10.0.0.77")), [Dropped(NoReceiver)]);
}

#[test]
fn a_probe_for_an_exclusive_address_is_told_in_public_that_it_is_taken() {
    let mut rig = Rig::new();
    rig.attach(&Attach { id: 1, exclusive: vec![ip("fd00::50")], ..Attach::default() });
    // Duplicate address detection: asked from no address, without a link address (RFC 4862, 5.4).
    let body = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &[0xfd, 0, 0, 0, 0, 0, 0, 0], &[0; 7], &[0x50]];
    let probe = inward("::", "ff02::1:ff00:50")
        .to_link(Mac([0x33, 0x33, 0xff, 0, 0, 0x50]))
        .ip(ICMPV6, &body.concat());
    let (fates, out) = rig.fates(|rig| rig.wires[0].lock().incoming.push_back(probe));
    assert_eq!(fates, [Wire, Consumed]);
    let seen = classify(&out.wire[0]).expect("a frame that stacks believe");
    let Payload::Ip(packet) = seen.payload else { panic!("{seen:?}") };
    assert_eq!(seen.destination, Mac([0x33, 0x33, 0, 0, 0, 1]));
    assert_eq!(packet.flow.destination.to_ip(), ip("ff02::1"));
    let flags = out.wire[0][usize::from(packet.transport_offset) + 4];
    assert_eq!(flags, 0x20, "override, and not solicited (RFC 4861, 7.2.4)");
}

#[test]
fn a_client_announces_its_own_address_and_no_shared_one() {
    let mut rig = Rig::new();
    rig.attach_owner(1, "10.0.0.50");
    rig.attach_plain(2);
    let own = arp(BROADCAST, OURS, 1, OURS, "10.0.0.50", "10.0.0.50");
    assert_eq!(rig.sends(1, &own), [Wire]);
    let shared = arp(BROADCAST, OURS, 1, OURS, "10.0.0.1", "10.0.0.1");
    assert_eq!(rig.sends(2, &shared), [Client(2), Consumed], "answered, so not heard outside");
}

#[test]
fn broadcast_datagrams_reach_the_host_and_every_holder_of_the_port_once() {
    let mut rig = Rig::new();
    for id in 1..=3 {
        rig.attach_plain(id);
    }
    // At both addresses, and next to each other.
    for address in ["10.0.0.1", "fd00::1"] {
        rig.listen(1, address, UDP, 7);
    }
    rig.attach_owner(4, "10.0.0.50");
    rig.listen(4, "10.0.0.50", UDP, 7);
    rig.listen(2, "10.0.0.1", UDP, 8);
    rig.listen(3, "10.0.0.1", TCP, 7);
    let to = |destination: &str| inward("10.0.0.9", destination).to_link(BROADCAST);
    let holders = [Client(1), Client(4), Host];
    assert_eq!(rig.arrives(&to("255.255.255.255").udp(9, 7)), holders);
    assert_eq!(rig.arrives(&to("10.0.0.255").udp(9, 7)), holders);
    assert_eq!(rig.arrives(&to("224.0.0.251").udp(9, 8)), [Client(2), Host]);
    assert_eq!(rig.arrives(&to("10.0.0.255").udp(9, 6)), [Host]);
    assert_eq!(rig.arrives(&to("10.0.0.255").tcp(9, 7)), [Host], "no stack takes that");
    assert_eq!(rig.arrives(&to("10.0.0.255").echo_request(7)), [Host]);
    assert_eq!(rig.arrives(&ethernet(BROADCAST, PEER, 0x88cc, &[0; 50])), [Host]);
    // From inside it also goes out, and not back.
    let from_client = outward("10.0.0.50", "10.0.0.255").to_link(BROADCAST).udp(7, 7);
    assert_eq!(rig.sends(4, &from_client), [Client(1), Host, Wire]);
    let from_host = outward("10.0.0.1", "10.0.0.255").to_link(BROADCAST).udp(9, 7);
    assert_eq!(rig.host_sends(&from_host), [Client(1), Client(4), Wire]);
}

#[test]
fn the_kernels_link_chatter_is_for_the_wire_alone() {
    let mut rig = Rig::new();
    rig.attach_plain(1);
    let frames = [
        ethernet(BROADCAST, OURS, 0x88cc, &[0; 50]),
        ethernet(BROADCAST, OURS, 0x888e, &[0; 50]),
        who_has(OURS, "10.0.0.1", "10.0.0.9"),
        outward("0.0.0.0", "255.255.255.255").to_link(BROADCAST).udp(68, 67),
    ];
    for frame in frames {
        assert_eq!(rig.host_sends(&frame), [Wire], "{frame:02x?}");
    }
    // What it says of itself concerns its neighbours in here too.
    let announcement = arp(BROADCAST, OURS, 1, OURS, "10.0.0.1", "10.0.0.1");
    assert_eq!(rig.host_sends(&announcement), [Client(1), Wire]);
    let to_itself = outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp(9, 22);
    assert_eq!(rig.host_sends(&to_itself), [Dropped(ToSelf)]);
}

#[test]
fn dhcp_is_the_hosts() {
    let mut rig = Rig::new();
    rig.attach_plain(1);
    rig.listen(1, "10.0.0.1", UDP, 68);
    let offer = inward("10.0.0.9", "255.255.255.255").to_link(BROADCAST).udp(67, 68);
    assert_eq!(rig.arrives(&offer), [Host]);
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").udp(67, 68)), [Host]);
}
