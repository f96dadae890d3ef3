//! Claims for some remote ends, of protocols and of groups, over the control socket: what is granted acts, is shown and explained.

use crate::daemon::{Daemon, until};
use crate::peer::{Client, Peer, TCP, claim, wish};
use bytemuck::Zeroable;
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use usnet::net::{TcpListener, TcpStream};
use usnet::{Options, Stack, StackOptions};
use usnet_shmring::control::{Address, Message, RefusalCode, Rule, features, rule_flags};

const GRE: u8 = 47;

fn rule(protocol: u8, first_port: u16, count: u16) -> Rule {
    Rule { protocol, first_port, count, ..Rule::zeroed() }
}

fn from(text: &str, bits: u8, rule: Rule) -> Rule {
    Rule { remote: Address::new(text.parse().unwrap(), bits), ..rule }
}

fn ask(client: &mut Client, message: &Message) -> Result<Rule, (RefusalCode, String)> {
    client.peer.ask(message).map(|answer| match answer {
        Message::RuleClaimed(rule) => rule,
        other => panic!("{other:?}"),
    })
}

fn verdict(daemon: &Daemon, remote: &str, local: &str) -> (Value, Value) {
    let answer = daemon.json(&["explain", "w0", "tcp", remote, local]);
    (answer["verdict"].clone(), answer["owners"][0]["name"].clone())
}

#[test]
fn claims_for_different_remote_ends_act_are_listed_and_go_with_their_session() {
    let daemon = Daemon::start("[worker]\ncount = 2\n");
    let mut plain = Client::attach(&daemon.socket(), "plain");
    let mut narrow = Client::attach(&daemon.socket(), "narrow");
    plain.peer.claim(claim(TCP, 80, 1)).unwrap();
    let network = from("192.0.2.0", 24, rule(TCP, 80, 1));
    assert_eq!(ask(&mut narrow, &Message::ClaimRule(network)), Ok(network));
    let port = Rule { remote_port: 7, priority: 3, ..from("198.51.100.9", 32, rule(TCP, 0, 4)) };
    let granted = ask(&mut narrow, &Message::ClaimRule(port)).unwrap();
    assert!(granted.first_port != 0 && Rule { first_port: 0, ..granted } == port, "{granted:?}");
    let to = |remote| verdict(&daemon, remote, "10.77.0.1:80");
    assert_eq!(to("192.0.2.7:5000"), (json!("client"), json!("narrow")));
    assert_eq!(to("192.0.3.7:5000"), (json!("client"), json!("plain")));
    let rules = daemon.json(&["rule", "list"]);
    let of = |name: &str| -> Vec<Value> {
        let all = rules.as_array().unwrap().iter();
        all.filter(|rule| rule["name"] == name && rule["address"] == "10.77.0.1").cloned().collect()
    };
    let [first, second] = &of("narrow")[..] else { panic!("{rules}") };
    assert_eq!((&first["remote"], &first["priority"]), (&json!("192.0.2.0/24"), &Value::Null));
    assert_eq!(
        (&second["remote"], &second["remote_port"], &second["priority"]),
        (&json!("198.51.100.9"), &json!(7), &json!(3))
    );
    assert_eq!(of("plain")[0].get("remote"), None, "as ever");
    let table = String::from_utf8(daemon.ctl(&["rule", "list"]).stdout).unwrap();
    assert!(table.contains("198.51.100.9 port 7, priority 3"), "{table}");
    // A release in other words is none.
    let other = Rule { priority: 1, ..network };
    assert_eq!(
        ask(&mut narrow, &Message::ReleaseRule(other)).unwrap_err().0,
        RefusalCode::NotFound
    );
    assert_eq!(ask(&mut narrow, &Message::ReleaseRule(network)), Ok(network));
    assert_eq!(to("192.0.2.7:5000"), (json!("client"), json!("plain")));
    ask(&mut narrow, &Message::ClaimRule(network)).unwrap();
    narrow.peer.ask(&Message::Detach).unwrap();
    assert_eq!(to("192.0.2.7:5000"), (json!("client"), json!("plain")));
    assert_eq!(
        daemon.json(&["rule", "list"]).as_array().unwrap().len(),
        4,
        "host and plain, twice"
    );
}

