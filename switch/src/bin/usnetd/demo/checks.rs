//! What the demo tries, in order.

use super::probe::Finding;
use super::status::query;
use super::topology::{Outside, SHARED, Topology};
use crate::report::Report;
use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::process::Child;
use std::time::{Duration, Instant};
use usnet_shmring::control::QueryKind;

/// Ports of the clients, and of the kernel's own service.
pub(super) const HTTP_PORT: u16 = 80;
pub(super) const ECHO_PORT: u16 = 7;
pub(super) const BULK_PORT: u16 = 9000;
/// Of the client that was built for usnetd 0.1.
pub(super) const OLD_PORT: u16 = 4010;
const KERNEL_PORT: u16 = 8080;

/// Runs all checks.
pub(super) fn run(topology: &mut Topology, report: &mut Report, bytes: u64) -> io::Result<()> {
    report.progress("starting usnetd and four clients: http, echo, bulk, and one of usnetd 0.1");
    topology.start_daemon()?;
    for role in ["http", "echo", "bulk", "old"] {
        topology.start_client(role)?;
    }
    let has_kernel = matches!(topology.outside, Outside::Kernel(_));

    from_outside(topology, report)?;
    if has_kernel {
        kernel_checks(topology, report)?;
    }
    clients_to_each_other(topology, report)?;
    bulk(topology, report, bytes)?;
    kill_under_traffic(topology, report)?;
    conservation(topology, report)?;

    report.progress("stopping usnetd");
    let stopped = topology.stop_daemon();
    report.add("usnetd stops when asked to", stopped, None, "", "");
    let left = std::fs::exists(topology.socket()).unwrap_or(true);
    report.add("its socket is gone", !left, None, "", "");
    if topology.restarts() {
        super::sharing::run(topology, report, false)?;
    }
    Ok(())
}

/// Runs a probe and reads what it found.
fn probe(
    topology: &Topology,
    what: &str,
    port: u16,
    count: u64,
    inside: bool,
) -> io::Result<Finding> {
    finish(start(topology, what, port, count, inside)?)
}

fn start(
    topology: &Topology,
    what: &str,
    port: u16,
    count: u64,
    inside: bool,
) -> io::Result<Child> {
    let arguments = [what.to_owned(), format!("{SHARED}:{port}"), format!("--count={count}")];
    topology.probe(&arguments, inside)?.spawn()
}

fn finish(mut child: Child) -> io::Result<Finding> {
    let mut text = String::new();
    if let Some(mut out) = child.stdout.take() {
        out.read_to_string(&mut text)?;
    }
    child.wait()?;
    serde_json::from_str(&text).map_err(|_| io::Error::other("a probe died"))
}

fn note(finding: &Finding) -> &str {
    finding.error.as_deref().unwrap_or("")
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn rate(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds.max(1e-9)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn float(count: u64) -> f64 {
    count as f64
}

fn from_outside(topology: &Topology, report: &mut Report) -> io::Result<()> {
    report.progress("fetching the page from outside");
    let found = probe(topology, "page", HTTP_PORT, 200, false)?;
    report.add(
        "page fetched 200 times, every byte right",
        found.ok,
        Some(float(found.bytes)),
        "bytes",
        note(&found),
    );
    report.add(
        "pages",
        found.ok,
        Some(rate(found.answers, found.seconds)),
        "1/s",
        "a connection each",
    );

    for (what, name, count) in
        [("tcp-echo", "TCP echo round trip", 2000), ("udp-echo", "UDP echo round trip", 2000)]
    {
        report.progress(name);
        let found = probe(topology, what, ECHO_PORT, count, false)?;
        report.add(&format!("{name}, p50"), found.ok, found.p50_us, "us", note(&found));
        report.add(&format!("{name}, p99"), found.ok, found.p99_us, "us", "");
    }

    report.progress("reaching a program of usnetd 0.1");
    let found = probe(topology, "udp-echo", OLD_PORT, 1000, false)?;
    let name = "UDP echo of a program of usnetd 0.1, p50";
    report.add(name, found.ok, found.p50_us, "us", note(&found));
    Ok(())
}

/// What the kernel's own stack does on the shared address meanwhile.
fn kernel_checks(topology: &Topology, report: &mut Report) -> io::Result<()> {
    report.progress("pinging the kernel on the shared address");
    let found = probe(topology, "ping", 0, 200, false)?;
    report.add("ping answered by the kernel, p50", found.ok, found.p50_us, "us", note(&found));

    report.progress("reaching a kernel service on the shared address");
    let service = TcpListener::bind((SHARED, KERNEL_PORT))?;
    let echo = std::thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = service.accept()?;
        stream.set_nodelay(true)?;
        let mut buffer = [0; 64];
        while stream.read_exact(&mut buffer).is_ok() {
            stream.write_all(&buffer)?;
        }
        Ok(())
    });
    let found = probe(topology, "tcp-echo", KERNEL_PORT, 1000, false)?;
    report.add(
        "kernel service on port 8080, round trip p50",
        found.ok,
        found.p50_us,
        "us",
        note(&found),
    );
    if found.ok {
        let _ = echo.join();
    }
    Ok(())
}

