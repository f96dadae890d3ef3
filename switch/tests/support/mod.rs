//! A whole switch in one process and one thread: scripted ports, clients made of the other halves of
//! the rings, a clock that only moves when told.
//!
//! ```text
//!   Script ports (wire, host) -- Switch -- rings -- Client (its slots written through their memfd)
//!   fate of a frame: where it came out, or the counter that it moved
//! ```

pub(crate) mod client;
pub(crate) mod frames;
pub(crate) mod operations;
pub(crate) mod port;
pub(crate) mod rig;
pub(crate) mod vlan;
