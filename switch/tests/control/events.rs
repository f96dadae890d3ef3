//! `usnetctl events`, `--watch` and `nic`: what happens is told to those who follow, and to nobody's cost.

use crate::daemon::{Daemon, until};
use crate::peer::{Client, Peer, TCP, claim};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use usnet_shmring::control::{Message, Query, QueryKind, TEXT_BYTES};
use usnet_shmring::descriptor::RawDescriptor;

/// A `usnetctl` that goes on until it is dropped.
pub(crate) struct Follower {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Follower {
    pub(crate) fn start(daemon: &Daemon, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usnetctl"));
        command.arg("--socket").arg(daemon.socket()).args(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    pub(crate) fn json(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn who_follows_hears_of_sessions_refusals_and_faults_in_order() {
    let daemon = Daemon::start("");
    let mut follower = Follower::start(&daemon, &["-j", "events", "--all"]);
    let pid = std::process::id();
    let mut web = Client::attach(&daemon.socket(), "web");
    let told = follower.json();
    let id = web.attached.session;
    assert_eq!(
        (&told["event"], &told["client"], &told["name"]),
        (&json!("attached"), &json!(id), &json!("web"))
    );
    assert_eq!(
        (&told["pid"], &told["ifname"], &told["seq"]),
        (&json!(pid), &json!("w0"), &json!(1))
    );
    web.peer.claim(claim(TCP, 22, 1)).unwrap_err();
    let told = follower.json();
    assert_eq!(
        (&told["event"], &told["what"], &told["code"]),
        (&json!("refused"), &json!("claim"), &json!("InUse"))
    );
    assert!(told["text"].as_str().unwrap().contains("22"), "{told}");
    // It sends a slot that is not its own.
    let bad = Client::attach(&daemon.socket(), "bad");
    assert_eq!(follower.json()["event"], "attached");
    let cells = usnet_shmring::layout::PAIRS + usnet_shmring::layout::CELLS;
    let forged = RawDescriptor::new(0, 0, 60);
    rustix::io::pwrite(&bad.outbound, &forged.0.to_ne_bytes(), cells as u64).unwrap();
    let word = usnet_shmring::layout::PAIRS as u64;
    rustix::io::pwrite(&bad.outbound, &1u32.to_ne_bytes(), word).unwrap();
    rustix::io::write(&bad.signals.kick, &1u64.to_ne_bytes()).unwrap();
    let told = follower.json();
    assert_eq!((&told["event"], &told["name"]), (&json!("fault"), &json!("bad")), "{told}");
    assert!(told["recovered"].is_u64() && !told["fault"].as_str().unwrap().is_empty(), "{told}");
    drop(web);
    let told = follower.json();
    assert_eq!((&told["event"], &told["client"]), (&json!("detached"), &json!(id)), "{told}");
    assert_eq!(told["seq"], 5);
}

#[test]
fn one_who_follows_and_does_not_read_costs_nobody_anything() {
    let daemon = Daemon::start("");
    let mut lazy = Peer::connect(&daemon.socket());
    lazy.send(&Message::Query(Query { what: QueryKind::Events as u32, which: 1 })).unwrap();
    let mut web = Client::attach(&daemon.socket(), "web");
    for _ in 0..3000 {
        web.peer.claim(claim(TCP, 22, 1)).unwrap_err();
    }
    // The one that waited has been told once, of the first event; who asks late is told how much is lost.
    let Message::Text(text) = lazy.receive().unwrap() else { panic!() };
    let read = |text: &usnet_shmring::control::Text| -> Value {
        serde_json::from_slice(&text.bytes[..text.used as usize]).unwrap()
    };
    assert_eq!((read(&text)["lost"].as_u64(), read(&text)["next"].as_u64()), (Some(0), Some(2)));
    let mut follower = Follower::start(&daemon, &["-j", "events", "--all"]);
    let told = follower.json();
    assert_eq!((&told["event"], &told["count"]), (&json!("lost"), &json!(3001 - 1024)));
    assert_eq!(follower.json()["seq"], 3001 - 1024 + 1);
    assert!(text.used as usize <= TEXT_BYTES);
}

#[test]
fn one_who_waits_for_events_and_goes_leaves_nothing() {
    let daemon = Daemon::start("");
    let before = until("a quiet daemon", || Some(daemon.descriptors()));
    for _ in 0..5 {
        let mut peer = Peer::connect(&daemon.socket());
        peer.send(&Message::Query(Query { what: QueryKind::Events as u32, which: 1 })).unwrap();
    }
    until("all to be forgotten", || (daemon.descriptors() <= before).then_some(()));
}

#[test]
fn watch_shows_the_same_again_and_nic_shows_the_interfaces() {
    let daemon = Daemon::start("");
    let mut follower = Follower::start(&daemon, &["-j", "--watch=0.02", "nic", "show", "w0"]);
    for _ in 0..3 {
        assert_eq!(follower.json()["ifname"], "w0");
    }
    assert_eq!(daemon.json(&["nic"])[0]["mtu"], 1500);
    let text = daemon.ctl(&["nic", "show", "w0"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("wire backend"), "{text:?}");
    assert_eq!(daemon.ctl(&["nic", "show", "none"]).status.code(), Some(1));
    assert_eq!(daemon.ctl(&["--watch=x", "status"]).status.code(), Some(2));
}
