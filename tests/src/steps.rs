//! What several tests do with two hosts: run a program, fetch a page, let the kernels talk.

use crate::lab::{INSIDE, Lab, Running};
use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs a command and returns what it printed.
///
/// # Panics
/// If it cannot be run, or fails.
#[allow(clippy::must_use_candidate, reason = "often run for what it does")]
pub fn run(mut command: Command) -> String {
    let output = command.output().expect("a program that is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{text}{errors}");
    text
}

/// Starts a command that goes on in the background, unheard.
///
/// # Panics
/// If it cannot be run.
#[must_use]
pub fn spawn(mut command: Command) -> Running {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().expect("a program that is installed"))
}

/// A page that a client serves on port 80 of the shared address.
#[derive(Debug)]
pub struct Page {
    body: String,
    _server: Running,
}

impl Page {
    /// Has a client serve a page of some 50 kB.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn serve(lab: &Lab) -> Self {
        let body: String = (0..5000).map(|n| format!("line {n}\n")).collect();
        let file = lab.directory().join("page.html");
        fs::write(&file, &body).expect("a page");
        let server =
            lab.client("http", &["--port", "80", "--page", &file.display().to_string()], 80);
        Self { body, _server: server }
    }

    /// Fetches it with curl from the other host, each time on a connection of its own.
    ///
    /// # Panics
    /// If something else comes.
    pub fn fetch(&self, lab: &Lab, times: usize) {
        let url = format!("http://{INSIDE}/");
        for _ in 0..times {
            let got = run(lab.outside("curl", &["-sS", "--max-time", "10", &url]));
            assert!(got == self.body, "{} bytes came, not {}", got.len(), self.body.len());
        }
    }
}

/// Sends 50 pings, given the host's way to run a program, and loses none.
///
/// # Panics
/// If one is lost.
pub fn ping(from: impl Fn(&str, &[&str]) -> Command, target: &str) {
    let text = run(from("ping", &["-c", "50", "-i", "0.01", "-W", "2", target]));
    assert!(text.contains(" 0% packet loss"), "{text}");
}

/// Has an iperf3 send 50 MiB over TCP to or from one that serves, or is about to.
///
/// # Panics
/// If less goes through.
pub fn iperf3(from: impl Fn(&str, &[&str]) -> Command, target: &str, direction: &[&str]) {
    let end = Instant::now() + Duration::from_secs(20);
    let arguments =
        [&["-c", target, "-n", "50M", "-J", "--connect-timeout", "5000"], direction].concat();
    let report: Value = loop {
        let output = from("iperf3", &arguments).output().expect("iperf3");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if output.status.success() && report["error"].is_null() {
            break report;
        }
        // The server may not be there yet, or busy with the one before.
        assert!(Instant::now() < end, "{}", String::from_utf8_lossy(&output.stdout));
        std::thread::sleep(Duration::from_millis(100));
    };
    let sent = report["end"]["sum_sent"]["bytes"].as_u64().unwrap_or(0);
    let received = report["end"]["sum_received"]["bytes"].as_u64().unwrap_or(0);
    assert!(sent >= 50 << 20, "{sent} bytes were sent: {report:#}");
    // What is under way when the sender stops its clock is not in this number.
    assert!(received >= 40 << 20, "{received} bytes arrived: {report:#}");
}

/// 50 MiB each way over TCP between the other host's kernel and the one that `server`, an iperf3 that
/// was told to serve the shared address, runs on.
///
/// # Panics
/// If less goes through.
pub fn iperf3_both_ways(lab: &Lab, server: Command) {
    let _server = spawn(server);
    for direction in [&[][..], &["-R"][..]] {
        iperf3(|name, arguments| lab.outside(name, arguments), INSIDE, direction);
    }
}
