//! Failures and their exit codes.

use std::error::Error;
use std::process::ExitCode;
use usnet_switch::config::ConfigError;
use usnet_switch::daemon::DaemonError;

/// `EX_SOFTWARE` and `EX_CONFIG` of sysexits.h.
const INTERNAL: u8 = 70;
const CONFIGURATION: u8 = 78;

/// Why the program ends without success.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    error: Box<dyn Error>,
}

impl Failure {
    /// Something could not be read or written.
    pub(crate) fn io(error: std::io::Error) -> Self {
        Self { code: 1, error: Box::new(error) }
    }

    /// Something else could not be done.
    pub(crate) fn other(error: Box<dyn Error>) -> Self {
        Self { code: 1, error }
    }

    /// Prints the error with its causes, each line as one message, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let mut text = self.error.to_string();
        let mut cause = self.error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        for line in text.lines() {
            eprintln!("usnetd: {line}");
        }
        ExitCode::from(self.code)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { code: CONFIGURATION, error: Box::new(error) }
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        let code = match &error {
            error if error.is_configuration() => CONFIGURATION,
            error if error.is_internal() => INTERNAL,
            _ => 1,
        };
        Self { code, error: Box::new(error) }
    }
}
