//! A UDP socket.

use super::limits::Limits;
use super::{each_address, local_address, to_std};
use crate::control::UDP;
use crate::stack::{Engine, Lease, Signal, Stack};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, SendError, Socket};
use smoltcp::wire::{IpEndpoint, IpListenEndpoint};
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
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
    _lease: Arc<Lease>,
}

impl Drop for Bound {
    fn drop(&mut self) {
        let shared = self.stack.shared();
        let mut engine = shared.lock();
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

    fn send(&self, datagram: &[u8], to: SocketAddr) -> io::Result<usize> {
        // Headers: IPv4 20 or IPv6 40, and UDP 8.
        let headers = if to.is_ipv4() { 28 } else { 48 };
        if datagram.len() + headers > self.stack.grant().mtu {
            return Err(io::Error::from_raw_os_error(EMSGSIZE));
        }
        let mut deadline = None;
        let mut engine = self.lock();
        loop {
            engine.check()?;
            let socket = engine.udp(self.handle);
            match socket.send_slice(datagram, IpEndpoint::from(to)) {
                Ok(()) => {
                    engine.push(&self.stack.shared().bell);
                    return Ok(datagram.len());
                }
                Err(SendError::Unaddressable) => return Err(io::ErrorKind::InvalidInput.into()),
                Err(SendError::BufferFull) => {}
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
