//! The control plane as its clients meet it: the shipped programs, real sockets, and peers that are
//! honest, hostile or dead.
//!
//! ```text
//!   usnetd run (a wire in memory) <--control.sock--> Peer, Client (raw)   usnetctl
//! ```

mod daemon;
mod events;
mod peer;

mod attach;
mod capture;
mod configure;
mod explain;
mod hostile;
mod interfaces;
mod metrics;
mod pipe;
mod programs;
mod reserved;
mod rules;
mod service;
mod workers;
