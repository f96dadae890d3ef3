//! Slots that several sessions hold at once: what goes to many that read the port's slots is lent, not copied.
//!
//! ```text
//!   lend_to_all(frame, [3, 5, 9])   ledger: Shared(place)     place: slot, {3, 5, 9}
//!   5 gives it back                                           place: slot, {3, 9}
//!   9 ends, 3 gives it back         ledger: Free              place: free
//! ```
//!
//! - A place names each of its receivers once; who is not named there, or not any more, does not hold the slot.
//! - Whoever is the last gives the slot home, by giving it back or by its end.
//! - There is a fixed number of places, each with a fixed number of receivers. Where these do not do, nothing is lent and
//!   the frame stays with the caller, who copies it.
//! - Only slots of the port home are lent so, which no client can write.

use super::{Frame, Pool, Returned};
use crate::descriptor::RawDescriptor;
use crate::ledger::{Owner, SessionId};

/// Most sessions that one slot is lent to.
pub const MOST_RECEIVERS: usize = 16;
/// Places that a pool can have: as many as a ledger entry can name.
pub const MOST_SHARED: u16 = 0x2000;

/// A slot that is lent to several.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    slot: u32,
    /// How many of `receivers` still hold it; 0 in a place that is free.
    count: usize,
    receivers: [SessionId; MOST_RECEIVERS],
}

impl Share {
    /// Takes a session out, if it is there.
    fn remove(&mut self, session: SessionId) -> bool {
        let held = self.receivers.get(..self.count).unwrap_or_default();
        let Some(at) = held.iter().position(|receiver| *receiver == session) else { return false };
        self.count -= 1;
        // The last one that holds it fills the gap.
        self.receivers.swap(at, self.count);
        true
    }
}

/// The side table of the ledger.
#[derive(Debug, Default)]
pub(super) struct Shares {
    places: Box<[Share]>,
    /// Numbers of free places; there is room for all.
    free: Vec<u16>,
}

impl Pool {
    /// Makes room for so many slots that are lent to several, at most [`MOST_SHARED`]. Allocates; a second time nothing
    /// happens.
    pub fn allow_shared(&mut self, places: u16) {
        if self.shares.places.is_empty() {
            let places = places.min(MOST_SHARED);
            self.shares.places = vec![Share::default(); places.into()].into_boxed_slice();
            self.shares.free = (0..places).rev().collect();
        }
    }

    /// Lends a frame to several sessions at once; the descriptor is for the rx ring of each. Each gives the slot back
    /// once.
    ///
    /// # Errors
    /// The frame, and nothing is lent: there is no place, it is no frame of the port home, or `to` is not two to
    /// [`MOST_RECEIVERS`] sessions in ascending order.
    pub fn lend_to_all(&mut self, frame: Frame, to: &[SessionId]) -> Result<RawDescriptor, Frame> {
        let is_ascending = to.is_sorted_by(|one, next| one < next);
        let is_of_port = self.ledger.home(frame.slot) == self.port.0;
        let Some(place) = self.shares.free.last().copied() else { return Err(frame) };
        let Some(share) = self.shares.places.get_mut(usize::from(place)) else { return Err(frame) };
        let Some(receivers) = share.receivers.get_mut(..to.len()) else { return Err(frame) };
        if to.len() < 2 || !is_ascending || !is_of_port {
            return Err(frame);
        }
        let shared = Owner::Shared(place);
        if self.ledger.change(frame.slot, Owner::Daemon, shared).is_err() {
            return Err(frame);
        }
        receivers.copy_from_slice(to);
        (share.slot, share.count) = (frame.slot, to.len());
        self.shares.free.pop();
        Ok(RawDescriptor::new(frame.slot, frame.offset, frame.length))
    }

    /// Takes a slot back that `session` holds together with others. `None` if it does not hold it so.
    pub(super) fn take_back_shared(&mut self, session: SessionId, slot: u32) -> Option<Returned> {
        let Owner::Shared(place) = self.ledger.owner(slot) else { return None };
        let share = self.shares.places.get_mut(usize::from(place))?;
        if share.slot != slot || !share.remove(session) {
            return None;
        }
        Some(self.free_if_last(place))
    }

    /// Brings a slot home that nobody holds any more.
    fn free_if_last(&mut self, place: u16) -> Returned {
        let share = self.shares.places.get(usize::from(place));
        let Some(slot) = share.filter(|share| share.count == 0).map(|share| share.slot) else {
            return Returned::Shared;
        };
        let Ok(home) = self.ledger.change(slot, Owner::Shared(place), Owner::Free) else {
            return Returned::Shared;
        };
        self.shares.free.push(place);
        self.send_home(slot, home)
    }

    /// Takes back what an ended session held together with others. Returns how many slots came home.
    pub(super) fn end_shares(&mut self, session: SessionId) -> u32 {
        let mut home = 0;
        for place in (0..MOST_SHARED).take(self.shares.places.len()) {
            let share = self.shares.places.get_mut(usize::from(place));
            if share.is_some_and(|share| share.count > 0 && share.remove(session)) {
                home += u32::from(self.free_if_last(place) == Returned::Free);
            }
        }
        home
    }
}
