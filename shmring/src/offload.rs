//! What of a frame is left to do: its transport checksum, and cutting it into segments.
//!
//! ```text
//!   descriptor flags   11        2    1       0
//!                     +-----------+------+------+
//!                     | size / 8  | sound| open |
//!                     +-----------+------+------+
//! ```
//!
//! - It lies in the descriptor's own word, so it is read with it, once.
//! - A frame that is to be cut is always open: each of its segments gets a checksum of its own.

use core::num::NonZeroU16;

/// The transport checksum is left open.
pub const OPEN: u16 = 1 << 0;
/// The transport checksum was verified, or the frame never left the machine.
pub const SOUND: u16 = 1 << 1;
/// Lowest bit of the size of segments, in units of [`SEGMENT_UNIT`].
pub const SEGMENT_SHIFT: u32 = 2;
/// Bytes that one unit of the size of segments stands for.
pub const SEGMENT_UNIT: u16 = 8;
/// Largest size of segments that flags can say, in bytes.
pub const MAX_SEGMENT: u16 = ((1 << (12 - SEGMENT_SHIFT)) - 1) * SEGMENT_UNIT;

/// State of a frame's transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// It is there; nobody has verified it.
    #[default]
    There,
    /// It is there, and is known to be right.
    Sound,
    /// It is not there: whatever its field holds says nothing. The payload is known to be right.
    Open,
}

/// What of a frame is left to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Its transport checksum.
    checksum: Checksum,
    /// Bytes of payload of each frame that it is to be cut into.
    segment: Option<NonZeroU16>,
}

impl Offload {
    /// Nothing: the frame is as on the wire.
    pub const NONE: Self = Self { checksum: Checksum::There, segment: None };
    /// Nothing, and its transport checksum is known to be right.
    pub const SOUND: Self = Self { checksum: Checksum::Sound, segment: None };
    /// Its transport checksum.
    pub const OPEN: Self = Self { checksum: Checksum::Open, segment: None };

    /// Cutting it into frames with this much payload each, and their checksums.
    #[must_use]
    pub const fn segments(size: NonZeroU16) -> Self {
        Self { checksum: Checksum::Open, segment: Some(size) }
    }

    /// Its transport checksum.
    #[must_use]
    pub const fn checksum(self) -> Checksum {
        self.checksum
    }

    /// Bytes of payload of each frame that it is to be cut into, if it is.
    #[must_use]
    pub const fn segment(self) -> Option<NonZeroU16> {
        self.segment
    }

    /// Whether somebody has to do something before the frame is as on the wire.
    #[inline]
    #[must_use]
    pub const fn is_unfinished(self) -> bool {
        matches!(self.checksum, Checksum::Open)
    }

    /// As descriptor flags. A size of segments is rounded down to what they can say.
    #[inline]
    #[must_use]
    pub fn to_flags(self) -> u16 {
        let checksum = match self.checksum {
            Checksum::There => 0,
            Checksum::Sound => SOUND,
            Checksum::Open => OPEN,
        };
        let segment = self.segment.map_or(0, |size| size.get().min(MAX_SEGMENT) / SEGMENT_UNIT);
        checksum | segment << SEGMENT_SHIFT
    }

    /// From descriptor flags; `None` if they contradict each other.
    #[inline]
    #[must_use]
    pub fn from_flags(flags: u16) -> Option<Self> {
        let checksum = match flags & (OPEN | SOUND) {
            0 => Checksum::There,
            OPEN => Checksum::Open,
            SOUND => Checksum::Sound,
            _ => return None,
        };
        let segment = NonZeroU16::new((flags >> SEGMENT_SHIFT).saturating_mul(SEGMENT_UNIT));
        (segment.is_none() || checksum == Checksum::Open).then_some(Self { checksum, segment })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_back_as_they_were() {
        let mut fine = 0;
        for flags in 0..1 << 12 {
            if let Some(offload) = Offload::from_flags(flags) {
                assert_eq!(offload.to_flags(), flags);
                assert_eq!(offload.is_unfinished(), flags & OPEN != 0);
                fine += 1;
            }
        }
        // Open with any size of segments or none, sound, and none.
        assert_eq!(fine, 1024 + 2);
    }

    #[test]
    fn a_size_of_segments_becomes_smaller_and_never_larger() {
        for size in [8, 9, 536, 1440, 1448, 1460, 8948, u16::MAX] {
            let offload = Offload::segments(NonZeroU16::new(size).unwrap());
            let back = Offload::from_flags(offload.to_flags()).unwrap().segment().unwrap().get();
            assert!(back <= size && (size > MAX_SEGMENT || size - back < SEGMENT_UNIT), "{size}");
        }
    }
}
