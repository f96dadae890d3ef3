//! What clients may say: forged frames by kind and claims, and what becomes of each.

use crate::support::frames::*;
use crate::support::rig::Fate::{self, Client, Consumed, Dropped, Host, Wire};
use crate::support::rig::Rig;
use core::time::Duration;
use usnet_switch::classify::Mac;
use usnet_switch::verdict::DropReason::{
    Malformed, NotPermitted, SpoofedAddress, SpoofedMac, SpoofedPort, TableFull, ToSelf, TooLong,
    Vlan,
};

/// A client on the shared addresses, which holds UDP port 7 there.
const SHARER: u16 = 1;
/// A client with 10.0.0.50 and fd00::50 of its own.
const OWNER: u16 = 2;
/// A client on the shared addresses, which holds UDP port 8 and has asked with identifier 77.
const OTHER: u16 = 3;

const FOREIGN: Mac = Mac([2, 0, 0, 0, 0, 0x66]);
const ALL_NODES: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.attach_plain(SHARER);
    let own = vec![ip("10.0.0.50"), ip("fd00::50")];
    rig.attach(&crate::support::rig::Attach {
        id: OWNER,
        addresses: own.clone(),
        exclusive: own,
        ..Default::default()
    });
    rig.attach_plain(OTHER);
    rig.listen(SHARER, "10.0.0.1", UDP, 7);
    rig.listen(SHARER, "fd00::1", UDP, 7);
    rig.listen(OTHER, "10.0.0.1", UDP, 8);
    assert_eq!(rig.sends(OTHER, &outward("10.0.0.1", "10.0.0.9").echo_request(77)), [Wire]);
    assert_eq!(rig.sends(OTHER, &outward("10.0.0.1", "10.0.0.9").udp(5000, 53)), [Wire]);
    rig
}

