//! Monitors: ports that hear what passes an interface's rings, and have nothing to say.
//!
//! ```text
//!   eth0's rx ring 0 --sync--> its user            eth0's tx ring 0 --sync--> wire
//!                      \--copy--> monitor's rx ring 0 <--copy--/
//! ```
//!
//! - A monitor takes nothing away and opens nothing: without a user of the interface it hears nothing.
//! - It has a region of its own. A frame for which its ring has no slot is not heard.
//! - Not here: monitors of host rings, pipes, switch ports and veth, and those that exchange buffers
//!   instead of copying (`EOPNOTSUPP`).

use super::Pools;
use super::adapter::{Adapter, Counts, Kind};
use super::machine::Machine;
use super::ring::Kring;
use super::transfer::{nic_of, place};
use crate::port::netmap::abi::layout::{ring, slot};
use crate::port::netmap::abi::{Register, flag, mode, slot_flag};
use rustix::io::Errno;
use std::io;

/// What a monitor hears.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hears {
    /// Whose rings.
    of: usize,
    transmit: bool,
    receive: bool,
}

/// Where a port's card rings stood before a sync.
#[derive(Debug, Default)]
pub(super) struct Marks {
    transmit: Vec<u32>,
    receive: Vec<u32>,
}

/// A frame that passed a ring.
#[derive(Debug)]
struct Passed {
    ring: usize,
    is_transmit: bool,
    bytes: Vec<u8>,
}

pub(super) fn is_wanted(body: &Register) -> bool {
    body.flags & (flag::MONITOR_TX | flag::MONITOR_RX) != 0
}

impl Machine {
    /// Makes a monitor of an interface.
    pub(super) fn make_monitor(&mut self, name: &str, body: &Register) -> io::Result<usize> {
        let is_simple = matches!(body.mode, mode::ALL_NIC | mode::ONE_NIC)
            && body.flags & flag::ZCOPY_MON == 0
            && body.memory_id == 0;
        if !is_simple {
            return Err(Errno::OPNOTSUPP.into());
        }
        let of = self.find(name).ok_or(Errno::NXIO)?;
        let buffer_size = self.spec.pools.buffer_size;
        let parent = self.at(of)?;
        if parent.peer().is_some() || nic_of(&mut parent.kind).is_none() {
            return Err(Errno::OPNOTSUPP.into());
        }
        // netmap gives it a transmit ring, too, since it cannot do without.
        let rings = parent.counts.rx.max(parent.counts.tx);
        let counts = Counts { tx: 1, rx: rings, host_tx: 0, host_rx: 0 };
        let slots = parent.rx_slots;
        let total = u32::try_from(rings + 1).unwrap_or(u32::MAX);
        let size = (ring::SLOTS + slots as usize * slot::SIZE).next_multiple_of(64);
        let region = self.new_region(Pools {
            if_total: 4,
            if_size: 1024,
            ring_total: total,
            ring_size: u32::try_from(size).unwrap_or(u32::MAX),
            buffer_total: slots.saturating_mul(total).saturating_add(2),
            buffer_size,
        })?;
        let hears = Hears {
            of,
            transmit: body.flags & flag::MONITOR_TX != 0,
            receive: body.flags & flag::MONITOR_RX != 0,
        };
        // Not a name that can be asked for.
        let name = format!("{name}/monitor");
        let mut adapter = Adapter::new(&name, Kind::Monitor(hears), counts, (slots, slots));
        adapter.region = region;
        Ok(self.put(adapter))
    }

    /// What a sync of this port has to begin with, if somebody listens.
    pub(super) fn marks(&self, at: usize) -> Option<Marks> {
        let is_heard =
            self.adapters.iter().flatten().any(|a| a.hears().is_some_and(|h| h.of == at));
        let adapter = self.adapters.get(at)?.as_ref().filter(|_| is_heard)?;
        let Counts { tx, rx, .. } = adapter.counts;
        Some(Marks {
            transmit: adapter.transmit.iter().take(tx).map(|ring| ring.hw_cur).collect(),
            receive: adapter.receive.iter().take(rx).map(|ring| ring.hw_tail).collect(),
        })
    }

    /// Lets monitors hear what has passed a port's rings since.
    pub(super) fn tell_monitors(&mut self, at: usize, marks: &Marks) {
        let Some(Some(adapter)) = self.adapters.get(at) else { return };
        let mut passed = Vec::new();
        for (ring, (kring, from)) in adapter.transmit.iter().zip(&marks.transmit).enumerate() {
            collect(adapter, kring, *from, kring.hw_cur, (ring, true), &mut passed);
        }
        for (ring, (kring, from)) in adapter.receive.iter().zip(&marks.receive).enumerate() {
            collect(adapter, kring, *from, kring.hw_tail, (ring, false), &mut passed);
        }
        let monitors = self.adapters.iter_mut().flatten();
        for monitor in monitors.filter(|a| a.hears().is_some_and(|hears| hears.of == at)) {
            let (Some(hears), Some(view)) = (monitor.hears(), monitor.view.clone()) else {
                continue;
            };
            for frame in &passed {
                let is_meant = if frame.is_transmit { hears.transmit } else { hears.receive };
                let kring = monitor.receive.get_mut(frame.ring).filter(|k| k.users > 0 && is_meant);
                let Some(kring) = kring else { continue };
                let Some(ring) = kring.view(&view) else { continue };
                let first = kring.hw_tail;
                if place(kring, &ring, &view, &frame.bytes) && frame.is_transmit {
                    let slot = ring.slot(first);
                    ring.set_length(first, slot.length, slot.flags | slot_flag::TX_MONITORED);
                }
            }
            monitor.bells.iter().for_each(|bell| bell.set(true));
        }
    }

    /// The interface is gone, and so are its monitors.
    pub(super) fn end_monitors(&mut self, of: usize) {
        for monitor in self.adapters.iter_mut().flatten() {
            if monitor.hears().is_some_and(|hears| hears.of == of) {
                monitor.is_gone = true;
                monitor.bells.iter().for_each(|bell| bell.set(true));
            }
        }
    }
}

impl Adapter {
    fn hears(&self) -> Option<Hears> {
        if let Kind::Monitor(hears) = self.kind { Some(hears) } else { None }
    }
}

/// Frames in the slots `from..to` of a ring, put together from their pieces.
fn collect(
    adapter: &Adapter,
    kring: &Kring,
    from: u32,
    to: u32,
    (ring, is_transmit): (usize, bool),
    into: &mut Vec<Passed>,
) {
    let Some(view) = &adapter.view else { return };
    let Some(shown) = kring.view(view) else { return };
    let (mut number, mut bytes) = (from, Vec::new());
    while number != to {
        let slot = shown.slot(number);
        let Some(posted) = kring.posted.get(number as usize) else { return };
        let mut part = vec![0; usize::from(slot.length).min(view.buffer_size)];
        view.memory.read(view.buffer(posted.buffer), &mut part);
        bytes.append(&mut part);
        if slot.flags & slot_flag::MOREFRAG == 0 {
            let bytes = core::mem::take(&mut bytes);
            into.push(Passed { ring, is_transmit, bytes });
        }
        number = kring.after(number);
    }
}
