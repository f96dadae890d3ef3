//! A frame for many: one slot lent to all that read the port's slots, copies for the others.
//!
//! ```text
//!   Frame --may_share?--> Several: lend_to_all, one descriptor on the rx ring of each
//!              |
//!              +--no----> a copy each: isolated, an unfinished frame, a ring without room, more than 16, who captures
//! ```
//!
//! Where no place is left for a slot that several hold, all get copies, as if there were none.

use super::{Deliver, rx_room};
use crate::verdict::DropReason;
use usnet_shmring::ledger::SessionId;
use usnet_shmring::pool::{Frame, MOST_RECEIVERS};

/// Slots that may be lent to several at a time, of each worker.
pub(super) const SHARED_SLOTS: u16 = 512;

/// Sessions that one slot can be lent to.
#[derive(Debug, Default)]
pub(crate) struct Several {
    ids: [SessionId; MOST_RECEIVERS],
    count: usize,
}

impl Several {
    /// Adds one more, which is not there yet; whether there was room.
    pub(crate) fn push(&mut self, id: SessionId) -> bool {
        let Some(place) = self.ids.get_mut(self.count) else { return false };
        *place = id;
        self.count += 1;
        true
    }

    /// The last one, if it is alone: nobody is there to share with.
    pub(crate) fn take_single(&mut self) -> Option<SessionId> {
        let [only] = self.ids.get(..self.count)? else { return None };
        self.count = 0;
        Some(*only)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl Deliver {
    /// Whether a session can get a frame in a slot that others hold, too.
    pub(crate) fn may_share(&mut self, id: SessionId, frame: &Frame) -> bool {
        if self.tap.is_some() || frame.offload().is_unfinished() {
            return false;
        }
        // What else there is to say of a session is said where it gets a copy.
        self.session_mut(id).is_some_and(|session| {
            session.receive.is_none()
                && !session.holds_too_many()
                && matches!(rx_room(session), Ok(true))
        })
    }

    /// Delivers a frame to all of these, each of which [may share](Self::may_share) it.
    pub(crate) fn to_several(&mut self, frame: Frame, several: &mut Several) {
        let Some(ids) = several.ids.get_mut(..several.count) else {
            return self.drop_frame(frame, DropReason::NoSlot);
        };
        ids.sort_unstable();
        let (length, offload) = (frame.len() as u64, frame.offload());
        let raw = match self.pool.lend_to_all(frame, ids) {
            Ok(raw) => raw,
            Err(frame) => return self.copy_to_each(frame, ids),
        };
        self.totals.generated += ids.len() as u64 - 1;
        for id in ids.iter().copied() {
            let Self { pool, sessions, totals, touched, .. } = self;
            let session = sessions.get_mut(usize::from(id.0)).and_then(Option::as_deref_mut);
            let pushed = session.is_some_and(|session| {
                let flags = if session.offload { offload.to_flags() } else { 0 };
                let is_there = session.queues.rx.push(raw.with_flags(flags)).is_ok();
                if is_there {
                    session.held += 1;
                    session.counters.delivered += 1;
                    session.counters.delivered_bytes += length;
                    Self::touch(touched, session);
                }
                is_there
            });
            if pushed {
                totals.to_clients += 1;
            } else {
                // It was there and had room a moment ago.
                let _ = pool.take_back(id, raw);
                totals.dropped.add(DropReason::NoSlot, 1);
            }
        }
    }

    #[cold]
    fn copy_to_each(&mut self, frame: Frame, ids: &[SessionId]) {
        let Some((last, others)) = ids.split_last() else { return self.consume(frame) };
        for id in others {
            if let Some(copy) = self.duplicate(&frame) {
                self.to_client(copy, *id);
            }
        }
        self.to_client(frame, *last);
    }
}
