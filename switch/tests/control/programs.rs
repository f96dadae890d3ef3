//! `usnetd` and `usnetctl` as a user meets them: arguments, words, exit codes, and the end.

use crate::daemon::{Daemon, Directory, ctl, until, usnetd};
use crate::peer::{Client, TCP, claim};
use rustix::process::Signal;
use std::process::{Command, Output};
use usnet_shmring::control::Message;

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_bad_configuration_ends_with_78_and_names_what_is_wrong() {
    let directory = Directory::new();
    let file = directory.0.join("bad.toml");
    std::fs::write(&file, "[memory]\nslot_size = 3000\n").unwrap();
    let file = file.to_str().unwrap();
    for arguments in [vec!["check", file], vec!["run", "--config", file]] {
        let output = usnetd(&arguments);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let words = stderr(&output);
        let line = format!("usnetd: {file}: memory.slot_size = 3000: must be 2048, 4096");
        assert!(words.contains(&line), "{words}");
        assert!(words.contains("interface = []: at least one"), "{words}");
    }
    let output = usnetd(&["check", "/no/such/file"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("cannot read /no/such/file: No such file"), "{output:?}");
}

#[test]
fn what_is_claimed_and_given_back_is_in_the_log_of_who_asks_for_it() {
    for (level, is_told) in [("debug", true), ("info", false)] {
        let daemon = Daemon::start_with(Directory::new(), "", &[("RUST_LOG", level)]);
        let mut client = Client::attach(&daemon.socket(), "web");
        let granted = client.peer.claim(claim(TCP, 8000, 2)).unwrap();
        client.peer.release(granted).unwrap();
        let log = daemon.log();
        for word in ["claimed", "released"] {
            let is_it = |line: &str| line.contains(word) && line.contains("tcp ports 8000-8001");
            assert_eq!(log.lines().any(is_it), is_told, "{level}: {log}");
        }
    }
}

#[test]
fn check_prints_a_configuration_that_checks() {
    let directory = Directory::new();
    let file = directory.0.join("a.toml");
    std::fs::write(&file, "[[interface]]\nname = \"eth1\"\n").unwrap();
    let output = usnetd(&["check", file.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let again = directory.0.join("b.toml");
    std::fs::write(&again, &output.stdout).unwrap();
    let second = usnetd(&["check", again.to_str().unwrap()]);
    assert_eq!(stdout(&output), stdout(&second));
    let json = usnetd(&["check", "--json", file.to_str().unwrap()]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["memory"]["slot_size"], 2048);
    assert_eq!(json["interface"][0]["name"], "eth1");
}

#[test]
fn an_interface_that_does_not_exist_ends_with_1_and_its_name() {
    let directory = Directory::new();
    let file = directory.0.join("a.toml");
    let socket = directory.0.join("s");
    let text = format!(
        "[control]\nsocket = \"{}\"\n[[interface]]\nname = \"nosuch0\"\n",
        socket.display()
    );
    std::fs::write(&file, text).unwrap();
    let output = usnetd(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("nosuch0"), "{output:?}");
    assert!(!socket.exists());
}

#[test]
fn wrong_arguments_end_with_2() {
    assert_eq!(usnetd(&["fly"]).status.code(), Some(2));
    let socket = std::path::Path::new("/nowhere");
    for arguments in [&["client", "show"][..], &["client", "detach", "x"], &["fly"], &[]] {
        assert_eq!(ctl(socket, arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_daemon_that_is_not_there_ends_with_3() {
    let output = ctl(std::path::Path::new("/no/such/socket"), &["status"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("/no/such/socket"), "{output:?}");
}

#[test]
fn help_and_manual_name_every_command_and_exit_code() {
    let help = stdout(&usnetd(&["--help"]));
    for word in ["run", "check", "demo", "78", "70", "TERM"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    assert!(!help.contains("shell-completions") && !help.contains("demo-client"), "{help}");
    let manual = stdout(&usnetd(&["man"]));
    for word in [".TH usnetd", "\\-\\-config", "RUN", "CHECK"] {
        assert!(manual.contains(word), "{word}: {manual}");
    }
    for shell in ["bash", "zsh", "fish"] {
        for program in [env!("CARGO_BIN_EXE_usnetd"), env!("CARGO_BIN_EXE_usnetctl")] {
            let output = Command::new(program).args(["shell-completions", shell]).output().unwrap();
            assert!(output.status.success() && output.stdout.len() > 500, "{output:?}");
        }
    }
    let manual = Command::new(env!("CARGO_BIN_EXE_usnetctl")).arg("man").output().unwrap();
    let manual = stdout(&manual);
    for word in [
        "CLIENT DETACH",
        "NIC SHOW",
        "FLOW LIST",
        "EXPLAIN",
        "EVENTS",
        "CAPTURE",
        "CONFIG APPLY",
        "\\-\\-watch",
        "\\-\\-snaplen",
        // Examples of a command of its own.
        "usnetctl explain eth0 udp [2001:db8::7]:5000",
        "wireshark \\-k",
    ] {
        assert!(manual.contains(word), "{word}: {manual}");
    }
}

#[test]
fn usnetctl_shows_what_there_is_as_tables() {
    let daemon = Daemon::start("");
    let mut client = Client::attach(&daemon.socket(), "web");
    client.peer.claim(claim(TCP, 8000, 11)).unwrap();
    let show = |arguments: &[&str]| {
        let output = daemon.ctl(arguments);
        assert!(output.status.success(), "{output:?}");
        stdout(&output)
    };
    let status = show(&["status"]);
    assert!(status.contains("w0") && status.contains("10.77.0.1/24,fd77::1/64"), "{status}");
    assert!(status.contains("1 clients"), "{status}");
    let clients = show(&["client", "list"]);
    let [head, line] = clients.lines().collect::<Vec<_>>()[..] else { panic!("{clients}") };
    assert!(head.starts_with("ID  NAME") && line.contains("web") && line.contains("tcp/8000-8010"));
    // Abbreviated, and by their other names.
    for same in [&["c", "l"][..], &["client"], &["cl", "ls"]] {
        assert_eq!(show(same).lines().count(), 2, "{same:?}");
    }
    let rules = show(&["rule", "list"]);
    assert!(rules.contains("8000-8010") && rules.contains("client 0"), "{rules}");
    assert!(rules.lines().any(|l| l.contains("22") && l.contains("host")), "{rules}");
    assert_eq!(rules, show(&["r"]));
    let one = show(&["client", "show", "0"]);
    assert!(one.contains("ring_capacity") && one.contains("isolated"), "{one}");
    let stats = show(&["stats"]);
    assert!(stats.contains("slots conserved: yes") && stats.contains("lent"), "{stats}");
    assert_eq!(daemon.json(&["client", "show", "0"])["name"], "web");
}

#[test]
fn usnetctl_detaches_a_client_which_is_told() {
    let daemon = Daemon::start("");
    let mut client = Client::attach(&daemon.socket(), "a");
    client.peer.claim(claim(TCP, 8000, 1)).unwrap();
    let id = client.attached.session.to_string();
    let output = daemon.ctl(&["client", "detach", &id]);
    assert!(output.status.success(), "{output:?}");
    // When the tool says so it is so.
    assert!(daemon.rules().is_empty());
    assert!(matches!(client.peer.until_hung_up()[..], [Message::Detached]));
    for missing in [id.as_str(), "4095", "70000"] {
        let output = daemon.ctl(&["client", "detach", missing]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stderr(&output).contains("no client has session"), "{output:?}");
    }
    daemon.is_clean();
}

#[test]
fn a_client_that_detaches_gets_its_answer() {
    let daemon = Daemon::start("");
    let mut client = Client::attach(&daemon.socket(), "a");
    assert!(matches!(client.peer.ask(&Message::Detach), Ok(Message::Detached)));
    assert!(client.peer.until_hung_up().is_empty());
    daemon.is_clean();
}

#[test]
fn a_stopped_daemon_tells_its_clients_and_leaves_no_socket() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::start("");
        let client = Client::attach(&daemon.socket(), "a");
        // A signal that has no meaning does not stop it.
        daemon.signal(Signal::HUP);
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.log());
        assert!(matches!(client.peer.until_hung_up()[..], [Message::Detached]));
        assert!(!daemon.socket().exists());
        assert!(!daemon.socket().parent().unwrap().exists(), "it had made the directory itself");
    }
}

#[test]
fn a_second_daemon_does_not_take_the_socket_of_the_first() {
    let daemon = Daemon::start("");
    let output = usnetd(&["run", "--config", daemon.file().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("another usnetd listens on"), "{output:?}");
    Client::attach(&daemon.socket(), "still served");
}

#[test]
fn a_socket_that_a_killed_daemon_left_is_replaced() {
    let mut daemon = Daemon::start("");
    daemon.signal(Signal::KILL);
    daemon.wait();
    assert!(daemon.socket().exists());
    let file = daemon.file();
    let mut next = Command::new(env!("CARGO_BIN_EXE_usnetd"))
        .args(["run", "--config"])
        .arg(&file)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the next daemon to answer", || daemon.ctl(&["status"]).status.success().then_some(()));
    let pid = rustix::process::Pid::from_child(&next);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(next.wait().unwrap().code(), Some(0));
    assert!(!daemon.socket().exists());
}
