//! A UDP socket.

use super::groups::{EINVAL, Memberships, hops};
use super::limits::Limits;
use super::{each_address, local_address, to_std};
use crate::control::UDP;
use crate::stack::{Engine, Lease, Signal, Stack};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, SendError, Socket};
use smoltcp::wire::{IpEndpoint, IpListenEndpoint};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

/// The error of a datagram that does not fit.
const EMSGSIZE: i32 = 90;
/// Bytes of an average small datagram in a buffer: how many a buffer can count.
const SMALL: usize = 256;

/// What all handles to one socket share; the last one closes it.
struct Bound {
    stack: Stack,
    handle: SocketHandle,
    local: SocketAddr,
    peer: Mutex<Option<SocketAddr>>,
    readable: (Arc<Signal>, Waker),
    writable: (Arc<Signal>, Waker),
    limits: Limits,
    memberships: Memberships,
    _lease: Arc<Lease>,
}

impl Drop for Bound {
    fn drop(&mut self) {
        let shared = self.stack.shared();
        let mut engine = shared.lock();
        self.memberships.leave_all(&mut engine);
        // What is still queued leaves now or never: a send does not wait for the wire.
        engine.push(&shared.bell);
        drop(engine.sockets.remove(self.handle));
        // The port itself is settled by the stack's thread, once `_lease` is dropped after this.
        engine.ring(&shared.bell);
    }
}

/// A UDP socket, as [`std::net::UdpSocket`].
pub struct UdpSocket {
    bound: Arc<Bound>,
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket").field("addr", &self.bound.local).finish()
    }
}

impl UdpSocket {
    /// Claims a port: on one of the session's addresses, or on all of them. Port 0 takes any.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`, `PermissionDenied` if policy forbids it.
    pub fn bind(stack: &Stack, addresses: impl ToSocketAddrs) -> io::Result<Self> {
        each_address(addresses, |address| Self::bind_one(stack, address))
    }

