//! Clients die, usnetd stops or is killed: the others and the kernel go on, and nothing is left.

use rustix::process::Signal;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use usnet_switch::net::{Netlink, offload::Offload, offload::Offloads};
use usnet_tests::Lab;
use usnet_tests::lab::INSIDE;

fn target(port: u16) -> SocketAddr {
    format!("{INSIDE}:{port}").parse().expect("an address")
}

/// One datagram to a port and back, from the other host.
fn echoes(lab: &Lab, port: u16) -> bool {
    lab.outside
        .run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
            socket.connect(target(port)).expect("a route");
            let mut answer = [0; 16];
            (0..3).any(|_| {
                socket.send(b"hello").is_ok()
                    && socket.recv(&mut answer).is_ok_and(|n| answer[..n] == *b"hello")
            })
        })
        .expect("a namespace")
}

fn sessions(lab: &Lab) -> usize {
    lab.ask(&["client", "list"]).as_array().expect("a list").len()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < end, "{what} does not come true");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_killed_clients_slots_rules_and_port_come_back_under_traffic() {
    let Some(lab) = Lab::with_usnetd("") else { return };
    let _other = lab.client("echo", &["--port", "8"], 8);
    for _ in 0..5 {
        let mut echo = lab.client("echo", &["--port", "7"], 7);
        assert!(echoes(&lab, 7));
        std::thread::scope(|scope| {
            let outside = &lab.outside;
            scope.spawn(move || {
                outside.run(|| {
                    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                    let end = Instant::now() + Duration::from_millis(300);
                    while Instant::now() < end {
                        let _ = socket.send_to(&[0; 100], target(7));
                    }
                })
            });
            std::thread::sleep(Duration::from_millis(100));
            echo.kill();
            eventually("the end of the session", || sessions(&lab) == 1);
        });
        assert!(echoes(&lab, 8), "the other client still answers");
    }
    lab.finish();
}

/// All that a person would see of the interface.
fn appearance(lab: &Lab) -> String {
    lab.inside
        .run(|| {
            let mut netlink = Netlink::open().expect("netlink");
            let mut link = netlink.link("sv0").expect("the interface");
            link.state = usnet_switch::net::LinkState::Unknown;
            let addresses = netlink.addresses("sv0").expect("its addresses");
            let offloads = Offloads::of("sv0").expect("its offloads");
            let offloads = Offload::ALL.map(|o| offloads.get(o).expect("an offload"));
            let routes = std::fs::read_to_string("/proc/thread-self/net/route").expect("routes");
            let names: Vec<String> =
                netlink.links().expect("links").into_iter().map(|l| l.name).collect();
            format!("{link:?}\n{addresses:?}\n{offloads:?}\n{routes}\n{names:?}")
        })
        .expect("a namespace")
}

#[test]
fn a_stop_by_signal_leaves_the_interface_as_it_was_found() {
    let Some(mut lab) = Lab::hosts() else { return };
    let before = appearance(&lab);
    lab.start_usnetd("");
    let _echo = lab.client("echo", &["--port", "7"], 7);
    assert!(echoes(&lab, 7));
    assert_ne!(appearance(&lab), before, "usnetd changes what it must");
    lab.assert_books_balance();
    let pid = rustix::process::Pid::from_child(lab.usnetd());
    rustix::process::kill_process(pid, Signal::TERM).expect("usnetd runs");
    let status = lab.usnetd().wait().expect("its end");
    assert!(status.success(), "{status}\n{}", lab.log());
    assert_eq!(appearance(&lab), before);
    assert!(!lab.socket().exists(), "the socket is gone");
}

#[test]
fn the_kernel_hears_again_when_usnetd_is_killed() {
    let Some(mut lab) = Lab::with_usnetd("") else { return };
    let listener = lab
        .inside
        .run(|| std::net::TcpListener::bind(target(8080)).expect("a kernel service"))
        .expect("a namespace");
    let reaches = |lab: &Lab| {
        lab.outside
            .run(|| TcpStream::connect_timeout(&target(8080), Duration::from_secs(2)).is_ok())
            .expect("a namespace")
    };
    assert!(reaches(&lab), "through the switch");
    lab.assert_books_balance();
    lab.usnetd().kill().expect("usnetd runs");
    lab.usnetd().wait().expect("its end");
    eventually("the kernel's own reception", || reaches(&lab));
    drop(listener);
}

#[test]
fn the_kernel_hears_before_the_memory_of_a_killed_usnetd_is_unmapped() {
    let Some(mut lab) = Lab::with_usnetd("") else { return };
    let memory = lab.outlasting("usnetd-memory");
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", memory.as_raw_pid()));
    assert_eq!(descriptors.expect("the process").count(), 1, "it has the pipe alone");
    // While it is stopped it cannot end, so the memory stays.
    rustix::process::kill_process(memory, Signal::STOP).expect("it runs");
    lab.usnetd().kill().expect("usnetd runs");
    lab.usnetd().wait().expect("its end");
    let _service = lab
        .inside
        .run(|| std::net::TcpListener::bind(target(8080)).expect("a kernel service"))
        .expect("a namespace");
    lab.outside
        .run(|| TcpStream::connect_timeout(&target(8080), Duration::from_secs(2)))
        .expect("a namespace")
        .expect("the kernel hears");
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", memory.as_raw_pid()));
    assert!(maps.expect("the process").contains("memfd:"), "the memory is still mapped");
    rustix::process::kill_process(memory, Signal::CONT).expect("it waits");
    let status = format!("/proc/{}/maps", memory.as_raw_pid());
    eventually("its end", || {
        std::fs::read_to_string(&status).is_ok_and(|maps| maps.is_empty())
            || !std::path::Path::new(&status).exists()
    });
}

#[test]
fn two_clients_cannot_hold_one_port() {
    let Some(lab) = Lab::with_usnetd("") else { return };
    let _first = lab.client("echo", &["--port", "7"], 7);
    let mut second =
        lab.inside(&usnet_tests::program("echo").display().to_string(), &["--port", "7"]);
    second.env("USNETD_SOCKET", lab.socket());
    let output = second.output().expect("a client");
    assert!(!output.status.success());
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains('7'), "the refusal names the port: {words}");
    assert!(echoes(&lab, 7), "the first still has it");
    lab.finish();
}
