//! The kernel's stack and client processes on one interface and one address, with real peers.

use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use usnet_tests::lab::{INSIDE, INSIDE6, find, number};
use usnet_tests::steps::{Page, iperf3_both_ways, ping, run, spawn};
use usnet_tests::{Lab, is_installed};

#[test]
fn curl_fetches_a_page_that_a_client_serves_on_the_kernels_address() {
    if !is_installed("curl", "curl") {
        return;
    }
    let Some(lab) = Lab::with_usnetd("") else { return };
    Page::serve(&lab).fetch(&lab, 20);
    lab.finish();
}

#[test]
fn ping_is_answered_by_the_kernel_while_clients_are_attached() {
    if !is_installed("ping", "iputils-ping") {
        return;
    }
    let Some(lab) = Lab::with_usnetd("") else { return };
    let _echo = lab.client("echo", &["--port", "7"], 7);
    for target in [INSIDE, INSIDE6] {
        ping(|name, arguments| lab.outside(name, arguments), target);
    }
    lab.finish();
}

#[test]
fn iperf3_between_the_kernels_runs_both_ways_over_the_shared_interface() {
    if is_installed("iperf3", "iperf3")
        && let Some(lab) = Lab::with_usnetd("")
    {
        kernels_run_iperf3(&lab);
        lab.finish();
    }
}

fn kernels_run_iperf3(lab: &Lab) {
    let _echo = lab.client("echo", &["--port", "7"], 7);
    iperf3_both_ways(lab, lab.inside("iperf3", &["-s", "-B", INSIDE]));
}

#[test]
fn two_workers_share_one_address_with_the_kernel_between_them() {
    if !is_installed("iperf3", "iperf3") || !is_installed("curl", "curl") {
        return;
    }
    for host in ["auto", "veth"] {
        let workers = format!("host = \"{host}\"\n[worker]\ncount = 2\n");
        let Some(lab) = Lab::with_usnetd(&workers) else { return };
        // Each fetch is a flow of its own, and arrives at whichever worker the kernel chooses.
        Page::serve(&lab).fetch(&lab, 40);
        let stats = lab.ctl(&["stats", "--json"]);
        let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).expect("JSON");
        let each = stats["workers"].as_array().expect("both workers");
        let delivered: Vec<_> = each.iter().filter_map(|w| w["to_clients"].as_u64()).collect();
        assert!(delivered.len() == 2 && delivered.iter().all(|n| *n > 0), "{delivered:?}");
        kernels_run_iperf3(&lab);
        lab.finish();
    }
}

#[test]
fn a_port_that_no_client_holds_is_the_kernels() {
    if !is_installed("nping", "nmap") {
        return;
    }
    let Some(lab) = Lab::with_usnetd("") else { return };
    let _echo = lab.client("echo", &["--port", "7"], 7);
    let probe = |port: &str| {
        run(lab.outside(
            "nping",
            &["--tcp", "-p", port, "--flags", "syn", "-c", "3", "--delay", "20ms", INSIDE],
        ))
    };
    let refused = probe("81");
    assert!(refused.contains(":81 > ") && refused.contains(" RA "), "{refused}");
    let accepted = probe("7");
    assert!(accepted.contains(":7 > ") && accepted.contains(" SA "), "{accepted}");
    assert!(!accepted.contains(" RA "), "the kernel answered for a client:\n{accepted}");
    lab.finish();
}

