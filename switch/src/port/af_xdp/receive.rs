//! Frames out of the rx ring, and free slots into the fill ring in their place.
//!
//! ```text
//!   one piece        slot --> switch          a free slot --> fill ring
//!   several          slot 0 <-- copy -- slot 1, slot 2 ...       slot 0 --> switch
//!                    a free slot, slot 1, slot 2 ... --> fill ring
//! ```

use super::queue::{Joining, Queue};
use super::rings::{CONTINUED, inconsistent};
use super::umem::{Purpose, Umem};
use crate::port::checksum::complete_if_partial;
use crate::port::{Burst, PortCounters};
use std::io;
use usnet_shmring::pool::{Frame, MIN_FRAME, Pool};

/// Takes what lies in one queue's rx ring.
pub(super) fn receive_from(
    queue: &mut Queue,
    umem: &mut Umem,
    counters: &mut PortCounters,
    pool: &mut Pool,
    into: &mut Burst,
    unfinished: bool,
) -> io::Result<usize> {
    let mut count = 0;
    if queue.is_short() {
        queue.fill.refresh()?;
        queue.fill_up(umem, pool)?;
        queue.fill.publish();
        queue.wake_receive();
    }
    let there = (queue.received()? as usize).min(into.room());
    if there == 0 {
        return Ok(0);
    }
    queue.fill.refresh()?;
    for _ in 0..there {
        let Some(seen) = queue.rx.pop_frame() else { break };
        let (frame, offset) = umem.take(seen.address, Purpose::Receive(queue.number()))?;
        let is_one = seen.options == 0 && matches!(queue.joining, Joining::Nothing);
        let (kept, free) = if is_one {
            exchange(frame, offset, seen.length, counters, pool)?
        } else {
            join(&mut queue.joining, frame, offset, (seen.length, seen.options), counters, pool)?
        };
        give_to_fill(queue, umem, pool, free)?;
        let Some(mut frame) = kept else { continue };
        if unfinished {
            complete_if_partial(pool.bytes_mut(&mut frame));
        }
        counters.received += 1;
        counters.received_bytes += frame.len() as u64;
        match into.push(frame) {
            Ok(()) => count += 1,
            Err(frame) => pool.free(frame),
        }
    }
    queue.rx.release();
    queue.fill.publish();
    queue.wake_receive();
    Ok(count)
}

/// The frame to hand on, and the slot to receive into in its place: its own where it is not handed on.
#[inline]
fn exchange(
    frame: Frame,
    offset: u16,
    length: u32,
    counters: &mut PortCounters,
    pool: &mut Pool,
) -> io::Result<(Option<Frame>, Frame)> {
    let frame = within(frame, offset, length, pool)?;
    if length < u32::from(MIN_FRAME) {
        counters.receive_errors += 1;
        return Ok((None, frame));
    }
    match pool.alloc() {
        Some(spare) => Ok((Some(frame), spare)),
        None => {
            counters.no_slot += 1;
            Ok((None, frame))
        }
    }
}

/// The frame as the bytes that the ring shows.
#[inline]
fn within(mut frame: Frame, offset: u16, length: u32, pool: &mut Pool) -> io::Result<Frame> {
    if u16::try_from(length).is_ok_and(|len| pool.set_window(&mut frame, offset, len)) {
        return Ok(frame);
    }
    pool.free(frame);
    Err(inconsistent("a frame that does not lie in its slot"))
}

/// Takes a piece of a frame of several: the whole frame if this is the last, and the slot to receive into in
/// place of the one that this piece came in.
#[inline(never)]
fn join(
    joining: &mut Joining,
    piece: Frame,
    offset: u16,
    (length, options): (u32, u32),
    counters: &mut PortCounters,
    pool: &mut Pool,
) -> io::Result<(Option<Frame>, Frame)> {
    let piece = within(piece, offset, length, pool)?;
    let is_last = options & CONTINUED == 0;
    let (next, free) = match core::mem::take(joining) {
        Joining::Nothing => match pool.alloc() {
            Some(spare) if options & !CONTINUED == 0 => (Joining::Begun(piece), spare),
            Some(spare) => {
                pool.free(spare);
                counters.receive_errors += 1;
                (Joining::Refused, piece)
            }
            None => {
                counters.no_slot += 1;
                (Joining::Refused, piece)
            }
        },
        Joining::Begun(mut frame) => {
            if options & !CONTINUED == 0 && pool.append(&piece, &mut frame) {
                (Joining::Begun(frame), piece)
            } else {
                // Longer than a slot.
                pool.free(frame);
                counters.receive_errors += 1;
                (Joining::Refused, piece)
            }
        }
        Joining::Refused => (Joining::Refused, piece),
    };
    match next {
        Joining::Begun(frame) if is_last => Ok((Some(frame), free)),
        next => {
            *joining = if is_last { Joining::Nothing } else { next };
            Ok((None, free))
        }
    }
}

#[inline]
fn give_to_fill(
    queue: &mut Queue,
    umem: &mut Umem,
    pool: &mut Pool,
    free: Frame,
) -> io::Result<()> {
    match umem.give(free, Purpose::Receive(queue.number())) {
        Ok(address) if queue.fill.push_address(address) => Ok(()),
        Ok(_) => Err(inconsistent("no room for the slots that it gave back")),
        Err(frame) => {
            pool.free(frame);
            Err(inconsistent("a slot that it should not have"))
        }
    }
}
