//! What is held by no session: ports kept for clients that have yet to come, and what goes with an interface.
//!
//! ```text
//!   reserved for web     80 ......... 89     web (its uid, and its name) claims 84
//!   while it has that    80-83 | 84 | 85-89  the session's, in the middle
//!   when it ends         80 ......... 89     reserved again
//! ```
//!
//! - A name alone proves nothing: user and group, by the kernel's word, decide as well.
//! - One holder a port, as ever: where somebody has a port already, it is reserved when that one gives it back.

use super::{Grant, Holder, Member, Place, Registry, Wish};
use crate::config::Peer;
use crate::config::Services;
use std::collections::BTreeMap;
use std::net::IpAddr;
use usnet_shmring::ledger::SessionId;

/// Ports that are kept for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// What it calls itself.
    pub name: String,
    /// Its user.
    pub uid: u32,
    /// A group that it must have as well, if any.
    pub gid: Option<u32>,
    /// Index of its interface.
    pub interface: usize,
    /// At which addresses.
    pub addresses: Vec<IpAddr>,
    /// The ports.
    pub ports: Services,
}

impl Reserved {
    fn is_for(&self, (name, peer): &(String, Peer)) -> bool {
        let has_group = |gid| peer.gid == gid || peer.groups.contains(&gid);
        self.name == *name && self.uid == peer.uid && self.gid.is_none_or(has_group)
    }
}

/// All such, and who the sessions are.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    all: Vec<Reserved>,
    known: BTreeMap<SessionId, (String, Peer)>,
}

impl Registry {
    /// An interface is gone: nothing is held there any more.
    pub fn close(&mut self, interface: usize) {
        self.held.retain(|((place, ..), _), _| *place != interface);
        self.scoped.retain(|(place, ..), _| *place != interface);
        self.own.retain(|(place, _), _| *place != interface);
        self.prefixes.retain(|(place, _), _| *place != interface);
        self.reservations.all.iter_mut().filter(|r| r.interface == interface).for_each(|r| {
            // Its number, which others may bear, is of no meaning any more.
            r.addresses.clear();
        });
    }

    /// Keeps ports for these clients, and for no others any more.
    pub fn set_reserved(&mut self, all: Vec<Reserved>) {
        self.held.retain(|_, (_, holder)| !matches!(holder, Holder::Reserved(_)));
        self.reservations.all = all;
        for number in 0..self.reservations.all.len() {
            let Some(one) = self.reservations.all.get(number).cloned() else { break };
            let Ok(number) = u16::try_from(number) else { break };
            for address in one.addresses {
                self.reserve(one.interface, address, &one.ports, Holder::Reserved(number));
            }
        }
    }

    /// Says what a session calls itself, and who its process is.
    pub fn introduce(&mut self, id: SessionId, name: &str, peer: &Peer) {
        self.reservations.known.insert(id, (name.to_owned(), peer.clone()));
    }

    /// What the client of a reservation calls itself.
    #[must_use]
    pub fn reserved_for(&self, number: u16) -> Option<&str> {
        Some(self.reservations.all.get(usize::from(number))?.name.as_str())
    }

    /// What a session calls itself.
    pub(super) fn name_of(&self, id: SessionId) -> Option<&str> {
        self.reservations.known.get(&id).map(|(name, _)| name.as_str())
    }

    pub(super) fn leave(&mut self, id: SessionId) {
        self.reservations.known.remove(&id);
    }

    pub(super) fn is_for(&self, holder: Holder, id: SessionId) -> bool {
        let Holder::Reserved(number) = holder else { return false };
        let known = self.reservations.known.get(&id);
        let reserved = self.reservations.all.get(usize::from(number));
        reserved.zip(known).is_some_and(|(reserved, known)| reserved.is_for(known))
    }

    /// All ranges at `place` that have a port in common with `count` ports from `first`, in order.
    fn overlaps(&self, place: Place, first: u16, count: u16) -> Vec<(u16, u16, Holder)> {
        let last = first.saturating_add(count.saturating_sub(1));
        let before = self.held.range((place, 0)..(place, first)).next_back();
        let within = self.held.range((place, first)..=(place, last));
        let all = before.into_iter().chain(within).map(|(&(_, start), &(end, h))| (start, end, h));
        all.filter(|(_, end, _)| *end >= first).collect()
    }

    /// Whether all ports of a wish are kept for `id` at all addresses: then it needs no other permission.
    pub(super) fn is_kept_for(&self, id: SessionId, member: &Member, wish: &Wish) -> bool {
        let Wish { protocol, first, count, .. } = *wish;
        let Ok(addresses) = member.targets(wish.address) else { return false };
        let kept = |address: &IpAddr| {
            let all = self.overlaps((member.entry.interface, *address, protocol), first, count);
            let ports: u32 = all
                .iter()
                .filter(|(_, _, holder)| self.is_for(*holder, id))
                .map(|(start, end, _)| {
                    let last = first.saturating_add(count.saturating_sub(1));
                    u32::from((*end).min(last)) + 1 - u32::from((*start).max(first))
                })
                .sum();
            ports == u32::from(count)
        };
        addresses.iter().all(kept)
    }

    /// What is reserved makes room for a grant; whoever calls this has seen that nothing hinders it.
    pub(super) fn make_room(&mut self, place: Place, first: u16, last: u16) {
        let count = last.saturating_sub(first).saturating_add(1);
        for (start, end, holder) in self.overlaps(place, first, count) {
            self.held.remove(&(place, start));
            if start < first {
                self.held.insert((place, start), (first - 1, holder));
            }
            if end > last {
                self.held.insert((place, last + 1), (end, holder));
            }
        }
    }

    /// A grant is given back: what of it is reserved is so again.
    pub(super) fn reserve_again(&mut self, interface: usize, grant: &Grant) {
        let touches = |r: &Reserved| {
            r.interface == interface && r.addresses.iter().any(|a| grant.addresses.contains(a))
        };
        let numbers: Vec<u16> =
            (0..).zip(&self.reservations.all).filter(|(_, r)| touches(r)).map(|(n, _)| n).collect();
        for number in numbers {
            let Some(one) = self.reservations.all.get(usize::from(number)).cloned() else {
                continue;
            };
            for address in grant.addresses.iter().filter(|a| one.addresses.contains(a)) {
                // Whole ranges once more, so that what was split is one again.
                let is_there = |place: &Place| place.0 == interface && place.1 == *address;
                self.held.retain(|(place, _), (_, holder)| {
                    !is_there(place) || *holder != Holder::Reserved(number)
                });
                self.reserve(interface, *address, &one.ports, Holder::Reserved(number));
            }
        }
    }
}

#[cfg(test)]
mod tests;
