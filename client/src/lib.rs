//! Client library of usnet: share a network interface with the kernel and with other processes.
//!
//! ```text
//!   net        TcpStream, TcpListener, UdpSocket: as in std::net
//!   stack      one TCP/IP stack (smoltcp), its thread, its ports
//!   device     smoltcp's view of the rings
//!   raw        frames in bursts, where they lie
//!   services   an HTTP server, an echo server, a generator and a sink of frames
//!   session    attach, claim ports, detach
//! ```
//!
//! ```no_run
//! use std::io::{Read, Write};
//! use usnet::net::TcpListener;
//!
//! fn main() -> std::io::Result<()> {
//!     let stack = usnet::Stack::attach(usnet::StackOptions::named("echo"))?;
//!     for stream in TcpListener::bind(&stack, "0.0.0.0:7")?.incoming() {
//!         let mut stream = stream?;
//!         let mut buffer = [0; 4096];
//!         let count = stream.read(&mut buffer)?;
//!         stream.write_all(&buffer[..count])?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! A `usnetd` must run; [`Options`] says where it is looked for.

mod checksum;
mod closed_window;
pub mod control;
pub mod device;
pub mod error;
pub mod net;
pub mod raw;
pub mod services;
pub mod session;
pub mod stack;

pub use control::{Claim, Control, PrefixClaim, RuleClaim};
pub use error::{AttachError, FrameError, RequestError};
pub use session::{Grant, Options, Session};
pub use stack::{Stack, StackOptions};
pub use usnet_shmring::control::{Mode, RefusalCode};
