//! The port: a card's rings, host rings, a pipe's end or a port of VALE.
//!
//! ```text
//!   swap   receive:  ring slot [a] <-> [b] free slot of the pool     frame = a, nothing was copied
//!          transmit: ring slot [c] <-> [d] frame                     c is free again
//!   copy   receive:  ring slot  --> free slot        transmit: frame --> ring slot
//!   split  transmit: two ring slots, the head's and the client's          (`split`)
//! ```
//!
//! - Swapped are only slots of the region that is the pool's own memory ([`Bank`]), where the kernel
//!   writes and nobody else does; every other region is copied from and to.
//! - The private list of what each ring slot holds is what counts. What the kernel says of a buffer is
//!   compared with it and never used instead.
//! - Slots given back reach the kernel with the next sync; `batch` says when that is.

use super::bank::Bank;
use super::batch::{Owed, is_due};
use super::frames::{copy_in, copy_out, longest, swap_in, swap_out};
use super::kernel::Direction;
use super::name::PortName;
use super::open::Shared;
use super::region::{Region, Ring, Sides, inconsistent};
use super::split::Split;
use crate::classify::Mac;
use crate::port::{Burst, Exchange, Port, PortCounters, PortInfo};
use crate::time::Time;
use core::ops::Range;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use usnet_shmring::pool::{Frame, Loose, MIN_FRAME, Pool};

/// Why frames of clients are copied where nobody asked for anything else.
pub(super) const NOT_ASKED: &str = "it was not asked for";

/// What to open.
#[derive(Clone, Debug)]
pub struct NetmapSpec {
    /// The port.
    pub name: PortName,
    /// Its link address.
    pub mac: Mac,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
}

/// Whether frames of clients are to be sent in part from where they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// All of a frame is copied, for this reason.
    Copy(&'static str),
    /// As far as the kernel grants it. The driver has been asked
    /// ([`Kernel::sends_from_several_slots`](super::Kernel::sends_from_several_slots)).
    Split,
}

/// A ring, and in a region of ours what each of its slots holds.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) ring: Ring,
    /// By slot; empty where frames are copied.
    pub(super) frames: Vec<Option<Frame>>,
    /// By slot, before the first use: what the pool that it will be used with has not got yet.
    loose: Vec<Loose>,
}

/// A port over netmap's rings.
#[derive(Debug)]
pub struct Netmap {
    pub(super) info: PortInfo,
    pub(super) device: Arc<Shared>,
    /// Whether the device is this port's to sleep on.
    has_readiness: bool,
    /// A monitor: it never transmits, nor has its transmit ring synced.
    pub(super) is_silent: bool,
    /// Where swapping is possible.
    pub(super) bank: Option<Arc<Bank>>,
    pub(super) region: Arc<Region>,
    /// Whether a program at the other end writes slots.
    pub(super) has_peer: bool,
    /// Why it is in netmap's own region, if it is.
    pub(super) why_netmaps: &'static str,
    pub(super) transmit: Vec<Held>,
    pub(super) receive: Vec<Held>,
    /// Receive ring that is looked at first.
    pub(super) turn: usize,
    /// Whether the pool that it is used with has the slots of its rings.
    has_moved_in: bool,
    /// What was put into the transmit ring since its last sync.
    owed: Owed,
    /// Where the rest of a frame may stay in a client's slot.
    pub(super) split: Option<Split>,
    /// Why it may, or may not.
    pub(super) why_sends: &'static str,
    pub(super) counters: PortCounters,
}

impl Netmap {
    /// A port over these rings of a device.
    pub(super) fn over(
        spec: &NetmapSpec,
        device: Arc<Shared>,
        bank: Option<Arc<Bank>>,
        region: Arc<Region>,
        rings: Sides,
        has_readiness: bool,
    ) -> io::Result<Self> {
        let mut opened = Self {
            info: PortInfo {
                name: spec.name.port.clone(),
                backend: "netmap",
                mac: spec.mac,
                mtu: spec.mtu,
            },
            device,
            has_readiness: has_readiness && !rings.receive.is_empty(),
            is_silent: spec.name.is_monitor(),
            bank,
            region,
            has_peer: spec.name.has_peer(),
            why_netmaps: "netmap gave it its own region",
            transmit: Vec::new(),
            receive: Vec::new(),
            turn: 0,
            has_moved_in: false,
            owed: Owed::default(),
            split: None,
            why_sends: NOT_ASKED,
            counters: PortCounters::default(),
        };
        // On an error what was taken out of the bank goes back when `opened` is dropped.
        for ring in rings.transmit {
            opened.hold(ring, true)?;
        }
        for ring in rings.receive {
            opened.hold(ring, false)?;
        }
        Ok(opened)
    }

