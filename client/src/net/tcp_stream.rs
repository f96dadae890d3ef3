//! A TCP connection.

use super::limits::{Deadline, Limits};
use super::{each_address, to_std};
use crate::control::TCP;
use crate::stack::{Engine, Lease, Signal, Stack};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{ConnectError, RecvError, State};
use smoltcp::wire::IpEndpoint;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::task::Waker;
use std::time::{Duration, Instant};

/// How long [`TcpStream::connect`] tries.
const CONNECT: Duration = Duration::from_secs(60);

/// What all handles to one connection share; the last one closes it.
struct Connection {
    stack: Stack,
    handle: SocketHandle,
    local: SocketAddr,
    peer: SocketAddr,
    lease: Arc<Lease>,
    readable: (Arc<Signal>, Waker),
    writable: (Arc<Signal>, Waker),
    limits: Limits,
    /// Reads say end of file whatever arrives.
    read_shut: AtomicBool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let shared = self.stack.shared();
        let mut engine = shared.lock();
        engine.let_go(self.handle, Arc::clone(&self.lease));
        engine.push(&shared.bell);
    }
}

/// A TCP connection, as [`std::net::TcpStream`]. Dropping the last handle sends what is unsent, then
/// FIN; or RST if data was received that nobody read.
pub struct TcpStream {
    connection: Arc<Connection>,
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connection { local, peer, .. } = &*self.connection;
        f.debug_struct("TcpStream").field("addr", local).field("peer", peer).finish()
    }
}

impl TcpStream {
    /// Connects from any port, trying each address in turn.
    ///
    /// # Errors
    /// `ConnectionRefused`, `TimedOut`, `AddrNotAvailable` and the like, for the last address.
    pub fn connect(stack: &Stack, addresses: impl ToSocketAddrs) -> io::Result<Self> {
        each_address(addresses, |address| Self::connect_timeout(stack, &address, CONNECT))
    }

    /// Connects to one address within `timeout`.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_timeout(
        stack: &Stack,
        address: &SocketAddr,
        timeout: Duration,
    ) -> io::Result<Self> {
        if timeout.is_zero() {
            let text = "cannot set a 0 duration timeout";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let deadline = Instant::now().checked_add(timeout);
        let shared = stack.shared();
        let lease = shared.ports.ephemeral(TCP)?;
        let mut engine = shared.lock();
        engine.check()?;
        let mut socket = engine.pool.take();
        let remote = IpEndpoint::from(*address);
        let started = socket.connect(engine.iface.context(), remote, lease.port());
        let local = socket.local_endpoint();
        let (Ok(()), Some(local)) = (started, local) else {
            engine.pool.put(smoltcp::socket::Socket::Tcp(socket));
            return Err(match started {
                Err(ConnectError::Unaddressable) => io::ErrorKind::AddrNotAvailable.into(),
                _ => io::ErrorKind::InvalidInput.into(),
            });
        };
        let handle = engine.sockets.add(socket);
        engine.push(&shared.bell);
        drop(engine);
        let stream = Self::new(stack, handle, to_std(local), *address, lease);
        stream.handshake(deadline)?;
        Ok(stream)
    }

    pub(super) fn new(
        stack: &Stack,
        handle: SocketHandle,
        local: SocketAddr,
        peer: SocketAddr,
        lease: Arc<Lease>,
    ) -> Self {
        let connection = Connection {
            stack: stack.clone(),
            handle,
            local,
            peer,
            lease,
            readable: Signal::new(),
            writable: Signal::new(),
            limits: Limits::default(),
            read_shut: AtomicBool::new(false),
        };
        Self { connection: Arc::new(connection) }
    }

    fn handshake(&self, deadline: Option<Instant>) -> io::Result<()> {
        let connection = &*self.connection;
        let mut engine = connection.lock();
        loop {
            engine.check()?;
            let socket = engine.tcp(connection.handle);
            match socket.state() {
                State::SynSent | State::SynReceived => {}
                State::Closed => return Err(io::ErrorKind::ConnectionRefused.into()),
                _ => return Ok(()),
            }
            socket.register_send_waker(&connection.writable.1);
            let (back, over) = connection.writable.0.wait(engine, deadline);
            engine = back;
            if over {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// The other end.
    ///
    /// # Errors
    /// None.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.connection.peer)
    }

    /// This end.
    ///
    /// # Errors
    /// None.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.connection.local)
    }

    /// Another handle to the same connection.
    ///
    /// # Errors
    /// None.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { connection: Arc::clone(&self.connection) })
    }

    /// Ends one direction or both: `Write` sends FIN after what is unsent, `Read` makes reads end.
    ///
    /// # Errors
    /// `NotConnected` if the connection has ended already.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let connection = &*self.connection;
        let mut engine = connection.lock();
        engine.check()?;
        let socket = engine.tcp(connection.handle);
        if socket.state() == State::Closed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            connection.read_shut.store(true, Ordering::Relaxed);
            connection.readable.0.notify();
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            socket.close();
            connection.writable.0.notify();
            engine.push(&connection.stack.shared().bell);
        }
        Ok(())
    }

    /// Whether small writes are sent at once instead of waiting for an acknowledgement.
    ///
    /// # Errors
    /// None.
    pub fn nodelay(&self) -> io::Result<bool> {
        Ok(!self.connection.lock().tcp(self.connection.handle).nagle_enabled())
    }

    /// Sets [`nodelay`](Self::nodelay).
    ///
    /// # Errors
    /// None.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        let mut engine = self.connection.lock();
        engine.tcp(self.connection.handle).set_nagle_enabled(!nodelay);
        engine.push(&self.connection.stack.shared().bell);
        Ok(())
    }

    /// How long a read may wait.
    ///
    /// # Errors
    /// None.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.connection.limits.read.get())
    }

    /// Sets [`read_timeout`](Self::read_timeout).
    ///
    /// # Errors
    /// `InvalidInput` if it is zero.
    pub fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.connection.limits.read.set(limit)
    }

    /// How long a write may wait.
    ///
    /// # Errors
    /// None.
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.connection.limits.write.get())
    }

    /// Sets [`write_timeout`](Self::write_timeout).
    ///
    /// # Errors
    /// `InvalidInput` if it is zero.
    pub fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.connection.limits.write.set(limit)
    }

    /// Makes operations fail with `WouldBlock` instead of waiting.
    ///
    /// # Errors
    /// None.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.connection.limits.nonblocking.store(nonblocking, Ordering::Relaxed);
        Ok(())
    }

    /// Reads without taking.
    ///
    /// # Errors
    /// As `read`.
    pub fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        self.connection.receive(into, false)
    }
}

