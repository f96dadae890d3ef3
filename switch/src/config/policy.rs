//! Who may attach, and to what.

use super::{Network, Protocols, Services, Sharing};
use crate::session::May;
use crate::steer::Prefix;
use std::net::IpAddr;

/// Who a connected process is, by the kernel's word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Process, as the daemon's namespace numbers it; for messages only.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// Whom a policy speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A user.
    User(u32),
    /// Members of a group.
    Group(u32),
    /// Everybody.
    Any,
}

impl Subject {
    /// Whether `peer` is meant.
    #[must_use]
    pub fn includes(self, peer: &Peer) -> bool {
        match self {
            Self::User(uid) => peer.uid == uid,
            Self::Group(gid) => peer.gid == gid || peer.groups.contains(&gid),
            Self::Any => true,
        }
    }
}

/// How much one user may have at a time under a policy, over all its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Sessions.
    pub sessions: u32,
    /// Claimed ports.
    pub ports: u32,
    /// Cells of each ring of a session; a power of two.
    pub ring_capacity: u32,
    /// Slots of the sessions' own pools.
    pub slots: u32,
    /// Learned flows of one session.
    pub flows: u32,
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whom it speaks of.
    pub subject: Subject,
    /// Interfaces that it speaks of; empty means all.
    pub interfaces: Vec<String>,
    /// How memory is shared.
    pub mode: Sharing,
    /// The trust group; with mode `shared`, and only then.
    pub group: Option<String>,
    /// Which of the interface's addresses a session may use; `None` means all.
    pub addresses: Option<Vec<IpAddr>>,
    /// Addresses of which every session gets one of each family for itself alone.
    pub own_addresses: Vec<IpAddr>,
    /// Prefixes of which a session may claim any part for itself alone.
    pub own_prefixes: Vec<Prefix>,
    /// Groups that may be joined.
    pub groups: Vec<Network>,
    /// What else may be said.
    pub may: May,
    /// Ports that may be claimed.
    pub services: Services,
    /// Protocols without ports that may be claimed.
    pub protocols: Protocols,
    /// Limits.
    pub quota: Quota,
}

impl Policy {
    /// Whether it speaks of this interface.
    #[must_use]
    pub fn covers(&self, interface: &str) -> bool {
        self.interfaces.is_empty() || self.interfaces.iter().any(|name| name == interface)
    }
}

/// The policy for `peer` on `interface`: the first that fits, by its place in the list. `None`
/// means that it may not attach.
#[must_use]
pub fn matching<'a>(
    policies: &'a [Policy],
    peer: &Peer,
    interface: &str,
) -> Option<(usize, &'a Policy)> {
    policies.iter().enumerate().find(|(_, p)| p.subject.includes(peer) && p.covers(interface))
}
