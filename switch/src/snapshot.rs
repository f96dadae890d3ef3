//! All counters of a switch at one moment, for people and for programs; of several workers, the sums.

use crate::interface::{Interface, Outlet};
use crate::port::{Exchange, Handling, PortCounters, PortInfo};
use crate::session::{GroupId, InterfaceId, Session};
use crate::stats::{SessionCounters, Totals};
use core::ops::AddAssign;
use serde::Serialize;

/// Slots by owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SlotCount {
    /// On a free list.
    pub free: u32,
    /// Held by the daemon: on the way, or in a port's rings.
    pub daemon: u32,
    /// Clients' slots held by the daemon.
    pub taken: u32,
    /// Held by clients.
    pub lent: u32,
    /// Each held by several clients at once.
    pub shared: u32,
    /// All that there are.
    pub total: u32,
}

impl AddAssign for SlotCount {
    fn add_assign(&mut self, other: Self) {
        let Self { free, daemon, taken, lent, shared, total } = other;
        self.free += free;
        self.daemon += daemon;
        self.taken += taken;
        self.lent += lent;
        self.shared += shared;
        self.total += total;
    }
}

/// A port at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct PortSnapshot {
    /// Name of the interface or wire end.
    pub name: String,
    /// Kind of back end.
    pub backend: &'static str,
    /// Which of the back end's ways it is served in, if there are several.
    pub mode: Option<&'static str>,
    /// Whether it has failed.
    pub gone: bool,
    /// Its counters.
    pub counters: PortCounters,
    /// How its frames get into slots and back, if it has several ways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange: Option<Exchange>,
}

impl PortSnapshot {
    fn of(outlet: &Outlet, cuts: bool) -> Self {
        let PortInfo { name, backend, .. } = outlet.port.info();
        let mut exchange = outlet.port.exchange();
        if let Some(exchange) = exchange.as_mut().filter(|_| cuts) {
            exchange.frames = Handling::CutThrough;
        }
        Self {
            name: name.clone(),
            backend,
            mode: outlet.port.mode(),
            gone: outlet.gone,
            counters: outlet.port.counters(),
            exchange,
        }
    }
}

impl PortSnapshot {
    fn add(&mut self, other: &Self) {
        self.gone |= other.gone;
        self.counters += other.counters;
    }
}

/// An interface at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct InterfaceSnapshot {
    /// Its number.
    pub id: u8,
    /// Its link address.
    pub mac: String,
    /// The port to the network.
    pub wire: PortSnapshot,
    /// The port to the kernel's stack.
    pub host: Option<PortSnapshot>,
    /// Exact and learned flows; one that several workers know counts for each.
    pub flows: usize,
    /// Attached clients.
    pub clients: usize,
    /// Groups that clients have joined; one that several have joined counts for each.
    pub groups: usize,
}

impl InterfaceSnapshot {
    pub(crate) fn of(id: InterfaceId, interface: &Interface) -> Self {
        let cuts = interface.cuts();
        Self {
            id: id.0,
            mac: interface.mac.to_string(),
            wire: PortSnapshot::of(&interface.wire, cuts),
            host: interface.host.as_ref().map(|host| PortSnapshot::of(host, cuts)),
            flows: interface.table.flows(),
            clients: interface.clients.len(),
            groups: interface.table.groups.len(),
        }
    }

    fn add(&mut self, other: Self) {
        self.wire.add(&other.wire);
        if let (Some(host), Some(more)) = (&mut self.host, &other.host) {
            host.add(more);
        }
        self.flows += other.flows;
        self.clients = self.clients.max(other.clients);
        self.groups = self.groups.max(other.groups);
    }
}

/// A session at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct SessionSnapshot {
    /// Its number.
    pub id: u16,
    /// Its interface's number.
    pub interface: u8,
    /// Its trust group, in mode `shared`.
    pub group: Option<u16>,
    /// Whether its frames are copied (`isolated`) or handed over as they lie (`shared`).
    pub isolated: bool,
    /// Descriptors on its rx ring that it was not yet seen to take.
    pub rx_in_flight: u32,
    /// Its counters.
    pub counters: SessionCounters,
}

impl SessionSnapshot {
    pub(crate) fn of(session: &Session) -> Self {
        Self {
            id: session.id.0,
            interface: session.interface.0,
            group: session.group.map(|GroupId(group)| group),
            isolated: session.receive.is_some(),
            rx_in_flight: session.queues.rx.in_flight(),
            counters: session.counters,
        }
    }
}

/// Everything at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// Frames of the whole switch.
    pub totals: Totals,
    /// Frames that wait for a port, or for the first piece of their datagram.
    pub waiting: u64,
    /// Whether frames in = delivered + used up + dropped + waiting.
    pub frames_conserved: bool,
    /// Slots by owner.
    pub slots: SlotCount,
    /// Whether the owners' slots add up to all that there are.
    pub slots_conserved: bool,
    /// Interfaces, in order of their numbers.
    pub interfaces: Vec<InterfaceSnapshot>,
    /// Sessions, in order of their numbers.
    pub sessions: Vec<SessionSnapshot>,
    /// Frames of each worker, by number; empty if there is but one.
    pub workers: Vec<Totals>,
}

impl Snapshot {
    /// What several workers, which share nothing, have counted together. `None` without a worker.
    #[must_use]
    pub fn of_workers(each: Vec<Self>) -> Option<Self> {
        let mut rest = each.into_iter();
        let mut all = rest.next()?;
        let first = all.totals;
        for one in rest {
            if all.workers.is_empty() {
                all.workers.push(first);
            }
            all.workers.push(one.totals);
            all.add(one);
        }
        Some(all)
    }

    fn add(&mut self, other: Self) {
        self.totals += other.totals;
        self.waiting += other.waiting;
        self.frames_conserved &= other.frames_conserved;
        self.slots += other.slots;
        self.slots_conserved &= other.slots_conserved;
        for more in other.interfaces {
            match self.interfaces.binary_search_by_key(&more.id, |interface| interface.id) {
                Ok(at) => {
                    if let Some(interface) = self.interfaces.get_mut(at) {
                        interface.add(more);
                    }
                }
                // It is about to go, and has gone with the others.
                Err(at) => self.interfaces.insert(at, more),
            }
        }
        for more in other.sessions {
            match self.sessions.binary_search_by_key(&more.id, |session| session.id) {
                Ok(at) => {
                    if let Some(session) = self.sessions.get_mut(at) {
                        session.rx_in_flight += more.rx_in_flight;
                        session.counters += more.counters;
                    }
                }
                // It was attached to the others after they were asked.
                Err(at) => self.sessions.insert(at, more),
            }
        }
    }
}
