//! Whole prefixes of addresses that clients have claimed, for addresses that are not the interface's own.
//!
//! ```text
//!   10.1.0.7, TCP --> lengths in use, the longest first: one probe each
//!                       /32 of 10.1.0.7   nobody
//!                       /24 of 10.1.0.0   who has TCP there, else who has all
//! ```
//!
//! - Asked last: what is for an address of the interface, shared or a client's alone, does not come here.
//! - At most [`LENGTHS`] lengths of both families together, so a look costs at most so many probes, however many prefixes there are.
//! - At most [`PREFIX_RULES`] claims, [`PER_PREFIX`] of one prefix. What does not fit is refused.
//! - Seeded; who sends cannot choose addresses that collide.

use super::Table;
use super::rules::{Held, RuleRefusal};
use super::scope::{Prefix, masked};
use crate::classify::{Address, Flow, Protocol};
use crate::verdict::Receiver;
use core::cmp::Reverse;
use core::fmt;
use foldhash::fast::FixedState;
use std::collections::HashMap;

/// Lengths of prefixes that claims of one interface can have at one time, counted in bits of an [`Address`].
pub const LENGTHS: usize = 8;
/// Claims of prefixes on one interface.
pub const PREFIX_RULES: usize = 1024;
/// Claims of one prefix: of all protocols, or each of one.
pub const PER_PREFIX: usize = 8;

/// What one holds: all addresses with a prefix, all ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrefixRule {
    /// The addresses.
    pub prefix: Prefix,
    /// Of this protocol alone, or of all.
    pub protocol: Option<Protocol>,
}

impl fmt::Display for PrefixRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            None => write!(f, "all of {}", self.prefix),
            Some(protocol) => {
                let name = crate::config::protocol_name(protocol);
                write!(f, "all {name} of {}", self.prefix)
            }
        }
    }
}

/// All of an interface.
#[derive(Debug)]
pub(super) struct Prefixes {
    held: HashMap<Prefix, Vec<(Option<Protocol>, Receiver)>, FixedState>,
    /// In use, the longest first, each with how many prefixes have it.
    lengths: Vec<(u8, usize)>,
    rules: usize,
}

impl Prefixes {
    pub(super) fn new(seed: u64) -> Self {
        let held = HashMap::with_hasher(FixedState::with_seed(seed));
        Self { held, lengths: Vec::with_capacity(LENGTHS), rules: 0 }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Every claimed prefix that an address has, the longest first, with its claims.
    fn of(
        &self,
        address: Address,
    ) -> impl Iterator<Item = (Prefix, &[(Option<Protocol>, Receiver)])> {
        self.lengths.iter().filter_map(move |(bits, _)| {
            let prefix = Prefix::from_parts(masked(address, *bits), *bits);
            self.held.get(&prefix).map(|claims| (prefix, claims.as_slice()))
        })
    }

    /// Whose a protocol is at an address.
    #[inline(never)]
    fn find(&self, address: Address, protocol: Protocol) -> Option<(PrefixRule, Receiver)> {
        self.of(address).find_map(|(prefix, claims)| {
            let of = |wished| claims.iter().find(|(claimed, _)| *claimed == wished);
            let (protocol, receiver) = of(Some(protocol)).or_else(|| of(None))?;
            Some((PrefixRule { prefix, protocol: *protocol }, *receiver))
        })
    }

    /// Whose what has no claim of its own at an address is.
    #[inline(never)]
    fn owner(&self, address: Address) -> Option<Receiver> {
        let whole = |claims: &[(Option<Protocol>, Receiver)]| {
            claims.iter().find(|(claimed, _)| claimed.is_none()).map(|(_, receiver)| *receiver)
        };
        self.of(address).find_map(|(_, claims)| whole(claims))
    }

    fn give(&mut self, rule: PrefixRule, to: Receiver) -> Result<(), RuleRefusal> {
        let PrefixRule { prefix, protocol } = rule;
        let claims = self.held.get(&prefix);
        if let Some((_, holder)) =
            claims.into_iter().flatten().find(|(claimed, _)| *claimed == protocol)
        {
            return if *holder == to { Ok(()) } else { Err(RuleRefusal::Taken) };
        }
        let place = self.lengths.iter().position(|(bits, _)| *bits == prefix.bits());
        if self.rules >= PREFIX_RULES
            || claims.is_some_and(|claims| claims.len() >= PER_PREFIX)
            || place.is_none() && self.lengths.len() >= LENGTHS
        {
            return Err(RuleRefusal::Full);
        }
        if claims.is_none() {
            match place.and_then(|place| self.lengths.get_mut(place)) {
                Some((_, count)) => *count += 1,
                None => {
                    self.lengths.push((prefix.bits(), 1));
                    self.lengths.sort_by_key(|(bits, _)| Reverse(*bits));
                }
            }
        }
        self.held.entry(prefix).or_default().push((protocol, to));
        self.rules += 1;
        Ok(())
    }

    /// Takes out what `is_gone` says of a claim.
    fn remove(&mut self, is_gone: impl Fn(PrefixRule, Receiver) -> bool) {
        let Self { held, lengths, rules } = self;
        held.retain(|prefix, claims| {
            let before = claims.len();
            claims.retain(|(protocol, holder)| {
                !is_gone(PrefixRule { prefix: *prefix, protocol: *protocol }, *holder)
            });
            *rules -= before - claims.len();
            if claims.is_empty() {
                let length = lengths.iter_mut().find(|(bits, _)| *bits == prefix.bits());
                length.into_iter().for_each(|(_, count)| *count -= 1);
            }
            !claims.is_empty()
        });
        lengths.retain(|(_, count)| *count > 0);
    }

    /// Removes every claim of a receiver.
    pub(super) fn forget(&mut self, receiver: Receiver) {
        if !self.is_empty() {
            self.remove(|_, holder| holder == receiver);
        }
    }
}

impl Table {
    /// Gives all addresses with a prefix to a receiver. Giving what it has changes nothing.
    ///
    /// # Errors
    /// [`RuleRefusal`]
    pub fn give_prefix(&mut self, rule: PrefixRule, to: Receiver) -> Result<(), RuleRefusal> {
        self.changes += 1;
        if rule.prefix == Prefix::ANY || rule.protocol.is_some_and(|p| !p.can_be_claimed()) {
            return Err(RuleRefusal::NotClaimable);
        }
        self.prefixes.give(rule, to)
    }

