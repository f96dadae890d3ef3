//! Groups that clients join by IGMP and MLD.

use crate::support::frames::*;
use crate::support::rig::Fate::{Client, Dropped, Host, Wire};
use crate::support::rig::{Attach, Mode, Rig};
use core::time::Duration;
use std::net::IpAddr;
use usnet_shmring::ledger::SessionId;
use usnet_switch::classify::Mac;
use usnet_switch::config::Network;
use usnet_switch::verdict::DropReason::{NotPermitted, SpoofedAddress, SpoofedMac, TableFull};

const GROUPS: [&str; 2] = ["239.1.2.3", "ff15::1:3"];

fn networks(texts: &[&str]) -> Vec<Network> {
    texts.iter().map(|text| text.parse().expect("a network")).collect()
}

fn attach(rig: &mut Rig, id: u16, mode: Mode) {
    let groups = networks(&["239.1.0.0/16", "ff15::/16"]);
    rig.attach(&Attach { id, mode, groups, ..Attach::default() });
}

/// The link address of a group.
fn link(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(v4) => {
            let [_, b, c, d] = v4.octets();
            Mac([1, 0, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            Mac([0x33, 0x33, a, b, c, d])
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A message of IGMP or MLD, and how it is sent.
#[derive(Clone, Copy)]
struct Message<'a> {
    from: &'a str,
    to: &'a str,
    hops: u8,
    alerts: bool,
    body: &'a [u8],
}

impl Message<'_> {
    fn frame(self, source: Mac) -> Vec<u8> {
        let (from, to) = (octets(ip(self.from)), octets(ip(self.to)));
        if ip(self.to).is_ipv4() {
            let options: &[u8] = if self.alerts { &[148, 4, 0, 0] } else { &[] };
            let length = (20 + options.len() + self.body.len()) as u16;
            let words = 0x45 + u8::from(self.alerts);
            let start = [&[words, 0xc0][..], &length.to_be_bytes(), &[0, 0, 0, 0, self.hops, IGMP]];
            let packet = [&start.concat()[..], &[0, 0], &from, &to, options, self.body].concat();
            return ethernet(link(ip(self.to)), source, 0x0800, &packet);
        }
        // A router alert, or nothing.
        let options: &[u8] = if self.alerts {
            &[ICMPV6, 0, 5, 2, 0, 0, 1, 0]
        } else {
            &[ICMPV6, 0, 1, 4, 0, 0, 0, 0]
        };
        let length = (options.len() + self.body.len()) as u16;
        let start = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[0, self.hops]].concat();
        let packet = [&start[..], &from, &to, options, self.body].concat();
        ethernet(link(ip(self.to)), source, 0x86dd, &packet)
    }

    fn sent(self) -> Vec<u8> {
        self.frame(OURS)
    }
}

/// A group record of the newer protocols.
fn record(kind: u8, group: &str, sources: &[&str]) -> Vec<u8> {
    let count = sources.len() as u16;
    let sources: Vec<u8> = sources.iter().flat_map(|s| octets(ip(s))).collect();
    [&[kind, 0][..], &count.to_be_bytes(), &octets(ip(group)), &sources].concat()
}

fn records(is_v4: bool, records: &[Vec<u8>]) -> Vec<u8> {
    let [high, low] = (records.len() as u16).to_be_bytes();
    let kind = if is_v4 { 0x22 } else { 143 };
    [&[kind, 0, 0, 0, 0, 0, high, low][..], &records.concat()].concat()
}

fn us(group: &str) -> &'static str {
    if ip(group).is_ipv4() { "10.0.0.1" } else { "fd00::1" }
}

/// A report by the older protocols, or by the newer ones.
fn report(group: &str, newer: bool) -> Vec<u8> {
    let is_v4 = ip(group).is_ipv4();
    let (body, to) = match (newer, is_v4) {
        (true, _) => {
            let to = if is_v4 { "224.0.0.22" } else { "ff02::16" };
            (records(is_v4, &[record(4, group, &[])]), to)
        }
        (false, true) => ([&[0x16, 0, 0, 0][..], &octets(ip(group))].concat(), group),
        (false, false) => ([&[131, 0, 0, 0, 0, 0, 0, 0][..], &octets(ip(group))].concat(), group),
    };
    Message { from: us(group), to, hops: 1, alerts: true, body: &body }.sent()
}

