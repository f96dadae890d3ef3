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
//! - A port that sends the rest of frames from clients' slots has a descriptor for each direction. Offsets are
//!   granted for all rings of a descriptor, and a card that receives with offsets is told to fill less of each
//!   buffer: with those of 2,048 bytes 1,024, so that a frame of 1,500 would come in two.

use super::abi::{COMMON_REGION, Offsets, PoolsInfo, PortInfo, Register, flag, mode};
use super::bank::Bank;
use super::kernel::{Control, Device, Direction, Kernel};
use super::name::PortName;
use super::port::{NOT_ASKED, Netmap, NetmapSpec, Wish};
use super::region::{Region, Ring, Rings, inconsistent};
use super::split::Split;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// An open device, perhaps of two ports.
#[derive(Debug)]
pub(super) struct Shared {
    device: Box<dyn Device>,
    /// Has the transmit rings, if the other one has not.
    transmit: Option<Box<dyn Device>>,
    /// The number of the region that its rings lie in.
    memory_id: u16,
    /// The kernel passes over a ring that another thread syncs, and says nothing.
    turn: Mutex<()>,
}

impl Shared {
    pub(super) fn sync(&self, direction: Direction) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        match (direction, &self.transmit) {
            (Direction::Transmit, Some(device)) => device.sync(direction),
            _ => self.device.sync(direction),
        }
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

/// Bits of a slot's pointer that are an offset: more than any buffer needs.
const OFFSET_BITS: u32 = 32;

/// A bound device, its memory and its rings.
struct Bound {
    /// Whether its buffers lie in the region of an IOMMU group.
    is_of_group: bool,
    device: Arc<Shared>,
    bank: Option<Arc<Bank>>,
    region: Arc<Region>,
    rings: Rings,
    /// Whether the rest of a frame may stay in a client's slot, and why.
    split: Result<&'static str, &'static str>,
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
        Self::open_wishing(kernel, spec, bank, Wish::Copy(NOT_ASKED))
    }

    /// The same, with a wish for what clients send. It is fulfilled for rings of a card in the bank's region,
    /// if that has groups and the kernel grants offsets; [`Port::exchange`](crate::port::Port::exchange) says.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_wishing(
        kernel: &dyn Kernel,
        spec: &NetmapSpec,
        bank: Option<&Arc<Bank>>,
        wish: Wish,
    ) -> io::Result<Self> {
        let Bound { is_of_group, device, bank, region, rings: Rings { card, host }, split } =
            bind(kernel, spec, bank, wish)?;
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
        let count = sides.transmit.first().map_or(0, Ring::count);
        let slots = bank.as_ref().map_or(0..0, |bank| bank.groups());
        let mut port = Self::over(spec, device, bank, region, sides, true)?;
        if split.is_ok() {
            port.split = Some(Split::new(slots, count));
        }
        port.why_sends = split.unwrap_or_else(|why| why);
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
        let bound = bind(kernel, spec, bank, Wish::Copy(NOT_ASKED))?;
        let Bound { is_of_group, device, bank, region, rings: Rings { card, host }, .. } = bound;
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
fn bind(
    kernel: &dyn Kernel,
    spec: &NetmapSpec,
    bank: Option<&Arc<Bank>>,
    wish: Wish,
) -> io::Result<Bound> {
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
    let transmit = bind_transmit(kernel, port, register, bank, wish);
    if transmit.is_ok() {
        register.flags |= flag::RX_RINGS_ONLY;
    }
    device.control(port, Control::Register { body: &mut register, extmem: None, offsets: None })?;
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
    let mut rings = region.rings(register.offset)?;
    let memory_id = register.memory_id;
    let split = match &transmit {
        Ok(_) if bank.is_none() => return Err(inconsistent("two regions for one card")),
        Ok((_, offset)) => {
            rings.card.transmit = region.rings(*offset)?.card.transmit;
            Ok("head and rest are two slots of the ring")
        }
        Err(why) => Err(*why),
    };
    let transmit = transmit.ok().map(|(device, _)| device);
    let device = Arc::new(Shared { device, transmit, memory_id, turn: Mutex::new(()) });
    Ok(Bound { is_of_group, device, bank, region, rings, split })
}

/// Binds the transmit rings alone, with offsets, if frames are to be split and can be; where these rings
/// lie. If that is refused nothing is bound, and all rings are had on one descriptor as ever.
fn bind_transmit(
    kernel: &dyn Kernel,
    port: &str,
    mut register: Register,
    bank: Option<&Arc<Bank>>,
    wish: Wish,
) -> Result<(Box<dyn Device>, u64), &'static str> {
    if let Wish::Copy(why) = wish {
        return Err(why);
    }
    let Some(bank) = bank else {
        return Err("its buffers are not the daemon's slots");
    };
    if bank.groups().is_empty() {
        return Err("no group of clients has slots among its buffers");
    }
    let is_card = [mode::ALL_NIC, mode::ONE_NIC].contains(&register.mode);
    if !is_card || register.flags & (flag::RX_RINGS_ONLY | flag::TX_RINGS_ONLY) != 0 {
        return Err("it has not the rings of a card for both directions");
    }
    register.flags |= flag::TX_RINGS_ONLY;
    let most = bank.region().buffer_size() as u64;
    let mut offsets = Offsets { most, bits: OFFSET_BITS, ..Offsets::default() };
    let device = kernel.open().map_err(|_| "a second descriptor was refused")?;
    let request =
        Control::Register { body: &mut register, extmem: None, offsets: Some(&mut offsets) };
    match device.control(port, request) {
        Ok(()) if register.memory_id != bank.memory_id() => Err("netmap gave it its own region"),
        Ok(()) if offsets.most < most => Err("netmap grants smaller offsets only"),
        Ok(()) => Ok((device, register.offset)),
        Err(_) => Err("netmap grants it no offsets in slots"),
    }
}

/// Whether the card's buffers must lie in another region than netmap's common one or the bank's: that of
/// its IOMMU group. To ask for the bank's all the same would do harm: the module refuses it, clings to it,
/// and refuses the card to everybody from then on.
fn lies_elsewhere(device: &dyn Device, port: &str, bank: &Bank) -> bool {
    let mut info = PortInfo::default();
    let asked = device.control(port, Control::PortInfo(&mut info));
    asked.is_ok() && ![COMMON_REGION, bank.memory_id()].contains(&info.memory_id)
}
