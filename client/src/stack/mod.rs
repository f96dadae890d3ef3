//! One TCP/IP stack over one session: smoltcp, a thread that drives it, and ports.
//!
//! ```text
//!   users of sockets ---- lock ----> Engine <---- lock ---- thread
//!     copy in or out, send at once      ^                   frames, timers, accept queues
//!     wait on their own signal          |                   sleeps on wake socket, bell, timer
//!                                       +-- smoltcp wakes exactly those signals that concern it
//! ```
//!
//! - Whoever gives data sends it: the thread is woken only if a timer must be set earlier.
//! - The thread holds the lock for one burst at a time and steps aside for users who wait for it.
//! - No call to the daemon is made under the lock.

mod closing;
mod engine;
mod groups;
mod listener;
mod ports;
mod signal;
mod syn;

pub(crate) use engine::Engine;
pub(crate) use groups::is_report;
pub(crate) use listener::ListenerId;
pub(crate) use ports::Lease;
pub(crate) use signal::Signal;

use crate::device::Device;
use crate::error::AttachError;
use crate::raw::Waiter;
use crate::session::{Grant, Options, Session};
use engine::{Sleep, TcpPool};
use ports::Ports;
use rustix::event::{EventfdFlags, eventfd};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How a stack is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackOptions {
    /// How to attach.
    pub session: Options,
    /// Bytes of each TCP connection's receive buffer, which is also its largest window.
    pub receive_buffer: usize,
    /// Bytes of each TCP connection's send buffer.
    pub send_buffer: usize,
    /// Bytes of each UDP socket's two buffers.
    pub datagram_buffer: usize,
    /// Connections that a listener keeps before they are accepted.
    pub backlog: usize,
    /// How long the end of the stack waits for peers to confirm the end of connections.
    pub linger: Duration,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self {
            session: Options { unfinished: true, ..Options::default() },
            receive_buffer: 512 << 10,
            send_buffer: 512 << 10,
            datagram_buffer: 512 << 10,
            backlog: 128,
            linger: Duration::from_secs(3),
        }
    }
}

impl StackOptions {
    /// The default with a name for status output.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let session = Options { unfinished: true, ..Options::named(name) };
        Self { session, ..Self::default() }
    }
}

/// A TCP/IP stack on the interface that the daemon shares. Clones are handles to the same stack; it
/// ends when the last handle and the last socket are gone.
#[derive(Clone)]
pub struct Stack {
    handle: Arc<Handle>,
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack").field("grant", &self.shared().grant).finish_non_exhaustive()
    }
}

impl Stack {
    /// Attaches to the daemon and starts a stack.
    ///
    /// # Errors
    /// [`AttachError`] as an [`io::Error`], or what kept the thread from being started.
    pub fn attach(options: StackOptions) -> io::Result<Self> {
        let session: Result<Session, AttachError> = Session::attach(options.session.clone());
        Self::over(session?, options)
    }

    /// Starts a stack over a session that is there already.
    ///
    /// # Errors
    /// What kept the thread from being started.
    pub fn over(session: Session, options: StackOptions) -> io::Result<Self> {
        let (grant, control, frames) = session.into_parts();
        let waiter = frames.waiter()?;
        let device = Device::new(frames, &grant);
        let pool = TcpPool::new(options.receive_buffer, options.send_buffer, device.joins());
        let shared = Arc::new(Shared {
            engine: Mutex::new(Engine::new(device, &grant, pool)),
            queued: AtomicU32::new(0),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            ports: Ports::new(control),
            grant,
            options,
        });
        let own = Arc::clone(&shared);
        let thread =
            thread::Builder::new().name("usnet-stack".into()).spawn(move || run(&own, &waiter))?;
        Ok(Self { handle: Arc::new(Handle { shared, thread: Some(thread) }) })
    }

    /// What the daemon granted: addresses, MTU, mode.
    #[must_use]
    pub fn grant(&self) -> &Grant {
        &self.shared().grant
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Whether a socket may use this local address.
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        let grant = self.grant();
        match address {
            IpAddr::V4(v4) => v4.is_unspecified() || grant.ipv4.is_some_and(|p| p.address == v4),
            IpAddr::V6(v6) => v6.is_unspecified() || grant.ipv6.is_some_and(|p| p.address == v6),
        }
    }
}

/// The thread's owner: the last one to go ends the stack.
struct Handle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut engine = self.shared.lock();
        engine.stopping = true;
        engine.ring(&self.shared.bell);
        drop(engine);
        if let Some(thread) = self.thread.take() {
            // Its panic has been reported as a failure of every socket.
            let _ = thread.join();
        }
    }
}

/// What sockets and the thread share.
pub(crate) struct Shared {
    engine: Mutex<Engine>,
    /// Users who wait for the lock.
    queued: AtomicU32,
    pub(crate) bell: OwnedFd,
    pub(crate) ports: Ports,
    pub(crate) grant: Grant,
    pub(crate) options: StackOptions,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Engine> {
        if let Ok(engine) = self.engine.try_lock() {
            return engine;
        }
        self.queued.fetch_add(1, Ordering::Relaxed);
        let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        self.queued.fetch_sub(1, Ordering::Relaxed);
        engine
    }

    /// Steps aside while users wait for the lock, so that a busy thread does not starve them.
    fn let_users_in(&self) {
        for _ in 0..64 {
            if self.queued.load(Ordering::Relaxed) == 0 {
                return;
            }
            thread::yield_now();
        }
    }
}

/// Says so if the thread panics, so that nobody waits for ever.
struct Obituary<'a>(&'a Shared);

impl Drop for Obituary<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let text = "the thread of the stack has panicked".to_owned();
            self.0.lock().fail(io::ErrorKind::Other, text);
        }
    }
}

/// The thread.
fn run(shared: &Shared, waiter: &Waiter) {
    let _obituary = Obituary(shared);
    let mut last_call = None;
    loop {
        let mut engine = shared.lock();
        let step =
            engine.round().and_then(|moved| if moved { Ok(None) } else { engine.lie_down() });
        if engine.stopping {
            let limit = *last_call.get_or_insert_with(|| Instant::now() + shared.options.linger);
            if engine.closing.unfinished() == 0 || Instant::now() >= limit {
                engine.rise(&shared.bell);
                engine.closing.forget();
                break;
            }
        }
        let slept = match step {
            Ok(None) => Ok(()),
            Ok(Some(Sleep(limit))) => {
                let limit = match last_call {
                    Some(end) => {
                        let left = end.saturating_duration_since(Instant::now());
                        Some(limit.map_or(left, |limit| limit.min(left)))
                    }
                    None => limit,
                };
                drop(engine);
                let slept = waiter.sleep(limit, &[shared.bell.as_fd()]);
                engine = shared.lock();
                slept
            }
            Err(error) => Err(error),
        };
        engine.rise(&shared.bell);
        if let Err(error) = slept {
            engine.fail_with(&error);
            return;
        }
        drop(engine);
        if shared.ports.unsettled() {
            shared.ports.settle();
        }
        shared.let_users_in();
    }
    shared.ports.settle();
}
