//! VLANs of one interface, each with clients and a kernel's part of its own, against a host that is in both.

use serde_json::Value;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::mpsc::channel;
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};
use usnet::net::TcpStream;
use usnet::services::http::{self, HttpOptions};
use usnet::{Stack, StackOptions};
use usnet_switch::net::Netlink;
use usnet_switch::net::namespace::Namespace;
use usnet_tests::lab::INSIDE;
use usnet_tests::steps::{iperf3, ping, run, spawn as start};
use usnet_tests::{Lab, Running, Trunk, is_installed};

/// What both VLANs have on the two hosts.
const VLANS: [(u16, &str, [&str; 2]); 2] =
    [(42, "10.42.0.1", ["10.42.0.2", "fd42::2"]), (43, "10.43.0.1", ["10.43.0.2", "fd43::2"])];

/// Interface `sv0.42`: the kernel has a part. And `sv0.43`: clients alone.
fn vlan(id: u16) -> String {
    let host = if id == 42 { "tap" } else { "none" };
    format!(
        "[[interface]]\nname = \"sv0.{id}\"\nvlan = {{ of = \"sv0\", id = {id} }}\nhost = {host:?}\n\
         addresses = [\"10.{id}.0.1/24\", \"fd{id}::1/64\"]\n"
    )
}

const ANYBODY: &str = "[[policy]]\nany = true\nports = [\"any\"]\n";

/// Two hosts, usnetd on one of them over this port, and the other in both VLANs.
fn world(port: &str, workers: u32) -> Option<(Lab, Trunk)> {
    let needed = [("curl", "curl"), ("ping", "iputils-ping"), ("ethtool", "ethtool")];
    if !needed.iter().all(|(name, package)| is_installed(name, package)) {
        return None;
    }
    let mut lab = Lab::hosts()?;
    let workers = format!("[worker]\ncount = {workers}\n");
    lab.start_usnetd(&format!("port = {port:?}\n{}{}{ANYBODY}{workers}", vlan(42), vlan(43)));
    let trunk = Trunk::open(&lab, &VLANS.map(|(id, _, addresses)| (id, addresses)));
    Some((lab, trunk))
}

/// Has a client of an interface serve its name as a page, so many times.
fn serve(lab: &Lab, interface: &str, requests: u64) -> JoinHandle<()> {
    let mut options = StackOptions::named("page");
    options.session.socket = lab.socket();
    options.session.interface = interface.into();
    let stack = Stack::attach(options).expect("a session");
    let page = format!("the page of {interface}").into_bytes();
    let (ready, is_ready) = channel();
    let thread = spawn(move || {
        let options =
            HttpOptions { port: 80, page, requests: Some(requests), ..Default::default() };
        http::serve(&stack, &options, |_| ready.send(()).expect("the test waits")).expect("served");
    });
    is_ready.recv().expect("a client that serves");
    thread
}

fn curl(lab: &Lab, address: &str, seconds: &str) -> Output {
    let url = format!("http://{address}/");
    lab.outside("curl", &["-sS", "--max-time", seconds, &url]).output().expect("curl")
}

