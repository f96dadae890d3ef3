//! Who holds which address and which ports on which interface, and within which quotas.
//!
//! ```text
//!   (interface, address, protocol)    1 ........... 8000--8009 ......... 32768~~~~60999 ......... 65535
//!                                     |              session 3            |             |
//!                                     host's ports                        the kernel picks its own here
//! ```
//!
//! - One holder a port: ranges of one (interface, address, protocol) never overlap.
//! - Claims for some remote ends, and of groups, lie beside these (`scoped.rs`).
//! - A claim is granted for all its addresses and ports, or for none.
//! - What a session held is free as soon as [`Registry::end`] returns; its place in the quotas only
//!   at [`Registry::forget`], when its memory is gone too.
//! - No input or output, no clock: the same calls give the same answers. What a claim costs outside (ports
//!   that the kernel shares) is done by whoever calls [`Registry::claim_if`].

mod prefixes;
mod refusal;
mod reserved;
mod scoped;

pub use refusal::{Refusal, Resource, Whose};
pub use reserved::Reserved;

use crate::classify::Protocol;
use crate::config::{Protocols, Quota, Services, protocol_name};
use crate::steer::{Prefix, PrefixRule, Scope};
use core::fmt;
use core::ops::RangeInclusive;
use scoped::Scoped;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use usnet_shmring::ledger::SessionId;

/// Most ports of one claim.
pub const MAX_CLAIM: u16 = 4096;
/// How many blocks are tried before there is said to be none.
const ATTEMPTS: usize = 256;

/// Who has a range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The kernel's stack, by configuration.
    Host,
    /// Nobody, by configuration: clients may have flows from there that are learned.
    Flows,
    /// A client that has yet to come, by its place in the configuration.
    Reserved(u16),
    /// A session.
    Session(SessionId),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host"),
            Self::Flows => f.write_str("flows that are learned (flow_ports)"),
            Self::Reserved(_) => f.write_str("a client of the configuration"),
            Self::Session(id) => write!(f, "session {id}"),
        }
    }
}

/// What policy gives a session, and asks of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Index of its interface.
    pub interface: usize,
    /// Its user, and the policy that admitted it: whose quota it uses.
    pub account: (u32, usize),
    /// Addresses that it may use together with others.
    pub shared: Vec<IpAddr>,
    /// Addresses of which it gets one of each family for itself.
    pub own_pool: Vec<IpAddr>,
    /// Prefixes of which it may claim any part.
    pub own_prefixes: Vec<Prefix>,
    /// Ports that it may claim at shared addresses.
    pub services: Services,
    /// Protocols without ports that it may claim there.
    pub protocols: Protocols,
    /// Limits of the account.
    pub quota: Quota,
    /// Slots of its own pools.
    pub slots: u32,
}

/// The addresses of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// With others, by port.
    pub shared: Vec<IpAddr>,
    /// For itself alone.
    pub own: Vec<IpAddr>,
}

impl Addresses {
    /// All of them, own ones first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.own.iter().chain(&self.shared).copied()
    }
}

/// What a client asks for, or wants to give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wish {
    /// One address of the session; `None` means all.
    pub address: Option<IpAddr>,
    /// A protocol with ports, or one that is claimed as a whole.
    pub protocol: Protocol,
    /// First port; 0 asks for any free block. Of a protocol without ports, 0.
    pub first: u16,
    /// Number of ports. Of a protocol without ports, 0.
    pub count: u16,
    /// For which remote ends, and with whom.
    pub scope: Scope,
}

impl Wish {
    /// The last port.
    #[must_use]
    pub fn last(&self) -> u16 {
        self.first.saturating_add(self.count.saturating_sub(1))
    }

    /// What it counts for in quotas.
    fn size(&self) -> u32 {
        self.count.max(1).into()
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = protocol_name(self.protocol);
        match (self.first, self.count) {
            (0, 0) => write!(f, "protocol {name}")?,
            (0, count) => write!(f, "any {count} ports of {name}")?,
            (first, 1) => write!(f, "{name} port {first}")?,
            (first, n) => {
                let last = first.saturating_add(n.saturating_sub(1));
                write!(f, "{name} ports {first}-{last}")?;
            }
        }
        match self.address {
            Some(address) => write!(f, " at {address}")?,
            None => f.write_str(" at every address")?,
        }
        write!(f, "{}", self.scope)
    }
}

