//! An interface that changes under a daemon: set down, given another MTU, taken away with the namespace at its
//! other end. Sessions stay, and traffic goes on by itself.
//!
//! ```text
//!   peer: pv0 ---- sv0 --> usnetd (threads of this process) --> an echo, over the client's sockets
//! ```

mod isolated;
mod served;

use isolated::{address, isolated, skip, two_hosts};
use served::{Served, until};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use usnet::net;
use usnet::stack::{Stack, StackOptions};
use usnet_switch::net::Netlink;
use usnet_switch::net::namespace::Namespace;
use usnet_switch::port::netmap::Module;

/// Sends back what comes to port 9000, until the daemon ends.
fn echo(served: &Served) {
    let mut options = StackOptions::named("echo");
    options.session.socket = served.socket();
    let stack = Stack::attach(options).unwrap();
    let socket = net::UdpSocket::bind(&stack, "0.0.0.0:9000").unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..length], from);
        }
    });
}

/// The peer asks until it is answered.
fn is_answered(peer: &Namespace, payload: &[u8]) {
    let socket = peer.run(|| UdpSocket::bind("10.9.0.2:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut bytes = [0; 2048];
    until("the answer", || {
        let _ = socket.send_to(payload, "10.9.0.1:9000");
        let length = socket.recv(&mut bytes).ok()?;
        (&bytes[..length] == payload).then_some(())
    });
}

fn on_each_port(name: &'static str, test: fn(&str)) {
    isolated(name, || {
        test("af_packet");
        if rustix::process::geteuid().is_root() {
            test("af_xdp");
        } else {
            skip(name, "XDP programs can only be loaded as root");
        }
    });
}

#[test]
fn an_interface_that_is_set_down_and_up_serves_its_sessions_again() {
    let name = "an_interface_that_is_set_down_and_up_serves_its_sessions_again";
    on_each_port(name, |port| {
        let peer = two_hosts();
        let served = Served::start("down", &format!("port = \"{port}\""), Arc::new(Module));
        echo(&served);
        is_answered(&peer, b"before");
        let mut net = Netlink::open().unwrap();
        for turn in 0..3_u8 {
            net.set_down("sv0").unwrap();
            until("down", || (served.interface()["link"] == "down").then_some(()));
            net.set_up("sv0").unwrap();
            // It takes IPv6 addresses away that were given by hand.
            let _ = net.add_address("sv0", address("fd09::1/64"));
            until("up", || {
                let seen = served.interface();
                (seen["link"] == "up" && seen["state"] == "up").then_some(())
            });
            is_answered(&peer, &[turn; 16]);
        }
        served.is_whole();
        net.delete_link("sv0").unwrap();
    });
}

#[test]
fn another_mtu_is_in_force_with_sessions_as_they_were() {
    let name = "another_mtu_is_in_force_with_sessions_as_they_were";
    on_each_port(name, |port| {
        let peer = two_hosts();
        let served = Served::start("mtu", &format!("port = \"{port}\""), Arc::new(Module));
        echo(&served);
        is_answered(&peer, &[1; 1400]);
        let mut net = Netlink::open().unwrap();
        for (turn, mtu) in (1..).zip([1300, 1500]) {
            net.set_mtu("sv0", mtu).unwrap();
            until("the MTU", || {
                let seen = served.interface();
                (seen["mtu"] == mtu && seen["state"] == "up").then_some(())
            });
            assert_eq!(served.interface()["reopened"], turn, "once for each change");
            peer.run(|| Netlink::open().unwrap().set_mtu("pv0", mtu)).unwrap().unwrap();
            is_answered(&peer, &[2; 1200]);
        }
        is_answered(&peer, &[3; 1400]);
        assert_eq!(served.json(&["status"])["sessions"], 1);
        served.is_whole();
        net.delete_link("sv0").unwrap();
    });
}

#[test]
fn an_interface_whose_other_end_went_with_its_namespace_comes_back() {
    let name = "an_interface_whose_other_end_went_with_its_namespace_comes_back";
    on_each_port(name, |port| {
        let peer = two_hosts();
        let mut net = Netlink::open().unwrap();
        let mac = net.link("sv0").unwrap().mac;
        // A client's stack remembers its neighbours for a while.
        let mac_of =
            |peer: &Namespace| peer.run(|| Netlink::open()?.link("pv0")).unwrap().unwrap().mac;
        let peers_mac = mac_of(&peer);
        let served = Served::start("namespace", &format!("port = \"{port}\""), Arc::new(Module));
        echo(&served);
        is_answered(&peer, b"before");
        drop(peer);
        served.is("gone", 0);
        until("the reason", || {
            let why = served.interface()["waits_for"].as_str()?.to_owned();
            why.contains("no interface is named").then_some(())
        });
        let peer = Namespace::create().unwrap();
        net.add_veth("sv0", "pv0", Some(peer.as_fd())).unwrap();
        net.set_mac("sv0", mac).unwrap();
        for text in ["10.9.0.1/24", "fd09::1/64"] {
            net.add_address("sv0", address(text)).unwrap();
        }
        net.set_up("sv0").unwrap();
        peer.run(|| {
            let mut net = Netlink::open().unwrap();
            net.set_mac("pv0", peers_mac).unwrap();
            net.add_address("pv0", address("10.9.0.2/24")).unwrap();
            net.set_up("pv0").unwrap();
        })
        .unwrap();
        served.is("up", 1);
        is_answered(&peer, b"after");
        served.is_whole();
        net.delete_link("sv0").unwrap();
    });
}
