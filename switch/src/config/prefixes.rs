//! Prefixes of addresses that clients may claim.

use super::check::{Problems, quoted};
use super::{Network, Policy};
use crate::steer::Prefix;

/// Reads the list of a policy.
pub(super) fn check(key: &str, texts: &[String], problems: &mut Problems) -> Vec<Prefix> {
    let mut all: Vec<Prefix> = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let key = format_args!("{key}[{index}]");
        let read = text.parse().ok().filter(is_unicast);
        let Some(prefix) = read.and_then(|n| Prefix::new(n.address(), n.prefix())) else {
            let allowed =
                "must be unicast addresses with one prefix of 8 bits or more, as \"10.1.0.0/24\"";
            problems.add(key, quoted(text), allowed);
            continue;
        };
        if let Some(other) = all.iter().find(|other| other.covers(prefix) || prefix.covers(**other))
        {
            problems.add(
                key,
                quoted(text),
                format_args!("must not overlap {other}, of the same list"),
            );
        }
        all.push(prefix);
    }
    all
}

/// Whether no address of a network is a group's, loopback's or nobody's.
fn is_unicast(network: &Network) -> bool {
    let others = ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "ff00::/8", "::/96", "::ffff:0:0/96"];
    let overlaps =
        |other: Network| other.contains(network.address()) || network.contains(other.address());
    network.prefix() >= 8 && !others.iter().filter_map(|other| other.parse().ok()).any(overlaps)
}

/// Compares those of a policy with the addresses of the interfaces that it covers.
pub(super) fn check_addresses<I: Iterator<Item = Network>>(
    place: usize,
    policy: &Policy,
    covered: impl Fn() -> I,
    problems: &mut Problems,
) {
    for (index, prefix) in policy.own_prefixes.iter().enumerate() {
        let taken = covered().map(Network::address).find(|ip| prefix.contains((*ip).into()));
        if let Some(address) = taken {
            let key = format_args!("policy[{place}].own_prefixes[{index}]");
            let allowed = format!("must not contain {address}, which the interface has for all");
            problems.add(key, prefix, allowed);
        }
    }
}