/// Ports that a session has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The wish, with its first port filled in.
    pub wish: Wish,
    /// At which addresses.
    pub addresses: Vec<IpAddr>,
}

/// Why ports that are free among the clients cannot be had nevertheless.
#[derive(Debug)]
pub enum Taken {
    /// This one is somebody else's; others may be free.
    Port(u16, Refusal),
    /// No others either.
    All(Refusal),
}

/// One range in force, for status output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Index of the interface.
    pub interface: usize,
    /// Local address.
    pub address: IpAddr,
    /// IP protocol.
    pub protocol: Protocol,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// For which remote ends, and with whom.
    pub scope: Scope,
    /// Who has it.
    pub holder: Holder,
}

#[derive(Debug)]
struct Member {
    entry: Entry,
    addresses: Addresses,
    grants: Vec<Grant>,
}

type Place = (usize, IpAddr, Protocol);

/// All claims of one daemon.
#[derive(Debug)]
pub struct Registry {
    /// Ports from which the kernel picks for its own connections.
    kernel: RangeInclusive<u16>,
    /// By place and first port: last port and holder.
    held: BTreeMap<(Place, u16), (u16, Holder)>,
    /// What is held for some remote ends, or by a group.
    scoped: BTreeMap<Place, Vec<Scoped>>,
    own: BTreeMap<(usize, IpAddr), SessionId>,
    prefixes: BTreeMap<(usize, PrefixRule), SessionId>,
    members: BTreeMap<SessionId, Member>,
    reservations: reserved::Reservations,
    /// Where the last free block ended: the next search begins there, so that a port that was just
    /// given back rests for a while.
    cursor: u16,
}

impl Registry {
    /// An empty registry. `kernel` is the host's `ip_local_port_range`; free blocks are looked for
    /// outside it first.
    #[must_use]
    pub fn new(kernel: RangeInclusive<u16>) -> Self {
        Self {
            kernel,
            held: BTreeMap::new(),
            scoped: BTreeMap::new(),
            own: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            members: BTreeMap::new(),
            reservations: reserved::Reservations::default(),
            cursor: 0,
        }
    }

    /// Keeps ports from all sessions. To be called before any session enters. Where others have been kept
    /// already, those stay.
    pub fn reserve(
        &mut self,
        interface: usize,
        address: IpAddr,
        services: &Services,
        holder: Holder,
    ) {
        for (protocol, range) in services.iter() {
            let place = (interface, address, protocol);
            let mut first = Some(*range.start());
            while let Some(from) = first.filter(|from| from <= range.end()) {
                let count = range.end() - from;
                let last = match self.overlap_after(place, from, count.saturating_add(1)) {
                    Some((start, end)) if start <= from => {
                        first = end.checked_add(1);
                        continue;
                    }
                    Some((start, _)) => start - 1,
                    None => *range.end(),
                };
                self.held.insert((place, from), (last, holder));
                first = last.checked_add(1);
            }
        }
    }

    /// The lowest range at `place` that has a port in common with `count` ports from `first`.
    fn overlap_after(&self, place: Place, first: u16, count: u16) -> Option<(u16, u16)> {
        if let Some((start, end, _)) = self.overlap(place, first, 1) {
            return Some((start, end));
        }
        let last = first.saturating_add(count.saturating_sub(1));
        let mut after = self.held.range((place, first)..=(place, last));
        after.next().map(|(&(_, start), &(end, _))| (start, end))
    }

    /// Admits a session, if the quotas of its account have room, and gives it its addresses.
    ///
    /// # Errors
    /// [`Refusal`], and nothing has changed.
    pub fn enter(&mut self, id: SessionId, entry: Entry) -> Result<&Addresses, Refusal> {
        let account = || self.members.values().filter(|m| m.entry.account == entry.account);
        let quota = entry.quota;
        let sessions = u32::try_from(account().count()).unwrap_or(u32::MAX);
        if self.members.contains_key(&id) || sessions >= quota.sessions {
            return Err(Refusal::Quota { what: Resource::Sessions, limit: quota.sessions });
        }
        let slots: u32 = account().map(|m| m.entry.slots).fold(0, u32::saturating_add);
        if slots.saturating_add(entry.slots) > quota.slots {
            return Err(Refusal::Quota { what: Resource::Slots, limit: quota.slots });
        }
        let own = self.pick_own(&entry)?;
        for address in &own {
            self.own.insert((entry.interface, *address), id);
        }
        let addresses = Addresses { shared: entry.shared.clone(), own };
        let member = Member { entry, addresses, grants: Vec::new() };
        Ok(&self.members.entry(id).or_insert(member).addresses)
    }

