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
use super::frames::{copy_in, longest};
use super::region::{Slot, inconsistent};
use crate::classify::HEAD_LEN;
use crate::port::{BURST, Exchange, Handling, Region, Sends};
use std::io;
use usnet_shmring::pool::{Frame, MIN_FRAME, Pool};

/// A frame of a receive ring, looked at and left where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Glimpse {
    ring: usize,
    index: u32,
    slot: Slot,
    is_whole: bool,
}

impl Glimpse {
    const NONE: Self =
        Self { ring: 0, index: 0, slot: Slot { buffer: 0, length: 0, flags: 0 }, is_whole: false };

    /// Its bytes, as far as its first slot says.
    #[inline]
    pub(crate) fn length(&self) -> usize {
        self.slot.length.into()
    }

    /// Whether it lies in one buffer and its head was copied. Otherwise only the ordinary way will do.
    #[inline]
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }
}

/// The next frames of a port, in the order in which they must be taken, with private copies of their heads.
#[derive(Debug)]
pub(crate) struct Glimpses {
    seen: [Glimpse; BURST],
    heads: [[u8; HEAD_LEN]; BURST],
}

impl Default for Glimpses {
    fn default() -> Self {
        Self { seen: [Glimpse::NONE; BURST], heads: [[0; HEAD_LEN]; BURST] }
    }
}

impl Glimpses {
    /// Frame `index`, and as much of its head as was copied: all of a shorter frame.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<(&Glimpse, &[u8])> {
        let (seen, head) = (self.seen.get(index)?, self.heads.get(index)?);
        Some((seen, head.get(..seen.length().min(HEAD_LEN))?))
    }

    /// Some of them, one after the other.
    pub(crate) fn range(&self, range: core::ops::Range<usize>) -> &[Glimpse] {
        self.seen.get(range).unwrap_or_default()
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
        let sends = if self.split.is_some() { Sends::Split } else { Sends::Copied };
        Exchange { region, frames, why, sends, why_sends: self.why_sends }
    }

    /// Whether buffers may change places between the two ports' rings.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        let is_netmaps = |port: &Self| port.bank.is_none() && !port.has_peer && !port.is_silent;
        is_netmaps(self) && is_netmaps(other) && self.device.memory_id() == other.device.memory_id()
    }

    /// Looks at the next frames, at most a burst, and copies their heads. If there are none, the kernel is
    /// asked once. Returns how many there are.
    pub(crate) fn glimpse(&mut self, into: &mut Glimpses) -> io::Result<usize> {
        self.refill()?;
        let rings = self.receive.len().max(1);
        self.turn = (self.turn + 1) % rings;
        let mut places = into.seen.iter_mut().zip(&mut into.heads);
        let mut count = 0;
        for ring in (0..rings).map(|offset| (self.turn + offset) % rings) {
            let Some(held) = self.receive.get(ring) else { break };
            for offset in 0..held.ring.available() {
                let Some((seen, head)) = places.next() else { return Ok(count) };
                let index = held.ring.after_head(offset);
                let Some(slot) = held.ring.slot(index) else { return Ok(count) };
                let is_whole = self.glimpse_one(slot, head);
                *seen = Glimpse { ring, index, slot, is_whole };
                count += 1;
                // What goes on in the next slots is not looked at, nor what comes after it.
                if slot.flags & slot_flag::MOREFRAG != 0 {
                    return Ok(count);
                }
            }
        }
        Ok(count)
    }

    /// Copies the head of what a slot holds. Whether that is a frame in one buffer.
    #[inline]
    fn glimpse_one(&self, slot: Slot, head: &mut [u8; HEAD_LEN]) -> bool {
        let length = usize::from(slot.length);
        if slot.flags & slot_flag::MOREFRAG != 0
            || slot.length < MIN_FRAME
            || length > self.region.buffer_size()
        {
            return false;
        }
        let head = head.get_mut(..length.min(HEAD_LEN));
        let buffer = self.region.buffer(slot.buffer);
        buffer.zip(head).is_some_and(|(buffer, head)| self.region.read(buffer, head))
    }

    /// Moves frames that were looked at, and are the next, into the other port's first transmit ring, until
    /// there is no room or one is longer than that port takes. Returns how many were moved.
    pub(crate) fn pass(&mut self, seen: &[Glimpse], to: &mut Self) -> io::Result<usize> {
        let longest = longest(to.info.mtu, &to.region);
        let Some(out) = to.transmit.first_mut().map(|held| &mut held.ring) else { return Ok(0) };
        let (mut count, mut bytes) = (0, 0);
        for of_ring in seen.chunk_by(|a, b| a.ring == b.ring) {
            let (Some(first), room) = (of_ring.first(), out.available()) else { break };
            let Some(held) = self.receive.get_mut(first.ring).map(|held| &mut held.ring) else {
                break;
            };
            if held.head() != first.index {
                break;
            }
            let mut moved = 0;
            for glimpse in of_ring.iter().take(room as usize) {
                let Some(filled) = self.region.buffer(glimpse.slot.buffer) else { break };
                if glimpse.length() > longest {
                    break;
                }
                let place = out.after_head(moved);
                let free = out.slot(place).and_then(|slot| self.region.buffer(slot.buffer));
                let free = free.ok_or_else(|| inconsistent("a transmit slot without a buffer"))?;
                out.set_slot(place, Slot::swapped(filled, glimpse.slot.length));
                held.set_slot(glimpse.index, Slot::swapped(free, 0));
                bytes += glimpse.length() as u64;
                moved += 1;
            }
            out.advance_by(moved);
            held.advance_by(moved);
            count += moved as usize;
            if (moved as usize) < of_ring.len() {
                break;
            }
        }
        self.counters.received += count as u64;
        self.counters.received_bytes += bytes;
        to.counters.transmitted += count as u64;
        to.counters.transmitted_bytes += bytes;
        Ok(count)
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
