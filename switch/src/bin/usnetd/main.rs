//! The daemon's program.

mod capture;
mod check;
mod cli;
mod compat;
mod demo;
#[cfg(feature = "netmap-double")]
mod double;
mod failure;
mod pipe;
mod report;
mod restore;
mod run;
mod selftest;

use clap::{CommandFactory, Parser};
use cli::{Cli, Command};
use failure::Failure;
use selftest::SelfTest;
use std::process::ExitCode;
use std::sync::Arc;
use usnet_switch::port::netmap::Module;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Demo(args) => return demo::run(&args),
        Command::Pipe(args) => pipe::run(&args).map_err(Failure::other),
        Command::Compat(args) => compat::run(&args).map_err(Failure::other),
        Command::CompatHelper(args) => compat::run_helper(&args).map_err(Failure::other),
        Command::Capture(args) => {
            let kernel: Arc<dyn usnet_switch::port::netmap::Kernel> = Arc::new(Module);
            capture::run(&args, &kernel).map_err(Failure::other)
        }
        Command::Selftest { what: SelfTest::Netmap(args) } => {
            return selftest::run(&args, Arc::new(Module));
        }
        Command::DemoClient(args) => demo::run_client(&args).map_err(Failure::io),
        Command::DemoProbe(args) => demo::run_probe(&args).map_err(Failure::io),
        Command::Man => usnet_switch::manual::write_man(&Cli::command()).map_err(Failure::io),
        Command::Completions { shell } => {
            usnet_switch::manual::write_completions(&mut Cli::command(), shell);
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
