//! What is wrong with a configuration, said so that it can be put right.

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A value that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key with its tables: `interface[0].port`.
    pub key: String,
    /// The value found.
    pub value: String,
    /// What is allowed instead.
    pub allowed: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}", self.key, self.value, self.allowed)
    }
}

/// Why there is no [`Config`](super::Config).
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is no TOML, or a key or a type is wrong.
    #[error("{}:{line}: {message}, in `{text}`", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
        /// What is wrong and what was expected.
        message: String,
    },
    /// Values are out of range or contradict each other.
    #[error("{}", lines(file, problems))]
    Invalid {
        /// The file.
        file: PathBuf,
        /// At least one.
        problems: Vec<Problem>,
    },
}

fn lines(file: &Path, problems: &[Problem]) -> String {
    let lines: Vec<_> = problems.iter().map(|p| format!("{}: {p}", file.display())).collect();
    lines.join("\n")
}

impl ConfigError {
    pub(super) fn syntax(file: &Path, input: &str, error: &toml::de::Error) -> Self {
        let at = error.span().map_or(0, |span| span.start).min(input.len());
        let before = input.get(..at).unwrap_or_default();
        let line = before.matches('\n').count();
        Self::Syntax {
            file: file.to_owned(),
            line: line + 1,
            text: input.lines().nth(line).unwrap_or_default().trim().to_owned(),
            message: error.message().replace('\n', ", "),
        }
    }
}
