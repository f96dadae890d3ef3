//! Claims of whole prefixes of addresses.
//!
//! ```text
//!   policy: own_prefixes = ["10.1.0.0/16"]      what a session may claim
//!     10.1.0.0/24      session 3, all
//!     10.1.0.128/25    session 5, TCP: inside the other, and longer, so it is asked first
//! ```
//!
//! - Of one prefix, all protocols are one's, or each protocol that is claimed is one's. A prefix within another is a claim of its own:
//!   who may have it is for policy to say.
//! - A claim counts as one port in its user's quota.

use super::{Holder, Refusal, Registry, Resource};
use crate::steer::{Prefix, PrefixRule};
use usnet_shmring::ledger::SessionId;

impl Registry {
    /// Grants all addresses with a prefix.
    ///
    /// # Errors
    /// [`Refusal`], and nothing has changed.
    pub fn claim_prefix(&mut self, id: SessionId, rule: PrefixRule) -> Result<(), Refusal> {
        let member = self.members.get(&id).ok_or(Refusal::NoSession)?;
        if let Some(protocol) = rule.protocol.filter(|protocol| !protocol.can_be_claimed()) {
            return Err(Refusal::NoPorts { protocol });
        }
        let allowed = &member.entry.own_prefixes;
        if !allowed.iter().any(|prefix| prefix.covers(rule.prefix)) {
            return Err(Refusal::Prefix { prefix: rule.prefix, allowed: listed(allowed) });
        }
        let (interface, account) = (member.entry.interface, member.entry.account);
        let of_prefix = self
            .prefixes
            .iter()
            .filter(|((place, held), _)| *place == interface && held.prefix == rule.prefix);
        for ((_, held), holder) in of_prefix {
            let is_same = held.protocol == rule.protocol;
            let is_part = held.protocol.is_none() || rule.protocol.is_none();
            let is_ours = self.members.get(holder).is_some_and(|m| m.entry.account == account);
            if is_same || is_part && !is_ours {
                let holder = self.whose(Holder::Session(*holder));
                return Err(Refusal::PrefixHeld { rule: *held, holder });
            }
        }
        let limit = member.entry.quota.ports;
        if self.ports_of(account) >= limit {
            return Err(Refusal::Quota { what: Resource::Ports, limit });
        }
        self.prefixes.insert((interface, rule), id);
        Ok(())
    }

    /// Takes them back.
    ///
    /// # Errors
    /// [`Refusal::PrefixNotHeld`] if the session has no such claim.
    pub fn release_prefix(&mut self, id: SessionId, rule: PrefixRule) -> Result<(), Refusal> {
        let interface = self.members.get(&id).ok_or(Refusal::NoSession)?.entry.interface;
        let place = (interface, rule);
        if self.prefixes.get(&place) != Some(&id) {
            return Err(Refusal::PrefixNotHeld { rule });
        }
        self.prefixes.remove(&place);
        Ok(())
    }

    /// Every claim of a prefix, with its interface.
    pub fn prefixes(&self) -> impl Iterator<Item = (usize, PrefixRule, SessionId)> + '_ {
        self.prefixes.iter().map(|((interface, rule), holder)| (*interface, *rule, *holder))
    }

    /// How many claims of prefixes an account has.
    pub(super) fn prefixes_of(&self, account: (u32, usize)) -> u32 {
        let is_theirs = |id: &&SessionId| {
            self.members.get(id).is_some_and(|member| member.entry.account == account)
        };
        u32::try_from(self.prefixes.values().filter(is_theirs).count()).unwrap_or(u32::MAX)
    }
}

