//! Claims beside plain ones: for some remote ends, with a priority, or as one of a group.
//!
//! Two claims of one port that can mean the same remote end are a conflict unless one user has both under one policy:
//! nobody takes a part of what another has. The host's, which are configured, are for what they name and leave the rest.

use super::{Holder, Place, Refusal, Registry, Wish};
use crate::steer::{self, Scope};
use usnet_shmring::ledger::SessionId;

/// A range that is held for some remote ends, or by a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scoped {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) scope: Scope,
    pub(super) holder: Holder,
}

impl Scoped {
    fn meets(&self, first: u16, last: u16) -> bool {
        self.first <= last && first <= self.last
    }
}

/// Why two claims of the same are not a group.
const ALONE: &str = ", which does not share it";
const STRANGER: &str = ", whose user or policy is another";
const OTHER_RANGE: &str = ", which shares another range of ports";

impl Registry {
    /// Keeps ports for the host as far as a remote end is concerned. To be called before any session enters.
    pub fn reserve_from(&mut self, interface: usize, rule: &steer::Rule) {
        let steer::Rule { address, protocol, first, count, scope, .. } = *rule;
        let last = first.saturating_add(count.saturating_sub(1));
        let place = (interface, address.to_ip(), protocol);
        let kept = Scoped { first, last, scope, holder: Holder::Host };
        self.scoped.entry(place).or_default().push(kept);
    }

    /// The last port of a range at `place`, held for some remote ends, that has one in common with these.
    pub(super) fn scoped_overlap(&self, place: Place, first: u16, count: u16) -> Option<u16> {
        let last = first.saturating_add(count.saturating_sub(1));
        let all = self.scoped.get(&place)?;
        all.iter().filter(|held| held.meets(first, last)).map(|held| held.last).max()
    }

    fn account_of(&self, id: SessionId) -> Option<(u32, usize)> {
        self.members.get(&id).map(|member| member.entry.account)
    }

    /// Why these ports cannot be had at an address, if they cannot.
    pub(super) fn conflict(&self, id: SessionId, place: Place, wish: &Wish) -> Option<Refusal> {
        let (first, last) = (wish.first, wish.last());
        let (_, address, protocol) = place;
        let is_ours = |holder| match holder {
            Holder::Session(other) => self.account_of(other) == self.account_of(id),
            Holder::Host | Holder::Flows | Holder::Reserved(_) => false,
        };
        let plain = self.held.range((place, 0)..=(place, last)).rev();
        for (&(_, start), &(end, holder)) in plain.take_while(|(_, (end, _))| *end >= first) {
            // Kept for this very client.
            if self.is_for(holder, id) {
                continue;
            }
            if !wish.scope.is_same_place(&Scope::default()) && is_ours(holder) {
                continue;
            }
            let port = start.max(first);
            let shares = is_ours(holder);
            let holder = self.whose(holder);
            if wish.scope.is_plain() || end < first {
                return Some(Refusal::Held { address, protocol, port, holder });
            }
            let why = if shares { ALONE } else { "" };
            let scope = Scope::default();
            return Some(Refusal::HeldFor { address, protocol, port, scope, holder, why });
        }
        for held in self.scoped.get(&place).into_iter().flatten() {
            if !held.meets(first, last) || !held.scope.overlaps(&wish.scope) {
                continue;
            }
            let is_own = held.holder == Holder::Session(id);
            let why = match held.holder {
                Holder::Host | Holder::Flows | Holder::Reserved(_) => {
                    match held.scope.covers(&wish.scope) {
                        true => "",
                        false => continue,
                    }
                }
                Holder::Session(_) => match held.scope.is_same_place(&wish.scope) {
                    _ if !is_ours(held.holder) => STRANGER,
                    false => continue,
                    true if is_own => "",
                    true if !held.scope.spread || !wish.scope.spread => ALONE,
                    true if (held.first, held.last) != (first, last) => OTHER_RANGE,
                    true => continue,
                },
            };
            let (port, scope) = (held.first.max(first), held.scope);
            let holder = self.whose(held.holder);
            return Some(Refusal::HeldFor { address, protocol, port, scope, holder, why });
        }
        None
    }
}
