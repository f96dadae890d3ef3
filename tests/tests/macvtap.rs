//! A macvtap in place of a packet socket: the kernel beside clients on one address, and clients beside the kernel.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use usnet_switch::net::offload::{Offload, Offloads};
use usnet_tests::lab::{INSIDE, INSIDE6, OUTSIDE, find, number};
use usnet_tests::{Lab, is_installed, steps};

const SHARED: &str = "port = \"macvtap\"\n";

#[test]
fn kernel_and_client_serve_on_one_address_over_a_macvtap() {
    if !["curl", "iperf3"].iter().all(|p| is_installed(p, p))
        || !is_installed("ping", "iputils-ping")
    {
        return;
    }
    for workers in ["", "[worker]\ncount = 2\n"] {
        let Some(lab) = Lab::with_usnetd(&format!("{SHARED}{workers}")) else { return };
        let body: String = (0..5000).map(|n| format!("line {n}\n")).collect();
        let file = lab.directory().join("page.html");
        fs::write(&file, &body).expect("a page");
        let page = file.display().to_string();
        let _http = lab.client("http", &["--port", "80", "--page", &page], 80);
        // A neighbour that the kernel has to ask for, of either family.
        for target in [OUTSIDE, "fd09::2"] {
            let text =
                steps::run(lab.inside("ping", &["-c", "5", "-i", "0.02", "-W", "5", target]));
            assert!(text.contains(" 0% packet loss"), "{text}");
        }
        for target in [INSIDE, INSIDE6] {
            let text =
                steps::run(lab.outside("ping", &["-c", "50", "-i", "0.01", "-W", "2", target]));
            assert!(text.contains(" 0% packet loss"), "{text}");
        }
        let urls = [format!("http://{INSIDE}/"), format!("http://[{INSIDE6}]/")];
        for url in urls.iter().cycle().take(10) {
            let got = steps::run(lab.outside("curl", &["-sS", "--max-time", "20", url]));
            assert!(got == body, "{} bytes came, not {}", got.len(), body.len());
        }
        steps::iperf3_both_ways(&lab, lab.inside("iperf3", &["-s", "-B", INSIDE]));
        // The kernel as the client: its answers come by the macvtap as well.
        let _server = steps::spawn(lab.outside("iperf3", &["-s", "-B", OUTSIDE]));
        steps::iperf3(|name, arguments| lab.inside(name, arguments), OUTSIDE, &[]);
        lab.finish();
    }
}

#[test]
fn a_bridged_macvtap_gives_clients_an_address_beside_the_kernels() {
    const OWN: &str = "10.9.0.77";
    if !is_installed("curl", "curl") || !is_installed("ping", "iputils-ping") {
        return;
    }
    let config = format!(
        "{SHARED}macvtap = \"bridge\"\naddresses = [\"{OWN}/24\", \"fd09::77/64\"]\n\
         mac = \"02:00:00:00:00:77\"\n"
    );
    let Some(lab) = Lab::with_usnetd(&config) else { return };
    let _http = lab.client("http", &["--port", "80"], 80);
    for url in [format!("http://{OWN}/"), "http://[fd09::77]/".to_owned()] {
        let got = steps::run(lab.outside("curl", &["-sS", "--max-time", "20", &url]));
        assert!(!got.is_empty());
    }
    let status = lab.ask(&["status"]);
    assert!(status.to_string().contains("02:00:00:00:00:77"), "{status:#}");
    // The kernel hears nothing of it, and is heard.
    for target in [INSIDE, INSIDE6] {
        let text = steps::run(lab.outside("ping", &["-c", "20", "-i", "0.01", "-W", "2", target]));
        assert!(text.contains(" 0% packet loss"), "{text}");
    }
    let kernel = format!("http://{INSIDE}/");
    let mut refused = lab.outside("curl", &["-sS", "--max-time", "5", &kernel]);
    let output = refused.output().expect("curl");
    assert!(!output.status.success(), "nobody serves at the kernel's address");
    lab.finish();
}

#[test]
fn a_killed_usnetd_has_its_macvtap_removed_by_a_process_that_outlasts_it() {
    let Some(mut lab) = Lab::with_usnetd(SHARED) else { return };
    let process = lab.outlasting("usnetd-macvtap");
    let target = format!("{INSIDE}:8080").parse().expect("an address");
    let serve = || std::net::TcpListener::bind(target).expect("a kernel service");
    let _service = lab.inside.run(serve).expect("a namespace");
    let reaches = |lab: &Lab, patience| {
        let connect = || TcpStream::connect_timeout(&target, Duration::from_millis(patience));
        lab.outside.run(connect).expect("a namespace").is_ok()
    };
    assert!(reaches(&lab, 5000), "through the switch");
    // While it is stopped the macvtap stays, and takes all.
    rustix::process::kill_process(process, rustix::process::Signal::STOP).expect("it runs");
    lab.usnetd().kill().expect("usnetd runs");
    lab.usnetd().wait().expect("its end");
    assert!(!reaches(&lab, 300), "nobody else removes it");
    rustix::process::kill_process(process, rustix::process::Signal::CONT).expect("it waits");
    let end = Instant::now() + Duration::from_secs(5);
    while !reaches(&lab, 300) {
        assert!(Instant::now() < end, "the kernel does not hear again");
    }
}

#[test]
fn large_segments_reach_a_client_whole_and_leave_it_whole() {
    const TOTAL: usize = 4 << 20;
    const SEGMENT: usize = 1448;
    let config = format!("{SHARED}[memory]\nslot_size = 65536\nport_slots = 1024\n");
    let Some(lab) = Lab::with_usnetd(&config) else { return };
    let joining = || {
        let offloads = Offloads::of("cl0")?;
        for offload in [Offload::TcpSegmentation, Offload::GenericSegmentation] {
            offloads.set(offload, true)?;
        }
        Ok::<_, usnet_switch::net::NetError>(())
    };
    lab.outside.run(joining).expect("a namespace").expect("offloads");
    let _echo = lab.client("echo", &["--port", "7", "--tcp"], 7);
    let sent: Vec<u8> = (0..=250u8).cycle().take(TOTAL).collect();
    let target = format!("{INSIDE}:7").parse().expect("an address");
    let patience = Duration::from_secs(30);
    let talk = || {
        let stream = TcpStream::connect_timeout(&target, patience).expect("a connection");
        stream.set_read_timeout(Some(patience)).expect("a limit");
        std::thread::scope(|scope| {
            scope.spawn(|| (&stream).write_all(&sent).expect("it is read"));
            let mut received = vec![0; TOTAL];
            (&stream).read_exact(&mut received).expect("it comes back");
            received
        })
    };
    let received = lab.outside.run(talk).expect("a namespace");
    assert!(received == sent, "the bytes differ");
    let stats = lab.stats();
    let sessions = find(&stats, "sessions").and_then(|s| s.as_array()).expect("sessions");
    // As frames of the MTU the data alone would be more, in either direction.
    let least = (TOTAL / SEGMENT) as u64;
    for key in ["delivered", "sent"] {
        let frames = number(&sessions[0], key);
        assert!(frames < least, "{frames} frames {key}, {least} segments");
    }
    lab.finish();
}
