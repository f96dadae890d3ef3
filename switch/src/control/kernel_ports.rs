//! Ports of addresses that clients share with the kernel's stack: never in use by both.
//!
//! ```text
//!   claim ---> registry: free among the clients? ---> here: free in the kernel? ---> workers: rules
//!   release, end of the session ---> workers: no rules ---> registry ---> here: the kernel's again
//! ```
//!
//! - A port is held ([`HeldPorts`]) before a client is told that it has it, and until no rule leads to the
//!   client any more. What is held ends with the process.
//! - Addresses that are a client's alone, and those of interfaces without a way to the kernel, cost nothing.
//! - Flows are learned only from ports that are held for that purpose from the start (`flow_ports`). A
//!   client that sends from any other port without a claim could take answers of the kernel's.

use super::registry::{Grant, Refusal, Taken, Wish};
use crate::classify::Protocol;
use crate::config::{Backend, HostEndpoint, Interface, Network, Services};
use crate::net::{HeldPorts, HoldError, PortUser};
use core::ops::RangeInclusive;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How often processes are searched for one that has a socket: it costs the control thread time.
const SEARCH_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Place {
    is_shared: bool,
    flow_ports: Services,
    /// What `flow_ports` takes.
    _flows: Vec<HeldPorts>,
    /// Ports that the kernel keeps for some remote ends: never held.
    parts: Vec<(Protocol, RangeInclusive<u16>)>,
}

/// A claim at one address.
type Key = (usize, IpAddr, Wish);
/// The first port of those that are held together.
type Start = (usize, IpAddr, Protocol, u16);

/// Ports that are held, by interface.
#[derive(Debug, Default)]
pub(crate) struct KernelPorts {
    places: BTreeMap<usize, Place>,
    /// By claim, once for each session that has one of these words: what of its ports is held. Several claims of one
    /// port hold it together.
    held: BTreeMap<Key, Vec<Vec<Arc<HeldPorts>>>>,
    /// By first port: the last, and what is held.
    runs: BTreeMap<Start, (u16, Weak<HeldPorts>)>,
    /// Single ports that are kept for clients that have yet to come; also while they have them.
    kept: BTreeMap<Start, Vec<Arc<HeldPorts>>>,
    /// Of which all there should be.
    wanted: BTreeSet<Start>,
    /// When processes were last searched.
    searched: Option<Instant>,
}

/// Whether the kernel's stack goes on to use the addresses of an interface.
fn is_shared(interface: &Interface) -> bool {
    let has_kernel = interface.port.has_link() || interface.port == Backend::Vlan;
    has_kernel && interface.behind.is_none() && interface.host != HostEndpoint::None
}

impl KernelPorts {
    /// Adds an interface and takes its `flow_ports` from the kernel; those that the
    /// kernel uses are left to it.
    pub(crate) fn add(&mut self, number: usize, interface: &Interface, networks: &[Network]) {
        let mut place = Place { is_shared: is_shared(interface), ..Place::default() };
        place.parts =
            interface.host_sources.iter().map(|s| (s.protocol, s.ports.clone())).collect();
        if place.is_shared {
            let mut ports = Vec::new();
            for (protocol, range) in interface.flow_ports.iter() {
                for port in range {
                    let hold = |n: &Network| HeldPorts::hold(n.address(), protocol, port, 1);
                    match networks.iter().map(hold).collect::<Result<Vec<_>, _>>() {
                        Ok(held) => {
                            place._flows.extend(held);
                            ports.push((protocol, port..=port));
                        }
                        Err(error) => {
                            let name = &interface.name;
                            tracing::warn!(interface = name, port, %error, "no flow port");
                        }
                    }
                }
            }
            place.flow_ports = Services::of(ports);
        }
        self.places.insert(number, place);
    }

    /// An interface is gone: the kernel has all ports of its addresses again.
    pub(crate) fn remove(&mut self, interface: usize) {
        self.places.remove(&interface);
        self.held.retain(|(place, ..), _| *place != interface);
        self.kept.retain(|(place, ..), _| *place != interface);
    }

    /// From which ports without a claim clients may have flows; `None` from any.
    pub(crate) fn flow_ports(&self, interface: usize) -> Option<&Services> {
        let place = self.places.get(&interface)?;
        place.is_shared.then_some(&place.flow_ports)
    }

