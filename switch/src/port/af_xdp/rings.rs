//! The four rings of an XDP socket, over cells that the kernel reads and writes too.
//!
//! ```text
//!        consumer              producer        A position only grows (mod 2^32).
//!           v                     v            producer - consumer <= cells, or somebody lies.
//!   ---+---+---+---+---+---+---+---+---        A cell is position & (cells - 1).
//!      |   | D | D | D | D | D |   |
//!
//!   Producer  fill, tx          we write cells and their end, the kernel how far it has read
//!   Consumer  rx, completion    the other way round
//! ```
//!
//! - The own position is private; the word in the ring that shows it is only ever written.
//! - The kernel's position is loaded once a burst, and bounded before it is believed, in release builds
//!   too. The kernel does not lie; but whoever has written over its memory, or ours, may have.
//! - Acquire and Release pair with `smp_load_acquire` and `smp_store_release` in `net/xdp/xsk_queue.h`.

use super::sys::RingMemory;
use core::sync::atomic::{Ordering, fence};
use std::io;

/// Words of a cell of the rx and tx rings: `struct xdp_desc`.
pub(super) const DESCRIPTOR_WORDS: usize = 2;
/// `XDP_PKT_CONTD` of a descriptor's options: the frame goes on in the next cell.
pub(super) const CONTINUED: u32 = 1;
/// `XDP_RING_NEED_WAKEUP`.
const NEED_WAKEUP: u32 = 1;

/// A received frame, as the kernel names it; nothing of it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Where it begins, from the start of the UMEM.
    pub(super) address: u64,
    pub(super) length: u32,
    pub(super) options: u32,
}

impl Descriptor {
    /// `len` and `options` as one word, in their order in memory.
    fn second_word(self) -> u64 {
        let ([a, b, c, d], [e, f, g, h]) = (self.length.to_ne_bytes(), self.options.to_ne_bytes());
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }

    fn from_words(address: u64, second: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = second.to_ne_bytes();
        Self {
            address,
            length: u32::from_ne_bytes([a, b, c, d]),
            options: u32::from_ne_bytes([e, f, g, h]),
        }
    }
}

/// What the kernel would never do.
#[cold]
pub(super) fn inconsistent(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("an XDP ring shows {what}"))
}

/// A ring that we write.
#[derive(Debug)]
pub(super) struct Producer {
    memory: RingMemory,
    cells: u32,
    /// The cell to write next.
    next: u32,
    /// Up to where the kernel may look.
    published: u32,
    /// The kernel's position, as last believed.
    consumed: u32,
}

impl Producer {
    /// A ring of `cells` cells, a power of two.
    pub(super) fn new(memory: RingMemory, cells: u32) -> Self {
        Self { memory, cells, next: 0, published: 0, consumed: 0 }
    }

    /// Looks how far the kernel is. Returns the cells that are free.
    #[inline]
    pub(super) fn refresh(&mut self) -> io::Result<u32> {
        // Acquire pairs with the Release in `__xskq_cons_release`: it has read what it passed.
        let seen = self.memory.consumer().load(Ordering::Acquire);
        // What is not published has not been consumed.
        if seen.wrapping_sub(self.consumed) > self.published.wrapping_sub(self.consumed) {
            return Err(inconsistent("that more was consumed than was there"));
        }
        self.consumed = seen;
        Ok(self.free())
    }

    /// Cells that were free when the kernel's position was last looked at.
    #[inline]
    pub(super) fn free(&self) -> u32 {
        self.cells - self.next.wrapping_sub(self.consumed).min(self.cells)
    }

    /// Cells that are published and that the kernel has not consumed, as last seen.
    #[inline]
    pub(super) fn waiting(&self) -> u32 {
        self.published.wrapping_sub(self.consumed)
    }

