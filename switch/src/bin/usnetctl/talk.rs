//! Questions to the daemon and what can go wrong with them.

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags};
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use usnet_shmring::control::{
    Channel, ChannelError, Message, Query, QueryKind, RefusalCode, name_from,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is believed, in bytes.
const LONGEST: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum TalkError {
    #[error("cannot reach usnetd at {}: {source}; is it running?", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("the daemon does not answer: {0}{cause}", cause = cause(.0))]
    Channel(ChannelError),
    #[error("the daemon refuses: {text}")]
    Refused { code: RefusalCode, text: String },
    #[error("the daemon's answer is not understood: {0}")]
    Answer(String),
    #[error("no client has session {id}")]
    NoClient { id: u32 },
    #[error("cannot write the answer: {0}")]
    Output(io::Error),
}

fn cause(error: &ChannelError) -> String {
    std::error::Error::source(error).map(|e| format!(": {e}")).unwrap_or_default()
}

impl TalkError {
    /// As `--help` lists them.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => 4,
            Self::Refused { code: RefusalCode::NotPermitted, .. } => 4,
            Self::Connect { .. } | Self::Channel(_) => 3,
            Self::Refused { .. } | Self::Answer(_) | Self::NoClient { .. } | Self::Output(_) => 1,
        }
    }
}

/// A connection to the daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    channel: Channel,
}

impl Daemon {
    pub(crate) fn connect(path: &Path) -> Result<Self, TalkError> {
        let fail = |source| TalkError::Connect { path: path.to_owned(), source };
        let channel = Channel::connect(path).map_err(fail)?;
        for direction in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&channel, direction, Some(PATIENCE)).map_err(|e| fail(e.into()))?;
        }
        Ok(Self { channel })
    }

    /// Asks, and puts the pieces of the answer together: the text as it came, and what it says.
    pub(crate) fn query(
        &mut self,
        kind: QueryKind,
        which: u32,
    ) -> Result<(String, Value), TalkError> {
        let query = Message::Query(Query { what: kind as u32, which });
        self.channel.send(1, &query, &[], SendFlags::empty()).map_err(TalkError::Channel)?;
        let mut json = Vec::new();
        loop {
            let (_, message) =
                self.channel.receive(RecvFlags::empty()).map_err(TalkError::Channel)?;
            match message {
                Message::Text(text) => {
                    let used = usize::try_from(text.used).unwrap_or(usize::MAX);
                    let piece = text.bytes.get(..used);
                    json.extend(piece.ok_or_else(|| TalkError::Answer("a long piece".into()))?);
                    if text.more == 0 {
                        break;
                    }
                    if json.len() > LONGEST {
                        return Err(TalkError::Answer("it does not end".into()));
                    }
                }
                Message::Refused(refused) => {
                    let code = RefusalCode::from_u32(refused.code);
                    return Err(TalkError::Refused { code, text: name_from(&refused.message) });
                }
                other => return Err(TalkError::Answer(format!("{:?}", other.kind()))),
            }
        }
        let text = String::from_utf8(json).map_err(|e| TalkError::Answer(e.to_string()))?;
        let value = serde_json::from_str(&text).map_err(|e| TalkError::Answer(e.to_string()))?;
        Ok((text, value))
    }
}
