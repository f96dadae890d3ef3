//! One ring: what the user sees of it, and what the kernel remembers.
//!
//! ```text
//!   slots   | given back | the user's            | the kernel's          |
//!           hw_cur       head ........ cur ..... tail = hw_tail          hw_cur - 1
//! ```
//!
//! - `tail` is written by [`Kring::finish`] alone, at the end of a sync.
//! - Bad positions are met as netmap meets them: in silence. Only one beyond the ring resets it;
//!   any other bad `head` is remembered, and so the next sync may take it for good.

use super::memory::Memory;
use super::region::View;
use crate::port::netmap::abi::layout::{ring, slot};

/// A slot as it was read in one load, or is to be written in one store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) buffer: u32,
    pub(super) length: u16,
    pub(super) flags: u16,
}

impl Slot {
    fn from_word(word: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
        Self {
            buffer: u32::from_ne_bytes([a, b, c, d]),
            length: u16::from_ne_bytes([e, f]),
            flags: u16::from_ne_bytes([g, h]),
        }
    }

    fn to_word(self) -> u64 {
        let ([a, b, c, d], [e, f], [g, h]) =
            (self.buffer.to_ne_bytes(), self.length.to_ne_bytes(), self.flags.to_ne_bytes());
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }
}

/// The ring in the region.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingView<'a> {
    memory: &'a Memory,
    at: usize,
}

impl RingView<'_> {
    /// Writes the fields that never change. The buffers begin at `buffers` of the region.
    pub(super) fn set_up(&self, slots: u32, view: &View, id: usize, is_transmit: bool) {
        let buffers = view.buffer_offset as u64;
        self.memory.store64(self.at + ring::BUFFERS, buffers.wrapping_sub(self.at as u64));
        self.memory.store32(self.at + ring::SLOT_COUNT, slots);
        let size = u32::try_from(view.buffer_size).unwrap_or(u32::MAX);
        self.memory.store32(self.at + ring::BUFFER_SIZE, size);
        // `ringid` and `dir`, 16 bits each.
        let id = u16::try_from(id).unwrap_or(u16::MAX).to_ne_bytes();
        let direction = u16::from(is_transmit).to_ne_bytes();
        let word = u32::from_ne_bytes([id[0], id[1], direction[0], direction[1]]);
        self.memory.store32(self.at + 16, word);
        // `offset_mask`: no offsets.
        self.memory.store64(self.at + 56, u64::MAX);
    }

    pub(super) fn set_offset_mask(&self, mask: u64) {
        self.memory.store64(self.at + 56, mask);
    }

    /// Where the frame of a slot begins in its buffer, by what the user wrote.
    pub(super) fn pointer(&self, number: u32) -> u64 {
        self.memory.load64(self.place(number) + slot::POINTER)
    }

    fn head(&self) -> u32 {
        self.memory.load32(self.at + ring::HEAD)
    }

    fn current(&self) -> u32 {
        self.memory.load32(self.at + ring::CURRENT)
    }

    fn tail(&self) -> u32 {
        self.memory.load32(self.at + ring::TAIL)
    }

    pub(super) fn set_positions(&self, head: u32, current: u32, tail: u32) {
        self.memory.store32(self.at + ring::HEAD, head);
        self.memory.store32(self.at + ring::CURRENT, current);
        self.memory.store32(self.at + ring::TAIL, tail);
    }

    fn set_tail(&self, tail: u32) {
        self.memory.store32(self.at + ring::TAIL, tail);
    }

    fn place(&self, number: u32) -> usize {
        self.at + ring::SLOTS + number as usize * slot::SIZE
    }

    #[inline]
    pub(super) fn slot(&self, number: u32) -> Slot {
        Slot::from_word(self.memory.load64(self.place(number)))
    }

    #[inline]
    pub(super) fn set_slot(&self, number: u32, slot: Slot) {
        self.memory.store64(self.place(number), slot.to_word());
    }

    /// Writes length and flags, and leaves the buffer as the user has it.
    #[inline]
    pub(super) fn set_length(&self, number: u32, length: u16, flags: u16) {
        let ([a, b], [c, d]) = (length.to_ne_bytes(), flags.to_ne_bytes());
        let word = u32::from_ne_bytes([a, b, c, d]);
        self.memory.store32(self.place(number) + slot::LENGTH, word);
    }
}

/// What the kernel remembers of a ring.
#[derive(Debug)]
pub(super) struct Kring {
    /// Devices that have it bound.
    pub(super) users: usize,
    pub(super) is_exclusive: bool,
    /// Where it lies in the region, while it exists.
    pub(super) at: Option<usize>,
    pub(super) slots: u32,
    /// Buffers that it was made with.
    pub(super) granted: u32,
    is_transmit: bool,
    /// Receive ring of a pair: its slots are the peer's.
    pub(super) is_borrowing: bool,
    /// What the user's positions were at the last sync.
    pub(super) head: u32,
    pub(super) cur: u32,
    tail: u32,
    /// First slot that the user has not handed over.
    pub(super) hw_cur: u32,
    /// First slot that the user may not have.
    pub(super) hw_tail: u32,
    /// Whether this sync found good positions.
    pub(super) is_good: bool,
    /// Transmit: next slot that the card sends. It lies in what was handed over.
    pub(super) next: u32,
    /// Transmit: `next` at the sync before.
    pub(super) done: u32,
    /// What the card was told of each slot; on reception, of its buffer.
    pub(super) posted: Vec<Slot>,
    /// The same of where its frame begins, on transmission.
    pub(super) offsets: Vec<usize>,
    /// Bits of a slot's pointer that are an offset; none: there are no offsets.
    pub(super) offset_mask: u64,
    pub(super) offset_most: u64,
}

