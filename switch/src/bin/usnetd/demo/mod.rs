//! `usnetd demo`: real processes share an interface and one address with the real kernel stack, and
//! everybody can watch.

mod checks;
mod client;
mod page;
mod probe;
mod report;
mod status;
mod topology;
mod transport;

pub(crate) use client::{ClientArgs, run as run_client};
pub(crate) use probe::{ProbeArgs, run as run_probe};

use clap::Args;
use report::Report;
use std::process::ExitCode;
use std::time::Instant;
use topology::Topology;

/// The arguments of the demo.
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
    /// Bytes to move through one TCP connection.
    #[arg(long, value_name = "BYTES", default_value_t = 1_000_000_000)]
    bytes: u64,
    /// Use a wire in memory, without namespaces and without the kernel's stack.
    #[arg(long)]
    wire: bool,
}

/// Runs the demo. Call it while the process has one thread. Exit code 0 only if everything held.
pub(crate) fn run(args: &DemoArgs) -> ExitCode {
    let started = Instant::now();
    let (mut topology, why) = match Topology::build(args.wire) {
        Ok(built) => built,
        Err(error) => {
            eprintln!("usnetd demo: cannot set the demo up: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut report = Report::new(topology.backend(), false);
    match &why {
        Some(why) => report.progress(&format!("over a wire in memory, since: {why}")),
        None => report.progress("two hosts in namespaces of their own, joined by a veth"),
    }
    if let Err(error) = checks::run(&mut topology, &mut report, args.bytes) {
        report.add("the demo runs to its end", false, None, "", &error.to_string());
    }
    let directory = topology.directory().to_owned();
    drop(topology);
    report.add("nothing is left behind", !directory.exists(), None, "", "");
    report.progress(&format!("done after {:.1} s", started.elapsed().as_secs_f64()));
    if args.json {
        report.print_json();
    } else {
        report.print_table();
    }
    if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
