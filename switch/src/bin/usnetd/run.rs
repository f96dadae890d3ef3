//! `usnetd run`: the daemon until a signal comes.

use crate::cli::Run;
use crate::compat::Beside;
use crate::failure::Failure;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, setrlimit};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing_subscriber::EnvFilter;
use usnet_shmring::control::QueryKind;
use usnet_switch::ask::Daemon as Asked;
use usnet_switch::config::{Config, DEFAULT_STATE_DIR};
use usnet_switch::daemon::{Daemon, DaemonError, Notify, Prepared, ReadyInterface, Signals};
use usnet_switch::metrics::Metrics;
use usnet_switch::port::netmap::{Kernel, Module};

/// What asks for a stop, and what would end the process without putting anything back.
const COLLECTED: [i32; 5] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];

pub(crate) fn run(args: &Run) -> Result<(), Failure> {
    let mut config = Config::load(&args.config)?;
    start_log();
    if config.control.state_dir.is_none() {
        config.control.state_dir = default_state_dir();
    }
    let start = |what| move |source| DaemonError::Start { what, source };
    // Before any thread, so that every thread leaves the signals to this one.
    let signals = Signals::collect(&COLLECTED).map_err(start("to collect signals"))?;
    raise_descriptor_limit();
    let (control, metrics) = (config.control.clone(), config.metrics.clone());
    let notify = Notify::from_environment();
    let mut prepared = Prepared::new(&config, netmap(args).map_err(start("netmap's double"))?)?;
    let interfaces = ReadyInterface::open_all(&config, &mut prepared)?;
    let daemon = Daemon::start(config, prepared, interfaces)?;
    // A client with the same user must not look into this process.
    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "other processes of this user can look into this one");
    }
    let start_metrics = |at| Metrics::start(at, &control).map_err(start("to serve counters"));
    let metrics = metrics.as_ref().map(start_metrics).transpose()?;
    tracing::info!(socket = %control.socket.display(), "serving");
    notify.tell("READY=1\nSTATUS=serving");
    let (socket, file) = (&control.socket, &args.config);
    let health = Health { notify: &notify, socket, file, told: Instant::now() };
    wait(&daemon, &signals, Beside::start(&control), health).map_err(start("to wait"))?;
    drop(metrics);
    Ok(daemon.wait()?)
}

/// Where root records what interfaces were like. Other users have interfaces only in namespaces that end with
/// them.
fn default_state_dir() -> Option<PathBuf> {
    // A service manager has made it, whoever we are.
    let made = std::env::var_os("STATE_DIRECTORY").map(PathBuf::from);
    if let Some(directory) = made.filter(|directory| directory.is_absolute()) {
        return Some(directory);
    }
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let directory = PathBuf::from(DEFAULT_STATE_DIR);
    // It is made when it is needed. Root in a user namespace may not be let in.
    let there = if directory.exists() { &directory } else { directory.parent()? };
    match rustix::fs::access(there, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Some(directory),
        Err(error) => {
            tracing::info!(%error, "no record in {DEFAULT_STATE_DIR} of what interfaces were like");
            None
        }
    }
}

/// Who serves ports over netmap.
fn netmap(args: &Run) -> io::Result<Arc<dyn Kernel>> {
    #[cfg(feature = "netmap-double")]
    if let Some(text) = &args.netmap_double {
        return crate::double::kernel(text);
    }
    let Run { .. } = args;
    Ok(Arc::new(Module))
}

/// What the service manager's watchdog hears.
struct Health<'a> {
    notify: &'a Notify,
    socket: &'a Path,
    /// The configuration.
    file: &'a Path,
    told: Instant,
}

impl Health<'_> {
    /// Puts the file into force as it is now.
    fn reload(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000;
        self.notify.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
        let file = std::path::absolute(self.file).unwrap_or_else(|_| self.file.to_owned());
        let applied = Asked::connect(self.socket)
            .and_then(|mut asked| asked.ask(QueryKind::ApplyConfig, &file.to_string_lossy()));
        if let Err(error) = applied {
            tracing::error!(%error, "the configuration stays as it was");
        }
        self.notify.tell("READY=1\nSTATUS=serving");
    }

    /// Says that all is well if it is time to, and it is; how long until the next time.
    fn look(&mut self) -> Option<Duration> {
        // Twice as often as it has to be heard.
        let every = self.notify.watchdog()? / 2;
        if self.told.elapsed() >= every {
            self.told = Instant::now();
            // The answer has been through the control thread and all workers.
            let asked = Asked::connect(self.socket).and_then(|mut a| a.query(QueryKind::Status, 0));
            match asked {
                Ok(_) => self.notify.tell("WATCHDOG=1"),
                Err(error) => tracing::error!(%error, "the daemon does not answer itself"),
            }
        }
        Some(every.saturating_sub(self.told.elapsed()).max(Duration::from_millis(1)))
    }
}

/// Waits for the first signal that asks for a stop and then for the daemon, or for the second signal.
fn wait(
    daemon: &Daemon,
    signals: &Signals,
    mut beside: Option<Beside>,
    mut health: Health<'_>,
) -> io::Result<()> {
    let mut stopping = false;
    loop {
        let soon = beside.as_mut().and_then(Beside::look);
        let look = health.look().filter(|_| !stopping);
        let soon = soon.into_iter().chain(look).min();
        let soon = soon.and_then(|soon| Timespec::try_from(soon).ok());
        let others = beside.as_ref().and_then(Beside::ends);
        let mut watched: Vec<_> = [daemon.finished(), signals.as_fd()]
            .into_iter()
            .chain(others)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match poll(&mut watched, soon.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if watched.first().is_some_and(|w| !w.revents().is_empty()) {
            return Ok(());
        }
        while let Some(signal) = signals.next() {
            match signal {
                libc::SIGTERM | libc::SIGINT if stopping => {
                    tracing::warn!("second signal: leaving at once");
                    // What lives in descriptors goes with the process; the rest stays as it is.
                    std::process::exit(1);
                }
                libc::SIGTERM | libc::SIGINT => {
                    stopping = true;
                    health.notify.tell("STOPPING=1\nSTATUS=ending all sessions");
                    beside = None;
                    daemon.request_stop();
                }
                libc::SIGHUP => health.reload(),
                other => tracing::warn!(signal = other, "this signal has no effect"),
            }
        }
    }
}

pub(crate) fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// Every session needs half a dozen descriptors.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open descriptors stays low");
    }
}
