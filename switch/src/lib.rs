//! The switch.

pub mod classify;
