//! Connections that their user has let go: what is unsent is sent, then FIN, then they go.
//!
//! - A connection with data that nobody will read is reset, as kernels do.
//! - Those in TIME-WAIT are kept for smoltcp's ten seconds, but only so many of them: the oldest makes
//!   room.

use super::engine::TcpPool;
use super::ports::Lease;
use super::signal::Flag;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::IpEndpoint;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Waker;

/// How long a peer may stay silent before a connection that nobody uses is reset.
const SILENCE: Duration = Duration::from_secs(60);
/// Connections in TIME-WAIT.
const TIME_WAITS: usize = 64;

#[derive(Debug)]
struct Last {
    handle: SocketHandle,
    /// Keeps the port.
    _lease: Arc<Lease>,
    /// When it goes in any case: its reset could not even be sent.
    until: Instant,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Closing {
    /// Oldest first.
    active: Vec<Last>,
    time_waits: VecDeque<Last>,
    flag: Arc<Flag>,
    waker: Waker,
}

impl Default for Closing {
    fn default() -> Self {
        let flag = Flag::new(&Arc::new(AtomicBool::new(false)));
        let waker = Arc::clone(&flag).into();
        Self { active: Vec::new(), time_waits: VecDeque::new(), flag, waker }
    }
}

impl Closing {
    /// Takes a connection over from its user.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        handle: SocketHandle,
        lease: Arc<Lease>,
        sockets: &mut SocketSet<'static>,
        pool: &mut TcpPool,
    ) {
        let socket = sockets.get_mut::<Socket>(handle);
        if socket.state() == State::SynSent {
            // The peer has never answered, so there is nothing to tell it.
            pool.put(sockets.remove(handle));
            return;
        }
        socket.set_timeout(Some(SILENCE));
        socket.set_keep_alive(None);
        // What a FIN waits for is not held back by Nagle.
        socket.set_nagle_enabled(false);
        if socket.recv_queue() > 0 {
            socket.abort();
        } else {
            socket.close();
        }
        self.active.push(Last { handle, _lease: lease, until: now + SILENCE + SILENCE });
        // To be looked at once its FIN or RST has left.
        self.flag.raise();
    }

    /// Connections whose peer has not yet confirmed the end.
    pub(crate) fn unfinished(&self) -> usize {
        self.active.len()
    }

    /// Whether any is in TIME-WAIT.
    pub(crate) fn waits(&self) -> bool {
        !self.time_waits.is_empty()
    }

    /// Ends the one in TIME-WAIT between these ends, if there is one.
    pub(crate) fn give_way(
        &mut self,
        local: IpEndpoint,
        remote: IpEndpoint,
        sockets: &mut SocketSet<'static>,
        pool: &mut TcpPool,
    ) {
        self.time_waits.retain(|last| {
            let socket = sockets.get::<Socket>(last.handle);
            let old = (socket.local_endpoint(), socket.remote_endpoint());
            if old != (Some(local), Some(remote)) {
                return true;
            }
            pool.put(sockets.remove(last.handle));
            false
        });
    }

    /// Lets all ports go, at the end.
    pub(crate) fn forget(&mut self) {
        self.active.clear();
        self.time_waits.clear();
    }

    /// Removes those that have ended; to be called after frames were sent.
    pub(crate) fn serve(
        &mut self,
        now: Instant,
        sockets: &mut SocketSet<'static>,
        pool: &mut TcpPool,
    ) {
        let overdue = self.active.first().is_some_and(|last| last.until <= now);
        if !self.flag.take() && !overdue {
            return;
        }
        for last in std::mem::take(&mut self.active) {
            let socket = sockets.get_mut::<Socket>(last.handle);
            if socket.can_recv() && socket.state() != State::Closed {
                socket.abort();
            }
            socket.register_recv_waker(&self.waker);
            socket.register_send_waker(&self.waker);
            match socket.state() {
                // The RST of a closed one has not left while it still knows its peer.
                State::Closed if socket.remote_endpoint().is_none() || last.until <= now => {
                    pool.put(sockets.remove(last.handle));
                }
                State::TimeWait => self.time_waits.push_back(last),
                _ => self.active.push(last),
            }
        }
        let mut surplus = self.time_waits.len().saturating_sub(TIME_WAITS);
        self.time_waits.retain(|last| {
            let ended = sockets.get::<Socket>(last.handle).state() == State::Closed;
            if ended || surplus > 0 {
                surplus = surplus.saturating_sub(1);
                pool.put(sockets.remove(last.handle));
                return false;
            }
            true
        });
    }
}
