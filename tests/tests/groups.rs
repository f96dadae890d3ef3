//! Stacks of clients that join groups, beside a kernel that sends to them and a bridge that listens in.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket as KernelSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};
use usnet::net::UdpSocket;
use usnet::{Options, Stack, StackOptions};
use usnet_tests::lab::OUTSIDE;
use usnet_tests::steps::run;
use usnet_tests::{Lab, is_installed};

const PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(20);
/// Groups, and where the kernel sends to them from.
const FAMILIES: [(&str, &str); 2] = [("239.1.2.3", OUTSIDE), ("ff15::1:3", "fd09::2")];
/// Each client has an address of each family alone, so that all can have the same port.
const POLICY: &str = "[[policy]]\nany = true\naddresses = []\ngroups = [\"239.1.0.0/16\", \"ff15::/16\"]\n\
    own_addresses = [\"10.9.0.11\", \"10.9.0.12\", \"10.9.0.13\", \"fd09::11\", \"fd09::12\", \"fd09::13\"]\n";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn socket(stack: &Stack, group: IpAddr) -> UdpSocket {
    let any = if group.is_ipv4() { "0.0.0.0" } else { "::" };
    let socket = UdpSocket::bind(stack, (any, PORT)).expect("a port");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");
    socket
}

fn join(socket: &UdpSocket, group: IpAddr) {
    match group {
        IpAddr::V4(group) => socket.join_multicast_v4(&group, &[0; 4].into()),
        IpAddr::V6(group) => socket.join_multicast_v6(&group, 0),
    }
    .expect("a group");
}

fn leave(socket: &UdpSocket, group: IpAddr) {
    match group {
        IpAddr::V4(group) => socket.leave_multicast_v4(&group, &[0; 4].into()),
        IpAddr::V6(group) => socket.leave_multicast_v6(&group, 0),
    }
    .expect("it has joined");
}

/// What comes, or nothing.
fn take(socket: &UdpSocket) -> Option<u32> {
    let mut bytes = [0; 64];
    match socket.recv_from(&mut bytes) {
        Ok((4, _)) => Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
        Ok((count, from)) => panic!("{count} bytes of {from}"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}

/// Numbers that the kernel sends to a group, one after the other, until all of these have one; returns the last.
fn send_until(kernel: &KernelSocket, to: SocketAddr, number: &mut u32, all: &[&UdpSocket]) {
    let end = Instant::now() + PATIENCE;
    let mut has = vec![false; all.len()];
    while !has.iter().all(|has| *has) {
        assert!(Instant::now() < end, "who has joined hears nothing: {has:?}");
        *number += 1;
        if let Err(error) = kernel.send_to(&number.to_be_bytes(), to) {
            // The kernel notices a moment late that the link is up, and has no route for groups before.
            assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{error}");
            sleep(Duration::from_millis(20));
        }
        for (has, socket) in has.iter_mut().zip(all) {
            *has |= take(socket).is_some();
        }
    }
}

/// How many clients have joined a group, by the switch's word.
fn members(lab: &Lab, group: IpAddr, from: &str) -> String {
    let (from, to) = (SocketAddr::new(ip(from), 9), SocketAddr::new(group, PORT));
    let output = lab.ctl(&["explain", "sv0", "udp", &from.to_string(), &to.to_string()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("have joined it"));
    line.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr))).to_owned()
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(50));
    }
}

fn attach(lab: &Lab, name: &str) -> Stack {
    let session = Options { socket: lab.socket(), ..StackOptions::named(name).session };
    Stack::attach(StackOptions { session, ..StackOptions::default() }).expect("a stack")
}

#[test]
fn what_a_kernel_sends_to_a_group_reaches_the_stacks_that_have_joined_it_until_they_leave() {
    let Some(lab) = Lab::with_usnetd(POLICY) else { return };
    let [a, b, c] = ["a", "b", "c"].map(|name| attach(&lab, name));
    for (group, from) in FAMILIES {
        let (group, mut number) = (ip(group), 0);
        let to = SocketAddr::new(group, PORT);
        let [a, b, c] = [&a, &b, &c].map(|stack| socket(stack, group));
        let bind = || KernelSocket::bind((from, 0)).expect("a socket of the kernel's");
        let kernel = lab.outside.run(bind).expect("a namespace");
        join(&a, group);
        join(&b, group);
        wait_for("the switch knows of both", || members(&lab, group, from).ends_with(": 2"));
        send_until(&kernel, to, &mut number, &[&a, &b]);
        assert_eq!(take(&c), None, "it has not joined");
        leave(&a, group);
        wait_for("the switch knows of one", || members(&lab, group, from).ends_with(": 1"));
        while take(&a).is_some() {}
        send_until(&kernel, to, &mut number, &[&b]);
        assert_eq!((take(&a), take(&c)), (None, None), "one has left, one has never joined");
        // The end of a socket leaves, too.
        drop(b);
        wait_for("the switch knows of none", || members(&lab, group, from).ends_with(": 0"));
    }
    // What smoltcp would have said of groups did not even come so far as to be refused.
    let clients = lab.ask(&["client", "list"]).to_string();
    assert!(!clients.contains("not_permitted"), "{clients}");
    drop([a, b, c]);
    lab.finish();
}

#[test]
fn a_bridge_that_listens_in_knows_what_a_stack_has_joined_as_long_as_it_is_so() {
    if !is_installed("ip", "iproute2") || !is_installed("bridge", "iproute2") {
        return;
    }
    let Some(mut lab) = Lab::hosts() else { return };
    // It asks each second, and forgets who has not answered for three.
    let bridge = "link add br0 type bridge mcast_snooping 1 mcast_querier 1 mcast_query_interval 100 \
        mcast_query_response_interval 50 mcast_membership_interval 300 mcast_last_member_interval 20 mcast_startup_query_interval 100";
    for line in [bridge, "link set cl0 master br0", "link set br0 up"] {
        let words: Vec<&str> = line.split_whitespace().collect();
        run(lab.outside("ip", &words));
    }
    lab.start_usnetd(POLICY);
    let stack = attach(&lab, "member");
    // A socket of IPv6 joins groups of both, as the kernel's do.
    let socket = socket(&stack, ip("ff15::1"));
    let known = || run(lab.outside("bridge", &["-j", "mdb", "show"]));
    for (group, _) in FAMILIES {
        assert!(!known().contains(group), "{}", known());
        join(&socket, ip(group));
        wait_for("the bridge does not hear of it", || known().contains(group));
    }
    // Both were said twice at the beginning; from here on only answers keep them.
    sleep(Duration::from_secs(6));
    for (group, _) in FAMILIES {
        assert!(known().contains(group), "questions were not answered: {}", known());
        leave(&socket, ip(group));
        wait_for("the bridge does not hear of the end", || !known().contains(group));
    }
    drop(socket);
    drop(stack);
    lab.finish();
}
