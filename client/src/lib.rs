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
//! A `usnetd` must run; [`Options`] says where it is looked for.

pub mod control;
pub mod device;
pub mod error;
pub mod net;
pub mod raw;
pub mod services;
pub mod session;
pub mod stack;

pub use control::{Claim, Control};
pub use error::{AttachError, FrameError, RequestError};
pub use session::{Grant, Options, Session};
pub use stack::{Stack, StackOptions};
pub use usnet_shmring::control::{Mode, RefusalCode};
