//! What can fail here: each names the operation, its object and the kernel's reason.

use core::fmt;
use std::io;
use std::path::PathBuf;

/// A request to the kernel that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// No interface has this name in this namespace.
    #[error("no interface is named {name:?}")]
    NoInterface {
        /// The name that was looked up.
        name: String,
    },
    /// The text cannot name an interface (`dev_valid_name` in the kernel's net/core/dev.c).
    #[error("{name:?} cannot name an interface: 1 to 15 bytes without '/', ':' and blanks")]
    BadName {
        /// The text.
        name: String,
    },
    /// The kernel refused a request.
    #[error("cannot {operation} {object}{note}")]
    Refused {
        /// What was asked, as a verb and what follows it.
        operation: &'static str,
        /// On what: an interface, mostly.
        object: String,
        /// What the kernel said besides the error number.
        note: KernelNote,
        /// The error number.
        source: io::Error,
    },
    /// The kernel's answer has another shape than its headers say.
    #[error("the kernel's answer is not understood: cannot {operation} {object}")]
    Answer {
        /// What was asked.
        operation: &'static str,
        /// On what.
        object: String,
    },
    /// A setting below `/proc/sys` could not be read or written.
    #[error("cannot {operation} {}", path.display())]
    Setting {
        /// `read` or `write`.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A namespace cannot be had; the reasons found are in the text.
    #[error("cannot {operation}{hint}")]
    Namespace {
        /// What was tried.
        operation: &'static str,
        /// What on this machine forbids it, where that could be found out.
        hint: KernelNote,
        /// The error number.
        source: io::Error,
    },
}

impl NetError {
    /// The kernel's error number, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. }
            | Self::Setting { source, .. }
            | Self::Namespace { source, .. } => source.raw_os_error(),
            Self::NoInterface { .. } | Self::BadName { .. } | Self::Answer { .. } => None,
        }
    }

    /// Whether the kernel said that it exists already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// Whether the caller lacks a privilege.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        matches!(self.errno(), Some(libc::EPERM | libc::EACCES))
    }
}

/// An explanation that may be missing; shown in parentheses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelNote(pub(crate) Option<String>);

impl fmt::Display for KernelNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(text) => write!(f, " ({text})"),
            None => Ok(()),
        }
    }
}
