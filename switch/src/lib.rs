//! The switch: stages of a frame's way in the order in which it passes them.

pub mod classify;
pub mod port;
pub mod time;
