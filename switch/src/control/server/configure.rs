//! Another configuration for the running daemon: what it has otherwise, and whether it may have.
//!
//! ```text
//!   file --check--> Config --differences--> only what can be changed? --yes--> in force (`change.rs`)
//!                                                 |
//!                                                 +--no--> refused, with what needs a restart by name
//! ```
//!
//! Sessions keep what they were granted. Quotas count by a policy's place in the file: one that moves begins anew.

use super::attach::{Rejection, internal};
use super::{Server, report};
use crate::config::{Config, ConfigError, Difference, Network};
use crate::daemon::Fresh;
use std::path::Path;
use usnet_shmring::control::RefusalCode;

fn words(error: &ConfigError) -> String {
    let cause = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", cause.unwrap_or_default())
}

impl Server {
    /// What another file would change.
    pub(super) fn compare(&self, file: &str) -> Result<(Config, Vec<Difference>), Rejection> {
        let file = Path::new(file);
        if !file.is_absolute() {
            let text = format!("{}: must be an absolute path", file.display());
            return Err((RefusalCode::Protocol, text));
        }
        let next = Config::load(file).map_err(|error| (RefusalCode::NotFound, words(&error)))?;
        // Else when those that come are open: before that nobody knows their addresses.
        if next.interfaces.iter().all(|i| self.config.interfaces.iter().any(|c| c.name == i.name)) {
            self.check_addresses(&next, &[])?;
        }
        let differences = self.config.differences(&next);
        Ok((next, differences))
    }

    /// Checks the addresses that policies name against those of the interfaces, some of which have yet to come.
    pub(super) fn check_addresses(&self, next: &Config, fresh: &[Fresh]) -> Result<(), Rejection> {
        let stay = self.interfaces.values().map(|i| (i.name.as_str(), i.networks.as_slice()));
        let come = fresh.iter().map(|i| (i.configured.name.as_str(), i.networks.as_slice()));
        let is_meant = |(name, _): &(&str, &[Network])| {
            next.interfaces.iter().any(|interface| interface.name == *name)
        };
        let known: Vec<(&str, &[Network])> = stay.chain(come).filter(is_meant).collect();
        next.check_addresses(&known).map_err(|error| (RefusalCode::NotFound, words(&error)))
    }

    /// Answers what another file would change.
    pub(super) fn diff_config(&self, file: &str) -> Result<String, Rejection> {
        let (_, differences) = self.compare(file)?;
        report::to_json(&differences).map_err(|e| internal("the answer cannot be written", e))
    }
}
