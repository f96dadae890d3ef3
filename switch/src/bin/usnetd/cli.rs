//! What can be typed.

use crate::capture::CaptureArgs;
use crate::compat::{CompatArgs, HelperArgs};
use crate::demo::{ClientArgs, DemoArgs, ProbeArgs};
use crate::pipe::PipeArgs;
use crate::selftest::SelfTest;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;
use usnet_switch::config::{DEFAULT_FILE, DEFAULT_STATE_DIR};

const EXIT_CODES: &str = "\
Exit codes:
  0   stopped by a signal, or the check found nothing
  1   could not run: an interface, the socket, memory, a right is missing
  2   bad arguments
  70  internal error: a bug, please report it
  78  bad configuration; a restart will not help

Signals:
  HUP         read the configuration again: policies, clients that are known, and interfaces that have come or gone; what else has changed needs a restart, and is
              named in the log
  TERM, INT   end all sessions, put every interface back as it was found, leave; a second one: at once

Environment:
  RUST_LOG    what to log, as in `info` (the default), `debug`, `usnet_switch::control=debug`";

/// Shares network interfaces between userspace TCP/IP stacks and the kernel's own.
#[derive(Debug, Parser)]
#[command(name = "usnetd", version, after_long_help = EXIT_CODES, infer_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the interfaces of a configuration until a signal comes
    Run(Run),
    /// Put back what a daemon had changed of interfaces that was killed, and is not to be started again
    Restore(Restore),
    /// Say whether a configuration is right, and what it amounts to
    Check(Check),
    /// Watch real processes share an interface with the kernel's stack
    Demo(DemoArgs),
    /// Let a program at the other end of a netmap pipe, or of a port of VALE, be a client
    Pipe(PipeArgs),
    /// Let programs that were built for usnetd 0.1 be clients
    Compat(CompatArgs),
    /// What stands between one such program and usnetd
    #[command(hide = true)]
    CompatHelper(HelperArgs),
    /// Write what passes the rings of a netmap card into a file for wireshark
    Capture(CaptureArgs),
    /// Try what this machine's back ends can do
    Selftest {
        #[command(subcommand)]
        what: SelfTest,
    },
    /// One of the demo's clients
    #[command(hide = true)]
    DemoClient(ClientArgs),
    /// One of the demo's probes
    #[command(hide = true)]
    DemoProbe(ProbeArgs),
    /// Write the manual page
    #[command(hide = true)]
    Man,
    /// Write completions for a shell
    #[command(hide = true, name = "shell-completions")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(crate) struct Run {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    pub(crate) config: PathBuf,
    /// Play netmap's kernel side for a card, between two interfaces: the driver's side of the
    /// kernel's, and the cable
    #[cfg(feature = "netmap-double")]
    #[arg(long, hide = true, value_name = "CARD=DRIVER,CABLE")]
    pub(crate) netmap_double: Option<String>,
}

#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(crate) struct Restore {
    /// Where the daemon kept its records (control.state_dir)
    #[arg(value_name = "DIRECTORY", default_value = DEFAULT_STATE_DIR)]
    pub(crate) state_dir: PathBuf,
}

#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(crate) struct Check {
    /// Configuration file
    #[arg(value_name = "FILE", default_value = DEFAULT_FILE)]
    pub(crate) file: PathBuf,
    /// Print JSON instead of TOML
    #[arg(short, long)]
    pub(crate) json: bool,
}
