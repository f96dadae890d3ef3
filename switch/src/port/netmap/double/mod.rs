//! A netmap in user space, for tests and for the demo where the module is not loaded.
//!
//! ```text
//!   port --- Kernel, Device ---> Double: one machine
//!     \                            interfaces -- media: wire, host's stack
//!      \-- mapping of a memfd ---- regions    -- rings and buffers, laid out as netmap lays them out
//! ```
//!
//! - What a port sees is what the module shows: layout, error numbers, and its silences. A bad `head`
//!   succeeds, a missing `NS_BUF_CHANGED` gives stale frames, a pipe's slots come unchecked.
//! - Nothing moves by itself: frames move in a sync, in [`Double::pump`], or in the thread of
//!   [`Double::run`]. One lock guards the machine, so no sync finds a ring busy.
//! - Not as in the module: a mapping does not keep a port open; memory of `EXTMEM` is not pinned and
//!   cannot be mapped through the device; [`Device::readiness`] may be readable once too often; a
//!   removed interface is readable, not in error; monitors only copy, and only cards' rings; offsets are
//!   granted for cards alone, and looked at on transmission alone.

mod adapter;
mod device;
mod machine;
mod media;
mod memory;
mod monitor;
mod nic;
mod region;
mod register;
mod ring;
mod sync;
mod transfer;
mod vale;

pub use media::{FdMedium, Generator, Medium, QueueMedium, queue_pair};
pub use nic::{Completion, NicCounters, NicSpec, Overflow, Quirk, VethSpec};
pub use region::RegionCounters;

use super::abi::PoolsInfo;
use super::kernel::{Device, Kernel};
use core::time::Duration;
use machine::Machine;
use rustix::io::Errno;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// The region that all ports share unless something else is said.
pub const GLOBAL_REGION: u16 = 1;
/// How long the pump's thread rests when nothing moved.
const REST: Duration = Duration::from_millis(1);

/// Numbers and sizes, in bytes, of a region's objects. Sizes are multiples of 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pools {
    /// Descriptions of ports, one for each device.
    pub if_total: u32,
    /// Their size.
    pub if_size: u32,
    /// Rings.
    pub ring_total: u32,
    /// Their size.
    pub ring_size: u32,
    /// Buffers, the two reserved ones among them.
    pub buffer_total: u32,
    /// Their size, at most 65,472.
    pub buffer_size: u32,
}

impl Default for Pools {
    /// Smaller than the module's 100, 200 and 163,840, with the same sizes.
    fn default() -> Self {
        Self {
            if_total: 16,
            if_size: 1024,
            ring_total: 64,
            ring_size: 36864,
            buffer_total: 8192,
            buffer_size: 2048,
        }
    }
}

impl Pools {
    /// Where everything lies in region `id`; nothing if the sizes cannot be.
    fn info(&self, id: u16) -> Option<PoolsInfo> {
        let is_good = |size: u32| size >= 64 && size.is_multiple_of(64);
        let is_possible = [self.if_size, self.ring_size, self.buffer_size].into_iter().all(is_good)
            && self.buffer_size <= u32::from(u16::MAX)
            && self.buffer_total > 2;
        if !is_possible {
            return None;
        }
        let bytes = |total: u32, size: u32| u64::from(total) * u64::from(size);
        let ring_offset = bytes(self.if_total, self.if_size);
        let buffer_offset = ring_offset + bytes(self.ring_total, self.ring_size);
        Some(PoolsInfo {
            memory_size: buffer_offset + bytes(self.buffer_total, self.buffer_size),
            memory_id: id,
            padding: [0; 3],
            if_offset: 0,
            if_total: self.if_total,
            if_size: self.if_size,
            ring_offset,
            ring_total: self.ring_total,
            ring_size: self.ring_size,
            buffer_offset,
            buffer_total: self.buffer_total,
            buffer_size: self.buffer_size,
        })
    }
}

/// How the module was built and loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineSpec {
    /// Pools of the global region and of those of IOMMU groups.
    pub pools: Pools,
    /// Whether it knows the option `EXTMEM`.
    pub extmem: bool,
}

impl Default for MachineSpec {
    fn default() -> Self {
        Self { pools: Pools::default(), extmem: true }
    }
}

