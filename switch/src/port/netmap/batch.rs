//! When a sync is due: seldom while frames come thick, at once while they come one by one.
//!
//! ```text
//!   transmit   burst of less than 64: nothing more waits behind it     sync
//!              full burst: more may follow at once                     keep, up to 256 or half the ring
//!              a whole round without another burst                     sync
//!   receive    nothing is left of the last sync                        sync
//!              half of a ring waits to be given back                   sync: the card needs slots
//! ```
//!
//! A sync costs some microsecond whatever it carries. None is put off for a frame that comes alone, and
//! one that is put off comes at the latest with the second call of `receive` after it.

use super::region::Ring;
use std::io;

/// Frames that are kept at most.
const MOST: usize = 256;

/// Frames in the transmit ring that the kernel has not been told of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Owed {
    frames: usize,
    /// Whether a round has begun since the last burst.
    is_old: bool,
}

impl Owed {
    /// Counts what was put; whether it has to be sent now. `is_full`: a whole burst, and all of it found
    /// room in a ring of `slots`.
    #[inline]
    pub(super) fn add(&mut self, frames: usize, is_full: bool, slots: u32) -> bool {
        self.frames += frames;
        self.is_old = false;
        !is_full || self.frames >= MOST.min(slots as usize / 2)
    }

    /// Called once a round; whether none came in the last one.
    #[inline]
    pub(super) fn is_stale(&mut self) -> bool {
        let is_old = core::mem::replace(&mut self.is_old, true);
        self.frames > 0 && is_old
    }

    /// Whether there are any.
    pub(super) fn any(self) -> bool {
        self.frames > 0
    }
}

/// Whether receive rings have to be synced.
#[inline]
pub(super) fn is_due<'a>(rings: impl Iterator<Item = &'a mut Ring>) -> io::Result<bool> {
    let (mut has_any, mut has_frames) = (false, false);
    for ring in rings {
        has_any = true;
        if ring.available() == 0 {
            // Another port of this device may have synced.
            ring.refresh()?;
        }
        has_frames |= ring.available() > 0;
        if ring.given_back() >= ring.count() / 2 {
            return Ok(true);
        }
    }
    Ok(has_any && !has_frames)
}