#[test]
fn usnetctl_host_names_the_sockets_of_the_kernel_and_what_is_held_from_it() {
    if !is_installed("iperf3", "iperf3") {
        return;
    }
    let more = "host_ports = [\"tcp/22\", \"udp/500 from 10.9.0.0/24\"]\nflow_ports = [\"udp/40000-40001\"]\n";
    let Some(lab) = Lab::with_usnetd(more) else { return };
    let _echo = lab.client("echo", &["--port", "7"], 7);
    let _server = spawn(lab.inside("iperf3", &["-s", "-B", INSIDE]));
    let end = Instant::now() + Duration::from_secs(20);
    let answer = loop {
        let answer = lab.ask(&["host"]);
        let sockets = answer[0]["sockets"].as_array().expect("sockets");
        if sockets.iter().any(|socket| socket["program"] == "iperf3") {
            break answer;
        }
        assert!(Instant::now() < end, "{answer:#}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let one = &answer[0];
    let socket =
        one["sockets"].as_array().expect("sockets").iter().find(|s| s["program"] == "iperf3");
    let socket = socket.expect("of iperf3");
    assert_eq!(socket["local"], format!("{INSIDE}:5201"), "{answer:#}");
    assert_eq!((&socket["state"], &socket["uid"]), (&"listening".into(), &0.into()), "{answer:#}");
    let has = |what: &str, key: &str, value: serde_json::Value| {
        one[what].as_array().expect("a list").iter().any(|one| one[key] == value)
    };
    assert!(
        has("held", "first_port", 7.into()) && !has("held", "first_port", 5201.into()),
        "{answer:#}"
    );
    assert!(has("host_ports", "remote", "10.9.0.0/24".into()), "{answer:#}");
    assert!(has("host_ports", "first_port", 22.into()), "{answer:#}");
    assert!(has("flow_ports", "last_port", 40_001.into()), "{answer:#}");
    let table = String::from_utf8(lab.ctl(&["host"]).stdout).expect("text");
    assert!(table.contains("udp/500 (from 10.9.0.0/24)") && table.contains("iperf3"), "{table}");
    lab.finish();
}

#[test]
fn every_datagram_on_the_wire_is_delivered_or_dropped_for_a_reason() {
    if !is_installed("nping", "nmap") || !is_installed("tshark", "tshark") {
        return;
    }
    let Some(lab) = Lab::with_usnetd("") else { return };
    let _echo = lab.client("echo", &["--port", "7"], 7);
    let capture = lab.directory().join("wire.pcap").display().to_string();
    let tshark = ["-i", "cl0", "-q", "-w", &capture, "-f", "udp port 7", "-a", "duration:60"];
    let mut recorder = spawn(lab.outside("tshark", &tshark));
    wait_for_file(&capture);
    let (delivered, dropped, sent) = client_counters(&lab);
    assert_eq!(dropped, 0);
    run(lab.outside(
        "nping",
        &["--udp", "-p", "7", "-c", "500", "--rate", "500", "--data-length", "100", INSIDE],
    ));
    let after = client_counters(&lab);
    // A capture is complete once tshark has ended in peace.
    std::thread::sleep(Duration::from_millis(500));
    let pid = rustix::process::Pid::from_child(&recorder.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("tshark runs");
    recorder.0.wait().expect("its end");
    let on_the_wire = |filter: &str| {
        run(lab.outside("tshark", &["-r", &capture, "-Y", filter])).lines().count() as u64
    };
    // Beside the datagrams a client gets, and sends, a few ARP frames.
    let came = after.0 - delivered + after.1 - dropped;
    assert_eq!(on_the_wire("udp.dstport == 7"), 500);
    assert!((500..=510).contains(&came), "{came} delivered or dropped");
    let (answers, left) = (on_the_wire("udp.srcport == 7"), after.2 - sent);
    assert!((answers..=answers + 10).contains(&left), "{answers} on the wire, {left} sent");
    assert!(answers > 0);
    lab.finish();
}

/// Frames delivered to, dropped for, and taken from the one client there is.
fn client_counters(lab: &Lab) -> (u64, u64, u64) {
    let stats = lab.stats();
    let sessions = find(&stats, "sessions").and_then(|s| s.as_array()).expect("sessions");
    assert_eq!(sessions.len(), 1, "{stats:#}");
    let drops = find(&sessions[0], "dropped_to").and_then(|d| d.as_object()).expect("drops");
    let dropped = drops.values().filter_map(serde_json::Value::as_u64).sum();
    (number(&sessions[0], "delivered"), dropped, number(&sessions[0], "sent"))
}

fn wait_for_file(path: &str) {
    let end = Instant::now() + Duration::from_secs(20);
    while fs::metadata(path).map_or(0, |m| m.len()) == 0 {
        assert!(Instant::now() < end, "{path} is not written");
        std::thread::sleep(Duration::from_millis(20));
    }
    // The file is made a moment before the capture is on.
    std::thread::sleep(Duration::from_millis(300));
}

#[test]
fn thousands_of_connections_begun_and_reset_leave_both_stacks_in_service() {
    if !is_installed("hping3", "hping3") || !is_installed("curl", "curl") {
        return;
    }
    let Some(lab) = Lab::with_usnetd("") else { return };
    let _http = lab.client("http", &["--port", "80"], 80);
    let count = ["-S", "-p", "80", "-c", "3000", "-i", "u100", "-q", INSIDE];
    let _ = lab.outside("hping3", &count).output();
    let url = format!("http://{INSIDE}/");
    let got = run(lab.outside("curl", &["-sS", "--max-time", "20", "--retry", "3", &url]));
    assert!(!got.is_empty());
    if is_installed("ping", "iputils-ping") {
        run(lab.outside("ping", &["-c", "3", "-i", "0.1", "-W", "2", INSIDE]));
    }
    lab.finish();
}

#[test]
fn where_the_switch_says_so_a_kernel_is_refused_at_once_at_ports_that_nobody_has() {
    if !is_installed("ip", "iproute2") {
        return;
    }
    let Some(mut lab) = Lab::hosts() else { return };
    // The addresses are the clients' alone: a kernel that had them would hear and answer, too.
    run(lab.inside("ip", &["address", "flush", "dev", "sv0"]));
    let addresses = format!("[\"{INSIDE}/24\", \"{INSIDE6}/64\"]");
    lab.start_usnetd(&format!(
        "host = \"none\"\naddresses = {addresses}\non_unmatched = \"unreachable\"\n"
    ));
    let _echo = lab.client("echo", &["--port", "7"], 7);
    let refused = |error: std::io::Error| {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
    };
    let outside = || {
        for (inside, any) in [(INSIDE, "0.0.0.0:0"), (INSIDE6, "[::]:0")] {
            let at = |port| {
                format!("{inside}:{port}").parse().or_else(|_| format!("[{inside}]:{port}").parse())
            };
            let (closed, open): (SocketAddr, SocketAddr) =
                (at(9).expect("an address"), at(7).expect("an address"));
            let patience = Duration::from_secs(10);
            // The client claims one protocol after the other, and is refused like anybody before.
            let end = Instant::now() + patience;
            while let Err(error) = TcpStream::connect_timeout(&open, patience) {
                assert!(Instant::now() < end, "the client's port: {error}");
                std::thread::sleep(Duration::from_millis(10));
            }
            refused(TcpStream::connect_timeout(&closed, patience).expect_err("nobody's port"));
            let socket = UdpSocket::bind(any).expect("a socket");
            socket.set_read_timeout(Some(patience)).expect("a timeout");
            socket.connect(closed).expect("a peer");
            socket.send(b"anybody there?").expect("to send");
            refused(socket.recv(&mut [0; 16]).expect_err("nobody's port"));
        }
    };
    lab.outside.run(outside).expect("a namespace");
    lab.finish();
}
