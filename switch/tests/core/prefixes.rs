//! Prefixes of addresses that clients have claimed.

use crate::support::frames::*;
use crate::support::rig::Fate::{Client, Consumed, Dropped, Host, Wire};
use crate::support::rig::{Options, Rig};
use usnet_shmring::ledger::SessionId;
use usnet_switch::classify::{Mac, Protocol};
use usnet_switch::session::InterfaceId;
use usnet_switch::steer::{Prefix, PrefixRule};
use usnet_switch::switch::SwitchError;
use usnet_switch::verdict::DropReason::{NoReceiver, NotPermitted, SpoofedAddress};

const HERE: InterfaceId = InterfaceId(0);

fn all(ip_text: &str, bits: u8) -> PrefixRule {
    PrefixRule { prefix: Prefix::new(ip(ip_text), bits).expect("a prefix"), protocol: None }
}

fn only(protocol: Protocol, rule: PrefixRule) -> PrefixRule {
    PrefixRule { protocol: Some(protocol), ..rule }
}

fn give(rig: &mut Rig, id: u16, rule: PrefixRule) {
    rig.switch.give_prefix(HERE, rule, SessionId(id)).expect("given");
}

fn asks(from: &str, target: &str) -> Vec<u8> {
    arp(BROADCAST, PEER, 1, PEER, from, target)
}

/// A neighbour asks who has an address.
fn solicits(target: &str) -> Vec<u8> {
    let std::net::IpAddr::V6(address) = ip(target) else { panic!("IPv6") };
    let octets = address.octets();
    let [.., a, b, c] = octets;
    let body = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &octets, &[1, 1], &PEER.0].concat();
    let to = format!("ff02::1:ff{a:02x}:{b:02x}{c:02x}");
    inward("2001:db8::9", &to).to_link(Mac([0x33, 0x33, 0xff, a, b, c])).ip(ICMPV6, &body)
}

#[test]
fn what_is_for_a_prefix_comes_last_and_the_longest_that_has_the_protocol_decides() {
    let mut rig = Rig::new();
    for id in 1..=4 {
        rig.attach_plain(id);
    }
    // An address alone, and one that all share, lie in the prefixes.
    rig.attach_owner(5, "10.1.2.50");
    rig.listen(1, "10.0.0.1", UDP, 7);
    give(&mut rig, 2, all("10.0.0.0", 8));
    give(&mut rig, 3, only(Protocol::TCP, all("10.1.2.0", 24)));
    give(&mut rig, 4, all("10.1.2.7", 32));
    let from = "192.0.2.9";
    for (to, udp, tcp, echo) in [
        ("10.0.0.1", Client(1), Host, Host),
        ("10.1.2.50", Client(5), Client(5), Client(5)),
        ("10.1.2.7", Client(4), Client(4), Client(4)),
        // Pings are for who has all of the address.
        ("10.1.2.8", Client(2), Client(3), Client(2)),
        ("10.9.9.9", Client(2), Client(2), Client(2)),
        ("11.0.0.1", Host, Host, Dropped(NoReceiver)),
    ] {
        assert_eq!(rig.arrives(&inward(from, to).udp(9, 7)), [udp], "{to}");
        assert_eq!(rig.arrives(&inward(from, to).tcp(9, 7)), [tcp], "{to}");
        assert_eq!(rig.arrives(&inward(from, to).echo_request(3)), [echo], "{to}");
    }
    // The pieces of a datagram are one's, in any order.
    assert_eq!(rig.arrives(&inward(from, "10.1.2.7").first(5).udp(9, 7)), [Client(4)]);
    assert_eq!(rig.arrives(&inward(from, "10.1.2.7").later(5).rest(UDP)), [Client(4)]);
    // An error about what was sent from there goes there.
    let quoted = outward("10.1.2.8", from).packet(TCP, &[0, 7, 0, 9, 0, 0, 0, 0]);
    let error =
        inward(from, "10.1.2.8").ip(ICMP, &[&[3, 3, 0, 0, 0, 0, 0, 0][..], &quoted].concat());
    assert_eq!(rig.arrives(&error), [Client(3)]);
    // A change acts on the next frame.
    let frame = inward(from, "10.1.2.8").tcp(9, 7);
    rig.switch.take_prefix(HERE, only(Protocol::TCP, all("10.1.2.0", 24)), SessionId(2)).unwrap();
    assert_eq!(rig.arrives(&frame), [Client(3)], "not its own");
    rig.switch.take_prefix(HERE, only(Protocol::TCP, all("10.1.2.0", 24)), SessionId(3)).unwrap();
    assert_eq!(rig.arrives(&frame), [Client(2)]);
    rig.switch.detach(SessionId(2));
    rig.take_events();
    assert_eq!(rig.arrives(&frame), [Host]);
    assert_eq!(rig.arrives(&inward(from, "10.1.2.7").tcp(9, 7)), [Client(4)]);
}