fn clients_to_each_other(topology: &Topology, report: &mut Report) -> io::Result<()> {
    report.progress("letting clients talk to each other");
    let found = probe(topology, "page", HTTP_PORT, 50, true)?;
    report.add(
        "a client fetches another client's page",
        found.ok,
        Some(float(found.answers)),
        "pages",
        note(&found),
    );
    let found = probe(topology, "udp-echo", ECHO_PORT, 2000, true)?;
    report.add("client to client UDP round trip, p50", found.ok, found.p50_us, "us", note(&found));
    report.add("client to client UDP round trip, p99", found.ok, found.p99_us, "us", "");
    Ok(())
}

fn bulk(topology: &Topology, report: &mut Report, bytes: u64) -> io::Result<()> {
    report.progress(&format!("moving {} MB through TCP", bytes / 1_000_000));
    let found = probe(topology, "bulk", BULK_PORT, bytes, false)?;
    let right = found.ok && found.bytes == bytes;
    report.add(
        "bytes through TCP, every one right",
        right,
        Some(float(found.bytes)),
        "bytes",
        note(&found),
    );
    let gigabits = rate(found.bytes * 8, found.seconds) / 1e9;
    report.add("TCP goodput", right, Some(gigabits), "Gbit/s", "");
    Ok(())
}

/// One client dies by SIGKILL while datagrams arrive for it.
fn kill_under_traffic(topology: &mut Topology, report: &mut Report) -> io::Result<()> {
    report.progress("killing the echo client under traffic");
    let socket = topology.socket();
    let sessions = || -> io::Result<usize> {
        let clients = query(&socket, QueryKind::Clients)?;
        Ok(clients.as_array().map_or(0, Vec::len))
    };
    let before = sessions()?;
    let flood = start(topology, "flood", ECHO_PORT, 1500, false)?;
    std::thread::sleep(Duration::from_millis(300));
    let killed = Instant::now();
    topology.kill("echo")?;
    let end = killed + Duration::from_secs(2);
    let mut gone = None;
    while Instant::now() < end && gone.is_none() {
        if sessions()? < before {
            gone = Some(killed.elapsed());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let milliseconds = gone.map(|t| t.as_secs_f64() * 1e3);
    report.add("killed client: its session ended", gone.is_some(), milliseconds, "ms", "");

    let stats = query(&socket, QueryKind::Stats)?;
    let conserved = flag(&stats, "slots_conserved");
    report.add(
        "killed client: its slots came back",
        conserved,
        None,
        "",
        "every slot has one owner",
    );
    // The port can only be claimed again if its rules are gone.
    let again = topology.start_client("echo");
    let text = again.as_ref().err().map(ToString::to_string).unwrap_or_default();
    report.add("killed client: its port can be claimed again", again.is_ok(), None, "", &text);
    finish(flood)?;
    // What the flood has left in the client's queues is answered first, and what comes meanwhile may
    // find them full.
    for _ in 0..10 {
        if probe(topology, "udp-echo", ECHO_PORT, 1, false)?.ok {
            break;
        }
    }
    let found = probe(topology, "udp-echo", ECHO_PORT, 200, false)?;
    report.add(
        "a new client answers on that port, p50",
        found.ok,
        found.p50_us,
        "us",
        note(&found),
    );
    let found = probe(topology, "page", HTTP_PORT, 20, false)?;
    report.add(
        "the other client never noticed",
        found.ok,
        Some(float(found.answers)),
        "pages",
        note(&found),
    );
    Ok(())
}

/// Finds `key` wherever it stands in the document.
fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(key).or_else(|| map.values().find_map(|v| find(v, key))),
        Value::Array(list) => list.iter().find_map(|v| find(v, key)),
        _ => None,
    }
}

fn flag(value: &Value, key: &str) -> bool {
    find(value, key).and_then(Value::as_bool).unwrap_or(false)
}

fn number(value: Option<&Value>) -> f64 {
    value.and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn conservation(topology: &Topology, report: &mut Report) -> io::Result<()> {
    let stats = query(&topology.socket(), QueryKind::Stats)?;
    let totals = find(&stats, "totals").cloned().unwrap_or_default();
    let frames = ["received", "from_clients", "generated"];
    let frames: f64 = frames.iter().map(|key| number(totals.get(key))).sum();
    let ok = flag(&stats, "frames_conserved");
    report.add("frames: in = out + used + dropped", ok, Some(frames), "frames", "");
    let slots = find(&stats, "slots").cloned().unwrap_or_default();
    let ok = flag(&stats, "slots_conserved");
    report.add("slots: sum over owners = all", ok, Some(number(slots.get("total"))), "slots", "");
    if let Some(Value::Object(dropped)) = totals.get("dropped") {
        for (reason, count) in dropped {
            report.add(&format!("dropped: {reason}"), true, count.as_f64(), "frames", "");
        }
    }
    Ok(())
}
