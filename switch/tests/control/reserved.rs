//! Clients that the configuration knows before they attach: their ports are theirs, whoever comes first.

use crate::attach::as_nobody;
use crate::daemon::Daemon;
use crate::peer::{Client, TCP, UDP, claim};
use serde_json::Value;
use usnet_shmring::control::RefusalCode;

const WEB: &str = "[[client]]\nname = \"web\"\nuid = 0\ninterface = \"w0\"\nports = [\"tcp/80-83\", \"udp/53\"]\n";

/// Ports that are kept: protocol, first, last and for whom, at one address.
fn kept(daemon: &Daemon) -> Vec<(String, u64, u64, String)> {
    let rules = daemon.json(&["rule", "list"]);
    let is_it = |rule: &&Value| rule["holder"] == "reserved" && rule["address"] == "10.77.0.1";
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let one = |rule: &Value| {
        let (first, last) = (rule["first_port"].as_u64(), rule["last_port"].as_u64());
        (text(&rule["protocol"]), first.unwrap(), last.unwrap(), text(&rule["name"]))
    };
    rules.as_array().unwrap().iter().filter(is_it).map(one).collect()
}

fn is_held(client: &mut Client, protocol: u8, port: u16) {
    let (code, words) = client.peer.claim(claim(protocol, port, 1)).unwrap_err();
    assert_eq!(code, RefusalCode::InUse, "{words}");
    let whose = "kept for client web by [[client]] of the configuration";
    assert!(words.contains(whose), "{words}");
}

#[test]
fn ports_are_kept_for_a_client_that_attaches_later_and_again_when_it_has_ended() {
    let daemon = Daemon::start(WEB);
    let all = [("tcp".into(), 80, 83, "web".into()), ("udp".into(), 53, 53, "web".into())];
    assert_eq!(kept(&daemon), all);
    let shown = daemon.ctl(&["rule", "list"]);
    assert!(String::from_utf8(shown.stdout).unwrap().contains("reserved for web"));
    let mut other = Client::attach(&daemon.socket(), "other");
    is_held(&mut other, TCP, 83);
    is_held(&mut other, UDP, 53);
    for _ in 0..3 {
        let mut web = Client::attach(&daemon.socket(), "web");
        web.peer.claim(claim(TCP, 81, 1)).unwrap();
        let frame = other.datagram(9, 53, b"?");
        web.peer.claim(claim(UDP, 53, 1)).unwrap();
        other.peer.claim(claim(UDP, 9, 1)).unwrap();
        other.transmit(&frame);
        assert_eq!(web.receive_frame(), frame);
        assert_eq!(kept(&daemon).len(), 2, "80, and 82 to 83");
        other.peer.release(claim(UDP, 9, 1)).unwrap();
        drop(web);
        crate::daemon::until("its ports to be kept again", || (kept(&daemon) == all).then_some(()));
        is_held(&mut other, TCP, 81);
    }
    drop(other);
    daemon.is_clean();
}

#[test]
fn a_name_without_its_user_proves_nothing() {
    let daemon = Daemon::start(&format!("[[policy]]\nuid = 65534\nports = [\"any\"]\n{WEB}"));
    let socket = daemon.socket();
    as_nobody(|| {
        let mut thief = Client::attach(&socket, "web");
        is_held(&mut thief, TCP, 80);
    });
    Client::attach(&daemon.socket(), "web").peer.claim(claim(TCP, 80, 4)).unwrap();
    daemon.is_clean();
}

#[test]
fn another_configuration_keeps_other_ports_and_takes_none_from_whom_has_it() {
    let daemon = Daemon::start("");
    let file = daemon.directory.0.join("next.toml");
    std::fs::write(&file, std::fs::read_to_string(daemon.file()).unwrap() + WEB).unwrap();
    let mut other = Client::attach(&daemon.socket(), "other");
    other.peer.claim(claim(TCP, 82, 1)).unwrap();
    let apply = |file: &std::path::Path| {
        let output = daemon.ctl(&["config", "apply", file.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
    };
    apply(&file);
    assert_eq!(kept(&daemon).len(), 3, "80 to 81, 83, and 53");
    is_held(&mut other, TCP, 81);
    let mut web = Client::attach(&daemon.socket(), "web");
    web.peer.claim(claim(TCP, 82, 1)).expect_err("somebody has it");
    other.peer.release(claim(TCP, 82, 1)).unwrap();
    is_held(&mut other, TCP, 82);
    web.peer.claim(claim(TCP, 80, 4)).unwrap();
    apply(&daemon.file());
    assert_eq!(kept(&daemon), []);
    other.peer.claim(claim(TCP, 82, 1)).expect_err("it keeps what it has");
    other.peer.claim(claim(UDP, 53, 1)).unwrap();
    drop((web, other));
    daemon.is_clean();
}
