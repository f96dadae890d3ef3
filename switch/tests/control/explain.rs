//! `usnetctl explain`: what it says is what happens.

use crate::daemon::{Daemon, until};
use crate::peer::{Client, TCP, UDP, claim};
use serde_json::{Value, json};

fn explain(daemon: &Daemon, words: [&str; 4]) -> Value {
    daemon.json(&[&["explain"], &words[..]].concat())
}

fn steps(answer: &Value) -> Vec<&str> {
    answer["steps"].as_array().unwrap().iter().map(|s| s["step"].as_str().unwrap()).collect()
}

#[test]
fn a_claimed_port_is_explained_by_its_claim_and_who_holds_it() {
    let daemon = Daemon::start("");
    let mut client = Client::attach(&daemon.socket(), "web");
    client.peer.claim(claim(TCP, 80, 1)).unwrap();
    for (from, to) in [("192.0.2.7:5000", "10.77.0.1:80"), ("[fd77::7]:5000", "[fd77::1]:80")] {
        let answer = explain(&daemon, ["w0", "tcp", from, to]);
        assert_eq!(steps(&answer), ["frame", "exact flow", "listener"], "{answer}");
        assert_eq!(answer["verdict"], "client");
        let owner = &answer["owners"][0];
        let own = json!({ "kind": "client", "client": client.attached.session, "name": "web",
            "pid": std::process::id() });
        assert_eq!(owner, &own);
        assert_eq!(answer["steps"][2]["owner"], own);
    }
    let output = daemon.ctl(&["explain", "w0", "tcp", "192.0.2.7:5000", "10.77.0.1:80"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let last =
        format!("-> client {} (web, process {})", client.attached.session, std::process::id());
    assert!(text.ends_with(&format!("{last}\n")), "{text}");
    // When the claim is gone, so is the answer.
    client.peer.release(claim(TCP, 80, 1)).unwrap();
    let answer = explain(&daemon, ["w0", "tcp", "192.0.2.7:5000", "10.77.0.1:80"]);
    assert_eq!((&answer["verdict"], &answer["reason"]), (&json!("drop"), &json!("no_receiver")));
    assert_eq!(steps(&answer), ["frame", "exact flow", "listener", "address", "host"], "{answer}");
}

#[test]
fn groups_echoes_and_addresses_that_are_not_here_are_explained() {
    let daemon = Daemon::start("");
    let mut client = Client::attach(&daemon.socket(), "mdns");
    client.peer.claim(claim(UDP, 5353, 1)).unwrap();
    let answer = explain(&daemon, ["w0", "udp", "192.0.2.7:5353", "224.0.0.251:5353"]);
    assert_eq!(
        (&answer["verdict"], &answer["owners"][0]["name"]),
        (&json!("group"), &json!("mdns"))
    );
    assert_eq!(steps(&answer), ["frame", "group", "members"], "{answer}");
    let answer = explain(&daemon, ["w0", "icmp", "192.0.2.7", "10.77.0.1"]);
    assert_eq!((&answer["verdict"], steps(&answer)[1]), (&json!("drop"), "kind"), "{answer}");
    let answer = explain(&daemon, ["w0", "udp", "192.0.2.7:1", "10.9.9.9:1"]);
    assert!(steps(&answer).contains(&"interface"), "{answer}");
}

#[test]
fn what_the_switch_answers_and_what_dhcp_says_is_explained() {
    let daemon = Daemon::start("on_unmatched = \"unreachable\"\n");
    for (protocol, port, says) in [("tcp", 80, "with a reset"), ("udp", 53, "is unreachable")] {
        let to = format!("10.77.0.1:{port}");
        let answer = explain(&daemon, ["w0", protocol, "192.0.2.7:5000", &to]);
        let last = answer["steps"].as_array().unwrap().last().unwrap();
        assert_eq!(
            (&answer["verdict"], &last["step"]),
            (&json!("answered"), &json!("on_unmatched"))
        );
        assert!(last["says"].as_str().unwrap().contains(says), "{answer}");
    }
    // From an address that is ours nobody is answered.
    let answer = explain(&daemon, ["w0", "tcp", "10.77.0.1:5000", "10.77.0.1:80"]);
    assert_eq!((&answer["verdict"], &answer["reason"]), (&json!("drop"), &json!("no_receiver")));
    assert_eq!(steps(&answer).last(), Some(&"on_unmatched"), "{answer}");
    for (from, to, says) in [(67, 68, "who asked"), (68, 67, "questions of DHCP")] {
        let (from, to) = (format!("192.0.2.7:{from}"), format!("10.77.0.1:{to}"));
        let answer = explain(&daemon, ["w0", "udp", &from, &to]);
        assert!(answer["steps"][1]["says"].as_str().unwrap().contains(says), "{answer}");
    }
}

#[test]
fn a_wrong_question_is_refused_with_what_is_wrong() {
    let daemon = Daemon::start("");
    let wrong = [
        (["nosuch", "tcp", "192.0.2.7:1", "10.77.0.1:1"], "no interface is named \"nosuch\""),
        (["w0", "gre", "192.0.2.7:1", "10.77.0.1:1"], "protocol \"gre\": must be tcp, udp, icmp"),
        (["w0", "tcp", "192.0.2.7", "10.77.0.1:1"], "source \"192.0.2.7\""),
        (["w0", "tcp", "192.0.2.7:1", "10.77.0.1:99999"], "destination \"10.77.0.1:99999\""),
    ];
    for (words, says) in wrong {
        let output = daemon.ctl(&[&["explain"], &words[..]].concat());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(says), "{error}");
    }
    let long = "x".repeat(2000);
    let output = daemon.ctl(&["explain", "w0", "tcp", &long, "10.77.0.1:1"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

/// A datagram from the client's port `from` to another station of its network.
fn teach(client: &mut Client, from: u16) {
    let mut frame = client.datagram(from, 53, b"ask");
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x99]);
    frame[30..34].copy_from_slice(&[10, 77, 0, 9]);
    client.transmit(&frame);
}

#[test]
fn an_echo_reply_is_explained_by_who_asked_with_its_identifier() {
    let daemon = Daemon::start("");
    let mut client = Client::attach(&daemon.socket(), "pinger");
    let reply =
        |id: &str| explain(&daemon, ["w0", "echo-reply", "10.77.0.9", &format!("10.77.0.1:{id}")]);
    let answer = reply("4660");
    assert_eq!(steps(&answer)[..2], ["frame", "echo"], "{answer}");
    assert!(answer["steps"][1]["says"].as_str().unwrap().contains("nobody is known"), "{answer}");
    // An echo request instead of the datagram.
    let mut frame = client.datagram(1, 2, b"ping");
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x99]);
    frame[30..34].copy_from_slice(&[10, 77, 0, 9]);
    frame[23] = 1;
    frame[34..42].copy_from_slice(&[8, 0, 0, 0, 0x12, 0x34, 0, 1]);
    client.transmit(&frame);
    let answer = until("the switch knows who asked", || {
        let answer = reply("4660");
        (answer["verdict"] == "client").then_some(answer)
    });
    assert_eq!(steps(&answer), ["frame", "echo"], "{answer}");
    let step = &answer["steps"][1];
    assert!(step["says"].as_str().unwrap().contains("10.77.0.9 with identifier 4660"), "{answer}");
    assert_eq!(
        (&step["owner"]["name"], &answer["owners"][0]["name"]),
        (&json!("pinger"), &json!("pinger"))
    );
    assert_eq!(
        (&answer["source"], &answer["destination"]),
        (&json!("10.77.0.9"), &json!("10.77.0.1:4660"))
    );
    assert_ne!(reply("4661")["verdict"], "client");
}

