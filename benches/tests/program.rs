//! The program `usnet-bench` as scripts use it: every subcommand measures, and says so in JSON.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use usnet_bench::report::Report;

/// The contenders spin on the same two processors, so one run at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn report(arguments: &[&str]) -> Report {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let program = env!("CARGO_BIN_EXE_usnet-bench");
    let output = Command::new(program)
        .args(arguments)
        .args(["--json", "--quiet", "--seconds", "0.05"])
        .output()
        .expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    let report: Report = serde_json::from_slice(&output.stdout).expect("JSON");
    for row in &report.rows {
        assert!(row.value > 0.0 && row.yardstick_value > 0.0, "{row:?}");
        let off = (row.ratio * row.yardstick_value - row.value).abs();
        assert!(off <= row.value * 1e-6, "{row:?}");
    }
    assert!(!report.machine.cpu.is_empty() && report.machine.cores > 0);
    report
}

fn names(report: &Report) -> Vec<&str> {
    report.rows.iter().map(|row| row.name.as_str()).collect()
}

#[test]
fn ring_stands_beside_three_other_rings() {
    let report = report(&["ring"]);
    let yardsticks: Vec<_> = report.rows.iter().map(|row| row.yardstick.as_str()).collect();
    for yardstick in ["rtrb", "crossbeam ArrayQueue", "bare ring, no checks"] {
        assert!(yardsticks.contains(&yardstick), "{yardsticks:?}");
    }
}

#[test]
fn switch_moves_frames_between_processes_in_both_modes() {
    for arguments in [&["switch"][..], &["switch", "--processes"]] {
        let report = report(arguments);
        assert_eq!(report.rows.len(), 4, "{:?}", names(&report));
        assert!(names(&report).iter().any(|name| name.contains("64 B, isolated")));
    }
}

#[test]
fn latency_tells_percentiles_in_order() {
    let report = report(&["latency"]);
    let shared: Vec<_> = report
        .rows
        .iter()
        .filter(|row| row.name.contains("shared") && row.yardstick.contains("datagrams"))
        .map(|row| row.value)
        .collect();
    assert_eq!(shared.len(), 5, "{:?}", names(&report));
    assert!(shared.is_sorted(), "{shared:?}");
}

#[test]
fn steer_stands_beside_the_first_of_its_kind() {
    let report = report(&["steer"]);
    let names = names(&report);
    for most in ["1000000 ports", "1000 clients", "1000 local", "60000 remote", "10000 learned"] {
        assert!(names.iter().any(|name| name.contains(most)), "{most}: {names:?}");
    }
    let firsts = report.rows.iter().filter(|row| row.name == row.yardstick);
    assert_eq!(firsts.count(), 6, "{names:?}");
}

#[test]
fn ping_stands_beside_the_kernel_alone() {
    if !rustix::process::geteuid().is_root() || Command::new("ping").arg("-V").output().is_err() {
        let must = std::env::var_os("USNET_TESTS_REQUIRE_ALL").is_some_and(|v| v == "1");
        assert!(!must, "needs root, and ping");
        return eprintln!("skipped: needs root, and ping");
    }
    let report = report(&["ping"]);
    assert_eq!(report.rows.len(), 4, "{:?}", names(&report));
    assert!(report.rows.iter().all(|row| row.yardstick == "ping, kernel alone"));
}

#[test]
fn a_plot_is_written_where_it_was_asked_for() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("plot");
    let folder = folder.to_str().expect("a path in Unicode");
    report(&["ring", "--plot", folder]);
    let svg = std::fs::read_to_string(format!("{folder}/ring.svg")).expect("the plot");
    assert!(svg.starts_with("<svg") && svg.contains("rtrb"), "{svg}");
}
