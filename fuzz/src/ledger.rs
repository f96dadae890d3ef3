//! Pools: any bytes are calls, allowed or not, which must agree with a map of slots after each.

use usnet_shmring::model::ledger;

/// Runs the calls; see [`ledger::Op::from_bytes`] for what the bytes mean.
///
/// # Panics
///
/// If the pool and the map disagree.
pub fn check(data: &[u8]) {
    ledger::run_bytes(data);
}