#[test]
fn members_of_a_group_are_found_by_flow_and_one_that_dies_is_out() {
    let daemon = Daemon::start("[worker]\ncount = 2\n");
    let group = Rule { flags: rule_flags::SPREAD, ..rule(TCP, 80, 1) };
    let mut members: Vec<Client> =
        ["a", "b"].map(|name| Client::attach(&daemon.socket(), name)).into();
    for member in &mut members {
        ask(member, &Message::ClaimRule(group)).unwrap();
    }
    let mut alone = Client::attach(&daemon.socket(), "alone");
    let (code, text) = alone.peer.claim(claim(TCP, 80, 1)).unwrap_err();
    assert_eq!(code, RefusalCode::InUse);
    assert!(text.contains("which does not share it"), "{text}");
    let owners = || -> Vec<Value> {
        let flow = |n: u32| verdict(&daemon, &format!("192.0.2.{n}:5000"), "10.77.0.1:80").1;
        (1..25).map(flow).collect()
    };
    let before = owners();
    assert!(before.contains(&json!("a")) && before.contains(&json!("b")), "{before:?}");
    drop(members.remove(0));
    until("the member to be out", || owners().iter().all(|owner| owner == "b").then_some(()));
    let said = daemon.json(&["explain", "w0", "tcp", "192.0.2.1:5", "10.77.0.1:80"]).to_string();
    assert!(said.contains("by a group"), "{said}");
}

#[test]
fn listeners_of_two_stacks_share_the_connections_of_one_port() {
    let daemon = Daemon::start(
        "network = \"n\"\n[[interface]]\nname = \"w1\"\nport = \"wire\"\nnetwork = \"n\"\n\
         addresses = [\"10.77.0.2/24\"]\n[worker]\ncount = 2\n",
    );
    let stack = |name: &str, interface: &str| {
        let (socket, interface) = (daemon.socket(), interface.to_owned());
        let session = Options { socket, interface, ..Options::named(name) };
        Stack::attach(StackOptions { session, ..StackOptions::default() }).unwrap()
    };
    let (a, b, from) = (stack("a", "w0"), stack("b", "w0"), stack("from", "w1"));
    let other = stack("other", "w0");
    let address: std::net::SocketAddr = "10.77.0.1:80".parse().unwrap();
    let listeners = [&a, &b].map(|stack| TcpListener::bind_spread(stack, address).unwrap());
    assert_eq!(TcpListener::bind(&other, address).unwrap_err().kind(), ErrorKind::AddrInUse);
    assert!(TcpListener::bind_spread(&other, "10.77.0.1:0").is_err());
    let mut streams = Vec::new();
    for _ in 0..40 {
        streams.push(TcpStream::connect(&from, address).unwrap());
    }
    for listener in &listeners {
        listener.set_nonblocking(true).unwrap();
    }
    let mut accepted = [0, 0];
    until("all to be accepted", || {
        for (listener, count) in listeners.iter().zip(&mut accepted) {
            while let Ok((mut stream, _)) = listener.accept() {
                stream.set_nonblocking(false).unwrap();
                stream.write_all(b"hello").unwrap();
                streams.push(stream);
                *count += 1;
            }
        }
        (accepted.iter().sum::<i32>() == 40).then_some(())
    });
    assert!(accepted.iter().all(|count| *count > 4), "{accepted:?}");
    for stream in &mut streams[..40] {
        let mut said = [0; 5];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hello");
    }
}

#[test]
fn malformed_rules_are_refused_and_the_session_lives() {
    let daemon = Daemon::start("");
    let socket = daemon.socket();
    let mut client = Peer::connect(&socket)
        .attach(&usnet_shmring::control::Attach { features: !0, ..wish("x") })
        .unwrap();
    assert_ne!(client.attached.features & features::RULES, 0);
    let good = from("192.0.2.0", 24, rule(TCP, 80, 1));
    let mut long = good;
    long.remote.prefix = 33;
    let mut family = good;
    family.remote.family = 5;
    let mut mixed = good;
    mixed.address = Address::new("fd77::1".parse().unwrap(), 128);
    let mut wide = good;
    wide.address = Address::new("10.77.0.1".parse().unwrap(), 24);
    let mut dirty = good;
    dirty.remote.reserved[3] = 1;
    let wrong = [
        (long, RefusalCode::Protocol),
        (family, RefusalCode::Protocol),
        (mixed, RefusalCode::Protocol),
        (wide, RefusalCode::Protocol),
        (dirty, RefusalCode::Protocol),
        (Rule { flags: 2, ..good }, RefusalCode::Protocol),
        (Rule { reserved: 1, ..good }, RefusalCode::Protocol),
        (Rule { count: 0, ..good }, RefusalCode::Protocol),
        (Rule { remote_port: 1, ..from("192.0.2.0", 24, rule(GRE, 0, 0)) }, RefusalCode::Protocol),
        (rule(1, 0, 0), RefusalCode::NotPermitted),
        (rule(58, 0, 0), RefusalCode::NotPermitted),
        (rule(GRE, 7, 1), RefusalCode::NotPermitted),
    ];
    for (rule, code) in wrong {
        let refused = ask(&mut client, &Message::ClaimRule(rule)).unwrap_err();
        assert_eq!(refused.0, code, "{rule:?}: {}", refused.1);
        assert!(ask(&mut client, &Message::ReleaseRule(rule)).is_err());
    }
    for bits in 1..=16 {
        ask(&mut client, &Message::ClaimRule(from("10.0.0.0", bits, rule(TCP, 80, 1)))).unwrap();
    }
    let (code, text) =
        ask(&mut client, &Message::ClaimRule(from("10.0.0.0", 17, rule(TCP, 80, 1)))).unwrap_err();
    assert_eq!(code, RefusalCode::Exhausted, "{text}");
    assert!(text.contains("kinds of remote ends"), "{text}");
    ask(&mut client, &Message::ClaimRule(rule(GRE, 0, 0))).unwrap();
    client.peer.claim(claim(TCP, 81, 1)).unwrap();
}

