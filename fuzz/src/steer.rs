//! A whole switch: wire, host, clients and control do anything in any order, and no frame and no
//! slot is lost.
//!
//! The language is the one of the switch's own property test, `switch/tests/core/conservation.rs`.

#[path = "../../switch/tests/support/mod.rs"]
#[allow(
    dead_code,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "made for the switch's tests, which use all of it; frames are built from small numbers"
)]
mod support;

/// Runs a program of operations.
///
/// # Panics
///
/// If the switch broke a promise.
pub fn check(program: &[u8]) {
    support::operations::check(program);
}