    /// What of an interface's ports is held against the kernel for clients.
    pub(crate) fn held(
        &self,
        interface: usize,
    ) -> impl Iterator<Item = (IpAddr, Protocol, RangeInclusive<u16>)> + '_ {
        let all = self
            .runs
            .iter()
            .filter(move |((at, ..), (_, held))| *at == interface && held.strong_count() > 0);
        all.map(|((_, address, protocol, first), (last, _))| (*address, *protocol, *first..=*last))
    }

    /// Holds the ports of a grant at all its addresses but `own`. A refusal says whose a port is only if the
    /// client has named it (`is_chosen`): where any will do, nobody asks.
    ///
    /// # Errors
    /// [`Taken`], and nothing is held.
    pub(crate) fn take(
        &mut self,
        interface: usize,
        grant: &Grant,
        own: &[IpAddr],
        is_chosen: bool,
    ) -> Result<(), Taken> {
        if self.places.get(&interface).is_none_or(|place| !place.is_shared) {
            return Ok(());
        }
        if !grant.wish.protocol.has_ports() {
            return Ok(());
        }
        let mut held = Vec::with_capacity(grant.addresses.len());
        for address in grant.addresses.iter().filter(|a| !own.contains(a)) {
            let Wish { protocol, first, .. } = grant.wish;
            match self.hold(interface, *address, protocol, first..=grant.wish.last()) {
                Ok(runs) => held.push(((interface, *address, grant.wish), runs)),
                Err(error) => return Err(self.explain(error, grant, is_chosen)),
            }
        }
        for (key, runs) in held {
            self.held.entry(key).or_default().push(runs);
        }
        Ok(())
    }

    /// Holds what is not held yet of these ports, together with those who hold the rest.
    fn hold(
        &mut self,
        interface: usize,
        address: IpAddr,
        protocol: Protocol,
        ports: RangeInclusive<u16>,
    ) -> Result<Vec<Arc<HeldPorts>>, HoldError> {
        let (first, last) = ports.into_inner();
        let mut all = Vec::new();
        let mut next = Some(first);
        while let Some(port) = next.filter(|port| *port <= last) {
            let place = |port| (interface, address, protocol, port);
            let run = self.runs.range(place(0)..=place(port)).next_back();
            let run = run.filter(|(_, (end, _))| *end >= port);
            if let Some((end, ports)) =
                run.and_then(|(_, (end, weak))| Some((*end, weak.upgrade()?)))
            {
                all.push(ports);
                next = end.checked_add(1);
                continue;
            }
            let parts = self.places.get(&interface).map_or(&[][..], |place| &place.parts);
            let is_part =
                |port| parts.iter().any(|(p, range)| *p == protocol && range.contains(&port));
            if is_part(port) {
                next = port.checked_add(1);
                continue;
            }
            let mut end = last;
            if let Some((&(.., start), _)) = self.runs.range(place(port)..=place(last)).next() {
                end = start.saturating_sub(1).max(port);
            }
            let part = (port..=end).find(|port| is_part(*port));
            end = part.map_or(end, |part| part.saturating_sub(1).max(port));
            let ports = Arc::new(HeldPorts::hold(address, protocol, port, end - port + 1)?);
            self.runs.insert(place(port), (end, Arc::downgrade(&ports)));
            all.push(ports);
            next = end.checked_add(1);
        }
        Ok(all)
    }

    /// Lets the kernel have the ports of a grant again, but for those that are kept for a client: these are never free.
    pub(crate) fn give_back(&mut self, interface: usize, grant: &Grant) {
        let mut gone = Vec::new();
        for address in &grant.addresses {
            let key = (interface, *address, grant.wish);
            if let Some(all) = self.held.get_mut(&key) {
                gone.extend(all.pop());
                if all.is_empty() {
                    self.held.remove(&key);
                }
            }
        }
        // What is to be kept is held together with those who give it back, before they do.
        self.settle(false);
        drop(gone);
        self.forget_free();
    }

    /// Keeps these ports, and no others any more, for clients that have yet to come. One that the kernel uses is left to
    /// it until the client claims it.
    pub(crate) fn keep(&mut self, ports: Vec<Start>) {
        let is_shared = |key: &Start| self.places.get(&key.0).is_some_and(|place| place.is_shared);
        self.wanted = ports.into_iter().filter(is_shared).collect();
        self.settle(true);
    }

    /// Lets go what is kept for nobody, and takes what should be kept and is free.
    fn settle(&mut self, says_so: bool) {
        let Self { kept, wanted, .. } = self;
        kept.retain(|key, _| wanted.contains(key));
        let missing: Vec<Start> =
            self.wanted.iter().filter(|key| !self.kept.contains_key(key)).copied().collect();
        for key in missing {
            let (interface, address, protocol, port) = key;
            match self.hold(interface, address, protocol, port..=port) {
                Ok(ports) => drop(self.kept.insert(key, ports)),
                Err(error) if says_so => {
                    tracing::warn!(%address, port, %error, "a port is not kept for its client");
                }
                Err(_) => {}
            }
        }
        self.forget_free();
    }

    fn forget_free(&mut self) {
        self.runs.retain(|_, (_, ports)| ports.strong_count() > 0);
    }

    fn explain(&mut self, error: HoldError, grant: &Grant, is_chosen: bool) -> Taken {
        match error {
            HoldError::Used { address, port } => {
                let protocol = grant.wish.protocol;
                let user =
                    if is_chosen { self.user(address, protocol, port) } else { String::new() };
                Taken::Port(port, Refusal::Kernel { address, protocol, port, user })
            }
            error @ HoldError::Descriptors { .. } => {
                tracing::warn!(%error, "a claim is refused");
                Taken::All(Refusal::Descriptors { why: error.to_string() })
            }
            error @ HoldError::Refused { .. } => {
                tracing::error!(%error, "a claim is refused");
                Taken::All(Refusal::NotKept { why: error.to_string() })
            }
        }
    }

    fn user(&mut self, address: IpAddr, protocol: Protocol, port: u16) -> String {
        let Some(user) = PortUser::find(address, protocol, port, port) else {
            return "a socket that it does not name".to_owned();
        };
        let now = Instant::now();
        if self.searched.is_some_and(|last| now.duration_since(last) < SEARCH_EVERY) {
            return user.to_string();
        }
        self.searched = Some(now);
        user.with_process().to_string()
    }
}