impl Connection {
    fn lock(&self) -> MutexGuard<'_, Engine> {
        self.stack.shared().lock()
    }

    fn receive(&self, into: &mut [u8], take: bool) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let mut deadline = None;
        let mut engine = self.lock();
        loop {
            if self.read_shut.load(Ordering::Relaxed) {
                return Ok(0);
            }
            let socket = engine.tcp(self.handle);
            let result = if take { socket.recv_slice(into) } else { socket.peek_slice(into) };
            match result {
                Ok(0) => {}
                Ok(count) => {
                    if take {
                        // The window may have opened.
                        engine.push(&self.stack.shared().bell);
                    }
                    return Ok(count);
                }
                Err(RecvError::Finished) => return Ok(0),
                Err(RecvError::InvalidState) => {
                    engine.check()?;
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
            socket.register_recv_waker(&self.readable.1);
            let until = deadline.get_or_insert_with(|| self.limits.deadline(&self.limits.read));
            engine = self.readable.0.wait(engine, until.until()?).0;
        }
    }

    fn send(&self, from: &[u8]) -> io::Result<usize> {
        if from.is_empty() {
            return Ok(0);
        }
        let mut deadline: Option<Deadline> = None;
        let mut engine = self.lock();
        loop {
            let socket = engine.tcp(self.handle);
            match socket.send_slice(from) {
                Ok(0) => {}
                Ok(count) => {
                    engine.push(&self.stack.shared().bell);
                    return Ok(count);
                }
                Err(_) => {
                    let closed = socket.state() == State::Closed;
                    engine.check()?;
                    // Closed by a reset; otherwise by this side's own shutdown.
                    return Err(if closed {
                        io::ErrorKind::ConnectionReset.into()
                    } else {
                        io::ErrorKind::BrokenPipe.into()
                    });
                }
            }
            socket.register_send_waker(&self.writable.1);
            let until = deadline.get_or_insert_with(|| self.limits.deadline(&self.limits.write));
            engine = self.writable.0.wait(engine, until.until()?).0;
        }
    }
}

impl Read for &TcpStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.connection.receive(into, true)
    }
}

impl Write for &TcpStream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.connection.send(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TcpStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        (&*self).read(into)
    }
}

impl Write for TcpStream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        (&*self).write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
