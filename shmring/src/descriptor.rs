//! Descriptors, positions, and what a peer can do wrong with them.
//!
//! ```text
//!   bit 63        52 51                36 35        24 23                         0
//!      +------------+--------------------+------------+----------------------------+
//!      | flags (12) |    length (16)     | offset (12)|         slot (24)          |
//!      +------------+--------------------+------------+----------------------------+
//! ```
//!
//! - A descriptor is one word, so one load reads it and there is nothing to read twice.
//! - A [`RawDescriptor`] is what a peer wrote and carries no promise. Only an owner check
//!   ([`Pool`](crate::pool::Pool) in the daemon, the mapped segments in a client) turns it into
//!   something that names memory.

use thiserror::Error;

/// Slots that one arena can number.
pub const MAX_SLOTS: u32 = 1 << 24;
/// Largest offset of a frame in its slot, in bytes.
pub const MAX_OFFSET: u16 = (1 << 12) - 1;

/// Where a frame lies: a slot, and the frame's place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RawDescriptor(pub u64);

impl RawDescriptor {
    /// Packs a descriptor with no flags. Bits beyond a field's width are cut off: `slot` to 24 bits,
    /// `offset` to 12.
    #[must_use]
    pub const fn new(slot: u32, offset: u16, length: u16) -> Self {
        Self(
            (slot & (MAX_SLOTS - 1)) as u64
                | ((offset & MAX_OFFSET) as u64) << 24
                | (length as u64) << 36,
        )
    }

    /// Slot number, 0..2^24.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "masked to 24 bits")]
    pub const fn slot(self) -> u32 {
        self.0 as u32 & (MAX_SLOTS - 1)
    }

    /// Offset of the first byte in the slot, 0..4096.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "masked to 12 bits")]
    pub const fn offset(self) -> u16 {
        (self.0 >> 24) as u16 & MAX_OFFSET
    }

    /// Length in bytes.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a field of 16 bits")]
    pub const fn length(self) -> u16 {
        (self.0 >> 36) as u16
    }

    /// Flags: what of the frame is left to do, as [`Offload`](crate::offload::Offload) reads them.
    #[must_use]
    pub const fn flags(self) -> u16 {
        (self.0 >> 52) as u16
    }

    /// The same with these flags, 12 bits.
    #[must_use]
    pub const fn with_flags(self, flags: u16) -> Self {
        Self(self.0 & ((1 << 52) - 1) | (flags as u64) << 52)
    }
}

/// What a peer did wrong. A fault is never repaired: the session that committed it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// The producer claims more cells than its ring has.
    #[error("{ring} ring: peer claims {claimed} descriptors in a ring of {capacity}")]
    Overrun {
        /// Which ring.
        ring: RingName,
        /// Cells that would be in use.
        claimed: u32,
        /// Cells that there are.
        capacity: u32,
    },
    /// A position went back, or a consumer took what was never published.
    #[error("{ring} ring: peer moved its position by {moved}, at most {most} was possible")]
    Position {
        /// Which ring.
        ring: RingName,
        /// Distance that it moved, modulo 2^32.
        moved: u32,
        /// Largest distance that it could have moved.
        most: u32,
    },
    /// A slot number that does not exist.
    #[error("{ring} ring: peer names slot {slot} of {count}")]
    NoSuchSlot {
        /// Which ring.
        ring: RingName,
        /// The slot named.
        slot: u32,
        /// Slots that there are.
        count: u32,
    },
    /// A slot that the peer does not hold.
    #[error("{ring} ring: peer names slot {slot}, which it does not hold")]
    NotHeld {
        /// Which ring.
        ring: RingName,
        /// The slot named.
        slot: u32,
    },
    /// An offset and length that do not lie within a slot, or a length that no frame has.
    #[error(
        "{ring} ring: peer describes {length} bytes at offset {offset} of a slot of {slot_size} bytes"
    )]
    OutOfSlot {
        /// Which ring.
        ring: RingName,
        /// First byte.
        offset: u16,
        /// Number of bytes.
        length: u16,
        /// Bytes in a slot.
        slot_size: u32,
    },
    /// Flags that are not defined.
    #[error("{ring} ring: peer sets unknown flags {flags:#x}")]
    UnknownFlags {
        /// Which ring.
        ring: RingName,
        /// The flags.
        flags: u16,
    },
}

/// The four rings of a queue pair, named as in `AF_XDP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RingName {
    /// Frames to the client.
    Rx,
    /// Slots that the client gives back.
    Fill,
    /// Frames from the client.
    Tx,
    /// Sent slots given back to the client.
    Completion,
}

impl core::fmt::Display for RingName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Rx => "rx",
            Self::Fill => "fill",
            Self::Tx => "tx",
            Self::Completion => "completion",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_as_packed() {
        for slot in [0, 1, MAX_SLOTS - 1] {
            for offset in [0, 1, MAX_OFFSET] {
                for length in [0, 14, 1514, u16::MAX] {
                    let d = RawDescriptor::new(slot, offset, length);
                    assert_eq!(
                        (d.slot(), d.offset(), d.length(), d.flags()),
                        (slot, offset, length, 0)
                    );
                }
            }
        }
    }

    #[test]
    fn each_bit_belongs_to_one_field() {
        for bit in 0..64 {
            let d = RawDescriptor(1 << bit);
            let set = [d.slot() != 0, d.offset() != 0, d.length() != 0, d.flags() != 0];
            assert_eq!(set.iter().filter(|s| **s).count(), 1, "bit {bit}");
        }
    }
}
