//! Interfaces that come and go while the daemon runs, by `usnetctl config apply`: as a whole, or not at all.
//!
//! ```text
//!   w0 ---- lan ---- w1   there from the beginning        w2 ---- more ---- w3   come and go
//! ```

use crate::daemon::{Daemon, until};
use crate::events::Follower;
use crate::peer::{Client, Peer, TCP, UDP, claim, wish};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use usnet_shmring::control::{Attach, Message, RefusalCode, name_from, name_into};

/// Two interfaces more, on a wire of their own.
const MORE: &str = "[[interface]]\nname = \"w2\"\nport = \"wire\"\nnetwork = \"more\"\n\
     mac = \"02:00:00:00:77:03\"\naddresses = [\"10.78.0.1/24\"]\nhost_ports = [\"tcp/23\"]\n\
     [[interface]]\nname = \"w3\"\nport = \"wire\"\nnetwork = \"more\"\n\
     mac = \"02:00:00:00:77:04\"\naddresses = [\"10.78.0.2/24\"]\n";

/// A daemon of so many workers, with `w0` and `w1` on one wire.
fn daemon(workers: usize) -> Daemon {
    Daemon::start(&format!(
        "network = \"lan\"\n[worker]\ncount = {workers}\n[[interface]]\nname = \"w1\"\n\
         port = \"wire\"\nnetwork = \"lan\"\nmac = \"02:00:00:00:77:02\"\naddresses = [\"10.77.0.2/24\"]\n"
    ))
}

/// The daemon's own file and `more`, in another file.
fn with(daemon: &Daemon, more: &str) -> PathBuf {
    let file = daemon.directory.0.join("next.toml");
    std::fs::write(&file, std::fs::read_to_string(daemon.file()).unwrap() + more).unwrap();
    file
}

fn apply(daemon: &Daemon, file: &std::path::Path) -> Result<(), String> {
    let output = daemon.ctl(&["config", "apply", file.to_str().unwrap()]);
    let error = String::from_utf8(output.stderr).unwrap();
    if output.status.success() { Ok(()) } else { Err(error) }
}

fn attach(daemon: &Daemon, name: &str, interface: &str) -> Result<Client, (RefusalCode, String)> {
    let wish = Attach { interface: name_into(interface), ..wish(name) };
    Peer::connect(&daemon.socket()).attach(&wish)
}

fn names(daemon: &Daemon) -> Vec<String> {
    let status = daemon.json(&["status"]);
    let all = status["interfaces"].as_array().unwrap().iter();
    all.map(|i| i["ifname"].as_str().unwrap().to_owned()).collect()
}

/// A datagram from one client's address and port to the other's.
fn datagram(from: &Client, source: u16, to: &Client, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = from.datagram(source, destination, payload);
    frame[..6].copy_from_slice(&to.attached.mac);
    frame[30..34].copy_from_slice(&to.attached.ipv4.bytes[..4]);
    frame
}

#[test]
fn an_interface_that_comes_is_served_and_one_that_goes_takes_its_sessions_along() {
    let daemon = daemon(3);
    let mut stays = attach(&daemon, "stays", "w0").unwrap();
    stays.peer.claim(claim(TCP, 80, 1)).unwrap();
    for round in 0..3u8 {
        apply(&daemon, &with(&daemon, MORE)).unwrap();
        assert_eq!(names(&daemon), ["w0", "w1", "w2", "w3"]);
        let mut here = attach(&daemon, "here", "w2").unwrap();
        let mut there = attach(&daemon, "there", "w3").unwrap();
        here.peer.claim(claim(TCP, 23, 1)).expect_err("the host's, by the configuration");
        here.peer.claim(claim(UDP, 5000, 2)).unwrap();
        there.peer.claim(claim(UDP, 6000, 1)).unwrap();
        for pair in 0..3 {
            let frame = datagram(&here, 5000, &there, 6000, &[round; 40]);
            here.transmit_on(pair, &frame);
            assert_eq!(until("the frame over the new wire", || there.poll_on(pair)), frame);
        }
        let rules = daemon.json(&["rule", "list"]);
        let of_w2 = |rule: &&Value| rule["ifname"] == "w2";
        // The host's port, and the claim of two ports at one address.
        assert_eq!(rules.as_array().unwrap().iter().filter(of_w2).count(), 2, "{rules}");
        let explained = daemon.json(&["explain", "w2", "udp", "1.2.3.4:9", "10.78.0.1:5001"]);
        assert_eq!(explained["verdict"], "client", "{explained}");

        apply(&daemon, &daemon.file()).unwrap();
        for gone in [here, there] {
            let said = gone.peer.until_hung_up();
            let [Message::Refused(refused), Message::Detached] = &said[..] else {
                panic!("{said:?}")
            };
            let words = name_from(&refused.message);
            assert!(words.starts_with("interface w") && words.ends_with(" removed"), "{words}");
        }
        assert_eq!(names(&daemon), ["w0", "w1"]);
        let (code, words) = attach(&daemon, "late", "w2").unwrap_err();
        assert_eq!(code, RefusalCode::NotFound);
        assert!(words.ends_with("there are: w0, w1"), "{words}");
        let rules = daemon.json(&["rule", "list"]);
        assert!(!rules.to_string().contains("w2"), "{rules}");
        let metrics = daemon.json(&["stats"]);
        assert_eq!(metrics["interfaces"].as_array().unwrap().len(), 2, "{metrics}");
    }
    let mut follower = Follower::start(&daemon, &["-j", "events", "--all"]);
    let mut next = |event: &str| loop {
        let told = follower.json();
        if told["event"] == event {
            return (told["ifname"].clone(), told["sessions"].clone());
        }
    };
    assert_eq!(next("interface_added"), ("w2".into(), Value::Null));
    assert_eq!(next("interface_added"), ("w3".into(), Value::Null));
    assert_eq!(next("interface_removed"), ("w2".into(), 1.into()));
    drop((stays, follower));
    daemon.is_clean();
}

