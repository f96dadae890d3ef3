//! usnetd as a bump in the wire: a host behind it goes on as ever, and clients share its address.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use usnet_tests::lab::{INSIDE, INSIDE6, OUTSIDE, find, number};
use usnet_tests::{Lab, Running, is_installed};

fn run(mut command: Command) -> String {
    let output = command.output().expect("a program that is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{text}{errors}");
    text
}

fn port(lab: &Lab, side: &str) -> serde_json::Value {
    find(&lab.stats(), side).expect("a port").clone()
}

#[test]
fn pings_go_through_both_ways_while_a_client_serves_a_port_of_the_same_address() {
    if !is_installed("ping", "iputils-ping") || !is_installed("curl", "curl") {
        return;
    }
    let Some(lab) = Lab::bump("") else { return };
    let body: String = (0..5000).map(|n| format!("line {n}\n")).collect();
    let file = lab.directory().join("page.html");
    fs::write(&file, &body).expect("a page");
    let _http = lab.client("http", &["--port", "80", "--page", &file.display().to_string()], 80);
    let url = format!("http://{INSIDE}/");
    for target in [INSIDE, INSIDE6] {
        let text = run(lab.outside("ping", &["-c", "20", "-i", "0.01", "-W", "2", target]));
        assert!(text.contains(" 0% packet loss"), "{text}");
        let got = run(lab.outside("curl", &["-sS", "--max-time", "10", &url]));
        assert!(got == body, "{} bytes came, not {}", got.len(), body.len());
    }
    let text = run(lab.behind("ping", &["-c", "20", "-i", "0.01", "-W", "2", OUTSIDE]));
    assert!(text.contains(" 0% packet loss"), "{text}");
    // It was the host behind that answered, not the kernel between.
    let forwarded = number(&port(&lab, "host"), "transmitted");
    assert!(forwarded >= 40, "{forwarded} frames");
    lab.finish();
}

#[test]
fn iperf3_runs_through_both_ways_while_a_client_is_attached() {
    if !is_installed("iperf3", "iperf3") {
        return;
    }
    let Some(lab) = Lab::bump("") else { return };
    let _echo = lab.client("echo", &["--port", "7"], 7);
    let mut server = lab.behind("iperf3", &["-s", "-B", INSIDE]);
    server.stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Running(server.spawn().expect("iperf3"));
    let end = Instant::now() + Duration::from_secs(20);
    for direction in [&[][..], &["-R"][..]] {
        let arguments =
            [&["-c", INSIDE, "-n", "50M", "-J", "--connect-timeout", "5000"], direction].concat();
        let report: serde_json::Value = loop {
            let output = lab.outside("iperf3", &arguments).output().expect("iperf3");
            let report: serde_json::Value =
                serde_json::from_slice(&output.stdout).unwrap_or_default();
            if output.status.success() && report["error"].is_null() {
                break report;
            }
            // The server may not be there yet.
            assert!(Instant::now() < end, "{}", String::from_utf8_lossy(&output.stdout));
            std::thread::sleep(Duration::from_millis(100));
        };
        let sent = report["end"]["sum_sent"]["bytes"].as_u64().unwrap_or(0);
        assert!(sent >= 50 << 20, "{sent} bytes were sent: {report:#}");
    }
    let (wire, host) = (port(&lab, "wire"), port(&lab, "host"));
    for side in [wire, host] {
        // The last ones may still be under way when iperf3 has enough.
        assert!(number(&side, "received_bytes") > 45 << 20, "{side:#}");
    }
    lab.finish();
}

#[test]
fn a_bump_whose_interface_behind_comes_back_serves_on() {
    if !is_installed("ping", "iputils-ping") {
        return;
    }
    let Some(lab) = Lab::bump("") else { return };
    let answers = || {
        let one = ["-c", "1", "-W", "1", INSIDE];
        lab.outside("ping", &one).output().expect("ping").status.success()
    };
    assert!(answers());
    lab.cut_cable();
    assert!(!answers());
    lab.lay_cable();
    let end = Instant::now() + Duration::from_secs(20);
    while !answers() {
        assert!(Instant::now() < end, "not open again: {:#}\n{}", lab.ask(&["status"]), lab.log());
    }
    lab.finish();
}

#[test]
fn two_mtus_are_refused_with_the_way_out() {
    let Some(mut lab) = Lab::hosts() else { return };
    let more = || {
        let mut netlink = usnet_switch::net::Netlink::open()?;
        netlink.add_veth("sv1", "hb0", None)?;
        netlink.set_mtu("sv1", 1400)?;
        netlink.set_up("sv1")
    };
    lab.inside.run(more).expect("a namespace").expect("a second interface");
    let config = lab.directory().join("two.toml");
    let text = "[[interface]]\nname = \"sv0\"\nhost = { interface = \"sv1\" }\n";
    fs::write(&config, text).expect("the configuration");
    let usnetd = usnet_tests::program("usnetd").display().to_string();
    let config = config.display().to_string();
    let output = lab.inside(&usnetd, &["run", "--config", &config]).output().expect("usnetd");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{error}");
    assert!(
        error.contains("1500") && error.contains("1400") && error.contains("same MTU"),
        "{error}"
    );
    lab.start_usnetd("");
    lab.finish();
}