    #[inline]
    fn put(&mut self, words: &[u64]) -> bool {
        if self.free() == 0 {
            return false;
        }
        let at = (self.next & (self.cells - 1)) as usize * words.len();
        let Some(cell) = self.memory.cells().get(at..at + words.len()) else { return false };
        for (to, word) in cell.iter().zip(words) {
            to.store(*word, Ordering::Relaxed);
        }
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Writes a cell of the fill ring. False if none is free.
    #[inline]
    pub(super) fn push_address(&mut self, address: u64) -> bool {
        self.put(&[address])
    }

    /// Writes a cell of the tx ring. False if none is free.
    #[inline]
    pub(super) fn push_frame(&mut self, address: u64, length: u32, is_continued: bool) -> bool {
        let options = if is_continued { CONTINUED } else { 0 };
        let descriptor = Descriptor { address, length, options };
        self.put(&[address, descriptor.second_word()])
    }

    /// Shows the kernel what was written, once a burst.
    #[inline]
    pub(super) fn publish(&mut self) {
        if self.published != self.next {
            self.published = self.next;
            // Release pairs with the Acquire in `__xskq_cons_peek`: the cells before their end.
            self.memory.producer().store(self.next, Ordering::Release);
        }
    }

    /// Whether the kernel waits for a system call before it looks at the ring.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        // Of "there is something" (`publish`) and "I sleep" (the flag), one side sees the other's.
        fence(Ordering::SeqCst);
        self.memory.flags().load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }
}

/// A ring that we read.
#[derive(Debug)]
pub(super) struct Consumer {
    memory: RingMemory,
    cells: u32,
    /// The cell to read next.
    next: u32,
    /// Up to where the kernel may write.
    released: u32,
    /// The kernel's position, as last believed.
    produced: u32,
}

impl Consumer {
    /// A ring of `cells` cells, a power of two.
    pub(super) fn new(memory: RingMemory, cells: u32) -> Self {
        Self { memory, cells, next: 0, released: 0, produced: 0 }
    }

    /// Cells to read; looks at the kernel's position only when all that was seen is read.
    #[inline]
    pub(super) fn available(&mut self) -> io::Result<u32> {
        if self.produced == self.next {
            // Acquire pairs with the Release in `__xskq_prod_submit`: the cells before their end.
            let seen = self.memory.producer().load(Ordering::Acquire);
            if seen.wrapping_sub(self.released) > self.cells {
                return Err(inconsistent("more cells than it has"));
            }
            if seen.wrapping_sub(self.released) < self.next.wrapping_sub(self.released) {
                return Err(inconsistent("fewer cells than before"));
            }
            self.produced = seen;
        }
        Ok(self.produced.wrapping_sub(self.next))
    }

    #[inline]
    fn take<const WORDS: usize>(&mut self) -> Option<[u64; WORDS]> {
        if self.produced == self.next {
            return None;
        }
        let at = (self.next & (self.cells - 1)) as usize * WORDS;
        let mut words = [0; WORDS];
        // Each word is loaded once; what was loaded is what is checked and used.
        for (word, from) in words.iter_mut().zip(self.memory.cells().get(at..at + WORDS)?) {
            *word = from.load(Ordering::Relaxed);
        }
        self.next = self.next.wrapping_add(1);
        Some(words)
    }

    /// Reads a cell of the completion ring.
    #[inline]
    pub(super) fn pop_address(&mut self) -> Option<u64> {
        self.take::<1>().map(|[address]| address)
    }

    /// Reads a cell of the rx ring.
    #[inline]
    pub(super) fn pop_frame(&mut self) -> Option<Descriptor> {
        self.take().map(|[address, second]| Descriptor::from_words(address, second))
    }

