//! `usnetctl capture`: what is captured is what passes, wireshark's own reader reads it, and traffic does not
//! wait for it.

use crate::daemon::{Daemon, until};
use crate::peer::{Client, UDP, claim};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

/// Directions as tshark writes them.
const IN: &str = "0x00000001";
const OUT: &str = "0x00000002";

/// A running `usnetctl capture`, which has begun.
struct Capture(Child);

impl Capture {
    fn start(daemon: &Daemon, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usnetctl"));
        command.arg("--socket").arg(daemon.socket()).arg("capture").args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("capturing"), "{line:?}");
        Self(child)
    }

    /// What it has written when it has ended by itself.
    fn finish(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
        assert!(self.0.wait().unwrap().success());
        bytes
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One frame as tshark reads it: interface, direction, comment, bytes captured, bytes.
fn tshark(capture: &[u8]) -> Option<Vec<Vec<String>>> {
    let fields = [
        "frame.interface_name",
        "frame.packet_flags_direction",
        "frame.comment",
        "frame.cap_len",
        "frame.len",
    ];
    let mut command = Command::new("tshark");
    command.args(["-r", "-", "-T", "fields"]).args(fields.iter().flat_map(|f| ["-e", *f]));
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let must = std::env::var_os("USNET_TESTS_REQUIRE_ALL").is_some_and(|v| v == "1");
            assert!(!must, "tshark: {error}");
            eprintln!("skipped: no tshark");
            return None;
        }
    };
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), capture).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}

fn pair(daemon: &Daemon) -> (Client, Client) {
    let mut clients = ["a", "b"].map(|name| Client::attach(&daemon.socket(), name));
    for (client, port) in clients.iter_mut().zip([5000, 6000]) {
        client.peer.claim(claim(UDP, port, 1)).unwrap();
    }
    let [a, b] = clients;
    (a, b)
}

/// To another station of the network.
fn outward(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x99]);
    frame[30..34].copy_from_slice(&[10, 77, 0, 9]);
    frame
}

#[test]
fn a_clients_frames_are_captured_both_ways_with_the_reason_of_a_drop() {
    let daemon = Daemon::start("");
    let (mut a, mut b) = pair(&daemon);
    let id = a.attached.session.to_string();
    let capture = Capture::start(&daemon, &["-c", &id, "-w", "-", "-n", "4"]);
    a.transmit(&a.datagram(5000, 6000, b"there"));
    b.receive_frame();
    b.transmit(&b.datagram(6000, 5000, &[7; 200]));
    a.receive_frame();
    // Not from this port: seen as sent, and as dropped.
    a.transmit(&a.datagram(6000, 5000, b"spoofed"));
    let bytes = capture.finish();
    let Some(frames) = tshark(&bytes) else { return };
    let own = format!("client{id}");
    let dropped = format!("{own}:dropped");
    assert_eq!(frames[0], [&own, OUT, "", "47", "47"]);
    assert_eq!(frames[1], [&own, IN, "", "242", "242"]);
    assert_eq!(frames[2], [&own, OUT, "", "49", "49"]);
    assert_eq!(frames[3], [&dropped, OUT, "dropped: spoofed_port", "49", "49"]);
}

#[test]
fn an_interfaces_frames_are_captured_as_the_filter_says_and_cut_to_snaplen() {
    let daemon = Daemon::start("");
    let (mut a, _b) = pair(&daemon);
    let arguments = [
        "-i", "w0", "-s", "60", "-w", "-", "-n", "2", "udp", "and", "not", "(port", "1", "or",
        "src", "port", "6000)",
    ];
    let capture = Capture::start(&daemon, &arguments);
    for to in [1, 2, 1, 3] {
        a.transmit(&outward(a.datagram(5000, to, &[0; 100])));
    }
    let bytes = capture.finish();
    let Some(frames) = tshark(&bytes) else { return };
    assert_eq!(frames, vec![["w0", OUT, "", "60", "142"]; 2]);
}

#[test]
fn a_capture_that_nobody_reads_delays_no_frame_and_ends_with_its_reader() {
    let daemon = Daemon::start("");
    let (mut a, mut b) = pair(&daemon);
    let capture = Capture::start(&daemon, &["-i", "w0", "-w", "-"]);
    let second = Capture::start(&daemon, &["-c", &a.attached.session.to_string(), "-w", "-"]);
    // Far more than its pipes, its chunks and its buffers hold.
    for _ in 0..4000 {
        a.view.transmitter.reclaim().unwrap();
        a.transmit(&a.datagram(5000, 6000, &[0; 1400]));
        b.receive_frame();
    }
    let stats = daemon.json(&["stats"]);
    assert_eq!(
        (&stats["frames_conserved"], &stats["totals"]["to_clients"]),
        (&true.into(), &4000.into())
    );
    let before = daemon.descriptors();
    drop((capture, second));
    until("the ends of the pipes to be closed", || {
        a.view.transmitter.reclaim().unwrap();
        a.transmit(&a.datagram(5000, 6000, b"x"));
        b.receive_frame();
        (daemon.descriptors() <= before - 2).then_some(())
    });
    drop((a, b));
    daemon.is_clean();
}

#[test]
fn what_cannot_be_captured_is_refused_in_words() {
    let daemon = Daemon::start("");
    for (arguments, says) in [
        (&["-i", "none", "-w", "-"][..], "no interface is named \"none\""),
        (&["-c", "77", "-w", "-"], "no client has session 77"),
        (&["-i", "w0", "-w", "-", "port", "http"], "\"http\" after `port` is no port"),
        (&["-i", "w0", "-w", "/nowhere/file"], "cannot write /nowhere/file"),
    ] {
        let output = daemon.ctl(&[&["capture"], arguments].concat());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && error.contains(says), "{error}");
    }
    let running: Vec<_> =
        (0..8).map(|_| Capture::start(&daemon, &["-i", "w0", "-w", "-"])).collect();
    let output = daemon.ctl(&["capture", "-i", "w0", "-w", "-"]);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("8 captures are running"),
        "{output:?}"
    );
    drop(running);
}
