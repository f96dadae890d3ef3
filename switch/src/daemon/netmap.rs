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

use super::interface::{Kept, OpenError, Opened, Queue, net_error, opened};
use crate::config::{Backend, Config, HostEndpoint, Interface};
use crate::control::memory::{Memory, MemoryError};
use crate::net::Link;
use crate::net::offload::Offload;
use crate::port::Port;
use crate::port::netmap::abi::PortInfo;
use crate::port::netmap::{
    Bank, Control, Kernel, Module, Netmap, NetmapSpec, PortName, is_native_veth,
};
use std::io;
use std::sync::Arc;
use usnet_shmring::pool::Pool;

/// What ports over netmap share.
#[derive(Debug)]
pub struct Cards {
    kernel: Arc<dyn Kernel>,
    bank: Option<Arc<Bank>>,
}

impl Cards {
    /// For interfaces that are not over netmap.
    #[must_use]
    pub fn none() -> Self {
        Self { kernel: Arc::new(Module), bank: None }
    }

    /// Makes the daemon's memory, and gives it to netmap if there are interfaces over it. Where the
    /// kernel does not take it, their frames are copied, and the log says why.
    pub(super) fn prepare(
        config: &Config,
        kernel: Arc<dyn Kernel>,
    ) -> Result<(Memory, Vec<Pool>, Self), MemoryError> {
        let workers = config.worker.count;
        let cards: Vec<&Interface> =
            config.interfaces.iter().filter(|i| i.port == Backend::Netmap).collect();
        if cards.is_empty() {
            let (memory, pools) = Memory::new(&config.memory, workers)?;
            return Ok((memory, pools, Self { kernel, bank: None }));
        }
        let ((memory, mut pools), objects) = Memory::with_objects(&config.memory, workers)?;
        let bank = ring_buffers(kernel.as_ref(), &cards).and_then(|buffers| {
            Bank::open(kernel.as_ref(), &objects, memory.port(), &mut pools, buffers)
        });
        let bank = match bank {
            Ok(bank) => Some(bank),
            // Without the module no port can be opened: that says it better.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, "netmap does not take the daemon's memory; frames are copied");
                None
            }
        };
        Ok((memory, pools, Self { kernel, bank }))
    }

    /// Opens one port.
    fn open(
        &self,
        interface: &Interface,
        link: &Link,
        name: PortName,
    ) -> Result<Netmap, OpenError> {
        let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        let spec = NetmapSpec { name, mac: link.mac, mtu };
        let bank = self.bank.as_ref().filter(|_| !is_native_veth(link.kind.as_deref()));
        match Netmap::open(self.kernel.as_ref(), &spec, bank) {
            // The buffers that were left for rings when the daemon began are too few for these: an
            // interface that came back may have more, or longer ones.
            Err(error) if bank.is_some() && error.kind() == io::ErrorKind::OutOfMemory => {
                let name = &interface.name;
                tracing::warn!(interface = name, %error, "its rings do not fit; frames are copied");
                Netmap::open(self.kernel.as_ref(), &spec, None)
            }
            opened => opened,
        }
        .map_err(|source| port_error(interface, source))
    }

    /// Whether netmap knows the interface; changes nothing.
    pub(super) fn look_at(&self, interface: &Interface) -> Result<(), OpenError> {
        let asked = self.kernel.open().and_then(|device| {
            device.control(&interface.name, Control::PortInfo(&mut PortInfo::default()))
        });
        asked.map_err(|source| port_error(interface, source))
    }

    /// Opens an interface: the card's rings, and the host rings unless the kernel is to be left out.
    pub(super) fn open_interface(
        &self,
        interface: &Interface,
        link: &Link,
        mut kept: Kept,
        addresses: Vec<crate::config::Network>,
    ) -> Result<Opened, OpenError> {
        let name = &interface.name;
        kept.keep_qdisc(link);
        // Whatever would make a frame other than it is on the wire.
        kept.turn_off_offloads(interface, &Offload::ALL).map_err(net_error(interface))?;
        let wire = self.open(interface, link, PortName::nic(name))?;
        let (swaps, rings) = (wire.swaps(), wire.rings());
        let host = match interface.host {
            HostEndpoint::None => None,
            _ => Some(self.open(interface, link, PortName::host(name))?),
        };
        let exchange = if swaps { "swapped" } else { "copied" };
        tracing::info!(interface = name, buffers = exchange, ?rings, "netmap port open");
        let mtu = wire.info().mtu;
        let host = host.map(|host| vec![Box::new(host) as Box<dyn Port>]);
        let queues = Queue::pair(vec![wire], host);
        let opened = opened(interface, link.mac, mtu, addresses, queues, &[]);
        Ok(Opened { kept, ..opened })
    }
}

fn port_error(interface: &Interface, source: io::Error) -> OpenError {
    OpenError::Port {
        name: interface.name.clone(),
        what: "a netmap port",
        hint: match source.kind() {
            io::ErrorKind::NotFound => "; load the module netmap",
            io::ErrorKind::PermissionDenied => "; run as root: /dev/netmap is root's",
            _ => "",
        },
        source,
    }
}

/// Buffers that the rings of these interfaces hold, host rings too.
fn ring_buffers(kernel: &dyn Kernel, cards: &[&Interface]) -> io::Result<u32> {
    let mut buffers = 0;
    for card in cards {
        let mut info = PortInfo::default();
        kernel.open()?.control(&card.name, Control::PortInfo(&mut info))?;
        buffers += info.ring_buffers();
    }
    Ok(buffers)
}
