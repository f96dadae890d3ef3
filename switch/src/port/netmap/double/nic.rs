//! Interfaces: what they are, and the way of frames while netmap has not taken it.
//!
//! ```text
//!                    closed                       rings of the card bound
//!   wire <--------- pump ---------> host   wire <-> rx, tx rings   host <-> host rings
//! ```
//!
//! - A card's ring that nobody has bound leaves its frames to the host's stack.
//! - What the host sends while a transmit ring of the card is bound waits for the host rings; if
//!   nobody has bound those it is lost. Without rings of the card, host rings take nothing.

use super::adapter::{Adapter, Kind};
use super::media::Medium;
use core::time::Duration;
use std::time::Instant;

/// Longest frame that a medium can give: a TAP device with segmentation has 65,535 bytes.
const SCRATCH: usize = 1 << 16;
/// Frames that go one way in one turn of the pump.
const TURN: usize = 1024;

/// What drivers do differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quirk {
    /// A card looks at a slot's buffer only if the slot says `NS_BUF_CHANGED`, as e1000: without it
    /// the old buffer goes on being filled and sent.
    NeedsBufChanged,
    /// The generic adapter: longer frames come in several slots, and each slot is sent as a frame
    /// whatever its `NS_MOREFRAG` says. A longer MTU can be set while it is open.
    Generic,
    /// Each slot is sent as a frame, and no offsets are granted, as by most drivers.
    OneSlot,
    /// `NS_MOREFRAG` stays in all slots of a packet but the last, and a sync that ends inside of one does nothing
    /// and succeeds, as igb, igc and ixgbe. The others take it off every slot and send what they have.
    WholePackets,
}

/// When slots of a transmit ring come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completion {
    /// In the sync that sends them.
    #[default]
    AtOnce,
    /// In the sync after it.
    NextSync,
}

/// What becomes of frames for which a receive ring has no slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// They stay in the medium, which has a limit of its own. With several rings they are lost, so
    /// that one full ring does not stop the others.
    #[default]
    Wait,
    /// They are lost and counted, as on a wire.
    Drop,
}

/// An interface to be added.
#[derive(Debug)]
pub struct NicSpec {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Transmit rings of the card.
    pub tx_rings: usize,
    /// Receive rings of the card.
    pub rx_rings: usize,
    /// Slots of each transmit ring.
    pub tx_slots: u32,
    /// Slots of each receive ring.
    pub rx_slots: u32,
    /// Host rings each way, if the request says nothing else.
    pub host_rings: usize,
    /// Driver's ways.
    pub quirks: Vec<Quirk>,
    /// The wire.
    pub wire: Box<dyn Medium>,
    /// The host's stack; without one its frames end here.
    pub host: Option<Box<dyn Medium>>,
    /// Largest IP packet. One that exceeds a buffer cannot be opened.
    pub mtu: u32,
    /// When transmit slots come back.
    pub completion: Completion,
    /// What a full receive ring does.
    pub overflow: Overflow,
    /// An IOMMU group: its cards have a region of their own.
    pub iommu_group: Option<u16>,
    /// How long the link is down after the card enters or leaves netmap mode. What arrives meanwhile
    /// is lost.
    pub link_reset: Duration,
}

impl NicSpec {
    /// One pair of rings of 256 slots, one pair of host rings, no quirks, 1,500 bytes, no host.
    #[must_use]
    pub fn new(name: &str, wire: Box<dyn Medium>) -> Self {
        Self {
            name: name.to_owned(),
            tx_rings: 1,
            rx_rings: 1,
            tx_slots: 256,
            rx_slots: 256,
            host_rings: 1,
            quirks: Vec::new(),
            wire,
            host: None,
            mtu: 1500,
            completion: Completion::default(),
            overflow: Overflow::default(),
            iommu_group: None,
            link_reset: Duration::ZERO,
        }
    }

    /// The same with a host's stack.
    #[must_use]
    pub fn with_host(mut self, host: Box<dyn Medium>) -> Self {
        self.host = Some(host);
        self
    }
}

/// Two interfaces that are each other's wire: a veth whose driver knows netmap. Rings of one end are
/// the rings of the other, so slots arrive as the peer wrote them; and a kernel at the other end of a
/// port hears nothing of it.
#[derive(Debug)]
pub struct VethSpec {
    /// Names of the ends.
    pub names: [String; 2],
    /// Rings each way.
    pub rings: usize,
    /// Slots of each ring.
    pub slots: u32,
    /// The hosts' stacks.
    pub hosts: [Option<Box<dyn Medium>>; 2],
    /// Largest IP packet.
    pub mtu: u32,
}

/// What an interface did with frames. All only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicCounters {
    /// Frames from the wire that were put into rings.
    pub received: u64,
    /// Frames from rings that were given to the wire.
    pub transmitted: u64,
    /// Frames from the host's stack that were put into host rings.
    pub from_host: u64,
    /// Frames from host rings that were given to the host's stack.
    pub to_host: u64,
    /// Frames that went between wire and host without netmap.
    pub passed: u64,
    /// Frames for which a receive ring had no slot.
    pub missed: u64,
    /// Frames longer than a buffer, or of no length.
    pub bad_length: u64,
    /// Frames that the host's stack or the wire did not take.
    pub refused: u64,
    /// Frames lost because the link was down, or because nobody had bound the host rings.
    pub lost: u64,
}

/// What is at the other side of the card's rings.
#[derive(Debug)]
pub(super) enum Link {
    Wire(Box<dyn Medium>),
    /// The other end of a veth.
    Peer(usize),
    /// The interface was removed.
    None,
}

