//! A listening TCP socket.

use super::limits::Limits;
use super::tcp_stream::TcpStream;
use super::{each_address, local_address, to_std};
use crate::control::TCP;
use crate::stack::{Lease, ListenerId, Signal, Stack};
use smoltcp::wire::IpListenEndpoint;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A listening TCP socket, as [`std::net::TcpListener`]. Connections outlive it; its port is released
/// when the last of them is gone too.
pub struct TcpListener {
    stack: Stack,
    id: ListenerId,
    local: SocketAddr,
    signal: Arc<Signal>,
    limits: Limits,
    /// Accept returns `Interrupted`, now and later.
    interrupted: AtomicBool,
    _lease: Arc<Lease>,
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpListener").field("addr", &self.local).finish()
    }
}

impl TcpListener {
    /// Claims a port and listens on it: on one of the session's addresses, or on all of them. Port 0
    /// takes any.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`, `PermissionDenied` if policy forbids it.
    pub fn bind(stack: &Stack, addresses: impl ToSocketAddrs) -> io::Result<Self> {
        each_address(addresses, |address| Self::bind_one(stack, address, false))
    }

    /// As [`bind`](Self::bind), together with other processes or stacks of the same user that do the same at the same
    /// addresses and port: each gets a part of the connections, as with `SO_REUSEPORT`. Port 0 is refused.
    ///
    /// # Errors
    /// As [`bind`](Self::bind); `Unsupported` by an older daemon.
    pub fn bind_spread(stack: &Stack, addresses: impl ToSocketAddrs) -> io::Result<Self> {
        each_address(addresses, |address| Self::bind_one(stack, address, true))
    }

    fn bind_one(stack: &Stack, address: SocketAddr, spread: bool) -> io::Result<Self> {
        let shared = stack.shared();
        let ip = local_address(stack, address.ip())?;
        let lease = match address.port() {
            0 if spread => return Err(io::ErrorKind::InvalidInput.into()),
            0 => shared.ports.ephemeral(TCP)?,
            port if spread => shared.ports.spread(TCP, ip, port)?,
            port => shared.ports.exact(TCP, ip, port)?,
        };
        let endpoint = IpListenEndpoint { addr: ip.map(Into::into), port: lease.port() };
        let (signal, _) = Signal::new();
        let mut guard = shared.lock();
        let engine = &mut *guard;
        engine.check()?;
        if engine.listeners.overlaps(endpoint) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let id = engine.listeners.open(
            endpoint,
            shared.options.backlog.max(1),
            Arc::clone(&lease),
            Arc::clone(&signal),
            &mut engine.sockets,
            &mut engine.pool,
        );
        drop(guard);
        let local = SocketAddr::new(address.ip(), lease.port());
        Ok(Self {
            stack: stack.clone(),
            id,
            local,
            signal,
            limits: Limits::default(),
            interrupted: AtomicBool::new(false),
            _lease: lease,
        })
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// `WouldBlock` if it may not wait, `ConnectionAborted` once the daemon is gone.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let shared = self.stack.shared();
        let mut guard = shared.lock();
        loop {
            let engine = &mut *guard;
            engine.check()?;
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match engine.listeners.accept(self.id, &mut engine.sockets, &mut engine.pool) {
                Some((handle, lease)) => {
                    let socket = engine.tcp(handle);
                    let ends = socket.local_endpoint().zip(socket.remote_endpoint());
                    let Some((local, peer)) = ends else {
                        // Reset while it waited here.
                        engine.let_go(handle, lease);
                        continue;
                    };
                    drop(guard);
                    let (local, peer) = (to_std(local), to_std(peer));
                    return Ok((TcpStream::new(&self.stack, handle, local, peer, lease), peer));
                }
                None => {
                    let until = self.limits.deadline(&self.limits.read).until()?;
                    guard = self.signal.wait(guard, until).0;
                }
            }
        }
    }

    /// Makes every accept, running or to come, fail with `Interrupted`.
    pub(crate) fn interrupt(&self) {
        // Under the lock, so that no accept lies between its look and its sleep.
        let _engine = self.stack.shared().lock();
        self.interrupted.store(true, Ordering::Relaxed);
        self.signal.notify();
    }

    /// Connections as they come, without end.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self }
    }

    /// Where it listens; the address is unspecified if it listens on all.
    ///
    /// # Errors
    /// None.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    /// Makes accept fail with `WouldBlock` instead of waiting.
    ///
    /// # Errors
    /// None.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.limits.nonblocking.store(nonblocking, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        let shared = self.stack.shared();
        let mut guard = shared.lock();
        let engine = &mut *guard;
        for handle in engine.listeners.close(self.id, &mut engine.sockets, &mut engine.pool) {
            // Nobody will ever read what they sent.
            engine.tcp(handle).abort();
            engine.let_go(handle, Arc::clone(&self._lease));
        }
        engine.push(&shared.bell);
        // The port itself is settled by the stack's thread, once `_lease` is dropped after this.
        engine.ring(&shared.bell);
    }
}

/// Connections of a listener: see [`TcpListener::incoming`].
#[derive(Debug)]
pub struct Incoming<'a> {
    listener: &'a TcpListener,
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.listener.accept().map(|(stream, _)| stream))
    }
}