    /// Takes them back, if the receiver has them.
    pub fn take_prefix(&mut self, rule: PrefixRule, from: Receiver) {
        self.changes += 1;
        self.prefixes.remove(|held, holder| held == rule && holder == from);
    }

    /// Who receives a flow to an address that is not the interface's own.
    #[inline]
    pub(super) fn beyond(&self, flow: &Flow) -> Option<Receiver> {
        match self.prefixes.is_empty() {
            true => self.default,
            false => self.prefix_of(flow).map(|(_, receiver)| receiver).or(self.default),
        }
    }

    /// Which claim of a prefix a flow to such an address is for.
    pub(super) fn prefix_of(&self, flow: &Flow) -> Option<(PrefixRule, Receiver)> {
        self.prefixes.find(flow.destination, flow.protocol)
    }

    /// Whose a flow is by its prefix, as [`holder`](Self::holder) says of ports.
    pub(super) fn prefix_holder(&self, answer: &Flow) -> Held {
        match self.prefixes.is_empty() {
            true => Held::Free,
            false => self.prefix_of(answer).map_or(Held::Free, |(_, holder)| Held::By(holder)),
        }
    }

    /// Whose all of an address is that is not the interface's own.
    pub(crate) fn prefix_owner(&self, address: Address) -> Option<Receiver> {
        match self.prefixes.is_empty() || self.locals.get(address).is_some() {
            true => None,
            false => self.prefixes.owner(address),
        }
    }

    /// Whether an address that is not the interface's own has a prefix of which somebody has at least a protocol.
    #[inline]
    pub(crate) fn is_in_prefix(&self, address: Address) -> bool {
        !self.prefixes.is_empty()
            && self.locals.get(address).is_none()
            && self.prefixes.of(address).next().is_some()
    }

    /// Whether a receiver may send a protocol from an address because of its prefix.
    #[inline(never)]
    pub(crate) fn has_prefix(&self, source: Address, protocol: Protocol, who: Receiver) -> bool {
        !self.prefixes.is_empty()
            && self.locals.get(source).is_none()
            && self.prefixes.find(source, protocol).is_some_and(|(_, holder)| holder == who)
    }

