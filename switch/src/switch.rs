//! The core: one worker's whole state, driven step by step.
//!
//! ```text
//!   step(now):  fill rings -> wire ports -> host ports -> tx rings -> publish, wake, transmit
//! ```
//!
//! - No thread, no clock, no I/O but that of the ports it was given: the daemon wraps a thread around
//!   it, tests and fuzzers call it directly with a virtual clock and the `wire` port.
//! - Each source gets at most one burst a step, so none starves another.
//! - After a step every frame that came in is accounted for ([`Totals`](crate::stats::Totals)), and every slot has one
//!   owner ([`Snapshot::slots`](crate::snapshot::Snapshot::slots)).

mod lanes;
mod look;
mod places;
mod replace;
mod rules;

use crate::capture::Place;
use crate::classify::{Address, HEAD_LEN, Mac, Protocol};
use crate::config::{Services, Unmatched};
use crate::deliver::{Deliver, Sent, tx_budget};
use crate::interface::{Interface, Outlet};
use crate::learned::Learned;
use crate::net::guard::Pass;
use crate::port::netmap::Glimpses;
use crate::port::{BURST, Burst, Port};
use crate::session::{InterfaceId, Session, SessionSpec, Waker};
use crate::stats::SessionCounters;
use crate::steer::book::{Book, WorkerId};
use crate::time::Time;
use crate::verdict::{DropReason, Receiver};
use places::Places;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use thiserror::Error;
use usnet_shmring::arena::SlotRange;
use usnet_shmring::descriptor::{Fault, RawDescriptor};
use usnet_shmring::ledger::SessionId;
use usnet_shmring::pool::{HomeError, HomeKind, Pool};

/// All that an interface is made of.
#[derive(Debug)]
pub struct InterfaceSpec {
    /// Its link address, shared by the kernel and the clients.
    pub mac: Mac,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Addresses that it serves; what no client claims there goes to the host.
    pub addresses: Vec<IpAddr>,
    /// Where the network is.
    pub wire: Box<dyn Port>,
    /// Where what no client claims goes, if anywhere.
    pub host: Option<Box<dyn Port>>,
    /// Whom the host port leads to.
    pub behind: Behind,
    /// Whether frames may go from one of its ports to the other without becoming slots, where both are
    /// able to.
    pub cut_through: bool,
    /// What the kernel hears on the interface itself, behind its guard, so that the switch must not
    /// pass it on to the host port. Empty where the host port is the kernel's only way in.
    pub kernel_hears: Vec<Pass>,
    /// What whoever sends to a port that nobody has hears, where there is no host port.
    pub unmatched: Unmatched,
}

/// Whom the host port of an interface leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behind {
    /// The kernel's stack, which has the interface's link address.
    #[default]
    Kernel,
    /// Another network: the interface is a bump in the wire between two.
    Network,
}

/// Why a session or a rule was not taken.
#[derive(Debug, Error)]
pub enum SwitchError {
    /// No interface has this number.
    #[error("no interface {0:?}")]
    NoInterface(InterfaceId),
    /// Too many interfaces.
    #[error("a switch has at most 256 interfaces")]
    TooManyInterfaces,
    /// Another interface has the number.
    #[error("interface number {} is not free", .0.0)]
    InterfaceNumber(InterfaceId),
    /// The number is in use, or too large.
    #[error("session number {0} is not free")]
    SessionNumber(SessionId),
    /// The transmit pool is larger than the completion ring.
    #[error("{slots} transmit slots do not fit into a completion ring of {capacity}")]
    TransmitSlots {
        /// Slots of the transmit pool.
        slots: u32,
        /// Cells of the completion ring.
        capacity: u32,
    },
    /// The slots cannot be used.
    #[error("cannot use the session's slots")]
    Slots(#[from] HomeError),
    /// Another session has the address for itself.
    #[error("{0} belongs to another session")]
    AddressTaken(IpAddr),
    /// No session of this number is attached to the interface.
    #[error("no session {0} on this interface")]
    NoSession(SessionId),
    /// The worker has stopped.
    #[error("the switch has stopped")]
    Stopped,
    /// The interface has no port that carries a VLAN, or what it would be a VLAN of cannot have any.
    #[error("interface {} cannot be VLAN {id}", .interface.0)]
    NoVlan {
        /// The interface.
        interface: InterfaceId,
        /// The VLAN's identifier.
        id: u16,
    },
    /// Another interface is this VLAN.
    #[error("VLAN {id} of interface {} is another interface's", .of.0)]
    VlanTaken {
        /// What it is a VLAN of.
        of: InterfaceId,
        /// The VLAN's identifier.
        id: u16,
    },
    /// Another session has the same rule.
    #[error("another session has this rule at {address}")]
    RuleTaken {
        /// The address.
        address: IpAddr,
    },
    /// The interface has as many rules with a remote end, a priority or a group as it can.
    #[error(
        "no room for another rule: an interface has at most {} with a remote end, a priority or a group, {} kinds of \
         remote ends, and {} members of a group",
        crate::steer::SOURCE_RULES,
        crate::steer::SHAPES,
        crate::steer::MEMBERS
    )]
    RulesFull,
    /// The interface has as many claims of prefixes as it can, or another has this one.
    #[error(
        "no room for {rule}: an interface has at most {} claims of prefixes, of {} lengths, {} of one prefix",
        crate::steer::PREFIX_RULES,
        crate::steer::LENGTHS,
        crate::steer::PER_PREFIX
    )]
    NoPrefix {
        /// What was to be given.
        rule: crate::steer::PrefixRule,
    },
    /// The interface does not serve the address, or the protocol has no ports.
    #[error("{address} protocol {protocol} cannot be claimed here")]
    NotClaimable {
        /// The address.
        address: IpAddr,
        /// The IP protocol number.
        protocol: u8,
    },
}

