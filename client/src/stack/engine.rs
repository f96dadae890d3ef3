//! What the stack's lock guards: smoltcp, the rings, and the sockets that have no user.
//!
//! ```text
//!   round    frames in (one burst) -> listeners -> frames out -> flush -> closing
//!   push     frames out -> flush                      by a user, after it gave something to send
//! ```

use super::closing::Closing;
use super::groups::{self, Groups, TooMany};
use super::listener::Listeners;
use super::ports::Lease;
use super::syn;
use crate::device::Device;
use crate::error::FrameError;
use crate::raw::{BURST, Want};
use crate::session::Grant;
use smoltcp::iface::{
    Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet,
};
use smoltcp::socket::tcp::{self, CongestionControl};
use smoltcp::socket::{Socket, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

/// Frames sent before they are shown to the daemon.
const SEND_BURST: usize = 32;
/// Frames that one round may send: others get their turn after it.
const MOST_SENT: usize = 8 * SEND_BURST;
/// Closed sockets that are kept for their buffers.
const SPARE: usize = 32;

/// The clock of TCP timestamps. By the wall, so that it goes on from one process to the next that
/// gets the same port: kernels let a new connection replace one in TIME-WAIT only if it does.
#[expect(clippy::cast_possible_truncation, reason = "timestamps wrap around")]
fn milliseconds() -> u32 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u32)
}

/// Where TCP sockets come from and go to.
#[derive(Debug)]
pub(crate) struct TcpPool {
    spare: Vec<tcp::Socket<'static>>,
    receive_buffer: usize,
    send_buffer: usize,
    /// Frames of several joined segments come and go.
    joins: bool,
}

impl TcpPool {
    pub(crate) fn new(receive_buffer: usize, send_buffer: usize, joins: bool) -> Self {
        Self { spare: Vec::new(), receive_buffer, send_buffer, joins }
    }

    /// A socket with the settings of a new one.
    pub(crate) fn take(&mut self) -> tcp::Socket<'static> {
        let buffer = |size| tcp::SocketBuffer::new(vec![0; size]);
        let mut socket = self.spare.pop().unwrap_or_else(|| {
            tcp::Socket::new(buffer(self.receive_buffer), buffer(self.send_buffer))
        });
        socket.set_timeout(None);
        socket.set_keep_alive(None);
        socket.set_nagle_enabled(true);
        socket.set_hop_limit(None);
        if self.joins {
            // smoltcp answers every second frame at once and waits after the first. Of joined segments one
            // frame may be all that the sender's window holds: two clients would wait for each other.
            socket.set_ack_delay(None);
        }
        socket.set_tsval_generator(Some(milliseconds));
        socket.set_congestion_control(CongestionControl::Cubic);
        socket
    }

    pub(crate) fn put(&mut self, socket: Socket<'static>) {
        if let Socket::Tcp(mut socket) = socket
            && self.spare.len() < SPARE
        {
            // It belongs to no set any more, so this sends nothing.
            socket.abort();
            self.spare.push(socket);
        }
    }
}

/// Whether the stack's thread sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thread {
    Awake,
    /// Until a time, or for ever.
    Asleep(Option<Instant>),
}

/// The one thing behind the lock.
pub(crate) struct Engine {
    pub(crate) iface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    pub(crate) device: Device,
    pub(crate) pool: TcpPool,
    pub(crate) listeners: Listeners,
    pub(crate) closing: Closing,
    pub(crate) stopping: bool,
    groups: Groups,
    started: std::time::Instant,
    thread: Thread,
    /// Somebody has rung, and the thread has not read it yet.
    rung: bool,
    /// Why nothing works any more.
    failure: Option<(io::ErrorKind, String)>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("thread", &self.thread).finish_non_exhaustive()
    }
}