fn leave(group: &str, newer: bool) -> Vec<u8> {
    let is_v4 = ip(group).is_ipv4();
    let (body, to) = match (newer, is_v4) {
        (true, _) => {
            let to = if is_v4 { "224.0.0.22" } else { "ff02::16" };
            (records(is_v4, &[record(3, group, &[])]), to)
        }
        (false, true) => ([&[0x17, 0, 0, 0][..], &octets(ip(group))].concat(), "224.0.0.2"),
        (false, false) => {
            ([&[132, 0, 0, 0, 0, 0, 0, 0][..], &octets(ip(group))].concat(), "ff02::2")
        }
    };
    Message { from: us(group), to, hops: 1, alerts: true, body: &body }.sent()
}

fn peer(group: &str) -> &'static str {
    if ip(group).is_ipv4() { "10.0.0.9" } else { "fd00::9" }
}

/// A router's question about a group, or about all.
fn question(group: Option<&str>, is_v4: bool) -> Vec<u8> {
    let all = if is_v4 { "224.0.0.1" } else { "ff02::1" };
    let asked = group.unwrap_or(if is_v4 { "0.0.0.0" } else { "::" });
    let start: &[u8] = if is_v4 { &[0x11, 100, 0, 0] } else { &[130, 0, 0, 0, 39, 16, 0, 0] };
    let body = [start, &octets(ip(asked))].concat();
    let from = peer(all);
    Message { from, to: group.unwrap_or(all), hops: 1, alerts: true, body: &body }.frame(PEER)
}

/// What a neighbour sends to a group, to a port that nobody holds.
fn datagram(group: &str) -> Vec<u8> {
    inward(peer(group), group).to_link(link(ip(group))).udp(9, 5353)
}

#[test]
fn who_joins_a_group_gets_what_goes_there_until_it_leaves() {
    for group in GROUPS {
        for newer in [false, true] {
            let mut rig = Rig::new();
            attach(&mut rig, 1, Mode::Isolated);
            assert_eq!(rig.arrives(&datagram(group)), [Host]);
            assert_eq!(rig.sends(1, &report(group, newer)), [Wire], "the network is told");
            assert_eq!(rig.arrives(&datagram(group)), [Client(1), Host]);
            assert_eq!(rig.switch.snapshot().interfaces[0].groups, 1);
            let piece = inward(peer(group), group).to_link(link(ip(group))).later(1).rest(UDP);
            assert_eq!(rig.arrives(&piece), [Client(1), Host]);
            let other = if ip(group).is_ipv4() { "239.1.2.4" } else { "ff15::1:4" };
            assert_eq!(rig.arrives(&datagram(other)), [Host], "another group");
            assert_eq!(rig.sends(1, &leave(group, newer)), [Wire]);
            assert_eq!(rig.arrives(&datagram(group)), [Host]);
            assert_eq!(rig.switch.snapshot().interfaces[0].groups, 0);
        }
    }
}

#[test]
fn what_goes_to_a_group_reaches_each_member_once_and_nobody_else() {
    for group in GROUPS {
        let mut rig = Rig::new();
        for (id, mode) in
            [(1, Mode::Isolated), (2, Mode::Shared), (3, Mode::Group(1)), (4, Mode::Isolated)]
        {
            attach(&mut rig, id, mode);
        }
        for id in 1..=3 {
            assert_eq!(rig.sends(id, &report(group, true)), [Wire]);
        }
        rig.listen(3, us(group), UDP, 5353);
        let frame = datagram(group);
        let (fates, out) = rig.fates(|rig| rig.wires[0].lock().incoming.push_back(frame.clone()));
        assert_eq!(fates, [Client(1), Client(2), Client(3), Host]);
        assert!(out.clients.iter().all(|(_, got)| *got == frame));
        let own = outward(us(group), group).to_link(link(ip(group))).udp(5353, 5353);
        assert_eq!(rig.sends(3, &own), [Client(1), Client(2), Host, Wire], "not its sender");
        let kernels = outward(us(group), group).to_link(link(ip(group))).udp(9, 5353);
        assert_eq!(rig.host_sends(&kernels), [Client(1), Client(2), Client(3), Wire]);
    }
}

