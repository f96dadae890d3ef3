//! One connection: who is there, where it is in its life, and what it still has to be told.

use super::super::memory::Shape;
use super::super::session::State;
use super::super::sys;
use crate::config::{Peer, Sharing};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::process::{Pid, PidfdFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;
use usnet_shmring::control::{Channel, ChannelError, Message, TEXT_BYTES, Text};
use usnet_shmring::ledger::SessionId;

/// What an attached client is, for status output.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) id: SessionId,
    pub(super) name: String,
    /// Index of its interface.
    pub(super) interface: usize,
    pub(super) mode: Sharing,
    pub(super) group: Option<String>,
    pub(super) shape: Shape,
    pub(super) since: Instant,
}

/// A text that is sent in pieces as the client takes them.
#[derive(Debug)]
struct Outgoing {
    request: u32,
    text: String,
    sent: usize,
}

/// How far sending has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything is with the kernel.
    Done,
    /// The client has to read first.
    Waits,
    /// The connection is of no use any more.
    Lost,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// `None` once it was hung up; the session may still end.
    channel: Option<Channel>,
    pidfd: Option<OwnedFd>,
    pub(super) peer: Peer,
    pub(super) state: State,
    /// When it is hung up if nothing happens before.
    pub(super) deadline: Option<Instant>,
    pub(super) attachment: Option<Attachment>,
    /// The request that [`Message::Detached`] answers.
    pub(super) detach_request: u32,
    outgoing: Option<Outgoing>,
    /// The request that waits for events, and from which number on.
    pub(super) follows: Option<(u32, u32)>,
    /// It waits for interfaces that it has had come or go, and is not read from meanwhile.
    pub(super) waits: bool,
}

impl Connection {
    /// A connection that was just accepted, with the kernel's word on who is there.
    pub(super) fn accepted(socket: OwnedFd, deadline: Instant) -> Result<Self, Errno> {
        let (pid, uid, gid) = sys::peer_credentials(&socket)?;
        let pidfd = match sys::peer_pidfd(&socket) {
            Ok(pidfd) => Some(pidfd),
            // Before Linux 6.5 by number: if it has ended meanwhile its socket hangs up all the same.
            Err(Errno::NOPROTOOPT) => Pid::from_raw(pid)
                .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()),
            Err(_) => None,
        };
        let peer = Peer { pid, uid, gid, groups: sys::peer_groups(&socket) };
        Ok(Self {
            channel: Some(socket.into()),
            pidfd,
            peer,
            state: State::Connected,
            deadline: Some(deadline),
            attachment: None,
            detach_request: 0,
            outgoing: None,
            follows: None,
            waits: false,
        })
    }

    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Name of the process, as it calls itself now.
    pub(super) fn process_name(&self) -> String {
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", self.peer.pid));
        comm.map_or_else(|_| "?".to_owned(), |name| name.trim_end().to_owned())
    }

    /// Closes both descriptors; the kernel takes them out of every epoll set.
    pub(super) fn hang_up(&mut self) {
        (self.channel, self.pidfd, self.outgoing, self.deadline) = (None, None, None, None);
    }

    /// One message, if there is one. Never waits, takes no descriptors.
    pub(super) fn receive(&self) -> Result<(u32, Message), ChannelError> {
        let channel = self.channel.as_ref().ok_or(ChannelError::Closed)?;
        channel.receive(rustix::net::RecvFlags::DONTWAIT)
    }

    /// Sends one message. A client that does not read is lost: nothing waits for it.
    pub(super) fn send(
        &self,
        request: u32,
        message: &Message,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let channel = self.channel.as_ref().ok_or(ChannelError::Closed)?;
        channel.send(request, message, descriptors, SendFlags::DONTWAIT)
    }

    /// Begins to send a text.
    pub(super) fn send_text(&mut self, request: u32, text: String) -> Progress {
        self.outgoing = Some(Outgoing { request, text, sent: 0 });
        self.proceed()
    }

    /// Whether a text is on its way; until it is sent, no request is read.
    pub(super) fn is_sending(&self) -> bool {
        self.outgoing.is_some()
    }

    /// Sends as much of the text as the client takes now.
    pub(super) fn proceed(&mut self) -> Progress {
        while let Some(outgoing) = &mut self.outgoing {
            let rest = outgoing.text.as_bytes().get(outgoing.sent..).unwrap_or_default();
            let (piece, more) = match rest.split_at_checked(TEXT_BYTES) {
                Some((piece, after)) => (piece, !after.is_empty()),
                None => (rest, false),
            };
            let mut text = Text { used: 0, more: more.into(), bytes: [0; TEXT_BYTES] };
            text.used = u32::try_from(piece.len()).unwrap_or(0);
            text.bytes.iter_mut().zip(piece).for_each(|(to, from)| *to = *from);
            let (request, length) = (outgoing.request, piece.len());
            let Some(channel) = &self.channel else { return Progress::Lost };
            match channel.send(request, &Message::Text(text), &[], SendFlags::DONTWAIT) {
                Ok(()) if more => outgoing.sent += length,
                Ok(()) => self.outgoing = None,
                Err(error) if error.is_would_block() => return Progress::Waits,
                Err(_) => return Progress::Lost,
            }
        }
        Progress::Done
    }
}
