//! What the service manager is told (sd_notify(3)): ready, stopping, still alive.
//!
//! One datagram each to the socket that `NOTIFY_SOCKET` names, by path or, after `@`, by an abstract name. Without
//! that nothing is told. The socket does not wait: a manager that does not read misses words, no more.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

fn connect(name: &OsString) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

impl Notify {
    /// As the environment says.
    #[must_use]
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var_os(name);
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let name = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let socket = name.and_then(|name| match connect(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(socket = ?name, %error, "the service manager cannot be told");
                None
            }
        });
        // It may be meant for another process.
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let micros = number("WATCHDOG_USEC").filter(|us| *us > 0 && is_ours && socket.is_some());
        Self { socket, watchdog: micros.map(Duration::from_micros) }
    }

    /// How often at least it wants to hear that we are alive.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Tells: `READY=1`, `STOPPING=1`, `WATCHDOG=1`, `STATUS=...`, one a line.
    pub fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(state.as_bytes())
        {
            tracing::debug!(%error, state, "the service manager was not told");
        }
    }
}
