//! The side that fills cells.

use crate::descriptor::{Fault, RawDescriptor, RingName};
use crate::words::{LoadWord, Memory, StoreCells, StoreWord};
use core::sync::atomic::Ordering;

/// The ring has no room as far as this side knows; the descriptor comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full(pub RawDescriptor);

/// Writes descriptors, then publishes them once a burst.
#[derive(Debug)]
pub struct Producer<M: Memory> {
    name: RingName,
    cells: M::OwnCells,
    produced: M::OwnWord,
    consumed: M::PeerWord,
    capacity: u32,
    /// Position of the next cell to write. Private.
    next: u32,
    /// `next` at the last publication. Private.
    published: u32,
    /// The peer's last accepted position: at most `capacity` behind `next`. Private.
    peer: u32,
}

impl<M: Memory> Producer<M> {
    /// A producer at position zero over words that are all zero.
    pub fn new(
        name: RingName,
        cells: M::OwnCells,
        produced: M::OwnWord,
        consumed: M::PeerWord,
    ) -> Self {
        let capacity = cells.capacity();
        Self { name, cells, produced, consumed, capacity, next: 0, published: 0, peer: 0 }
    }

    /// A producer whose two positions start at `position`, for tests of wrap-around.
    pub fn starting_at(mut self, position: u32) -> Self {
        (self.next, self.published, self.peer) = (position, position, position);
        self.produced.store(position, Ordering::Release);
        self
    }

    /// Cells of the ring.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Cells that may be written without asking the peer again, 0..=capacity.
    #[inline]
    pub fn room(&self) -> u32 {
        self.capacity - self.next.wrapping_sub(self.peer)
    }

    /// Reads how far the peer has consumed and returns the room there is now.
    ///
    /// # Errors
    /// [`Fault::Position`] if the peer went back or took what was never published.
    #[inline]
    pub fn refresh(&mut self) -> Result<u32, Fault> {
        // Acquire pairs with the Release in `Consumer::release`: the peer has done with the cells.
        let seen = self.consumed.load(Ordering::Acquire);
        let moved = seen.wrapping_sub(self.peer);
        let most = self.published.wrapping_sub(self.peer);
        if moved > most {
            return Err(Fault::Position { ring: self.name, moved, most });
        }
        self.peer = seen;
        Ok(self.room())
    }

    /// Writes one descriptor; the peer sees it after [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`Full`] if there is no known room.
    #[inline]
    pub fn push(&mut self, descriptor: RawDescriptor) -> Result<(), Full> {
        if self.room() == 0 {
            return Err(Full(descriptor));
        }
        self.cells.store(self.next, descriptor.0);
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// Writes descriptors while there is known room and returns how many.
    #[inline]
    pub fn push_burst(&mut self, descriptors: &[RawDescriptor]) -> usize {
        let burst = descriptors.iter().take(self.room() as usize);
        let count = burst.len();
        // A local copy: the cells could alias the field for all that the compiler knows.
        let mut next = self.next;
        for descriptor in burst {
            self.cells.store(next, descriptor.0);
            next = next.wrapping_add(1);
        }
        self.next = next;
        count
    }

    /// Descriptors written but not yet published.
    pub fn unpublished(&self) -> u32 {
        self.next.wrapping_sub(self.published)
    }

    /// Shows the peer all that was written. Returns whether there was anything new.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.next == self.published {
            return false;
        }
        // Release pairs with the Acquire in `Consumer::refresh`: cells and slots before positions.
        self.produced.store(self.next, Ordering::Release);
        self.published = self.next;
        true
    }

    /// Descriptors published that the peer was not yet seen to consume.
    pub fn in_flight(&self) -> u32 {
        self.published.wrapping_sub(self.peer)
    }
}
