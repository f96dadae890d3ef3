//! Claims for some remote ends, of whole protocols and of groups: read, granted, put into force with all workers.

use super::super::registry::{Grant, Registry, Wish};
use super::attach::Rejection;
use super::prefixes::prefix;
use super::request::local_address;
use super::{Server, SharedInterface};
use crate::classify::Protocol;
use crate::config::{Config, Interface, Network};
use crate::daemon::Workers;
use crate::session::InterfaceId;
use crate::steer::{self, Prefix, Scope};
use crate::switch::{Switch, SwitchError};
use crate::verdict::Receiver;
use std::net::IpAddr;
use usnet_shmring::control::{Address, Message, RefusalCode, Rule, rule_flags};
use usnet_shmring::ledger::SessionId;

/// Has every worker do the same; the first refusal is the answer.
pub(super) fn each(
    workers: &Workers,
    what: impl Fn(&mut Switch) -> Result<(), SwitchError> + Clone + Send + 'static,
) -> Result<(), SwitchError> {
    let done = workers.look_at_each(move |switch, _| what(switch));
    done.ok_or(SwitchError::Stopped)?.into_iter().collect()
}

/// What the host keeps of an interface for some remote ends.
pub(super) fn host_rules(
    configured: &Interface,
    networks: &[Network],
) -> impl Iterator<Item = steer::Rule> {
    let of = move |address: IpAddr| {
        configured.host_sources.iter().map(move |source| {
            let (first, last) = (*source.ports.start(), *source.ports.end());
            let count = last.saturating_sub(first).saturating_add(1);
            let scope = Scope { remote: source.remote, priority: u8::MAX, ..Scope::default() };
            let (address, protocol) = (address.into(), source.protocol);
            steer::Rule { address, protocol, first, count, scope, seed: 0 }
        })
    };
    networks.iter().map(|network| network.address()).flat_map(of)
}

/// Keeps these from all sessions.
pub(super) fn reserve_for_host(
    registry: &mut Registry,
    config: &Config,
    interface: &SharedInterface,
) -> Vec<steer::Rule> {
    let configured = config.interfaces.iter().find(|c| c.name == interface.name);
    let rules = configured.into_iter().flat_map(|c| host_rules(c, &interface.networks));
    let rules: Vec<_> = rules.collect();
    for rule in &rules {
        registry.reserve_from(interface.index(), rule);
    }
    rules
}

/// The same, and has the workers act on it.
pub(super) fn keep_for_host(
    registry: &mut Registry,
    workers: &Workers,
    config: &Config,
    interface: &SharedInterface,
) -> Result<(), SwitchError> {
    let id = interface.id;
    reserve_for_host(registry, config, interface).into_iter().try_for_each(|rule| {
        each(workers, move |switch| switch.give_rule(id, &rule, Receiver::Host))
    })
}

impl Server {
    pub(super) fn claim_rule(&mut self, key: u64, rule: &Rule) -> Result<Rule, Rejection> {
        let (id, interface) = self.session_of(key)?;
        if let Some(prefix) = prefix(rule) {
            return self.claim_prefix(id, interface, prefix?).map(|()| *rule);
        }
        let grant = self.grant(id, interface, wish(rule)?)?;
        Ok(Rule { first_port: grant.wish.first, ..*rule })
    }

    pub(super) fn release_rule(&mut self, key: u64, rule: &Rule) -> Result<Rule, Rejection> {
        let (id, interface) = self.session_of(key)?;
        match prefix(rule) {
            Some(prefix) => self.release_prefix(id, interface, prefix?)?,
            None => self.give_back(id, interface, wish(rule)?)?,
        }
        Ok(*rule)
    }

    pub(super) fn answer_rule(&mut self, key: u64, request: u32, answer: Result<Rule, Rejection>) {
        let message = match answer {
            Ok(rule) => Message::RuleClaimed(rule),
            Err(refusal) => {
                self.tell_refused(key, "claim", &refusal);
                Message::refused(refusal.0, &refusal.1)
            }
        };
        self.send(key, request, &message);
    }

    /// Has the workers give what was granted to a session.
    pub(super) fn enforce(
        &self,
        interface: InterfaceId,
        grant: &Grant,
        to: SessionId,
    ) -> Result<(), SwitchError> {
        let Wish { protocol, first, count, .. } = grant.wish;
        if is_plain(grant) {
            return grant.addresses.iter().try_for_each(|address| {
                self.workers.set_listener(interface, *address, protocol, first, count, Some(to))
            });
        }
        self.rules(grant).try_for_each(|rule| {
            each(&self.workers, move |s| s.give_rule(interface, &rule, Receiver::Client(to)))
        })
    }

    /// Has the workers take it back.
    pub(super) fn lift(
        &self,
        interface: InterfaceId,
        grant: &Grant,
        from: SessionId,
    ) -> Result<(), SwitchError> {
        let Wish { protocol, first, count, .. } = grant.wish;
        if is_plain(grant) {
            return grant.addresses.iter().try_for_each(|address| {
                self.workers.set_listener(interface, *address, protocol, first, count, None)
            });
        }
        self.rules(grant).try_for_each(|rule| {
            each(&self.workers, move |s| s.take_rule(interface, &rule, Receiver::Client(from)))
        })
    }

    fn rules(&self, grant: &Grant) -> impl Iterator<Item = steer::Rule> {
        let Wish { protocol, first, count, scope, .. } = grant.wish;
        let seed = self.spread_seed;
        grant.addresses.iter().map(move |address| {
            let address = (*address).into();
            steer::Rule { address, protocol, first, count, scope, seed }
        })
    }
}

fn is_plain(grant: &Grant) -> bool {
    grant.wish.scope.is_plain() && grant.wish.protocol.has_ports()
}

/// The wish in a rule.
fn wish(rule: &Rule) -> Result<Wish, Rejection> {
    let malformed = || (RefusalCode::Protocol, "the claim is malformed".to_owned());
    let Rule { address, remote, first_port, count, remote_port, protocol, priority, .. } = *rule;
    let address = local_address(&address).map_err(|()| malformed())?;
    if rule.reserved != 0 || rule.flags & !rule_flags::SPREAD != 0 {
        return Err(malformed());
    }
    let remote = match remote.ip() {
        None if remote == Address::default() => Prefix::ANY,
        None => return Err(malformed()),
        Some(ip) => Prefix::new(ip, remote.prefix)
            .filter(|_| remote.reserved == [0; 6])
            .ok_or_else(malformed)?,
    };
    let is_family = |ip: IpAddr| remote.to_network().is_none_or(|r| r.0.is_ipv4() == ip.is_ipv4());
    if address.is_some_and(|ip| !is_family(ip)) {
        let text = "the two addresses of the claim are of different families".to_owned();
        return Err((RefusalCode::Protocol, text));
    }
    let protocol = Protocol(protocol);
    if remote_port != 0 && !protocol.has_ports() {
        return Err((RefusalCode::Protocol, format!("protocol {} has no ports", protocol.0)));
    }
    let spread = rule.flags & rule_flags::SPREAD != 0;
    let scope = Scope { remote, remote_port, priority, spread };
    Ok(Wish { address, protocol, first: first_port, count, scope })
}
