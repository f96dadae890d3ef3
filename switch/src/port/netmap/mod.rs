//! netmap: rings that the card's driver and this process share.

pub mod abi;
#[cfg(feature = "netmap-double")]
pub mod double;
mod kernel;
mod module;

pub use kernel::{Control, Device, Direction, Kernel};
pub use module::{Module, PATH};
