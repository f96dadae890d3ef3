//! Frames out of the rx ring, and free slots into the fill ring in their place.

use super::queue::Queue;
use super::rings::inconsistent;
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
    let there = (queue.rx.available()? as usize).min(into.room());
    if there == 0 {
        return Ok(0);
    }
    queue.fill.refresh()?;
    for _ in 0..there {
        let Some(seen) = queue.rx.pop_frame() else { break };
        let (frame, offset) = umem.take(seen.address, Purpose::Receive(queue.number()))?;
        let (kept, free) = exchange(frame, offset, (seen.length, seen.options), counters, pool)?;
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
    mut frame: Frame,
    offset: u16,
    (length, options): (u32, u32),
    counters: &mut PortCounters,
    pool: &mut Pool,
) -> io::Result<(Option<Frame>, Frame)> {
    let fits = u16::try_from(length).is_ok_and(|len| pool.set_window(&mut frame, offset, len));
    if !fits {
        pool.free(frame);
        return Err(inconsistent("a frame that does not lie in its slot"));
    }
    // No frame of several pieces was asked for.
    if options != 0 || length < u32::from(MIN_FRAME) {
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
