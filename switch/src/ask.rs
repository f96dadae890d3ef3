//! Questions to a running daemon: one query, one JSON document.
//!
//! ```text
//!   usnetctl, the demo, gateways --Query--> control socket --Text, Text ...--> one document
//! ```

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags};
use serde_json::Value;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use usnet_shmring::control::{
    ASK_BYTES, Ask, Channel, ChannelError, Message, Query, QueryKind, RefusalCode, name_from,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is believed, in bytes.
const LONGEST: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody listens there, or we may not connect.
    #[error("cannot reach usnetd at {}: {source}; is it running?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection failed, or was silent for too long.
    #[error("the daemon does not answer: {0}{cause}", cause = cause(.0))]
    Channel(ChannelError),
    /// The daemon says no.
    #[error("the daemon refuses: {text}")]
    Refused {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        text: String,
    },
    /// More words than a message holds.
    #[error("a question of {0} bytes is too long; at most {ASK_BYTES} fit")]
    TooLong(usize),
    /// It says what cannot be understood.
    #[error("the daemon's answer is not understood: {0}")]
    Answer(String),
}

fn cause(error: &ChannelError) -> String {
    std::error::Error::source(error).map(|e| format!(": {e}")).unwrap_or_default()
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Daemon {
    channel: Channel,
}

impl Daemon {
    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    /// [`AskError::Connect`]
    pub fn connect(path: &Path) -> Result<Self, AskError> {
        let fail = |source| AskError::Connect { path: path.to_owned(), source };
        let channel = Channel::connect(path).map_err(fail)?;
        for direction in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&channel, direction, Some(PATIENCE)).map_err(|e| fail(e.into()))?;
        }
        Ok(Self { channel })
    }

    /// Waits for answers as long as they take, from now on.
    ///
    /// # Errors
    /// [`AskError::Channel`]
    pub fn wait_for_ever(&mut self) -> Result<(), AskError> {
        let fail = |source: rustix::io::Errno| {
            let what = "wait without an end";
            AskError::Channel(ChannelError::System { what, source: source.into() })
        };
        set_socket_timeout(&self.channel, Timeout::Recv, None).map_err(fail)
    }

    /// Asks, and puts the pieces of the answer together: the text as it came, and what it says.
    ///
    /// # Errors
    /// [`AskError`]
    pub fn query(&mut self, kind: QueryKind, which: u32) -> Result<(String, Value), AskError> {
        let query = Message::Query(Query { what: kind as u32, which });
        self.send_for_document(&query)
    }

    /// Asks in words, and puts the pieces of the answer together.
    ///
    /// # Errors
    /// [`AskError`]
    pub fn ask(&mut self, kind: QueryKind, words: &str) -> Result<(String, Value), AskError> {
        let ask = Ask::new(kind, words).ok_or(AskError::TooLong(words.len()))?;
        self.send_for_document(&Message::Ask(ask))
    }

    /// Asks in words for something that is read from a pipe.
    ///
    /// # Errors
    /// [`AskError`]
    pub fn ask_for_pipe(&mut self, kind: QueryKind, words: &str) -> Result<OwnedFd, AskError> {
        let ask = Ask::new(kind, words).ok_or(AskError::TooLong(words.len()))?;
        let message = Message::Ask(ask);
        self.channel.send(1, &message, &[], SendFlags::empty()).map_err(AskError::Channel)?;
        let mut descriptors = Vec::new();
        let (_, answer) =
            self.channel.receive_with_descriptors(&mut descriptors).map_err(AskError::Channel)?;
        match (answer, descriptors.pop()) {
            (Message::Text(_), Some(pipe)) => Ok(pipe),
            (Message::Refused(refused), _) => {
                let code = RefusalCode::from_u32(refused.code);
                Err(AskError::Refused { code, text: name_from(&refused.message) })
            }
            (other, _) => Err(AskError::Answer(format!("{:?} without a pipe", other.kind()))),
        }
    }

    fn send_for_document(&mut self, message: &Message) -> Result<(String, Value), AskError> {
        self.channel.send(1, message, &[], SendFlags::empty()).map_err(AskError::Channel)?;
        let mut json = Vec::new();
        loop {
            let (_, message) =
                self.channel.receive(RecvFlags::empty()).map_err(AskError::Channel)?;
            match message {
                Message::Text(text) => {
                    let used = usize::try_from(text.used).unwrap_or(usize::MAX);
                    let piece = text.bytes.get(..used);
                    json.extend(piece.ok_or_else(|| AskError::Answer("a long piece".into()))?);
                    if text.more == 0 {
                        break;
                    }
                    if json.len() > LONGEST {
                        return Err(AskError::Answer("it does not end".into()));
                    }
                }
                Message::Refused(refused) => {
                    let code = RefusalCode::from_u32(refused.code);
                    return Err(AskError::Refused { code, text: name_from(&refused.message) });
                }
                other => return Err(AskError::Answer(format!("{:?}", other.kind()))),
            }
        }
        let text = String::from_utf8(json).map_err(|e| AskError::Answer(e.to_string()))?;
        let value = serde_json::from_str(&text).map_err(|e| AskError::Answer(e.to_string()))?;
        Ok((text, value))
    }
}