#[test]
fn flows_that_a_client_has_taught_are_listed_and_explained() {
    let daemon = Daemon::start("");
    let mut client = Client::attach(&daemon.socket(), "dns");
    for port in 4000..4003 {
        teach(&mut client, port);
    }
    let flows = until("three flows", || {
        let flows = daemon.json(&["flow", "list"]);
        (flows.as_array().unwrap().len() == 3).then_some(flows)
    });
    let flow = &flows[0];
    assert_eq!(
        (&flow["source"], &flow["destination"]),
        (&json!("10.77.0.9:53"), &json!("10.77.0.1:4000"))
    );
    assert_eq!(
        (&flow["owner"]["name"], &flow["protocol"], &flow["learned"]),
        (&json!("dns"), &json!("udp"), &json!(true))
    );
    let answer = explain(&daemon, ["w0", "udp", "10.77.0.9:53", "10.77.0.1:4000"]);
    assert_eq!(
        (steps(&answer), &answer["verdict"]),
        (vec!["frame", "exact flow"], &json!("client"))
    );
    // No more than was asked for, and how many there are beside.
    let output = daemon.ctl(&["-j", "flow", "list", "--limit", "1"]);
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("2 flows more are left out"),
        "{output:?}"
    );
    drop(client);
    until("no flow", || {
        daemon.json(&["flow", "list"]).as_array().unwrap().is_empty().then_some(())
    });
}
