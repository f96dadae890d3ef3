//! The port: a card's rings, host rings, a pipe's end or a port of VALE.
//!
//! ```text
//!   swap   receive:  ring slot [a] <-> [b] free slot of the pool     frame = a, nothing was copied
//!          transmit: ring slot [c] <-> [d] frame                     c is free again
//!   copy   receive:  ring slot  --> free slot        transmit: frame --> ring slot
//! ```
//!
//! - Swapped are only slots of the region that is the pool's own memory ([`Bank`]), where the kernel
//!   writes and nobody else does; every other region is copied from and to.
//! - The private list of what each ring slot holds is what counts. What the kernel says of a buffer is
//!   compared with it and never used instead.
//! - Slots given back reach the kernel with the next sync; `batch` says when that is.

use super::abi::slot_flag;
use super::bank::Bank;
use super::batch::{Owed, is_due};
use super::kernel::Direction;
use super::name::PortName;
use super::open::Shared;
use super::region::{Region, Ring, Sides, Slot, inconsistent};
use crate::classify::Mac;
use crate::port::{Burst, Exchange, Port, PortCounters, PortInfo};
use crate::time::Time;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use usnet_shmring::pool::{Frame, Loose, MIN_FRAME, Pool};

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

/// A ring, and in a region of ours what each of its slots holds.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) ring: Ring,
    /// By slot; empty where frames are copied.
    frames: Vec<Option<Frame>>,
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

    /// Number of transmit and receive rings.
    #[must_use]
    pub fn rings(&self) -> (usize, usize) {
        (self.transmit.len(), self.receive.len())
    }

    fn sync(&mut self, direction: Direction) -> io::Result<()> {
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
    fn put(&mut self, pool: &mut Pool, from: &mut Burst) -> io::Result<usize> {
        let Self { transmit, bank, region, counters, info, is_silent, .. } = self;
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

/// Bytes of the longest frame that a port takes, with two tags.
pub(super) fn longest(mtu: u16, region: &Region) -> usize {
    (usize::from(mtu) + 22).min(region.buffer_size())
}

/// Takes the first slot's frame, leaving a free slot of the pool in its place. `None`, and the slot is
/// given back as it is, if it holds no whole frame or there is no free slot.
#[inline]
fn swap_in(
    held: &mut Held,
    bank: &Bank,
    pool: &mut Pool,
    counters: &mut PortCounters,
) -> io::Result<Option<Frame>> {
    let index = held.ring.head();
    let (Some(slot), Some(place)) = (held.ring.slot(index), held.frames.get_mut(index as usize))
    else {
        return Err(inconsistent("a ring with its head outside"));
    };
    let expected = place.as_ref().and_then(|frame| bank.buffer(frame.slot()));
    if expected.is_none_or(|buffer| buffer.0 != slot.buffer) {
        return Err(inconsistent("another buffer in a slot than was put there"));
    }
    if slot.flags & slot_flag::MOREFRAG != 0 || slot.length < MIN_FRAME {
        skip(&mut held.ring, slot, counters);
        return Ok(None);
    }
    let spare = pool.alloc();
    let Some((spare, buffer)) = spare.and_then(|s| Some((bank.buffer(s.slot())?, s))).map(swap)
    else {
        counters.no_slot += 1;
        held.ring.advance();
        return Ok(None);
    };
    let taken = place.replace(spare);
    held.ring.set_slot(index, Slot::swapped(buffer, 0));
    held.ring.advance();
    let Some(mut frame) = taken else { return Ok(None) };
    if !pool.set_window(&mut frame, 0, slot.length) {
        counters.receive_errors += 1;
        pool.free(frame);
        return Ok(None);
    }
    Ok(Some(frame))
}

fn swap<A, B>((a, b): (A, B)) -> (B, A) {
    (b, a)
}

/// Gives back a packet that is no frame for us: all its slots.
#[cold]
fn skip(ring: &mut Ring, first: Slot, counters: &mut PortCounters) {
    counters.receive_errors += 1;
    let mut slot = first;
    loop {
        ring.advance();
        if slot.flags & slot_flag::MOREFRAG == 0 || ring.available() == 0 {
            break;
        }
        match ring.slot(ring.head()) {
            Some(next) => slot = next,
            None => break,
        }
    }
}

/// Copies the packet that begins in the first slot, from however many buffers.
#[inline]
pub(super) fn copy_in(
    ring: &mut Ring,
    region: &Region,
    pool: &mut Pool,
    counters: &mut PortCounters,
) -> Option<Frame> {
    let Some(mut frame) = pool.alloc() else {
        counters.no_slot += 1;
        if let Some(slot) = ring.slot(ring.head()) {
            skip(ring, slot, counters);
            counters.receive_errors -= 1;
        }
        return None;
    };
    let mut length = 0usize;
    let mut fits = true;
    loop {
        let slot = ring.slot(ring.head())?;
        let buffer = region.buffer(slot.buffer);
        let part = usize::from(slot.length);
        let end = u16::try_from(length + part).ok();
        // The window grows piece by piece, so that it never shows what was not written.
        fits &= match (buffer, end) {
            (Some(buffer), Some(end)) if pool.set_window(&mut frame, 0, end) => pool
                .bytes_mut(&mut frame)
                .get_mut(length..)
                .is_some_and(|into| region.read(buffer, into)),
            _ => false,
        };
        length += part;
        ring.advance();
        if slot.flags & slot_flag::MOREFRAG == 0 || ring.available() == 0 {
            // A packet that goes on where nothing has arrived is cut.
            fits &= slot.flags & slot_flag::MOREFRAG == 0;
            break;
        }
    }
    if !fits || frame.len() < usize::from(MIN_FRAME) {
        counters.receive_errors += 1;
        pool.free(frame);
        return None;
    }
    Some(frame)
}

/// Puts a frame into the first slot; what lay there was sent and is free.
#[inline]
fn swap_out(held: &mut Held, bank: &Bank, pool: &mut Pool, frame: Frame) -> io::Result<()> {
    let index = held.ring.head();
    let place = held.frames.get_mut(index as usize);
    let (Some(place), Some(buffer)) = (place, bank.buffer(frame.slot())) else {
        pool.free(frame);
        return Err(inconsistent("a ring with its head outside"));
    };
    let length = u16::try_from(frame.len()).unwrap_or(0);
    held.ring.set_slot(index, Slot::swapped(buffer, length));
    if let Some(sent) = place.replace(frame) {
        pool.free(sent);
    }
    held.ring.advance();
    Ok(())
}

/// Copies a frame into the first slot's buffer.
#[inline]
fn copy_out(held: &mut Held, region: &Region, pool: &mut Pool, frame: Frame) -> io::Result<()> {
    let index = held.ring.head();
    let slot = held.ring.slot(index);
    let written =
        slot.and_then(|slot| region.buffer(slot.buffer).zip(Some(slot))).map(|(buffer, slot)| {
            // No larger than a buffer: `put` has looked.
            let length = u16::try_from(frame.len()).unwrap_or(0);
            region.write(buffer, pool.bytes(&frame)) && {
                let flags = slot.flags & slot_flag::BUF_CHANGED;
                held.ring.set_slot(index, Slot { length, flags, ..slot });
                true
            }
        });
    pool.free(frame);
    if written != Some(true) {
        return Err(inconsistent("a transmit slot without a buffer"));
    }
    held.ring.advance();
    Ok(())
}

impl Port for Netmap {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn receive(&mut self, _: Time, pool: &mut Pool, into: &mut Burst) -> io::Result<usize> {
        if !self.has_moved_in {
            self.move_in(pool);
        }
        self.refill()?;
        self.take(pool, into)
    }

    fn transmit(&mut self, _: Time, pool: &mut Pool, from: &mut Burst) -> io::Result<usize> {
        if !self.has_moved_in {
            self.move_in(pool);
        }
        let is_full = from.room() == 0;
        let mut count = self.put(pool, from)?;
        let ring = self.transmit.first().map_or(0, |held| held.ring.count());
        if self.owed.add(count, is_full && from.is_empty(), ring) {
            self.send_owed()?;
        }
        if !from.is_empty() {
            // The sync may have shown room.
            let more = self.put(pool, from)?;
            if more > 0 {
                self.send_owed()?;
            }
            count += more;
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
        self.owed.any().then_some(Time(0))
    }

    /// What the rings hold goes to the bank: it is the kernel's when the device closes.
    fn close(&mut self, pool: &mut Pool) {
        let Self { transmit, receive, bank: Some(bank), .. } = self else { return };
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