/// State of an interface.
#[derive(Debug)]
pub(super) struct Nic {
    pub(super) link: Link,
    pub(super) host: Option<Box<dyn Medium>>,
    pub(super) needs_flag: bool,
    pub(super) is_generic: bool,
    pub(super) has_one_slot: bool,
    pub(super) sends_whole: bool,
    pub(super) completion: Completion,
    pub(super) overflow: Overflow,
    pub(super) mtu: u32,
    /// Its region, unless a device asks for another.
    pub(super) own_region: u16,
    pub(super) has_iommu: bool,
    /// A region that was refused for another IOMMU group and that the module clings to all the same,
    /// until the own one is asked for by its number.
    pub(super) stuck_to: Option<u16>,
    pub(super) host_rings: usize,
    pub(super) link_reset: Duration,
    pub(super) down_until: Option<Instant>,
    pub(super) scratch: Vec<u8>,
    pub(super) counters: NicCounters,
}

impl Nic {
    pub(super) fn new(link: Link, host: Option<Box<dyn Medium>>, mtu: u32) -> Self {
        Self {
            link,
            host,
            needs_flag: false,
            is_generic: false,
            has_one_slot: false,
            sends_whole: false,
            completion: Completion::default(),
            overflow: Overflow::default(),
            mtu,
            own_region: super::GLOBAL_REGION,
            has_iommu: false,
            stuck_to: None,
            host_rings: 1,
            link_reset: Duration::ZERO,
            down_until: None,
            scratch: vec![0; SCRATCH],
            counters: NicCounters::default(),
        }
    }

    pub(super) fn peer(&self) -> Option<usize> {
        if let Link::Peer(peer) = self.link { Some(peer) } else { None }
    }

    /// Whether slots say where in their buffers frames begin, if that is asked for.
    pub(super) fn grants_offsets(&self) -> bool {
        self.peer().is_none() && !self.has_one_slot
    }

    /// Enters or leaves netmap mode.
    pub(super) fn reset_link(&mut self) {
        if !self.link_reset.is_zero() {
            self.down_until = Instant::now().checked_add(self.link_reset);
        }
    }

    /// Whether the link is up; while it is not, what arrives is lost.
    pub(super) fn is_up(&mut self) -> bool {
        if let Some(until) = self.down_until {
            if Instant::now() < until {
                if let Link::Wire(wire) = &mut self.link {
                    self.counters.lost += drain(wire.as_mut(), &mut self.scratch);
                }
                return false;
            }
            self.down_until = None;
        }
        true
    }
}

/// Lets a turn's worth of frames go by.
fn drain(medium: &mut dyn Medium, scratch: &mut [u8]) -> u64 {
    let mut count = 0;
    while count < TURN as u64 && medium.lend(scratch, &mut |_| ()) {
        count += 1;
    }
    count
}

/// The way between wire and host as far as netmap has not taken it. Returns how many frames moved.
pub(super) fn pump(adapters: &mut [Option<Adapter>], at: usize) -> u64 {
    let peer = adapters.get(at).and_then(Option::as_ref).and_then(Adapter::peer);
    if let Some(peer) = peer {
        let Ok([Some(this), Some(other)]) = adapters.get_disjoint_mut([at, peer]) else { return 0 };
        return pump_to_peer(this, other);
    }
    let Some(Some(adapter)) = adapters.get_mut(at) else { return 0 };
    let (receives, transmits) = (adapter.receives(), adapter.transmits());
    let has_host_rings = has_host_rings(adapter);
    let Kind::Nic(nic) = &mut adapter.kind else { return 0 };
    let is_up = nic.is_up();
    let Nic { link, host, scratch, counters, .. } = &mut **nic;
    let Link::Wire(wire) = link else { return 0 };
    let mut moved = 0;
    if !receives && is_up {
        for _ in 0..TURN {
            let mut is_taken = false;
            let some = wire.lend(scratch, &mut |frame| {
                is_taken = host.as_mut().is_some_and(|host| host.send(frame));
            });
            if !some {
                break;
            }
            moved += 1;
            counters.passed += u64::from(is_taken);
            counters.refused += u64::from(!is_taken);
        }
    }
    let Some(host) = host else { return moved };
    if !is_up || (transmits && !has_host_rings) {
        let lost = drain(host.as_mut(), scratch);
        counters.lost += lost;
        moved += lost;
    } else if !transmits {
        for _ in 0..TURN {
            let mut is_taken = false;
            if !host.lend(scratch, &mut |frame| is_taken = wire.send(frame)) {
                break;
            }
            moved += 1;
            counters.passed += u64::from(is_taken);
            counters.refused += u64::from(!is_taken);
        }
    }
    moved
}

fn has_host_rings(adapter: &Adapter) -> bool {
    adapter.receive.iter().skip(adapter.counts.rx).any(|ring| ring.users > 0)
}

/// What the host at one end of a veth sends to the host at the other.
fn pump_to_peer(this: &mut Adapter, other: &mut Adapter) -> u64 {
    let (transmits, receives) = (this.transmits(), other.receives());
    let has_host_rings = has_host_rings(this);
    let (Kind::Nic(nic), Kind::Nic(peer)) = (&mut this.kind, &mut other.kind) else { return 0 };
    let Nic { host: Some(host), scratch, counters, .. } = &mut **nic else { return 0 };
    if transmits && has_host_rings {
        return 0;
    }
    if transmits || receives {
        let lost = drain(host.as_mut(), scratch);
        counters.lost += lost;
        return lost;
    }
    let mut moved = 0;
    for _ in 0..TURN {
        let mut is_taken = false;
        let some = host.lend(scratch, &mut |frame| {
            is_taken = peer.host.as_mut().is_some_and(|host| host.send(frame));
        });
        if !some {
            break;
        }
        moved += 1;
        counters.passed += u64::from(is_taken);
        counters.refused += u64::from(!is_taken);
    }
    moved
}
