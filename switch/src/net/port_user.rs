//! Who uses a port in the kernel's stack: asked by sock_diag(7), and by `/proc` for the process.
//!
//! Only for words: whether a port is free is decided by a bind ([`HeldPorts`](super::HeldPorts)). So nothing
//! here is an error; what cannot be found out is left out.

use super::netlink::{Attributes, Message, NLM_F_DUMP, Socket, split_body};
use crate::classify::Protocol;
use bytemuck::{Pod, Zeroable};
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use rustix::net::netlink;
use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_SKV6ONLY: u16 = 11;
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
/// `INET_DIAG_BC_S_GE`, `_S_LE` (linux/inet_diag.h).
const SOURCE_PORT_FROM: u8 = 2;
const SOURCE_PORT_TO: u8 = 3;
const TIME_WAIT: u8 = 6;
const LISTEN: u8 = 10;
/// How long the processes are searched at most, and how many of them.
const SEARCH: Duration = Duration::from_millis(50);
const PROCESSES: usize = 4096;

/// `struct inet_diag_sockid`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(super) struct SocketId {
    pub(super) source_port: [u8; 2],
    pub(super) destination_port: [u8; 2],
    pub(super) source: [u8; 16],
    pub(super) destination: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(super) struct Request {
    family: u8,
    protocol: u8,
    extensions: u8,
    padding: u8,
    states: u32,
    id: SocketId,
}

impl Request {
    /// All sockets of a protocol, in any state.
    pub(super) fn all(family: u8, protocol: Protocol) -> Self {
        Self { family, protocol: protocol.0, states: u32::MAX, ..Self::default() }
    }
}
const _: () = assert!(size_of::<Request>() == 56);

/// `struct inet_diag_msg`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct Found {
    pub(super) family: u8,
    pub(super) state: u8,
    timer: u8,
    retransmits: u8,
    pub(super) id: SocketId,
    expires: u32,
    receive_queue: u32,
    send_queue: u32,
    pub(super) uid: u32,
    pub(super) inode: u32,
}
const _: () = assert!(size_of::<Found>() == 72);

/// One two-step operation of the filter that the kernel runs over its sockets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Operation {
    code: u8,
    yes: u8,
    no: u16,
    unused: [u8; 2],
    port: u16,
}

/// A socket of the kernel's stack, and its process where that could be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortUser {
    /// The port.
    pub port: u16,
    /// The user whose socket it is.
    pub uid: u32,
    /// The socket's inode; 0 for what has no process any more.
    pub inode: u32,
    /// Number and name of a process that has it open.
    pub process: Option<(u32, String)>,
    state: u8,
}

impl fmt::Display for PortUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { state: TIME_WAIT, .. } => {
                return f.write_str("a connection that has ended, for a minute (TIME_WAIT)");
            }
            Self { inode: 0, .. } => {
                return f.write_str("a connection that no process has any more");
            }
            Self { process: Some((pid, name)), uid, .. } => {
                write!(f, "process {pid} ({name}) of user {uid}")?;
            }
            Self { process: None, uid, .. } => write!(f, "user {uid}")?,
        }
        let what = if self.state == LISTEN { "listening socket" } else { "socket" };
        write!(f, ", {what} {}", self.inode)
    }
}

impl PortUser {
    /// Who uses a port of this range at this address, in the calling thread's network namespace. A
    /// listening socket is named before others.
    #[must_use]
    pub fn find(address: IpAddr, protocol: Protocol, first: u16, last: u16) -> Option<Self> {
        let mut socket = Socket::open(Some(netlink::SOCK_DIAG)).ok()?;
        let mut best: Option<Self> = None;
        for family in [AF_INET, AF_INET6] {
            // No socket for IPv4 alone hears what comes by IPv6.
            if family == AF_INET && address.is_ipv6() {
                continue;
            }
            let message = Message::new(SOCK_DIAG_BY_FAMILY, 0, &Request::all(family, protocol))
                .attribute(INET_DIAG_REQ_BYTECODE, &ports_between(first, last));
            // A kernel without this family of questions has no answer.
            let _ = socket.query(message, NLM_F_DUMP, |_, body| {
                let user = Self::parse(body, address).filter(|u| (first..=last).contains(&u.port));
                let is_better = |user: &Self| match &best {
                    None => true,
                    Some(best) => best.rank() < user.rank(),
                };
                if let Some(user) = user.filter(is_better) {
                    best = Some(user);
                }
            });
        }
        best
    }