/// An offset as a size of this machine's; too large ones are so afterwards, too.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// The machine behind its lock.
#[derive(Debug)]
struct Shared(Mutex<Machine>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A machine with netmap. Clones are the same machine.
#[derive(Clone, Debug)]
pub struct Double {
    machine: Arc<Shared>,
}

impl Double {
    /// A machine without interfaces.
    ///
    /// # Errors
    /// No memory or descriptors are left.
    pub fn new() -> io::Result<Self> {
        Self::with(MachineSpec::default())
    }

    /// The same with other pools or options.
    ///
    /// # Errors
    /// No memory or descriptors are left, or the pools cannot be.
    pub fn with(spec: MachineSpec) -> io::Result<Self> {
        Ok(Self { machine: Arc::new(Shared(Mutex::new(Machine::new(spec)?))) })
    }

    /// Adds an interface.
    ///
    /// # Errors
    /// `EEXIST` if there is one of that name, `EINVAL` if it has rings of less than two slots or a
    /// name of more than 15 bytes.
    pub fn add_nic(&self, spec: NicSpec) -> io::Result<()> {
        self.machine.lock().add_nic(spec)
    }

    /// Adds two interfaces that are each other's wire.
    ///
    /// # Errors
    /// As [`Self::add_nic`].
    pub fn add_veth(&self, spec: VethSpec) -> io::Result<()> {
        self.machine.lock().add_veth(spec)
    }

    /// Takes an interface away, a veth's other end too. Waits for nobody.
    ///
    /// # Errors
    /// `ENXIO` if there is none of that name, `EINVAL` if it is no interface.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.machine.lock().remove(name)
    }

    /// Changes the largest IP packet of an interface.
    ///
    /// # Errors
    /// `EINVAL` if the interface is open, its driver knows netmap, and a buffer would not hold it.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> io::Result<()> {
        let mut machine = self.machine.lock();
        let adapter = machine.adapter(name)?;
        let limit = adapter.view.as_ref().map_or(usize::MAX, |view| view.buffer_size);
        let nic = transfer::nic_of(&mut adapter.kind).ok_or(Errno::INVAL)?;
        if !nic.is_generic && mtu as usize > limit {
            return Err(Errno::INVAL.into());
        }
        nic.mtu = mtu;
        Ok(())
    }

    /// Brings a link up at once that is being reset.
    ///
    /// # Errors
    /// `ENXIO` if there is no such interface.
    pub fn end_link_reset(&self, name: &str) -> io::Result<()> {
        let mut machine = self.machine.lock();
        let nic = transfer::nic_of(&mut machine.adapter(name)?.kind).ok_or(Errno::INVAL)?;
        nic.down_until = None;
        Ok(())
    }

    /// Moves frames between wires and hosts where netmap has not taken them, up to 1,024 each way,
    /// and goes on with what cards have still to send. Returns how many moved or were lost.
    pub fn pump(&self) -> u64 {
        self.machine.lock().pump()
    }

    /// Pumps in a thread until the answer is dropped.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn run(&self) -> io::Result<Pump> {
        let (double, is_over) = (self.clone(), Arc::new(AtomicBool::new(false)));
        let ends = Arc::clone(&is_over);
        let pump = move || {
            while !ends.load(Ordering::Acquire) {
                if double.pump() == 0 {
                    thread::park_timeout(REST);
                }
            }
        };
        let thread = thread::Builder::new().name("netmap-double".into()).spawn(pump)?;
        Ok(Pump { is_over, thread: Some(thread) })
    }

    /// Whether any device is bound to an interface, a pipe's end or a switch's port.
    #[must_use]
    pub fn is_open(&self, name: &str) -> bool {
        self.machine.lock().adapter(name).is_ok_and(|adapter| adapter.users > 0)
    }

    /// What an interface did with frames.
    #[must_use]
    pub fn nic_counters(&self, name: &str) -> Option<NicCounters> {
        let mut machine = self.machine.lock();
        let nic = transfer::nic_of(&mut machine.adapter(name).ok()?.kind)?;
        Some(nic.counters)
    }

    /// Frames that switch ports lost because they had no free slot.
    #[must_use]
    pub fn vale_missed(&self) -> u64 {
        self.machine.lock().bridges.missed
    }

    /// Numbers of all regions that there are or were.
    #[must_use]
    pub fn regions(&self) -> Vec<u16> {
        self.machine.lock().region_ids()
    }

    /// How a region's buffers are doing, or how they did when it went.
    #[must_use]
    pub fn region(&self, id: u16) -> Option<RegionCounters> {
        self.machine.lock().region_counters(id)
    }

    /// Buffers of a region that were ever leaked: those that are now, and those that were when its
    /// last user went.
    #[must_use]
    pub fn leaks(&self, id: u16) -> u64 {
        self.region(id).map_or(0, |region| region.leaked_now + region.leaked_before)
    }

    /// Buffers of a region that were freed by two holders.
    #[must_use]
    pub fn double_frees(&self, id: u16) -> u64 {
        self.region(id).map_or(0, |region| region.double_frees)
    }
}

impl Kernel for Double {
    fn open(&self) -> io::Result<Box<dyn Device>> {
        Ok(Box::new(device::Open::new(Arc::clone(&self.machine))?))
    }

    fn sends_from_several_slots(&self, name: &str) -> Result<(), &'static str> {
        let mut machine = self.machine.lock();
        let adapter = machine.adapter(name).ok();
        let nic = adapter.and_then(|adapter| transfer::nic_of(&mut adapter.kind));
        match nic {
            Some(nic) if nic.grants_offsets() && !nic.is_generic => Ok(()),
            _ => Err("its driver does not send a frame from several slots"),
        }
    }
}

/// The pump's thread. Dropping it ends the thread.
#[derive(Debug)]
pub struct Pump {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