fn page(lab: &Lab, address: &str) -> String {
    let output = curl(lab, address, "10");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{address}: {errors}\n{}", lab.log());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Each page comes from its own client.
fn fetch_all(lab: &Lab) {
    let all = [("sv0", INSIDE), ("sv0.42", VLANS[0].1), ("sv0.43", VLANS[1].1)];
    for (interface, address) in all {
        assert_eq!(page(lab, address), format!("the page of {interface}"));
    }
}

/// What status says of an interface.
fn interface(lab: &Lab, name: &str) -> Value {
    let status = lab.ask(&["status"]);
    let all = status["interfaces"].as_array().expect("interfaces");
    all.iter().find(|interface| interface["ifname"] == name).expect(name).clone()
}

fn eventually(what: &str, lab: &Lab, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "{what} does not come true\n{}", lab.log());
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_host_in_two_vlans_reaches_the_clients_of_each_and_no_other() {
    for (port, workers) in [("af_packet", 1), ("af_packet", 2), ("af_xdp", 1), ("macvtap", 1)] {
        let Some((lab, trunk)) = world(port, workers) else { return };
        let servers = ["sv0", "sv0.42", "sv0.43"].map(|name| serve(&lab, name, 3));
        for _ in 0..2 {
            fetch_all(&lab);
        }
        let status = interface(&lab, "sv0.42");
        assert_eq!((&status["vlan"]["of"], &status["vlan"]["id"]), (&"sv0".into(), &42.into()));
        let text = String::from_utf8_lossy(&lab.ctl(&["status"]).stdout).into_owned();
        assert!(text.contains("vlan 42 of sv0") && text.contains("vlan 43 of sv0"), "{text}");

        // The kernel's part of VLAN 42, both ways; as much as a frame holds, and pieces.
        ping(|name, arguments| lab.outside(name, arguments), VLANS[0].1);
        ping(|name, arguments| lab.inside(name, arguments), VLANS[0].2[0]);
        ping(|name, arguments| lab.outside(name, arguments), "fd42::1");
        for size in [&["-s", "1472", "-M", "do"][..], &["-s", "6000"]] {
            let arguments = [&["-c", "5", "-i", "0.01", "-W", "2", VLANS[0].1], size].concat();
            let text = run(lab.outside("ping", &arguments));
            assert!(text.contains(" 0% packet loss"), "{port}: {text}");
        }

        // The address of one VLAN with the tag of the other, or without: nobody answers.
        let mac = interface(&lab, "sv0")["mac"].as_str().expect("an address").to_owned();
        for (address, way) in [(VLANS[0].1, "v43"), (VLANS[1].1, "v42"), (VLANS[1].1, "cl0")] {
            let route = |verb| {
                run(lab.outside("ip", &["route", verb, &format!("{address}/32"), "dev", way]))
            };
            route("add");
            let neighbour = ["neighbour", "replace", address, "lladdr", &mac, "dev", way];
            run(lab.outside("ip", &neighbour));
            let output = curl(&lab, address, "1");
            assert!(!output.status.success(), "{port}: {address} by {way}: {output:?}");
            route("del");
        }

        fetch_all(&lab);
        servers.into_iter().for_each(|server| server.join().expect("a client"));
        let arrived = trunk.arrived();
        for tag in [None, Some(42), Some(43)] {
            assert!(arrived.get(&tag).is_some_and(|count| *count >= 8), "{port}: {arrived:?}");
        }
        assert_eq!(arrived.len(), 3, "no other tag: {arrived:?}");
        drop(trunk);
        lab.finish();
    }
}

#[test]
fn a_stream_of_the_kernel_goes_through_a_vlan_both_ways() {
    if !is_installed("iperf3", "iperf3") {
        return;
    }
    for port in ["af_packet", "af_xdp"] {
        let Some((lab, trunk)) = world(port, 1) else { return };
        let server = lab.inside("iperf3", &["-s", "-B", VLANS[0].1]);
        let _server = start(server);
        for direction in [&[][..], &["-R"][..]] {
            iperf3(|name, arguments| lab.outside(name, arguments), VLANS[0].1, direction);
        }
        drop(trunk);
        lab.finish();
    }
}

/// How many frames of a capture a display filter shows.
fn shown(file: &Path, filter: &str) -> usize {
    let mut tshark = Command::new("tshark");
    tshark.args(["-r", &file.display().to_string(), "-Y", filter]);
    run(tshark).lines().count()
}

#[test]
fn who_captures_a_vlan_sees_no_tags_and_who_captures_the_wire_sees_them() {
    if !is_installed("tshark", "tshark") {
        return;
    }
    let Some((lab, trunk)) = world("af_packet", 1) else { return };
    let server = serve(&lab, "sv0.43", 1);
    let files = ["sv0", "sv0.43"].map(|name| lab.directory().join(format!("{name}.pcapng")));
    let captures = files.iter().zip(["sv0", "sv0.43"]).map(|(file, name)| {
        let mut command = Command::new(usnet_tests::program("usnetctl"));
        command.arg("--socket").arg(lab.socket());
        command.args(["capture", "--interface", name, "--write"]).arg(file);
        start(command)
    });
    let captures: Vec<Running> = captures.collect();
    eventually("both captures", &lab, || files.iter().all(|file| file.exists()));
    sleep(Duration::from_millis(300));
    assert_eq!(page(&lab, VLANS[1].1), "the page of sv0.43");
    server.join().expect("a client");
    sleep(Duration::from_millis(300));
    for mut capture in captures {
        let pid = rustix::process::Pid::from_child(&capture.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
        capture.0.wait().expect("its end");
    }
    let [wire, vlan] = files;
    let (tagged, bare) = ("tcp.port == 80 && vlan.id == 43", "tcp.port == 80 && !vlan");
    assert!(shown(&wire, tagged) >= 8, "both ways of a connection");
    assert_eq!((shown(&wire, bare), shown(&vlan, tagged)), (0, 0));
    assert_eq!(shown(&vlan, bare), shown(&wire, tagged));
    drop(trunk);
    lab.finish();
}

/// Puts a configuration into force, with these interfaces.
fn apply_all(lab: &Lab, interfaces: &str) -> Output {
    let mut text = std::fs::read_to_string(lab.directory().join("usnetd.toml")).expect("a file");
    let end = text.find("[[interface]]").expect("an interface");
    text.truncate(end);
    text += interfaces;
    text += ANYBODY;
    let file = lab.directory().join("next.toml");
    std::fs::write(&file, text).expect("a file");
    lab.ctl(&["config", "apply", &file.display().to_string()])
}

/// The same with sv0 over `af_xdp`, and these beside it.
fn apply_text(lab: &Lab, more: &str) -> Output {
    apply_all(lab, &format!("[[interface]]\nname = \"sv0\"\nport = \"af_xdp\"\n{more}"))
}

/// The same with these VLANs.
fn apply(lab: &Lab, vlans: &[u16]) -> Output {
    let all: String = vlans.iter().map(|id| vlan(*id)).collect();
    apply_text(lab, &all)
}

#[test]
fn vlans_come_and_go_while_the_interface_that_they_are_of_stays() {
    let Some(mut lab) = Lab::hosts() else { return };
    if !is_installed("curl", "curl") || !is_installed("ping", "iputils-ping") {
        return;
    }
    lab.start_usnetd(&format!("port = \"af_xdp\"\n{}{ANYBODY}", vlan(42)));
    let trunk = Trunk::open(&lab, &VLANS.map(|(id, _, addresses)| (id, addresses)));
    let _main = serve(&lab, "sv0", u64::MAX);
    let server = serve(&lab, "sv0.42", 1);
    assert_eq!(page(&lab, VLANS[0].1), "the page of sv0.42");
    server.join().expect("a client");
    assert!(!curl(&lab, VLANS[1].1, "1").status.success(), "VLAN 43 is nobody's");
    let output = apply(&lab, &[42, 43]);
    assert!(output.status.success(), "{output:?}\n{}", lab.log());
    let server = serve(&lab, "sv0.43", 1);
    assert_eq!(page(&lab, VLANS[1].1), "the page of sv0.43");
    server.join().expect("a client");
    ping(|name, arguments| lab.outside(name, arguments), VLANS[0].1);
    // Under another name at once: it is still somebody's.
    let output = apply_text(&lab, &vlan(43).replacen("sv0.43", "other", 1));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && words.contains("would be the VLAN that sv0.43 is"),
        "{words}"
    );
    // What they are of cannot go without them.
    let output = apply_all(&lab, &vlan(43));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && words.contains("vlan.of = \"sv0\""), "{words}");
    let output = apply(&lab, &[43]);
    assert!(output.status.success(), "{output:?}\n{}", lab.log());
    let is_there = || lab.inside.run(|| Netlink::open().unwrap().link("sv0.42").is_ok()).unwrap();
    assert!(!is_there(), "the kernel's part is gone");
    let server = serve(&lab, "sv0.43", 1);
    assert_eq!(page(&lab, VLANS[1].1), "the page of sv0.43");
    server.join().expect("a client");
    assert_eq!(page(&lab, INSIDE), "the page of sv0");
    let output = apply(&lab, &[42, 43]);
    assert!(output.status.success(), "{output:?}\n{}", lab.log());
    ping(|name, arguments| lab.outside(name, arguments), VLANS[0].1);
    drop(trunk);
    lab.finish();
}