/// What happened that the control path must know.
#[derive(Debug)]
pub enum Event {
    /// A session has ended: no frame of it moves any more, and its rules are gone.
    SessionEnded {
        /// Which.
        id: SessionId,
        /// What it did wrong, if that was the cause.
        fault: Option<Fault>,
        /// Slots that came back from it.
        recovered: u32,
        /// Its own slots that others still hold.
        away: u32,
        /// Its final counters.
        counters: Box<SessionCounters>,
    },
    /// The last slot of an ended session is back: its number may be used again.
    SessionGone(SessionId),
    /// Slots of ended sessions. Dropping a range unmaps it.
    RangesClosed(Vec<SlotRange>),
    /// A port failed and is not used any more.
    PortGone {
        /// Its interface.
        interface: InterfaceId,
        /// Its name.
        name: String,
        /// Why.
        error: io::Error,
    },
}

/// A worker's state.
#[derive(Debug)]
pub struct Switch {
    deliver: Deliver,
    interfaces: Places,
    /// Numbers of those that have no port of their own, but a VLAN of another's.
    lanes: Vec<usize>,
    /// Attached sessions, in the order in which they are served.
    live: Vec<SessionId>,
    /// Ended sessions whose slots are not all back.
    ending: Vec<SessionId>,
    events: Vec<Event>,
    inbox: Burst,
    answers: Burst,
    head: Box<[u8; HEAD_LEN]>,
    glimpses: Box<Glimpses>,
    seed: u64,
}

impl Switch {
    /// A switch without interfaces. `seed` keys every hash table; take it from the system's random
    /// numbers, or fix it for a repeatable run.
    #[must_use]
    pub fn new(pool: Pool, seed: u64) -> Self {
        Self {
            deliver: Deliver::new(pool),
            interfaces: Places::default(),
            lanes: Vec::new(),
            live: Vec::new(),
            ending: Vec::new(),
            events: Vec::new(),
            inbox: Burst::new(),
            answers: Burst::new(),
            head: Box::new([0; HEAD_LEN]),
            glimpses: Box::default(),
            seed,
        }
    }

    // ---- control ----

    /// Has an interface learn together with those of other workers.
    ///
    /// # Errors
    /// [`SwitchError::NoInterface`]
    pub fn share_flows(
        &mut self,
        interface: InterfaceId,
        book: Arc<Book>,
        worker: WorkerId,
    ) -> Result<(), SwitchError> {
        self.interfaces.get_mut(interface)?.table.share(book, worker);
        Ok(())
    }

    /// Flows of this interface are learned only from these ports and from addresses that are a client's
    /// alone, from now on.
    ///
    /// # Errors
    /// [`SwitchError::NoInterface`]
    pub fn set_flow_ports(
        &mut self,
        interface: InterfaceId,
        ports: Services,
    ) -> Result<(), SwitchError> {
        self.interfaces.get_mut(interface)?.table.set_flow_ports(ports);
        Ok(())
    }

