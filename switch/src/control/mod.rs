//! The slow path: who may attach, what each session holds, and the socket they ask on. It never sees
//! a frame.
//!
//! ```text
//!   server     the control thread: connections, identities, answers
//!   session    the life of a connection: states and what each message does in them. Pure.
//!   registry   who holds which address and port; quotas. Pure.
//!   memory     regions, slots and wake-ups of a session
//! ```

pub(crate) mod group;
pub(crate) mod kernel_ports;
pub mod memory;
pub mod registry;
pub mod server;
pub mod session;
mod sys;
