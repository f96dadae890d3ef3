//! What can go wrong with a session, in words that name the way out.

use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;
use usnet_shmring::control::{ChannelError, RefusalCode};
use usnet_shmring::descriptor::Fault;
use usnet_shmring::view::ViewError;

/// Why no session could be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// There is no way to the daemon's socket.
    #[error("cannot connect to usnetd at {}: {}", path.display(), connect_advice(path, source))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("usnetd at {} did not answer as it should{}", path.display(), silence_advice(source))]
    Channel {
        /// The socket.
        path: PathBuf,
        /// What failed.
        source: ChannelError,
    },
    /// Daemon and client are of different versions.
    #[error(
        "usnetd at {} speaks protocol {theirs}, this program {ours}: build both from one version",
        path.display()
    )]
    Version {
        /// The socket.
        path: PathBuf,
        /// This library's version.
        ours: u32,
        /// The daemon's version.
        theirs: u32,
    },
    /// The daemon said no.
    #[error("usnetd at {} refused: {message}{}", path.display(), refusal_advice(*code))]
    Refused {
        /// The socket.
        path: PathBuf,
        /// The kind of refusal.
        code: RefusalCode,
        /// The daemon's words.
        message: String,
    },
    /// The daemon answered with another message than one could expect.
    #[error("usnetd at {} answered an attach with {found}", path.display())]
    Unexpected {
        /// The socket.
        path: PathBuf,
        /// What came.
        found: &'static str,
    },
    /// The memory that the daemon passed cannot be used.
    #[error("cannot use the memory of usnetd at {}", path.display())]
    Memory {
        /// The socket.
        path: PathBuf,
        /// What failed.
        source: ViewError,
    },
    /// A session was had again, but not what was claimed in it.
    #[error("attached again, but could not claim again what the old session had")]
    Reclaim {
        /// The first refusal.
        source: RequestError,
    },
}

fn connect_advice(path: &Path, source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::NotFound => {
            "there is no such socket (start `usnetd run`, or set USNETD_SOCKET)".into()
        }
        io::ErrorKind::ConnectionRefused => {
            "nobody listens there (usnetd has stopped; start `usnetd run`)".into()
        }
        io::ErrorKind::PermissionDenied => format!(
            "not permitted (your user must be able to write {} and search its directory)",
            path.display()
        ),
        io::ErrorKind::InvalidInput => "the path is too long for a socket".into(),
        _ => source.to_string(),
    }
}

fn silence_advice(source: &ChannelError) -> &'static str {
    match source {
        source if source.is_would_block() => " (no answer in time: is it stopped or overloaded?)",
        ChannelError::Closed => " (it closed the connection: its log says why)",
        _ => "",
    }
}

fn refusal_advice(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::NotPermitted => " (usnetd.toml decides who may attach)",
        RefusalCode::Version => " (build daemon and client from one version)",
        RefusalCode::Internal => " (its log says more)",
        _ => "",
    }
}

impl From<AttachError> for io::Error {
    fn from(error: AttachError) -> Self {
        let kind = match &error {
            AttachError::Connect { source, .. } => source.kind(),
            AttachError::Refused { code, .. } => kind_of(*code),
            AttachError::Version { .. } => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Why a request within a session failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The daemon said no.
    #[error("usnetd refused: {message}")]
    Refused {
        /// The kind of refusal.
        code: RefusalCode,
        /// The daemon's words.
        message: String,
    },
    /// The daemon has ended the session, or itself.
    #[error("the session has ended")]
    Ended,
    /// The conversation broke off.
    #[error("usnetd did not answer as it should")]
    Channel(#[from] ChannelError),
    /// The daemon answered with another message than one could expect.
    #[error("usnetd answered with {found}")]
    Unexpected {
        /// What came.
        found: &'static str,
    },
    /// The daemon is older.
    #[error("usnetd is too old for {what}; update it")]
    Unsupported {
        /// What it does not know.
        what: &'static str,
    },
}

fn kind_of(code: RefusalCode) -> io::ErrorKind {
    match code {
        RefusalCode::NotPermitted => io::ErrorKind::PermissionDenied,
        RefusalCode::InUse => io::ErrorKind::AddrInUse,
        RefusalCode::Exhausted => io::ErrorKind::QuotaExceeded,
        RefusalCode::NotFound => io::ErrorKind::AddrNotAvailable,
        RefusalCode::Version => io::ErrorKind::Unsupported,
        RefusalCode::Protocol => io::ErrorKind::InvalidInput,
        RefusalCode::Internal => io::ErrorKind::Other,
    }
}

impl From<RequestError> for io::Error {
    fn from(error: RequestError) -> Self {
        let kind = match &error {
            RequestError::Refused { code, .. } => kind_of(*code),
            RequestError::Ended => io::ErrorKind::NotConnected,
            RequestError::Unsupported { .. } => io::ErrorKind::Unsupported,
            RequestError::Channel(source) if source.is_would_block() => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Why frames no longer flow. The session is over; [`Session::reattach`](crate::Session::reattach)
/// may have another.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The daemon sent something that the protocol does not allow.
    #[error("the daemon broke the protocol")]
    Broken(#[from] Fault),
    /// The daemon closed the session, or died.
    #[error("the daemon is gone or has ended the session")]
    Gone,
    /// A system call failed.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        let kind = match &error {
            FrameError::Broken(_) => io::ErrorKind::InvalidData,
            FrameError::Gone => io::ErrorKind::NotConnected,
            FrameError::System { source, .. } => source.kind(),
        };
        Self::new(kind, error)
    }
}
