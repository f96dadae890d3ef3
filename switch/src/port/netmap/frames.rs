//! One frame between a ring's slot and the pool: by exchanging buffers, or by copying.
//!
//! - What a ring says of a buffer is compared with the private list of what was put there, where buffers are
//!   exchanged; elsewhere it is checked to be a buffer.

use super::abi::slot_flag;
use super::bank::Bank;
use super::port::Held;
use super::region::{Region, Ring, Slot, inconsistent};
use crate::port::PortCounters;
use std::io;
use usnet_shmring::pool::{Frame, MIN_FRAME, Pool};

/// Bytes of the longest frame that a port takes, with two tags.
pub(super) fn longest(mtu: u16, region: &Region) -> usize {
    (usize::from(mtu) + 22).min(region.buffer_size())
}

/// Takes the first slot's frame, leaving a free slot of the pool in its place. `None`, and the slot is
/// given back as it is, if it holds no whole frame or there is no free slot.
#[inline]
pub(super) fn swap_in(
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
pub(super) fn swap_out(
    held: &mut Held,
    bank: &Bank,
    pool: &mut Pool,
    frame: Frame,
) -> io::Result<()> {
    debug_assert!(!pool.is_joined(&frame), "sent in part, as if it were all");
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
pub(super) fn copy_out(
    held: &mut Held,
    region: &Region,
    pool: &mut Pool,
    frame: Frame,
) -> io::Result<()> {
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
