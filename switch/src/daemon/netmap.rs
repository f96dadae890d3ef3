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
use crate::config::{Backend, Config, HostEndpoint, Interface};
use crate::control::memory::{Memory, MemoryError};
use crate::net::offload::Offload;
use crate::net::{Link, Netlink};
use crate::port::netmap::abi::{COMMON_REGION, PortInfo};
use crate::port::netmap::{
    Bank, Control, Kernel, Module, Netmap, NetmapSpec, PortName, is_native_veth,
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
    /// The ports' segment of the daemon's memory.
    slots: Option<Arc<Segment>>,
}

impl Cards {
    /// For interfaces that are not over netmap.
    #[must_use]
    pub fn none() -> Self {
        Self { kernel: Arc::new(Module), bank: None, why_none: "", slots: None }
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

    /// Makes the daemon's memory, and gives it to netmap if there are interfaces over it. Where the
    /// kernel does not take it, their frames are copied, and the log says why.
    pub(super) fn prepare(
        config: &Config,
        kernel: Arc<dyn Kernel>,
    ) -> Result<(Memory, Vec<Pool>, Self), MemoryError> {
        let workers = config.worker.count;
        let in_front = config.interfaces.iter().map(|i| (i.port, i.name.as_str()));
        let behind = config.interfaces.iter().filter_map(|i| i.behind.as_ref());
        let all = in_front.chain(behind.map(|b| (b.port, b.interface.as_str())));
        // Slots that are left for rings are no use where these are of another region.
        let cards: Vec<&str> = all
            .filter(|(port, name)| *port == Backend::Netmap && !keeps_own_region(name))
            .map(|(_, name)| name)
            .collect();
        if cards.is_empty() {
            let (memory, pools) = Memory::new(&config.memory, workers)?;
            let why_none = "no interface could use the daemon's memory when it began";
            let slots = Some(Arc::clone(memory.port()));
            return Ok((memory, pools, Self { kernel, bank: None, why_none, slots }));
        }
        let ((memory, mut pools), objects) = Memory::with_objects(&config.memory, workers)?;
        let bank = ring_buffers(kernel.as_ref(), &cards, workers).and_then(|buffers| {
            Bank::open(kernel.as_ref(), &objects, memory.port(), &mut pools, buffers)
        });
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
        Ok((memory, pools, Self { kernel, bank, why_none, slots }))
    }

    /// Opens one port.
    fn open(&self, link: &Link, name: PortName) -> Result<Netmap, OpenError> {
        let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        let spec = NetmapSpec { name, mac: link.mac, mtu };
        let is_native_veth = is_native_veth(link.kind.as_deref());
        let bank = self.bank.as_ref().filter(|_| !is_native_veth);
        let opened = match Netmap::open(self.kernel.as_ref(), &spec, bank) {
            // The buffers that were left for rings when the daemon began are too few for these: an
            // interface that came back may have more, or longer ones.
            Err(error) if bank.is_some() && error.kind() == io::ErrorKind::OutOfMemory => {
                let name = &link.name;
                tracing::warn!(interface = name, %error, "its rings do not fit; frames are copied");
                Netmap::open(self.kernel.as_ref(), &spec, None)
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
    ) -> Result<Vec<Netmap>, OpenError> {
        kept.keep_qdisc(link);
        // Whatever would make a frame other than it is on the wire.
        kept.turn_off_offloads(&link.name, &Offload::ALL).map_err(net_error(&link.name))?;
        let ports = match workers {
            ..=1 => vec![self.open(link, PortName::nic(&link.name))?],
            _ => self.open_pairs(link, workers)?,
        };
        if let Some(port) = ports.first() {
            let exchange = if port.swaps() { "swapped" } else { "copied" };
            let (rings, queues) = (port.rings(), ports.len());
            let name = &link.name;
            tracing::info!(
                interface = name,
                buffers = exchange,
                queues,
                ?rings,
                "netmap port open"
            );
        }
        Ok(ports)
    }

    /// Opens ring pair after ring pair, each on a descriptor of its own: workers share nothing.
    fn open_pairs(&self, link: &Link, workers: usize) -> Result<Vec<Netmap>, OpenError> {
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
        let pair =
            |number| self.open(link, PortName::pair(&link.name, number).with_host_rings(pairs));
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
        let wires = self.open_card(link, &mut kept, workers)?;
        let hosts = match interface.host {
            HostEndpoint::None => None,
            _ if workers <= 1 => Some(vec![self.open(link, PortName::host(name))?]),
            // As many host rings as workers: the first port has asked for them.
            _ => {
                let host = |worker| {
                    let ring = u16::try_from(worker).unwrap_or(u16::MAX);
                    self.open(link, PortName::host_pair(name, ring))
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