#[test]
fn the_switch_answers_for_the_addresses_of_a_prefix_and_for_no_others() {
    let mut rig = Rig::new();
    rig.attach_plain(1);
    give(&mut rig, 1, all("10.1.2.0", 24));
    give(&mut rig, 1, only(Protocol::TCP, all("2001:db8:1::", 64)));
    for frame in
        [asks("10.1.3.9", "10.1.2.0"), asks("10.0.0.9", "10.1.2.255"), solicits("2001:db8:1::7")]
    {
        let (fates, out) = rig.fates(|rig| rig.wires[0].lock().incoming.push_back(frame.clone()));
        assert_eq!(fates, [Wire, Consumed]);
        assert_eq!(out.wire[0][..12], [&PEER.0[..], &OURS.0].concat(), "who has asked is told");
    }
    for frame in [asks("10.1.3.9", "10.1.3.0"), solicits("2001:db8:2::7")] {
        assert_eq!(rig.arrives(&frame), [Host], "the kernel may know");
    }
    rig.switch.detach(SessionId(1));
    rig.take_events();
    assert_eq!(rig.arrives(&asks("10.1.3.9", "10.1.2.0")), [Host]);
}

#[test]
fn who_has_a_prefix_sends_from_it_and_nobody_else_does() {
    let mut rig = Rig::with(Options { host: false, ..Options::default() });
    for id in 1..=3 {
        rig.attach_plain(id);
    }
    give(&mut rig, 1, all("10.1.0.0", 16));
    give(&mut rig, 2, only(Protocol::UDP, all("10.1.2.0", 24)));
    let to = "192.0.2.9";
    let wide = outward("10.1.9.9", to);
    let narrow = outward("10.1.2.9", to);
    for frame in
        [wide.udp(7, 9), wide.tcp(7, 9), wide.rest(GRE), wide.echo_request(4), wide.echo_reply(5)]
    {
        assert_eq!(rig.sends(1, &frame), [Wire]);
        for other in [2, 3] {
            assert_eq!(rig.sends(other, &frame), [Dropped(SpoofedAddress)]);
        }
    }
    // The longer prefix took UDP away, and nothing else.
    assert_eq!(rig.sends(1, &narrow.udp(7, 9)), [Dropped(SpoofedAddress)]);
    assert_eq!(rig.sends(2, &narrow.udp(7, 9)), [Wire]);
    assert_eq!(rig.sends(1, &narrow.tcp(7, 9)), [Wire]);
    assert_eq!(rig.sends(2, &narrow.tcp(7, 9)), [Dropped(SpoofedAddress)]);
    // Answers to pings are for who has all of the address.
    assert_eq!(rig.sends(2, &narrow.echo_reply(5)), [Dropped(SpoofedAddress)]);
    // Both may ask for neighbours from there; who has all of it may announce it.
    let ask = arp(BROADCAST, OURS, 1, OURS, "10.1.2.9", "192.0.2.9");
    let tell = arp(PEER, OURS, 2, OURS, "10.1.2.9", to);
    assert_eq!((rig.sends(1, &ask), rig.sends(2, &ask)), (vec![Wire], vec![Wire]));
    assert_eq!(rig.sends(3, &ask), [Dropped(SpoofedAddress)]);
    assert_eq!(
        (rig.sends(1, &tell), rig.sends(2, &tell)),
        (vec![Wire], vec![Dropped(NotPermitted)])
    );
    // From one client to another's prefix, without the wire.
    assert_eq!(rig.sends(1, &outward("10.1.9.9", "10.1.2.9").to_link(OURS).udp(7, 9)), [Client(2)]);
    // What was learned meanwhile is forgotten with the rest.
    rig.switch.detach(SessionId(1));
    rig.take_events();
    rig.attach_plain(1);
    assert_eq!(rig.sends(1, &wide.udp(7, 9)), [Dropped(SpoofedAddress)]);
}

#[test]
fn a_prefix_is_given_to_one_that_is_attached_and_within_the_bounds() {
    let mut rig = Rig::new();
    rig.attach_plain(1);
    rig.attach_plain(2);
    let refused = rig.switch.give_prefix(HERE, all("10.1.0.0", 16), SessionId(9));
    assert!(matches!(refused, Err(SwitchError::NoSession(_))), "{refused:?}");
    give(&mut rig, 1, all("10.1.0.0", 16));
    give(&mut rig, 1, all("10.1.0.0", 16));
    for rule in [
        all("10.1.0.0", 16),
        PrefixRule { prefix: Prefix::ANY, protocol: None },
        only(Protocol::ICMP, all("10.1.0.0", 16)),
    ] {
        let refused = rig.switch.give_prefix(HERE, rule, SessionId(2));
        assert!(matches!(refused, Err(SwitchError::NoPrefix { .. })), "{refused:?}");
    }
}
