//! The daemon: threads around the core.
//!
//! ```text
//!   control thread  sessions, rules, policy   --commands-->  worker thread  Switch::step
//!                                             <--events----
//! ```

mod event;
pub mod interface;
mod worker;

pub use event::{EventSink, EventSource, event_channel};
pub use worker::{IdlePolicy, Worker};