    fn bind_one(stack: &Stack, address: SocketAddr) -> io::Result<Self> {
        let shared = stack.shared();
        let ip = local_address(stack, address.ip())?;
        let lease = match address.port() {
            0 => shared.ports.ephemeral(UDP)?,
            port => shared.ports.exact(UDP, ip, port)?,
        };
        let endpoint = IpListenEndpoint { addr: ip.map(Into::into), port: lease.port() };
        let size = shared.options.datagram_buffer;
        let buffer = || {
            PacketBuffer::new(vec![PacketMetadata::EMPTY; (size / SMALL).max(16)], vec![0; size])
        };
        let mut socket = Socket::new(buffer(), buffer());
        socket.bind(endpoint).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut engine = shared.lock();
        engine.check()?;
        // One stack may hold a port through several leases of one claim, but only one socket uses it.
        let taken = engine.sockets.iter().any(|(_, other)| {
            matches!(other, smoltcp::socket::Socket::Udp(other) if other.endpoint().port == lease.port()
                && (other.endpoint().addr.is_none() || ip.is_none()
                    || other.endpoint().addr == endpoint.addr))
        });
        if taken {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let handle = engine.sockets.add(socket);
        drop(engine);
        let bound = Bound {
            stack: stack.clone(),
            handle,
            local: SocketAddr::new(address.ip(), lease.port()),
            peer: Mutex::new(None),
            readable: Signal::new(),
            writable: Signal::new(),
            limits: Limits::default(),
            memberships: Memberships::default(),
            _lease: lease,
        };
        Ok(Self { bound: Arc::new(bound) })
    }

    /// Sends one datagram; returns its length.
    ///
    /// # Errors
    /// `EMSGSIZE` if it does not fit into one packet, `InvalidInput` if nothing can be sent there.
    pub fn send_to(&self, datagram: &[u8], to: impl ToSocketAddrs) -> io::Result<usize> {
        let to = to.to_socket_addrs()?.next().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "no addresses to send data to")
        })?;
        self.bound.send(datagram, to)
    }

    /// Receives one datagram, cut to the size of `into`; returns its length and sender.
    ///
    /// # Errors
    /// `WouldBlock` after the read timeout.
    pub fn recv_from(&self, into: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.bound.receive(into, true)
    }

    /// As [`recv_from`](Self::recv_from), and leaves the datagram where it is.
    ///
    /// # Errors
    /// As [`recv_from`](Self::recv_from).
    pub fn peek_from(&self, into: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.bound.receive(into, false)
    }

    /// Makes [`send`](Self::send) go there, and datagrams of others be dropped.
    ///
    /// # Errors
    /// If there is no such address.
    pub fn connect(&self, addresses: impl ToSocketAddrs) -> io::Result<()> {
        each_address(addresses, |address| {
            *self.bound.peer() = Some(address);
            Ok(())
        })
    }

    /// Sends one datagram to the connected peer.
    ///
    /// # Errors
    /// `NotConnected`, and as [`send_to`](Self::send_to).
    pub fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        let peer = self.peer_addr()?;
        self.bound.send(datagram, peer)
    }

    /// Receives one datagram, from the peer if there is one.
    ///
    /// # Errors
    /// As [`recv_from`](Self::recv_from).
    pub fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        Ok(self.bound.receive(into, true)?.0)
    }

    /// Joins a group: what is sent to it and to the socket's port is received from now on. `interface` is the session's address, or
    /// unspecified. As with [`std::net::UdpSocket`] on Linux a socket hears the groups that any other socket of the stack has joined.
    ///
    /// Nothing says whether policy lets the client hear the group: if it does not, nothing comes.
    ///
    /// # Errors
    /// `InvalidInput` if it is no group, `AddrInUse` if the socket has joined it, `ENODEV` for another interface, `ENOBUFS` if the
    /// stack is in 16 groups.
    pub fn join_multicast_v4(&self, multiaddr: &Ipv4Addr, interface: &Ipv4Addr) -> io::Result<()> {
        let bound = &*self.bound;
        let own = bound.stack.grant().ipv4.map(|own| own.address);
        bound.change(|engine| bound.memberships.join_v4(engine, *multiaddr, *interface, own))
    }

    /// The same with IPv6. `interface` is 0, since a stack has one.
    ///
    /// # Errors
    /// As [`join_multicast_v4`](Self::join_multicast_v4), and `ENOPROTOOPT` if the socket is bound to an IPv4 address.
    pub fn join_multicast_v6(&self, multiaddr: &Ipv6Addr, interface: u32) -> io::Result<()> {
        let bound = &*self.bound;
        let is_v6 = bound.local.is_ipv6();
        bound.change(|engine| bound.memberships.join_v6(engine, *multiaddr, interface, is_v6))
    }

    /// Leaves a group.
    ///
    /// # Errors
    /// `AddrNotAvailable` if the socket has not joined it, on this interface.
    pub fn leave_multicast_v4(&self, multiaddr: &Ipv4Addr, interface: &Ipv4Addr) -> io::Result<()> {
        let bound = &*self.bound;
        bound.change(|engine| bound.memberships.leave_v4(engine, *multiaddr, *interface))
    }

    /// Leaves a group.
    ///
    /// # Errors
    /// As [`leave_multicast_v4`](Self::leave_multicast_v4), `InvalidInput` if it is no group, `ENOPROTOOPT` if the socket is bound to an
    /// IPv4 address.
    pub fn leave_multicast_v6(&self, multiaddr: &Ipv6Addr, interface: u32) -> io::Result<()> {
        let bound = &*self.bound;
        let is_v6 = bound.local.is_ipv6();
        bound.change(|engine| bound.memberships.leave_v6(engine, *multiaddr, interface, is_v6))
    }

    /// How many routers a datagram to an IPv4 group may pass, and one more; 1 unless it was set.
    ///
    /// # Errors
    /// None.
    pub fn multicast_ttl_v4(&self) -> io::Result<u32> {
        Ok(self.bound.memberships.ttl.load(Ordering::Relaxed).into())
    }

    /// Sets [`multicast_ttl_v4`](Self::multicast_ttl_v4). With 0 nothing leaves.
    ///
    /// # Errors
    /// `InvalidInput` if it is more than 255.
    pub fn set_multicast_ttl_v4(&self, ttl: u32) -> io::Result<()> {
        let ttl = u8::try_from(ttl).map_err(|_| io::Error::from_raw_os_error(EINVAL))?;
        self.bound.memberships.ttl.store(ttl, Ordering::Relaxed);
        Ok(())
    }

    /// Where it is bound; the address is unspecified if it is bound to all.
    ///
    /// # Errors
    /// None.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.bound.local)
    }

    /// The connected peer.
    ///
    /// # Errors
    /// `NotConnected` if there is none.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.bound.peer().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Another handle to the same socket.
    ///
    /// # Errors
    /// None.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { bound: Arc::clone(&self.bound) })
    }

    /// How long a receive may wait.
    ///
    /// # Errors
    /// None.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.bound.limits.read.get())
    }

    /// Sets [`read_timeout`](Self::read_timeout).
    ///
    /// # Errors
    /// `InvalidInput` if it is zero.
    pub fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.bound.limits.read.set(limit)
    }

    /// How long a send may wait for room.
    ///
    /// # Errors
    /// None.
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.bound.limits.write.get())
    }

    /// Sets [`write_timeout`](Self::write_timeout).
    ///
    /// # Errors
    /// `InvalidInput` if it is zero.
    pub fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.bound.limits.write.set(limit)
    }

    /// Makes operations fail with `WouldBlock` instead of waiting.
    ///
    /// # Errors
    /// None.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.bound.limits.nonblocking.store(nonblocking, Ordering::Relaxed);
        Ok(())
    }
}