#[test]
fn records_with_sources_join_and_an_empty_one_leaves() {
    for group in GROUPS {
        let is_v4 = ip(group).is_ipv4();
        let to = if is_v4 { "224.0.0.22" } else { "ff02::16" };
        let source = peer(group);
        let mut rig = Rig::new();
        attach(&mut rig, 1, Mode::Isolated);
        for (kind, sources, joined) in [
            (5, &[source][..], true),
            (6, &[source], true),
            (1, &[], false),
            (2, &[], true),
            (3, &[], false),
            (3, &[source], true),
            (1, &[], false),
            (6, &[source], false),
            (4, &[source], true),
        ] {
            let body = records(is_v4, &[record(kind, group, sources)]);
            let frame = Message { from: us(group), to, hops: 1, alerts: true, body: &body }.sent();
            assert_eq!(rig.sends(1, &frame), [Wire]);
            let expected = if joined { vec![Client(1), Host] } else { vec![Host] };
            assert_eq!(rig.arrives(&datagram(group)), expected, "{kind} {sources:?}");
        }
    }
}

#[test]
fn reports_that_are_not_as_they_have_to_be_are_refused_and_join_nothing() {
    for group in GROUPS {
        let is_v4 = ip(group).is_ipv4();
        let all_routers = if is_v4 { "224.0.0.22" } else { "ff02::16" };
        let (stranger, beyond) =
            if is_v4 { ("10.0.0.2", "239.2.0.1") } else { ("fd00::2", "ff16::1") };
        let join = record(4, group, &[]);
        let body = records(is_v4, std::slice::from_ref(&join));
        let good = Message { from: us(group), to: all_routers, hops: 1, alerts: true, body: &body };
        let many: Vec<_> = (0..12).map(|_| join.clone()).collect();
        let (many, short) = (records(is_v4, &many), body[..body.len() - 1].to_vec());
        let two = records(is_v4, &[join.clone(), record(4, beyond, &[])]);
        let auxiliary =
            records(is_v4, &[[&[4, 1, 0, 0][..], &octets(ip(group)), &[0; 4]].concat()]);
        let mut rig = Rig::new();
        attach(&mut rig, 1, Mode::Isolated);
        rig.attach_plain(2);
        let wrong_link = {
            let mut frame = good.sent();
            frame[5] ^= 1;
            frame
        };
        let refused = [
            ("not named by the policy", 1, report(beyond, false), NotPermitted),
            ("one of two not named", 1, Message { body: &two, ..good }.sent(), NotPermitted),
            ("no policy", 2, good.sent(), NotPermitted),
            ("another's address", 1, Message { from: stranger, ..good }.sent(), SpoofedAddress),
            ("another's link address", 1, good.frame(PEER), SpoofedMac),
            ("from afar", 1, Message { hops: 2, ..good }.sent(), NotPermitted),
            ("no router alert", 1, Message { alerts: false, ..good }.sent(), NotPermitted),
            ("not to the routers", 1, Message { to: group, ..good }.sent(), NotPermitted),
            ("another link address", 1, wrong_link, NotPermitted),
            ("too many records", 1, Message { body: &many, ..good }.sent(), NotPermitted),
            ("a cut record", 1, Message { body: &short, ..good }.sent(), NotPermitted),
            ("auxiliary data", 1, Message { body: &auxiliary, ..good }.sent(), NotPermitted),
            ("a question", 1, question(None, is_v4), SpoofedMac),
        ];
        for (what, id, frame, reason) in refused {
            assert_eq!(rig.sends(id, &frame), [Dropped(reason)], "{what}");
            assert_eq!(rig.arrives(&datagram(group)), [Host], "{what}");
        }
        let asks = if is_v4 { [0x11, 0, 0, 0] } else { [130, 0, 0, 0] };
        let body = [&asks[..], &[0; 20]].concat();
        let frame = Message { body: &body, ..good }.sent();
        assert_eq!(rig.sends(1, &frame), [Dropped(NotPermitted)], "clients are no routers");
        let nobody = if is_v4 { "0.0.0.0" } else { "::" };
        assert_eq!(rig.sends(1, &Message { from: nobody, ..good }.sent()), [Wire]);
        assert_eq!(rig.arrives(&datagram(group)), [Client(1), Host], "from no address");
        assert_eq!(rig.sends(1, &good.sent()), [Wire]);
    }
}

