//! Interfaces over netmap: the daemon's slots as the card's buffers where the kernel can do that.
//!
//! ```text
//!   eth0   card's rings --> switch --> clients, their slots lent
//!            |                 |
//!            +-- host rings ---+   the kernel's stack, which stays on eth0
//! ```
//!
//! - The kernel keeps its addresses and routes on the interface, as ever; while the port is open its
//!   frames go through the host rings, in both directions, and so through the switch.
//! - Offloads are off while the port is open: netmap passes frames as they lie, and the host rings
//!   refuse what a card would still have to finish.

use super::interface::{Kept, OpenError, Opened, Queue, boxed, net_error, opened};
use super::xdp;
use crate::config::{Backend, Config, HostEndpoint, Interface};
use crate::control::memory::{Memory, MemoryError};
use crate::net::offload::Offload;
use crate::net::{Link, Netlink};
use crate::port::netmap::abi::{COMMON_REGION, PortInfo};
use crate::port::netmap::{
    Bank, Control, Kernel, Module, Netmap, NetmapSpec, PortName, Wish, is_native_veth,
};
use std::io;
use std::sync::Arc;
use usnet_shmring::arena::Segment;
use usnet_shmring::pool::Pool;

/// What ports that use the daemon's memory share.
#[derive(Debug)]
pub struct Cards {
    kernel: Arc<dyn Kernel>,
    bank: Option<Arc<Bank>>,
    /// Why there is none.
    why_none: &'static str,
    /// Why no groups' slots are in it, if there should be some.
    why_no_groups: Option<&'static str>,
    /// The ports' segment of the daemon's memory.
    slots: Option<Arc<Segment>>,
    /// Of trust groups, side by side before it.
    groups: Vec<Arc<Segment>>,
    /// Interfaces that have XDP sockets, or may have, which keep slots of it: how many there were when the
    /// daemon began, and how many have come since.
    keepers: u32,
    keepers_since: u32,
}

impl Cards {
    /// For interfaces that are not over netmap.
    #[must_use]
    pub fn none() -> Self {
        let why_no_groups = None;
        Self {
            kernel: Arc::new(Module),
            bank: None,
            why_none: "",
            why_no_groups,
            slots: None,
            groups: Vec::new(),
            keepers: 1,
            keepers_since: 0,
        }
    }

    /// The same, for ports that receive into the slots of this segment.
    #[must_use]
    pub fn over(slots: Arc<Segment>) -> Self {
        Self { slots: Some(slots), ..Self::none() }
    }

    /// The segment of the ports' slots.
    pub(super) fn slots(&self) -> Option<&Arc<Segment>> {
        self.slots.as_ref()
    }

    /// The same, and how many of them are for one interface with XDP sockets.
    pub(super) fn slots_to_keep(&self) -> Option<(&Arc<Segment>, u32)> {
        let share = |all: u32| (all / self.keepers.max(1)) >> self.keepers_since.min(31);
        self.slots().map(|segment| (segment, share(segment.count())))
    }

    /// Segments of trust groups from which a driver may send as well.
    pub(super) fn groups(&self) -> &[Arc<Segment>] {
        &self.groups
    }

    /// So many interfaces that may keep slots are there that were not when the daemon began: each got half of
    /// what the one before got, so that all together leave some, however many come.
    pub(super) fn count_keepers_since(&mut self, count: usize) {
        self.keepers_since = u32::try_from(count).unwrap_or(u32::MAX);
    }

