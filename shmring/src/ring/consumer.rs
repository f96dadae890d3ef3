//! The side that takes descriptors out of cells.

use crate::descriptor::{Fault, RawDescriptor, RingName};
use crate::words::{LoadCells, LoadWord, Memory, StoreWord};
use core::sync::atomic::Ordering;

/// Takes descriptors, then releases their cells once a burst.
#[derive(Debug)]
pub struct Consumer<M: Memory> {
    name: RingName,
    cells: M::PeerCells,
    produced: M::PeerWord,
    consumed: M::OwnWord,
    capacity: u32,
    /// Position of the next cell to read. Private.
    next: u32,
    /// `next` at the last release. Private.
    released: u32,
    /// The peer's last accepted position: `next..=released + capacity`. Private.
    peer: u32,
}

impl<M: Memory> Consumer<M> {
    /// A consumer at position zero over words that are all zero.
    pub fn new(
        name: RingName,
        cells: M::PeerCells,
        produced: M::PeerWord,
        consumed: M::OwnWord,
    ) -> Self {
        let capacity = cells.capacity();
        Self { name, cells, produced, consumed, capacity, next: 0, released: 0, peer: 0 }
    }

    /// A consumer whose two positions start at `position`, for tests of wrap-around.
    pub fn starting_at(mut self, position: u32) -> Self {
        (self.next, self.released, self.peer) = (position, position, position);
        self.consumed.store(position, Ordering::Release);
        self
    }

    /// Cells of the ring.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Descriptors that may be taken without asking the peer again, 0..=capacity.
    #[inline]
    pub fn available(&self) -> u32 {
        self.peer.wrapping_sub(self.next)
    }

    /// Reads how far the peer has produced and returns how many descriptors there are now.
    ///
    /// # Errors
    /// [`Fault::Overrun`] if the peer claims more than the ring holds, [`Fault::Position`] if it
    /// went back.
    #[inline]
    pub fn refresh(&mut self) -> Result<u32, Fault> {
        // Acquire pairs with the Release in `Producer::publish`: positions before cells and slots.
        let seen = self.produced.load(Ordering::Acquire);
        let claimed = seen.wrapping_sub(self.released);
        if claimed > self.capacity {
            return Err(Fault::Overrun { ring: self.name, claimed, capacity: self.capacity });
        }
        let before = self.peer.wrapping_sub(self.released);
        if claimed < before {
            let moved = seen.wrapping_sub(self.peer);
            return Err(Fault::Position { ring: self.name, moved, most: self.capacity - before });
        }
        self.peer = seen;
        Ok(self.available())
    }

    /// Takes one descriptor that [`refresh`](Self::refresh) has shown.
    #[inline]
    pub fn pop(&mut self) -> Option<RawDescriptor> {
        if self.available() == 0 {
            return None;
        }
        // One load of one word: the peer cannot change it between check and use.
        let descriptor = RawDescriptor(self.cells.load(self.next));
        self.next = self.next.wrapping_add(1);
        Some(descriptor)
    }

    /// Takes descriptors into the front of `into` and returns how many.
    #[inline]
    pub fn pop_burst(&mut self, into: &mut [RawDescriptor]) -> usize {
        let burst = into.iter_mut().take(self.available() as usize);
        let count = burst.len();
        // A local copy: the cells could alias the field for all that the compiler knows.
        let mut next = self.next;
        for descriptor in burst {
            *descriptor = RawDescriptor(self.cells.load(next));
            next = next.wrapping_add(1);
        }
        self.next = next;
        count
    }

    /// Gives the cells that were taken back to the peer. Returns whether there were any.
    #[inline]
    pub fn release(&mut self) -> bool {
        if self.next == self.released {
            return false;
        }
        // Release pairs with the Acquire in `Producer::refresh`: we have done with the cells.
        self.consumed.store(self.next, Ordering::Release);
        self.released = self.next;
        true
    }
}