fn listed(prefixes: &[Prefix]) -> String {
    match prefixes {
        [] => "none".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::Protocol;
    use crate::config::{Peer, Protocols, Quota, Services};
    use crate::control::registry::Entry;

    fn prefix(text: &str) -> Prefix {
        let (ip, bits) = text.split_once('/').unwrap();
        Prefix::new(ip.parse().unwrap(), bits.parse().unwrap()).unwrap()
    }

    fn all(text: &str) -> PrefixRule {
        PrefixRule { prefix: prefix(text), protocol: None }
    }

    fn tcp(text: &str) -> PrefixRule {
        PrefixRule { prefix: prefix(text), protocol: Some(Protocol::TCP) }
    }

    /// Sessions 1 and 2 of one user, 3 of another, 4 of a third who may have only a part.
    fn registry() -> Registry {
        let mut registry = Registry::new(32_768..=60_999);
        for (id, uid, own) in [
            (1, 7, "10.1.0.0/16"),
            (2, 7, "10.1.0.0/16"),
            (3, 8, "10.1.0.0/16"),
            (4, 9, "10.1.2.128/25"),
        ] {
            let quota = Quota { sessions: 9, ports: 3, ring_capacity: 64, slots: 64, flows: 9 };
            let entry = Entry {
                interface: 0,
                account: (uid, 0),
                shared: vec!["10.0.0.1".parse().unwrap()],
                own_pool: Vec::new(),
                own_prefixes: vec![prefix(own), prefix("2001:db8::/32")],
                services: Services::any(),
                protocols: Protocols::any(),
                quota,
                slots: 1,
            };
            registry.enter(SessionId(id), entry).unwrap();
            let peer = Peer { uid, ..Peer::default() };
            registry.introduce(SessionId(id), &format!("client {id}"), &peer);
        }
        registry
    }

    fn refusal(done: Result<(), Refusal>) -> String {
        done.unwrap_err().to_string()
    }

    #[test]
    fn of_one_prefix_nobody_gets_a_part_of_what_another_user_has() {
        let [a, b, c, d] = [1, 2, 3, 4].map(SessionId);
        let mut registry = registry();
        registry.claim_prefix(a, all("10.1.2.0/24")).unwrap();
        let held = "all of 10.1.2.0/24 is held by session 1 (client 1)";
        for (id, rule) in
            [(c, all("10.1.2.0/24")), (c, tcp("10.1.2.0/24")), (b, all("10.1.2.0/24"))]
        {
            assert_eq!(refusal(registry.claim_prefix(id, rule)), held);
        }
        // The same user may share it out, and others have what lies inside or around.
        registry.claim_prefix(b, tcp("10.1.2.0/24")).unwrap();
        registry.claim_prefix(c, all("10.1.0.0/16")).unwrap();
        registry.claim_prefix(d, all("10.1.2.128/25")).unwrap();
        let text = refusal(registry.claim_prefix(d, all("10.1.2.0/24")));
        assert_eq!(
            text,
            "policy does not allow the prefix 10.1.2.0/24; it allows: 10.1.2.128/25, 2001:db8::/32"
        );
        // Two protocols may be two users'.
        registry.claim_prefix(c, tcp("2001:db8::/48")).unwrap();
        let udp = PrefixRule { protocol: Some(Protocol::UDP), ..tcp("2001:db8::/48") };
        registry.claim_prefix(d, udp).unwrap();
        let text = refusal(registry.claim_prefix(a, all("2001:db8::/48")));
        assert_eq!(text, "all tcp of 2001:db8::/48 is held by session 3 (client 3)");
        let icmp = PrefixRule { protocol: Some(Protocol::ICMP), ..tcp("2001:db8::/48") };
        assert!(refusal(registry.claim_prefix(a, icmp)).contains("protocol 1"));
    }

    #[test]
    fn a_prefix_is_free_again_when_it_is_released_or_its_session_ends() {
        let [a, c] = [1, 3].map(SessionId);
        let mut registry = registry();
        registry.claim_prefix(a, all("10.1.2.0/24")).unwrap();
        let text = refusal(registry.release_prefix(c, all("10.1.2.0/24")));
        assert_eq!(text, "the session does not hold all of 10.1.2.0/24");
        assert!(refusal(registry.release_prefix(a, tcp("10.1.2.0/24"))).contains("all tcp of"));
        registry.release_prefix(a, all("10.1.2.0/24")).unwrap();
        registry.claim_prefix(c, all("10.1.2.0/24")).unwrap();
        registry.end(c);
        registry.claim_prefix(a, all("10.1.2.0/24")).unwrap();
        registry.close(0);
        assert_eq!(registry.prefixes().count(), 0);
    }

    #[test]
    fn each_prefix_counts_as_a_port_in_its_users_quota() {
        let [a, b] = [1, 2].map(SessionId);
        let mut registry = registry();
        for (id, number) in [(a, 1), (b, 2), (a, 3)] {
            registry.claim_prefix(id, all(&format!("10.1.{number}.0/24"))).unwrap();
        }
        let limit = "the limit of 3 ports for this user is reached";
        assert_eq!(refusal(registry.claim_prefix(b, all("10.1.9.0/24"))), limit);
        registry.release_prefix(a, all("10.1.3.0/24")).unwrap();
        registry.claim_prefix(b, all("10.1.9.0/24")).unwrap();
    }
}
