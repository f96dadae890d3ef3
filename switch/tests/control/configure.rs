//! `usnetctl config` and SIGHUP: another configuration is in force as a whole, or not at all.

use crate::daemon::{Daemon, until};
use crate::peer::{Client, Peer, TCP, claim, wish};
use rustix::process::Signal;
use std::path::PathBuf;
use usnet_shmring::control::RefusalCode;

/// The daemon's own file, changed, beside it.
fn changed(daemon: &Daemon, change: impl Fn(String) -> String) -> PathBuf {
    let file = daemon.directory.0.join("next.toml");
    let text = std::fs::read_to_string(daemon.file()).unwrap();
    std::fs::write(&file, change(text)).unwrap();
    file
}

const POLICY: &str = "[[policy]]\nuid = 0\nports = [\"tcp/8000-8010\"]\nquota = { sessions = 2 }\n";

#[test]
fn policies_are_put_into_force_for_those_who_attach_next() {
    let daemon = Daemon::start("");
    let mut before = Client::attach(&daemon.socket(), "before");
    let next = changed(&daemon, |text| text + POLICY);
    let next = next.to_str().unwrap();
    let differences = daemon.json(&["config", "diff", next]);
    let keys: Vec<_> =
        differences.as_array().unwrap().iter().map(|d| d["key"].as_str().unwrap()).collect();
    assert!(
        keys.contains(&"policy[0].ports") && keys.iter().all(|k| k.starts_with("policy[")),
        "{keys:?}"
    );
    // Looking has changed nothing.
    let mut other = Client::attach(&daemon.socket(), "other");
    other.peer.claim(claim(TCP, 7000, 1)).unwrap();
    drop(other);
    assert_eq!(daemon.json(&["config", "apply", next]), differences);
    before.peer.claim(claim(TCP, 7001, 1)).expect("it keeps what it was granted");
    let mut after = Client::attach(&daemon.socket(), "after");
    after.peer.claim(claim(TCP, 7002, 1)).unwrap_err();
    after.peer.claim(claim(TCP, 8000, 1)).unwrap();
    assert_eq!(daemon.json(&["config", "diff", next]).as_array().unwrap().len(), 0);
    // The file that it began with would take it back.
    let own = daemon.file();
    let output = daemon.ctl(&["config", "apply", own.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    Client::attach(&daemon.socket(), "again").peer.claim(claim(TCP, 7002, 1)).unwrap();
}

#[test]
fn what_needs_a_restart_is_named_and_nothing_is_changed() {
    let daemon = Daemon::start("");
    let next =
        changed(&daemon, |text| text.replace("port_slots = 1024", "port_slots = 2048") + POLICY);
    let output = daemon.ctl(&["config", "apply", next.to_str().unwrap()]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("a restart is needed for memory.port_slots"), "{error}");
    Client::attach(&daemon.socket(), "free").peer.claim(claim(TCP, 7000, 1)).unwrap();
    let broken = changed(&daemon, |text| text + "[[policy]]\nuid = 0\nmode = \"fish\"\n");
    for verb in ["apply", "diff", "check"] {
        let output = daemon.ctl(&["config", verb, broken.to_str().unwrap()]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && error.contains("fish"), "{verb}: {error}");
    }
    let right = daemon.file();
    assert!(daemon.ctl(&["config", "check", right.to_str().unwrap()]).status.success());
}

#[test]
fn a_hangup_reads_the_file_again() {
    let daemon = Daemon::start("");
    let text = std::fs::read_to_string(daemon.file()).unwrap();
    std::fs::write(daemon.file(), text + POLICY).unwrap();
    daemon.signal(Signal::HUP);
    until("the policy to be in force", || {
        let mut client = Peer::connect(&daemon.socket()).attach(&wish("x")).ok()?;
        // The session before may still hold it, which is another refusal.
        let refused = client.peer.claim(claim(TCP, 7000, 1));
        matches!(refused, Err((RefusalCode::NotPermitted, _))).then_some(())
    });
}
