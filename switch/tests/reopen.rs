//! A daemon whose interface goes away and comes back: sessions stay, frames move again.
//!
//! ```text
//!   peer: pv0 ---- sv0 --> usnetd (threads of this process) --> session
//! ```

mod isolated;
mod served;

use isolated::{address, isolated, two_hosts};
use serde_json::Value;
use served::{Served, until};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use usnet::{Claim, Options, Session};
use usnet_switch::classify::Mac;
use usnet_switch::net::namespace::Namespace;
use usnet_switch::net::offload::{Offload, Offloads};
use usnet_switch::net::{Channels, Netlink};
use usnet_switch::port::netmap::Module;
use usnet_switch::port::netmap::double::{Double, Medium, NicSpec, QueueMedium, queue_pair};

const UDP: u8 = 17;

fn attach(served: &Served) -> Session {
    attach_to(served, "sv0")
}

fn attach_to(served: &Served, interface: &str) -> Session {
    let interface = interface.to_owned();
    let options = Options { socket: served.socket(), interface, ..Options::named("test") };
    let mut session = Session::attach(options).unwrap();
    session.claim(Claim::port(UDP, 9000)).unwrap();
    session
}

/// The payload of the next UDP datagram that a session receives; answers go where it came from.
fn hear(session: &mut Session) -> Option<(Vec<u8>, Vec<u8>)> {
    let frames = session.frames();
    frames.receive().unwrap();
    let mut heard = None;
    while let Some(frame) = frames.next() {
        let mut bytes = vec![0; frame.len()];
        frame.copy_to(&mut bytes);
        if bytes.get(12..14) == Some(&[8, 0]) && bytes.get(23) == Some(&UDP) {
            let length = usize::from(u16::from_be_bytes([bytes[38], bytes[39]]));
            heard = Some((bytes[42..34 + length].to_vec(), bytes));
            break;
        }
    }
    frames.flush().unwrap();
    heard
}

/// The same frame on its way back.
fn turned(mut frame: Vec<u8>) -> Vec<u8> {
    let swap = |frame: &mut Vec<u8>, a: usize, b: usize, length: usize| {
        for at in 0..length {
            frame.swap(a + at, b + at);
        }
    };
    swap(&mut frame, 0, 6, 6);
    swap(&mut frame, 26, 30, 4);
    swap(&mut frame, 34, 36, 2);
    // No checksum of UDP; that of IPv4 is the same sum.
    frame[40..42].copy_from_slice(&[0, 0]);
    frame
}

fn say(session: &mut Session, bytes: &[u8]) {
    let frames = session.frames();
    let mut slot = frames.transmit().expect("a slot: few are on their way");
    slot.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
    slot.send(bytes.len()).unwrap();
    frames.flush().unwrap();
}

/// The peer's program asks, the session answers, and the peer hears nothing else: the kernel keeps out.
fn converse(peer: &Namespace, session: &mut Session, payload: &[u8]) {
    converse_in(9, peer, session, payload);
}

