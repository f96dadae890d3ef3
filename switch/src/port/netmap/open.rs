//! Opening: one descriptor becomes one port, or two where it holds the card's rings and the host's.
//!
//! ```text
//!   netmap:eth0, eth0-3, eth0^, eth0^1, x{1, vale0:a    one port
//!   netmap:eth0*    [ card's rings | host rings ]       open: refused; open_both: a port of each
//! ```
//!
//! - Frames of the host's rings never come out of a port of the card's, nor the other way: for the
//!   switch the one is the wire, the other the kernel.
//! - The halves of a descriptor share its syncs: the kernel serves all bound rings of a direction. What
//!   one half's sync brought the other sees without one of its own.
//! - A monitor only listens: its buffers are looked at, never exchanged.

use super::abi::{COMMON_REGION, PoolsInfo, PortInfo, Register, flag};
use super::bank::Bank;
use super::kernel::{Control, Device, Direction, Kernel};
use super::name::PortName;
use super::port::{Netmap, NetmapSpec};
use super::region::{Region, Rings};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// An open device, perhaps of two ports.
#[derive(Debug)]
pub(super) struct Shared {
    device: Box<dyn Device>,
    /// The number of the region that its rings lie in.
    memory_id: u16,
    /// The kernel passes over a ring that another thread syncs, and says nothing.
    turn: Mutex<()>,
}

impl Shared {
    pub(super) fn sync(&self, direction: Direction) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.device.sync(direction)
    }

    pub(super) fn memory_id(&self) -> u16 {
        self.memory_id
    }

    pub(super) fn readiness(&self) -> BorrowedFd<'_> {
        self.device.readiness()
    }
}

/// Why a card's frames are not in the daemon's memory although there is such.
const OF_GROUP: &str = "the card is behind an IOMMU and its buffers are its group's";

/// A bound device, its memory and its rings.
struct Bound {
    /// Whether its buffers lie in the region of an IOMMU group.
    is_of_group: bool,
    device: Arc<Shared>,
    bank: Option<Arc<Bank>>,
    region: Arc<Region>,
    rings: Rings,
}

impl Netmap {
    /// Opens a port. With a `bank` it asks for the bank's region; if the kernel gives another one,
    /// frames are copied.
    ///
    /// # Errors
    /// What the kernel refused: `ENXIO` no such interface, `EBUSY` taken by another, `EINVAL` an MTU
    /// longer than a buffer among others. What of its memory cannot be. A name that binds the card's
    /// rings and the host's, which are two ports.
    pub fn open(
        kernel: &dyn Kernel,
        spec: &NetmapSpec,
        bank: Option<&Arc<Bank>>,
    ) -> io::Result<Self> {
        let Bound { is_of_group, device, bank, region, rings: Rings { card, host } } =
            bind(kernel, spec, bank)?;
        let sides = match (card.is_empty(), host.is_empty()) {
            (false, false) => {
                let name = &spec.name;
                let only = &name.port;
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!(
                        "{name} is two ports, the card's rings and the host's; name one of them, \
                         netmap:{only} or netmap:{only}^"
                    ),
                ));
            }
            (true, _) => host,
            _ => card,
        };
        let mut port = Self::over(spec, device, bank, region, sides, true)?;
        if is_of_group {
            port.explain(OF_GROUP);
        }
        Ok(port)
    }

    /// Opens the card's rings and the host's on one descriptor (`netmap:eth0*`): the port of the card,
    /// the port of the host. Each sync serves both, so an idle pair costs half as many system calls as
    /// two descriptors, and a busy one some more for each. The card's half has the descriptor to sleep
    /// on for both.
    ///
    /// # Errors
    /// As [`open`](Self::open); `InvalidInput` if the name does not bind both.
    pub fn open_both(
        kernel: &dyn Kernel,
        spec: &NetmapSpec,
        bank: Option<&Arc<Bank>>,
    ) -> io::Result<(Self, Self)> {
        let Bound { is_of_group, device, bank, region, rings: Rings { card, host } } =
            bind(kernel, spec, bank)?;
        if card.is_empty() || host.is_empty() {
            let text = format!("{} is one port, not a card's and its host's", spec.name);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let (second, memory) = (Arc::clone(&device), Arc::clone(&region));
        let mut of_card = Self::over(spec, device, bank.clone(), region, card, true)?;
        let mut of_host = Self::over(spec, second, bank, memory, host, false)?;
        if is_of_group {
            of_card.explain(OF_GROUP);
            of_host.explain(OF_GROUP);
        }
        Ok((of_card, of_host))
    }
}

/// Registers, and finds memory and rings.
fn bind(kernel: &dyn Kernel, spec: &NetmapSpec, bank: Option<&Arc<Bank>>) -> io::Result<Bound> {
    let PortName { port, mode, ring, flags, memory_id, host_rings } = &spec.name;
    // What peers may write is never lent to clients, whatever region it lies in, nor is what a monitor
    // shows, which is somebody else's.
    let bank = bank.filter(|_| !spec.name.has_peer() && !spec.name.is_monitor());
    let device = kernel.open()?;
    let is_of_group = bank.is_some_and(|bank| lies_elsewhere(device.as_ref(), port, bank));
    let bank = bank.filter(|_| !is_of_group);
    let mut register = Register {
        mode: *mode,
        ring_id: *ring,
        host_tx_rings: *host_rings,
        host_rx_rings: *host_rings,
        flags: flags | flag::NO_TX_POLL,
        memory_id: bank.map_or(*memory_id, |bank| bank.memory_id()),
        ..Register::default()
    };
    device.control(port, Control::Register { body: &mut register, extmem: None })?;
    let bank = bank.filter(|bank| bank.memory_id() == register.memory_id).cloned();
    let region = match &bank {
        Some(bank) => Arc::clone(bank.region()),
        None => {
            let mut pools = PoolsInfo { memory_id: register.memory_id, ..PoolsInfo::default() };
            // By the name of the port that it hears, a monitor would be told of that one's memory; a pipe
            // that is not opened is asked for in a region by its number.
            let about = if spec.name.is_monitor() { "usnet{pools" } else { port };
            device.control(about, Control::PoolsInfo(&mut pools))?;
            Region::map(device.memory(), &pools)?
        }
    };
    if usize::from(spec.mtu) + 14 > region.buffer_size() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "an MTU of {} needs buffers of more than netmap's {} bytes; lower the MTU, or \
                 load the module with buf_size={}",
                spec.mtu,
                region.buffer_size(),
                (usize::from(spec.mtu) + 14).next_power_of_two()
            ),
        ));
    }
    let rings = region.rings(register.offset)?;
    let shared = Shared { device, memory_id: register.memory_id, turn: Mutex::new(()) };
    Ok(Bound { is_of_group, device: Arc::new(shared), bank, region, rings })
}

/// Whether the card's buffers must lie in another region than netmap's common one or the bank's: that of
/// its IOMMU group. To ask for the bank's all the same would do harm: the module refuses it, clings to it,
/// and refuses the card to everybody from then on.
fn lies_elsewhere(device: &dyn Device, port: &str, bank: &Bank) -> bool {
    let mut info = PortInfo::default();
    let asked = device.control(port, Control::PortInfo(&mut info));
    asked.is_ok() && ![COMMON_REGION, bank.memory_id()].contains(&info.memory_id)
}
