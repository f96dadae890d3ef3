//! Buffers that change places between two ports' rings, where both lie in one region of netmap's own.
//!
//! ```text
//!   receive ring  [a] <-> [b]  transmit ring of the other port       NS_BUF_CHANGED in both slots
//! ```
//!
//! - An exchange is a permutation of the region's buffers: none is lost or doubled by us, whatever numbers
//!   stand in the slots. Both are checked to name buffers all the same.
//! - What is decided by is a private copy of the frame's first bytes, and a slot's word that was loaded
//!   once. The rest of the frame can be rewritten by whoever has a port of the region, until the kernel has
//!   sent it: so can what is copied there.

use super::Netmap;
use super::abi::slot_flag;
use super::port::{copy_in, longest};
use super::region::{Slot, inconsistent};
use crate::port::{Exchange, Handling, Region};
use std::io;
use usnet_shmring::pool::{Frame, MIN_FRAME, Pool};

/// The first frame of a receive ring, looked at and left where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Glimpse {
    ring: usize,
    index: u32,
    slot: Slot,
    is_whole: bool,
}

impl Glimpse {
    /// Its bytes, as far as its first slot says.
    pub(crate) fn length(&self) -> usize {
        self.slot.length.into()
    }

    /// Whether it lies in one buffer and its head was copied. Otherwise only the ordinary way will do.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }
}

impl Netmap {
    /// Says for people why the port was not opened in the daemon's memory.
    pub fn explain(&mut self, why: &'static str) {
        self.why_netmaps = why;
    }

    /// How its frames get into slots and back, without regard to another port.
    pub(super) fn own_exchange(&self) -> Exchange {
        let (region, frames, why) = match (&self.bank, self.has_peer) {
            (Some(_), _) => (Region::Own, Handling::Swapped, "its buffers are slots of the daemon"),
            (None, true) => {
                let why = "the program at the other end writes its slots at any time";
                (Region::PeerWritten, Handling::Copied, why)
            }
            (None, false) => (Region::Netmap, Handling::Copied, self.why_netmaps),
        };
        Exchange { region, frames, why }
    }

    /// Whether buffers may change places between the two ports' rings.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        let is_netmaps = |port: &Self| port.bank.is_none() && !port.has_peer && !port.is_silent;
        is_netmaps(self) && is_netmaps(other) && self.device.memory_id() == other.device.memory_id()
    }

    /// Looks at the next frame, and copies what of it fits into `head`, or all if it is shorter. If there
    /// is none, the kernel is asked once if `may_sync`.
    pub(crate) fn glimpse(
        &mut self,
        head: &mut [u8],
        may_sync: bool,
    ) -> io::Result<Option<Glimpse>> {
        if may_sync {
            self.refill()?;
            self.turn = (self.turn + 1) % self.receive.len().max(1);
        }
        let rings = self.receive.len();
        let mut order = (0..rings).map(|offset| (self.turn + offset) % rings);
        let first = order.find_map(|ring| {
            let held = self.receive.get(ring).filter(|held| held.ring.available() > 0)?;
            Some((ring, held.ring.head(), held.ring.slot(held.ring.head())?))
        });
        let Some((ring, index, slot)) = first else { return Ok(None) };
        let length = usize::from(slot.length);
        let is_one = slot.flags & slot_flag::MOREFRAG == 0
            && slot.length >= MIN_FRAME
            && length <= self.region.buffer_size();
        let known = length.min(head.len());
        let is_whole = is_one
            && self
                .region
                .buffer(slot.buffer)
                .zip(head.get_mut(..known))
                .is_some_and(|(buffer, into)| self.region.read(buffer, into));
        Ok(Some(Glimpse { ring, index, slot, is_whole }))
    }

    /// Moves the frame that was looked at into the other port's first transmit ring. False, and nothing is
    /// moved, if there is no room, or the frame is longer than that port takes.
    pub(crate) fn pass(&mut self, seen: &Glimpse, to: &mut Self) -> io::Result<bool> {
        let longest = longest(to.info.mtu, &to.region);
        let Some(out) = to.transmit.first_mut() else { return Ok(false) };
        if out.ring.available() == 0 || seen.length() > longest {
            return Ok(false);
        }
        let Some(held) = self.receive.get_mut(seen.ring) else { return Ok(false) };
        let place = out.ring.head();
        let free = out.ring.slot(place).and_then(|slot| self.region.buffer(slot.buffer));
        let free = free.ok_or_else(|| inconsistent("a transmit slot without a buffer"))?;
        let Some(filled) = self.region.buffer(seen.slot.buffer) else { return Ok(false) };
        out.ring.set_slot(place, Slot::swapped(filled, seen.slot.length));
        out.ring.advance();
        held.ring.set_slot(seen.index, Slot::swapped(free, 0));
        held.ring.advance();
        let bytes = seen.length() as u64;
        self.counters.received += 1;
        self.counters.received_bytes += bytes;
        to.counters.transmitted += 1;
        to.counters.transmitted_bytes += bytes;
        Ok(true)
    }

    /// Copies the frame that was looked at into a slot: the ordinary way. `None` if it is none, or there
    /// is no slot; that is counted.
    pub(crate) fn take_first(&mut self, seen: &Glimpse, pool: &mut Pool) -> Option<Frame> {
        let Self { receive, region, counters, .. } = self;
        let frame = copy_in(&mut receive.get_mut(seen.ring)?.ring, region, pool, counters)?;
        counters.received += 1;
        counters.received_bytes += frame.len() as u64;
        Some(frame)
    }
}
