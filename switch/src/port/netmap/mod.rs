//! netmap: rings that a card's driver and this process share.
//!
//! ```text
//!   name     netmap:eth0^ and its kin -> what to bind
//!   kernel   the seam: control, sync, memory        module: the real one     double: for tests
//!   abi      structures and offsets, checked against the header's
//!   region   rings and buffers in memory that others write
//!   bank     the daemon's slots as a region: buffers that clients may be lent
//!   cut      buffers that go from ring to ring, of two ports in one region of netmap's own
//!   open     a name -> one port, or two on one descriptor
//!   batch    when a sync is due
//!   split    frames whose rest is sent from a client's slot
//!   frames   one frame between ring and pool, by swapping or by copying
//!   port     receive and transmit
//! ```
//!
//! `docs/netmap.md` says what is copied when, and what was tried against the real module.

pub mod abi;
mod bank;
mod batch;
mod cut;
#[cfg(feature = "netmap-double")]
pub mod double;
mod frames;
mod kernel;
mod module;
mod name;
mod open;
mod port;
mod region;
mod split;

pub use bank::Bank;
pub(crate) use cut::{Glimpse, Glimpses};
pub use kernel::{Control, Device, Direction, Kernel};
pub use module::{Module, PATH, is_native_veth};
pub use name::{BadName, PortName};
pub use port::{Netmap, NetmapSpec, Wish};
