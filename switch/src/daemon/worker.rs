//! The thread around a [`Switch`]: the only loop on the data path.
//!
//! ```text
//!   loop: commands -> step -> nothing to do for `spin`? -> raise sleep flags, look again -> epoll
//!                                                          woken by: a client's kick, a port,
//!                                                          a command, a due time, 100 ms
//! ```
//!
//! - The control thread talks to it by messages and never touches its state; a command takes effect
//!   between two steps, so the next frame meets it.
//! - While it works there is no system call but those of the ports; while nothing moves it sleeps,
//!   with a slow timer as a belt.
//! - Kick eventfds are shared with clients: they are watched edge-triggered and never read, so that
//!   nothing a client does to them can block the thread.

use super::event::EventSink;
use crate::classify::Protocol;
use crate::config::Services;
use crate::session::InterfaceId;
use crate::session::SessionSpec;
use crate::snapshot::Snapshot;
use crate::steer::Rule;
use crate::steer::book::{Book, WorkerId};
use crate::switch::{Event, InterfaceSpec, Switch, SwitchError};
use crate::time::Time;
use core::time::Duration;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Instant;
use usnet_shmring::ledger::SessionId;

/// Longest sleep: a belt against a wake-up that never came.
const SAFETY: Duration = Duration::from_millis(100);
/// How soon a port with frames that found no room is tried again.
const BACKLOG: Duration = Duration::from_micros(100);

/// Steps that are made at the end for what has arrived before: enough for full rings of a port.
const LAST_STEPS: usize = 64;

/// What to do when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdlePolicy {
    /// How long to look for work before sleeping; `None` for ever.
    pub spin: Option<Duration>,
    /// Processor to stay on.
    pub cpu: Option<usize>,
}

/// A question to the worker's switch, at the worker's time; it answers by itself.
pub(super) type Looker = Box<dyn FnOnce(&mut Switch, Time) + Send>;

enum Command {
    Attach(Box<SessionSpec>, OwnedFd, Sender<Result<(), SwitchError>>),
    Detach(SessionId),
    Listen(Listen, Sender<Result<(), SwitchError>>),
    Snapshot(Sender<Snapshot>),
    Look(Looker),
    Retire(InterfaceId, bool, Sender<Result<bool, SwitchError>>),
    Replace(InterfaceId, Box<InterfaceSpec>, Sender<Result<(), SwitchError>>),
    Add(InterfaceId, Box<Added>, Sender<Result<(), SwitchError>>),
    Remove(InterfaceId, Sender<Result<(), SwitchError>>),
    Stop,
}

/// An interface that one worker gets while it runs.
pub(super) struct Added {
    pub(super) spec: InterfaceSpec,
    /// What it learns together with the others, if there are any.
    pub(super) book: Option<(Arc<Book>, WorkerId)>,
    /// Where flows are learned, if not everywhere.
    pub(super) flow_ports: Option<Services>,
    /// What is the host's from the first frame on.
    pub(super) host_rules: Vec<Rule>,
    /// What interface it is a VLAN of, and which.
    pub(super) vlan: Option<(InterfaceId, u16)>,
}

/// A handle to the worker thread for whoever opens ports; it keeps nothing running.
#[derive(Clone, Debug)]
pub(super) struct PortCommands {
    commands: Sender<Command>,
    bell: Arc<OwnedFd>,
}

impl PortCommands {
    fn send(&self, command: Command) {
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// As [`Switch::retire_ports`]; `None` if the worker is gone.
    pub(super) fn retire(
        &self,
        interface: InterfaceId,
        in_any_case: bool,
    ) -> Option<Result<bool, SwitchError>> {
        let (answer, wait) = channel();
        self.send(Command::Retire(interface, in_any_case, answer));
        wait.recv().ok()
    }

    /// As [`Switch::replace_ports`]; `None` if the worker is gone.
    pub(super) fn replace(
        &self,
        interface: InterfaceId,
        spec: InterfaceSpec,
    ) -> Option<Result<(), SwitchError>> {
        let (answer, wait) = channel();
        self.send(Command::Replace(interface, Box::new(spec), answer));
        wait.recv().ok()
    }

    /// As [`Switch::remove_interface`], after what has arrived before; `None` if the worker is gone.
    pub(super) fn remove(&self, interface: InterfaceId) -> Option<Result<(), SwitchError>> {
        let (answer, wait) = channel();
        self.send(Command::Remove(interface, answer));
        wait.recv().ok()
    }
}

struct Listen {
    interface: InterfaceId,
    address: IpAddr,
    protocol: Protocol,
    first: u16,
    count: u16,
    to: Option<SessionId>,
}

/// The control thread's handle to the worker thread. Dropping it stops the worker.
#[derive(Debug)]
pub struct Worker {
    commands: Sender<Command>,
    bell: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread of worker `number`.
    ///
    /// # Errors
    /// No descriptors, or no thread.
    pub fn start(
        switch: Switch,
        idle: IdlePolicy,
        events: EventSink,
        number: usize,
    ) -> io::Result<Self> {
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let bell = Arc::new(bell);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &bell, EventData::new_u64(0), EventFlags::IN)?;
        for descriptor in switch.descriptors() {
            epoll::add(&epoll, descriptor, EventData::new_u64(0), EventFlags::IN)?;
        }
        let (commands, inbox) = channel();
        let state = State {
            switch,
            idle,
            inbox,
            bell: Arc::clone(&bell),
            epoll,
            kicks: HashMap::new(),
            events,
            started: Instant::now(),
        };
        let name =
            if number == 0 { "usnetd-worker".into() } else { format!("usnetd-wrk-{number}") };
        let thread = std::thread::Builder::new().name(name);
        let thread = Some(thread.spawn(move || state.run())?);
        Ok(Self { commands, bell, thread })
    }

