//! Which groups one socket has joined, with the errors that the kernel gives.

use crate::stack::Engine;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::AtomicU8;
use std::sync::{Mutex, MutexGuard, PoisonError};

const ENODEV: i32 = 19;
pub(super) const EINVAL: i32 = 22;
const ENOPROTOOPT: i32 = 92;
const EADDRINUSE: i32 = 98;
const EADDRNOTAVAIL: i32 = 99;
const ENOBUFS: i32 = 105;

/// How many hops a datagram may go: 1 to a group, unless a socket says otherwise; `None`: as many as others.
pub(super) fn hops(to: SocketAddr, v4: u8) -> Option<u8> {
    match to.ip() {
        IpAddr::V4(group) if group.is_multicast() => Some(v4),
        IpAddr::V6(group) if group.is_multicast() => Some(1),
        _ => None,
    }
}

/// The groups of one socket, and what its datagrams to groups are sent with.
#[derive(Debug)]
pub(super) struct Memberships {
    /// With the interface as it was named.
    joined: Mutex<Vec<(IpAddr, Ipv4Addr)>>,
    pub(super) ttl: AtomicU8,
}

impl Default for Memberships {
    fn default() -> Self {
        Self { joined: Mutex::default(), ttl: AtomicU8::new(1) }
    }
}

fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

fn check(holds: bool, number: i32) -> io::Result<()> {
    if holds { Ok(()) } else { Err(error(number)) }
}

/// Whether a socket of this family can have such a group at all.
fn check_v6(group: Ipv6Addr, is_v6: bool) -> io::Result<()> {
    check(is_v6, ENOPROTOOPT)?;
    check(group.is_multicast(), EINVAL)
}

impl Memberships {
    fn joined(&self) -> MutexGuard<'_, Vec<(IpAddr, Ipv4Addr)>> {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, engine: &mut Engine, group: IpAddr, interface: Ipv4Addr) -> io::Result<()> {
        let mut joined = self.joined();
        check(!joined.iter().any(|(other, _)| *other == group), EADDRINUSE)?;
        engine.join(group).map_err(|_| error(ENOBUFS))?;
        joined.push((group, interface));
        Ok(())
    }

    pub(super) fn join_v4(
        &self,
        engine: &mut Engine,
        group: Ipv4Addr,
        interface: Ipv4Addr,
        own: Option<Ipv4Addr>,
    ) -> io::Result<()> {
        check(group.is_multicast(), EINVAL)?;
        check(own.is_some_and(|own| interface.is_unspecified() || interface == own), ENODEV)?;
        self.join(engine, group.into(), interface)
    }

    pub(super) fn join_v6(
        &self,
        engine: &mut Engine,
        group: Ipv6Addr,
        interface: u32,
        is_v6: bool,
    ) -> io::Result<()> {
        check_v6(group, is_v6)?;
        check(interface == 0, ENODEV)?;
        self.join(engine, group.into(), Ipv4Addr::UNSPECIFIED)
    }

    fn leave(
        &self,
        engine: &mut Engine,
        is_it: impl FnMut(&(IpAddr, Ipv4Addr)) -> bool,
    ) -> io::Result<()> {
        let mut joined = self.joined();
        let at = joined.iter().position(is_it).ok_or_else(|| error(EADDRNOTAVAIL))?;
        let (group, _) = joined.swap_remove(at);
        engine.leave(group);
        Ok(())
    }

    pub(super) fn leave_v4(
        &self,
        engine: &mut Engine,
        group: Ipv4Addr,
        interface: Ipv4Addr,
    ) -> io::Result<()> {
        let is_it = |joined: &(IpAddr, Ipv4Addr)| {
            joined.0 == group && (interface.is_unspecified() || joined.1 == interface)
        };
        self.leave(engine, is_it)
    }

    pub(super) fn leave_v6(
        &self,
        engine: &mut Engine,
        group: Ipv6Addr,
        interface: u32,
        is_v6: bool,
    ) -> io::Result<()> {
        check_v6(group, is_v6)?;
        self.leave(engine, |joined| joined.0 == group && interface == 0)
    }

    /// Leaves all of them.
    pub(super) fn leave_all(&self, engine: &mut Engine) {
        for (group, _) in self.joined().drain(..) {
            engine.leave(group);
        }
    }
}
