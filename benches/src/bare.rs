//! The yardstick of the whole path: generator, switch and sink without any check.
//!
//! ```text
//!   CPU 1: generator --tx--> CPU 0: switch --rx--> CPU 1: sink
//!                ^--completion--    |   ^-----fill-----'
//! ```
//!
//! The switch reads 42 bytes of each frame, looks into a dense port map and a private table of
//! owners, and passes the slot on. It believes every number, so it is no switch for strangers; it is
//! what the machine allows to one.

#![expect(unsafe_code, reason = "plain loads and stores of frames, as a yardstick needs them")]

use crate::pin::pin_or_warn;
use crate::rig::say;
use crossbeam_utils::CachePadded;
use memmap2::{MmapMut, MmapOptions};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CELLS: usize = 1024;
const CAPACITY: u32 = 1024;
const SLOTS: usize = 512;
const STRIDE: usize = 2048;
const BURST: usize = 64;
const MOST: u32 = 64;
const _: () = assert!(CAPACITY as usize == CELLS && MOST as usize == BURST);

#[derive(Default)]
struct Ring {
    produced: CachePadded<AtomicU32>,
    consumed: CachePadded<AtomicU32>,
    cells: CachePadded<Cells>,
}

struct Cells([AtomicU64; CELLS]);

impl Default for Cells {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; CELLS])
    }
}

impl Ring {
    #[inline(always)]
    fn cell(&self, position: u32) -> &AtomicU64 {
        &self.cells.0[position as usize & (CELLS - 1)]
    }

    #[inline(always)]
    fn available(&self, consumed: u32) -> u32 {
        self.produced.load(Ordering::Acquire).wrapping_sub(consumed)
    }
}

struct Shared {
    tx: Ring,
    rx: Ring,
    fill: Ring,
    completion: Ring,
    stop: AtomicBool,
    base: *mut u8,
    _map: MmapMut,
}

// SAFETY: the rings are atomics; a slot's bytes are used by the one side that holds its number, which
// the rings pass from one to the other with release and acquire.
unsafe impl Sync for Shared {}
// SAFETY: as above; the mapping may be dropped by any thread.
unsafe impl Send for Shared {}

impl Shared {
    #[inline(always)]
    fn at(&self, descriptor: u64) -> *mut u8 {
        self.base.wrapping_add(slot(descriptor) * STRIDE)
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "masked")]
fn slot(descriptor: u64) -> usize {
    descriptor as usize & (SLOTS - 1)
}

/// Moves frames of `size` bytes (64 to 1,536, a multiple of eight is read) for `time` and returns
/// millions a second.
///
/// # Errors
/// Of making the memory, in words.
pub fn run(size: usize, time: Duration) -> Result<f64, String> {
    let size = size.clamp(64, 1536);
    let mut map = MmapOptions::new()
        .len(SLOTS * STRIDE)
        .populate()
        .map_anon()
        .map_err(say("map the slots"))?;
    let shared = Shared {
        tx: Ring::default(),
        rx: Ring::default(),
        fill: Ring::default(),
        completion: Ring::default(),
        stop: AtomicBool::new(false),
        base: map.as_mut_ptr(),
        _map: map,
    };
    let rate = std::thread::scope(|scope| {
        let shared = &shared;
        scope.spawn(move || switch(shared));
        scope.spawn(move || generate_and_sink(shared, size, time)).join().unwrap_or(f64::NAN)
    });
    Ok(rate)
}

/// Bytes 12..38 of a frame that the switch looks at.
#[inline(always)]
fn judge(shared: &Shared, descriptor: u64, map: &[u16; 65_536]) -> u16 {
    let at = shared.at(descriptor);
    // SAFETY: `at` masks the slot, so 42 bytes from there lie in the mapping; the generator passed the
    // slot on with a release that `available` acquired, and does not touch it until it comes back.
    let header = unsafe { at.cast::<[u8; 42]>().read() };
    let is_udp4 = header[12] == 8 && header[13] == 0 && header[23] == 17 && header[14] & 15 >= 5;
    let port = u16::from_be_bytes([header[36], header[37]]);
    let addresses = u64::from_ne_bytes([
        header[26], header[27], header[28], header[29], header[30], header[31], header[32],
        header[33],
    ]);
    std::hint::black_box(addresses);
    if is_udp4 { map[usize::from(port)] } else { 0 }
}