    /// Makes the daemon's memory, and gives it to netmap if there are interfaces over it. Where the
    /// kernel does not take it, their frames are copied, and the log says why.
    pub(super) fn prepare(
        config: &Config,
        kernel: Arc<dyn Kernel>,
    ) -> Result<(Memory, Vec<Pool>, Self), MemoryError> {
        let workers = config.worker.count;
        let keepers = config
            .interfaces
            .iter()
            .filter(|i| matches!(i.port, Backend::AfXdp | Backend::Auto))
            .count();
        let keepers = u32::try_from(keepers).unwrap_or(u32::MAX);
        let in_front = config.interfaces.iter().map(|i| (i.port, i.name.as_str()));
        let behind = config.interfaces.iter().filter_map(|i| i.behind.as_ref());
        let all = in_front.chain(behind.map(|b| (b.port, b.interface.as_str())));
        // Slots that are left for rings are no use where these are of another region.
        let cards: Vec<&str> = all
            .filter(|(port, name)| *port == Backend::Netmap && !keeps_own_region(name))
            .map(|(_, name)| name)
            .collect();
        if cards.is_empty() {
            let groups = groups_of(config, xdp::sends_from_several_slots);
            let (memory, pools) = Memory::with_groups(&config.memory, workers, &groups)?;
            let why_none = "no interface could use the daemon's memory when it began";
            let slots = Some(Arc::clone(memory.port()));
            let groups = memory.lasting_groups();
            let why_no_groups = None;
            return Ok((
                memory,
                pools,
                Self {
                    kernel,
                    bank: None,
                    why_none,
                    why_no_groups,
                    slots,
                    groups,
                    keepers,
                    keepers_since: 0,
                },
            ));
        }
        let groups = groups_of(config, |interface| {
            sends_from_several_slots(interface, kernel.as_ref())
                || xdp::sends_from_several_slots(interface)
        });
        let mut why_no_groups = None;
        let (memory, pools, bank) = match give(config, kernel.as_ref(), &cards, &groups) {
            Ok((memory, pools, Ok(bank))) => (memory, pools, Ok(bank)),
            // There may be contiguous memory for the ports alone.
            failed if !groups.is_empty() => {
                let error = match failed {
                    Ok((.., Err(error))) => error,
                    Err(error) => io::Error::other(error),
                    Ok((.., Ok(_))) => io::ErrorKind::Other.into(),
                };
                tracing::warn!(%error, "what clients send is copied: their slots cannot be a card's buffers");
                why_no_groups = Some("its clients' slots cannot be its buffers; the log says why");
                give(config, kernel.as_ref(), &cards, &[])?
            }
            failed => failed?,
        };
        let mut why_none = "netmap does not take the daemon's memory; the log says why";
        let bank = match bank {
            Ok(bank) => Some(bank),
            // Without the module no port can be opened: that says it better.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                if error.kind() == io::ErrorKind::Unsupported {
                    why_none = "the module was built without external memory";
                }
                tracing::warn!(%error, "netmap does not take the daemon's memory; frames are copied");
                None
            }
        };
        let slots = Some(Arc::clone(memory.port()));
        let (groups, keepers_since) = (memory.lasting_groups(), 0);
        let cards =
            Self { kernel, bank, why_none, why_no_groups, slots, groups, keepers, keepers_since };
        Ok((memory, pools, cards))
    }

    /// What is to become of what clients send by a card.
    fn wish(&self, link: &Link, may_split: bool) -> Wish {
        if !may_split {
            return Wish::Copy("zero_copy_transmit is off");
        }
        match (self.kernel.sends_from_several_slots(&link.name), self.why_no_groups) {
            (Err(why), _) | (Ok(()), Some(why)) => Wish::Copy(why),
            (Ok(()), None) => Wish::Split,
        }
    }

    /// Opens one port.
    fn open(&self, link: &Link, name: PortName, wish: Wish) -> Result<Netmap, OpenError> {
        let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        let spec = NetmapSpec { name, mac: link.mac, mtu };
        let is_native_veth = is_native_veth(link.kind.as_deref());
        let bank = self.bank.as_ref().filter(|_| !is_native_veth);
        let opened = match Netmap::open_wishing(self.kernel.as_ref(), &spec, bank, wish) {
            // The buffers that were left for rings when the daemon began are too few for these: an
            // interface that came back may have more, or longer ones.
            Err(error) if bank.is_some() && error.kind() == io::ErrorKind::OutOfMemory => {
                let name = &link.name;
                tracing::warn!(interface = name, %error, "its rings do not fit; frames are copied");
                Netmap::open_wishing(self.kernel.as_ref(), &spec, None, wish)
            }
            opened => opened,
        };
        let mut port = opened.map_err(|source| port_error(&link.name, source))?;
        if is_native_veth {
            port.explain(
                "netmap's own driver for veth mistakes buffers of other regions for its own",
            );
        } else if self.bank.is_none() {
            port.explain(self.why_none);
        }
        Ok(port)
    }

    /// Whether netmap knows the interface; changes nothing.
    pub(super) fn look_at(&self, name: &str) -> Result<(), OpenError> {
        let asked = self
            .kernel
            .open()
            .and_then(|device| device.control(name, Control::PortInfo(&mut PortInfo::default())));
        asked.map_err(|source| port_error(name, source))
    }

    /// Opens a card's rings alone: all for one worker, or a pair for each of several.
    pub(super) fn open_card(
        &self,
        link: &Link,
        kept: &mut Kept,
        workers: usize,
        may_split: bool,
    ) -> Result<Vec<Netmap>, OpenError> {
        let wish = self.wish(link, may_split);
        kept.keep_qdisc(link);
        // Whatever would make a frame other than it is on the wire.
        kept.turn_off_offloads(&link.name, &Offload::ALL).map_err(net_error(&link.name))?;
        let ports = match workers {
            ..=1 => vec![self.open(link, PortName::nic(&link.name), wish)?],
            _ => self.open_pairs(link, workers, wish)?,
        };
        if let Some(port) = ports.first() {
            let exchange = if port.swaps() { "swapped" } else { "copied" };
            let (rings, queues) = (port.rings(), ports.len());
            let name = &link.name;
            let sends = if port.splits() { "split" } else { "copied" };
            tracing::info!(
                interface = name,
                buffers = exchange,
                sends,
                queues,
                ?rings,
                "netmap port open"
            );
        }
        Ok(ports)
    }

    /// Opens ring pair after ring pair, each on a descriptor of its own: workers share nothing.
    fn open_pairs(
        &self,
        link: &Link,
        workers: usize,
        wish: Wish,
    ) -> Result<Vec<Netmap>, OpenError> {
        let mut info = PortInfo::default();
        let device = self.kernel.open().map_err(|source| port_error(&link.name, source))?;
        let asked = device.control(&link.name, Control::PortInfo(&mut info));
        asked.map_err(|source| port_error(&link.name, source))?;
        let (transmit, receive) = (info.tx_rings, info.rx_rings);
        let Some(pairs) = u16::try_from(workers).ok().filter(|w| *w == transmit && *w == receive)
        else {
            let name = link.name.clone();
            return Err(OpenError::Rings { name, transmit, receive, workers });
        };
        let pair = |number| {
            self.open(link, PortName::pair(&link.name, number).with_host_rings(pairs), wish)
        };
        (0..pairs).map(pair).collect()
    }

    /// Opens an interface: the card's rings, and the host rings unless the kernel is to be left out.
    pub(super) fn open_interface(
        &self,
        interface: &Interface,
        link: &Link,
        mut kept: Kept,
        addresses: Vec<crate::config::Network>,
        workers: usize,
    ) -> Result<Opened, OpenError> {
        let name = &interface.name;
        let wires = self.open_card(link, &mut kept, workers, interface.zero_copy_transmit)?;
        let wish = Wish::Copy("the kernel's rings take no frame from two slots");
        let hosts = match interface.host {
            HostEndpoint::None => None,
            _ if workers <= 1 => Some(vec![self.open(link, PortName::host(name), wish)?]),
            // As many host rings as workers: the first port has asked for them.
            _ => {
                let host = |worker| {
                    let ring = u16::try_from(worker).unwrap_or(u16::MAX);
                    self.open(link, PortName::host_pair(name, ring), wish)
                };
                Some((0..workers).map(host).collect::<Result<Vec<_>, _>>()?)
            }
        };
        let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        let queues = Queue::pair(wires, hosts.map(boxed));
        let opened = opened(interface, link.mac, mtu, addresses, queues, &[]);
        Ok(Opened { kept, ..opened })
    }
}

