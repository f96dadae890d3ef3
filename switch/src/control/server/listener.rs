//! The control socket in the file system.

use super::super::group::give_to_group;
use super::super::sys;
use super::ServerError;
use crate::config::Control;
use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The first descriptor that a service manager passes, and how many are looked at.
const FIRST_PASSED: i32 = 3;
const MOST_PASSED: i32 = 16;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// The listening socket. Dropping it removes what it made.
#[derive(Debug)]
pub(super) struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// What `path` named when the socket was bound, so that nobody else's file is removed.
    bound: Option<Stat>,
    made_directory: bool,
    /// Held open so that a connection can be turned away when descriptors have run out.
    spare: Option<OwnedFd>,
}

impl Listener {
    /// Makes the socket. A stale file of a daemon that is gone is replaced.
    pub(super) fn bind(control: &Control) -> Result<Self, ServerError> {
        let path = &control.socket;
        if let Some(socket) = passed(path) {
            tracing::info!(socket = %path.display(), "the control socket is the service manager's");
            if let Err(errno) = sys::refuse_descriptors(&socket) {
                tracing::debug!(%errno, "the kernel does not refuse descriptors on it");
            }
            let (path, spare) = (path.clone(), spare());
            // What the manager made is not removed.
            return Ok(Self { socket, path, bound: None, made_directory: false, spare });
        }
        let fail = |what| {
            let path = path.clone();
            move |errno: Errno| ServerError::Socket { what, path, source: errno.into() }
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::SEQPACKET;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)
            .map_err(fail("make"))?;
        let made_directory =
            path.parent().is_some_and(|parent| std::fs::create_dir(parent).is_ok());
        let address = SocketAddrUnix::new(path).map_err(fail("name"))?;
        let mut listener =
            Self { socket, path: path.clone(), bound: None, made_directory, spare: None };
        match rustix::net::bind(&listener.socket, &address) {
            Err(Errno::ADDRINUSE) => {
                remove_stale(path, &address)?;
                rustix::net::bind(&listener.socket, &address).map_err(fail("bind"))?;
            }
            other => other.map_err(fail("bind"))?,
        }
        listener.bound = Some(rustix::fs::lstat(path).map_err(fail("look at"))?);
        // Nobody can connect before `listen`, so there is no moment with other rights than these.
        rustix::fs::chmod(path, Mode::from_raw_mode(control.mode)).map_err(fail("protect"))?;
        if let Some(group) = control.group {
            give_to_group(path, group).map_err(fail("give to its group"))?;
        }
        if let Err(errno) = sys::refuse_descriptors(&listener.socket) {
            // The daemon gives no control buffer either; this only saves the kernel's own work.
            tracing::debug!(%errno, "the kernel does not refuse descriptors on the control socket");
        }
        rustix::net::listen(&listener.socket, BACKLOG).map_err(fail("listen on"))?;
        listener.spare = spare();
        Ok(listener)
    }

    /// The next connection, if one waits. When no descriptor is left it is accepted and closed.
    pub(super) fn accept(&mut self) -> io::Result<Option<OwnedFd>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::accept_with(&self.socket, flags) {
            Ok(socket) => Ok(Some(socket)),
            Err(Errno::MFILE | Errno::NFILE) => {
                self.spare = None;
                let refused = rustix::net::accept_with(&self.socket, flags);
                drop(refused);
                self.spare = spare();
                Err(Errno::MFILE.into())
            }
            // One that went away meanwhile is no error of ours.
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The listening socket at this path that a service manager has passed (sd_listen_fds(3)), if it has.
fn passed(path: &Path) -> Option<OwnedFd> {
    let number = |name| std::env::var(name).ok()?.parse::<i32>().ok();
    let is_ours = number("LISTEN_PID") == i32::try_from(std::process::id()).ok();
    let count = number("LISTEN_FDS").filter(|_| is_ours)?.clamp(0, MOST_PASSED);
    (FIRST_PASSED..FIRST_PASSED + count).find_map(|number| {
        let socket = sys::inherited(number).ok()?;
        let kind = rustix::net::sockopt::socket_type(&socket).ok()?;
        let listens = rustix::net::sockopt::socket_acceptconn(&socket).ok()?;
        let address = rustix::net::getsockname(&socket).ok()?;
        let address = SocketAddrUnix::try_from(address).ok()?;
        let is_it = address.path_bytes() == Some(path.as_os_str().as_bytes());
        if kind == SocketType::SEQPACKET && listens && is_it {
            rustix::io::ioctl_fionbio(&socket, true).ok()?;
            return Some(socket);
        }
        tracing::warn!(
            number,
            ?kind,
            listens,
            "a descriptor was passed that is not the control socket"
        );
        None
    })
}

/// A descriptor to give up when there is no other.
fn spare() -> Option<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), ServerError> {
    let fail = |what| {
        move |errno: Errno| ServerError::Socket {
            what,
            path: path.to_owned(),
            source: errno.into(),
        }
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(fail("make"))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => rustix::fs::unlink(path).map_err(fail("remove the stale")),
        Ok(()) | Err(Errno::AGAIN) => Err(ServerError::Running { path: path.to_owned() }),
        Err(errno) => Err(fail("look at")(errno)),
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let same = |a: &Stat, b: &Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
        let ours = match (&self.bound, rustix::fs::lstat(&self.path)) {
            (Some(bound), Ok(found)) => same(bound, &found),
            _ => false,
        };
        if ours {
            let _ = rustix::fs::unlink(&self.path);
        }
        if self.made_directory
            && let Some(parent) = self.path.parent()
        {
            // Only if it is empty.
            let _ = std::fs::remove_dir(parent);
        }
    }
}
