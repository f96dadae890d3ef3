//! Which ports may be a client's: a bit for each protocol and port, in memory that somebody reads who
//! decides before the switch sees a frame.
//!
//! - A bit is set before whoever claims the port is told, and before a frame that teaches a flow leaves.
//! - A bit may stay set when the port is nobody's any more: then the frame comes to the switch, which
//!   knows. It is cleared when a session ends.

use super::MAPPED;
use crate::classify::Protocol;
use core::fmt::Debug;
use core::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;

/// Bytes of the bits of one protocol.
pub const PROTOCOL_BYTES: usize = 8192;
/// Bytes of all.
pub const CLAIMED_BYTES: usize = MAPPED.len() * PROTOCOL_BYTES;
/// The protocols that have bits, in this order.
pub const CLAIMED_PROTOCOLS: [Protocol; MAPPED.len()] = MAPPED;

/// The memory of the bits, [`CLAIMED_BYTES`] long: the bit of a port is bit `port & 7` of byte `port >> 3`
/// of its protocol.
pub trait ClaimedPorts: Debug + Send + Sync {
    /// The bytes.
    fn bytes(&self) -> &[AtomicU8];
}

/// The writer of the bits.
#[derive(Debug)]
pub(super) struct Claims(pub(super) Arc<dyn ClaimedPorts>);

impl Claims {
    /// Sets the bits of ports of the protocol of this index.
    pub(super) fn add(&self, index: usize, ports: impl Iterator<Item = u16>) {
        let bytes = self.0.bytes();
        for port in ports {
            let at = index.saturating_mul(PROTOCOL_BYTES) + usize::from(port >> 3);
            if let Some(byte) = bytes.get(at) {
                // The reader is the kernel's program: it sees the bit, or has not looked yet.
                byte.fetch_or(1 << (port & 7), Ordering::SeqCst);
            }
        }
    }

    /// Makes exactly these bits be set; those that were and are to be are never clear meanwhile.
    pub(super) fn replace(&self, all: impl Iterator<Item = (usize, u16)>) {
        let mut bits = vec![0_u8; CLAIMED_BYTES];
        for (index, port) in all {
            if let Some(byte) = bits.get_mut(index * PROTOCOL_BYTES + usize::from(port >> 3)) {
                *byte |= 1 << (port & 7);
            }
        }
        for (byte, bits) in self.0.bytes().iter().zip(bits) {
            byte.store(bits, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Private(Vec<AtomicU8>);

    impl ClaimedPorts for Private {
        fn bytes(&self) -> &[AtomicU8] {
            &self.0
        }
    }

    fn set(claims: &Claims) -> Vec<(usize, u16)> {
        let bytes = claims.0.bytes().iter().map(|byte| byte.load(Ordering::Relaxed));
        let bits = bytes.enumerate().flat_map(|(at, byte)| {
            (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| at * 8 + bit)
        });
        bits.map(|bit| (bit / 65_536, u16::try_from(bit % 65_536).unwrap())).collect()
    }

    #[test]
    fn each_port_of_each_protocol_has_a_bit_of_its_own() {
        let bytes = (0..CLAIMED_BYTES).map(|_| AtomicU8::new(0)).collect();
        let claims = Claims(Arc::new(Private(bytes)));
        let all = [(0, 0), (0, 65_535), (1, 7), (1, 8), (4, 0), (4, 65_535)];
        for (index, port) in all {
            claims.add(index, core::iter::once(port));
        }
        claims.add(CLAIMED_PROTOCOLS.len(), 0..=u16::MAX);
        assert_eq!(set(&claims), all);
        claims.replace([(1, 8), (3, 3), (5, 5)].into_iter());
        assert_eq!(set(&claims), [(1, 8), (3, 3)]);
    }
}