/// The daemon's memory, its pools, and the region over it if the kernel makes one.
type Given = (Memory, Vec<Pool>, io::Result<Arc<Bank>>);

/// Makes the daemon's memory and gives it to the kernel, the slots of `groups` with it.
fn give(
    config: &Config,
    kernel: &dyn Kernel,
    cards: &[&str],
    groups: &[&str],
) -> Result<Given, MemoryError> {
    let workers = config.worker.count;
    let ((mut memory, mut pools), objects) = Memory::with_objects(&config.memory, workers, groups)?;
    let segments = memory.lasting_groups();
    let bank = ring_buffers(kernel, cards, workers).and_then(|buffers| {
        Bank::with_groups(kernel, &objects, &segments, memory.port(), &mut pools, buffers)
    });
    // The kernel has made a list of them.
    memory.zero_free_slots_of_groups();
    Ok((memory, pools, bank))
}

/// The trust groups of whose slots a card may send: those with a policy for an interface whose driver `can`.
fn groups_of(config: &Config, can: impl Fn(&Interface) -> bool) -> Vec<&str> {
    let mut groups: Vec<&str> = Vec::new();
    for interface in config.interfaces.iter().filter(|i| i.zero_copy_transmit && can(i)) {
        let policies = config.policies.iter().filter(|policy| policy.covers(&interface.name));
        for group in policies.filter_map(|policy| policy.group.as_deref()) {
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
    }
    groups
}

/// Whether netmap's driver of a card of the interface takes frames in several slots.
fn sends_from_several_slots(interface: &Interface, kernel: &dyn Kernel) -> bool {
    let behind = interface.behind.as_ref().map(|b| (b.port, b.interface.as_str()));
    let mut ends = [(interface.port, interface.name.as_str())].into_iter().chain(behind);
    ends.any(|(port, name)| {
        port == Backend::Netmap && kernel.sends_from_several_slots(name).is_ok()
    })
}

fn port_error(name: &str, source: io::Error) -> OpenError {
    OpenError::Port {
        name: name.to_owned(),
        what: "a netmap port",
        hint: match source.kind() {
            io::ErrorKind::NotFound => "; load the module netmap",
            io::ErrorKind::PermissionDenied => "; run as root: /dev/netmap is root's",
            _ => "",
        },
        source,
    }
}

/// Whether the interface's rings cannot be in the daemon's memory; not, as long as nothing is known of it.
fn keeps_own_region(name: &str) -> bool {
    let link = Netlink::open().and_then(|mut netlink| netlink.link(name));
    link.is_ok_and(|link| is_native_veth(link.kind.as_deref()))
}

/// Buffers that the rings of these interfaces hold, host rings too: of these there is a pair for each worker.
fn ring_buffers(kernel: &dyn Kernel, cards: &[&str], workers: usize) -> io::Result<u32> {
    let mut buffers = 0;
    for card in cards {
        let mut info = PortInfo::default();
        kernel.open()?.control(card, Control::PortInfo(&mut info))?;
        let pairs = u16::try_from(workers).unwrap_or(u16::MAX);
        info.host_tx_rings = info.host_tx_rings.max(pairs);
        info.host_rx_rings = info.host_rx_rings.max(pairs);
        // Others lie in the region of their IOMMU group.
        buffers += if info.memory_id == COMMON_REGION { info.ring_buffers() } else { 0 };
    }
    Ok(buffers)
}