    /// Attaches a session.
    ///
    /// # Errors
    /// [`SwitchError`], and nothing is attached.
    pub fn attach(&mut self, spec: SessionSpec) -> Result<(), SwitchError> {
        let id = spec.id;
        let interface = self.interfaces.get_mut(spec.interface)?;
        let pool = &mut self.deliver.pool;
        if id.0 >= SessionId::LIMIT || self.live.contains(&id) || pool.has_homes(id) {
            return Err(SwitchError::SessionNumber(id));
        }
        let (slots, capacity) = (spec.transmit.count(), spec.queues.completion.capacity());
        if slots > capacity {
            return Err(SwitchError::TransmitSlots { slots, capacity });
        }
        let exclusive: Vec<Address> = spec.exclusive.iter().map(|a| (*a).into()).collect();
        if let Some(taken) = exclusive.iter().find(|a| interface.table.owner(**a).is_some()) {
            return Err(SwitchError::AddressTaken(taken.to_ip()));
        }
        let receive =
            spec.receive.map(|range| pool.add_home(HomeKind::Receive(id), range)).transpose()?;
        let transmit = match pool.add_home(HomeKind::Transmit(id), spec.transmit) {
            Ok(home) => home,
            Err(error) => {
                pool.end_session(id);
                self.events.push(Event::RangesClosed(pool.take_closed()));
                return Err(error.into());
            }
        };
        for address in &exclusive {
            interface.table.own_address(*address, Receiver::Client(id));
        }
        let group = spec.group.filter(|_| receive.is_none());
        let (joins_nothing, may) = (spec.groups.is_empty(), spec.may);
        let session = Session {
            id,
            interface: spec.interface,
            queues: spec.queues,
            transmit,
            receive,
            group,
            addresses: spec
                .addresses
                .iter()
                .map(|a| (*a).into())
                .chain(exclusive.clone())
                .collect(),
            exclusive,
            groups: spec.groups,
            may,
            waker: Waker(spec.wake),
            learned: Learned::new(spec.flow_quota as usize),
            held: 0,
            offload: spec.offload,
            touched: false,
            counters: SessionCounters::default(),
        };
        if let Err(session) = self.deliver.insert(Box::new(session)) {
            return Err(SwitchError::SessionNumber(session.id));
        }
        if !joins_nothing {
            interface.table.groups.expect(interface.clients.len() + 1);
        }
        if may.dhcp {
            interface.table.transactions.expect(interface.clients.len() + 1);
        }
        interface.clients.push(id);
        interface.table.admit(id);
        self.live.push(id);
        Ok(())
    }

    /// Ends a session, if there is such. Everything that it held comes back.
    pub fn detach(&mut self, id: SessionId) {
        self.end(id, None);
    }

    /// Gives `count` ports from `first` of an address to a session, or takes them from everyone.
    ///
    /// # Errors
    /// [`SwitchError::NoInterface`], [`SwitchError::NotClaimable`], [`SwitchError::NoSession`]
    pub fn set_listener(
        &mut self,
        interface: InterfaceId,
        address: IpAddr,
        protocol: Protocol,
        first: u16,
        count: u16,
        to: Option<SessionId>,
    ) -> Result<(), SwitchError> {
        let interface = self.interfaces.get_mut(interface)?;
        // A rule for a number that is not attached would be inherited by whoever gets it next.
        if let Some(id) = to.filter(|id| !interface.clients.contains(id)) {
            return Err(SwitchError::NoSession(id));
        }
        let to = to.map(Receiver::Client);
        if interface.table.set_listener(address.into(), protocol, first, count, to) {
            Ok(())
        } else {
            Err(SwitchError::NotClaimable { address, protocol: protocol.0 })
        }
    }

    /// Whether [`take_events`](Self::take_events) has any.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What happened since the last call.
    #[must_use]
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    // ---- data ----

    /// Moves at most one burst from each source and returns how many frames and slots moved; zero
    /// means that there was nothing to do.
    pub fn step(&mut self, now: Time) -> usize {
        let mut moved = self.take_returned();
        moved += self.give_up_pieces(now);
        for index in 0..self.interfaces.len() {
            moved += self.receive(index, false, now);
            moved += self.receive(index, true, now);
        }
        for index in 0..self.live.len() {
            let Some(id) = self.live.get(index).copied() else { break };
            moved += self.transmit_of(id, now);
        }
        if let [_, _, ..] = self.live.as_slice() {
            // Another one is first in the next step.
            self.live.rotate_left(1);
        }
        moved += self.flush(now);
        self.end_faulted();
        moved
    }

