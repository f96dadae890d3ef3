//! All workers as one: each has a queue of every port and a queue pair of every session, and they share
//! nothing but the [`Book`](crate::steer::book::Book) of learned flows.
//!
//! ```text
//!   control thread --command--> worker 0, worker 1 ...     each carries it out; all have done so before
//!                  <--event---- worker 0, worker 1 ...     the caller goes on
//! ```
//!
//! - A session is attached to all workers or to none, has ended when it has ended with all, and is gone
//!   when the last slot is back from each.
//! - What one worker ends for a fault is ended with the others.

use super::worker::{Added, PortCommands};
use super::{EventSource, IdlePolicy, Worker, event_channel};
use crate::classify::Protocol;
use crate::config::Services;
use crate::session::{InterfaceId, SessionSpec};
use crate::snapshot::Snapshot;
use crate::stats::SessionCounters;
use crate::steer::Rule;
use crate::steer::book::WorkerId;
use crate::switch::{Event, InterfaceSpec, Switch, SwitchError};
use crate::time::Time;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use usnet_shmring::descriptor::Fault;
use usnet_shmring::ledger::SessionId;

/// The control thread's handle to all workers. Dropping it stops them.
#[derive(Debug)]
pub struct Workers {
    all: Vec<Worker>,
    events: Vec<EventSource>,
    sessions: BTreeMap<SessionId, Present>,
}

/// A session from its beginning with the first worker to its end with the last.
#[derive(Debug, Default)]
struct Present {
    /// Workers that it was attached to.
    attached: usize,
    /// Of these, workers with which it has ended, and that have all its slots.
    ended: usize,
    gone: usize,
    fault: Option<Fault>,
    recovered: u32,
    away: u32,
    counters: SessionCounters,
}

/// A handle to all workers for whoever opens ports; it keeps none running.
#[derive(Debug)]
pub(super) struct AllPorts {
    each: Vec<PortCommands>,
}

impl AllPorts {
    /// How many workers there are.
    pub(super) fn workers(&self) -> usize {
        self.each.len()
    }

    /// Closes the ports of an interface with all workers, if one of them has failed with any, or in any case;
    /// whether they were closed. `None` if a worker is gone.
    pub(super) fn retire(
        &self,
        interface: InterfaceId,
        in_any_case: bool,
    ) -> Option<Result<bool, SwitchError>> {
        let retire = |in_any_case| -> Option<Result<bool, SwitchError>> {
            let each = self.each.iter().map(|worker| worker.retire(interface, in_any_case));
            let each = each.collect::<Option<Result<Vec<bool>, SwitchError>>>()?;
            Some(each.map(|failed| failed.contains(&true)))
        };
        if in_any_case {
            return Some(retire(true)?.map(|_| true));
        }
        match retire(false)? {
            Ok(true) => Some(retire(true)?.map(|_| true)),
            other => Some(other),
        }
    }

    /// Takes an interface from all workers. `None` if a worker is gone.
    pub(super) fn remove(&self, interface: InterfaceId) -> Option<Result<(), SwitchError>> {
        self.each.iter().map(|worker| worker.remove(interface)).collect()
    }

    /// Gives each worker its new ports of an interface, in order. `None` if a worker is gone.
    pub(super) fn replace(
        &self,
        interface: InterfaceId,
        specs: Vec<InterfaceSpec>,
    ) -> Option<Result<(), SwitchError>> {
        let parts = self.each.iter().zip(specs);
        parts.map(|(worker, spec)| worker.replace(interface, spec)).collect()
    }
}

impl Workers {
    /// Starts a thread for each switch.
    ///
    /// # Errors
    /// No descriptors, or no thread; those that were started are stopped.
    pub fn start(each: impl IntoIterator<Item = (Switch, IdlePolicy)>) -> io::Result<Self> {
        let (mut all, mut events) = (Vec::new(), Vec::new());
        for (number, (switch, idle)) in each.into_iter().enumerate() {
            let (sink, source) = event_channel()?;
            all.push(Worker::start(switch, idle, sink, number)?);
            events.push(source);
        }
        Ok(Self { all, events, sessions: BTreeMap::new() })
    }