#[test]
fn vlans_go_and_come_back_with_the_interface_that_they_are_of() {
    let Some((lab, trunk)) = world("af_packet", 1) else { return };
    let reaches = |mtu: &str| {
        let arguments = ["-c", "1", "-W", "1", "-M", "do", "-s", mtu, VLANS[0].1];
        lab.outside("ping", &arguments).output().expect("ping").status.success()
    };
    assert!(reaches("1472"));
    // Another MTU: all are opened again, with that.
    run(lab.inside("ip", &["link", "set", "sv0", "mtu", "1400"]));
    eventually("the new MTU", &lab, || interface(&lab, "sv0.42")["mtu"] == 1400);
    eventually("the way", &lab, || reaches("1372"));
    assert!(interface(&lab, "sv0.42")["reopened"].as_u64().is_some_and(|times| times > 0));
    let server = serve(&lab, "sv0.43", 1);
    assert_eq!(page(&lab, VLANS[1].1), "the page of sv0.43");
    server.join().expect("a client");

    // Gone: they wait for it, and say so.
    let move_to = |from: &Namespace, to: &Namespace| {
        let moved = || Netlink::open()?.move_link("sv0", to.as_fd());
        from.run(moved).expect("a namespace").expect("it can be moved");
    };
    move_to(&lab.inside, &lab.outside);
    eventually("the end", &lab, || interface(&lab, "sv0")["state"] == "gone");
    eventually("the end of its VLAN", &lab, || interface(&lab, "sv0.42")["state"] == "gone");
    eventually("the reason", &lab, || {
        interface(&lab, "sv0.42")["waits_for"].as_str().is_some_and(|why| why.contains("VLAN of"))
    });
    let has_tap = || lab.inside.run(|| Netlink::open().unwrap().link("sv0.42").is_ok()).unwrap();
    assert!(!has_tap(), "the kernel's part goes with it");
    move_to(&lab.outside, &lab.inside);
    for address in ["10.9.0.1/24", "fd09::1/64"] {
        run(lab.inside("ip", &["address", "add", address, "dev", "sv0"]));
    }
    run(lab.inside("ip", &["link", "set", "sv0", "up"]));
    eventually("the return", &lab, || interface(&lab, "sv0.42")["state"] == "up");
    eventually("the way", &lab, || reaches("1372"));
    let server = serve(&lab, "sv0.43", 1);
    assert_eq!(page(&lab, VLANS[1].1), "the page of sv0.43");
    server.join().expect("a client");
    drop(trunk);
    lab.finish();
}

