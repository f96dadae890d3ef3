//! Who listens: plainly, for some remote ends, for a whole protocol, alone or as one of a group.

use super::locals::Local;
use super::scope::Scope;
use super::sources::{Port, Target};
use super::spread::{self, GROUPS, Spread};
use super::{Table, map_index};
use crate::classify::{Address, Flow, Protocol};
use crate::verdict::{Receiver, ReceiverCode};

/// What one holds, at one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Local address.
    pub address: Address,
    /// IP protocol.
    pub protocol: Protocol,
    /// First port; 0 where the protocol has none.
    pub first: u16,
    /// Number of ports; 0 where the protocol has none.
    pub count: u16,
    /// The remote end, the priority, whether it is shared.
    pub scope: Scope,
    /// How a group spreads its flows: the same for all members and workers, and not known outside.
    pub seed: u64,
}

impl Rule {
    fn has_ports(&self) -> bool {
        self.protocol.has_ports()
    }

    /// Of a protocol without ports, one place.
    fn ports(&self) -> impl Iterator<Item = Port> + use<> {
        let Self { address, protocol, first, .. } = *self;
        let count = if self.has_ports() { self.count } else { 1 };
        let ports = (first..=u16::MAX).take(count.into());
        ports.map(move |port| Port { address, protocol, port })
    }

    fn held(&self) -> spread::Held {
        let Self { address, protocol, first, count, scope, .. } = *self;
        spread::Held { address, protocol, first, count, scope }
    }
}

/// Why a rule was not entered; the table is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleRefusal {
    /// The interface does not serve the address, or the protocol is never one client's.
    NotClaimable,
    /// Another has the same.
    Taken,
    /// No room for more rules, kinds of remote ends, groups or members.
    Full,
}

/// Who may send from a port, or would get what arrives there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Nobody holds it.
    Free,
    /// For this remote end, one holds it.
    By(Receiver),
    /// For this remote end, a group holds it; this is whether the receiver in question is a member.
    ByGroup(bool),
    /// It is held, but not for this remote end.
    Elsewhere,
}

impl Table {
    /// Gives `count` ports from `first` to a receiver, or to nobody, whatever remote ends there are rules for. Returns
    /// false if the interface does not serve the address or the protocol has no ports.
    pub fn set_listener(
        &mut self,
        address: Address,
        protocol: Protocol,
        first: u16,
        count: u16,
        to: Option<Receiver>,
    ) -> bool {
        self.changes += 1;
        let Self { locals, sources, claims, .. } = self;
        let Some(local) = locals.get_mut(address) else { return false };
        let index = map_index(protocol);
        let Some(map) = local.ports.get_mut(index) else { return false };
        map.get_or_insert_with(super::ports::PortMap::new).set(first, count, to, |port| {
            sources.set_plain(Port { address, protocol, port }, ReceiverCode::of(to));
        });
        if let Some(claims) = claims
            && to.is_some()
            && local.shared.is_some()
        {
            claims.add(index, (first..=u16::MAX).take(count.into()));
        }
        true
    }

    /// Who listens on this port, whatever the remote end.
    #[inline]
    #[must_use]
    pub fn listener(&self, address: Address, protocol: Protocol, port: u16) -> Option<Receiver> {
        self.local(address)?.listener(protocol, port).receiver()
    }