    /// Takes the slots that a ring holds out of the bank.
    fn hold(&mut self, ring: Ring, is_transmit: bool) -> io::Result<()> {
        let mut held = Held { ring, frames: Vec::new(), loose: Vec::new() };
        let mut problem = None;
        if let Some(bank) = &self.bank {
            for index in 0..held.ring.count() {
                let loose = held.ring.slot(index).and_then(|slot| bank.take(slot.buffer));
                match loose {
                    Some(loose) => held.loose.push(loose),
                    None => problem = Some("a ring with a buffer that is not its own"),
                }
            }
        }
        if is_transmit {
            self.transmit.push(held)
        } else {
            self.receive.push(held)
        }
        problem.map_or(Ok(()), |what| Err(inconsistent(what)))
    }

    /// Takes the slots of the rings into the pool that the port is used with.
    #[cold]
    fn move_in(&mut self, pool: &mut Pool) {
        self.has_moved_in = true;
        let Self { transmit, receive, bank, .. } = self;
        for held in transmit.iter_mut().chain(receive) {
            for loose in held.loose.drain(..) {
                match (pool.take_in(loose), &*bank) {
                    (Ok(frame), _) => held.frames.push(Some(frame)),
                    // Of another segment: an empty place, at which the port fails when it gets there.
                    (Err(loose), Some(bank)) => {
                        bank.put(loose);
                        held.frames.push(None);
                    }
                    (Err(_), None) => held.frames.push(None),
                }
            }
        }
    }

    /// Whether received buffers are handed on without copying.
    #[must_use]
    pub fn swaps(&self) -> bool {
        self.bank.is_some()
    }

    /// Whether the rest of what a client sends may stay in its slot.
    #[must_use]
    pub fn splits(&self) -> bool {
        self.split.is_some()
    }

    /// Number of transmit and receive rings.
    #[must_use]
    pub fn rings(&self) -> (usize, usize) {
        (self.transmit.len(), self.receive.len())
    }

    fn sync(&mut self, direction: Direction) -> io::Result<()> {
        if let (Direction::Transmit, Some(split), Some(held)) =
            (direction, &mut self.split, self.transmit.first_mut())
        {
            split.ask_for_report(held);
        }
        let rings = match direction {
            Direction::Transmit => &mut self.transmit,
            Direction::Receive => &mut self.receive,
        };
        for held in rings.iter_mut() {
            held.ring.publish();
        }
        self.device.sync(direction)?;
        rings.iter_mut().try_for_each(|held| held.ring.refresh())
    }

    /// Sends what has waited for a round, and asks the kernel for frames if none is left from the last
    /// time.
    pub(super) fn refill(&mut self) -> io::Result<()> {
        if self.owed.is_stale() {
            self.send_owed()?;
        }
        if is_due(self.receive.iter_mut().map(|held| &mut held.ring))? {
            self.sync(Direction::Receive)?;
        }
        Ok(())
    }

    /// Has the kernel send what was put into the ring.
    fn send_owed(&mut self) -> io::Result<()> {
        self.owed = Owed::default();
        if self.is_silent || self.transmit.is_empty() {
            return Ok(());
        }
        self.sync(Direction::Transmit)
    }

    /// Sends clients' slots home that the card has done with; if it is time to, the kernel is asked how far it
    /// is.
    #[cold]
    fn follow_up(&mut self, pool: &mut Pool, now: Time) -> io::Result<()> {
        self.reclaim(pool);
        if self.split.as_mut().is_some_and(|split| split.asks(now)) {
            self.send_owed()?;
            self.reclaim(pool);
        }
        Ok(())
    }

    /// Sends clients' slots home that the card has done with, as far as is known.
    fn reclaim(&mut self, pool: &mut Pool) {
        if let (Some(split), Some(held), Some(bank)) =
            (&mut self.split, self.transmit.first_mut(), &self.bank)
        {
            split.reclaim(held, bank, pool);
        }
    }

    /// Whether a rest of a frame is with the card.
    #[inline]
    fn has_split(&self) -> bool {
        self.split.as_ref().is_some_and(|split| !split.is_idle())
    }

    /// Takes what lies in the receive rings, one ring after the other.
    fn take(&mut self, pool: &mut Pool, into: &mut Burst) -> io::Result<usize> {
        let Self { receive, bank, region, counters, turn, .. } = self;
        let mut count = 0;
        let rings = receive.len().max(1);
        for offset in 0..rings {
            let Some(held) = receive.get_mut((*turn + offset) % rings) else { break };
            while held.ring.available() > 0 && into.room() > 0 {
                let frame = match bank {
                    Some(bank) => swap_in(held, bank, pool, counters)?,
                    None => copy_in(&mut held.ring, region, pool, counters),
                };
                if let Some(frame) = frame {
                    counters.received += 1;
                    counters.received_bytes += frame.len() as u64;
                    count += 1;
                    if let Err(frame) = into.push(frame) {
                        pool.free(frame);
                    }
                }
            }
        }
        *turn = (*turn + 1) % rings;
        Ok(count)
    }