#[test]
fn a_client_joins_sixteen_groups_and_no_more() {
    let mut rig = Rig::new();
    attach(&mut rig, 1, Mode::Isolated);
    attach(&mut rig, 2, Mode::Isolated);
    let group = |n: usize| format!("239.1.0.{n}");
    for n in 0..16 {
        assert_eq!(rig.sends(1, &report(&group(n), false)), [Wire]);
    }
    assert_eq!(rig.sends(1, &report(&group(16), false)), [Dropped(TableFull)]);
    assert_eq!(rig.arrives(&datagram(&group(16))), [Host]);
    assert_eq!(rig.sends(1, &report(&group(3), true)), [Wire], "what it has it may repeat");
    assert_eq!(rig.sends(2, &report(&group(16), false)), [Wire], "the other has its own share");
    assert_eq!(rig.sends(1, &leave(&group(3), false)), [Wire]);
    assert_eq!(rig.sends(1, &report(&group(16), false)), [Wire]);
    assert_eq!(rig.arrives(&datagram(&group(16))), [Client(1), Client(2), Host]);
}

#[test]
fn who_does_not_answer_a_router_has_left() {
    const LONG: Duration = Duration::from_secs(260);
    for group in GROUPS {
        let is_v4 = ip(group).is_ipv4();
        for about in [None, Some(group)] {
            let mut rig = Rig::new();
            attach(&mut rig, 1, Mode::Isolated);
            attach(&mut rig, 2, Mode::Isolated);
            rig.attach_plain(3);
            for id in [1, 2] {
                assert_eq!(rig.sends(id, &report(group, false)), [Wire]);
            }
            rig.now = rig.now + 10 * LONG;
            assert_eq!(rig.arrives(&datagram(group)), [Client(1), Client(2), Host], "not asked");
            let ask = question(about, is_v4);
            assert_eq!(rig.arrives(&ask), [Client(1), Client(2), Host], "members are asked");
            let other = [&PEER.0[..]].concat();
            let mut of_another = report(group, false);
            of_another[6..12].copy_from_slice(&other);
            assert_eq!(rig.arrives(&of_another), [Host], "which would silence the others");
            assert_eq!(rig.sends(2, &report(group, true)), [Wire]);
            rig.now = rig.now + (LONG - Duration::from_nanos(1));
            assert_eq!(rig.arrives(&datagram(group)), [Client(1), Client(2), Host], "not yet");
            rig.now = rig.now + Duration::from_nanos(1);
            assert_eq!(rig.arrives(&datagram(group)), [Client(2), Host]);
        }
    }
}

#[test]
fn a_question_about_one_group_or_family_leaves_the_others_alone() {
    let mut rig = Rig::new();
    attach(&mut rig, 1, Mode::Isolated);
    for group in GROUPS.into_iter().chain(["239.1.9.9"]) {
        assert_eq!(rig.sends(1, &report(group, false)), [Wire]);
    }
    assert_eq!(rig.arrives(&question(Some("239.1.9.9"), true)), [Client(1), Host]);
    rig.now = rig.now + Duration::from_secs(300);
    assert_eq!(rig.arrives(&datagram("239.1.9.9")), [Host]);
    assert_eq!(rig.arrives(&datagram(GROUPS[0])), [Client(1), Host]);
    assert_eq!(rig.arrives(&question(None, true)), [Client(1), Host]);
    rig.now = rig.now + Duration::from_secs(300);
    assert_eq!(rig.arrives(&datagram(GROUPS[0])), [Host]);
    assert_eq!(rig.arrives(&datagram(GROUPS[1])), [Client(1), Host]);
}

#[test]
fn groups_of_a_client_that_has_left_are_not_the_next_ones() {
    let mut rig = Rig::new();
    attach(&mut rig, 1, Mode::Isolated);
    assert_eq!(rig.sends(1, &report(GROUPS[0], false)), [Wire]);
    rig.switch.detach(SessionId(1));
    rig.take_events();
    assert_eq!(rig.switch.snapshot().interfaces[0].groups, 0);
    attach(&mut rig, 1, Mode::Isolated);
    assert_eq!(rig.arrives(&datagram(GROUPS[0])), [Host]);
}