/// Frames by kind: a name, who sends it, the frame, where it ends.
fn matrix() -> Vec<(&'static str, u16, Vec<u8>, &'static [Fate])> {
    let shared = outward("10.0.0.1", "10.0.0.9");
    let shared6 = outward("fd00::1", "fd00::9");
    let own = outward("10.0.0.50", "10.0.0.9");
    let own6 = outward("fd00::50", "fd00::9");
    let received = inward("10.0.0.9", "10.0.0.1");
    let all6 = |source: &str| outward(source, "ff02::1").to_link(ALL_NODES);
    const PORT: &[Fate] = &[Dropped(SpoofedPort)];
    const ADDRESS: &[Fate] = &[Dropped(SpoofedAddress)];
    const MAC: &[Fate] = &[Dropped(SpoofedMac)];
    const REFUSED: &[Fate] = &[Dropped(NotPermitted)];
    const TAGGED: &[Fate] = &[Dropped(Vlan)];
    vec![
        // What they may.
        ("its own port", SHARER, shared.udp(7, 9), &[Wire]),
        ("its own port, IPv6", SHARER, shared6.udp(7, 9), &[Wire]),
        ("its own address", OWNER, own.udp(1, 9), &[Wire]),
        ("its own address, IPv6", OWNER, own6.tcp(1, 9), &[Wire]),
        ("a free port", SHARER, shared.tcp(40_000, 80), &[Wire]),
        ("a free identifier", SHARER, shared.echo_request(1), &[Wire]),
        ("a question on the wire", SHARER, who_has(OURS, "10.0.0.1", "10.0.0.9"), &[Wire]),
        // Link address.
        ("a foreign link address", SHARER, shared.link(FOREIGN).udp(7, 9), MAC),
        ("no link address", SHARER, shared.link(Mac::default()).udp(7, 9), MAC),
        ("the peer's link address", OWNER, own.link(PEER).udp(1, 9), MAC),
        (
            "a group as link address",
            SHARER,
            shared.link(BROADCAST).udp(7, 9),
            &[Dropped(Malformed)],
        ),
        // Tags.
        ("a VLAN tag", SHARER, tagged(&shared.udp(7, 9), 5), TAGGED),
        ("a tag in a tag", SHARER, tagged(&tagged(&shared.udp(7, 9), 5), 6), TAGGED),
        ("a tag behind a priority tag", OWNER, tagged(&tagged(&own.udp(7, 9), 5), 0), TAGGED),
        // Network address.
        ("another client's address", SHARER, outward("10.0.0.50", "10.0.0.9").udp(7, 9), ADDRESS),
        ("the shared address without it", OWNER, shared.udp(7, 9), ADDRESS),
        ("a neighbour's address", SHARER, outward("10.0.0.9", "10.0.0.8").udp(7, 9), ADDRESS),
        ("no address", SHARER, outward("0.0.0.0", "255.255.255.255").udp(68, 67), REFUSED),
        ("a foreign address, IPv6", SHARER, outward("fd00::50", "fd00::9").udp(7, 9), ADDRESS),
        ("a link-local address, IPv6", OWNER, outward("fe80::1", "fd00::9").udp(7, 9), ADDRESS),
        ("loopback", OWNER, outward("127.0.0.1", "10.0.0.9").udp(7, 9), &[Dropped(Malformed)]),
        // Ports.
        ("another client's port", SHARER, shared.udp(8, 9), PORT),
        ("another client's learned flow", SHARER, shared.udp(5000, 53), PORT),
        ("another client's identifier", SHARER, shared.echo_request(77), PORT),
        ("a later piece alone", SHARER, shared.later(1).rest(UDP), PORT),
        ("a first piece from another's port", SHARER, shared.first(2).udp(8, 9), PORT),
        ("a later piece, IPv6", SHARER, shared6.later(1).rest(UDP), PORT),
        // Protocols without ports.
        ("a protocol without ports", OWNER, own.rest(GRE), REFUSED),
        ("a hidden payload", OWNER, own6.rest(50), REFUSED),
        ("IGMP", OWNER, outward("10.0.0.50", "224.0.0.22").to_link(BROADCAST).rest(IGMP), REFUSED),
        ("a listener report", OWNER, all6("fd00::50").icmp(143, 0, 0), REFUSED),
        // Echoes and errors.
        ("an echo reply from a shared address", SHARER, shared.echo_reply(1), REFUSED),
        ("an echo reply from its own", OWNER, own.echo_reply(1), &[Wire]),
        ("a timestamp request", OWNER, own.icmp(13, 0, 1), REFUSED),
        (
            "an error about what it received",
            SHARER,
            shared.unreachable(&received.quoted_udp(9, 7)),
            &[Wire],
        ),
        (
            "an error about another's flow",
            SHARER,
            shared.unreachable(&received.quoted_udp(9, 8)),
            PORT,
        ),
        (
            "an error about the kernel's flow",
            SHARER,
            shared.unreachable(&received.quoted_udp(9, 22)),
            PORT,
        ),
        (
            "an error to a third party",
            SHARER,
            outward("10.0.0.1", "10.0.0.8").unreachable(&received.quoted_udp(9, 7)),
            REFUSED,
        ),
        (
            "an error about what was sent to another address",
            SHARER,
            shared.unreachable(&inward("10.0.0.9", "10.0.0.50").quoted_udp(9, 7)),
            REFUSED,
        ),
        ("an error that quotes nothing", OWNER, own.unreachable(&[]), REFUSED),
        ("a redirect without a quote", OWNER, own.icmp(5, 1, 0), REFUSED),
        ("a redirect, IPv6", OWNER, own6.ip(ICMPV6, &[&[137; 1][..], &[0; 39]].concat()), REFUSED),
        // ARP.
        (
            "ARP with a foreign sender",
            SHARER,
            arp(BROADCAST, OURS, 1, FOREIGN, "10.0.0.1", "10.0.0.9"),
            MAC,
        ),
        ("ARP for another's address", SHARER, who_has(OURS, "10.0.0.50", "10.0.0.9"), ADDRESS),
        (
            "ARP for the gateway",
            SHARER,
            arp(BROADCAST, OURS, 2, OURS, "10.0.0.254", "10.0.0.9"),
            ADDRESS,
        ),
        ("an ARP probe", SHARER, who_has(OURS, "0.0.0.0", "10.0.0.9"), ADDRESS),
        (
            "an ARP answer for a shared address",
            SHARER,
            arp(PEER, OURS, 2, OURS, "10.0.0.1", "10.0.0.9"),
            REFUSED,
        ),
        (
            "an ARP answer for its own",
            OWNER,
            arp(PEER, OURS, 2, OURS, "10.0.0.50", "10.0.0.9"),
            &[Wire],
        ),
        // Neighbour discovery.
        ("a solicitation", SHARER, all6("fd00::1").neighbor(135, "fd00::9", OURS), &[Wire]),
        (
            "a solicitation with a foreign link address",
            SHARER,
            all6("fd00::1").neighbor(135, "fd00::9", FOREIGN),
            MAC,
        ),
        (
            "a solicitation from another's address",
            SHARER,
            all6("fd00::50").neighbor(135, "fd00::9", OURS),
            ADDRESS,
        ),
        (
            "an advertisement of a shared address",
            SHARER,
            all6("fd00::1").neighbor(136, "fd00::1", OURS),
            REFUSED,
        ),
        (
            "an advertisement of its own",
            OWNER,
            all6("fd00::50").neighbor(136, "fd00::50", OURS),
            &[Wire],
        ),
        (
            "an advertisement with a foreign link address",
            OWNER,
            all6("fd00::50").neighbor(136, "fd00::50", FOREIGN),
            MAC,
        ),
        (
            "an advertisement of another's",
            OWNER,
            all6("fd00::50").neighbor(136, "fd00::1", OURS),
            REFUSED,
        ),
        ("a router advertisement", OWNER, all6("fd00::50").icmp(134, 0, 0), REFUSED),
        ("a router solicitation", OWNER, all6("fd00::50").icmp(133, 0, 0), REFUSED),
        // DHCP.
        ("DHCP service", OWNER, own.udp(67, 68), REFUSED),
        ("DHCP service, IPv6", OWNER, own6.udp(547, 546), REFUSED),
        ("DHCP in the kernel's name", SHARER, shared.udp(68, 67), REFUSED),
        ("DHCP in its own, unasked", OWNER, own.udp(68, 67), REFUSED),
        // Other.
        ("EAPOL", OWNER, ethernet(PEER, OURS, 0x888e, &[0; 50]), REFUSED),
        ("another EtherType", OWNER, ethernet(PEER, OURS, 0x88cc, &[0; 50]), REFUSED),
        ("802.3", OWNER, ethernet(PEER, OURS, 50, &[0x42; 50]), REFUSED),
        ("too long a frame", SHARER, shared.udp_with(7, 9, &[0; 1473]), &[Dropped(TooLong)]),
        ("the longest frame", SHARER, shared.udp_with(7, 9, &[0; 1472]), &[Wire]),
        ("a headless frame", SHARER, vec![2; 14], &[Dropped(SpoofedMac)]),
        (
            "to itself",
            SHARER,
            outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp(7, 7),
            &[Dropped(ToSelf)],
        ),
        (
            "to another client",
            SHARER,
            outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp(7, 8),
            &[Client(OTHER)],
        ),
        (
            "to the kernel",
            SHARER,
            outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp(7, 22),
            &[Host],
        ),
        (
            "a question about a local address",
            SHARER,
            who_has(OURS, "10.0.0.1", "10.0.0.50"),
            &[Client(SHARER), Consumed],
        ),
    ]
}

