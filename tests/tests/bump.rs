//! usnetd as a bump in the wire: a host behind it goes on as ever, and clients share its address.

use std::fs;
use std::time::{Duration, Instant};
use usnet_tests::lab::{INSIDE, INSIDE6, OUTSIDE, find, number};
use usnet_tests::steps::{Page, iperf3_both_ways, ping};
use usnet_tests::{Lab, is_installed};

fn port(lab: &Lab, side: &str) -> serde_json::Value {
    find(&lab.stats(), side).expect("a port").clone()
}

#[test]
fn pings_go_through_both_ways_while_a_client_serves_a_port_of_the_same_address() {
    if !is_installed("ping", "iputils-ping") || !is_installed("curl", "curl") {
        return;
    }
    let Some(lab) = Lab::bump("") else { return };
    let page = Page::serve(&lab);
    for target in [INSIDE, INSIDE6] {
        ping(|name, arguments| lab.outside(name, arguments), target);
        page.fetch(&lab, 1);
    }
    ping(|name, arguments| lab.behind(name, arguments), OUTSIDE);
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
    iperf3_both_ways(&lab, lab.behind("iperf3", &["-s", "-B", INSIDE]));
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