    /// Gives the cells that were read back to the kernel, once a burst.
    #[inline]
    pub(super) fn release(&mut self) {
        if self.released != self.next {
            self.released = self.next;
            // Release pairs with the Acquire in `xskq_prod_nb_free`: our loads before the next stores.
            self.memory.consumer().store(self.next, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn producer(cells: u32, words: usize) -> Producer {
        Producer::new(RingMemory::private(cells as usize * words).unwrap(), cells)
    }

    fn consumer(cells: u32, words: usize) -> Consumer {
        Consumer::new(RingMemory::private(cells as usize * words).unwrap(), cells)
    }

    #[test]
    fn a_full_ring_takes_no_more_until_the_kernel_has_consumed() {
        let mut fill = producer(4, 1);
        assert!((0..4).all(|n| fill.push_address(n)));
        assert!(!fill.push_address(4), "a cell that the kernel has not read");
        fill.publish();
        assert_eq!((fill.refresh().unwrap(), fill.waiting()), (0, 4));
        fill.memory.consumer().store(3, Ordering::Release);
        assert_eq!((fill.refresh().unwrap(), fill.waiting()), (3, 1));
        assert!(fill.push_address(5));
        let cells: Vec<u64> =
            fill.memory.cells().iter().map(|c| c.load(Ordering::Relaxed)).collect();
        assert_eq!(cells, [5, 1, 2, 3]);
    }

    #[test]
    fn what_was_not_published_cannot_have_been_consumed() {
        for lie in [1, 2, 5, u32::MAX, u32::MAX / 2] {
            let mut fill = producer(4, 1);
            assert!(fill.push_address(1));
            fill.memory.consumer().store(lie, Ordering::Release);
            assert!(fill.refresh().is_err(), "{lie} consumed of none");
        }
        let mut fill = producer(4, 1);
        assert!((0..3).all(|n| fill.push_address(n)));
        fill.publish();
        fill.memory.consumer().store(2, Ordering::Release);
        assert_eq!(fill.refresh().unwrap(), 3);
        fill.memory.consumer().store(1, Ordering::Release);
        assert!(fill.refresh().is_err(), "a position that goes back");
    }

    #[test]
    fn a_position_beyond_the_ring_shows_no_cell() {
        for lie in [5, 100, u32::MAX, u32::MAX / 2] {
            let mut rx = consumer(4, DESCRIPTOR_WORDS);
            rx.memory.producer().store(lie, Ordering::Release);
            assert!(rx.available().is_err(), "{lie} cells of 4");
            assert_eq!(rx.pop_frame(), None);
        }
        let mut rx = consumer(4, DESCRIPTOR_WORDS);
        rx.memory.producer().store(3, Ordering::Release);
        assert_eq!(rx.available().unwrap(), 3);
        assert!((0..3).all(|_| rx.pop_frame().is_some()));
        // Not released yet, so these cells are not the kernel's to count again.
        rx.memory.producer().store(2, Ordering::Release);
        assert!(rx.available().is_err(), "a position that goes back");
    }

    #[test]
    fn positions_survive_the_wrap_of_u32() {
        let mut completion = consumer(8, 1);
        let start = u32::MAX - 2;
        (completion.next, completion.released, completion.produced) = (start, start, start);
        for (at, cell) in completion.memory.cells().iter().enumerate() {
            cell.store(at as u64, Ordering::Relaxed);
        }
        completion.memory.producer().store(start.wrapping_add(8), Ordering::Release);
        assert_eq!(completion.available().unwrap(), 8);
        let got: Vec<_> = core::iter::from_fn(|| completion.pop_address()).collect();
        assert_eq!(got, [5, 6, 7, 0, 1, 2, 3, 4]);
        completion.release();
        assert_eq!(completion.memory.consumer().load(Ordering::Relaxed), 5);

        let mut tx = producer(8, DESCRIPTOR_WORDS);
        (tx.next, tx.published, tx.consumed) = (start, start, start);
        tx.memory.consumer().store(start, Ordering::Release);
        assert!((0..8).all(|n| tx.push_frame(n, 60, false)) && !tx.push_frame(8, 60, false));
        tx.publish();
        assert_eq!((tx.refresh().unwrap(), tx.waiting()), (0, 8));
        tx.memory.consumer().store(5, Ordering::Release);
        assert_eq!((tx.refresh().unwrap(), tx.waiting()), (8, 0));
    }

    #[test]
    fn a_descriptor_survives_its_words() {
        let descriptor = Descriptor { address: 77, length: 1514, options: 9 };
        let again = Descriptor::from_words(77, descriptor.second_word());
        assert_eq!(again, descriptor);
    }

    #[test]
    fn the_kernel_is_woken_when_it_asks() {
        let tx = producer(4, DESCRIPTOR_WORDS);
        assert!(!tx.needs_wakeup());
        tx.memory.flags().store(NEED_WAKEUP, Ordering::Relaxed);
        assert!(tx.needs_wakeup());
    }
}