#[test]
fn clients_in_one_vlan_of_a_network_in_memory_meet_and_those_of_two_do_not() {
    let Some(mut lab) = Lab::hosts() else { return };
    let end = |number: u8, vlans: &[u16]| {
        let address = |network: u16| format!("addresses = [\"10.{network}.0.{number}/24\"]\n");
        let wire = format!(
            "[[interface]]\nname = \"w{number}\"\nport = \"wire\"\nnetwork = \"lan\"\n\
             mac = \"02:00:00:77:00:0{number}\"\n{}",
            address(77)
        );
        let vlan = |id: &u16| {
            let of = format!("vlan = {{ of = \"w{number}\", id = {id} }}");
            // Two have the same address, in two networks.
            format!("[[interface]]\nname = \"w{number}.{id}\"\n{of}\n{}", address(42))
        };
        wire + &vlans.iter().map(vlan).collect::<String>()
    };
    lab.start_usnetd(&format!("{}{}{ANYBODY}", end(1, &[42]), end(2, &[42, 43])));
    let server = serve(&lab, "w1.42", 1);
    let fetch = |interface: &str, patience: u64| -> std::io::Result<String> {
        let mut options = StackOptions::named("reader");
        options.session.socket = lab.socket();
        options.session.interface = interface.into();
        let stack = Stack::attach(options)?;
        let to = "10.42.0.1:80".parse().expect("an address");
        let mut stream = TcpStream::connect_timeout(&stack, &to, Duration::from_secs(patience))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    };
    assert!(fetch("w2.43", 1).is_err(), "of another VLAN");
    assert!(fetch("w2", 1).is_err(), "of none");
    let page = fetch("w2.42", 10).expect("the page");
    assert!(page.ends_with("the page of w1.42"), "{page}");
    server.join().expect("a client");
    lab.finish();
}