    /// What opens ports again gets this.
    pub(super) fn port_commands(&self) -> AllPorts {
        AllPorts { each: self.all.iter().map(Worker::port_commands).collect() }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Descriptors that are readable while there are events.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.events.iter().map(AsFd::as_fd)
    }

    /// Whether one of them has ended by itself.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.events.iter().any(EventSource::is_closed)
    }

    /// Attaches a session: to each worker its part, in order, with what its client kicks by.
    ///
    /// # Errors
    /// As [`Worker::attach`], and no worker has it.
    pub fn attach(&mut self, parts: Vec<(SessionSpec, OwnedFd)>) -> Result<(), SwitchError> {
        for (worker, (spec, kick)) in self.all.iter().zip(parts) {
            let id = spec.id;
            if let Err(error) = worker.attach(spec, kick) {
                self.detach(id);
                return Err(error);
            }
            self.sessions.entry(id).or_default().attached += 1;
        }
        Ok(())
    }

    /// Gives each worker its part of an interface, in order; with several, they learn together. Where
    /// `flow_ports` is given, flows are learned from these ports alone. `host_rules` are the host's before the first frame is
    /// received; where `vlan` is given, it is that of another.
    ///
    /// # Errors
    /// As [`Switch::add_interface_at`], and no worker has it.
    pub(crate) fn add_interface(
        &self,
        id: InterfaceId,
        specs: Vec<InterfaceSpec>,
        flow_ports: Option<&Services>,
        host_rules: &[Rule],
        vlan: Option<(InterfaceId, u16)>,
    ) -> Result<(), SwitchError> {
        let book = super::book(self.all.len());
        for (number, (worker, spec)) in (0..).zip(self.all.iter().zip(specs)) {
            let book = book.clone().zip(WorkerId::new(number));
            let (flow_ports, host_rules) = (flow_ports.cloned(), host_rules.to_vec());
            let added = Added { spec, book, flow_ports, host_rules, vlan };
            if let Err(error) = worker.add(id, added) {
                let _ = self.port_commands().remove(id);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Ends a session with all. [`Event::SessionEnded`] follows.
    pub fn detach(&self, id: SessionId) {
        self.all.iter().for_each(|worker| worker.detach(id));
    }

    /// Gives ports to a session, or takes them away, with all workers: when this returns the next
    /// frame meets it, wherever it arrives.
    ///
    /// # Errors
    /// As [`Worker::set_listener`], of the first worker that refuses; those before it have done it.
    pub fn set_listener(
        &self,
        interface: InterfaceId,
        address: IpAddr,
        protocol: Protocol,
        first: u16,
        count: u16,
        to: Option<SessionId>,
    ) -> Result<(), SwitchError> {
        self.all.iter().try_for_each(|worker| {
            worker.set_listener(interface, address, protocol, first, count, to)
        })
    }

    /// The counters of all together; `None` if one is gone.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        // All are asked before the first is waited for.
        let asked: Vec<_> = self.all.iter().map(Worker::ask_snapshot).collect();
        let each = asked.into_iter().map(|answer| answer.recv().ok());
        Snapshot::of_workers(each.collect::<Option<Vec<_>>>()?)
    }

    /// Asks the first worker: its rules are those of all. `None` if it is gone.
    pub(crate) fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Switch, Time) -> T + Send + 'static,
    ) -> Option<T> {
        self.all.first()?.ask_look(look).recv().ok()
    }

    /// Asks every worker the same; `None` if one is gone.
    pub(crate) fn look_at_each<T: Send + 'static>(
        &self,
        look: impl Fn(&mut Switch, Time) -> T + Clone + Send + 'static,
    ) -> Option<Vec<T>> {
        // All are asked before the first is waited for.
        let asked: Vec<_> = self.all.iter().map(|worker| worker.ask_look(look.clone())).collect();
        asked.into_iter().map(|answer| answer.recv().ok()).collect()
    }

    /// What has happened since the last call, with what is one event for the session told once.
    pub fn take_events(&mut self) -> Vec<Event> {
        let seen: Vec<Event> = self.events.iter().flat_map(EventSource::take).collect();
        seen.into_iter().filter_map(|event| self.merge(event)).collect()
    }

    fn merge(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::SessionEnded { id, fault, recovered, away, counters } => {
                let session = self.sessions.get_mut(&id)?;
                session.ended += 1;
                session.recovered += recovered;
                session.away += away;
                session.counters += *counters;
                if fault.is_some() && session.fault.is_none() {
                    session.fault = fault;
                    self.detach(id);
                }
                let session = self.sessions.get(&id).filter(|s| s.ended == s.attached)?;
                Some(Event::SessionEnded {
                    id,
                    fault: session.fault,
                    recovered: session.recovered,
                    away: session.away,
                    counters: Box::new(session.counters),
                })
            }
            Event::SessionGone(id) => {
                let session = self.sessions.get_mut(&id)?;
                session.gone += 1;
                if session.gone < session.attached {
                    return None;
                }
                self.sessions.remove(&id);
                Some(Event::SessionGone(id))
            }
            other => Some(other),
        }
    }

    /// Ends all sessions, closes all ports and waits for the threads.
    ///
    /// # Errors
    /// A thread had panicked; the others have stopped.
    pub fn stop(self) -> io::Result<()> {
        let stopped: Vec<io::Result<()>> = self.all.into_iter().map(Worker::stop).collect();
        stopped.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::Mac;
    use crate::config::Unmatched;
    use crate::explain::{Outcome, Question};
    use crate::port::wire::{Wire, WireSpec};
    use crate::steer::{Prefix, Scope};
    use crate::switch::Behind;
    use crate::verdict::Receiver;
    use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
    use usnet_shmring::pool::Pool;
    use usnet_shmring::region::Writer;

    /// The rules are part of the command that brings the interface, and no frame is received within one.
    #[test]
    fn an_interface_that_comes_has_what_the_host_keeps_of_it_as_soon_as_it_is_there() {
        let switch = || {
            let arena = Arena::reserve(1 << 12, SlotSize::DEFAULT).unwrap();
            let port = arena.add_segment("port", Writer::Daemon, 1024, false).unwrap();
            (
                Switch::new(Pool::new(SlotRange::whole(port)).unwrap(), 7),
                IdlePolicy { spin: Some(std::time::Duration::ZERO), cpu: None },
            )
        };
        let workers = Workers::start([switch(), switch()]).unwrap();
        let specs = || -> Vec<_> {
            let ends = Wire::ends(&WireSpec::default()).unwrap().into_iter();
            ends.map(|wire| InterfaceSpec {
                mac: Mac([2, 0, 0, 0, 0, 1]),
                mtu: 1500,
                addresses: vec!["10.0.0.1".parse().unwrap()],
                wire: Box::new(wire),
                host: None,
                behind: Behind::Kernel,
                cut_through: false,
                kernel_hears: Vec::new(),
                unmatched: Unmatched::Drop,
            })
            .collect()
        };
        let remote = Prefix::new("192.0.2.0".parse().unwrap(), 24).unwrap();
        let scope = Scope { remote, priority: u8::MAX, ..Scope::default() };
        let address = "10.0.0.1".parse::<IpAddr>().unwrap().into();
        let kept = Rule { address, protocol: Protocol::TCP, first: 22, count: 1, scope, seed: 0 };
        let id = InterfaceId(3);
        workers.add_interface(id, specs(), None, &[kept], None).unwrap();
        let whose = |words: &str| {
            let question = Question::parse(words).unwrap();
            let each = workers.look_at_each(move |switch, now| switch.explain(id, &question, now));
            each.unwrap().into_iter().map(|told| told.unwrap().outcome).collect::<Vec<_>>()
        };
        let host = Outcome::To(Receiver::Host);
        assert_eq!(whose("w tcp 192.0.2.7:9 10.0.0.1:22"), [host.clone(), host.clone()]);
        assert!(!whose("w tcp 192.0.3.7:9 10.0.0.1:22").contains(&host));
        // One that cannot be kept is refused, and no worker has the interface.
        let elsewhere = Rule { address: Prefix::ANY.address(), ..kept };
        assert!(workers.add_interface(InterfaceId(4), specs(), None, &[elsewhere], None).is_err());
        let question = Question::parse("w tcp 192.0.2.7:9 10.0.0.1:22").unwrap();
        let look = move |switch: &mut Switch, now| {
            switch.explain(InterfaceId(4), &question, now).is_none()
        };
        assert_eq!(workers.look_at_each(look), Some(vec![true, true]));
    }
}
