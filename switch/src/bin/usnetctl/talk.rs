//! What can go wrong with a question, and the exit code that says so.

use std::io;
use std::path::PathBuf;
use thiserror::Error;
use usnet_shmring::control::RefusalCode;
use usnet_switch::ask::AskError;
use usnet_switch::config::ConfigError;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum TalkError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("no client has session {id}")]
    NoClient { id: u32 },
    #[error("no interface is named {name:?}")]
    NoInterface { name: String },
    #[error("cannot write {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{0}{cause}", cause = std::error::Error::source(.0).map(|e| format!(": {e}")).unwrap_or_default())]
    Config(ConfigError),
    #[error("cannot write the answer: {0}")]
    Output(io::Error),
}

impl TalkError {
    /// As `--help` lists them.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Ask(AskError::Connect { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                4
            }
            Self::Ask(AskError::Refused { code: RefusalCode::NotPermitted, .. }) => 4,
            Self::Ask(AskError::Connect { .. } | AskError::Channel(_)) => 3,
            Self::Ask(AskError::Refused { .. } | AskError::Answer(_) | AskError::TooLong(_))
            | Self::NoClient { .. }
            | Self::NoInterface { .. }
            | Self::File { .. }
            | Self::Config(_)
            | Self::Output(_) => 1,
        }
    }
}
