//! Which ports may be a client's: a count for each protocol and port, in memory that somebody reads who
//! decides before the switch sees a frame.
//!
//! ```text
//!   counts   | 0 | 2 | 0 | 1 | ...     of writers that may have a client for the port
//!   own      | 0 | 1 | 0 | 0 | ...     a bit a port: whether this writer is counted
//! ```
//!
//! - A port is counted before whoever claims it is told, and before a frame that teaches a flow leaves.
//! - Each worker's table is a writer and only ever takes back its own share, so a port is clear when it is
//!   nobody's with all of them. No writer waits for another.
//! - A port may stay counted when it is nobody's any more: then the frame comes to the switch, which
//!   knows. It is taken back when a session ends.

use super::MAPPED;
use crate::classify::Protocol;
use core::fmt::Debug;
use core::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;

/// Bytes of the counts of one protocol.
pub const PROTOCOL_BYTES: usize = 1 << 16;
/// Bytes of all.
pub const CLAIMED_BYTES: usize = MAPPED.len() * PROTOCOL_BYTES;
/// The protocols that have counts, in this order.
pub const CLAIMED_PROTOCOLS: [Protocol; MAPPED.len()] = MAPPED;

/// The memory of the counts: a byte for each port of each protocol, [`CLAIMED_BYTES`] in all. Whoever makes it
/// sets each to the number of tables that will write: until a table has spoken, any port may be a client's.
pub trait ClaimedPorts: Debug + Send + Sync {
    /// The bytes.
    fn counts(&self) -> &[AtomicU8];
}

/// A writer of the counts.
#[derive(Debug)]
pub(super) struct Claims {
    counts: Arc<dyn ClaimedPorts>,
    /// A bit for each count: whether this writer is in it.
    own: Box<[u8]>,
}

impl Claims {
    /// One that is counted at every port, until it [says](Self::replace) which it means.
    pub(super) fn new(counts: Arc<dyn ClaimedPorts>) -> Self {
        Self { counts, own: vec![u8::MAX; CLAIMED_BYTES.div_ceil(8)].into() }
    }

    /// Counts ports of the protocol of this index.
    pub(super) fn add(&mut self, index: usize, ports: impl Iterator<Item = u16>) {
        for port in ports {
            let at = index.saturating_mul(PROTOCOL_BYTES) + usize::from(port);
            let (own, bit) = (self.own.get_mut(at / 8), 1 << (at % 8));
            if let (Some(own), Some(count)) = (own, self.counts.counts().get(at))
                && *own & bit == 0
            {
                *own |= bit;
                // The reader is the kernel's program: it sees the count, or has not looked yet.
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Makes exactly these be counted; those that were and are to be are never clear meanwhile.
    pub(super) fn replace(&mut self, all: impl Iterator<Item = (usize, u16)>) {
        let mut bits = vec![0_u8; self.own.len()];
        for (index, port) in all {
            let at = index.saturating_mul(PROTOCOL_BYTES) + usize::from(port);
            if let Some(byte) = bits.get_mut(at / 8) {
                *byte |= 1 << (at % 8);
            }
        }
        let counts = self.counts.counts().chunks(8);
        for ((own, new), counts) in self.own.iter_mut().zip(bits).zip(counts) {
            if *own == new {
                continue;
            }
            for (bit, count) in counts.iter().enumerate() {
                match (*own >> bit & 1, new >> bit & 1) {
                    (0, 1) => count.fetch_add(1, Ordering::SeqCst),
                    (1, 0) => count.fetch_sub(1, Ordering::SeqCst),
                    _ => continue,
                };
            }
            *own = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Private(Vec<AtomicU8>);

    impl Private {
        /// For so many writers.
        fn of(writers: u8) -> Arc<Self> {
            Arc::new(Self((0..CLAIMED_BYTES).map(|_| AtomicU8::new(writers)).collect()))
        }

        fn counted(&self) -> Vec<(usize, u16)> {
            let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed)).enumerate();
            let counted = counts.filter(|(_, count)| *count > 0).map(|(at, _)| at);
            counted.map(|at| (at / 65_536, u16::try_from(at % 65_536).unwrap())).collect()
        }
    }

    impl ClaimedPorts for Private {
        fn counts(&self) -> &[AtomicU8] {
            &self.0
        }
    }

    #[test]
    fn each_port_of_each_protocol_has_a_count_of_its_own() {
        let counts = Private::of(1);
        let mut claims = Claims::new(Arc::clone(&counts) as Arc<dyn ClaimedPorts>);
        assert_eq!(counts.counted().len(), CLAIMED_BYTES, "nothing was said yet");
        claims.replace(core::iter::empty());
        assert_eq!(counts.counted(), []);
        let all = [(0, 0), (0, 65_535), (1, 7), (1, 8), (4, 0), (4, 65_535)];
        for (index, port) in all {
            claims.add(index, core::iter::once(port));
        }
        claims.add(CLAIMED_PROTOCOLS.len(), 0..=u16::MAX);
        assert_eq!(counts.counted(), all);
        claims.replace([(1, 8), (3, 3), (5, 5)].into_iter());
        assert_eq!(counts.counted(), [(1, 8), (3, 3)]);
    }

    #[test]
    fn a_port_is_clear_when_the_last_writer_has_taken_it_back() {
        let counts = Private::of(3);
        let mut claims: Vec<Claims> =
            (0..3).map(|_| Claims::new(Arc::clone(&counts) as Arc<dyn ClaimedPorts>)).collect();
        let [a, b, c] = claims.as_mut_slice() else { unreachable!() };
        a.replace([(1, 5), (1, 6)].into_iter());
        b.replace([(1, 5)].into_iter());
        assert_eq!(counts.counted().len(), CLAIMED_BYTES, "one has not spoken yet");
        c.replace(core::iter::empty());
        assert_eq!(counts.counted(), [(1, 5), (1, 6)]);
        // Once or often, it is one share.
        for _ in 0..300 {
            c.add(1, core::iter::once(5));
        }
        a.replace(core::iter::empty());
        assert_eq!(counts.counted(), [(1, 5)]);
        b.replace(core::iter::empty());
        assert_eq!(counts.counted(), [(1, 5)]);
        c.replace(core::iter::empty());
        assert_eq!(counts.counted(), []);
    }

    #[test]
    fn a_port_that_is_claimed_is_never_clear_whatever_others_take_back_meanwhile() {
        let counts = Private::of(2);
        let new = || Claims::new(Arc::clone(&counts) as Arc<dyn ClaimedPorts>);
        let (mut a, mut b) = (new(), new());
        a.replace(core::iter::empty());
        b.replace(core::iter::empty());
        let turns = if cfg!(miri) { 3 } else { 300 };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..turns {
                    b.add(0, 80..=81);
                    b.replace(core::iter::empty());
                }
            });
            for _ in 0..turns {
                a.add(0, core::iter::once(80));
                for _ in 0..100 {
                    assert!(counts.0[80].load(Ordering::SeqCst) > 0);
                }
                a.replace(core::iter::empty());
            }
        });
        assert_eq!(counts.counted(), []);
    }
}
