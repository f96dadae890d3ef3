//! Another configuration is put into force, and interfaces come and go with it.
//!
//! ```text
//!   apply --> which come? --Order::Open--> keeper opens them --> all open? --no--> refused, nothing has changed
//!                                                                  | yes
//!             answer <-- all gone <--Notice::Removed-- keeper <-- in force: workers serve those that come,
//!                                                                 sessions of those that go end
//! ```
//!
//! - This thread waits for no interface: whoever asked waits, and nobody else. There is one change at a time.
//! - What may fail is done before anything is changed.
//! - A number is free again when no session that was on its interface is left.

use super::attach::{Rejection, internal};
use super::events::Told;
use super::ports::Supply;
use super::reserve::set_reserved;
use super::rules::{host_rules, reserve_for_host};
use super::{HANDSHAKE, Server, SharedInterface, report};
use crate::config::{Backend, Config, Interface, Network};
use crate::control::kernel_ports::KernelPorts;
use crate::control::registry::{Holder, Registry};
use crate::control::session::State;
use crate::daemon::{Fresh, Order, Serving};
use crate::port::wire;
use crate::session::InterfaceId;
use crate::switch::InterfaceSpec;
use rustix::event::epoll::EventFlags;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;
use usnet_shmring::control::{Ask, Message, RefusalCode};

/// A change that is under way.
#[derive(Debug)]
pub(super) struct Change {
    /// Who asked: its connection, and the number of its request.
    asker: (u64, u32),
    file: String,
    /// What will be in force; `None` once it is.
    next: Option<Config>,
    /// How many settings are otherwise, and the answer that says which.
    differences: usize,
    answer: String,
    /// Interfaces that go, and how many sessions each had.
    leaving: BTreeMap<usize, usize>,
}

impl SharedInterface {
    /// What the control plane has to know of an interface with these ports, one for each worker. `None` without a
    /// worker.
    pub(crate) fn new(
        id: InterfaceId,
        name: String,
        specs: &[InterfaceSpec],
        networks: Vec<Network>,
        (gateways, serving): (Vec<IpAddr>, Serving),
    ) -> Option<Self> {
        let first = specs.first()?;
        let (mac, mtu, port) = (first.mac, first.mtu, &first.wire);
        let unfinished = port.takes_unfinished() || port.info().backend == wire::BACKEND;
        Some(Self { id, name, mac, mtu, networks, gateways, unfinished, serving })
    }

    /// Its number, as an index.
    pub(super) fn index(&self) -> usize {
        self.id.0.into()
    }
}

/// Keeps from all sessions what the configuration keeps from them.
pub(super) fn reserve(
    registry: &mut Registry,
    kernel_ports: &KernelPorts,
    config: &Config,
    interface: &SharedInterface,
) {
    let configured = config.interfaces.iter().find(|c| c.name == interface.name);
    let Some(configured) = configured else { return };
    let index = interface.index();
    for address in interface.networks.iter().map(|network| network.address()) {
        registry.reserve(index, address, &configured.host_ports, Holder::Host);
        if let Some(flows) = kernel_ports.flow_ports(index) {
            registry.reserve(index, address, flows, Holder::Flows);
        }
    }
}

/// Why an interface cannot come beside those that are there now.
fn cannot_come(new: &Interface, now: &[Interface]) -> Option<String> {
    let name = &new.name;
    let network = |i: &Interface| i.network.clone().unwrap_or_else(|| i.name.clone());
    let is_same_wire = |other: &&Interface| {
        new.port == Backend::Wire && other.port == Backend::Wire && network(other) == network(new)
    };
    if let Some(other) = now.iter().find(is_same_wire) {
        let (wire, other) = (network(new), &other.name);
        return Some(format!(
            "interface {name} cannot be joined to {other}: all ends of a wire come together, and {wire} is there \
             already; name another network"
        ));
    }
    if let Some(other) = now.iter().find(|other| new.vlan.is_some() && other.vlan == new.vlan) {
        let other = &other.name;
        return Some(format!(
            "interface {name} would be the VLAN that {other} is; remove that first, then add this one"
        ));
    }
    let links = |i: &Interface| {
        let behind = i.behind.as_ref().map(|behind| behind.interface.clone());
        [Some(i.name.clone()), behind].into_iter().flatten().collect::<Vec<_>>()
    };
    let other =
        now.iter().find(|other| links(other).iter().any(|link| links(new).contains(link)))?;
    Some(format!(
        "interface {name} takes what interface {} has; remove that first, then add this one",
        other.name
    ))
}

impl Server {
    /// Interfaces that clients may attach to, by number.
    pub(super) fn served(&self) -> impl Iterator<Item = (usize, &SharedInterface)> {
        let leaving = self.change.as_ref().filter(|c| c.next.is_none()).map(|c| &c.leaving);
        let stays = move |index: &usize| leaving.is_none_or(|those| !those.contains_key(index));
        let all = self.interfaces.iter().map(|(index, interface)| (*index, interface));
        all.filter(move |(index, _)| stays(index))
    }

