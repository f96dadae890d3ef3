//! Claims of whole prefixes of addresses: read, granted, put into force with all workers.

use super::super::registry::Refusal;
use super::Server;
use super::attach::{Rejection, internal};
use super::rules::each;
use crate::classify::Protocol;
use crate::session::InterfaceId;
use crate::steer::{Prefix, PrefixRule};
use crate::switch::SwitchError;
use usnet_shmring::control::{RefusalCode, Rule};
use usnet_shmring::ledger::SessionId;

/// The prefix in a claim, if it is one of a prefix: it names an address and no ports, and is shorter than the address, or of all
/// protocols, or of one that has ports.
pub(super) fn prefix(rule: &Rule) -> Option<Result<PrefixRule, Rejection>> {
    let Rule { address, first_port, count, protocol, .. } = *rule;
    let (ip, protocol) = (address.ip()?, Protocol(protocol));
    let whole = if ip.is_ipv4() { 32 } else { 128 };
    let bits = if address.prefix == 0 { whole } else { address.prefix };
    let is_more = bits < whole || protocol == Protocol(0) || protocol.has_ports();
    if count != 0 || first_port != 0 || !is_more {
        return None;
    }
    let protocol = Some(protocol).filter(|protocol| *protocol != Protocol(0));
    let only = Rule { address, protocol: rule.protocol, ..Rule::default() };
    let read = Prefix::new(ip, bits).filter(|_| *rule == only && address.reserved == [0; 6]);
    Some(match read {
        Some(prefix) => Ok(PrefixRule { prefix, protocol }),
        None => {
            let text =
                "a claim of a prefix says nothing of ports, remote ends, priority or sharing";
            Err((RefusalCode::Protocol, text.to_owned()))
        }
    })
}

impl Server {
    pub(super) fn claim_prefix(
        &mut self,
        id: SessionId,
        interface: InterfaceId,
        rule: PrefixRule,
    ) -> Result<(), Rejection> {
        self.registry.claim_prefix(id, rule)?;
        if let Err(error) = each(&self.workers, move |s| s.give_prefix(interface, rule, id)) {
            let _ = each(&self.workers, move |s| s.take_prefix(interface, rule, id));
            let _ = self.registry.release_prefix(id, rule);
            return Err(match error {
                // It ended at this moment; the client is about to be told.
                SwitchError::NoSession(_) => Refusal::NoSession.into(),
                error @ SwitchError::NoPrefix { .. } => (RefusalCode::Exhausted, error.to_string()),
                error => internal("the worker refuses the claim", error),
            });
        }
        tracing::debug!(session = %id, claim = %rule, "claimed");
        Ok(())
    }

    pub(super) fn release_prefix(
        &mut self,
        id: SessionId,
        interface: InterfaceId,
        rule: PrefixRule,
    ) -> Result<(), Rejection> {
        self.registry.release_prefix(id, rule)?;
        each(&self.workers, move |s| s.take_prefix(interface, rule, id))
            .map_err(|e| internal("the worker refuses the release", e))?;
        tracing::debug!(session = %id, claim = %rule, "released");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use usnet_shmring::control::Address;

    fn rule(ip: &str, prefix: u8, protocol: u8, count: u16) -> Rule {
        let address = Address::new(ip.parse().unwrap(), prefix);
        Rule { address, protocol, count, ..Rule::default() }
    }

    #[test]
    fn a_claim_of_a_prefix_is_told_from_others_by_its_words() {
        let read = |rule: &Rule| prefix(rule).map(|read| read.map(|rule| rule.to_string()));
        for (claim, says) in [
            (rule("10.1.0.9", 24, 0, 0), "all of 10.1.0.0/24"),
            (rule("10.1.0.9", 32, 0, 0), "all of 10.1.0.9"),
            (rule("10.1.0.9", 0, 6, 0), "all tcp of 10.1.0.9"),
            (rule("2001:db8:1::", 64, 47, 0), "all gre of 2001:db8:1::/64"),
        ] {
            assert_eq!(read(&claim).unwrap().unwrap(), says);
        }
        // A port, a protocol without ports at an address of the session, and at all of them.
        let everywhere = Rule { protocol: 47, ..Rule::default() };
        for other in [rule("10.1.0.9", 32, 6, 1), rule("10.1.0.9", 0, 47, 0), everywhere] {
            assert_eq!(read(&other), None);
        }
        let whole = rule("10.1.0.0", 24, 6, 0);
        let mut address = whole.address;
        address.reserved[5] = 1;
        for wrong in [
            rule("10.1.0.0", 33, 6, 0),
            rule("10.1.0.0", 33, 0, 0),
            Rule { remote: Address::new("192.0.2.1".parse().unwrap(), 32), ..whole },
            Rule { remote_port: 1, ..whole },
            Rule { priority: 1, ..whole },
            Rule { flags: 1, ..whole },
            Rule { reserved: 1, ..whole },
            Rule { address, ..whole },
        ] {
            assert!(matches!(read(&wrong), Some(Err((RefusalCode::Protocol, _)))), "{wrong:?}");
        }
    }
}
