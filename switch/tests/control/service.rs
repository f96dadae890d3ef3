//! Under a service manager: what it is told, what it passes, and how it confines.

use crate::daemon::{Daemon, Directory, until};
use crate::peer::Client;
use rustix::process::Signal;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use usnet_shmring::control::Channel;

fn hear(socket: &UnixDatagram) -> String {
    socket.set_read_timeout(Some(crate::daemon::PATIENCE)).unwrap();
    let mut bytes = [0; 512];
    let count = socket.recv(&mut bytes).unwrap();
    String::from_utf8(bytes[..count].to_vec()).unwrap()
}

#[test]
fn the_service_manager_hears_ready_and_stopping_by_path_and_by_abstract_name() {
    let directory = Directory::new();
    let path = directory.0.join("notify");
    let name = format!("usnet-notify-{}", std::process::id());
    let by_path = UnixDatagram::bind(&path).unwrap();
    let by_name = SocketAddr::from_abstract_name(&name).unwrap();
    let by_name = UnixDatagram::bind_addr(&by_name).unwrap();
    let path = path.to_str().unwrap().to_owned();
    for (socket, name) in [(by_path, path), (by_name, format!("@{name}"))] {
        let mut daemon = Daemon::start_with(Directory::new(), "", &[("NOTIFY_SOCKET", &name)]);
        assert_eq!(hear(&socket).lines().next(), Some("READY=1"));
        daemon.signal(Signal::TERM);
        assert_eq!(hear(&socket).lines().next(), Some("STOPPING=1"));
        assert!(daemon.wait().success());
    }
}

#[test]
fn the_watchdog_hears_from_a_daemon_that_answers_and_from_no_other() {
    let directory = Directory::new();
    let path = directory.0.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let name = path.to_str().unwrap();
    let env = [("NOTIFY_SOCKET", name), ("WATCHDOG_USEC", "100000")];
    let daemon = Daemon::start_with(Directory::new(), "", &env);
    assert!(hear(&socket).starts_with("READY=1"));
    for _ in 0..3 {
        assert_eq!(hear(&socket), "WATCHDOG=1");
    }
    drop(daemon);
    // Meant for another process.
    let env = [("NOTIFY_SOCKET", name), ("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")];
    let mut daemon = Daemon::start_with(Directory::new(), "", &env);
    until("ready", || hear(&socket).starts_with("READY=1").then_some(()));
    std::thread::sleep(std::time::Duration::from_millis(50));
    daemon.signal(Signal::TERM);
    assert!(hear(&socket).starts_with("STOPPING=1"));
    daemon.wait();
}

/// Whether a program of systemd's is there; a test without it is skipped, unless all must run.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    let must = std::env::var_os("USNET_TESTS_REQUIRE_ALL").is_some_and(|v| v == "1");
    assert!(found || !must, "{program} is missing");
    if !found {
        eprintln!("skipped: no {program}");
    }
    found
}

#[test]
fn the_control_socket_may_be_the_service_managers() {
    if !has("systemd-socket-activate") {
        return;
    }
    let directory = Directory::new();
    let socket = directory.0.join("control.sock");
    let file = directory.0.join("usnetd.toml");
    let text = format!(
        "[control]\nsocket = \"{}\"\n[memory]\narena_slots = 65536\n[[interface]]\nname = \"w0\"\nport = \"wire\"\n\
         addresses = [\"10.77.0.1/24\"]\n",
        socket.display()
    );
    std::fs::write(&file, text).unwrap();
    let mut child = Command::new("systemd-socket-activate")
        .arg("--seqpacket")
        .arg(format!("--listen={}", socket.display()))
        .args([env!("CARGO_BIN_EXE_usnetd"), "run", "--config"])
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It is there before anybody listens.
    until("the socket", || Channel::connect(&socket).ok());
    // A connection waits until the daemon that it starts takes it.
    let client = Client::attach(&socket, "early");
    assert_eq!(client.attached.pairs, 1);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(socket.exists(), "it is not the daemon's to remove");
}

#[test]
fn the_unit_confines_the_daemon_as_far_as_systemd_says() {
    if !has("systemd-analyze") {
        return;
    }
    let unit = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/usnetd.service"));
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", "--threshold=20"])
        .arg(unit)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    assert!(output.status.success(), "{last} {}", String::from_utf8_lossy(&output.stderr));
    assert!(last.contains("exposure level"), "{text}");
}
