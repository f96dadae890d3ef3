//! What the end-to-end tests share: two hosts in namespaces, a usnetd, its clients, and its books.
//!
//! ```text
//!   namespace "inside"                              namespace "outside"
//!     usnetd, clients, kernel services                curl, ping, iperf3, nping, tshark
//!     sv0 10.9.0.1/24 fd09::1/64  ------- veth -----  cl0 10.9.0.2/24 fd09::2/64
//! ```
//!
//! Or three, with usnetd as a bump in the wire between the two:
//!
//! ```text
//!   "behind"                        "inside"                        "outside"
//!     hb0 10.9.0.1/24 -- veth -- sv1 usnetd, clients sv0 -- veth -- cl0 10.9.0.2/24
//! ```
//!
//! - Every test has namespaces of its own, so tests run side by side and leave nothing behind.
//! - Every test ends with [`Lab::finish`], which holds the switch to its books: frames in = out +
//!   used + dropped, slots = sum over owners.

mod bump;
pub mod lab;
pub mod programs;
pub mod steps;
pub mod trunk;

pub use lab::{Lab, Running};
pub use programs::{is_installed, program, skip};
pub use trunk::Trunk;
