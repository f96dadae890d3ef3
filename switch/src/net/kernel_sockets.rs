//! The sockets that the kernel's own stack has at some addresses: sock_diag(7), IPv4, IPv6 and v4-mapped.
//!
//! For people who ask; whether a port is free is decided by a bind ([`HeldPorts`](super::HeldPorts)).

use super::netlink::{Message, NLM_F_DUMP, Socket, split_body};
use super::port_user::{
    AF_INET, AF_INET6, Found, Request, SOCK_DIAG_BY_FAMILY, covers, processes_with_sockets,
};
use crate::classify::Protocol;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use rustix::net::netlink;

/// Protocols that are asked for: those whose ports clients can have.
const PROTOCOLS: [Protocol; 5] =
    [Protocol::TCP, Protocol::UDP, Protocol::UDP_LITE, Protocol::SCTP, Protocol::DCCP];

/// A socket of the kernel's stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSocket {
    /// IP protocol.
    pub protocol: Protocol,
    /// What it is bound to; unspecified for every address.
    pub local: SocketAddr,
    /// Whom it is connected to.
    pub remote: Option<SocketAddr>,
    /// How far it has come, in the words of ss(8).
    pub state: &'static str,
    /// The user whose socket it is.
    pub uid: u32,
    /// Its inode; 0 for what has no process any more.
    pub inode: u32,
    /// Number and name of a process that has it open, where that can be found out.
    pub process: Option<(u32, String)>,
}

impl KernelSocket {
    fn of(found: &Found, protocol: Protocol) -> Self {
        let id = &found.id;
        let at = |address: [u8; 16], port: [u8; 2]| {
            let [a, b, c, d, ..] = address;
            let ip = if found.family == AF_INET {
                Ipv4Addr::new(a, b, c, d).into()
            } else {
                Ipv6Addr::from(address).to_canonical()
            };
            SocketAddr::new(ip, u16::from_be_bytes(port))
        };
        let remote = at(id.destination, id.destination_port);
        Self {
            protocol,
            local: at(id.source, id.source_port),
            remote: (remote.port() != 0).then_some(remote),
            state: state(protocol, found.state),
            uid: found.uid,
            inode: found.inode,
            process: None,
        }
    }
}

/// `TCP_ESTABLISHED` and so on (`net/tcp_states.h`), which other protocols use as well.
fn state(protocol: Protocol, state: u8) -> &'static str {
    const NAMES: [&str; 13] = [
        "unknown",
        "established",
        "syn-sent",
        "syn-recv",
        "fin-wait-1",
        "fin-wait-2",
        "time-wait",
        "closed",
        "close-wait",
        "last-ack",
        "listening",
        "closing",
        "syn-recv",
    ];
    match (protocol, state) {
        (Protocol::UDP | Protocol::UDP_LITE, 7) => "unconnected",
        _ => NAMES.get(usize::from(state)).copied().unwrap_or("unknown"),
    }
}

/// All sockets of the calling thread's network namespace and the processes that have them, as they are at one moment.
#[derive(Debug)]
pub struct KernelSockets {
    /// Each with the addresses for which it hears what comes.
    all: Vec<(KernelSocket, Vec<IpAddr>)>,
}

impl KernelSockets {
    /// Looks for those that hear what comes for any of these addresses. None of the calling process, which holds ports for
    /// others.
    #[must_use]
    pub fn look(addresses: &[IpAddr]) -> Self {
        let mut all = Vec::new();
        // What cannot be found out is left out.
        let Ok(mut socket) = Socket::open(Some(netlink::SOCK_DIAG)) else { return Self { all } };
        for protocol in PROTOCOLS {
            for family in [AF_INET, AF_INET6] {
                let request = Request::all(family, protocol);
                let message = Message::new(SOCK_DIAG_BY_FAMILY, 0, &request);
                // A kernel without this protocol has no such sockets.
                let _ = socket.query(message, NLM_F_DUMP, |_, body| {
                    let Some((found, attributes)) = split_body::<Found>(body) else { return };
                    let hears = |address: &IpAddr| covers(&found, attributes, *address);
                    let heard: Vec<IpAddr> = addresses.iter().copied().filter(hears).collect();
                    if !heard.is_empty() {
                        all.push((KernelSocket::of(&found, protocol), heard));
                    }
                });
            }
        }
        all.sort_by_key(|(one, _)| (one.remote.is_some(), one.protocol.0, one.local, one.remote));
        let processes = processes_with_sockets();
        for (one, _) in &mut all {
            one.process = processes.get(&one.inode).filter(|_| one.inode != 0).cloned();
        }
        let own = std::process::id();
        all.retain(|(one, _)| one.process.as_ref().is_none_or(|(pid, _)| *pid != own));
        Self { all }
    }

    /// Those that hear what comes for one of these addresses, at most `most`, listening ones first; and how many more
    /// there are.
    #[must_use]
    pub fn at(&self, addresses: &[IpAddr], most: usize) -> (Vec<&KernelSocket>, usize) {
        let is_at = |heard: &[IpAddr]| heard.iter().any(|address| addresses.contains(address));
        let mut those: Vec<_> =
            self.all.iter().filter(|(_, heard)| is_at(heard)).map(|(one, _)| one).collect();
        let left_out = those.len().saturating_sub(most);
        those.truncate(most);
        (those, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn sockets_of_other_processes_are_listed_with_their_state_and_those_of_this_one_are_not() {
        let own = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let program = "import socket,sys\na=socket.socket();a.bind(('127.0.0.1',0));a.listen()\n\
                       b=socket.create_connection(a.getsockname());c=socket.socket(type=socket.SOCK_DGRAM)\n\
                       c.bind(('0.0.0.0',0))\nprint(a.getsockname()[1],c.getsockname()[1],flush=True)\nsys.stdin.read()";
        let mut python = Command::new("python3");
        python.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut python) = python.spawn() else { return eprintln!("skipped: needs python3") };
        let mut line = String::new();
        let mut out = std::io::BufReader::new(python.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        let ports: Vec<u16> = line.split_whitespace().map(|w| w.parse().unwrap()).collect();
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let other = IpAddr::from([127, 0, 0, 2]);
        let seen = KernelSockets::look(&[loopback, other]);
        let (all, left_out) = seen.at(&[loopback], 10_000);
        let (few, rest) = seen.at(&[loopback], 1);
        let elsewhere = seen.at(&[other], 10_000).0;
        drop(python.stdin.take());
        python.wait().unwrap();
        let has = |port: u16, state: &str| {
            all.iter().any(|one| {
                let pid = one.process.as_ref().map(|(pid, _)| *pid);
                (one.local.port(), one.state, pid) == (port, state, Some(python.id()))
            })
        };
        assert!(has(ports[0], "listening") && has(ports[1], "unconnected"), "{all:?}");
        let to_it = |one: &&&KernelSocket| one.remote.is_some_and(|there| there.port() == ports[0]);
        assert_eq!(all.iter().find(to_it).map(|one| one.state), Some("established"), "{all:?}");
        assert!(all.iter().all(|one| one.local.port() != own.local_addr().unwrap().port()));
        assert!(left_out == 0 && few.len() == 1 && rest > 0);
        assert!(elsewhere.iter().all(|one| one.local.port() != ports[0]), "{elsewhere:?}");
    }
}