    /// Whether a receiver has anything at an address because of its prefix, so that it may ask for neighbours from there.
    #[inline(never)]
    pub(crate) fn speaks_from(&self, source: Address, who: Receiver) -> bool {
        !self.prefixes.is_empty()
            && self.locals.get(source).is_none()
            && self.prefixes.of(source).any(|(_, claims)| claims.iter().any(|(_, h)| *h == who))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use usnet_shmring::ledger::SessionId;

    fn client(number: u16) -> Receiver {
        Receiver::Client(SessionId(number))
    }

    fn rule(ip: &str, bits: u8, protocol: Option<Protocol>) -> PrefixRule {
        PrefixRule { prefix: Prefix::new(ip.parse().unwrap(), bits).unwrap(), protocol }
    }

    fn address(ip: &str) -> Address {
        ip.parse::<IpAddr>().unwrap().into()
    }

    /// What `find` has to say, read from a list.
    fn model(all: &[(PrefixRule, Receiver)], to: Address, protocol: Protocol) -> Option<Receiver> {
        let fits = all.iter().filter(|(rule, _)| {
            rule.prefix.contains(to) && rule.protocol.is_none_or(|p| p == protocol)
        });
        fits.max_by_key(|(rule, _)| (rule.prefix.bits(), rule.protocol)).map(|(_, to)| *to)
    }

    #[test]
    fn the_longest_prefix_with_a_claim_of_the_protocol_decides_as_a_list_would() {
        let all = [
            (rule("10.1.0.0", 16, None), client(1)),
            (rule("10.1.2.0", 24, Some(Protocol::TCP)), client(2)),
            (rule("10.1.2.0", 24, Some(Protocol::UDP)), client(3)),
            (rule("10.1.2.7", 32, None), client(4)),
            (rule("10.1.2.7", 32, Some(Protocol::TCP)), client(5)),
            (rule("2001:db8::", 32, None), client(6)),
            (rule("2001:db8:1::", 64, Some(Protocol::TCP)), client(7)),
            (rule("2001:db8:1::", 120, None), client(8)),
        ];
        let mut prefixes = Prefixes::new(1);
        let mut entered = Vec::new();
        let ask = |prefixes: &Prefixes, entered: &[(PrefixRule, Receiver)]| {
            for ip in [
                "10.1.2.7",
                "10.1.2.8",
                "10.1.3.7",
                "10.2.0.1",
                "2001:db8::1",
                "2001:db8:1::1",
                "2001:db8:1::ff",
                "2001:db8:1:0:1::",
                "2001:db9::",
                "::ffff:0:0",
                "::",
            ] {
                for protocol in [Protocol::TCP, Protocol::UDP, Protocol::ICMP] {
                    let found = prefixes.find(address(ip), protocol).map(|(_, to)| to);
                    assert_eq!(found, model(entered, address(ip), protocol), "{ip} {protocol:?}");
                }
            }
        };
        for (rule, to) in all {
            prefixes.give(rule, to).unwrap();
            entered.push((rule, to));
            ask(&prefixes, &entered);
        }
        assert_eq!(prefixes.owner(address("10.1.2.8")), Some(client(1)), "of the rest");
        for (gone, to) in all {
            if to == client(3) {
                prefixes.forget(to);
            } else {
                prefixes.remove(|rule, holder| rule == gone && holder == to);
            }
            entered.remove(0);
            ask(&prefixes, &entered);
        }
        assert!(prefixes.is_empty() && prefixes.held.is_empty() && prefixes.rules == 0);
    }

    #[test]
    fn there_are_so_many_lengths_claims_and_claims_of_one_prefix_and_no_more() {
        let mut prefixes = Prefixes::new(1);
        for bits in 24..24 + 8 {
            prefixes.give(rule("10.0.0.0", bits, None), client(1)).unwrap();
        }
        assert_eq!(LENGTHS, 8);
        let another = rule("10.0.0.0", 32, None);
        assert_eq!(prefixes.give(another, client(1)), Err(RuleRefusal::Full));
        // One that is free again is for any other.
        prefixes.remove(|held, _| held == rule("10.0.0.0", 24, None));
        prefixes.give(another, client(1)).unwrap();
        for number in 1..8 {
            prefixes.give(rule("10.0.0.0", 32, Some(Protocol(number + 200))), client(2)).unwrap();
        }
        let last = rule("10.0.0.0", 32, Some(Protocol(99)));
        assert_eq!(prefixes.give(last, client(2)), Err(RuleRefusal::Full));
        assert_eq!(prefixes.give(another, client(1)), Ok(()), "what it has");
        assert_eq!(prefixes.give(another, client(2)), Err(RuleRefusal::Taken));
        for number in 0..u16::MAX {
            let [high, low] = number.to_be_bytes();
            let one = rule(&format!("10.1.{high}.{low}"), 32, None);
            if prefixes.give(one, client(3)).is_err() {
                break;
            }
        }
        assert_eq!(prefixes.rules, PREFIX_RULES);
        prefixes.forget(client(3));
        assert_eq!(prefixes.rules, 15);
    }
}
