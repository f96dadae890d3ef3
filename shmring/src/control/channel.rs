//! One end of a control connection: sends and receives whole messages and descriptors.

use super::message::{Header, Message};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use thiserror::Error;

/// Descriptors that one message may carry.
pub const MAX_DESCRIPTORS: usize = 8;
/// Bytes of the longest message.
pub const MAX_MESSAGE: usize = 8192;

/// What went wrong on a connection.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// The peer has closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// What arrived is no message.
    #[error("a datagram of {length} bytes is no message of this protocol")]
    Malformed {
        /// Its length.
        length: usize,
    },
    /// A system call failed.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ChannelError {
    fn system(what: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| match errno {
            Errno::PIPE | Errno::CONNRESET => Self::Closed,
            errno => Self::System { what, source: errno.into() },
        }
    }

    /// Whether nothing was there, or nothing could be taken, just now.
    #[must_use]
    pub fn is_would_block(&self) -> bool {
        matches!(self, Self::System { source, .. } if source.kind() == io::ErrorKind::WouldBlock)
    }
}

/// A connected `SOCK_SEQPACKET` socket.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Channel {
    /// Connects to the daemon's socket.
    ///
    /// # Errors
    /// As `connect(2)`; the caller names the path.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { socket })
    }

    /// Sends one message, with descriptors. Never blocks longer than the socket's own mode says, and
    /// never raises SIGPIPE.
    ///
    /// # Errors
    /// [`ChannelError`]
    pub fn send(
        &self,
        request: u32,
        message: &Message,
        descriptors: &[BorrowedFd<'_>],
        flags: SendFlags,
    ) -> Result<(), ChannelError> {
        let header = message.header(request);
        let parts = [IoSlice::new(bytemuck::bytes_of(&header)), IoSlice::new(message.body())];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors))
        {
            let source = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(ChannelError::System { what: "attach so many descriptors", source });
        }
        let flags = flags | SendFlags::NOSIGNAL;
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.socket, &parts, &mut ancillary, flags)
        })
        .map_err(ChannelError::system("send a message"))?;
        Ok(())
    }

    /// Receives one message and no descriptors: any that came are not even installed, since no
    /// control buffer is given.
    ///
    /// # Errors
    /// [`ChannelError`]
    pub fn receive(&self, flags: RecvFlags) -> Result<(u32, Message), ChannelError> {
        let mut buffer = [0; MAX_MESSAGE];
        let (length, _) =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut buffer, flags))
                .map_err(ChannelError::system("receive a message"))?;
        Self::parse(buffer.get(..length).unwrap_or_default())
    }

    /// Receives one message and the descriptors that came with it, all close-on-exec. For clients:
    /// the daemon takes no descriptors.
    ///
    /// # Errors
    /// [`ChannelError`]
    pub fn receive_with_descriptors(
        &self,
        into: &mut Vec<OwnedFd>,
    ) -> Result<(u32, Message), ChannelError> {
        let mut buffer = [0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            rustix::net::recvmsg(&self.socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        })
        .map_err(ChannelError::system("receive a message"))?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                into.extend(descriptors);
            }
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(ChannelError::Malformed { length: received.bytes });
        }
        Self::parse(buffer.get(..received.bytes).unwrap_or_default())
    }

    fn parse(datagram: &[u8]) -> Result<(u32, Message), ChannelError> {
        if datagram.is_empty() {
            return Err(ChannelError::Closed);
        }
        Message::parse(datagram).ok_or(ChannelError::Malformed { length: datagram.len() })
    }

    /// Bytes of a message's header.
    pub const HEADER: usize = size_of::<Header>();
}
