//! The control thread: one loop over the socket, the connections, their processes, and the workers.
//!
//! ```text
//!   listener --accept--> Connection --message--> State::on --Action--> registry, memory, worker
//!   pidfd, hang-up, deadline, worker's events  --Input--^
//! ```
//!
//! - No call here waits for a client: every receive and send is `MSG_DONTWAIT`, a client that does
//!   not read loses its connection, and no descriptor is ever taken from one.
//! - One message of each connection a turn, so that none keeps the others waiting.
//! - Everything is bounded: connections, unfinished handshakes, sessions, ports, slots, and one
//!   unsent answer a connection.

mod attach;
mod capture;
mod change;
mod configure;
mod connection;
mod events;
mod host;
mod listener;
mod look;
mod ports;
mod prefixes;
mod report;
mod request;
mod reserve;
mod rules;

use super::kernel_ports::KernelPorts;
use super::memory::{Memory, MemoryError};
use super::registry::Registry;
use super::session::{Action, Input, State};
use crate::classify::Mac;
use crate::config::{Config, Network};
use crate::daemon::{KeeperLink, Serving, Workers};
use crate::session::InterfaceId;
use crate::snapshot::Snapshot;
use crate::switch::{Event, SwitchError};
use change::Change;
use connection::{Connection, Progress};
use events::Journal;
use listener::Listener;
use ports::Supply;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use thiserror::Error;
use usnet_shmring::control::{ChannelError, Message, RefusalCode};
use usnet_shmring::ledger::SessionId;

/// How long a connection may be silent before it attaches.
const HANDSHAKE: Duration = Duration::from_secs(1);
/// How long a client may take to read an answer.
const READING: Duration = Duration::from_secs(5);
/// Connections that one user may have without a session.
const UNATTACHED: usize = 64;
/// Connections in all.
const CONNECTIONS: usize = SessionId::LIMIT as usize + 512;
/// Connections accepted in one turn.
const ACCEPTS: usize = 16;

/// Keys of the epoll set below the connections' own.
const LISTENER: u64 = 0;
const STOP: u64 = 1;
const EVENTS: u64 = 2;
const NOTICES: u64 = 3;
const FIRST_CONNECTION: u64 = 8;

/// Why the control thread cannot start or go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The control socket cannot be had.
    #[error("cannot {what} the control socket {}", path.display())]
    Socket {
        /// What was tried.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another daemon answers there.
    #[error("another usnetd listens on {}", path.display())]
    Running {
        /// Its path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The port's slots cannot be had.
    #[error("cannot make the daemon's memory")]
    Memory(#[from] MemoryError),
    /// The host's ports with a remote end cannot be kept.
    #[error("cannot keep host_ports for some remote ends")]
    HostPorts {
        /// What a worker says.
        source: SwitchError,
    },
    /// A worker thread ended by itself.
    #[error("a worker thread has ended; this is a bug")]
    WorkerGone,
}

/// What the control plane knows of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedInterface {
    /// Its number in the switch.
    pub id: InterfaceId,
    /// Its name.
    pub name: String,
    /// The link address that clients send from.
    pub mac: Mac,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Addresses that host and clients share.
    pub networks: Vec<Network>,
    /// Routers.
    pub gateways: Vec<IpAddr>,
    /// Whether unfinished frames save work here: its port takes them, or there is none but the clients.
    pub unfinished: bool,
    /// How it is served.
    pub serving: Serving,
}

/// Stops a [`Server`] from any thread.
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<OwnedFd>);

