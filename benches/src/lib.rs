//! What benches share: machine, pinning, repetition, tables, plots; and the yardsticks.
//!
//! ```text
//!   hop       descriptors and payload from one processor to another, over any ring
//!   rings     the rings that compete there
//!   pingpong  one cache line there and back: the floor of every round trip
//!   frames    frames to send
//!   rig       a switch with two clients
//!   client    what the clients do
//!   path      switch and clients as processes: throughput and round trips
//!   workers   one worker or several, in one process
//!   goodput   TCP of whole clients, beside the kernel's own
//!   ping      what usnetd adds to a ping of the kernel's
//!   bare      the same without any check
//!   datagrams the kernel's UNIX datagram sockets
//! ```

pub mod bare;
pub mod client;
pub mod datagrams;
pub mod frames;
pub mod goodput;
pub mod hop;
pub mod machine;
pub mod measure;
pub mod path;
pub mod pin;
pub mod ping;
pub mod pingpong;
pub mod plot;
pub mod report;
pub mod rig;
pub mod rings;
pub mod workers;
