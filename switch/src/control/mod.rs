//! The slow path: who may attach, what each session holds, and the socket they ask on. It never sees
//! a frame.
//!
//! ```text
//!   registry   who holds which address and port; quotas. Pure.
//! ```

pub mod registry;