    /// Puts another file into force, and answers what that changes; `None` if the answer comes later.
    pub(super) fn apply_config(
        &mut self,
        key: u64,
        request: u32,
        ask: &Ask,
    ) -> Result<Option<String>, Rejection> {
        if !self.may_look(key)? {
            let text = "only root and the daemon's own user may do this".to_owned();
            return Err((RefusalCode::NotPermitted, text));
        }
        let protocol = |text: &str| (RefusalCode::Protocol, text.to_owned());
        let file = ask.text().ok_or_else(|| protocol("the words are not UTF-8, or too many"))?;
        if let Some(change) = &self.change {
            let text = format!("{} is being put into force; try again", change.file);
            return Err((RefusalCode::InUse, text));
        }
        let (next, differences) = self.compare(file)?;
        let fixed: Vec<&str> =
            differences.iter().filter(|d| !d.live).map(|d| d.key.as_str()).collect();
        if !fixed.is_empty() {
            let text =
                format!("nothing was changed, since a restart is needed for {}", fixed.join(", "));
            return Err((RefusalCode::Protocol, text));
        }
        let answer = report::to_json(&differences)
            .map_err(|e| internal("the answer cannot be written", e))?;
        let is_in = |those: &[Interface], name: &str| those.iter().any(|i| i.name == name);
        let now = &self.config.interfaces;
        let come: Vec<Interface> =
            next.interfaces.iter().filter(|i| !is_in(now, &i.name)).cloned().collect();
        if let Some(text) = come.iter().find_map(|new| cannot_come(new, now)) {
            return Err((RefusalCode::InUse, format!("nothing was changed: {text}")));
        }
        let goes = |i: &&SharedInterface| !is_in(&next.interfaces, &i.name);
        let leaving: BTreeMap<usize, usize> =
            self.interfaces.values().filter(goes).map(|i| (i.index(), 0)).collect();
        let wanted = self.numbered(come)?;
        let is_quick = wanted.is_empty() && leaving.is_empty();
        let (file, differences) = (file.to_owned(), differences.len());
        let asker = (key, request);
        self.change = Some(Change { asker, file, next: Some(next), differences, answer, leaving });
        if is_quick {
            self.put_into_force(Vec::new());
            return Ok(self.change.take().map(|change| change.answer));
        }
        if let Some(connection) = self.connections.get_mut(&key) {
            (connection.waits, connection.deadline) = (true, None);
        }
        self.watch(key, EventFlags::RDHUP);
        if wanted.is_empty() {
            self.put_into_force(Vec::new());
        } else {
            self.keeper.orders.send(Order::Open(wanted));
        }
        Ok(None)
    }

    /// Gives numbers that nothing has, nor any session that has yet to end.
    fn numbered(&self, come: Vec<Interface>) -> Result<Vec<(InterfaceId, Interface)>, Rejection> {
        let attachments = self.connections.values().filter_map(|c| c.attachment.as_ref());
        let ending: Vec<usize> = attachments.map(|attachment| attachment.interface).collect();
        let is_free = |id: &InterfaceId| {
            let index = usize::from(id.0);
            !self.interfaces.contains_key(&index) && !ending.contains(&index)
        };
        let count = come.len();
        let free = (0..=u8::MAX).map(InterfaceId).filter(is_free);
        let numbered: Vec<_> = free.zip(come).collect();
        if numbered.len() < count {
            let text = "nothing was changed: a switch has at most 256 interfaces".to_owned();
            return Err((RefusalCode::Exhausted, text));
        }
        Ok(numbered)
    }

    /// The keeper has opened those that come, or could not.
    pub(super) fn opened(&mut self, opened: Result<Vec<Fresh>, String>) {
        let Some(change) = &self.change else { return };
        let fresh = opened.map_err(|why| (RefusalCode::NotFound, why)).and_then(|fresh| {
            let those: Vec<InterfaceId> = fresh.iter().map(|i| i.id).collect();
            let Some(next) = &change.next else { return Ok(fresh) };
            self.check_addresses(next, &fresh).map(|()| fresh).inspect_err(|_| {
                // The ports are closed by now.
                self.keeper.orders.send(Order::Serve(those, false));
            })
        });
        match fresh {
            Ok(fresh) => self.put_into_force(fresh),
            Err((code, why)) => {
                self.finish(Err((code, format!("nothing was changed: {why}"))));
            }
        }
    }

