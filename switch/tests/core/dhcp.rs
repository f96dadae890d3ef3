//! DHCP of several clients and the kernel behind one link address.

use crate::support::frames::*;
use crate::support::rig::Fate::{Client, Dropped, Host, Wire};
use crate::support::rig::{Attach, Fate, Options, Rig};
use core::time::Duration;
use usnet_switch::classify::Mac;
use usnet_switch::session::May;
use usnet_switch::verdict::DropReason::{
    NotPermitted, SpoofedAddress, SpoofedMac, SpoofedPort, TableFull,
};

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACK: u8 = 5;
const NAK: u8 = 6;
const RELEASE: u8 = 7;
const INFORM: u8 = 8;
const SERVERS: [&str; 2] = ["10.0.0.9", "10.0.0.8"];
const LEASED: &str = "10.0.0.77";
const LINK_LOCAL: &str = "fe80::1";

/// A message of DHCPv4.
#[derive(Clone)]
struct Message {
    operation: u8,
    hops: u8,
    number: u32,
    current: &'static str,
    relay: &'static str,
    client: Mac,
    options: Vec<u8>,
}

fn message(kind: u8, number: u32) -> Message {
    let operation = if [OFFER, ACK, NAK].contains(&kind) { 2 } else { 1 };
    // Sixteen bytes, so that pieces end where pieces may.
    let options = vec![53, 1, kind, 61, 7, 1, 2, 0, 0, 0, 0, 1, 255, 0, 0, 0];
    let [current, relay] = ["0.0.0.0"; 2];
    Message { operation, hops: 0, number, current, relay, client: OURS, options }
}

impl Message {
    fn bytes(&self) -> Vec<u8> {
        let v4 = |text: &str| match ip(text) {
            std::net::IpAddr::V4(v4) => v4.octets(),
            std::net::IpAddr::V6(_) => panic!("an IPv4 address"),
        };
        let start = [self.operation, 1, 6, self.hops];
        let addresses = [v4(self.current), [0; 4], [0; 4], v4(self.relay)].concat();
        let number = self.number.to_be_bytes();
        let client = [&self.client.0[..], &[0; 10]].concat();
        let fixed = [&start[..], &number, &[0; 4], &addresses, &client, &[0; 192]].concat();
        [&fixed[..], &[99, 130, 83, 99], &self.options].concat()
    }

    /// From whoever has no address yet, to all servers.
    fn asked(&self) -> Vec<u8> {
        outward("0.0.0.0", "255.255.255.255").to_link(BROADCAST).udp_with(68, 67, &self.bytes())
    }

    /// From a server, to all.
    fn told(&self, server: &str) -> Vec<u8> {
        inward(server, "255.255.255.255").to_link(BROADCAST).udp_with(67, 68, &self.bytes())
    }

    /// From a server, to the address that is or will be the client's.
    fn told_alone(&self, server: &str, to: &str) -> Vec<u8> {
        inward(server, to).udp_with(67, 68, &self.bytes())
    }
}

fn attach(rig: &mut Rig, id: u16) {
    let mut attach = Attach { id, may: May { dhcp: true, ..May::default() }, ..Attach::default() };
    attach.addresses.push(ip(LINK_LOCAL));
    rig.attach(&attach);
}

/// A rig with clients 1 and 2, who may ask, and 3, who may not and listens wherever it could hear.
fn rig() -> Rig {
    let mut rig = Rig::new();
    attach(&mut rig, 1);
    attach(&mut rig, 2);
    rig.attach_plain(3);
    for port in [67, 68] {
        rig.listen(3, "10.0.0.1", UDP, port);
    }
    rig
}

const NOTICED: &[Fate] = &[Host, Wire];

#[test]
fn offers_of_all_servers_reach_who_asked_and_nobody_else() {
    let mut rig = rig();
    for (id, number) in [(1, 0xa1), (2, 0xa2)] {
        assert_eq!(rig.sends(id, &message(DISCOVER, number).asked()), NOTICED);
    }
    assert_eq!(rig.host_sends(&message(DISCOVER, 0xa3).asked()), [Wire]);
    for server in SERVERS {
        for (number, to) in [(0xa1, Client(1)), (0xa2, Client(2)), (0xa3, Host), (0xa4, Host)] {
            let offer = message(OFFER, number);
            assert_eq!(rig.arrives(&offer.told(server)), [to], "{number:x} of {server}");
            assert_eq!(rig.arrives(&offer.told_alone(server, LEASED)), [to], "{number:x}");
        }
    }
    // The same transaction goes on, and ends with the lease or without.
    assert_eq!(rig.sends(1, &message(REQUEST, 0xa1).asked()), NOTICED);
    assert_eq!(rig.arrives(&message(ACK, 0xa1).told(SERVERS[0])), [Client(1)]);
    assert_eq!(rig.arrives(&message(NAK, 0xa1).told(SERVERS[1])), [Client(1)]);
}

