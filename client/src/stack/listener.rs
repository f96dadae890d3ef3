//! Listening TCP sockets: a backlog over smoltcp, which has none.
//!
//! ```text
//!   waiting   LISTEN -> SYN-RECEIVED -> ESTABLISHED ---> ready ---> accept()
//!                ^          |  RST, or too long half open
//!                +----------+
//! ```
//!
//! - After every frame, those that changed are looked at: finished handshakes go to the queue, dead
//!   ones listen again, and there is always a socket that listens while the backlog has room.
//! - Half-open and finished but not accepted connections together are at most the backlog.

use super::engine::TcpPool;
use super::ports::Lease;
use super::signal::{Flag, Signal};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::Duration;
use smoltcp::wire::IpListenEndpoint;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

/// Sockets that listen at one time: only one frame is taken before they are looked at again.
const LISTENING: usize = 2;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Listener {
    endpoint: IpListenEndpoint,
    backlog: usize,
    waiting: Vec<SocketHandle>,
    ready: VecDeque<SocketHandle>,
    flag: Arc<Flag>,
    waker: Waker,
    signal: Arc<Signal>,
    /// Held by the listener and every connection that came from it.
    lease: Arc<Lease>,
}

/// Names a listener of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenerId(usize);

/// All listeners of a stack.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    places: Vec<Option<Listener>>,
    any: Arc<AtomicBool>,
}

impl Listeners {
    /// Whether somebody listens on this port, on an address that overlaps.
    pub(crate) fn overlaps(&self, endpoint: IpListenEndpoint) -> bool {
        self.places.iter().flatten().any(|l| {
            l.endpoint.port == endpoint.port
                && (l.endpoint.addr.is_none()
                    || endpoint.addr.is_none()
                    || l.endpoint.addr == endpoint.addr)
        })
    }

    pub(crate) fn open(
        &mut self,
        endpoint: IpListenEndpoint,
        backlog: usize,
        lease: Arc<Lease>,
        signal: Arc<Signal>,
        sockets: &mut SocketSet<'static>,
        pool: &mut TcpPool,
    ) -> ListenerId {
        let flag = Flag::new(&self.any);
        let waker = Arc::clone(&flag).into();
        let (waiting, ready) = (Vec::new(), VecDeque::new());
        let mut listener =
            Listener { endpoint, backlog, waiting, ready, flag, waker, signal, lease };
        listener.serve(sockets, pool);
        let free = self.places.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        if let Some(place) = self.places.get_mut(index) {
            *place = Some(listener);
        }
        ListenerId(index)
    }

    /// Takes a connection that is ready.
    pub(crate) fn accept(
        &mut self,
        id: ListenerId,
        sockets: &mut SocketSet<'static>,
        pool: &mut TcpPool,
    ) -> Option<(SocketHandle, Arc<Lease>)> {
        let listener = self.places.get_mut(id.0)?.as_mut()?;
        let handle = listener.ready.pop_front()?;
        sockets.get_mut::<Socket>(handle).set_timeout(None);
        // There is room for another one now.
        listener.serve(sockets, pool);
        Some((handle, Arc::clone(&listener.lease)))
    }

    /// Ends a listener; returns the connections that nobody will accept.
    pub(crate) fn close(
        &mut self,
        id: ListenerId,
        sockets: &mut SocketSet<'static>,
        pool: &mut TcpPool,
    ) -> Vec<SocketHandle> {
        let Some(listener) = self.places.get_mut(id.0).and_then(Option::take) else {
            return Vec::new();
        };
        let mut open = Vec::from(listener.ready);
        for handle in listener.waiting {
            match sockets.get::<Socket>(handle).state() {
                State::Listen | State::Closed => pool.put(sockets.remove(handle)),
                _ => open.push(handle),
            }
        }
        open
    }

    /// Looks at the listeners whose sockets have changed.
    pub(crate) fn serve(&mut self, sockets: &mut SocketSet<'static>, pool: &mut TcpPool) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        self.any.store(false, Ordering::Relaxed);
        for listener in self.places.iter_mut().flatten() {
            if listener.flag.take() {
                listener.serve(sockets, pool);
            }
        }
    }

    /// Wakes everyone who waits in accept.
    pub(crate) fn notify_all(&self) {
        self.places.iter().flatten().for_each(|l| l.signal.notify());
    }
}

impl Listener {
    fn serve(&mut self, sockets: &mut SocketSet<'static>, pool: &mut TcpPool) {
        let (mut listening, mut half_open) = (0, 0);
        let before = self.ready.len();
        self.waiting.retain(|handle| {
            let socket = sockets.get_mut::<Socket>(*handle);
            if socket.state() == State::Closed {
                // Too long half open. If it cannot listen again it is closed, and tried next time.
                let _ = socket.listen(self.endpoint);
            }
            match socket.state() {
                State::Listen => listening += 1,
                State::SynReceived | State::SynSent | State::Closed => half_open += 1,
                _ => {
                    self.ready.push_back(*handle);
                    return false;
                }
            }
            socket.register_recv_waker(&self.waker);
            true
        });
        let used = half_open + self.ready.len();
        let wanted = LISTENING.min(self.backlog.saturating_sub(used));
        for _ in listening..wanted {
            let mut socket = pool.take();
            socket.set_timeout(Some(HANDSHAKE));
            socket.register_recv_waker(&self.waker);
            if socket.listen(self.endpoint).is_ok() {
                self.waiting.push(sockets.add(socket));
            }
        }
        if self.ready.len() > before {
            self.signal.notify();
        }
    }
}