    /// From now on the new configuration holds: those that come are served, those that go are not.
    fn put_into_force(&mut self, fresh: Vec<Fresh>) {
        let those: Vec<InterfaceId> = fresh.iter().map(|i| i.id).collect();
        let mut served = Vec::new();
        let mut fresh = fresh.into_iter();
        while let Some(interface) = fresh.next() {
            match self.serve_interface(interface, &served) {
                Ok(shared) => served.push(shared),
                Err(rejection) => {
                    // Ports close before what was changed for them is put back.
                    drop(fresh);
                    for shared in served {
                        self.kernel_ports.remove(shared.index());
                        self.keeper.orders.send(Order::Remove(shared.id));
                    }
                    self.keeper.orders.send(Order::Serve(those, false));
                    return self.finish(Err(rejection));
                }
            }
        }
        self.keeper.orders.send(Order::Serve(those, true));
        let Some(change) = &mut self.change else { return };
        let Some(next) = change.next.take() else { return };
        let (file, changes) = (change.file.clone(), change.differences);
        let leaving: Vec<usize> = change.leaving.keys().copied().collect();
        tracing::info!(file, changes, "another configuration is in force");
        self.journal.tell(&Told::Configured { file: &file, changes });
        self.config.adopt(next);
        for shared in served {
            reserve(&mut self.registry, &self.kernel_ports, &self.config, &shared);
            // The workers have had these before the first frame.
            reserve_for_host(&mut self.registry, &self.config, &shared);
            let mac = shared.mac.to_string();
            self.journal.tell(&Told::InterfaceAdded { ifname: &shared.name, mac: &mac });
            self.supply.insert(shared.index(), Supply::default());
            self.interfaces.insert(shared.index(), shared);
        }
        self.keep_ports();
        for index in leaving {
            let Some(interface) = self.interfaces.get(&index) else { continue };
            let (id, words) = (interface.id, format!("interface {} removed", interface.name));
            let sessions = self.end_sessions_of(index, &words, Some(&words));
            if let Some(change) = &mut self.change {
                change.leaving.insert(index, sessions);
            }
            // The workers have been told to end the sessions before they are told this.
            self.keeper.orders.send(Order::Remove(id));
        }
        self.finish_if_done();
    }

    /// Has the workers serve an interface that was opened.
    fn serve_interface(
        &mut self,
        fresh: Fresh,
        beside: &[SharedInterface],
    ) -> Result<SharedInterface, Rejection> {
        let Fresh { id, configured, networks, gateways, specs, serving } = fresh;
        let name = configured.name.clone();
        let shared = SharedInterface::new(id, name, &specs, networks.clone(), (gateways, serving));
        let shared = shared.ok_or_else(|| internal("an interface has no port", "no worker"))?;
        let index = shared.index();
        self.kernel_ports.add(index, &configured, &networks);
        let flow_ports = self.kernel_ports.flow_ports(index);
        let host_rules: Vec<_> = host_rules(&configured, &networks).collect();
        let vlan = configured.vlan.as_ref().and_then(|vlan| {
            let of = self.interfaces.values().chain(beside).find(|other| other.name == vlan.of);
            Some((of?.id, vlan.id))
        });
        if let Err(error) = self.workers.add_interface(id, specs, flow_ports, &host_rules, vlan) {
            self.kernel_ports.remove(index);
            return Err(internal("a worker refuses the interface", error));
        }
        Ok(shared)
    }

    /// The keeper has taken an interface from the workers, and put back what was changed for it.
    pub(super) fn removed(&mut self, id: InterfaceId) {
        // What the workers have said of it is heard before it is forgotten.
        self.take_events();
        let index = usize::from(id.0);
        let Some(interface) = self.interfaces.remove(&index) else { return };
        let sessions = self.change.as_mut().and_then(|change| change.leaving.remove(&index));
        self.supply.remove(&index);
        self.registry.close(index);
        self.kernel_ports.remove(index);
        self.keep_ports();
        let sessions = sessions.unwrap_or(0);
        self.journal.tell(&Told::InterfaceRemoved { ifname: &interface.name, sessions });
        self.finish_if_done();
    }

    /// Ports are kept for the clients that the configuration knows.
    fn keep_ports(&mut self) {
        let Self { registry, kernel_ports, config, interfaces, .. } = self;
        set_reserved(registry, kernel_ports, &config.clients, interfaces.values());
    }

    fn finish_if_done(&mut self) {
        let is_done = |change: &&mut Change| change.next.is_none() && change.leaving.is_empty();
        if let Some(change) = self.change.as_mut().filter(is_done) {
            let answer = std::mem::take(&mut change.answer);
            self.finish(Ok(answer));
        }
    }

    /// Answers who asked for the change.
    fn finish(&mut self, answer: Result<String, Rejection>) {
        let Some(Change { asker: (key, request), .. }) = self.change.take() else { return };
        let Some(connection) = self.connections.get_mut(&key) else { return };
        connection.waits = false;
        if connection.state == State::Connected {
            connection.deadline = Some(Instant::now() + HANDSHAKE);
        }
        self.watch(key, EventFlags::IN | EventFlags::RDHUP);
        match answer {
            Ok(text) => self.send_text(key, request, text),
            Err((code, text)) => {
                tracing::warn!(text, "the configuration stays as it was");
                self.send(key, request, &Message::refused(code, &text));
            }
        }
    }
}
