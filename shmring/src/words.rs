//! The words that two sides of a ring share, as capabilities: what this side may store, what it may
//! only load.
//!
//! Ring code is written once against [`Memory`]. The daemon and its clients run it over mapped
//! memory ([`Mapped`](crate::region::Mapped)); the model checker runs the same code over its own
//! atomics. A word of the peer has no `store`, so ring code cannot write where the peer writes.

use core::sync::atomic::Ordering;

/// A shared 32-bit word that this side may load.
pub trait LoadWord {
    /// Loads the word once.
    fn load(&self, order: Ordering) -> u32;
}

/// A shared 32-bit word that this side alone may store.
pub trait StoreWord {
    /// Stores the word.
    fn store(&self, value: u32, order: Ordering);
}

/// A power of two of shared 64-bit cells that this side may load.
pub trait LoadCells {
    /// The number of cells.
    fn capacity(&self) -> u32;
    /// Loads the cell of `position` (its index is the position modulo the capacity) once, relaxed.
    fn load(&self, position: u32) -> u64;
}

/// A power of two of shared 64-bit cells that this side alone may store.
pub trait StoreCells {
    /// The number of cells.
    fn capacity(&self) -> u32;
    /// Stores into the cell of `position`, relaxed.
    fn store(&self, position: u32, value: u64);
}

/// A kind of shared memory: the types of its words, and its strongest fence.
pub trait Memory {
    /// A word of this side.
    type OwnWord: StoreWord;
    /// A word of the peer.
    type PeerWord: LoadWord;
    /// Cells of this side.
    type OwnCells: StoreCells;
    /// Cells of the peer.
    type PeerCells: LoadCells;
    /// A sequentially consistent fence.
    fn fence();
}
