//! `usnet-bench`: how fast the parts of usnet are, each beside a yardstick from the same run.

mod cli;

use clap::Parser;
use cli::{Args, Command};
use std::process::ExitCode;
use std::time::Duration;
use usnet_bench::machine::Machine;
use usnet_bench::path::{self, Layout};
use usnet_bench::plot;
use usnet_bench::report::Report;

/// 0: measured. 1: could not measure. 2: bad arguments.
fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("usnet-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    // The machine first: measuring changes its load.
    let look = Machine::look;
    let (name, common, machine, rows) = match &args.command {
        Command::Ring(common) => ("ring", common, look(), cli::ring::run(common.plan())?),
        Command::Switch { processes, common } => {
            let layout = if *processes { Layout::TwoProcesses } else { Layout::OneProcess };
            ("switch", common, look(), cli::switch::run(common.plan(), layout)?)
        }
        Command::Steer { only, common } => {
            ("steer", common, look(), cli::steer::run(common.plan(), only)?)
        }
        Command::Latency(common) => ("latency", common, look(), cli::latency::run(common.plan())?),
        Command::Ping(common) => ("ping", common, look(), cli::ping::run(common.plan())?),
        Command::Workers(common) => ("workers", common, look(), cli::workers::run(common.plan())?),
        Command::Tcp { only, common } => {
            ("tcp", common, look(), cli::tcp::run(common.plan(), only)?)
        }
        Command::Client { task, sessions, size, seconds } => {
            let time = Duration::try_from_secs_f64(*seconds).map_err(|error| error.to_string())?;
            let outcome = path::client(*task, *sessions, *size, time)?;
            println!("{}", serde_json::to_string(&outcome).map_err(|error| error.to_string())?);
            return Ok(());
        }
    };
    let report = Report { machine, rows };
    if common.json {
        let json = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
        println!("{json}");
    } else {
        println!("{report}");
    }
    if let Some(directory) = &common.plot {
        let path = plot::write(&report, directory, name)
            .map_err(|error| format!("cannot write a plot to {}: {error}", directory.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}
