//! Clients that are known before they attach: whose ports are kept for them.

use super::check::{Problems, quoted};
use super::raw::RawClient;
use super::{Interface, Network, Problem, Services, account};
use core::ops::RangeInclusive;
use std::net::IpAddr;

/// Most ports that are kept for one client: each costs a descriptor where the kernel shares the address.
const MOST_PORTS: usize = 1024;
/// Bytes of a name that a client can give itself.
const NAME: usize = 31;

/// A client that is known before it attaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// What it calls itself; no other has the name.
    pub name: String,
    /// Whose process it must be: the name alone proves nothing.
    pub uid: u32,
    /// The group that its process must have as well, if any.
    pub gid: Option<u32>,
    /// The interface.
    pub interface: String,
    /// One address of the interface; all of them if not given.
    pub address: Option<IpAddr>,
    /// Ports that nobody else gets.
    pub ports: Services,
}

impl ClientConfig {
    /// Whether ports are kept for it at this address of its interface.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        self.address.is_none_or(|only| only == address)
    }
}

/// Checks all, each against those before it.
pub(super) fn check(
    raw: &[RawClient],
    interfaces: &[Interface],
    problems: &mut Problems,
) -> Vec<ClientConfig> {
    let mut clients: Vec<ClientConfig> = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let key = format!("client[{index}]");
        let RawClient { name, uid, gid, interface, address, ports } = raw;
        if name.is_empty()
            || name.len() > NAME
            || name.contains(['[', ']'])
            || clients.iter().any(|c| c.name == *name)
        {
            let allowed = format!(
                "must be a name of at most {NAME} bytes without brackets that no other client has"
            );
            problems.add(format_args!("{key}.name"), quoted(name), allowed);
        }
        let uid = problems.account(&format!("{key}.uid"), uid, account::user, "user");
        let gid = gid
            .as_ref()
            .map(|gid| problems.account(&format!("{key}.gid"), gid, account::group, "group"));
        let configured = interfaces.iter().find(|i| i.name == *interface);
        if configured.is_none() {
            let allowed = "must be the name of an [[interface]]";
            problems.add(format_args!("{key}.interface"), quoted(interface), allowed);
        }
        let address = address.as_ref().and_then(|text| {
            let ip = text.parse().ok();
            if ip.is_none() {
                problems.add(format_args!("{key}.address"), quoted(text), "must be an address");
            }
            ip
        });
        let services = problems.services(&format!("{key}.ports"), ports);
        let count: usize = services.iter().map(|(_, range)| range.len()).sum();
        if !(1..=MOST_PORTS).contains(&count) {
            let allowed = format!("must be 1 to {MOST_PORTS} ports together");
            problems.add(format_args!("{key}.ports"), services.to_string(), allowed);
        }
        let client = ClientConfig {
            name: name.clone(),
            uid,
            gid,
            interface: interface.clone(),
            address,
            ports: services,
        };
        if let Some(whose) = taken(&client, configured, &clients) {
            let text = client.ports.to_string();
            problems.add(
                format_args!("{key}.ports"),
                text,
                format_args!("must not be those of {whose}"),
            );
        }
        clients.push(client);
    }
    clients
}

/// Whose some of its ports are already.
fn taken(client: &ClientConfig, at: Option<&Interface>, before: &[ClientConfig]) -> Option<String> {
    let clash = |others: &Services| {
        let touch = |a: &RangeInclusive<u16>, b: &RangeInclusive<u16>| {
            a.start() <= b.end() && b.start() <= a.end()
        };
        client
            .ports
            .iter()
            .any(|(p, range)| others.of_protocol(p).any(|other| touch(&range, &other)))
    };
    if at.is_some_and(|interface| clash(&interface.host_ports)) {
        return Some("the interface's host_ports".to_owned());
    }
    if at.is_some_and(|interface| clash(&interface.flow_ports)) {
        return Some("the interface's flow_ports".to_owned());
    }
    let meets = |other: &&ClientConfig| {
        let same_place =
            other.address.is_none() || client.address.is_none() || other.address == client.address;
        other.interface == client.interface && same_place && clash(&other.ports)
    };
    before.iter().find(meets).map(|other| format!("client {:?}", other.name))
}

/// Compares their addresses with those that the interfaces have.
pub(super) fn check_addresses(
    clients: &[ClientConfig],
    known: &[(&str, &[Network])],
) -> Vec<Problem> {
    let mut problems = Problems::default();
    for (index, client) in clients.iter().enumerate() {
        let Some((address, (_, networks))) =
            client.address.zip(known.iter().find(|(name, _)| *name == client.interface))
        else {
            continue;
        };
        if !networks.iter().any(|network| network.address() == address) {
            let key = format_args!("client[{index}].address");
            problems.add(key, address, "must be an address of its interface");
        }
    }
    problems.0
}
