//! One direction of a queue pair: a single-producer single-consumer ring of descriptors.
//!
//! ```text
//!        consumed          produced        Positions only grow (mod 2^32);
//!           v                 v            produced - consumed <= capacity, or the peer lies.
//!   ---+---+---+---+---+---+---+---+---    A cell is position mod capacity.
//!      |   | D | D | D | D | D |   |
//! ```
//!
//! - `produced` and the cells are written by the producer alone, `consumed` by the consumer alone.
//! - Each side keeps its own position and the peer's last accepted one in private memory. What it
//!   stores in shared memory is for the peer; it never reads that back.
//! - A peer's position is loaded once a burst and bounded before it is believed. Nothing that the
//!   peer stores can make this side read or write outside the cells, or loop.

mod consumer;
mod producer;

pub use consumer::Consumer;
pub use producer::{Full, Producer};

use crate::words::{LoadWord, Memory, StoreWord};
use core::marker::PhantomData;
use core::sync::atomic::Ordering;

/// Most cells that a ring may have.
pub const MAX_CAPACITY: u32 = 32_768;

/// Whether a ring may have `capacity` cells: a power of two, 2..=32,768.
#[must_use]
pub const fn is_capacity(capacity: u32) -> bool {
    capacity.is_power_of_two() && capacity >= 2 && capacity <= MAX_CAPACITY
}

/// This side's sleep flag: raised before it sleeps, so that the peer wakes it.
#[derive(Debug)]
pub struct SleepFlag<M: Memory> {
    word: M::OwnWord,
    memory: PhantomData<M>,
}

impl<M: Memory> SleepFlag<M> {
    /// Over this side's word.
    pub fn new(word: M::OwnWord) -> Self {
        Self { word, memory: PhantomData }
    }

    /// Announces sleep. The caller must look at all its rings once more after this and sleep only
    /// if they are empty.
    pub fn raise(&self) {
        self.word.store(1, Ordering::Relaxed);
        // Pairs with the fence in `PeerSleepFlag::must_wake`: of "I sleep" and "there is work", at
        // least one side sees the other's store.
        M::fence();
    }

    /// Takes the announcement back after waking.
    pub fn lower(&self) {
        self.word.store(0, Ordering::Relaxed);
    }
}

/// The peer's sleep flag. It is a hint: any value is safe, a false one costs a wake-up or the
/// peer's own latency.
#[derive(Debug)]
pub struct PeerSleepFlag<M: Memory> {
    word: M::PeerWord,
    memory: PhantomData<M>,
}

impl<M: Memory> PeerSleepFlag<M> {
    /// Over the peer's word.
    pub fn new(word: M::PeerWord) -> Self {
        Self { word, memory: PhantomData }
    }

    /// Whether the peer must be woken. To be asked after publishing, once a burst.
    #[must_use]
    pub fn must_wake(&self) -> bool {
        // Pairs with the fence in `SleepFlag::raise`.
        M::fence();
        self.word.load(Ordering::Relaxed) != 0
    }
}
