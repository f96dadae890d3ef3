//! `usnetd compat`: the socket that programs of usnetd 0.1 know, and the helpers behind it.

use crate::run::start_log;
use clap::Args;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::error::Error;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use usnet_switch::compat::gateway::{Gateway, GatewaySpec};
use usnet_switch::compat::helper;
use usnet_switch::config::{Control, DEFAULT_COMPAT_SOCKET};
use usnet_switch::daemon::Signals;
use usnet_switch::net::namespace::die_with_parent;

/// The arguments of `usnetd compat`.
#[derive(Args, Clone, Debug)]
pub(crate) struct CompatArgs {
    /// Where programs of usnetd 0.1 look
    #[arg(long, value_name = "PATH", default_value = DEFAULT_COMPAT_SOCKET)]
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

/// The gateway as a process beside the daemon, started again when it ends by itself.
#[derive(Debug)]
pub(crate) struct Beside {
    control: Control,
    running: Option<(Child, OwnedFd)>,
    started: Instant,
}

/// How soon after its start a gateway is started again at the earliest.
const PAUSE: Duration = Duration::from_secs(1);

impl Beside {
    /// Starts it, if the configuration asks for it.
    pub(crate) fn start(control: &Control) -> Option<Self> {
        control.compat.as_ref()?;
        let mut beside = Self { control: control.clone(), running: None, started: Instant::now() };
        beside.start_again();
        Some(beside)
    }

    fn start_again(&mut self) {
        self.started = Instant::now();
        match self.spawn() {
            Ok(running) => self.running = Some(running),
            Err(error) => tracing::error!(%error, "no gateway for programs of usnetd 0.1"),
        }
    }

    fn spawn(&self) -> std::io::Result<(Child, OwnedFd)> {
        let Control { socket, mode, group, compat, .. } = &self.control;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("compat").arg("--mode").arg(format!("{mode:o}"));
        command.arg("--usnetd").arg(socket).arg("--socket").args(compat);
        if let Some(group) = group {
            command.arg("--group").arg(group.to_string());
        }
        die_with_parent(&mut command);
        let child = command.spawn()?;
        let pid = rustix::process::Pid::from_child(&child);
        let ends = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        Ok((child, ends))
    }

    /// Readable when it has ended.
    pub(crate) fn ends(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(|(_, ends)| ends.as_fd())
    }

    /// Looks after it; returns how soon to look again.
    pub(crate) fn look(&mut self) -> Option<Duration> {
        let ended = self.running.as_mut().and_then(|(child, _)| child.try_wait().ok().flatten());
        if let Some(status) = ended {
            tracing::error!(%status, "the gateway for programs of usnetd 0.1 has ended");
            self.running = None;
        }
        if self.running.is_none() {
            let left = PAUSE.saturating_sub(self.started.elapsed());
            if !left.is_zero() {
                return Some(left);
            }
            self.start_again();
            return self.running.is_none().then_some(PAUSE);
        }
        None
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some((mut child, _)) = self.running.take() {
            let pid = rustix::process::Pid::from_child(&child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = child.wait();
        }
    }
}

/// Serves one program.
pub(crate) fn run_helper(args: &HelperArgs) -> Result<(), Box<dyn Error>> {
    start_log();
    // Another process of the program's user must not look into this one.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let taken = |fd: BorrowedFd<'_>| -> std::io::Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
    };
    let gateway = taken(std::io::stdin().as_fd())?;
    let program = taken(std::io::stdout().as_fd())?;
    // Nothing that is printed by mistake must reach the program as a frame.
    rustix::stdio::dup2_stdout(std::io::stderr())?;
    helper::run(&gateway, program, &args.usnetd, &args.interface, &args.name)?;
    Ok(())
}
