//! Rings: any bytes are calls on both halves, which must agree with a queue after each.

use usnet_shmring::model::ring;

/// Runs the calls; see [`ring::run_bytes`] for what the bytes mean.
///
/// # Panics
///
/// If a half and the queue disagree.
pub fn check(data: &[u8]) {
    ring::run_bytes(data);
}