    /// Puts frames into the first transmit ring: one ring, so that none overtakes another.
    fn put(&mut self, now: Time, pool: &mut Pool, from: &mut Burst) -> io::Result<usize> {
        // Before a slot of the ring is used again.
        self.reclaim(pool);
        let Self { transmit, bank, region, counters, info, is_silent, split, .. } = self;
        let Some(held) = transmit.first_mut().filter(|_| !*is_silent) else {
            let count = from.clear(pool);
            counters.transmit_errors += count as u64;
            return Ok(count);
        };
        let longest = longest(info.mtu, region);
        let mut count = 0;
        while held.ring.available() > 0
            && let Some(frame) = from.pop()
        {
            if let (Some(split), Some(bank)) = (split.as_mut(), &*bank)
                && let Some(tail) = pool.tail(&frame)
            {
                if held.ring.available() < 2 {
                    from.put_back(frame);
                    break;
                }
                count += 1;
                let length = frame.len() + usize::from(tail.length);
                let put = if length > longest {
                    Err(frame)
                } else {
                    split.put(held, bank, pool, (frame, tail), now)
                };
                match put {
                    Ok(()) => {
                        counters.transmitted += 1;
                        counters.transmitted_bytes += length as u64;
                        counters.split += 1;
                    }
                    Err(frame) => {
                        counters.transmit_errors += 1;
                        pool.free(frame);
                    }
                }
                continue;
            }
            count += 1;
            let length = frame.len();
            if length > longest || length < usize::from(MIN_FRAME) {
                counters.transmit_errors += 1;
                pool.free(frame);
                continue;
            }
            match bank {
                Some(bank) if frame.offset() == 0 && bank.buffer(frame.slot()).is_some() => {
                    swap_out(held, bank, pool, frame)?;
                }
                _ => copy_out(held, region, pool, frame)?,
            }
            counters.transmitted += 1;
            counters.transmitted_bytes += length as u64;
        }
        Ok(count)
    }
}

impl Port for Netmap {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn receive(&mut self, now: Time, pool: &mut Pool, into: &mut Burst) -> io::Result<usize> {
        if !self.has_moved_in {
            self.move_in(pool);
        }
        if self.has_split() {
            self.follow_up(pool, now)?;
        }
        self.refill()?;
        self.take(pool, into)
    }

    fn transmit(&mut self, now: Time, pool: &mut Pool, from: &mut Burst) -> io::Result<usize> {
        if !self.has_moved_in {
            self.move_in(pool);
        }
        let is_full = from.room() == 0;
        let mut count = self.put(now, pool, from)?;
        let ring = self.transmit.first().map_or(0, |held| held.ring.count());
        if self.owed.add(count, is_full && from.is_empty(), ring) {
            self.send_owed()?;
        }
        if !from.is_empty() {
            // The sync may have shown room.
            let more = self.put(now, pool, from)?;
            if more > 0 {
                self.send_owed()?;
            }
            count += more;
        }
        if self.has_split() {
            self.reclaim(pool);
        }
        Ok(count)
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn netmap(&mut self) -> Option<&mut Netmap> {
        Some(self)
    }

    fn as_netmap(&self) -> Option<&Netmap> {
        Some(self)
    }

    fn exchange(&self) -> Option<Exchange> {
        Some(self.own_exchange())
    }

    fn next_event(&self) -> Option<Time> {
        let at_once = self.owed.any().then_some(Time(0));
        at_once.or_else(|| self.split.as_ref()?.asks_at())
    }

    fn tails(&self) -> Range<u32> {
        self.split.as_ref().map_or(0..0, |split| split.slots.clone())
    }

    /// What the rings hold goes to the bank: it is the kernel's when the device closes.
    fn close(&mut self, pool: &mut Pool) {
        let Self { transmit, receive, bank: Some(bank), split, .. } = self else { return };
        if let (Some(split), Some(held)) = (split, transmit.first_mut()) {
            split.give_up(held, bank, pool);
        }
        for held in transmit.iter_mut().chain(receive) {
            let frames = held.frames.drain(..).flatten();
            frames.filter_map(|frame| pool.give_up(frame)).for_each(|loose| bank.put(loose));
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.has_readiness.then(|| self.device.readiness())
    }
}

impl Drop for Netmap {
    /// What the rings hold and no pool has is the kernel's when the device closes.
    fn drop(&mut self) {
        if let Some(bank) = &self.bank {
            for held in self.transmit.iter_mut().chain(&mut self.receive) {
                held.loose.drain(..).for_each(|loose| bank.put(loose));
            }
        }
    }
}