    /// What opens ports again gets this.
    pub(super) fn port_commands(&self) -> PortCommands {
        PortCommands { commands: self.commands.clone(), bell: Arc::clone(&self.bell) }
    }

    fn send(&self, command: Command) -> bool {
        let sent = self.commands.send(command).is_ok();
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        sent
    }

    /// Sends a command and waits for its answer; `None` if the worker is gone.
    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Option<T> {
        let (answer, wait) = channel();
        self.send(command(answer));
        wait.recv().ok()
    }

    /// Attaches a session, whose client kicks by `kick`.
    ///
    /// # Errors
    /// As [`Switch::attach`]; [`SwitchError::Stopped`] if the worker is gone.
    pub fn attach(&self, spec: SessionSpec, kick: OwnedFd) -> Result<(), SwitchError> {
        self.ask(|answer| Command::Attach(Box::new(spec), kick, answer))
            .unwrap_or(Err(SwitchError::Stopped))
    }

    /// Ends a session. [`Event::SessionEnded`] follows.
    pub fn detach(&self, id: SessionId) {
        self.send(Command::Detach(id));
    }

    /// Gives ports to a session, or takes them away. When this returns, the next frame meets it.
    ///
    /// # Errors
    /// As [`Switch::set_listener`]; [`SwitchError::Stopped`] if the worker is gone.
    pub fn set_listener(
        &self,
        interface: InterfaceId,
        address: IpAddr,
        protocol: Protocol,
        first: u16,
        count: u16,
        to: Option<SessionId>,
    ) -> Result<(), SwitchError> {
        let listen = Listen { interface, address, protocol, first, count, to };
        self.ask(|answer| Command::Listen(listen, answer)).unwrap_or(Err(SwitchError::Stopped))
    }

    /// Adds an interface under this number.
    ///
    /// # Errors
    /// As [`Switch::add_interface_at`]; [`SwitchError::Stopped`] if the worker is gone.
    pub(super) fn add(&self, interface: InterfaceId, added: Added) -> Result<(), SwitchError> {
        self.ask(|answer| Command::Add(interface, Box::new(added), answer))
            .unwrap_or(Err(SwitchError::Stopped))
    }

    /// Asks for all counters; no answer comes if the worker is gone.
    pub(super) fn ask_snapshot(&self) -> Receiver<Snapshot> {
        let (answer, wait) = channel();
        self.send(Command::Snapshot(answer));
        wait
    }

    /// Asks something else; no answer comes if the worker is gone.
    pub(super) fn ask_look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Switch, Time) -> T + Send + 'static,
    ) -> Receiver<T> {
        let (answer, wait) = channel();
        self.send(Command::Look(Box::new(move |switch, now| {
            let _ = answer.send(look(switch, now));
        })));
        wait
    }

    /// Ends all sessions, closes all ports and waits for the thread.
    ///
    /// # Errors
    /// The thread had panicked.
    pub fn stop(mut self) -> io::Result<()> {
        self.join()
    }

    fn join(&mut self) -> io::Result<()> {
        self.send(Command::Stop);
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(io::Error::other("the worker thread has panicked")),
            _ => Ok(()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.thread.is_some() && self.join().is_err() {
            tracing::error!("the worker thread has panicked");
        }
    }
}

struct State {
    switch: Switch,
    idle: IdlePolicy,
    inbox: Receiver<Command>,
    bell: Arc<OwnedFd>,
    epoll: OwnedFd,
    /// Kept for the epoll set; never read.
    kicks: HashMap<SessionId, OwnedFd>,
    events: EventSink,
    started: Instant,
}

impl State {
    fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn run(mut self) {
        if let Some(cpu) = self.idle.cpu {
            let mut set = CpuSet::new();
            set.set(cpu);
            if let Err(error) = sched_setaffinity(None, &set) {
                tracing::warn!(cpu, %error, "the worker cannot stay on its processor");
            }
        }
        let mut idle_since = self.now();
        while self.obey() {
            let now = self.now();
            if self.switch.step(now) > 0 {
                self.report();
                idle_since = now;
                continue;
            }
            self.report();
            match self.idle.spin {
                Some(spin) if now.since(idle_since) >= spin => {
                    self.sleep();
                    idle_since = self.now();
                }
                _ => std::hint::spin_loop(),
            }
        }
        self.make_last_steps();
        for (_, kick) in self.kicks.drain() {
            let _ = epoll::delete(&self.epoll, &kick);
        }
        drop(self.switch.close());
    }