    /// Slots that clients give back, before anything needs slots.
    fn take_returned(&mut self) -> usize {
        let mut moved = 0;
        for id in &self.live {
            match self.deliver.take_returned(*id) {
                Ok(count) => moved += count,
                Err(fault) => self.deliver.fault(*id, fault),
            }
        }
        moved
    }

    /// Pieces of datagrams that have waited long enough for the first.
    #[inline]
    fn give_up_pieces(&mut self, now: Time) -> usize {
        let Self { interfaces, deliver, .. } = self;
        let waiting = interfaces.iter_mut().filter(|(_, interface)| !interface.early.is_empty());
        waiting.map(|(_, interface)| interface.give_up_old(deliver, now)).sum()
    }

    /// One burst from a wire or host port.
    fn receive(&mut self, index: usize, from_host: bool, now: Time) -> usize {
        let Self { interfaces, deliver, inbox, glimpses, .. } = self;
        let Some(interface) = interfaces.at(index) else { return 0 };
        // Who captures wants to see all frames.
        if deliver.tap.is_none()
            && let Some(count) = interface.receive_cut(deliver, from_host, glimpses, now)
        {
            if interface.lanes.any() {
                self.hand_over(index, now);
            }
            return count;
        }
        let outlet = if from_host { interface.host.as_mut() } else { Some(&mut interface.wire) };
        let Some(outlet) = outlet.filter(|o| !o.gone) else { return 0 };
        if let Err(error) = outlet.port.receive(now, &mut deliver.pool, inbox) {
            outlet.fail(error);
        }
        interface.table.look_around();
        let count = inbox.len();
        let has_lanes = interface.lanes.any();
        deliver.totals.received += count as u64;
        if let Some(tap) = &mut deliver.tap {
            tap.see_received(place(index, from_host), inbox, &deliver.pool);
        }
        while let Some(frame) = inbox.pop() {
            if from_host {
                interface.from_host(deliver, frame, now);
            } else if has_lanes {
                interface.from_trunk(deliver, frame, now);
            } else {
                interface.from_wire(deliver, frame, now);
            }
        }
        if has_lanes {
            self.hand_over(index, now);
        } else if from_host {
            self.lift(index, now);
        }
        count
    }

    /// One burst from a client's tx ring.
    fn transmit_of(&mut self, id: SessionId, now: Time) -> usize {
        let Self { interfaces, deliver, answers, head, .. } = self;
        let Some(mut session) = deliver.take(id) else { return 0 };
        if let Some(tap) = &mut deliver.tap {
            tap.source = Some(Place::Client(id));
        }
        let index = usize::from(session.interface.0);
        let moved = match interfaces.at(index) {
            Some(interface) => {
                interface.table.look_around();
                drain_tx(interface, deliver, &mut session, answers, head, now)
            }
            None => Ok(0),
        };
        deliver.put_back(session);
        while let Some(answer) = answers.pop() {
            deliver.to_client(answer, id);
        }
        self.lift(index, now);
        moved.unwrap_or_else(|fault| {
            self.deliver.fault(id, fault);
            0
        })
    }

    /// Publishes, wakes, transmits.
    fn flush(&mut self, now: Time) -> usize {
        self.lift_all(now);
        let Self { interfaces, deliver, events, .. } = self;
        deliver.flush();
        let mut moved = 0;
        for (id, interface) in interfaces.iter_mut() {
            let Interface { wire, host, early, .. } = interface;
            for outlet in std::iter::once(wire).chain(host) {
                moved += outlet.flush(deliver, now);
                if let Some(error) = outlet.failed.take() {
                    let name = outlet.port.info().name.clone();
                    events.push(Event::PortGone { interface: id, name, error });
                    outlet.close(&mut deliver.pool);
                    early.give_up_all(deliver);
                }
                if outlet.gone && !outlet.out.is_empty() {
                    let count = outlet.out.clear(&mut deliver.pool);
                    deliver.totals.dropped.add(DropReason::NoReceiver, count as u64);
                }
            }
        }
        if deliver.tap.as_mut().is_some_and(|tap| !tap.flush()) {
            deliver.tap = None;
        }
        // Sent from where they lay; every session is in its place now.
        if deliver.pool.has_released() {
            moved += deliver.complete_released();
            deliver.flush();
        }
        moved
    }

    fn end_faulted(&mut self) {
        while let Some((id, fault)) = self.deliver.faulted.pop() {
            self.end(id, Some(fault));
        }
        self.report_closed();
    }

