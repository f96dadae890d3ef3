//! Frames in two slots: a head that the daemon wrote, and the rest where its client has it.
//!
//! ```text
//!   ClientFrame   | headers | payload .................. |     the client may write this at any time
//!                     copied once, judged     |
//!   join     ->   Frame: | head |       Tail: | payload .. |   sent from here, never read here
//!   release_tail, free, give_up  ->  the client's slot is on its way home
//! ```
//!
//! - By the ledger the head is `Joined`, so no function for ordinary frames shows, lends or copies it: whoever
//!   does not know of tails sees an empty frame.
//! - A tail is kept privately, by the number of the head's slot. It leaves that place exactly once.
//! - Slots that are on their way home wait here until [`Pool::take_released`]. There is room for twice as many
//!   as there can be heads, and none is joined while half of it is used, so nothing is allocated on the way.

use super::{ClientFrame, Frame, Pool};
use crate::descriptor::RawDescriptor;
use crate::ledger::{Owner, SessionId};

/// Where the rest of a frame lies: in a client's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The client's slot.
    pub slot: u32,
    /// Where it begins there, in bytes.
    pub offset: u16,
    /// Its bytes.
    pub length: u16,
}

/// The tails of all heads.
#[derive(Debug, Default)]
pub(super) struct Tails {
    /// First slot of the port's segment.
    first: u32,
    /// By slot of the head.
    parts: Box<[Option<ClientFrame>]>,
    released: Vec<(SessionId, RawDescriptor)>,
}

impl Tails {
    fn place(&mut self, head: u32) -> Option<&mut Option<ClientFrame>> {
        self.parts.get_mut(head.wrapping_sub(self.first) as usize)
    }
}

impl Pool {
    /// Makes room for tails, for ports that send such frames. Allocates; a second time nothing happens.
    pub fn allow_tails(&mut self) {
        let Some(home) = self.home(self.port.0).filter(|_| self.tails.parts.is_empty()) else {
            return;
        };
        let segment = home.range.segment();
        let (first, count) = (segment.first(), segment.count() as usize);
        let parts = core::iter::repeat_with(|| None).take(count).collect();
        self.tails = Tails { first, parts, released: Vec::with_capacity(2 * count) };
    }

    /// Makes a frame of the client's whose first `length` bytes lie in a slot of the port home: `head`, which
    /// was copied from them and judged, and what follows it, copied now. The rest stays where it is.
    ///
    /// # Errors
    /// The client's frame, if there is no free slot, no room for tails, or nothing would be left for a tail.
    #[inline]
    pub fn join(
        &mut self,
        head: &[u8],
        frame: ClientFrame,
        length: u16,
    ) -> Result<Frame, ClientFrame> {
        let is_possible = frame.length > length && head.len() <= usize::from(length);
        if !is_possible || self.tails.released.len() >= self.tails.parts.len() {
            return Err(frame);
        }
        let Some(mut first) = self.alloc() else { return Err(frame) };
        let slot = first.slot;
        let has_place = self.tails.place(slot).is_some_and(|place| place.is_none());
        if !has_place
            || !self.copy_first(head, &frame, &mut first, length)
            || self.ledger.change(slot, Owner::Daemon, Owner::Joined).is_err()
        {
            self.free(first);
            return Err(frame);
        }
        let ClientFrame { slot: of_client, offset, length: all, of } = frame;
        // In the slot: `copy_first` has asked the ledger and looked at where the frame ends.
        let (offset, rest) = (offset.saturating_add(length), all - length);
        if let Some(place) = self.tails.place(slot) {
            *place = Some(ClientFrame { slot: of_client, offset, length: rest, of });
        }
        Ok(first)
    }

    /// Whether the frame goes on in a client's slot.
    #[inline]
    #[must_use]
    pub fn is_joined(&self, frame: &Frame) -> bool {
        self.ledger.is(frame.slot, Owner::Joined)
    }

    /// Where the rest of the frame lies, if it has one.
    #[inline]
    #[must_use]
    pub fn tail(&self, frame: &Frame) -> Option<Tail> {
        if !self.is_joined(frame) {
            return None;
        }
        let place = self.tails.parts.get(frame.slot.wrapping_sub(self.tails.first) as usize);
        let ClientFrame { slot, offset, length, .. } = *place?.as_ref()?;
        Some(Tail { slot, offset, length })
    }

    /// Parts the frame from its rest, whose slot is on its way home from now on. Whether it had one.
    #[inline]
    pub fn release_tail(&mut self, frame: &Frame) -> bool {
        if self.ledger.change(frame.slot, Owner::Joined, Owner::Daemon).is_err() {
            return false;
        }
        let Some(tail) = self.tails.place(frame.slot).and_then(Option::take) else { return false };
        if let Some(released) = self.complete(tail) {
            self.tails.released.push(released);
        }
        true
    }

    /// Frees a frame that has a tail.
    #[cold]
    pub(super) fn free_joined(&mut self, frame: Frame) {
        self.release_tail(&frame);
        self.free(frame);
    }

    /// The next of the slots that are on their way home: whose completion ring it is for, and what to put
    /// there.
    #[inline]
    pub fn take_released(&mut self) -> Option<(SessionId, RawDescriptor)> {
        self.tails.released.pop()
    }

    /// Whether [`take_released`](Self::take_released) has any.
    #[inline]
    #[must_use]
    pub fn has_released(&self) -> bool {
        !self.tails.released.is_empty()
    }
}
