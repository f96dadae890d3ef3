//! Frames in two slots of a transmit ring: the head in a slot of the daemon, the rest in the client's own.
//!
//! ```text
//!   ring slot     i: head        NS_MOREFRAG       i + 1: the client's buffer, from an offset on
//!   frames[..]    i: its Frame                     i + 1: the slot that lay there, kept aside
//!
//!   the kernel's tail has passed i + 1  ->  the client's slot goes home, i + 1 shows the kept one again
//! ```
//!
//! - Both slots are given to the kernel by one advance of `head` and so in one sync: some drivers stop, and say
//!   nothing, if a sync ends inside of a packet.
//! - `frames` never holds a client's slot. Whatever happens, a ring is back to what `frames` says of it by
//!   writing one word for each frame under way.
//! - A slot of a transmit ring is read by the kernel when `head` passes it, and at no other time. So the slots
//!   that were sent, that under `tail` among them, which is the kernel's by the letter, may be written until then.
//! - Nobody tells when the card has sent: as long as frames are under way it is asked again, less and less often.
//!
//! When the port closes before the card has sent, the kernel must find the daemon's numbers in the ring, for it
//! frees what it finds there: a client's slot that it thinks free might become a buffer of some ring. So these are
//! written back first. Then the clients' slots go home, though the card may read them until its driver has stopped
//! it, which closing the device does: what leaves then, if anything does, is a head that was vetted, and bytes that
//! a member of the group may write at any time. That is no more than it can do anyhow while its frame is under way.
//! No one else's bytes can come in: a range that gets another session is zeroed, and stays with the group. The head
//! does not change either: its slot goes to the bank, so to the kernel, and not to the pool. Nobody is told before
//! the device is closed, since clients are shown at the end of a step what was released in it.

use super::abi::slot_flag;
use super::bank::Bank;
use super::port::Held;
use super::region::Slot;
use crate::time::Time;
use core::ops::Range;
use core::time::Duration;
use std::collections::VecDeque;
use usnet_shmring::pool::{Frame, Pool, Tail};

/// How soon the card is asked whether it has sent.
const SOON: Duration = Duration::from_micros(20);
/// The longest that it is left alone: a link may be down.
const SELDOM: Duration = Duration::from_millis(5);

/// Split frames of a port's first transmit ring.
#[derive(Debug)]
pub(super) struct Split {
    /// Slots that the rest of a frame may lie in.
    pub(super) slots: Range<u32>,
    /// Where the heads lie that are under way, oldest first.
    under_way: VecDeque<u32>,
    /// Where the last rest was put, until the kernel is told of it.
    last: Option<u32>,
    /// When to ask whether the card has sent, and how long to wait after that.
    ask_at: Time,
    pause: Duration,
}

impl Split {
    /// For a ring of `count` slots.
    pub(super) fn new(slots: Range<u32>, count: u32) -> Self {
        let under_way = VecDeque::with_capacity(count as usize / 2 + 1);
        Self { slots, under_way, last: None, ask_at: Time(0), pause: SOON }
    }

    /// Puts a frame into the first two slots of the ring, of which the caller has made sure.
    ///
    /// # Errors
    /// The frame: it is not for this port.
    pub(super) fn put(
        &mut self,
        held: &mut Held,
        bank: &Bank,
        pool: &mut Pool,
        (frame, tail): (Frame, Tail),
        now: Time,
    ) -> Result<(), Frame> {
        let first = held.ring.head();
        let second = held.ring.after(first);
        let place = held.frames.get_mut(first as usize);
        let (Some(place), Some(head), Some(rest), Ok(length)) = (
            place,
            bank.buffer(frame.slot()),
            bank.buffer(tail.slot).filter(|_| self.slots.contains(&tail.slot)),
            u16::try_from(frame.len()),
        ) else {
            return Err(frame);
        };
        let flags = slot_flag::BUF_CHANGED | slot_flag::MOREFRAG;
        held.ring.set_slot(first, Slot { flags, ..Slot::swapped(head, length) });
        held.ring.set_slot(second, Slot::swapped(rest, tail.length));
        held.ring.set_offset(second, tail.offset);
        if let Some(sent) = place.replace(frame) {
            pool.free(sent);
        }
        held.ring.advance();
        held.ring.advance();
        if self.under_way.is_empty() {
            (self.pause, self.ask_at) = (SOON, now + SOON);
        }
        self.under_way.push_back(first);
        self.last = Some(second);
        Ok(())
    }

    /// Called before a sync: has the card tell when the last rest was sent.
    pub(super) fn ask_for_report(&mut self, held: &mut Held) {
        if let Some(at) = self.last.take()
            && let Some(slot) = held.ring.slot(at)
        {
            held.ring.set_slot(at, Slot { flags: slot.flags | slot_flag::REPORT, ..slot });
        }
    }

    /// Sends the rests home that the card has done with.
    #[inline]
    pub(super) fn reclaim(&mut self, held: &mut Held, bank: &Bank, pool: &mut Pool) {
        while let Some(first) = self.under_way.front().copied()
            && held.ring.is_done(held.ring.after(first))
        {
            self.under_way.pop_front();
            part(held, bank, pool, first);
            self.pause = SOON;
        }
    }

    /// Sends all home, done with or not: the device is about to be closed.
    pub(super) fn give_up(&mut self, held: &mut Held, bank: &Bank, pool: &mut Pool) {
        for first in self.under_way.drain(..) {
            part(held, bank, pool, first);
        }
    }

    /// Whether it is time to ask the kernel how far the card is, and when to ask next.
    #[inline]
    pub(super) fn asks(&mut self, now: Time) -> bool {
        let is_due = !self.under_way.is_empty() && now >= self.ask_at;
        if is_due {
            self.ask_at = now + self.pause;
            self.pause = SELDOM.min(self.pause * 2);
        }
        is_due
    }

    /// When that is, if any frame is under way.
    pub(super) fn asks_at(&self) -> Option<Time> {
        (!self.under_way.is_empty()).then_some(self.ask_at)
    }

    /// Whether any frame is under way.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }
}

/// Parts the frame whose head lies in slot `first` from its rest, and shows the slot again that the rest was put
/// in the place of.
fn part(held: &mut Held, bank: &Bank, pool: &mut Pool, first: u32) {
    let second = held.ring.after(first);
    let aside = held.frames.get(second as usize).and_then(Option::as_ref);
    if let Some(buffer) = aside.and_then(|frame| bank.buffer(frame.slot())) {
        held.ring.set_slot(second, Slot::swapped(buffer, 0));
        held.ring.set_offset(second, 0);
    }
    if let Some(Some(head)) = held.frames.get(first as usize) {
        pool.release_tail(head);
    }
}
