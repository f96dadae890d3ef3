//! One attached client as its worker sees it: rings, homes, and what it may say.

use crate::classify::Address;
use crate::config::Network;
use crate::learned::Learned;
use crate::stats::SessionCounters;
use crate::vet::is_group_address;
use rustix::net::SendFlags;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use usnet_shmring::arena::SlotRange;
use usnet_shmring::ledger::SessionId;
use usnet_shmring::pool::HomeId;
use usnet_shmring::queues::DaemonQueues;

/// Number of an interface in its switch, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InterfaceId(pub u8);

/// A trust group: its members may see each other's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupId(pub u16);

/// What a client may say only if its policy says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct May {
    /// Ask servers of DHCP, in the name of the interface's link address, and routers, whose advertisements it then gets.
    pub dhcp: bool,
    /// Be the supplicant on the interface (EAPOL), if no other session is.
    pub eapol: bool,
}

/// All that a session is made of.
#[derive(Debug)]
pub struct SessionSpec {
    /// Its number: not in use, and below [`SessionId::LIMIT`].
    pub id: SessionId,
    /// The interface that it is attached to.
    pub interface: InterfaceId,
    /// The daemon's side of its rings.
    pub queues: DaemonQueues,
    /// Its transmit slots; at most as many as its completion ring has cells.
    pub transmit: SlotRange,
    /// Its own receive slots, for mode `isolated`; `None` for mode `shared`.
    pub receive: Option<SlotRange>,
    /// The trust group that it shares frames with; without effect in mode `isolated`, where it has
    /// not mapped the others' slots.
    pub group: Option<GroupId>,
    /// Addresses that it may send from.
    pub addresses: Vec<IpAddr>,
    /// Addresses that are its alone, and that it may send from too: what no listener claims there is
    /// for it, and the switch answers for them.
    pub exclusive: Vec<IpAddr>,
    /// The daemon's end of its wake socket.
    pub wake: Option<OwnedFd>,
    /// Flows that may be learned for it at one time.
    pub flow_quota: u32,
    /// Groups that it may join.
    pub groups: Vec<Network>,
    /// What else it may say.
    pub may: May,
    /// Whether it has agreed on frames that are not finished.
    pub offload: bool,
}

/// Tells a sleeping client that there is work.
#[derive(Debug)]
pub(crate) struct Waker(pub(crate) Option<OwnedFd>);

impl Waker {
    /// Sends one byte and never waits. A full socket means that wake-ups wait there already; a
    /// closed one is seen by whoever watches the session.
    pub(crate) fn wake(&self) {
        if let Some(socket) = &self.0 {
            let _ = rustix::net::send(socket, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }
}

/// A session's place in the worker.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) interface: InterfaceId,
    pub(crate) queues: DaemonQueues,
    pub(crate) transmit: HomeId,
    pub(crate) receive: Option<HomeId>,
    pub(crate) group: Option<GroupId>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) exclusive: Vec<Address>,
    /// Groups that it may join.
    pub(crate) groups: Vec<Network>,
    pub(crate) may: May,
    pub(crate) waker: Waker,
    /// Flows that were learned for it.
    pub(crate) learned: Learned,
    /// Slots lent to it and not yet given back.
    pub(crate) held: u32,
    /// It may leave checksums and segments to others, and takes frames that others left so.
    pub(crate) offload: bool,
    /// On the list of sessions with something to publish.
    pub(crate) touched: bool,
    pub(crate) counters: SessionCounters,
}

impl Session {
    /// Whether frames of this session may be handed to `other` as they lie.
    #[inline]
    pub(crate) fn shares_with(&self, other: &Self) -> bool {
        self.group.is_some() && self.group == other.group
    }

    /// Whether it has as many received slots as it may: it cannot starve the others' frames.
    #[inline]
    pub(crate) fn holds_too_many(&self) -> bool {
        self.receive.is_none() && self.held >= 2 * self.queues.rx.capacity()
    }

    /// Whether it may join this group.
    pub(crate) fn may_join(&self, group: Address) -> bool {
        is_group_address(group) && self.groups.iter().any(|some| some.contains(group.to_ip()))
    }

    #[inline]
    pub(crate) fn owns(&self, address: Address) -> bool {
        self.addresses.contains(&address)
    }
}