impl StopHandle {
    /// A handle that stops nothing yet.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Arc::new(rustix::event::eventfd(0, flags)?)))
    }

    /// Asks for a graceful stop.
    pub fn stop(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl AsFd for StopHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The control thread's state.
#[derive(Debug)]
pub struct Server {
    config: Config,
    /// By number.
    interfaces: BTreeMap<usize, SharedInterface>,
    listener: Listener,
    epoll: OwnedFd,
    /// Kept for the epoll set.
    _stop: StopHandle,
    workers: Workers,
    keeper: KeeperLink,
    /// How each interface's ports are.
    supply: BTreeMap<usize, Supply>,
    /// Interfaces that come and go now.
    change: Option<Change>,
    memory: Memory,
    registry: Registry,
    kernel_ports: KernelPorts,
    connections: BTreeMap<u64, Connection>,
    /// Whose connection a session is, until its number is free again.
    sessions: BTreeMap<SessionId, u64>,
    next_key: u64,
    next_session: u16,
    started: Instant,
    /// The last counters, for those who ask often.
    snapshot: Option<(Instant, Snapshot)>,
    journal: Journal,
    /// How groups spread their flows; not known outside.
    spread_seed: u64,
    /// Of each capture, whether it is over.
    captures: Vec<Arc<AtomicBool>>,
}

fn system(what: &'static str) -> impl FnOnce(Errno) -> ServerError {
    move |errno| ServerError::System { what, source: errno.into() }
}

impl Server {
    /// Opens the control socket.
    ///
    /// # Errors
    /// [`ServerError`]; the workers are stopped then.
    pub(crate) fn new(
        config: Config,
        interfaces: Vec<SharedInterface>,
        workers: Workers,
        keeper: KeeperLink,
        memory: Memory,
        mut kernel_ports: KernelPorts,
        stop: StopHandle,
    ) -> Result<Self, ServerError> {
        let mut registry = Registry::new(super::registry::kernel_port_range());
        for interface in &interfaces {
            change::reserve(&mut registry, &kernel_ports, &config, interface);
            rules::keep_for_host(&mut registry, &workers, &config, interface)
                .map_err(|source| ServerError::HostPorts { source })?;
        }
        let (kernel, clients) = (&mut kernel_ports, &config.clients);
        reserve::set_reserved(&mut registry, kernel, clients, interfaces.iter());
        let listener = Listener::bind(&config.control)?;
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("wait for events"))?;
        let watched =
            [(listener.as_fd(), LISTENER), (stop.as_fd(), STOP), (keeper.notices.as_fd(), NOTICES)];
        let events = workers.descriptors().map(|descriptor| (descriptor, EVENTS));
        for (descriptor, key) in watched.into_iter().chain(events) {
            epoll::add(&epoll, descriptor, EventData::new_u64(key), EventFlags::IN)
                .map_err(system("wait for events"))?;
        }
        Ok(Self {
            config,
            supply: interfaces.iter().map(|i| (i.index(), Supply::default())).collect(),
            interfaces: interfaces.into_iter().map(|i| (i.index(), i)).collect(),
            change: None,
            listener,
            epoll,
            _stop: stop,
            workers,
            keeper,
            memory,
            registry,
            kernel_ports,
            connections: BTreeMap::new(),
            sessions: BTreeMap::new(),
            next_key: FIRST_CONNECTION,
            next_session: 0,
            started: Instant::now(),
            snapshot: None,
            journal: Journal::default(),
            spread_seed: RandomState::new().hash_one("spread"),
            captures: Vec::new(),
        })
    }

    /// Serves until it is stopped; then every session has ended, every port is closed and the
    /// socket is gone.
    ///
    /// # Errors
    /// [`ServerError`]: the worker ended by itself, or the kernel refused to wait.
    pub fn run(mut self) -> Result<(), ServerError> {
        let mut ready =
            [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 64];
        let result = loop {
            let timeout = self.next_deadline();
            let count = match epoll::wait(&self.epoll, &mut ready[..], timeout.as_ref()) {
                Ok(count) => count,
                Err(Errno::INTR) => 0,
                Err(errno) => break Err(system("wait for events")(errno)),
            };
            let ready = ready.get(..count).unwrap_or_default();
            if ready.iter().any(|event| event.data.u64() == STOP) {
                break Ok(());
            }
            for event in ready {
                // The packed structure gives no references.
                let (key, flags) = (event.data.u64(), event.flags);
                match key {
                    LISTENER => self.accept(),
                    EVENTS => self.take_events(),
                    NOTICES => self.take_notices(),
                    _ => self.serve(key >> 1, key & 1 == 1, flags),
                }
            }
            self.expire();
            self.tell_followers();
            if self.workers.is_broken() {
                break Err(ServerError::WorkerGone);
            }
        };
        self.shut_down();
        result
    }

    /// Tells everyone, then stops the workers.
    fn shut_down(self) {
        let Self { listener, connections, workers, keeper, .. } = self;
        drop(listener);
        let clients = connections.values().filter(|c| c.state == State::Attached).count();
        tracing::info!(clients, "stopping");
        // Before the ports close: what arrives in between would be for nobody.
        keeper.let_kernel_hear();
        if let Err(error) = workers.stop() {
            tracing::error!(%error, "a worker did not stop as it should");
        }
        // After the workers: what a client sees now is final.
        for connection in connections.values().filter(|c| c.attachment.is_some()) {
            let _ = connection.send(0, &Message::Detached, &[]);
        }
    }

    // ---- connections ----

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            match self.listener.accept() {
                Ok(Some(socket)) => self.welcome(socket),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "a connection was turned away");
                    return;
                }
            }
        }
    }

    fn welcome(&mut self, socket: OwnedFd) {
        let connection = match Connection::accepted(socket, Instant::now() + HANDSHAKE) {
            Ok(connection) => connection,
            Err(error) => return tracing::debug!(%error, "a connection without identity"),
        };
        let uid = connection.peer.uid;
        let is_waiting = |c: &&Connection| c.attachment.is_none() && c.peer.uid == uid;
        let waiting = self.connections.values().filter(is_waiting).count();
        if waiting >= UNATTACHED || self.connections.len() >= CONNECTIONS {
            let text = "too many connections without a session";
            let _ = connection.send(0, &Message::refused(RefusalCode::Exhausted, text), &[]);
            return;
        }
        let key = self.next_key;
        self.next_key += 1;
        let watch = EventFlags::IN | EventFlags::RDHUP;
        let socket = connection.socket().map(|fd| (fd, key << 1, watch));
        let pidfd = connection.pidfd().map(|fd| (fd, key << 1 | 1, EventFlags::IN));
        for (descriptor, key, flags) in socket.into_iter().chain(pidfd) {
            if let Err(error) = epoll::add(&self.epoll, descriptor, EventData::new_u64(key), flags)
            {
                return tracing::warn!(%error, "a connection cannot be watched");
            }
        }
        self.connections.insert(key, connection);
    }

    /// Something happened on a connection or to its process.
    fn serve(&mut self, key: u64, is_process: bool, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if is_process {
            tracing::debug!(pid = connection.peer.pid, "process ended");
            return self.apply(key, Input::Lost);
        }
        if connection.follows.is_some() || connection.waits {
            // It waits for events, or for interfaces, and is not read from before it has them.
            if flags.intersects(EventFlags::HUP | EventFlags::RDHUP | EventFlags::ERR) {
                self.apply(key, Input::Lost);
            }
            return;
        }
        if connection.is_sending() {
            match connection.proceed() {
                Progress::Done => self.sent(key),
                Progress::Waits if !flags.intersects(EventFlags::HUP | EventFlags::ERR) => {}
                Progress::Waits | Progress::Lost => self.apply(key, Input::Lost),
            }
            return;
        }
        match connection.receive() {
            Ok((request, message)) => self.receive(key, request, &message),
            Err(error) if error.is_would_block() => {
                if flags.intersects(EventFlags::HUP | EventFlags::RDHUP | EventFlags::ERR) {
                    self.apply(key, Input::Lost);
                }
            }
            Err(ChannelError::Malformed { length }) => {
                tracing::debug!(length, "a malformed message");
                self.apply(key, Input::Malformed);
            }
            Err(_) => self.apply(key, Input::Lost),
        }
    }

    /// When the next connection has taken too long.
    fn next_deadline(&self) -> Option<Timespec> {
        let next = self.connections.values().filter_map(|c| c.deadline).min()?;
        // A millisecond more, so that it has passed when the wait is over.
        let wait = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(wait).ok()
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let late = |(key, c): (&u64, &Connection)| {
            c.deadline.is_some_and(|deadline| deadline <= now).then_some(*key)
        };
        let late: Vec<u64> = self.connections.iter().filter_map(late).collect();
        for key in late {
            tracing::debug!(connection = key, "took too long");
            self.apply(key, Input::Lost);
        }
    }

    // ---- states ----

    /// Moves a connection on and does what that asks for, but for requests.
    fn apply(&mut self, key: u64, input: Input) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let (state, action) = connection.state.on(input);
        connection.state = state;
        let session = connection.attachment.as_ref().map(|a| a.id);
        let detach = |id: Option<SessionId>| id.into_iter().for_each(|id| self.workers.detach(id));
        let protocol =
            || Message::refused(RefusalCode::Protocol, "this message is not allowed now");
        match action {
            Action::Nothing | Action::Attach | Action::Answer => {}
            Action::Refuse => {
                let _ = connection.send(0, &protocol(), &[]);
                self.connections.remove(&key);
            }
            Action::RefuseAndDetach => {
                let _ = connection.send(0, &protocol(), &[]);
                connection.hang_up();
                detach(session);
            }
            Action::HangUp if state == State::Gone => {
                self.connections.remove(&key);
            }
            Action::HangUp => connection.hang_up(),
            Action::HangUpAndDetach => {
                connection.hang_up();
                detach(session);
            }
            Action::Detach => {
                // It may still take the answer, but not for ever.
                connection.deadline = Some(Instant::now() + READING);
                detach(session);
            }
            Action::Farewell => {
                let freed = self.free_claims(key);
                tracing::debug!(?session, claims = freed, "claims freed");
                if let Some(connection) = self.connections.get_mut(&key) {
                    let _ = connection.send(connection.detach_request, &Message::Detached, &[]);
                    connection.hang_up();
                }
            }
            Action::Forget => {
                if let Some(id) = session {
                    self.free_claims(key);
                    self.registry.forget(id);
                    self.sessions.remove(&id);
                }
                self.connections.remove(&key);
            }
        }
    }

    /// Frees the claims of a session to which no rule leads any more. Returns how many there were.
    fn free_claims(&mut self, key: u64) -> usize {
        let attachment = self.connections.get(&key).and_then(|c| c.attachment.as_ref());
        let Some((id, interface)) = attachment.map(|a| (a.id, a.interface)) else { return 0 };
        let freed = self.registry.end(id);
        for grant in &freed {
            self.kernel_ports.give_back(interface, grant);
        }
        freed.len()
    }

    /// An answer was sent in full.
    fn sent(&mut self, key: u64) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let attached = connection.state == State::Attached;
        connection.deadline = (!attached).then(|| Instant::now() + HANDSHAKE);
        self.watch(key, EventFlags::IN | EventFlags::RDHUP);
    }

    /// Begins to send a text. Until the client has it, its next request is not read.
    fn send_text(&mut self, key: u64, request: u32, text: String) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        match connection.send_text(request, text) {
            Progress::Done => self.sent(key),
            Progress::Waits => {
                connection.deadline = Some(Instant::now() + READING);
                self.watch(key, EventFlags::OUT);
            }
            Progress::Lost => self.apply(key, Input::Lost),
        }
    }

    fn watch(&self, key: u64, flags: EventFlags) {
        let socket = self.connections.get(&key).and_then(Connection::socket);
        if let Some(socket) = socket {
            let _ = epoll::modify(&self.epoll, socket, EventData::new_u64(key << 1), flags);
        }
    }

    /// Sends one message; a client that cannot take it is lost.
    fn send(&mut self, key: u64, request: u32, message: &Message) {
        let sent = self.connections.get(&key).map(|c| c.send(request, message, &[]));
        if let Some(Err(error)) = sent {
            tracing::debug!(%error, "a client does not take its answer");
            self.apply(key, Input::Lost);
        }
    }

    // ---- the workers ----

    /// What the workers have to say.
    fn take_events(&mut self) {
        for event in self.workers.take_events() {
            match event {
                Event::SessionEnded { id, fault, recovered, away, counters } => {
                    let (delivered, sent) = (counters.delivered, counters.sent);
                    let words = fault.as_ref().map(ToString::to_string);
                    self.tell_ended(id, words.as_deref(), (recovered, away), (delivered, sent));
                    match fault {
                        Some(fault) => {
                            tracing::warn!(session = %id, %fault, recovered, away, "client cut off");
                        }
                        None => {
                            tracing::info!(session = %id, recovered, away, delivered, sent, "ended");
                        }
                    }
                    self.session_input(id, Input::Ended);
                }
                Event::SessionGone(id) => self.session_input(id, Input::Home),
                Event::RangesClosed(ranges) => self.memory.take_back(ranges),
                Event::PortGone { interface, name, error } => {
                    self.port_gone(interface, &name, &error);
                }
            }
        }
    }

    fn session_input(&mut self, id: SessionId, input: Input) {
        if let Some(key) = self.sessions.get(&id).copied() {
            self.apply(key, input);
        }
    }
}