/// The same in the network 10.`net`.0.0/24.
fn converse_in(net: u8, peer: &Namespace, session: &mut Session, payload: &[u8]) {
    let socket = peer.run(|| UdpSocket::bind((IpAddr::from([10, net, 0, 2]), 0)).unwrap()).unwrap();
    socket.connect((IpAddr::from([10, net, 0, 1]), 9000)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let mut bytes = [0; 64];
    until("the answer", || {
        // The first may be lost while the two hosts find each other.
        match socket.send(payload) {
            Ok(_) => {}
            Err(error) => panic!("the kernel answered for the session: {error}"),
        }
        while let Some((heard, frame)) = hear(session) {
            // What was sent too often before is for nobody.
            if heard == payload {
                say(session, &turned(frame));
            }
        }
        match socket.recv(&mut bytes) {
            Ok(length) => {
                assert_eq!(&bytes[..length], payload);
                Some(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("the kernel answered for the session: {error}"),
        }
    });
}

/// The two hosts again, after the link between them was removed.
fn join_again(peer: &Namespace, mac: Mac) {
    let mut net = Netlink::open().unwrap();
    net.add_veth("sv0", "pv0", Some(peer.as_fd())).unwrap();
    net.set_mac("sv0", mac).unwrap();
    Offloads::of("sv0").unwrap().set(Offload::GenericReceive, true).unwrap();
    peer.run(|| {
        let mut net = Netlink::open().unwrap();
        net.add_address("pv0", address("10.9.0.2/24")).unwrap();
        net.set_up("pv0").unwrap();
    })
    .unwrap();
}

fn receive_offload() -> Option<bool> {
    Offloads::of("sv0").unwrap().get(Offload::GenericReceive).unwrap()
}

fn a_removed_link_comes_back(name: &str, interface: &str) {
    let peer = two_hosts();
    let mut net = Netlink::open().unwrap();
    let mac = net.link("sv0").unwrap().mac;
    let served = Served::start(name, interface, Arc::new(Module));
    let mut session = attach(&served);
    assert_eq!(served.interface()["link"], "up");
    converse(&peer, &mut session, b"before");

    for turn in 1..=3 {
        net.delete_link("sv0").unwrap();
        served.is("gone", turn - 1);
        until("the reason", || {
            let seen = served.interface();
            seen["waits_for"].as_str()?.contains("no interface is named").then_some(())
        });
        assert!(served.ctl(&["status"]).contains("sv0 is not open again yet: "));
        join_again(&peer, mac);
        // Step by step, as an administrator does it; each is waited for.
        until("down", || served.interface()["waits_for"].as_str()?.contains("down").then_some(()));
        net.set_up("sv0").unwrap();
        until("its address", || {
            let seen = served.interface();
            seen["waits_for"].as_str()?.contains("address").then_some(())
        });
        for text in ["10.9.0.1/24", "fd09::1/64"] {
            net.add_address("sv0", address(text)).unwrap();
        }
        served.is("up", turn);
        // A macvtap has the kernel cut what is joined.
        let is_kept = interface.contains("macvtap");
        assert_eq!(receive_offload(), Some(is_kept), "as at the first opening");
        converse(&peer, &mut session, format!("after {turn}").as_bytes());
        served.is_whole();
    }
    assert!(served.ctl(&["status"]).contains("up, reopened 3"));
    session.detach().unwrap();
    drop(served);
    assert_eq!(receive_offload(), Some(true), "put back");
    assert_eq!(Channels::of("sv0").unwrap().receiving(), 1, "as many as it had");
    let links = net.links().unwrap();
    let left: Vec<_> = links.iter().map(|link| link.name.as_str()).filter(|n| *n != "lo").collect();
    assert_eq!(left, ["sv0"]);
}

#[test]
fn a_session_outlives_the_removal_of_its_interface() {
    let name = "a_session_outlives_the_removal_of_its_interface";
    isolated(name, || a_removed_link_comes_back(name, "host = \"auto\""));
}

#[test]
fn a_session_outlives_the_removal_of_its_interface_with_a_veth_for_the_host() {
    let name = "a_session_outlives_the_removal_of_its_interface_with_a_veth_for_the_host";
    isolated(name, || a_removed_link_comes_back(name, "host = \"veth\""));
}

/// XDP programs and nodes of devices are root's, also in a network namespace of somebody else.
fn xdp_is_missing(name: &str) -> bool {
    let is_missing = !rustix::process::geteuid().is_root();
    if is_missing {
        isolated::skip(name, "only root can load XDP programs and make nodes of devices");
    }
    is_missing
}

#[test]
fn a_session_outlives_the_removal_of_an_interface_with_xdp_sockets() {
    let name = "a_session_outlives_the_removal_of_an_interface_with_xdp_sockets";
    if !xdp_is_missing(name) {
        isolated(name, || a_removed_link_comes_back(name, "port = \"af_xdp\""));
    }
}

#[test]
fn a_session_outlives_the_removal_of_an_interface_with_xdp_sockets_that_take_all() {
    let name = "a_session_outlives_the_removal_of_an_interface_with_xdp_sockets_that_take_all";
    if !xdp_is_missing(name) {
        let interface = "port = \"af_xdp\"\ntake = \"all\"\nhost = \"veth\"";
        isolated(name, || a_removed_link_comes_back(name, interface));
    }
}

#[test]
fn a_session_outlives_the_removal_of_an_interface_with_a_macvtap() {
    let name = "a_session_outlives_the_removal_of_an_interface_with_a_macvtap";
    if !xdp_is_missing(name) {
        isolated(name, || a_removed_link_comes_back(name, "port = \"macvtap\""));
    }
}

#[test]
fn two_workers_each_have_a_queue_of_an_interface_also_when_it_has_come_back() {
    let name = "two_workers_each_have_a_queue_of_an_interface_also_when_it_has_come_back";
    if !xdp_is_missing(name) {
        // It has one queue, is given a second, and has one again in the end.
        let interface = "port = \"af_xdp\"\n[worker]\ncount = 2\n";
        isolated(name, || {
            a_removed_link_comes_back(name, interface);
        });
    }
}

#[test]
fn xdp_sockets_of_several_interfaces_serve_beside_other_ports_in_one_daemon() {
    let name = "xdp_sockets_of_several_interfaces_serve_beside_other_ports_in_one_daemon";
    if xdp_is_missing(name) {
        return;
    }
    isolated(name, || {
        let peer = two_hosts();
        let mut net = Netlink::open().unwrap();
        for (here, there, number) in [("sv1", "pv1", 8), ("sv2", "pv2", 7), ("sv3", "pv3", 6)] {
            net.add_veth(here, there, Some(peer.as_fd())).unwrap();
            net.add_address(here, address(&format!("10.{number}.0.1/24"))).unwrap();
            net.set_up(here).unwrap();
            let up = || {
                let mut net = Netlink::open().unwrap();
                net.add_address(there, address(&format!("10.{number}.0.2/24"))).unwrap();
                net.set_up(there).unwrap();
            };
            peer.run(up).unwrap();
        }
        // A card of the double has the daemon's slots as its buffers, too.
        let double = Double::new().unwrap();
        let (mut wire, end) = queue_pair(256).unwrap();
        let mut card = NicSpec::new("sv3", Box::new(end));
        (card.tx_slots, card.rx_slots) = (64, 64);
        double.add_nic(card).unwrap();
        let others = "port = \"af_xdp\"\n[[interface]]\nname = \"sv1\"\nport = \"af_xdp\"\n\
                      take = \"firewall\"\n[[interface]]\nname = \"sv2\"\n\
                      [[interface]]\nname = \"sv3\"\nport = \"netmap\"\n";
        let served = Served::start(name, others, Arc::new(double.clone()));
        let mut sessions: Vec<(u8, Session)> = [(9, "sv0"), (8, "sv1"), (7, "sv2")]
            .map(|(number, interface)| (number, attach_to(&served, interface)))
            .into();
        let mut at_card = attach_to(&served, "sv3");
        let mac = net.link("sv3").unwrap().mac;
        for round in 0..3_u8 {
            for (number, session) in &mut sessions {
                converse_in(*number, &peer, session, &[round, *number, 3]);
            }
            let mut frame = question(mac, 9, [round; 5]);
            // To 10.6.0.1 from 10.6.0.2: the sum of the header is less by twice the difference.
            for at in [27, 31] {
                frame[at] = 6;
            }
            let sum = u16::from_be_bytes([frame[24], frame[25]]) + 6;
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            assert!(wire.send(&frame));
            let (heard, _) = until("the question at the card", || hear(&mut at_card));
            assert_eq!(heard, [round; 5]);
        }
        served.is_whole();
        // Each comes and goes by itself.
        let mac = net.link("sv0").unwrap().mac;
        net.delete_link("sv0").unwrap();
        served.is("gone", 0);
        for (number, session) in sessions.iter_mut().skip(1) {
            converse_in(*number, &peer, session, &[9, *number, 9]);
        }
        join_again(&peer, mac);
        for text in ["10.9.0.1/24", "fd09::1/64"] {
            net.add_address("sv0", address(text)).unwrap();
        }
        net.set_up("sv0").unwrap();
        served.is("up", 1);
        converse(&peer, &mut sessions[0].1, b"again");
        served.is_whole();
    });
}

#[test]
fn claims_hold_in_the_program_of_an_interface_that_has_come_back() {
    let name = "claims_hold_in_the_program_of_an_interface_that_has_come_back";
    if xdp_is_missing(name) {
        return;
    }
    isolated(name, || {
        let peer = two_hosts();
        let mut net = Netlink::open().unwrap();
        let mac = net.link("sv0").unwrap().mac;
        let served = Served::start(name, "port = \"af_xdp\"", Arc::new(Module));
        let mut session = attach(&served);
        session.claim(Claim::port(UDP, 9001)).unwrap();
        let from = peer.run(|| UdpSocket::bind("10.9.0.2:0").unwrap()).unwrap();
        let by_the_switch = || -> u64 {
            served.json(&["stats"])["interfaces"][0]["host"]["counters"]["transmitted"]
                .as_u64()
                .unwrap()
        };
        for turn in 1..=3 {
            net.delete_link("sv0").unwrap();
            served.is("gone", turn - 1);
            // One is given back while there is no program, one taken.
            session.release(Claim::port(UDP, 9001)).unwrap();
            session.claim(Claim::port(UDP, 9003)).unwrap();
            join_again(&peer, mac);
            for text in ["10.9.0.1/24", "fd09::1/64"] {
                net.add_address("sv0", address(text)).unwrap();
            }
            net.set_up("sv0").unwrap();
            served.is("up", turn);
            converse(&peer, &mut session, b"still");
            // What nobody claims any more comes to the kernel, and not by way of the switch.
            let ours = UdpSocket::bind("10.9.0.1:9001").unwrap();
            ours.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let before = by_the_switch();
            for _ in 0..5 {
                until("the kernel to hear", || {
                    from.send_to(b"kernel", "10.9.0.1:9001").unwrap();
                    ours.recv(&mut [0; 16]).ok()
                });
            }
            served.is_whole();
            assert_eq!(by_the_switch(), before, "turn {turn}: each comes once, and directly");
            drop(ours);
            from.send_to(b"taken meanwhile", "10.9.0.1:9003").unwrap();
            until("the session to hear", || {
                hear(&mut session).filter(|(heard, _)| heard == b"taken meanwhile")
            });
            session.release(Claim::port(UDP, 9003)).unwrap();
            session.claim(Claim::port(UDP, 9001)).unwrap();
        }
    });
}

#[test]
fn an_interface_that_returns_with_another_address_ends_its_sessions() {
    let name = "an_interface_that_returns_with_another_address_ends_its_sessions";
    isolated(name, || {
        let peer = two_hosts();
        let mut net = Netlink::open().unwrap();
        let networks = "addresses = [\"10.9.0.1/24\"]";
        let served = Served::start(name, networks, Arc::new(Module));
        let mut session = attach(&served);
        converse(&peer, &mut session, b"before");
        net.delete_link("sv0").unwrap();
        served.is("gone", 0);
        let other = Mac([2, 0, 0, 7, 7, 7]);
        join_again(&peer, other);
        // The kernel's own address is nothing to the sessions if the configuration names theirs.
        net.add_address("sv0", address("10.9.0.1/24")).unwrap();
        net.set_up("sv0").unwrap();
        served.is("up", 1);
        let moment = Some(Duration::from_millis(5));
        until("its end", || session.frames().wait(moment, &[]).is_err().then_some(()));
        session.reattach().unwrap();
        assert_eq!(session.mac(), other.0);
        converse(&peer, &mut session, b"after");
    });
}

#[test]
fn the_host_endpoint_comes_back_when_somebody_removes_it() {
    let name = "the_host_endpoint_comes_back_when_somebody_removes_it";
    isolated(name, || {
        let peer = two_hosts();
        let mut net = Netlink::open().unwrap();
        let served = Served::start(name, "host = \"veth\"", Arc::new(Module));
        let mut session = attach(&served);
        net.delete_link("u-sv0").unwrap();
        served.is("up", 1);
        converse(&peer, &mut session, b"after");
        let ask = UdpSocket::bind("10.9.0.1:7000").unwrap();
        ask.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        // The kernel hears again, too.
        let from = peer.run(|| UdpSocket::bind("10.9.0.2:0").unwrap()).unwrap();
        until("the kernel to hear", || {
            from.send_to(b"kernel", "10.9.0.1:7000").unwrap();
            ask.recv(&mut [0; 16]).ok()
        });
    });
}

/// A datagram from a port of the other host to the session's.
fn question(mac: Mac, source: u16, payload: [u8; 5]) -> Vec<u8> {
    let mut frame = [mac.0, [2, 0, 0, 0, 9, 9]].concat();
    frame.extend([8, 0, 0x45, 0, 0, 33, 0, 0, 0x40, 0, 64, UDP, 0, 0]);
    let sum = [0x4500u32, 33, 0x4000, 0x4011, 0x0a09, 2, 0x0a09, 1].iter().sum::<u32>();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend([10, 9, 0, 2, 10, 9, 0, 1]);
    frame.extend(source.to_be_bytes());
    frame.extend([0x23, 0x28, 0, 13, 0, 0]);
    frame.extend(payload);
    frame.resize(60, 0);
    frame
}

/// A card of the double by the name of a link that the kernel has.
fn card(double: &Double, slots: u32) -> QueueMedium {
    card_of(double, slots, 1)
}

fn card_of(double: &Double, slots: u32, rings: usize) -> QueueMedium {
    let (wire, end) = queue_pair(256).unwrap();
    let mut spec = NicSpec::new("sv0", Box::new(end));
    (spec.tx_slots, spec.rx_slots) = (slots, slots);
    (spec.tx_rings, spec.rx_rings) = (rings, rings);
    double.add_nic(spec).unwrap();
    wire
}

#[test]
fn a_session_outlives_the_removal_of_a_card_of_netmap_and_no_slot_is_lost() {
    let name = "a_session_outlives_the_removal_of_a_card_of_netmap_and_no_slot_is_lost";
    isolated(name, || {
        let _peer = two_hosts();
        let mac = Netlink::open().unwrap().link("sv0").unwrap().mac;
        let double = Double::new().unwrap();
        let mut wire = card(&double, 64);
        let served = Served::start(name, "port = \"netmap\"", Arc::new(double.clone()));
        let mut session = attach(&served);
        let stats =
            || -> Value { serde_json::from_str(&served.ctl(&["--json", "stats"])).unwrap() };
        let mut ask = |wire: &mut QueueMedium, number: u8| {
            assert!(wire.send(&question(mac, 9, [number; 5])));
            let (heard, frame) = until("the question", || hear(&mut session));
            assert_eq!(heard, [number; 5]);
            say(&mut session, &turned(frame));
            let mut bytes = [0; 2048];
            let length = until("the answer", || wire.receive(&mut bytes));
            assert_eq!(bytes[42..length.min(47)], [number; 5]);
        };
        ask(&mut wire, 1);
        let slots = stats()["slots"].clone();
        for turn in 1..=4u8 {
            double.remove("sv0").unwrap();
            served.is("gone", (turn - 1).into());
            assert!(!double.is_open("sv0"), "closed at once, so that the removal goes on");
            wire = card(&double, 64);
            served.is("up", turn.into());
            ask(&mut wire, turn);
            assert_eq!(stats()["slots"], slots, "turn {turn}");
            served.is_whole();
        }
        // One with longer rings than there are buffers for is served by copying.
        double.remove("sv0").unwrap();
        served.is("gone", 4);
        wire = card(&double, 512);
        served.is("up", 5);
        ask(&mut wire, 5);
        served.is_whole();
        session.detach().unwrap();
        // With the daemon its region goes, whatever is listed there.
        for region in double.regions() {
            assert_eq!((double.leaks(region), double.double_frees(region)), (0, 0));
        }
        drop(served);
        assert!(!double.is_open("sv0"));
    });
}

#[test]
fn two_workers_each_serve_a_ring_pair_of_a_card_also_when_it_has_come_back() {
    let name = "two_workers_each_serve_a_ring_pair_of_a_card_also_when_it_has_come_back";
    isolated(name, || {
        let _peer = two_hosts();
        let mac = Netlink::open().unwrap().link("sv0").unwrap().mac;
        let double = Double::new().unwrap();
        let mut wire = card_of(&double, 64, 2);
        let workers = "port = \"netmap\"\n[worker]\ncount = 2\n";
        let served = Served::start(name, workers, Arc::new(double.clone()));
        let mut session = attach(&served);
        assert_eq!(session.frames().pairs(), 2);
        for turn in 0..3u64 {
            for source in 0..16u16 {
                let payload = [u8::try_from(source).unwrap(); 5];
                assert!(wire.send(&question(mac, 1000 + source, payload)));
                let (heard, _) = until("the question", || hear(&mut session));
                assert_eq!(heard, payload);
            }
            let stats: Value = serde_json::from_str(&served.ctl(&["--json", "stats"])).unwrap();
            let each = stats["workers"].as_array().unwrap();
            assert!(each.iter().all(|w| w["to_clients"].as_u64() > Some(0)), "{stats}");
            served.is_whole();
            double.remove("sv0").unwrap();
            served.is("gone", turn);
            assert!(!double.is_open("sv0"), "by no worker");
            wire = card_of(&double, 64, 2);
            served.is("up", turn + 1);
        }
        session.detach().unwrap();
        for region in double.regions() {
            assert_eq!((double.leaks(region), double.double_frees(region)), (0, 0));
        }
    });
}