fn switch(shared: &Shared) {
    pin_or_warn(0, "bare switch");
    let map = Box::new([7u16; 65_536]);
    let mut owner = Box::new([0u16; SLOTS]);
    let (mut tx, mut rx, mut fill, mut completion) = (0u32, 0u32, 0u32, 0u32);
    while !shared.stop.load(Ordering::Relaxed) {
        let room = CAPACITY - rx.wrapping_sub(shared.rx.consumed.load(Ordering::Acquire));
        let count = shared.tx.available(tx).min(MOST).min(room);
        if count > 0 {
            let mut burst = [0u64; BURST];
            for (place, position) in burst.iter_mut().zip(0..count) {
                *place = shared.tx.cell(tx.wrapping_add(position)).load(Ordering::Relaxed);
                prefetch(shared.at(*place));
            }
            for (descriptor, position) in burst.iter().zip(0..count) {
                let to = judge(shared, *descriptor, &map);
                owner[slot(*descriptor)] = to;
                let passed = descriptor | u64::from(to) << 52;
                shared.rx.cell(rx.wrapping_add(position)).store(passed, Ordering::Relaxed);
            }
            tx = tx.wrapping_add(count);
            shared.tx.consumed.store(tx, Ordering::Release);
            rx = rx.wrapping_add(count);
            shared.rx.produced.store(rx, Ordering::Release);
        }
        let returned = shared.fill.available(fill);
        for _ in 0..returned {
            let descriptor = shared.fill.cell(fill).load(Ordering::Relaxed);
            owner[slot(descriptor)] = 1;
            shared.completion.cell(completion).store(descriptor, Ordering::Relaxed);
            fill = fill.wrapping_add(1);
            completion = completion.wrapping_add(1);
        }
        if returned > 0 {
            shared.fill.consumed.store(fill, Ordering::Release);
            shared.completion.produced.store(completion, Ordering::Release);
        }
    }
    std::hint::black_box(&owner);
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn generate_and_sink(shared: &Shared, size: usize, time: Duration) -> f64 {
    pin_or_warn(1, "bare generator and sink");
    let mut header = [0u8; 42];
    (header[12], header[14], header[23]) = (8, 0x45, 17);
    let mut free: Vec<u64> = (0..SLOTS as u64).rev().collect();
    let (mut tx, mut rx, mut fill, mut completion) = (0u32, 0u32, 0u32, 0u32);
    let (mut frames, mut sum, mut turns) = (0u64, 0u64, 0u32);
    let start = Instant::now();
    loop {
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(1024) && start.elapsed() >= time {
            break;
        }
        let rest = free.len().saturating_sub(BURST);
        if !free.is_empty() {
            for slot in free.drain(rest..) {
                let at = shared.at(slot);
                // SAFETY: `at` masks the slot, so `size <= STRIDE` bytes from there lie in the
                // mapping; the slot is on the free list, so nobody else uses it.
                unsafe {
                    at.cast::<[u8; 42]>().write(header);
                    at.add(38).cast::<u32>().write_unaligned(tx);
                    for offset in (64..size).step_by(8) {
                        at.add(offset).cast::<u64>().write_unaligned(offset as u64);
                    }
                }
                let descriptor = slot | (size as u64) << 36;
                shared.tx.cell(tx).store(descriptor, Ordering::Relaxed);
                tx = tx.wrapping_add(1);
            }
            shared.tx.produced.store(tx, Ordering::Release);
        }
        let count = shared.rx.available(rx).min(MOST);
        for _ in 0..count {
            let descriptor = shared.rx.cell(rx).load(Ordering::Relaxed);
            let at = shared.at(descriptor).cast::<u64>();
            for word in 0..size / 8 {
                // SAFETY: as above; the switch has passed the slot on to us.
                sum = sum.wrapping_add(unsafe { at.add(word).read_unaligned() });
            }
            shared.fill.cell(fill).store(descriptor & 0xff_ffff, Ordering::Relaxed);
            rx = rx.wrapping_add(1);
            fill = fill.wrapping_add(1);
        }
        if count > 0 {
            shared.rx.consumed.store(rx, Ordering::Release);
            shared.fill.produced.store(fill, Ordering::Release);
            frames += u64::from(count);
        }
        let returned = shared.completion.available(completion);
        for _ in 0..returned {
            free.push(shared.completion.cell(completion).load(Ordering::Relaxed));
            completion = completion.wrapping_add(1);
        }
        if returned > 0 {
            shared.completion.consumed.store(completion, Ordering::Release);
        }
    }
    let rate = frames as f64 / start.elapsed().as_secs_f64() / 1e6;
    shared.stop.store(true, Ordering::Relaxed);
    std::hint::black_box(sum);
    rate
}

#[inline(always)]
fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint and has no effect on memory, whatever the address.
    unsafe {
        core::arch::x86_64::_mm_prefetch(at.cast(), core::arch::x86_64::_MM_HINT_T0);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_through() {
        assert!(run(64, Duration::from_millis(50)).unwrap() > 0.0);
    }
}