#[test]
fn a_lease_is_renewed_from_the_address_that_is_leased() {
    let mut rig = rig();
    let renewal = Message { current: "10.0.0.1", ..message(REQUEST, 0xb1) };
    let frame = outward("10.0.0.1", SERVERS[0]).udp_with(68, 67, &renewal.bytes());
    assert_eq!(rig.sends(1, &frame), [Wire]);
    assert_eq!(rig.arrives(&message(ACK, 0xb1).told_alone(SERVERS[0], "10.0.0.1")), [Client(1)]);
    // And asked of all when that server is silent.
    let all = outward("10.0.0.1", "255.255.255.255").to_link(BROADCAST);
    assert_eq!(rig.sends(1, &all.udp_with(68, 67, &renewal.bytes())), NOTICED);
    let inform = Message { current: "10.0.0.1", ..message(INFORM, 0xb2) };
    assert_eq!(rig.sends(1, &all.udp_with(68, 67, &inform.bytes())), NOTICED);
    // The kernel's server, on this very interface.
    let here = outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp_with(68, 67, &renewal.bytes());
    assert_eq!(rig.sends(1, &here), [Host]);
    let answer = inward("10.0.0.1", "10.0.0.1").link(OURS);
    let answer = answer.udp_with(67, 68, &message(ACK, 0xb1).bytes());
    assert_eq!(rig.host_sends(&answer), [Client(1)]);
}

#[test]
fn a_clients_question_that_is_not_its_own_is_refused() {
    let mut rig = rig();
    let plain = message(DISCOVER, 0xc1);
    let with = |options: &[u8]| Message { options: options.to_vec(), ..plain.clone() };
    let refused = [
        ("by nobody who may", 3, plain.asked(), NotPermitted),
        (
            "for another link address",
            1,
            Message { client: PEER, ..plain.clone() }.asked(),
            NotPermitted,
        ),
        ("as a relay", 1, Message { relay: "10.0.0.1", ..plain.clone() }.asked(), NotPermitted),
        ("by way of a relay", 1, Message { hops: 1, ..plain.clone() }.asked(), NotPermitted),
        (
            "with another's address",
            1,
            Message { current: LEASED, ..plain.clone() }.asked(),
            NotPermitted,
        ),
        ("an answer", 1, Message { operation: 2, ..plain.clone() }.asked(), NotPermitted),
        ("a release", 1, message(RELEASE, 0xc1).asked(), NotPermitted),
        ("a refusal", 1, message(DECLINE, 0xc1).asked(), NotPermitted),
        ("an offer", 1, message(OFFER, 0xc1).asked(), NotPermitted),
        ("of no kind", 1, with(&[255]).asked(), NotPermitted),
        ("of two kinds", 1, with(&[53, 1, 1, 53, 1, 7, 255]).asked(), NotPermitted),
        (
            "of a kind that may stand elsewhere",
            1,
            with(&[53, 1, 1, 52, 1, 1, 255]).asked(),
            NotPermitted,
        ),
        ("without an end", 1, with(&[53, 1, 1]).asked(), NotPermitted),
        ("with a cut option", 1, with(&[53, 1, 1, 61, 9]).asked(), NotPermitted),
        (
            "from another link address",
            1,
            {
                let from = outward("0.0.0.0", "255.255.255.255").to_link(BROADCAST).link(PEER);
                from.udp_with(68, 67, &plain.bytes())
            },
            SpoofedMac,
        ),
        (
            "from another address",
            1,
            {
                let from = outward(LEASED, "255.255.255.255").to_link(BROADCAST);
                from.udp_with(68, 67, &plain.bytes())
            },
            SpoofedAddress,
        ),
        (
            "from another port",
            1,
            {
                let from = outward("0.0.0.0", "255.255.255.255").to_link(BROADCAST);
                from.udp_with(67, 67, &plain.bytes())
            },
            NotPermitted,
        ),
        (
            "in pieces",
            1,
            {
                let from = outward("0.0.0.0", "255.255.255.255").to_link(BROADCAST).first(9);
                from.udp_with(68, 67, &plain.bytes())
            },
            NotPermitted,
        ),
        (
            "too short",
            1,
            {
                let from = outward("0.0.0.0", "255.255.255.255").to_link(BROADCAST);
                from.udp_with(68, 67, &plain.bytes()[..236])
            },
            NotPermitted,
        ),
    ];
    for (what, id, frame, why) in refused {
        assert_eq!(rig.sends(id, &frame), [Dropped(why)], "{what}");
    }
    assert_eq!(rig.arrives(&message(OFFER, 0xc1).told(SERVERS[0])), [Host], "none was noted");
    assert_eq!(rig.sends(1, &with(&[0, 53, 1, 1, 0, 255]).asked()), NOTICED);
}

