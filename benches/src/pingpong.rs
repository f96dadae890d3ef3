//! One cache line from one processor to another and back: no exchange between two processors can be
//! faster.

use crate::pin::pin_or_warn;
use crossbeam_utils::CachePadded;
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const STOP: u64 = u64::MAX;

/// Sends a line there and back for `time` and returns the histogram of round trips in nanoseconds.
/// Each value is the mean of 16 round trips, which reading the clock would disturb one by one.
#[must_use]
pub fn run(time: Duration) -> Histogram<u64> {
    let there = CachePadded::new(AtomicU64::new(0));
    let back = CachePadded::new(AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin_or_warn(0, "answerer");
            let mut last = 0;
            while last != STOP {
                let seen = there.load(Ordering::Acquire);
                if seen != last {
                    back.store(seen, Ordering::Release);
                    last = seen;
                }
            }
        });
        let asker = scope.spawn(|| {
            pin_or_warn(1, "asker");
            let mut histogram = histogram();
            let mut turn = 0u64;
            let start = Instant::now();
            while start.elapsed() < time {
                let begin = Instant::now();
                for _ in 0..16 {
                    turn += 1;
                    there.store(turn, Ordering::Release);
                    while back.load(Ordering::Acquire) != turn {
                        core::hint::spin_loop();
                    }
                }
                let taken = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
                histogram.saturating_record(taken / 16);
            }
            there.store(STOP, Ordering::Release);
            histogram
        });
        asker.join().unwrap_or_else(|_| histogram())
    })
}

/// An empty histogram of nanoseconds, 1 ns to 10 s with three digits.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 10_000_000_000, 3)
        .unwrap_or_else(|_| unreachable!("fixed bounds that are valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back() {
        assert!(!run(Duration::from_millis(20)).is_empty());
    }
}