#[test]
fn the_host_keeps_a_port_for_what_its_configuration_names() {
    let daemon = Daemon::start(
        "[[interface]]\nname = \"w1\"\nport = \"wire\"\naddresses = [\"10.78.0.1/24\"]\n\
         host_ports = [\"tcp/22 from 192.0.2.0/24\"]\n",
    );
    let mut client = Peer::connect(&daemon.socket())
        .attach(&usnet_shmring::control::Attach {
            interface: usnet_shmring::control::name_into("w1"),
            ..wish("ssh")
        })
        .unwrap();
    client.peer.claim(claim(TCP, 22, 1)).unwrap();
    let (code, text) =
        ask(&mut client, &Message::ClaimRule(from("192.0.2.7", 32, rule(TCP, 22, 1)))).unwrap_err();
    assert_eq!(code, RefusalCode::InUse);
    assert!(text.contains("from 192.0.2.0/24") && text.ends_with("held by the host"), "{text}");
    let answer = |remote| daemon.json(&["explain", "w1", "tcp", remote, "10.78.0.1:22"]);
    assert_eq!(answer("192.0.2.7:5")["verdict"], "host");
    assert_eq!(answer("192.0.3.7:5")["verdict"], "client");
}

#[test]
fn a_prefix_is_claimed_listed_explained_and_gone_with_its_session() {
    let daemon = Daemon::start(
        "[worker]\ncount = 2\n[[policy]]\nany = true\nown_prefixes = [\"10.1.0.0/16\"]\n",
    );
    let mut hosts = Client::attach(&daemon.socket(), "hosts");
    let mut other = Client::attach(&daemon.socket(), "other");
    let prefix = |text: &str, bits: u8, protocol: u8| Rule {
        address: Address::new(text.parse().unwrap(), bits),
        ..rule(protocol, 0, 0)
    };
    let whole = prefix("10.1.2.0", 24, 0);
    assert_eq!(ask(&mut hosts, &Message::ClaimRule(whole)), Ok(whole));
    // Root has both, so it may share a prefix out; but what one has another does not get as well.
    let (code, words) = ask(&mut other, &Message::ClaimRule(whole)).unwrap_err();
    assert_eq!(code, RefusalCode::InUse);
    assert!(
        words.starts_with("all of 10.1.2.0/24 is held by session") && words.ends_with("(hosts)"),
        "{words}"
    );
    ask(&mut other, &Message::ClaimRule(prefix("10.1.2.0", 24, TCP))).unwrap();
    ask(&mut other, &Message::ClaimRule(prefix("10.1.2.7", 32, 0))).unwrap();
    let (code, words) =
        ask(&mut other, &Message::ClaimRule(prefix("10.2.0.0", 16, 0))).unwrap_err();
    assert_eq!(code, RefusalCode::NotPermitted, "{words}");
    let narrow = Rule { remote_port: 9, ..whole };
    assert_eq!(ask(&mut other, &Message::ClaimRule(narrow)).unwrap_err().0, RefusalCode::Protocol);
    let owner = |protocol: &str, to: &str| {
        let answer = daemon.json(&["explain", "w0", protocol, "192.0.2.7:5000", to]);
        let steps = answer["steps"].as_array().unwrap();
        assert!(steps.iter().any(|step| step["step"] == "prefix"), "{answer}");
        answer["owners"][0]["name"].clone()
    };
    assert_eq!(owner("udp", "10.1.2.8:80"), "hosts");
    assert_eq!(owner("tcp", "10.1.2.8:80"), "other");
    assert_eq!(owner("udp", "10.1.2.7:80"), "other");
    let listed: Vec<Value> = daemon.rules();
    let one =
        |r: &Value| format!("{} {} {}", r["address"], r["protocol"], r["name"]).replace('"', "");
    let listed: Vec<String> = listed.iter().map(one).collect();
    assert_eq!(listed, ["10.1.2.0/24 any hosts", "10.1.2.0/24 tcp other", "10.1.2.7 any other"]);
    assert_eq!(ask(&mut hosts, &Message::ReleaseRule(whole)), Ok(whole));
    assert_eq!(ask(&mut hosts, &Message::ReleaseRule(whole)).unwrap_err().0, RefusalCode::NotFound);
    other.peer.ask(&Message::Detach).unwrap();
    assert_eq!(daemon.rules(), [] as [Value; 0]);
    ask(&mut hosts, &Message::ClaimRule(prefix("10.1.2.0", 24, TCP))).unwrap();
}