impl Engine {
    pub(crate) fn new(mut device: Device, grant: &Grant, pool: TcpPool) -> Self {
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(grant.mac)));
        // Seeds sequence numbers and the like: keys of the standard library's hasher are random.
        config.random_seed = RandomState::new().hash_one(grant.session);
        let mut iface = Interface::new(config, &mut device, Instant::ZERO);
        device.silence_groups();
        iface.update_ip_addrs(|addresses| {
            let v4 = grant.ipv4.map(|p| IpCidr::new(p.address.into(), p.prefix));
            let v6 = grant.ipv6.map(|p| IpCidr::new(p.address.into(), p.prefix));
            for address in v4.into_iter().chain(v6) {
                // There is room for four.
                let _ = addresses.push(address);
            }
        });
        if let Some(gateway) = grant.gateway4 {
            let _ = iface.routes_mut().add_default_ipv4_route(gateway);
        }
        if let Some(gateway) = grant.gateway6 {
            let _ = iface.routes_mut().add_default_ipv6_route(gateway);
        }
        let groups =
            Groups::new(grant.mac, grant.ipv4.map(|p| p.address), grant.ipv6.map(|p| p.address));
        Self {
            iface,
            sockets: SocketSet::new(Vec::new()),
            device,
            pool,
            listeners: Listeners::default(),
            closing: Closing::default(),
            stopping: false,
            groups,
            started: std::time::Instant::now(),
            thread: Thread::Awake,
            rung: false,
            failure: None,
        }
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::from_micros(i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    /// An error once nothing works any more.
    pub(crate) fn check(&self) -> io::Result<()> {
        match &self.failure {
            Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
            None => Ok(()),
        }
    }

    /// Ends everything: every socket is closed, everyone who waits is woken and finds why.
    pub(crate) fn fail(&mut self, kind: io::ErrorKind, text: String) {
        self.failure.get_or_insert((kind, text));
        for (_, socket) in self.sockets.iter_mut() {
            match socket {
                Socket::Tcp(socket) => socket.abort(),
                Socket::Udp(socket) => socket.close(),
                _ => {}
            }
        }
        self.listeners.notify_all();
    }

    /// Takes one burst in and sends what there is to send. Returns whether anything moved.
    pub(crate) fn round(&mut self) -> Result<bool, FrameError> {
        let now = self.now();
        let mut received = 0;
        while received < BURST {
            self.give_way_to_syn();
            self.hear_questions(now);
            match self.iface.poll_ingress_single(now, &mut self.device, &mut self.sockets) {
                PollIngressSingleResult::None => break,
                _ => received += 1,
            }
            self.listeners.serve(&mut self.sockets, &mut self.pool);
        }
        if received == 0 {
            self.iface.poll_maintenance(now);
        }
        let sent = self.egress(now)?;
        self.listeners.serve(&mut self.sockets, &mut self.pool);
        self.closing.serve(now, &mut self.sockets, &mut self.pool);
        Ok(received + sent > 0)
    }

    /// smoltcp ignores a SYN for a connection in TIME-WAIT, and the peer would try for ten seconds to
    /// reuse its port. The old connection goes instead, as in other stacks.
    fn give_way_to_syn(&mut self) {
        if self.closing.waits() && self.device.prepare() > 0 {
            let mut head = [0; syn::HEAD];
            let length = self.device.peek(&mut head);
            if let Some((local, remote)) = head.get(..length).and_then(syn::ends) {
                self.closing.give_way(local, remote, &mut self.sockets, &mut self.pool);
            }
        }
    }

    /// Routers ask which groups are joined.
    fn hear_questions(&mut self, now: Instant) {
        if self.groups.listens() && self.device.prepare() > 0 {
            let mut head = [0; groups::HEAD];
            let length = self.device.peek(&mut head);
            self.groups.hear(head.get(..length).unwrap_or_default(), now);
        }
    }

    /// A socket joins a group: its datagrams are let in, and whoever sends them here is told.
    pub(crate) fn join(&mut self, group: IpAddr) -> Result<(), TooMany> {
        let now = self.now();
        if self.groups.join(group, now)? && self.iface.join_multicast_group(group).is_err() {
            self.groups.leave(group, now);
            return Err(TooMany);
        }
        Ok(())
    }

    /// A socket leaves a group.
    pub(crate) fn leave(&mut self, group: IpAddr) {
        let now = self.now();
        if self.groups.leave(group, now) {
            // It is in the table, and a group.
            let _ = self.iface.leave_multicast_group(group);
        }
    }

    /// When there is something to do without a frame or a user, if ever.
    fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        let smoltcp = self.iface.poll_at(now, &self.sockets);
        smoltcp.into_iter().chain(self.groups.due()).min()
    }

    /// Sends what there is to send, flushed. Returns in how many goes.
    fn egress(&mut self, now: Instant) -> Result<usize, FrameError> {
        let mut sent = self.groups.speak(now, &mut self.device);
        while sent < MOST_SENT {
            match self.iface.poll_egress(now, &mut self.device, &mut self.sockets) {
                PollResult::None => break,
                PollResult::SocketStateChanged => sent += 1,
            }
            if sent.is_multiple_of(SEND_BURST) {
                self.device.flush()?;
            }
        }
        self.device.flush()?;
        Ok(sent)
    }

    /// After a user gave something to send or made room: sends it, and wakes the thread if its
    /// sleep is now too long.
    pub(crate) fn push(&mut self, bell: &OwnedFd) {
        let now = self.now();
        if let Err(error) = self.egress(now) {
            self.fail_with(&error);
        }
        self.closing.serve(now, &mut self.sockets, &mut self.pool);
        let Thread::Asleep(until) = self.thread else { return };
        let at = self.poll_at(now);
        if self.failure.is_some() || at.is_some_and(|at| until.is_none_or(|until| at < until)) {
            self.ring(bell);
        }
    }

    /// Wakes the thread.
    pub(crate) fn ring(&mut self, bell: &OwnedFd) {
        if !std::mem::replace(&mut self.rung, true) {
            // A full eventfd wakes as well.
            let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
        }
    }

    pub(crate) fn fail_with(&mut self, error: &FrameError) {
        let kind = match error {
            FrameError::Gone => io::ErrorKind::ConnectionAborted,
            FrameError::Broken(_) => io::ErrorKind::InvalidData,
            FrameError::System { source, .. } => source.kind(),
        };
        let cause = std::error::Error::source(error).map(|s| format!(": {s}")).unwrap_or_default();
        self.fail(kind, format!("{error}{cause}"));
    }

    /// Prepares the thread's sleep. `None`: there is something to do; otherwise for how long.
    pub(crate) fn lie_down(&mut self) -> Result<Option<Sleep>, FrameError> {
        let now = self.now();
        let starved = self.device.take_starved();
        if starved && self.device.frames().split().1.free() > 0 {
            return Ok(None);
        }
        let at = self.poll_at(now);
        let delay = at.map(|at| if at > now { at - now } else { Duration::ZERO });
        let (want, delay) = match delay {
            // smoltcp wants to go on and cannot without slots.
            _ if starved => (Want::Slots, Some(Duration::from_millis(10))),
            Some(Duration::ZERO) => return Ok(None),
            delay => (Want::Anything, delay),
        };
        if self.rung || !self.device.frames().lie_down(want)? {
            return Ok(None);
        }
        self.thread = Thread::Asleep(delay.map(|delay| now + delay));
        Ok(Some(Sleep(delay.map(Into::into))))
    }

    /// After the thread's sleep, or instead of it.
    pub(crate) fn rise(&mut self, bell: &OwnedFd) {
        if self.thread != Thread::Awake {
            self.thread = Thread::Awake;
            self.device.frames().rise();
        }
        if std::mem::take(&mut self.rung) {
            let _ = rustix::io::read(bell, &mut [0u8; 8]);
        }
    }

    /// Lets a connection go: see [`Closing`].
    pub(crate) fn let_go(&mut self, handle: SocketHandle, lease: Arc<Lease>) {
        let now = self.now();
        self.closing.add(now, handle, lease, &mut self.sockets, &mut self.pool);
    }

    pub(crate) fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub(crate) fn udp(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }
}

/// For how long the thread may sleep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sleep(pub(crate) Option<std::time::Duration>);
