//! The outside world's sockets: the kernel's own, or a client's where no namespace can be had.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;
use usnet::net;
use usnet::stack::{Stack, StackOptions};

/// No probe waits longer for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connected stream.
pub(super) trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// A connected datagram socket.
pub(super) trait Datagrams {
    fn send(&self, datagram: &[u8]) -> io::Result<usize>;
    fn recv(&self, into: &mut [u8]) -> io::Result<usize>;
    fn set_patience(&self, limit: Duration) -> io::Result<()>;
}

impl Datagrams for UdpSocket {
    fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        Self::send(self, datagram)
    }

    fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        Self::recv(self, into)
    }

    fn set_patience(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))
    }
}

impl Datagrams for net::UdpSocket {
    fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        Self::send(self, datagram)
    }

    fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        Self::recv(self, into)
    }

    fn set_patience(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))
    }
}

/// Whose sockets a probe uses.
pub(super) enum Transport {
    Kernel,
    Client(Stack),
}

impl Transport {
    /// The kernel's, or those of a client on `interface`.
    pub(super) fn new(interface: Option<&str>, name: &str) -> io::Result<Self> {
        match interface {
            None => Ok(Self::Kernel),
            Some(interface) => {
                let mut options = StackOptions::named(name);
                options.session.interface = interface.to_owned();
                Ok(Self::Client(Stack::attach(options)?))
            }
        }
    }

    pub(super) fn connect(&self, to: SocketAddr) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Kernel => {
                let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(Box::new(stream))
            }
            Self::Client(stack) => {
                let stream = net::TcpStream::connect_timeout(stack, &to, PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(Box::new(stream))
            }
        }
    }

    pub(super) fn datagrams(&self, to: SocketAddr) -> io::Result<Box<dyn Datagrams>> {
        match self {
            Self::Kernel => {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect(to)?;
                socket.set_patience(PATIENCE)?;
                Ok(Box::new(socket))
            }
            Self::Client(stack) => {
                let socket = net::UdpSocket::bind(stack, "0.0.0.0:0")?;
                socket.connect(to)?;
                socket.set_patience(PATIENCE)?;
                Ok(Box::new(socket))
            }
        }
    }
}