#[test]
fn a_client_is_no_server() {
    let mut rig = rig();
    assert_eq!(rig.sends(2, &message(DISCOVER, 0xd1).asked()), NOTICED);
    let offer = message(OFFER, 0xd1).bytes();
    for to in ["255.255.255.255", "10.0.0.1"] {
        for link in [BROADCAST, OURS, PEER] {
            let frame = outward("10.0.0.1", to).to_link(link).udp_with(67, 68, &offer);
            assert_eq!(rig.sends(1, &frame), [Dropped(NotPermitted)], "{to} {link}");
        }
    }
}

#[test]
fn a_number_that_another_uses_is_refused_until_that_has_ended() {
    let mut rig = rig();
    assert_eq!(rig.sends(1, &message(DISCOVER, 0xe1).asked()), NOTICED);
    assert_eq!(rig.host_sends(&message(DISCOVER, 0xe2).asked()), [Wire]);
    for number in [0xe1, 0xe2] {
        assert_eq!(rig.sends(2, &message(DISCOVER, number).asked()), [Dropped(SpoofedPort)]);
    }
    assert_eq!(rig.arrives(&message(OFFER, 0xe1).told(SERVERS[0])), [Client(1)]);
    assert_eq!(rig.arrives(&message(OFFER, 0xe2).told(SERVERS[0])), [Host]);
    // A station of another link address may have chosen the same: its business is the host's, as ever.
    let other = Message { client: PEER, ..message(OFFER, 0xe1) };
    assert_eq!(rig.arrives(&other.told(SERVERS[0])), [Host]);
    // With the session what it has asked is over.
    rig.switch.detach(usnet_shmring::ledger::SessionId(1));
    rig.run();
    assert_eq!(rig.arrives(&message(OFFER, 0xe1).told(SERVERS[0])), [Host]);
    assert_eq!(rig.sends(2, &message(DISCOVER, 0xe1).asked()), NOTICED);
    // And in time, unless it is asked again.
    rig.now = rig.now + Duration::from_secs(100);
    assert_eq!(rig.sends(2, &message(DISCOVER, 0xe1).asked()), NOTICED);
    rig.now = rig.now + Duration::from_secs(100);
    assert_eq!(rig.arrives(&message(OFFER, 0xe1).told(SERVERS[0])), [Client(2)]);
    rig.now = rig.now + Duration::from_secs(50);
    assert_eq!(rig.arrives(&message(OFFER, 0xe1).told(SERVERS[0])), [Host]);
}

#[test]
fn a_flood_of_questions_costs_who_sends_them_alone() {
    let mut rig = rig();
    assert_eq!(rig.sends(2, &message(DISCOVER, 0xf1).asked()), NOTICED);
    let mut sent = 0;
    for number in 0..1000 {
        match rig.sends(1, &message(DISCOVER, 0x1000 + number).asked())[..] {
            [Host, Wire] => sent += 1,
            [Dropped(TableFull)] => {}
            ref other => panic!("{other:?}"),
        }
    }
    assert_eq!(sent, 4);
    assert_eq!(rig.arrives(&message(OFFER, 0xf1).told(SERVERS[0])), [Client(2)]);
    assert_eq!(rig.arrives(&message(OFFER, 0x1000).told(SERVERS[0])), [Client(1)]);
    // A second later the oldest gives way, and again it is its own.
    rig.now = rig.now + Duration::from_secs(1);
    assert_eq!(rig.sends(1, &message(DISCOVER, 0x2000).asked()), NOTICED);
    assert_eq!(rig.arrives(&message(OFFER, 0x2000).told(SERVERS[0])), [Client(1)]);
    assert_eq!(rig.arrives(&message(OFFER, 0xf1).told(SERVERS[0])), [Client(2)]);
}

