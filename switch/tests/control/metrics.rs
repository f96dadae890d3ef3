//! Counters for scrapers: read as the format says, and nobody waits for one that does not read.

use crate::daemon::{Daemon, Directory, until};
use crate::peer::{Client, UDP, claim};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn start() -> (Daemon, PathBuf) {
    let directory = Directory::new();
    let socket = directory.0.join("metrics.sock");
    let more = format!("[metrics]\nlisten = \"unix:{}\"\n", socket.display());
    (Daemon::start_in(directory, &more), socket)
}

fn connect(socket: &Path) -> UnixStream {
    until("the metrics socket", || UnixStream::connect(socket).ok())
}

/// What Prometheus sends.
const OPEN: &str = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2,*/*;q=0.1";

fn get(socket: &Path, path: &str, accept: &str) -> (String, String) {
    let mut stream = connect(socket);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// Samples by name and labels; fails where the text is not as OpenMetrics 1.0 wants it.
fn read(text: &str) -> BTreeMap<String, f64> {
    let (mut families, mut samples) = (BTreeMap::new(), BTreeMap::new());
    let mut ended: BTreeSet<String> = BTreeSet::new();
    let mut current = String::new();
    let body = text.strip_suffix("# EOF\n").expect("the text ends with # EOF");
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let [what, name, rest] = comment.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            if what == "TYPE" {
                assert!(families.insert(name.to_owned(), rest.to_owned()).is_none(), "{line}");
                ended.insert(std::mem::replace(&mut current, name.to_owned()));
            }
            assert_eq!(name, current, "{line}");
            if what == "UNIT" {
                assert!(name.ends_with(&format!("_{rest}")), "{line}");
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        let suffix = match families[&current].as_str() {
            "counter" => "_total",
            "info" => "_info",
            "gauge" => "",
            other => panic!("{other}"),
        };
        assert_eq!(name, format!("{current}{suffix}"), "{line}");
        assert!(name.starts_with("usnetd_") && !ended.contains(&current), "{line}");
        assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{line}");
    }
    samples
}

#[test]
fn counters_are_served_as_openmetrics_and_are_those_of_stats() {
    let (daemon, socket) = start();
    let mut client = Client::attach(&daemon.socket(), "we\"b");
    client.peer.claim(claim(UDP, 5000, 1)).unwrap();
    // Another's port.
    let mut other = Client::attach(&daemon.socket(), "other");
    other.peer.claim(claim(UDP, 6000, 1)).unwrap();
    for _ in 0..3 {
        client.transmit(&client.datagram(6000, 5000, b"from a port that is not its own"));
    }
    until("three drops", || {
        (daemon.json(&["stats"])["totals"]["dropped"]["spoofed_port"] == 3).then_some(())
    });
    // What was counted a moment ago may be told for a moment.
    let samples = until("the drops to be told", || {
        let (head, body) = get(&socket, "/metrics", OPEN);
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
        let samples = read(&body);
        samples.contains_key("usnetd_drops_total{reason=\"spoofed_port\"}").then_some(samples)
    });
    let id = client.attached.session;
    let drops = format!(
        "usnetd_client_drops_total{{client=\"{id}\",name=\"we\\\"b\",direction=\"from\",reason=\"spoofed_port\"}}"
    );
    assert_eq!(
        (samples[&drops], samples["usnetd_drops_total{reason=\"spoofed_port\"}"]),
        (3.0, 3.0)
    );
    assert_eq!((samples["usnetd_clients"], samples["usnetd_nic_up{nic=\"w0\"}"]), (2.0, 1.0));
    assert_eq!(samples["usnetd_frames_total{way=\"from_clients\"}"], 3.0);
    // Nothing that stats counts of ports is missing.
    let stats = daemon.json(&["stats"]);
    let counters = stats["interfaces"][0]["wire"]["counters"].as_object().unwrap();
    let told = samples.keys().filter(|k| k.contains("nic=\"w0\",port=\"wire\"")).count();
    assert_eq!(told, counters.len());
    assert!(!samples.keys().any(|k| k.contains("10.77") || k.contains("fd77")), "no addresses");
    assert!(get(&socket, "/nothing", OPEN).0.starts_with("HTTP/1.1 404"));
}

/// What Prometheus' own library for Python reads: names, labels and values of samples.
fn read_by_prometheus(parser: &str, text: &str) -> Option<Vec<String>> {
    let program = format!(
        "import sys\nfrom prometheus_client.{parser} import text_string_to_metric_families as read\n\
         for family in read(sys.stdin.read()):\n  for s in family.samples:\n    print(s.name, sorted(s.labels.items()), s.value)"
    );
    // Debian's, which has the library; not another that comes first in PATH.
    let mut python = Command::new("/usr/bin/python3");
    python
        .args(["-c", &program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut python = python.spawn().ok()?;
    python.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    if error.contains("No module named") {
        return None;
    }
    assert!(output.status.success(), "{error}\n{text}");
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

#[test]
fn both_formats_say_the_same_to_the_library_that_prometheus_has_for_python() {
    let (daemon, socket) = start();
    let _client = Client::attach(&daemon.socket(), "we\"b");
    let (head, open) = get(&socket, "/metrics", OPEN);
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    let (head, plain) = get(&socket, "/metrics", "*/*");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    let (Some(open), Some(plain)) =
        (read_by_prometheus("openmetrics.parser", &open), read_by_prometheus("parser", &plain))
    else {
        let must = std::env::var_os("USNET_TESTS_REQUIRE_ALL").is_some_and(|v| v == "1");
        assert!(!must, "python3-prometheus-client is missing");
        eprintln!("skipped: needs Debian's python3-prometheus-client");
        return;
    };
    let names = |samples: &[String]| -> Vec<String> {
        let name = |sample: &String| sample.rsplit_once(' ').map(|(name, _)| name.to_owned());
        samples.iter().filter_map(name).collect()
    };
    assert!(open.len() > 20, "{open:?}");
    assert_eq!(names(&open), names(&plain));
}

#[test]
fn scrapers_that_do_not_speak_or_read_keep_nobody_waiting() {
    let (daemon, socket) = start();
    let silent: Vec<_> = (0..40).map(|_| connect(&socket)).collect();
    // The first are waited for a while, more are closed at once; none is in the daemon's way.
    let mut closed = silent[39].try_clone().unwrap();
    assert_eq!(closed.read(&mut [0; 9]).unwrap_or(0), 0);
    Client::attach(&daemon.socket(), "served");
    until("an answer, when those who did not speak have been closed", || {
        let mut stream = UnixStream::connect(&socket).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.contains("usnetd_uptime_seconds").then_some(())
    });
    drop(silent);
}

#[test]
fn the_socket_goes_with_the_daemon() {
    let (mut daemon, socket) = start();
    connect(&socket);
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.wait().success());
    assert!(!socket.exists());
}