impl Kring {
    pub(super) fn new(slots: u32, is_transmit: bool) -> Self {
        let tail = if is_transmit { slots - 1 } else { 0 };
        Self {
            users: 0,
            is_exclusive: false,
            at: None,
            slots,
            granted: 0,
            is_transmit,
            is_borrowing: false,
            head: 0,
            cur: 0,
            tail,
            hw_cur: 0,
            hw_tail: tail,
            is_good: true,
            next: 0,
            done: 0,
            posted: Vec::new(),
            offsets: Vec::new(),
            offset_mask: 0,
            offset_most: 0,
        }
    }

    /// Bytes of a frame that a card puts into one buffer: less where there are offsets, in whole kilobytes.
    pub(super) fn filled(&self, view: &View) -> usize {
        match view.buffer_size.saturating_sub(super::index(self.offset_most)) {
            rest if self.offset_most > 0 => (rest & !1023).max(1024),
            _ => view.buffer_size,
        }
    }

    /// The offset that the slot says, as the drivers cut it.
    pub(super) fn offset(&self, ring: &RingView<'_>, number: u32) -> usize {
        match self.offset_mask {
            0 => 0,
            mask => super::index((ring.pointer(number) & mask).min(self.offset_most)),
        }
    }

    pub(super) fn view<'a>(&self, view: &'a View) -> Option<RingView<'a>> {
        Some(RingView { memory: &view.memory, at: self.at? })
    }

    #[inline]
    pub(super) fn after(&self, slot: u32) -> u32 {
        if slot + 1 >= self.slots { 0 } else { slot + 1 }
    }

    #[inline]
    pub(super) fn before(&self, slot: u32) -> u32 {
        if slot == 0 { self.slots - 1 } else { slot - 1 }
    }

    /// Slots that a receive ring still has for the card.
    #[inline]
    pub(super) fn room(&self) -> u32 {
        let used = if self.hw_tail >= self.hw_cur {
            self.hw_tail - self.hw_cur
        } else {
            self.hw_tail + self.slots - self.hw_cur
        };
        (self.slots - 1).saturating_sub(used)
    }

    /// Whether a receive ring's slot has a frame, seen or not, that was not given back.
    pub(super) fn holds(&self, slot: u32) -> bool {
        if self.hw_cur <= self.hw_tail {
            (self.hw_cur..self.hw_tail).contains(&slot)
        } else {
            slot >= self.hw_cur || slot < self.hw_tail
        }
    }

    /// Whether the user has not looked at all that there is.
    pub(super) fn has_unseen(&self) -> bool {
        self.cur != self.hw_tail || !self.is_good
    }

    /// Puts the kernel's positions into a ring that was just made.
    pub(super) fn show(&self, ring: &RingView<'_>) {
        ring.set_positions(self.head, self.cur, self.tail);
    }

    /// Begins a sync: reads the user's positions, and keeps them if they are good.
    pub(super) fn begin(&mut self, ring: &RingView<'_>, view: &View) {
        let (head, cur) = (ring.head(), ring.current());
        // The two directions compare with different memories, as netmap does.
        let (first, last) =
            if self.is_transmit { (self.head, self.tail) } else { (self.hw_cur, self.hw_tail) };
        self.is_good = head < self.slots
            && cur < self.slots
            && is_between(first, head, last)
            && is_between(head, cur, last);
        if self.is_good {
            (self.head, self.cur) = (head, cur);
            if ring.tail() != self.tail {
                ring.set_tail(self.tail);
            }
        } else {
            self.reinit(ring, view);
        }
    }

    /// What netmap does about bad positions.
    fn reinit(&mut self, ring: &RingView<'_>, view: &View) {
        (self.head, self.cur, self.tail) = (ring.head(), ring.current(), ring.tail());
        for number in 0..self.slots {
            let mut slot = ring.slot(number);
            if slot.buffer < 2 || slot.buffer >= view.buffer_total {
                slot.buffer = 0;
                slot.length = 0;
            } else if usize::from(slot.length) > view.buffer_size {
                slot.length = 0;
            } else {
                continue;
            }
            ring.set_slot(number, slot);
        }
        if self.head >= self.slots || self.cur >= self.slots || self.tail >= self.slots {
            (self.head, self.cur, self.tail) = (self.hw_cur, self.hw_cur, self.hw_tail);
            self.show(ring);
        }
    }

    /// Ends a sync: shows the user how far it may go.
    pub(super) fn finish(&mut self, ring: &RingView<'_>) {
        if self.is_good {
            self.tail = self.hw_tail;
            ring.set_tail(self.tail);
        }
    }
}

/// Whether going up from `first`, round the ring, meets `position` not after `last`.
fn is_between(first: u32, position: u32, last: u32) -> bool {
    if first <= last {
        first <= position && position <= last
    } else {
        position >= first || position <= last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_compared_round_the_ring() {
        assert!(is_between(2, 2, 5) && is_between(2, 5, 5) && !is_between(2, 6, 5));
        assert!(!is_between(2, 1, 5));
        assert!(is_between(6, 7, 1) && is_between(6, 0, 1) && is_between(6, 1, 1));
        assert!(!is_between(6, 2, 1) && !is_between(6, 5, 1));
    }

    #[test]
    fn a_slot_is_one_word_in_the_layout_of_netmap() {
        let slot = Slot { buffer: 0x0403_0201, length: 0x0605, flags: 0x0807 };
        let bytes = slot.to_word().to_ne_bytes();
        assert_eq!(bytes[..4], slot.buffer.to_ne_bytes());
        assert_eq!(bytes[4..6], slot.length.to_ne_bytes());
        assert_eq!(Slot::from_word(slot.to_word()), slot);
    }
}