#[test]
fn every_kind_of_forged_frame_is_dropped_with_its_reason() {
    let mut rig = rig();
    let mut wrong = Vec::new();
    for (name, who, frame, expected) in matrix() {
        let counted = rig.switch.snapshot();
        let fates = rig.sends(who, &frame);
        if fates != expected {
            wrong.push(format!("{name}: {fates:?}, not {expected:?}"));
        }
        // What is dropped is also counted for the session that sent it.
        let drops = |snapshot: &usnet_switch::snapshot::Snapshot| {
            let session = snapshot.sessions.iter().find(|s| s.id == who);
            session.map_or(0, |s| s.counters.dropped_from.total())
        };
        let expected: u64 = expected.iter().filter(|f| matches!(f, Dropped(_))).count() as u64;
        assert_eq!(drops(&rig.switch.snapshot()) - drops(&counted), expected, "{name}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pieces_are_only_for_the_client_that_sent_the_first() {
    let mut rig = rig();
    let shared = outward("10.0.0.1", "10.0.0.9");
    assert_eq!(rig.sends(SHARER, &shared.first(1).udp(7, 9)), [Wire]);
    assert_eq!(rig.sends(SHARER, &shared.later(1).rest(UDP)), [Wire]);
    assert_eq!(rig.sends(OTHER, &shared.later(1).rest(UDP)), [Dropped(SpoofedPort)]);
    assert_eq!(rig.sends(OTHER, &shared.first(1).udp(8, 9)), [Dropped(SpoofedPort)]);
    assert_eq!(rig.sends(SHARER, &shared.later(2).rest(UDP)), [Dropped(SpoofedPort)]);
    rig.now = rig.now + Duration::from_secs(31);
    assert_eq!(rig.sends(SHARER, &shared.later(1).rest(UDP)), [Dropped(SpoofedPort)]);
    // Behind an extension header too, where pieces name that and the first names UDP.
    let from = outward("fd00::1", "fd00::9");
    let body = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &[0, 7, 0, 9, 0, 96, 0, 0], &[0; 8]].concat();
    assert_eq!(rig.sends(SHARER, &from.first(1).ip(DESTINATION_OPTIONS, &body)), [Wire]);
    assert_eq!(rig.sends(SHARER, &from.later(1).rest(DESTINATION_OPTIONS)), [Wire]);
}

#[test]
fn a_client_has_as_many_flows_as_its_quota_and_no_more() {
    let mut rig = Rig::new();
    let attach = crate::support::rig::Attach { id: 1, quota: 3, ..Default::default() };
    rig.attach(&attach);
    rig.attach_plain(2);
    let flow = |n: u16| outward("10.0.0.1", "10.0.0.9").udp(40_000 + n, 53);
    for n in 0..3 {
        assert_eq!(rig.sends(1, &flow(n)), [Wire]);
    }
    for n in 3..9 {
        assert_eq!(rig.sends(1, &flow(n)), [Dropped(TableFull)]);
    }
    assert_eq!(
        rig.sends(1, &outward("10.0.0.1", "10.0.0.9").echo_request(5)),
        [Dropped(TableFull)]
    );
    assert_eq!(rig.sends(1, &flow(2)), [Wire], "those it has go on");
    assert_eq!(rig.sends(2, &flow(5)), [Wire], "the others have their own");
    assert_eq!(rig.switch.snapshot().interfaces[0].flows, 4);
    // Flows that are not used any more make room for new ones, one by one.
    rig.now = rig.now + Duration::from_secs(100);
    assert_eq!(rig.sends(1, &flow(0)), [Wire]);
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").udp(53, 40_001)), [Client(1)]);
    rig.now = rig.now + Duration::from_secs(100);
    assert_eq!(rig.sends(1, &flow(10)), [Wire], "in the place of flow 2");
    assert_eq!(rig.sends(1, &flow(11)), [Dropped(TableFull)]);
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").udp(53, 40_002)), [Host]);
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").udp(53, 40_000)), [Client(1)]);
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").udp(53, 40_001)), [Client(1)]);
    rig.now = rig.now + Duration::from_secs(1000);
    for n in 20..23 {
        assert_eq!(rig.sends(1, &flow(n)), [Wire]);
    }
    assert_eq!(rig.sends(1, &flow(23)), [Dropped(TableFull)]);
    assert_eq!(rig.switch.snapshot().interfaces[0].flows, 4);
}

#[test]
fn an_exclusive_address_may_be_sent_from_without_being_named_twice() {
    let mut rig = Rig::new();
    let exclusive = vec![ip("10.0.0.50")];
    let attach = crate::support::rig::Attach { id: 1, exclusive, ..Default::default() };
    rig.attach(&attach);
    assert_eq!(rig.sends(1, &outward("10.0.0.50", "10.0.0.9").udp(1, 9)), [Wire]);
}