    /// Looks among the processes for one that has the socket.
    #[must_use]
    pub fn with_process(self) -> Self {
        let process = (self.inode != 0).then(|| process_with(self.inode)).flatten();
        Self { process, ..self }
    }

    const fn rank(&self) -> u8 {
        match (self.state, self.inode) {
            (LISTEN, _) => 2,
            (_, 0) => 0,
            _ => 1,
        }
    }

    fn parse(body: &[u8], address: IpAddr) -> Option<Self> {
        let (found, attributes) = split_body::<Found>(body)?;
        if !covers(&found, attributes, address) {
            return None;
        }
        let Found { state, uid, inode, id, .. } = found;
        Some(Self { port: u16::from_be_bytes(id.source_port), uid, inode, process: None, state })
    }
}

/// Whether a socket that is bound so hears what comes for `address`.
pub(super) fn covers(found: &Found, attributes: Attributes<'_>, address: IpAddr) -> bool {
    let [a, b, c, d, ..] = found.id.source;
    match (found.family, address) {
        (AF_INET, IpAddr::V4(v4)) => [v4, Ipv4Addr::UNSPECIFIED].contains(&[a, b, c, d].into()),
        (AF_INET6, address) => {
            let bound = Ipv6Addr::from(found.id.source);
            let v6only = attributes.find(INET_DIAG_SKV6ONLY).is_some_and(|b| b.first() != Some(&0));
            match address {
                IpAddr::V6(v6) => bound == v6 || bound.is_unspecified(),
                IpAddr::V4(v4) => {
                    bound == v4.to_ipv6_mapped() || (bound.is_unspecified() && !v6only)
                }
            }
        }
        _ => false,
    }
}

/// A filter for sockets whose own port is in this range.
fn ports_between(first: u16, last: u16) -> [u8; 16] {
    // A jump to the end accepts, one past it refuses.
    let from = Operation { code: SOURCE_PORT_FROM, yes: 8, no: 20, unused: [0; 2], port: first };
    let to = Operation { code: SOURCE_PORT_TO, yes: 8, no: 12, unused: [0; 2], port: last };
    bytemuck::cast([from, to])
}

/// Tells of each socket that a process has open: its inode, and the process. Ends when that says so. Bounded, in time
/// and in number; of another user's process nothing is said without the privilege.
fn each_socket(mut tell: impl FnMut(u32, u32) -> bool) {
    let end = Instant::now() + SEARCH;
    let Ok(all) = fs::read_dir("/proc") else { return };
    let numbers = all.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    for pid in numbers.take(PROCESSES) {
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for entry in open.flatten() {
            let inode = fs::read_link(entry.path()).ok().and_then(|target| {
                let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
                inode.parse().ok()
            });
            if inode.is_some_and(|inode| !tell(inode, pid)) || Instant::now() > end {
                return;
            }
        }
    }
}

fn name_of(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// A process that has the socket with this inode.
fn process_with(inode: u32) -> Option<(u32, String)> {
    let mut found = None;
    each_socket(|other, pid| {
        found = (other == inode).then(|| (pid, name_of(pid)));
        found.is_none()
    });
    found
}

/// By inode of a socket, a process that has it.
pub(super) fn processes_with_sockets() -> HashMap<u32, (u32, String)> {
    let mut all: HashMap<u32, (u32, String)> = HashMap::new();
    each_socket(|inode, pid| {
        all.entry(inode).or_insert_with(|| (pid, name_of(pid)));
        true
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn a_socket_is_found_by_its_port_with_user_and_process() {
        let own = rustix::process::geteuid().as_raw();
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let user = PortUser::find(loopback, Protocol::TCP, port, port).unwrap().with_process();
        assert_eq!((user.port, user.uid), (port, own));
        assert_eq!(user.process.as_ref().map(|(pid, _)| *pid), Some(std::process::id()));
        assert!(user.to_string().contains("listening socket"), "{user}");
        assert_eq!(PortUser::find(loopback, Protocol::UDP, port, port), None);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        let user = PortUser::find(loopback, Protocol::UDP, port, port).unwrap();
        assert_eq!((user.port, user.uid), (port, own));
        let elsewhere = IpAddr::from([127, 0, 0, 2]);
        assert_eq!(PortUser::find(elsewhere, Protocol::UDP, port, port), None);
    }
}