    /// What arrived before the kernel heard for itself again still gets to it.
    fn make_last_steps(&mut self) {
        for _ in 0..LAST_STEPS {
            if self.switch.step(self.now()) == 0 {
                break;
            }
            self.report();
        }
    }

    /// Carries out all commands that wait. Returns false when the worker has to stop.
    fn obey(&mut self) -> bool {
        loop {
            let command = match self.inbox.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            };
            match command {
                Command::Attach(spec, kick, answer) => {
                    let _ = answer.send(self.attach(*spec, kick));
                }
                Command::Detach(id) => {
                    self.switch.detach(id);
                    // Before the next command is answered, so that whoever waits for that knows.
                    self.report();
                }
                Command::Listen(l, answer) => {
                    let _ = answer.send(self.listen(&l));
                }
                Command::Snapshot(answer) => {
                    let _ = answer.send(self.switch.snapshot());
                }
                Command::Look(look) => {
                    let now = self.now();
                    look(&mut self.switch, now);
                }
                Command::Retire(interface, in_any_case, answer) => {
                    let _ = answer.send(self.switch.retire_ports(interface, in_any_case));
                }
                Command::Replace(interface, spec, answer) => {
                    let _ = answer.send(self.replace(interface, *spec));
                }
                Command::Add(interface, added, answer) => {
                    let _ = answer.send(self.add(interface, *added));
                }
                Command::Remove(interface, answer) => {
                    self.make_last_steps();
                    let removed = self.switch.remove_interface(interface);
                    // Before the answer, so that nothing is said of its number after it.
                    self.report();
                    let _ = answer.send(removed);
                }
                Command::Stop => return false,
            }
        }
    }

    fn listen(&mut self, l: &Listen) -> Result<(), SwitchError> {
        // The session may have ended while the command was on its way; a rule of it would outlive it
        // and speak for the next session of that number.
        if let Some(id) = l.to.filter(|id| !self.kicks.contains_key(id)) {
            return Err(SwitchError::SessionNumber(id));
        }
        self.switch.set_listener(l.interface, l.address, l.protocol, l.first, l.count, l.to)
    }

    fn attach(&mut self, spec: SessionSpec, kick: OwnedFd) -> Result<(), SwitchError> {
        let id = spec.id;
        self.switch.attach(spec)?;
        let watch = EventFlags::IN | EventFlags::ET;
        if let Err(error) = epoll::add(&self.epoll, &kick, EventData::new_u64(0), watch) {
            // The safety timer still serves the client.
            tracing::warn!(session = %id, %error, "cannot watch a client's kicks");
        }
        self.kicks.insert(id, kick);
        Ok(())
    }

    fn replace(&mut self, id: InterfaceId, spec: InterfaceSpec) -> Result<(), SwitchError> {
        // Those of ports that are closed left the set when they were closed.
        self.switch.replace_ports(id, spec)?;
        self.watch_ports(id);
        Ok(())
    }

    fn add(&mut self, id: InterfaceId, added: Added) -> Result<(), SwitchError> {
        let Added { spec, book, flow_ports, host_rules, vlan } = added;
        self.switch.add_interface_at(id, spec)?;
        if let Some((book, worker)) = book {
            self.switch.share_flows(id, book, worker)?;
        }
        if let Some(ports) = flow_ports {
            self.switch.set_flow_ports(id, ports)?;
        }
        for rule in &host_rules {
            self.switch.give_rule(id, rule, crate::verdict::Receiver::Host)?;
        }
        if let Some((of, number)) = vlan {
            self.switch.set_vlan(id, of, number)?;
        }
        self.watch_ports(id);
        Ok(())
    }

    fn watch_ports(&self, id: InterfaceId) {
        for descriptor in self.switch.descriptors_of(id) {
            let added = epoll::add(&self.epoll, descriptor, EventData::new_u64(0), EventFlags::IN);
            if let Err(error) = added {
                // The safety timer still serves it.
                tracing::warn!(interface = id.0, %error, "cannot watch a port");
            }
        }
    }

    /// Passes on what happened.
    fn report(&mut self) {
        if !self.switch.has_events() {
            return;
        }
        for event in self.switch.take_events() {
            if let Event::SessionEnded { id, .. } = &event
                && let Some(kick) = self.kicks.remove(id)
            {
                let _ = epoll::delete(&self.epoll, &kick);
            }
            self.events.send(event);
        }
    }

    fn sleep(&mut self) {
        if !self.switch.prepare_sleep() {
            return;
        }
        let mut longest = SAFETY;
        if self.switch.has_backlog() {
            longest = BACKLOG;
        }
        if let Some(due) = self.switch.next_event() {
            longest = longest.min(due.since(self.now()));
        }
        let longest = Timespec { tv_sec: 0, tv_nsec: longest.subsec_nanos().into() };
        let mut woken =
            [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 8];
        let _ = epoll::wait(&self.epoll, &mut woken[..], Some(&longest));
        self.switch.woke();
        let _ = rustix::io::read(self.bell.as_fd(), &mut [0; 8]);
    }
}
