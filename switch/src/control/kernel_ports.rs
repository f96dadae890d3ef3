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
use crate::config::{HostEndpoint, Interface, Network, Services};
use crate::net::{HeldPorts, HoldError, PortUser};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How often processes are searched for one that has a socket: it costs the control thread time.
const SEARCH_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Place {
    is_shared: bool,
    flow_ports: Services,
    /// What `flow_ports` takes.
    _flows: Vec<HeldPorts>,
}

/// Ports that are held, by interface.
#[derive(Debug, Default)]
pub(crate) struct KernelPorts {
    places: BTreeMap<usize, Place>,
    /// By first port: how many, and what of them is held for this grant alone.
    held: BTreeMap<Key, (u16, Vec<HeldPorts>)>,
    /// Single ports that are kept for clients that have yet to come; also while they have them.
    kept: BTreeMap<Key, HeldPorts>,
    /// Of which all there should be.
    wanted: BTreeSet<Key>,
    /// When processes were last searched.
    searched: Option<Instant>,
}

/// Interface, address, protocol, port.
type Key = (usize, IpAddr, Protocol, u16);

/// Whether the kernel's stack goes on to use the addresses of an interface.
fn is_shared(interface: &Interface) -> bool {
    interface.port.has_link() && interface.behind.is_none() && interface.host != HostEndpoint::None
}

impl KernelPorts {
    /// Adds an interface and takes its `flow_ports` from the kernel; those that the
    /// kernel uses are left to it.
    pub(crate) fn add(&mut self, number: usize, interface: &Interface, networks: &[Network]) {
        let mut place = Place { is_shared: is_shared(interface), ..Place::default() };
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
        let wish = &grant.wish;
        let mut held = Vec::with_capacity(grant.addresses.len());
        for address in grant.addresses.iter().filter(|a| !own.contains(a)) {
            match self.hold_rest(interface, *address, wish) {
                Ok(ports) => held.push((key(interface, *address, grant), (wish.count, ports))),
                Err(error) => return Err(self.explain(error, grant, is_chosen)),
            }
        }
        self.held.extend(held);
        Ok(())
    }

    /// Lets the kernel have the ports of a grant again.
    pub(crate) fn give_back(&mut self, interface: usize, grant: &Grant) {
        for address in &grant.addresses {
            self.held.remove(&key(interface, *address, grant));
        }
        if !self.wanted.is_empty() || !self.kept.is_empty() {
            self.settle(false);
        }
    }

    /// Keeps these ports, and no others any more, for clients that have yet to come. One that the kernel uses is left to
    /// it until the client claims it.
    pub(crate) fn keep(&mut self, ports: Vec<Key>) {
        let is_shared = |key: &Key| self.places.get(&key.0).is_some_and(|place| place.is_shared);
        self.wanted = ports.into_iter().filter(is_shared).collect();
        self.settle(true);
    }

    /// Whether a grant covers the port.
    fn is_granted(held: &BTreeMap<Key, (u16, Vec<HeldPorts>)>, key: &Key) -> bool {
        let (interface, address, protocol, port) = *key;
        let before = held.range((interface, address, protocol, 0)..=*key).next_back();
        before.is_some_and(|(&(_, _, _, first), (count, _))| port - first < *count)
    }

    /// Lets go what is kept for nobody, and takes what should be kept and is free. What a session has stays as it is.
    fn settle(&mut self, says_so: bool) {
        let Self { held, kept, wanted, .. } = self;
        kept.retain(|key, _| wanted.contains(key) || Self::is_granted(held, key));
        for key in wanted.iter() {
            if kept.contains_key(key) || Self::is_granted(held, key) {
                continue;
            }
            let (_, address, protocol, port) = *key;
            match HeldPorts::hold(address, protocol, port, 1) {
                Ok(ports) => drop(kept.insert(*key, ports)),
                Err(error) if says_so => {
                    tracing::warn!(%address, port, %error, "a port is not kept for its client");
                }
                Err(_) => {}
            }
        }
    }

    /// Holds those ports of a wish that are not kept already.
    fn hold_rest(
        &self,
        interface: usize,
        address: IpAddr,
        wish: &Wish,
    ) -> Result<Vec<HeldPorts>, HoldError> {
        let Wish { protocol, first, count, .. } = *wish;
        let at = |port| (interface, address, protocol, port);
        let last = first.saturating_add(count.saturating_sub(1));
        let kept = self.kept.range(at(first)..=at(last)).map(|(key, _)| u32::from(key.3));
        let (mut held, mut from) = (Vec::new(), u32::from(first));
        for end in kept.chain([u32::from(last) + 1]) {
            let run = u16::try_from(from).ok().zip(u16::try_from(end.saturating_sub(from)).ok());
            if let Some((first, count)) = run.filter(|(_, count)| *count > 0) {
                held.push(HeldPorts::hold(address, protocol, first, count)?);
            }
            from = end + 1;
        }
        Ok(held)
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

fn key(interface: usize, address: IpAddr, grant: &Grant) -> Key {
    (interface, address, grant.wish.protocol, grant.wish.first)
}