#[test]
fn an_interface_that_cannot_come_leaves_all_as_it_was() {
    let daemon = daemon(2);
    let mut client = attach(&daemon, "client", "w1").unwrap();
    let before = (daemon.json(&["rule", "list"]), names(&daemon), daemon.descriptors());
    // The wire can be had, the other one cannot; and the policy is not in force either.
    let more = format!(
        "{MORE}[[interface]]\nname = \"nosuch0\"\naddresses = [\"10.79.0.1/24\"]\n\
         [[policy]]\nuid = 0\nports = [\"tcp/8000\"]\n"
    );
    let error = apply(&daemon, &with(&daemon, &more)).unwrap_err();
    assert!(error.contains("nothing was changed") && error.contains("nosuch0"), "{error}");
    let others = [
        (
            "a policy names an address that it has not",
            "[[policy]]\nuid = 0\naddresses = [\"10.78.0.9\"]\n",
            "10.78.0.9",
        ),
        (
            "a third end of a wire that is there",
            "[[interface]]\nname = \"w4\"\nport = \"wire\"\nnetwork = \"lan\"\naddresses = [\"10.77.0.4/24\"]\n",
            "cannot be joined to w0",
        ),
    ];
    for (what, more, says) in others {
        let error = apply(&daemon, &with(&daemon, &format!("{MORE}{more}"))).unwrap_err();
        assert!(error.contains("nothing was changed") && error.contains(says), "{what}: {error}");
    }
    // What is there cannot be changed in place, and one that goes with it stays.
    let text = std::fs::read_to_string(daemon.file()).unwrap();
    let file = daemon.directory.0.join("next.toml");
    std::fs::write(&file, text.replace("10.77.0.2/24", "10.77.0.3/24")).unwrap();
    let error = apply(&daemon, &file).unwrap_err();
    assert!(error.contains("a restart is needed for interface[w1].addresses"), "{error}");
    client.peer.claim(claim(TCP, 7000, 1)).expect("the policy is not in force");
    client.peer.release(claim(TCP, 7000, 1)).unwrap();
    until("the descriptors to be closed", || (daemon.descriptors() == before.2).then_some(()));
    assert_eq!((daemon.json(&["rule", "list"]), names(&daemon)), (before.0, before.1));
    let differs = daemon.json(&["config", "diff", daemon.file().to_str().unwrap()]);
    assert_eq!(differs.as_array().unwrap().len(), 0, "{differs}");
    apply(&daemon, &with(&daemon, MORE)).expect("what can be had comes after all");
    drop(client);
    daemon.is_clean();
}

#[test]
fn no_frame_of_another_interface_is_lost_while_interfaces_come_and_go() {
    for workers in [1, 3] {
        let daemon = daemon(workers);
        let mut from = attach(&daemon, "from", "w0").unwrap();
        let mut to = attach(&daemon, "to", "w1").unwrap();
        from.peer.claim(claim(UDP, 5000, 1)).unwrap();
        to.peer.claim(claim(UDP, 6000, 1)).unwrap();
        let more = with(&daemon, MORE);
        let (done, mut sent) = (AtomicBool::new(false), 0u64);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..8 {
                    apply(&daemon, &more).unwrap();
                    let passing = attach(&daemon, "passing", "w3").unwrap();
                    apply(&daemon, &daemon.file()).unwrap();
                    drop(passing);
                }
                done.store(true, Ordering::Release);
            });
            // One after the other on each pair: a frame that is lost is waited for in vain.
            while !done.load(Ordering::Acquire) {
                let pair = usize::try_from(sent).unwrap() % workers;
                let frame = datagram(&from, 5000, &to, 6000, &sent.to_be_bytes());
                until("a free slot", || {
                    let transmitter = &mut from.pair(pair).transmitter;
                    transmitter.reclaim().unwrap();
                    (transmitter.free() > 0).then_some(())
                });
                from.transmit_on(pair, &frame);
                assert_eq!(until("this frame", || to.poll_on(pair)), frame);
                sent += 1;
            }
        });
        let clients = daemon.clients();
        let counters = |name: &str| {
            let found = clients.iter().find(|client| client["name"] == name).unwrap();
            found["counters"].clone()
        };
        let (from_sent, to_got) =
            (counters("from")["sent"].clone(), counters("to")["delivered"].clone());
        assert_eq!((from_sent, to_got), (sent.into(), sent.into()), "{workers} workers");
        drop((from, to));
        daemon.is_clean();
    }
}
