//! Asks usnetd for what it knows, as usnetctl does.

use serde_json::Value;
use std::io;
use std::path::Path;
use usnet_shmring::control::QueryKind;
use usnet_switch::ask::Daemon;

/// One question, one JSON document.
pub(super) fn query(socket: &Path, what: QueryKind) -> io::Result<Value> {
    let answer = Daemon::connect(socket).and_then(|mut daemon| daemon.query(what, 0));
    answer.map(|(_, value)| value).map_err(io::Error::other)
}