    /// The first free address of each family that the pool has.
    fn pick_own(&self, entry: &Entry) -> Result<Vec<IpAddr>, Refusal> {
        let mut own = Vec::new();
        for is_family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
            let mut pool = entry.own_pool.iter().filter(|a| is_family(a)).peekable();
            if pool.peek().is_none() {
                continue;
            }
            let free = pool.find(|a| !self.own.contains_key(&(entry.interface, **a)));
            own.push(*free.ok_or(Refusal::NoAddress)?);
        }
        Ok(own)
    }

    /// Grants ports, all or none.
    ///
    /// # Errors
    /// [`Refusal`], and nothing has changed.
    pub fn claim(&mut self, id: SessionId, wish: Wish) -> Result<Grant, Refusal> {
        self.claim_if(id, wish, &mut |_, _| Ok(()))
    }

    /// As [`claim`](Self::claim), if `take` gets the ports as well, which it is asked with the number of the
    /// interface: where the wish leaves the choice, until it does.
    ///
    /// # Errors
    /// [`Refusal`], and nothing has changed.
    pub fn claim_if(
        &mut self,
        id: SessionId,
        wish: Wish,
        take: &mut dyn FnMut(usize, &Grant) -> Result<(), Taken>,
    ) -> Result<Grant, Refusal> {
        let member = self.members.get(&id).ok_or(Refusal::NoSession)?;
        let is_whole = !wish.protocol.has_ports();
        if !wish.protocol.can_be_claimed() || is_whole && (wish.first, wish.count) != (0, 0) {
            return Err(Refusal::NoPorts { protocol: wish.protocol });
        }
        let last = u32::from(wish.first) + u32::from(wish.count) - u32::from(wish.count != 0);
        let is_range = wish.count != 0 && wish.count <= MAX_CLAIM && last <= u32::from(u16::MAX);
        if !is_whole && !is_range {
            return Err(Refusal::Range { first: wish.first, count: wish.count });
        }
        let mut addresses = member.targets(wish.address)?;
        if let Some((remote, _)) = wish.scope.remote.to_network() {
            // At others nothing of it can arrive.
            addresses.retain(|address| address.is_ipv4() == remote.is_ipv4());
            if addresses.is_empty() {
                return Err(Refusal::NoAddress);
            }
        }
        let any_port = addresses.iter().all(|a| member.addresses.own.contains(a));
        let services = if any_port { &Services::any() } else { &member.entry.services };
        if wish.first != 0
            && !services.contains(wish.protocol, wish.first, wish.count)
            && !self.is_kept_for(id, member, &wish)
        {
            return Err(Refusal::Services { wish, allowed: services.to_string() });
        }
        let protocols = &member.entry.protocols;
        if is_whole && !any_port && !protocols.contains(wish.protocol) {
            return Err(Refusal::Services { wish, allowed: protocols.to_string() });
        }
        let in_use = self.ports_of(member.entry.account);
        if in_use + wish.size() > member.entry.quota.ports {
            let limit = member.entry.quota.ports;
            return Err(Refusal::Quota { what: Resource::Ports, limit });
        }
        let interface = member.entry.interface;
        let grant = if wish.first == 0 && !is_whole {
            self.take_any(interface, wish, addresses, services, take)?
        } else {
            for address in &addresses {
                let place = (interface, *address, wish.protocol);
                if let Some(refusal) = self.conflict(id, place, &wish) {
                    return Err(refusal);
                }
            }
            let grant = Grant { wish, addresses };
            match take(interface, &grant) {
                Ok(()) => grant,
                Err(Taken::Port(_, refusal) | Taken::All(refusal)) => return Err(refusal),
            }
        };
        let Wish { first, count, protocol, scope, .. } = grant.wish;
        let (last, holder) = (grant.wish.last(), Holder::Session(id));
        for address in &grant.addresses {
            let place = (interface, *address, protocol);
            if scope.is_plain() {
                self.make_room(place, first, last);
                self.held.insert((place, first), (last, holder));
            } else {
                let held = Scoped { first, last, scope, holder };
                self.scoped.entry(place).or_default().push(held);
            }
        }
        if wish.first == 0 && !is_whole {
            self.cursor = first.saturating_add(count);
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.grants.push(grant.clone());
        }
        Ok(grant)
    }

    /// The first free block that `take` gets, too.
    fn take_any(
        &self,
        interface: usize,
        wish: Wish,
        addresses: Vec<IpAddr>,
        services: &Services,
        take: &mut dyn FnMut(usize, &Grant) -> Result<(), Taken>,
    ) -> Result<Grant, Refusal> {
        let mut grant = Grant { wish, addresses };
        let mut elsewhere = BTreeSet::new();
        for _ in 0..ATTEMPTS {
            let found = self.find(interface, &grant, services, &elsewhere);
            let Some(first) = found else { break };
            grant.wish.first = first;
            match take(interface, &grant) {
                Ok(()) => return Ok(grant),
                Err(Taken::Port(port, _)) if elsewhere.insert(port) => {}
                Err(Taken::Port(_, refusal) | Taken::All(refusal)) => return Err(refusal),
            }
        }
        Err(Refusal::NoBlock { protocol: wish.protocol, count: wish.count })
    }

    /// Takes a grant back; `wish` is what the claim answered.
    ///
    /// # Errors
    /// [`Refusal::NotHeld`] if the session has no such grant.
    pub fn release(&mut self, id: SessionId, wish: Wish) -> Result<Grant, Refusal> {
        let member = self.members.get_mut(&id).ok_or(Refusal::NoSession)?;
        let index =
            member.grants.iter().position(|g| g.wish == wish).ok_or(Refusal::NotHeld { wish })?;
        let grant = member.grants.swap_remove(index);
        let interface = member.entry.interface;
        self.remove(interface, id, &grant);
        Ok(grant)
    }

    /// Frees everything that a session held: its grants, which are returned, and its addresses.
    pub fn end(&mut self, id: SessionId) -> Vec<Grant> {
        self.own.retain(|_, holder| *holder != id);
        self.prefixes.retain(|_, holder| *holder != id);
        let Some(member) = self.members.get_mut(&id) else { return Vec::new() };
        let interface = member.entry.interface;
        let grants = core::mem::take(&mut member.grants);
        for grant in &grants {
            self.remove(interface, id, grant);
        }
        grants
    }

    /// Takes a session out of its account; its number may be used again.
    pub fn forget(&mut self, id: SessionId) {
        self.end(id);
        self.leave(id);
        self.members.remove(&id);
    }

    fn remove(&mut self, interface: usize, id: SessionId, grant: &Grant) {
        let Wish { protocol, first, scope, .. } = grant.wish;
        for address in &grant.addresses {
            let place = (interface, *address, protocol);
            if scope.is_plain() {
                self.held.remove(&(place, first));
            } else if let Some(all) = self.scoped.get_mut(&place) {
                let held =
                    Scoped { first, last: grant.wish.last(), scope, holder: Holder::Session(id) };
                all.retain(|other| *other != held);
                if all.is_empty() {
                    self.scoped.remove(&place);
                }
            }
        }
        self.reserve_again(interface, grant);
    }

    /// Ports that an account has; a prefix counts as one.
    fn ports_of(&self, account: (u32, usize)) -> u32 {
        let members = self.members.values().filter(|m| m.entry.account == account);
        let ports: u32 = members.flat_map(|m| &m.grants).map(|g| g.wish.size()).sum();
        ports + self.prefixes_of(account)
    }

    /// A range at `place` that has a port in common with `count` ports from `first`.
    fn overlap(&self, place: Place, first: u16, count: u16) -> Option<(u16, u16, Holder)> {
        let last = first.saturating_add(count.saturating_sub(1));
        let (&(_, start), &(end, holder)) =
            self.held.range((place, 0)..=(place, last)).next_back()?;
        (end >= first).then_some((start, end, holder))
    }

    /// The first free block after the cursor, without the ports that are taken `elsewhere`: outside the
    /// kernel's range if possible, below 1024 only if there is no other.
    fn find(
        &self,
        interface: usize,
        grant: &Grant,
        services: &Services,
        elsewhere: &BTreeSet<u16>,
    ) -> Option<u16> {
        let Grant { wish: Wish { protocol, count, .. }, addresses } = grant;
        let (protocol, count) = (*protocol, *count);
        let (low, high) = (*self.kernel.start(), *self.kernel.end());
        let zones = [
            high.checked_add(1).map(|above| above.max(1024)..=u16::MAX),
            low.checked_sub(1).map(|below| 1024..=below),
            Some(low.max(1024)..=high),
            Some(1..=1023),
            // Across the borders of the others.
            Some(1..=u16::MAX),
        ];
        let free = |within: RangeInclusive<u16>| {
            let mut first = *within.start();
            loop {
                let last = first.checked_add(count - 1).filter(|last| last <= within.end())?;
                let taken = |a: &IpAddr| {
                    let place = (interface, *a, protocol);
                    let plain = self.overlap(place, first, count).map(|(_, end, _)| end);
                    plain.or_else(|| self.scoped_overlap(place, first, count))
                };
                let held = addresses.iter().find_map(taken);
                let end = held.or_else(|| elsewhere.range(first..=last).next_back().copied());
                match end {
                    None => return Some(first),
                    // Past the range in the way, so each is met once.
                    Some(end) => first = end.checked_add(1)?,
                }
            }
        };
        zones.into_iter().flatten().find_map(|zone| {
            let parts = |from: u16, to: u16| {
                let clip = move |r: RangeInclusive<u16>| *r.start().max(&from)..=*r.end().min(&to);
                services.of_protocol(protocol).map(clip).filter(|r| !r.is_empty()).find_map(free)
            };
            let (start, end) = (*zone.start(), *zone.end());
            parts(start.max(self.cursor), end).or_else(|| parts(start, end))
        })
    }

    /// The addresses of a session.
    #[must_use]
    pub fn addresses(&self, id: SessionId) -> Option<&Addresses> {
        self.members.get(&id).map(|m| &m.addresses)
    }

    /// What a session holds.
    pub fn grants(&self, id: SessionId) -> impl Iterator<Item = &Grant> {
        self.members.get(&id).into_iter().flat_map(|m| &m.grants)
    }

    /// Everything that is held, by interface, address, protocol and port.
    pub fn rules(&self) -> impl Iterator<Item = Rule> + '_ {
        let rule = |(interface, address, protocol): Place, held: Scoped| {
            let Scoped { first, last, scope, holder } = held;
            Rule { interface, address, protocol, first, last, scope, holder }
        };
        let plain = self.held.iter().map(move |(&(place, first), &(last, holder))| {
            rule(place, Scoped { first, last, scope: Scope::default(), holder })
        });
        let scoped = self.scoped.iter();
        let scoped =
            scoped.flat_map(move |(place, all)| all.iter().map(move |held| rule(*place, *held)));
        let mut all: Vec<Rule> = plain.chain(scoped).collect();
        all.sort_by_key(|r| (r.interface, r.address, r.protocol, r.first, r.scope));
        all.into_iter()
    }
}

impl Member {
    fn targets(&self, address: Option<IpAddr>) -> Result<Vec<IpAddr>, Refusal> {
        let addresses: Vec<_> =
            self.addresses.iter().filter(|a| address.is_none_or(|wished| wished == *a)).collect();
        match (addresses.is_empty(), address) {
            (false, _) => Ok(addresses),
            (true, Some(address)) => Err(Refusal::OtherAddress { address }),
            (true, None) => Err(Refusal::NoAddress),
        }
    }
}

/// The kernel's `ip_local_port_range`, which also serves IPv6; its default if it cannot be read.
#[must_use]
pub fn kernel_port_range() -> RangeInclusive<u16> {
    let parse = |text: String| {
        let mut numbers = text.split_ascii_whitespace().map(str::parse);
        let range = numbers.next()?.ok()?..=numbers.next()?.ok()?;
        (!range.is_empty()).then_some(range)
    };
    let file = "/proc/sys/net/ipv4/ip_local_port_range";
    std::fs::read_to_string(file).ok().and_then(parse).unwrap_or(32_768..=60_999)
}

#[cfg(test)]
mod scoped_tests;
#[cfg(test)]
mod tests;