#[test]
fn answers_of_dhcpv6_reach_who_asked_where_it_asked() {
    let mut rig = rig();
    let body = |kind: u8, number: u32| {
        let [_, number @ ..] = number.to_be_bytes();
        [&[kind][..], &number, &[0, 1, 0, 2, 0, 0]].concat()
    };
    let servers = Mac([0x33, 0x33, 0, 1, 0, 2]);
    let asks = |kind, number| {
        let from = outward(LINK_LOCAL, "ff02::1:2").to_link(servers);
        from.udp_with(546, 547, &body(kind, number))
    };
    let tells = |kind, number, to| inward("fe80::9", to).udp_with(547, 546, &body(kind, number));
    assert_eq!(rig.sends(1, &asks(1, 0x12_3456)), NOTICED);
    assert_eq!(rig.sends(2, &asks(11, 0x12_3457)), NOTICED);
    assert_eq!(rig.sends(2, &asks(1, 0x12_3456)), [Dropped(SpoofedPort)]);
    for (number, to) in [(0x12_3456, Client(1)), (0x12_3457, Client(2)), (0x12_3458, Host)] {
        for kind in [2, 7] {
            assert_eq!(rig.arrives(&tells(kind, number, LINK_LOCAL)), [to], "{number:x}");
        }
    }
    assert_eq!(rig.arrives(&tells(2, 0x12_3456, "fd00::1")), [Host], "not where it asked");
    // Releases, refusals, a server's and a relay's messages.
    for kind in [0, 2, 7, 8, 9, 10, 12, 13] {
        assert_eq!(rig.sends(1, &asks(kind, 0x12_3459)), [Dropped(NotPermitted)], "{kind}");
    }
    assert_eq!(rig.sends(3, &asks(1, 0x12_3459)), [Dropped(NotPermitted)]);
}

#[test]
fn pieces_of_an_answer_stay_together() {
    let mut rig = rig();
    assert_eq!(rig.sends(1, &message(DISCOVER, 0xa1).asked()), NOTICED);
    let to = inward(SERVERS[0], LEASED);
    let first = to.first(5).udp_with(67, 68, &message(OFFER, 0xa1).bytes());
    assert_eq!(rig.arrives(&first), [Client(1)]);
    assert_eq!(rig.arrives(&to.later(5).rest(UDP)), [Client(1)]);
}

#[test]
fn router_advertisements_reach_all_who_configure_themselves_by_them() {
    let routers = Mac([0x33, 0x33, 0, 0, 0, 2]);
    let all = Mac([0x33, 0x33, 0, 0, 0, 1]);
    // Lifetimes, then the router's link address.
    let body = [&[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &[1, 1], &PEER.0];
    for (host_sees, host) in
        [(false, &[Client(1), Client(2), Host][..]), (true, &[Client(1), Client(2)])]
    {
        let mut rig = Rig::with(Options { host_sees_arp: host_sees, ..Options::default() });
        attach(&mut rig, 1);
        attach(&mut rig, 2);
        rig.attach_plain(3);
        for (to, link) in [("ff02::1", all), (LINK_LOCAL, OURS)] {
            let told = inward("fe80::9", to).to_link(link).ip(ICMPV6, &body.concat());
            assert_eq!(rig.arrives(&told), host, "to {to}");
        }
        let solicits = |from: &str, link: Mac| {
            let ask = [&[133, 0, 0, 0, 0, 0, 0, 0][..], &[1, 1], &link.0].concat();
            outward(from, "ff02::2").to_link(routers).ip(ICMPV6, &ask)
        };
        assert_eq!(rig.sends(1, &solicits(LINK_LOCAL, OURS)), [Wire], "nobody here hears it");
        let bare =
            outward("::", "ff02::2").to_link(routers).ip(ICMPV6, &[133, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(rig.sends(1, &bare), [Wire]);
        assert_eq!(rig.sends(3, &solicits("fd00::1", OURS)), [Dropped(NotPermitted)]);
        assert_eq!(rig.sends(1, &solicits(LINK_LOCAL, PEER)), [Dropped(SpoofedMac)]);
        assert_eq!(rig.sends(1, &solicits("fe80::9", OURS)), [Dropped(SpoofedAddress)]);
        // A client is no router.
        let lie = outward(LINK_LOCAL, "ff02::1").to_link(all).ip(ICMPV6, &body.concat());
        assert_eq!(rig.sends(1, &lie), [Dropped(NotPermitted)]);
    }
}