    /// Everyone who listens for this flow at any address, each once in a row.
    pub fn listeners(&self, flow: &Flow) -> impl Iterator<Item = Receiver> + '_ {
        let flow = *flow;
        self.locals.iter().filter_map(move |local| {
            let there = Flow { destination: local.address, ..flow };
            match local.code(&there) {
                ReceiverCode::SOURCES => self.look_again(&there),
                code => code.receiver(),
            }
        })
    }

    /// Who gets a flow that arrives at a port with rules for some remote ends.
    #[inline(never)]
    pub(super) fn look_again(&self, flow: &Flow) -> Option<Receiver> {
        match self.target(flow)? {
            Target::One(receiver) => Some(receiver),
            Target::Group(number) => self.spread(number)?.member(flow),
        }
    }

    fn target(&self, flow: &Flow) -> Option<Target> {
        let (port, remote_port) = match flow.ports_known {
            true => (flow.destination_port, flow.source_port),
            false => (0, 0),
        };
        let port = Port { address: flow.destination, protocol: flow.protocol, port };
        self.sources.find(port, flow.source, remote_port)
    }

    fn spread(&self, number: u16) -> Option<&Spread> {
        self.spreads.get(usize::from(number))?.as_ref()
    }

    /// Whose the local end of this flow is, of which `answer` is what arrives, as `asks` may know it.
    #[inline]
    pub(crate) fn holder(&self, answer: &Flow, asks: Receiver) -> Held {
        let Some(local) = self.local(answer.destination) else {
            return self.prefix_holder(answer);
        };
        let code = local.code(answer);
        match code.receiver() {
            Some(receiver) => Held::By(receiver),
            None if code == ReceiverCode::SOURCES => self.holder_again(answer, asks),
            None => Held::Free,
        }
    }

    #[inline(never)]
    fn holder_again(&self, answer: &Flow, asks: Receiver) -> Held {
        match self.target(answer) {
            Some(Target::One(receiver)) => Held::By(receiver),
            Some(Target::Group(number)) => {
                let is_member = |spread: &Spread| spread.members().contains(&asks);
                Held::ByGroup(self.spread(number).is_some_and(is_member))
            }
            None => Held::Elsewhere,
        }
    }

    /// Whether what this flow arrives at is spread over a group.
    pub(crate) fn is_spread(&self, flow: &Flow) -> bool {
        matches!(self.target(flow), Some(Target::Group(_)))
    }

    /// Gives a rule to a receiver. Giving what it has changes nothing.
    ///
    /// # Errors
    /// [`RuleRefusal`]
    pub fn give(&mut self, rule: &Rule, to: Receiver) -> Result<(), RuleRefusal> {
        self.changes += 1;
        let Some(local) = self.locals.get(rule.address) else {
            return Err(RuleRefusal::NotClaimable);
        };
        let has_ports = rule.has_ports();
        let is_range = rule.count != 0 && u32::from(rule.first) + u32::from(rule.count) <= 1 << 16;
        if !rule.protocol.can_be_claimed() || has_ports && !is_range {
            return Err(RuleRefusal::NotClaimable);
        }
        let is_shared = local.shared.is_some();
        if rule.scope.is_plain() {
            if has_ports {
                self.set_listener(rule.address, rule.protocol, rule.first, rule.count, Some(to));
            } else {
                self.give_whole(rule, to)?;
            }
            return Ok(());
        }
        let target = match rule.scope.spread {
            false => Target::One(to),
            true => match self.join(rule, to)? {
                Some(target) => target,
                None => return Ok(()),
            },
        };
        if let Err(refusal) = self.enter(rule, target) {
            if let Target::Group(number) = target
                && let Some(place) = self.spreads.get_mut(usize::from(number))
            {
                *place = None;
            }
            return Err(refusal);
        }
        if let Some(claims) = &mut self.claims
            && is_shared
            && has_ports
        {
            claims.add(map_index(rule.protocol), rule.ports().map(|port| port.port));
        }
        Ok(())
    }

    /// Takes a rule back that a receiver has; of others', and of what nobody has, nothing.
    pub fn take(&mut self, rule: &Rule, from: Receiver) {
        self.changes += 1;
        if rule.scope.is_plain() {
            for port in rule.ports() {
                if self.code_at(port).receiver() == Some(from) {
                    self.put(port, ReceiverCode::NONE);
                } else if self.code_at(port) == ReceiverCode::SOURCES {
                    self.sources.set_plain(port, ReceiverCode::NONE);
                }
            }
            return;
        }
        let target = match rule.scope.spread {
            false => Target::One(from),
            true => match self.leave(&rule.held(), from) {
                Some(target) => target,
                None => return,
            },
        };
        rule.ports().for_each(|port| self.withdraw(port, &rule.scope, target));
    }

    /// Adds a member to the group of a rule. `None` if there was one: then its rules are in force.
    fn join(&mut self, rule: &Rule, member: Receiver) -> Result<Option<Target>, RuleRefusal> {
        let held = rule.held();
        if let Some(group) = self.spreads.iter_mut().flatten().find(|group| group.held == held) {
            return if group.join(member) { Ok(None) } else { Err(RuleRefusal::Full) };
        }
        let free = self.spreads.iter().position(Option::is_none);
        let number = free.unwrap_or(self.spreads.len());
        if number >= GROUPS {
            return Err(RuleRefusal::Full);
        }
        let mut group = Spread::new(held, rule.seed);
        group.join(member);
        match self.spreads.get_mut(number) {
            Some(place) => *place = Some(group),
            None => self.spreads.push(Some(group)),
        }
        let number = u16::try_from(number).map_err(|_| RuleRefusal::Full)?;
        Ok(Some(Target::Group(number)))
    }

    /// Takes a member out of a group. If it was the last, the group's rules have to go.
    fn leave(&mut self, held: &spread::Held, member: Receiver) -> Option<Target> {
        let is_it = |g: &Option<Spread>| g.as_ref().is_some_and(|group| group.held == *held);
        let number = self.spreads.iter().position(is_it)?;
        let place = self.spreads.get_mut(number)?;
        if !place.as_mut()?.leave(member) {
            return None;
        }
        *place = None;
        u16::try_from(number).ok().map(Target::Group)
    }

    /// Enters the ports of a rule, all or none.
    fn enter(&mut self, rule: &Rule, target: Target) -> Result<(), RuleRefusal> {
        for port in rule.ports() {
            let refusal = match self.sources.target(port, &rule.scope) {
                Some(present) if present == target => continue,
                Some(_) => Some(RuleRefusal::Taken),
                None => {
                    let plain = self.code_at(port);
                    match self.sources.add(port, &rule.scope, target, plain) {
                        Ok(true) => {
                            self.put(port, ReceiverCode::SOURCES);
                            None
                        }
                        Ok(false) => None,
                        Err(_) => Some(RuleRefusal::Full),
                    }
                }
            };
            if let Some(refusal) = refusal {
                let entered = rule.ports().take_while(|done| *done != port);
                entered.for_each(|done| self.withdraw(done, &rule.scope, target));
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// Takes one port of a rule out, if it is the target's.
    fn withdraw(&mut self, port: Port, scope: &Scope, target: Target) {
        if self.sources.target(port, scope) == Some(target)
            && let Some(plain) = self.sources.remove(port, scope)
        {
            self.put(port, plain);
        }
    }

    fn give_whole(&mut self, rule: &Rule, to: Receiver) -> Result<(), RuleRefusal> {
        for port in rule.ports() {
            let code = self.code_at(port);
            if code == ReceiverCode::SOURCES {
                self.sources.set_plain(port, ReceiverCode::of(Some(to)));
            } else if code.receiver().is_some_and(|other| other != to) {
                return Err(RuleRefusal::Taken);
            } else {
                self.put(port, ReceiverCode::of(Some(to)));
            }
        }
        Ok(())
    }

    fn code_at(&self, Port { address, protocol, port }: Port) -> ReceiverCode {
        let code = |local: &Local| match protocol.has_ports() {
            true => local.listener(protocol, port),
            false => local.protocol(protocol),
        };
        self.locals.get(address).map_or(ReceiverCode::NONE, code)
    }

    /// Sets what the dense maps say of a port.
    fn put(&mut self, Port { address, protocol, port }: Port, code: ReceiverCode) {
        let Some(local) = self.locals.get_mut(address) else { return };
        match local.ports.get_mut(map_index(protocol)) {
            Some(map) => map.get_or_insert_with(super::ports::PortMap::new).put(port, code),
            None => {
                let none = || Box::new([ReceiverCode::NONE; 256]);
                local.whole.get_or_insert_with(none)[usize::from(protocol.0)] = code;
            }
        }
    }

    /// Removes every rule of a receiver.
    pub(super) fn forget_rules(&mut self, receiver: Receiver) {
        let gone = ReceiverCode::of(Some(receiver));
        for (port, scope) in self.sources.of(Target::One(receiver)) {
            self.withdraw(port, &scope, Target::One(receiver));
        }
        let held: Vec<_> = self.spreads.iter().flatten().map(|group| group.held).collect();
        for held in held {
            if let Some(target) = self.leave(&held, receiver) {
                for (port, scope) in self.sources.of(target) {
                    self.withdraw(port, &scope, target);
                }
            }
        }
        self.sources.forget_plain(gone);
        for local in self.locals.iter_mut() {
            local.ports.iter_mut().flatten().for_each(|map| map.forget(receiver));
            let whole = local.whole.iter_mut().flat_map(|whole| whole.iter_mut());
            whole.filter(|code| **code == gone).for_each(|code| *code = ReceiverCode::NONE);
        }
    }

    /// Rules that speak of the remote end, each port counted.
    #[must_use]
    pub fn source_rules(&self) -> usize {
        self.sources.len()
    }
}
