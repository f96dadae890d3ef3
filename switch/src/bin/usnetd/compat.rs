//! `usnetd compat`: the socket that programs of usnetd 0.1 know, and the helpers behind it.

use crate::run::start_log;
use clap::Args;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use usnet_switch::compat::gateway::{Gateway, GatewaySpec};
use usnet_switch::compat::helper;
use usnet_switch::daemon::Signals;

/// The arguments of `usnetd compat`.
#[derive(Args, Clone, Debug)]
pub(crate) struct CompatArgs {
    /// Where programs of usnetd 0.1 look
    #[arg(long, value_name = "PATH", default_value = "/run/usnetd.socket")]
    socket: PathBuf,
    /// Who may use it, as of chmod
    #[arg(long, value_name = "OCTAL", default_value = "0770", value_parser = octal)]
    mode: u32,
    /// Its group, as a number
    #[arg(long, value_name = "GID")]
    group: Option<u32>,
    /// usnetd's socket [default: $USNETD_SOCKET or /run/usnetd/control.sock]
    #[arg(long, value_name = "PATH")]
    usnetd: Option<PathBuf>,
    /// Programs at one time
    #[arg(long, value_name = "COUNT", default_value_t = 256)]
    programs: usize,
    /// Programs of one user at one time
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    programs_per_user: usize,
}

/// The arguments of a helper; its standard input is the gateway, its standard output the program.
#[derive(Args, Clone, Debug)]
pub(crate) struct HelperArgs {
    #[arg(long)]
    interface: String,
    #[arg(long)]
    name: String,
    #[arg(long)]
    usnetd: PathBuf,
}

fn octal(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "expected 0000 to 0777".to_owned())
}

/// Serves until a signal comes.
pub(crate) fn run(args: &CompatArgs) -> Result<(), Box<dyn Error>> {
    start_log();
    let signals = Signals::collect(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])?;
    let usnetd = args.usnetd.clone().unwrap_or_else(|| usnet::Options::default().socket);
    let spec = GatewaySpec {
        socket: args.socket.clone(),
        mode: args.mode,
        group: args.group,
        usnetd,
        helper: std::env::current_exe()?,
        programs: args.programs,
        programs_per_user: args.programs_per_user,
    };
    let at = args.socket.display();
    let mut gateway = Gateway::open(spec).map_err(|error| format!("cannot serve {at}: {error}"))?;
    tracing::info!(socket = %at, "serving programs of usnetd 0.1");
    gateway.serve(signals.as_fd())?;
    tracing::info!(counters = ?gateway.counters(), "leaving");
    Ok(())
}

/// Serves one program.
pub(crate) fn run_helper(args: &HelperArgs) -> Result<(), Box<dyn Error>> {
    start_log();
    // Another process of the program's user must not look into this one.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let taken = |fd: std::os::fd::BorrowedFd<'_>| -> std::io::Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
    };
    let gateway = taken(std::io::stdin().as_fd())?;
    let program = taken(std::io::stdout().as_fd())?;
    // Nothing that is printed by mistake must reach the program as a frame.
    rustix::stdio::dup2_stdout(std::io::stderr())?;
    helper::run(&gateway, program, &args.usnetd, &args.interface, &args.name)?;
    Ok(())
}
