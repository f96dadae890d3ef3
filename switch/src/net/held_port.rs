//! Ports that the kernel's stack cannot use: a bound socket on each, which receives nothing.
//!
//! ```text
//!   bind(10.0.0.1:80) --+--> refused: the kernel has it; who, says `port_user`
//!                       +--> held until dropped: no program can bind it, connect() does not choose it
//! ```
//!
//! - The bind decides, and nothing else: between a look and a bind somebody could come in between.
//! - Without `SO_REUSEADDR`, on this side, no program can share the port, whatever it sets itself; a
//!   connection of the kernel's in TIME_WAIT has it until its minute is over. `connect()` passes over every
//!   port that somebody has bound, also with `IP_BIND_ADDRESS_NO_PORT` (`__inet_hash_connect`).
//! - The sockets end with the process, however that ends. `net.ipv4.ip_local_reserved_ports` would not,
//!   and would not keep a program from binding one of them by its number.
//! - A TCP socket that does not listen receives nothing. The others have a filter that lets nothing in
//!   before they are bound.
//! - IP_FREEBIND: an address may be away for a while, with its interface.

use super::sys;
use crate::classify::Protocol;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with,
    sockopt::{set_ip_freebind, set_ipv6_freebind, set_ipv6_v6only},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use thiserror::Error;

/// Descriptors that are left for everything else.
const SPARE: u64 = 256;

/// Why ports are not held.
#[derive(Debug, Error)]
pub enum HoldError {
    /// The kernel's stack uses one.
    #[error("port {port} at {address} is used by the kernel's stack")]
    Used {
        /// At which address.
        address: IpAddr,
        /// The first of them.
        port: u16,
    },
    /// Too few descriptors are left.
    #[error(
        "{count} ports need as many descriptors of usnetd, and it may have {limit} in all; raise its hard \
         limit (`LimitNOFILE=` of systemd, `ulimit -Hn`)"
    )]
    Descriptors {
        /// How many ports were asked for.
        count: u16,
        /// How many descriptors there may be.
        limit: u64,
    },
    /// The kernel refuses for another reason.
    #[error("cannot keep port {port} at {address} from the kernel{hint}: {source}")]
    Refused {
        /// At which address.
        address: IpAddr,
        /// Which.
        port: u16,
        /// The way out, if one is known.
        hint: &'static str,
        /// What it said.
        source: io::Error,
    },
}

/// Ports of one address and protocol, free again when this is dropped.
#[derive(Debug, Default)]
pub struct HeldPorts {
    /// None where the kernel does not have the protocol.
    _sockets: Vec<OwnedFd>,
}

impl HeldPorts {
    /// Holds `count` ports from `first`, all or none, in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`HoldError`]
    pub fn hold(
        address: IpAddr,
        protocol: Protocol,
        first: u16,
        count: u16,
    ) -> Result<Self, HoldError> {
        let Some(kind) = Kind::of(protocol).filter(|_| !is_link_local(address)) else {
            return Ok(Self::default());
        };
        if !kind.is_known(address) {
            return Ok(Self::default());
        }
        let mut sockets = Vec::with_capacity(count.into());
        for port in (first..=u16::MAX).take(count.into()) {
            sockets.push(kind.hold(address, port, count)?);
        }
        Ok(Self { _sockets: sockets })
    }
}

/// These addresses the kernel goes on to hear by itself, and no client.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// How a socket of a protocol is made.
#[derive(Clone, Copy, Debug)]
struct Kind {
    kind: SocketType,
    protocol: rustix::net::Protocol,
    /// Its names in `/proc/net/protocols`, IPv4 and IPv6; the kernel always has TCP and UDP.
    names: Option<[&'static str; 2]>,
}

/// `SOCK_DCCP`.
const DCCP_SOCKET: u32 = 6;

impl Kind {
    fn of(protocol: Protocol) -> Option<Self> {
        let dccp = SocketType::from_raw(DCCP_SOCKET);
        let (kind, protocol, names) = match protocol {
            Protocol::TCP => (SocketType::STREAM, ipproto::TCP, None),
            Protocol::UDP => (SocketType::DGRAM, ipproto::UDP, None),
            Protocol::UDP_LITE => {
                (SocketType::DGRAM, ipproto::UDPLITE, Some(["UDP-Lite", "UDPLITEv6"]))
            }
            Protocol::SCTP => (SocketType::STREAM, ipproto::SCTP, Some(["SCTP", "SCTPv6"])),
            Protocol::DCCP => (dccp, ipproto::DCCP, Some(["DCCP", "DCCPv6"])),
            _ => return None,
        };
        Some(Self { kind, protocol, names })
    }

    /// Whether the kernel has the protocol now. To ask by making a socket would load its module.
    fn is_known(self, address: IpAddr) -> bool {
        let Some([v4, v6]) = self.names else { return true };
        let name = if address.is_ipv4() { v4 } else { v6 };
        let known = fs::read_to_string("/proc/thread-self/net/protocols").unwrap_or_default();
        known.lines().any(|line| line.split_ascii_whitespace().next() == Some(name))
    }

    fn hold(self, address: IpAddr, port: u16, count: u16) -> Result<OwnedFd, HoldError> {
        let socket = self.open(address).map_err(|errno| match errno {
            Errno::MFILE | Errno::NFILE => too_many(count),
            errno => refused(address, port, errno),
        })?;
        match bind(&socket, &SocketAddr::new(address, port)) {
            Ok(()) => Ok(socket),
            Err(Errno::ADDRINUSE) => Err(HoldError::Used { address, port }),
            Err(errno) => Err(refused(address, port, errno)),
        }
    }

    /// A socket that is not bound yet, and hears nothing when it is.
    fn open(self, address: IpAddr) -> Result<OwnedFd, Errno> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, self.kind, SocketFlags::CLOEXEC, Some(self.protocol))?;
        // Descriptors are given out from the lowest, so this one's number tells how many there are.
        let number = u64::try_from(socket.as_raw_fd()).unwrap_or(u64::MAX);
        if number.saturating_add(SPARE) > descriptor_limit() && !raise_limit(number) {
            return Err(Errno::MFILE);
        }
        if address.is_ipv4() {
            set_ip_freebind(&socket, true)?;
        } else {
            set_ipv6_v6only(&socket, true)?;
            set_ipv6_freebind(&socket, true)?;
        }
        if self.kind != SocketType::STREAM {
            sys::let_nothing_in(&socket)
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        }
        Ok(socket)
    }
}

fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the soft limit as far as it goes; whether `number` leaves room then.
fn raise_limit(number: u64) -> bool {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    number.saturating_add(SPARE) <= descriptor_limit()
}

fn too_many(count: u16) -> HoldError {
    HoldError::Descriptors { count, limit: descriptor_limit() }
}

fn refused(address: IpAddr, port: u16, errno: Errno) -> HoldError {
    let hint = match errno {
        Errno::ACCESS => " (a port below 1024 needs CAP_NET_BIND_SERVICE)",
        _ => "",
    };
    HoldError::Refused { address, port, hint, source: errno.into() }
}
