//! The switch: stages of a frame's way in the order in which it passes them.
//!
//! ```text
//!   port      bytes of a medium  <-> frames in slots of the pool
//!   classify  frame              ->  flow, or malformed
//!   steer     flow               ->  receiver
//!   vet       a client's frame   ->  permitted, or not
//!   deliver   frame, receiver    ->  rx ring or port
//!   switch    all of it, one step at a time
//!   config    usnetd.toml
//!   capture   frames of a port into a file
//!   tap       copies of frames on their way, for who captures
//!   control   who may attach, and what each session holds
//!   ask       questions to a running daemon
//!   metrics   its counters for Prometheus and its kin
//!   compat    clients of the predecessor
//! ```

pub mod net;

pub mod port;

pub mod classify;

pub mod steer;

pub mod verdict;

mod vet;

mod answer;
mod deliver;
mod dhcp;
mod explain;
mod interface;
mod learned;
mod membership;
pub mod offload;
mod refusal;

pub mod session;
pub mod snapshot;
pub mod stats;
pub mod switch;
pub mod time;

pub mod config;
pub mod control;

pub mod daemon;

pub mod capture;

pub mod manual;

pub mod pipe;

pub mod ask;
pub mod compat;
pub mod metrics;
