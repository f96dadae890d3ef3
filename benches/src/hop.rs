//! One hop: a producer on one processor writes payload and passes descriptors, a consumer on another
//! takes them and reads the payload.
//!
//! ```text
//!   CPU 1: write payload of 32 slots -> send 32 descriptors ~~~> CPU 0: take -> prefetch -> read
//! ```
//!
//! - Every ring gets the same loop and the same payload, so only the ring differs.
//! - Slots are named by position, so a slot is written again only after its cell was released. A
//!   ring that releases before the payload is read says so ([`Sender::KEEPS_SLOTS`]).

#![expect(unsafe_code, reason = "plain loads and stores of the payload, as a yardstick needs them")]

use crate::pin::pin_or_warn;
use memmap2::{MmapMut, MmapOptions};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Descriptors that move together.
pub const BURST: usize = 32;
/// Cells of every ring.
pub const CELLS: usize = 1024;
/// Distance of slots, in bytes, as in the shipped pools.
pub const STRIDE: usize = 2048;

/// The producing end of a ring.
pub trait Sender: Send {
    /// Whether a cell is released only by [`Receiver::release`], after the payload was read.
    const KEEPS_SLOTS: bool = true;
    /// Whether there is room for a whole burst.
    fn has_room(&mut self) -> bool;
    /// Passes a whole burst, for which [`has_room`](Self::has_room) has seen room.
    fn send(&mut self, burst: &[u64; BURST]);
}

/// The consuming end of a ring.
pub trait Receiver: Send {
    /// Takes at most a burst and returns how many.
    fn receive(&mut self, into: &mut [u64; BURST]) -> usize;
    /// Has done with what was taken.
    fn release(&mut self) {}
}

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// After this time.
    Time(Duration),
    /// After at least so many frames.
    Frames(u64),
}

/// What a run has moved.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// Frames taken and read by the consumer.
    pub frames: u64,
    /// In this time.
    pub time: Duration,
    /// Whether both threads ran where they should.
    pub pinned: bool,
}

impl Moved {
    /// Millions of frames a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub fn rate(&self) -> f64 {
        self.frames as f64 / self.time.as_secs_f64() / 1e6
    }
}

/// The slots that both threads use.
struct Payload {
    base: *mut u64,
    _map: MmapMut,
}

// SAFETY: an address range and its mapping; who may touch which slot at what time is the contract of
// `write` and `read`.
unsafe impl Send for Payload {}
// SAFETY: as above.
unsafe impl Sync for Payload {}

impl Payload {
    fn new() -> io::Result<Self> {
        // Twice the cells, for rings that release early.
        let mut map = MmapOptions::new().len(2 * CELLS * STRIDE).populate().map_anon()?;
        Ok(Self { base: map.as_mut_ptr().cast(), _map: map })
    }

    fn at(&self, slot: u64) -> *mut u64 {
        let slot = usize::try_from(slot).unwrap_or(0) & (2 * CELLS - 1);
        self.base.wrapping_add(slot * (STRIDE / 8))
    }

    /// # Safety
    /// No other thread may use `slot` now, and `words` is at most `STRIDE / 8`.
    #[inline(always)]
    unsafe fn write(&self, slot: u64, words: usize, seed: u64) {
        let at = self.at(slot);
        for word in 0..words {
            // SAFETY: `at` masks the slot, so `words` words from there lie in the mapping; nobody
            // else uses them, by the caller's promise.
            unsafe { at.add(word).write(seed.wrapping_add(word as u64)) };
        }
    }

    /// # Safety
    /// As for `write`.
    #[inline(always)]
    unsafe fn read(&self, slot: u64, words: usize) -> u64 {
        let at = self.at(slot);
        // SAFETY: as for `write`.
        (0..words).map(|word| unsafe { at.add(word).read() }).fold(0, u64::wrapping_add)
    }

    fn prefetch(&self, slot: u64) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch is a hint and has no effect on memory, whatever the address.
        unsafe {
            core::arch::x86_64::_mm_prefetch(
                self.at(slot).cast_const().cast(),
                core::arch::x86_64::_MM_HINT_T0,
            );
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = slot;
    }
}

/// Moves frames of `size` bytes (rounded up to eight, at most a slot) until the limit, the producer
/// on processor 1, the consumer on processor 0.
///
/// # Errors
/// Of making the payload's memory.
pub fn run<S: Sender, R: Receiver>(
    mut sender: S,
    mut receiver: R,
    size: usize,
    limit: Limit,
) -> io::Result<Moved> {
    let payload = Payload::new()?;
    let words = size.div_ceil(8).min(STRIDE / 8);
    let (stop, ready) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut moved = Moved { frames: 0, time: Duration::ZERO, pinned: true };
    let sum = std::thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let pinned = pin_or_warn(1, "producer");
            let mask = if S::KEEPS_SLOTS { CELLS as u64 - 1 } else { 2 * CELLS as u64 - 1 };
            let mut position = 0u64;
            ready.store(true, Ordering::Release);
            while !stop.load(Ordering::Relaxed) {
                if !sender.has_room() {
                    core::hint::spin_loop();
                    continue;
                }
                let burst = core::array::from_fn(|index| {
                    let slot = (position + index as u64) & mask;
                    // SAFETY: there is room, so the consumer has released the cell that named this
                    // slot before and does not read it; `words` was bounded.
                    unsafe { payload.write(slot, words, position) };
                    slot | (size as u64) << 36
                });
                sender.send(&burst);
                position += BURST as u64;
            }
            pinned
        });
        let consumer = scope.spawn(|| {
            let pinned = pin_or_warn(0, "consumer");
            while !ready.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            let start = Instant::now();
            let (mut taken, mut sum, mut frames, mut turns) = ([0; BURST], 0u64, 0u64, 0u32);
            loop {
                turns = turns.wrapping_add(1);
                let count = receiver.receive(&mut taken);
                let taken = taken.get(..count).unwrap_or_default();
                for descriptor in taken {
                    payload.prefetch(descriptor & 0xff_ffff);
                }
                for descriptor in taken {
                    // SAFETY: the producer writes this slot again only after `release` (or a whole
                    // ring later, see `KEEPS_SLOTS`), and `words` was bounded.
                    let read = unsafe { payload.read(descriptor & 0xff_ffff, words) };
                    sum = sum.wrapping_add(read);
                }
                receiver.release();
                frames += count as u64;
                let done = match limit {
                    Limit::Frames(most) => frames >= most,
                    Limit::Time(time) => turns.is_multiple_of(1024) && start.elapsed() >= time,
                };
                if done {
                    break;
                }
                if count == 0 {
                    core::hint::spin_loop();
                }
            }
            let time = start.elapsed();
            stop.store(true, Ordering::Relaxed);
            (pinned, frames, time, sum)
        });
        if let Ok((pinned, frames, time, sum)) = consumer.join() {
            moved = Moved { frames, time, pinned: producer.join().unwrap_or(false) && pinned };
            sum
        } else {
            0
        }
    });
    std::hint::black_box(sum);
    Ok(moved)
}