impl Bound {
    fn lock(&self) -> MutexGuard<'_, Engine> {
        self.stack.shared().lock()
    }

    fn peer(&self) -> MutexGuard<'_, Option<SocketAddr>> {
        self.peer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what the stack has joined, and says so at once.
    fn change(&self, change: impl FnOnce(&mut Engine) -> io::Result<()>) -> io::Result<()> {
        let mut engine = self.lock();
        engine.check()?;
        change(&mut engine)?;
        engine.push(&self.stack.shared().bell);
        Ok(())
    }

    fn send(&self, datagram: &[u8], to: SocketAddr) -> io::Result<usize> {
        // Headers: IPv4 20 or IPv6 40, and UDP 8.
        let headers = if to.is_ipv4() { 28 } else { 48 };
        if datagram.len() + headers > self.stack.grant().mtu {
            return Err(io::Error::from_raw_os_error(EMSGSIZE));
        }
        let hops = hops(to, self.memberships.ttl.load(Ordering::Relaxed));
        if hops == Some(0) {
            return Ok(datagram.len());
        }
        let mut deadline = None;
        let mut engine = self.lock();
        loop {
            engine.check()?;
            let socket = engine.udp(self.handle);
            // The limit is the socket's: what is queued leaves before it changes.
            if socket.hop_limit() == hops || socket.send_queue() == 0 {
                socket.set_hop_limit(hops);
                match socket.send_slice(datagram, IpEndpoint::from(to)) {
                    Ok(()) => {
                        engine.push(&self.stack.shared().bell);
                        return Ok(datagram.len());
                    }
                    Err(SendError::Unaddressable) => {
                        return Err(io::ErrorKind::InvalidInput.into());
                    }
                    Err(SendError::BufferFull) => {}
                }
            }
            socket.register_send_waker(&self.writable.1);
            let until = deadline.get_or_insert_with(|| self.limits.deadline(&self.limits.write));
            engine = self.writable.0.wait(engine, until.until()?).0;
        }
    }

    fn receive(&self, into: &mut [u8], take: bool) -> io::Result<(usize, SocketAddr)> {
        let peer = *self.peer();
        let mut deadline = None;
        let mut engine = self.lock();
        loop {
            engine.check()?;
            let socket = engine.udp(self.handle);
            while let Ok((datagram, from)) = socket.peek() {
                let from = to_std(from.endpoint);
                if peer.is_some_and(|peer| peer != from) {
                    // Of somebody else.
                    let _ = socket.recv();
                    continue;
                }
                let count = datagram.len().min(into.len());
                let halves = into.get_mut(..count).zip(datagram.get(..count));
                halves.into_iter().for_each(|(to, from)| to.copy_from_slice(from));
                if take {
                    let _ = socket.recv();
                }
                return Ok((count, from));
            }
            socket.register_recv_waker(&self.readable.1);
            let until = deadline.get_or_insert_with(|| self.limits.deadline(&self.limits.read));
            engine = self.readable.0.wait(engine, until.until()?).0;
        }
    }
}
