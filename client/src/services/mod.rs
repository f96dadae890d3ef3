//! What the examples do, as functions, for programs that want the same inside them.
//!
//! ```text
//!   http       a page, and bytes in any number both ways     over a Stack
//!   echo       UDP and TCP on one port                       over a Stack
//!   generate   numbered UDP frames at any rate               over a Session
//!   sink       counts them, their losses and their order     over a Session
//! ```

pub mod echo;
mod frame;
pub mod generate;
pub mod http;
mod report;
pub mod sink;

pub use report::Rate;
