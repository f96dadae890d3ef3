//! Another configuration for the running daemon: all of it, or nothing.
//!
//! ```text
//!   file --check--> Config --differences--> only policies? --yes--> in force for the next that attaches
//!                                                 |
//!                                                 +--no--> refused, with what needs a restart by name
//! ```
//!
//! Sessions keep what they were granted. Quotas count by a policy's place in the file: one that moves begins anew.

use super::attach::{Rejection, internal};
use super::events::Told;
use super::{Server, report};
use crate::config::{Config, ConfigError, Difference, Network};
use std::path::Path;
use usnet_shmring::control::RefusalCode;

fn words(error: &ConfigError) -> String {
    let cause = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", cause.unwrap_or_default())
}

impl Server {
    /// What another file would change.
    fn compare(&self, file: &str) -> Result<(Config, Vec<Difference>), Rejection> {
        let file = Path::new(file);
        if !file.is_absolute() {
            let text = format!("{}: must be an absolute path", file.display());
            return Err((RefusalCode::Protocol, text));
        }
        let known: Vec<(&str, &[Network])> =
            self.interfaces.iter().map(|i| (i.name.as_str(), i.networks.as_slice())).collect();
        let next = Config::load(file)
            .and_then(|next| next.check_addresses(&known).map(|()| next))
            .map_err(|error| (RefusalCode::NotFound, words(&error)))?;
        let differences = self.config.differences(&next);
        Ok((next, differences))
    }

    /// Answers what another file would change.
    pub(super) fn diff_config(&self, file: &str) -> Result<String, Rejection> {
        let (_, differences) = self.compare(file)?;
        report::to_json(&differences).map_err(|e| internal("the answer cannot be written", e))
    }

    /// Puts another file into force, and answers what that has changed.
    pub(super) fn apply_config(&mut self, file: &str) -> Result<String, Rejection> {
        let (next, differences) = self.compare(file)?;
        let fixed: Vec<&str> =
            differences.iter().filter(|d| !d.live).map(|d| d.key.as_str()).collect();
        if !fixed.is_empty() {
            let text =
                format!("nothing was changed, since a restart is needed for {}", fixed.join(", "));
            return Err((RefusalCode::Protocol, text));
        }
        let answer = report::to_json(&differences)
            .map_err(|e| internal("the answer cannot be written", e))?;
        tracing::info!(file, changes = differences.len(), "another configuration is in force");
        self.journal.tell(&Told::Configured { file, changes: differences.len() });
        self.config.adopt(next);
        Ok(answer)
    }
}
