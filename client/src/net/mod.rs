//! Sockets shaped like those of `std::net`, each on a [`Stack`].
//!
//! ```text
//!   std::net::TcpListener::bind(addr)        usnet::net::TcpListener::bind(&stack, addr)
//!   std::net::TcpStream::connect(addr)       usnet::net::TcpStream::connect(&stack, addr)
//!   std::net::UdpSocket::bind(addr)          usnet::net::UdpSocket::bind(&stack, addr)
//! ```
//!
//! From there on methods, error kinds and blocking are those of `std`, with these differences: once
//! the daemon is gone everything fails with `ConnectionAborted`, and datagrams longer than the MTU
//! are refused with `EMSGSIZE`, since nothing fragments them. A stack does not hear its own datagrams to a group, and the
//! switch brings a client those groups that its policy names.

mod groups;
mod limits;
mod tcp_listener;
mod tcp_stream;
mod udp_socket;

pub use tcp_listener::{Incoming, TcpListener};
pub use tcp_stream::TcpStream;
pub use udp_socket::UdpSocket;

use crate::stack::Stack;
use smoltcp::wire::IpEndpoint;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

fn to_std(endpoint: IpEndpoint) -> SocketAddr {
    SocketAddr::new(endpoint.addr.into(), endpoint.port)
}

/// Tries `attempt` with each address until one works, as `std` does.
fn each_address<T>(
    addresses: impl ToSocketAddrs,
    mut attempt: impl FnMut(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let mut last = None;
    for address in addresses.to_socket_addrs()? {
        match attempt(address) {
            Ok(done) => return Ok(done),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "could not resolve to any addresses")
    }))
}

/// The address to bind to: one of the stack's own, or `None` for all of them.
fn local_address(stack: &Stack, address: IpAddr) -> io::Result<Option<IpAddr>> {
    if !stack.has_address(address) {
        let text = format!("{address} is no address of this session");
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
    }
    Ok(Some(address).filter(|a| !a.is_unspecified()))
}
