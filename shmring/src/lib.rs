//! All that `usnetd` and its clients must agree on: shared regions, rings, slots, ownership and
//! control messages. It knows nothing of networks.
//!
//! ```text
//!   control   messages over a SOCK_SEQPACKET socket; memfds travel with the answer to Attach
//!   queues    four rings a session: rx, fill, tx, completion
//!   ring      one ring: cells of descriptors, two positions, a sleep flag
//!   region    one sealed memfd and the atomics in it
//!   pool      the daemon's slots: who owns each, frames as tokens that move
//!   offload   what of a frame is left to do
//!   arena     one contiguous range over all segments of slots
//! ```

pub mod arena;
pub mod control;
pub mod copy;
pub mod descriptor;
pub mod layout;
pub mod ledger;
#[cfg(feature = "model")]
pub mod model;
pub mod offload;
pub mod pool;
mod prefetch;
pub mod queues;
pub mod region;
pub mod ring;
pub mod view;
pub mod words;