    fn end(&mut self, id: SessionId, fault: Option<Fault>) {
        let Some(session) = self.deliver.take(id) else { return };
        self.live.retain(|live| *live != id);
        if let Ok(interface) = self.interfaces.get_mut(session.interface) {
            interface.table.give_up(session.learned.iter(), id);
            interface.forget(id);
        }
        let ended = self.deliver.pool.end_session(id);
        for (owner, raw) in ended.completed {
            self.deliver.push_completion(owner, raw);
        }
        self.events.push(Event::SessionEnded {
            id,
            fault,
            recovered: ended.recovered,
            away: ended.away,
            counters: Box::new(session.counters),
        });
        self.ending.push(id);
        self.report_closed();
    }

    fn report_closed(&mut self) {
        let closed = self.deliver.pool.take_closed();
        if !closed.is_empty() {
            self.events.push(Event::RangesClosed(closed));
        }
        let Self { ending, deliver, events, .. } = self;
        ending.retain(|id| {
            let waits = deliver.pool.has_homes(*id);
            if !waits {
                events.push(Event::SessionGone(*id));
            }
            waits
        });
    }

    // ---- sleep ----

    /// Announces sleep to all clients, then looks once more. Returns whether the caller may sleep;
    /// otherwise the announcement is taken back.
    pub fn prepare_sleep(&mut self) -> bool {
        let work = self.deliver.announce_sleep();
        if work {
            self.woke();
        }
        !work
    }

    /// Takes the announcement back.
    pub fn woke(&mut self) {
        for session in self.deliver.sessions_mut() {
            session.queues.sleep.lower();
        }
    }

    /// Descriptors that are readable when a port has frames.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.ports().filter_map(|outlet| outlet.port.descriptor())
    }

    /// When there is something to do though nothing comes: a port has something by itself, or frames have
    /// waited long enough.
    #[must_use]
    pub fn next_event(&self) -> Option<Time> {
        let pieces = self.interfaces.iter().filter_map(|(_, interface)| interface.early.due());
        self.ports().filter_map(|outlet| outlet.port.next_event()).chain(pieces).min()
    }

    /// Whether frames wait for a port that had no room.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        self.ports().any(|outlet| !outlet.out.is_empty())
    }

    fn ports(&self) -> impl Iterator<Item = &Outlet> {
        self.interfaces
            .iter()
            .flat_map(|(_, i)| std::iter::once(&i.wire).chain(&i.host))
            .filter(|outlet| !outlet.gone)
    }

    // ---- end ----

    /// Ends every session, closes every port and gives the pool back.
    #[must_use]
    pub fn close(mut self) -> Pool {
        while let Some(id) = self.live.last().copied() {
            self.end(id, None);
        }
        for (_, interface) in self.interfaces.iter_mut() {
            interface.early.clear(&mut self.deliver.pool);
            for outlet in std::iter::once(&mut interface.wire).chain(&mut interface.host) {
                outlet.out.clear(&mut self.deliver.pool);
                outlet.port.close(&mut self.deliver.pool);
            }
        }
        self.deliver.pool
    }
}

/// What a port is to those who capture.
fn place(index: usize, is_host: bool) -> Place {
    let number = u8::try_from(index).unwrap_or(u8::MAX);
    if is_host { Place::Host(number) } else { Place::Wire(number) }
}

/// Takes at most one burst from a tx ring: accept, copy the head, judge, deliver.
#[inline]
fn drain_tx(
    interface: &mut Interface,
    deliver: &mut Deliver,
    session: &mut Session,
    answers: &mut Burst,
    head: &mut [u8; HEAD_LEN],
    now: Time,
) -> Result<usize, Fault> {
    if session.queues.tx.available() == 0 && session.queues.tx.refresh()? == 0 {
        return Ok(0);
    }
    // Each of these may be thirty frames.
    let most = if session.offload { BURST / 4 } else { BURST };
    let budget = tx_budget(session, &deliver.pool)?.min(most);
    let queues = &mut session.queues;
    let mut raws = [RawDescriptor::default(); BURST];
    let count = match raws.get_mut(..budget) {
        Some(burst) => queues.tx.pop_burst(burst),
        None => 0,
    };
    queues.tx.release();
    let Some(raws) = raws.get(..count) else { return Ok(0) };
    for raw in raws {
        deliver.pool.prefetch(*raw);
    }
    let is_tapped = deliver.tap.is_some();
    for raw in raws {
        let sent = Sent::accept(&mut deliver.pool, session, *raw, head)?;
        if is_tapped {
            deliver.see_sent(session.id, &sent);
        }
        interface.from_client(deliver, session, sent, answers, now);
    }
    Ok(count)
}
