//! What usnet asks of the kernel about interfaces, without a foreign program.
//!
//! ```text
//!   netlink ----- link, address     interfaces, their addresses, routes   NETLINK_ROUTE
//!         |  \--- macvtap           links that end with their namespace
//!           \---- nft, guard        what the kernel may hear              NETLINK_NETFILTER
//!   watch                           that something of it has changed
//!   offload, channels, driver       segmentation, checksums; queues       SIOCETHTOOL
//!   generic - xdp_features          what a driver can do with XDP sockets NETLINK_GENERIC
//!         \-- indirection           by which queue a flow arrives         NETLINK_GENERIC, SIOCETHTOOL
//!   held_port, port_user            ports kept from its stack; who uses one   bind, NETLINK_SOCK_DIAG
//!   kernel_sockets                  all that its stack has at some addresses  NETLINK_SOCK_DIAG
//!   sysctl                          /proc/sys/net, with the way back
//!   namespace                       user and network namespaces that nothing outlives
//! ```
//!
//! - A [`Netlink`] and every socket belong to the network namespace of the thread that opened them,
//!   whichever thread uses them later.
//! - What is undone by the kernel when a descriptor closes is preferred to what must be undone by
//!   hand, since a process that is killed undoes nothing.
//! - Slow path: everything here may allocate and make system calls.

mod address;
mod channels;
mod driver;
mod error;
mod generic;
mod held_port;
mod indirection;
mod kernel_sockets;
mod link;
mod netlink;
mod nft;
mod outlast;
mod port_user;
mod qdisc;
mod sys;
mod watch;
mod xdp_features;

pub mod guard;
pub mod macvtap;
pub mod namespace;
pub mod offload;
pub mod sysctl;

pub use address::{InterfaceAddress, Scope};
pub use channels::{Channels, KeptChannels};
pub use driver::driver;
pub use error::NetError;
pub use held_port::{HeldPorts, HoldError};
pub use indirection::{Indirection, KeptIndirection};
pub use kernel_sockets::{KernelSocket, KernelSockets};
pub use link::{Link, LinkState, MacvtapMode, Netlink};
pub use port_user::PortUser;
pub use qdisc::KeptQdisc;
pub use watch::Watch;
pub use xdp_features::XdpFeatures;
