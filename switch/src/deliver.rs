//! Stage 3 of a frame's way: into a client's rx ring or a port's burst.
//!
//! ```text
//!   Frame        -> shared client    lent as it lies
//!                -> isolated client  copied into a slot of its own receive pool
//!                -> port             appended to the port's burst
//!                -> several shared   one slot lent to all (`many`)
//!   ClientFrame  -> same group       lent on as it lies
//!                -> anyone else      vetted head + rest copied into a slot; the slot is completed
//!                -> port that sends  vetted head copied into a slot, the rest sent where it lies; the slot
//!                   from it          is completed when that is done
//! ```
//!
//! - What of a frame is left to do is done here, in software, for a receiver that does not do it ([`Deliver::finish`]).
//! - Rings are written frame by frame and published once a burst, with at most one wake-up for each
//!   receiver ([`Deliver::flush`]).
//! - Every frame that comes in here is counted once: delivered, handed to a port's burst, or dropped
//!   with a reason. Every slot goes on or back.

mod many;

pub(crate) use many::Several;

use crate::capture::Tap;
use crate::classify::{FIRST_LEN, HEAD_LEN, Protocol};
use crate::offload::{Cut, Parts, close};
use crate::port::{BURST, Burst};
use crate::session::Session;
use crate::stats::Totals;
use crate::verdict::DropReason;
use usnet_shmring::descriptor::{Fault, RawDescriptor, RingName};
use usnet_shmring::ledger::SessionId;
use usnet_shmring::offload::{Checksum, Offload};
use usnet_shmring::pool::{ClientFrame, Frame, Pool, Returned};

/// A client's frame on its way: the token and the private copy of its head that is judged.
#[derive(Debug)]
pub(crate) struct Sent<'a> {
    pub(crate) frame: ClientFrame,
    /// What the client leaves to others to do.
    pub(crate) offload: Offload,
    buffer: &'a mut [u8; HEAD_LEN],
    known: usize,
}

impl<'a> Sent<'a> {
    /// Takes a frame over from a client's tx ring and copies the beginning of its head.
    #[inline(always)]
    pub(crate) fn accept(
        pool: &mut Pool,
        from: &Session,
        raw: RawDescriptor,
        buffer: &'a mut [u8; HEAD_LEN],
    ) -> Result<Self, Fault> {
        let (raw, offload) = match raw.flags() {
            // Refused there, if there are any.
            _ if !from.offload => (raw, Offload::NONE),
            flags => match Offload::from_flags(flags) {
                // A client says of no frame of its own that it was verified.
                Some(offload) if offload.checksum() != Checksum::Sound => {
                    (raw.with_flags(0), offload)
                }
                _ => return Err(Fault::UnknownFlags { ring: RingName::Tx, flags }),
            },
        };
        let first = buffer.first_chunk_mut::<FIRST_LEN>().map_or(&mut [][..], |first| first);
        let (frame, known) = pool.accept_head(from.id, raw, first)?;
        Ok(Self { frame, offload, buffer, known })
    }

    /// What was copied. Each byte was read once: what is judged is what is sent on.
    #[inline(always)]
    pub(crate) fn head(&self) -> &[u8] {
        self.buffer.get(..self.known).unwrap_or_default()
    }

    /// What was copied, and the frame.
    #[inline]
    pub(crate) fn into_parts(self) -> (&'a [u8], ClientFrame) {
        let Self { frame, buffer, known, .. } = self;
        (buffer.get(..known).unwrap_or_default(), frame)
    }

    /// Reads the frame for those who capture: the head as it is judged, and what lies behind it now.
    pub(crate) fn read(&self, pool: &Pool, into: &mut [u8]) -> usize {
        let count = into.len().min(self.known);
        let Some((head, rest)) = into.split_at_mut_checked(count) else { return 0 };
        head.copy_from_slice(self.head().get(..count).unwrap_or_default());
        let at = u16::try_from(count).unwrap_or(u16::MAX);
        count + pool.snapshot(&self.frame, at, rest)
    }

    /// Copies the rest of the head, for a frame that the beginning does not decide.
    pub(crate) fn read_on(&mut self, pool: &Pool) {
        if let Some(rest) = self.buffer.get_mut(self.known..)
            && let Ok(at) = u16::try_from(self.known)
        {
            self.known += pool.snapshot(&self.frame, at, rest);
        }
    }
}

/// Everything that delivery needs.
#[derive(Debug)]
pub(crate) struct Deliver {
    pub(crate) pool: Pool,
    pub(crate) totals: Totals,
    sessions: Vec<Option<Box<Session>>>,
    /// Sessions with something to publish.
    touched: Vec<SessionId>,
    /// Sessions that committed a fault, to be ended after the burst.
    pub(crate) faulted: Vec<(SessionId, Fault)>,
    /// Who captures, if anybody does.
    pub(crate) tap: Option<Box<Tap>>,
}

impl Deliver {
    pub(crate) fn new(mut pool: Pool) -> Self {
        pool.allow_shared(many::SHARED_SLOTS);
        Self {
            pool,
            totals: Totals::default(),
            sessions: Vec::new(),
            touched: Vec::new(),
            faulted: Vec::new(),
            tap: None,
        }
    }

    // ---- sessions ----

    /// Puts a session in its place; gives it back if the place is taken.
    pub(crate) fn insert(&mut self, session: Box<Session>) -> Result<(), Box<Session>> {
        let index = usize::from(session.id.0);
        if self.sessions.len() <= index {
            self.sessions.resize_with(index + 1, || None);
            // `touch` and `fault` never allocate: each session is on each list at most once.
            self.touched.reserve(self.sessions.len());
            self.faulted.reserve(2 * self.sessions.len());
        }
        match self.sessions.get_mut(index) {
            Some(place @ None) => {
                *place = Some(session);
                Ok(())
            }
            _ => Err(session),
        }
    }

    /// Takes a session out, for as long as its own rings are worked on, or for good.
    #[inline]
    pub(crate) fn take(&mut self, id: SessionId) -> Option<Box<Session>> {
        self.sessions.get_mut(usize::from(id.0))?.take()
    }

    /// Puts a session back that was taken out for a while.
    #[inline]
    pub(crate) fn put_back(&mut self, session: Box<Session>) {
        if let Some(place) = self.sessions.get_mut(usize::from(session.id.0)) {
            *place = Some(session);
        }
    }

    #[inline]
    pub(crate) fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(usize::from(id.0))?.as_deref_mut()
    }

    /// Whether a session configures its stack by what the network says.
    pub(crate) fn configures(&self, id: SessionId) -> bool {
        let session = self.sessions.get(usize::from(id.0)).and_then(Option::as_deref);
        session.is_some_and(|session| session.may.dhcp)
    }

    pub(crate) fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().flatten().map(Box::as_ref)
    }

    pub(crate) fn sessions_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.sessions.iter_mut().flatten().map(Box::as_mut)
    }

    #[inline]
    fn touch(touched: &mut Vec<SessionId>, session: &mut Session) {
        if !session.touched {
            session.touched = true;
            touched.push(session.id);
        }
    }

    pub(crate) fn fault(&mut self, id: SessionId, fault: Fault) {
        if self.faulted.iter().all(|(other, _)| *other != id) {
            self.faulted.push((id, fault));
        }
    }

    // ---- ends of a frame's way ----

    /// Drops a frame.
    #[inline]
    pub(crate) fn drop_frame(&mut self, frame: Frame, reason: DropReason) {
        if let Some(tap) = &mut self.tap {
            tap.see_dropped(self.pool.bytes(&frame), reason);
        }
        self.totals.dropped.add(reason, 1);
        self.pool.free(frame);
    }

    /// Uses a frame up: the switch has answered it, or its content is known already.
    #[inline]
    pub(crate) fn consume(&mut self, frame: Frame) {
        self.totals.consumed += 1;
        self.pool.free(frame);
    }

    /// Appends a frame to a port's burst.
    #[inline]
    pub(crate) fn to_port(&mut self, out: &mut Burst, frame: Frame) {
        if let Err(frame) = out.push(frame) {
            self.drop_frame(frame, DropReason::PortFull);
        }
    }

    /// A copy of a frame for one more receiver, counted as generated. `None` is counted as well: as
    /// generated and dropped.
    pub(crate) fn duplicate(&mut self, frame: &Frame) -> Option<Frame> {
        self.totals.generated += 1;
        let copy = self.pool.alloc().and_then(|mut copy| {
            if self.pool.copy(frame, &mut copy) {
                return Some(copy);
            }
            self.pool.free(copy);
            None
        });
        if copy.is_none() {
            self.totals.dropped.add(DropReason::NoSlot, 1);
        }
        copy
    }

    /// A daemon's copy of a client's frame, its head as it was judged; the token stays.
    pub(crate) fn copy_sent(&mut self, sent: &Sent<'_>) -> Option<Frame> {
        self.copy_sent_behind(sent, 0)
    }

    /// The same with so many bytes of room before it, if the slot has these.
    #[inline]
    pub(crate) fn copy_sent_behind(&mut self, sent: &Sent<'_>, room: u16) -> Option<Frame> {
        let mut copy = self.pool.alloc()?;
        if room > 0 && sent.frame.len() + usize::from(room) <= self.pool.slot_size() {
            self.pool.set_window(&mut copy, room, 0);
        }
        if self.pool.copy_vetted(sent.head(), &sent.frame, &mut copy) {
            copy.set_offload(sent.offload);
            return Some(copy);
        }
        self.pool.free(copy);
        None
    }

    /// Gives a client's slot back. `sender` is taken out of its place at this time.
    #[inline]
    pub(crate) fn complete(&mut self, sender: &mut Session, frame: ClientFrame) {
        if let Some((_, raw)) = self.pool.complete(frame) {
            // There is room: a burst is never larger than the room that is left when every slot
            // that is away has come back.
            let _ = sender.queues.completion.push(raw);
            Self::touch(&mut self.touched, sender);
        }
    }

    /// A frame that a client has sent, for those who capture.
    #[cold]
    pub(crate) fn see_sent(&mut self, from: SessionId, sent: &Sent<'_>) {
        if let Some(tap) = &mut self.tap {
            tap.see_sent(from, sent.frame.len(), None, |into| sent.read(&self.pool, into));
        }
    }

    /// Drops a client's frame.
    #[inline]
    pub(crate) fn drop_sent(&mut self, from: &mut Session, frame: ClientFrame, reason: DropReason) {
        if let Some(tap) = &mut self.tap {
            let read = |into: &mut [u8]| self.pool.snapshot(&frame, 0, into);
            tap.see_sent(from.id, frame.len(), Some(reason), read);
        }
        self.totals.dropped.add(reason, 1);
        from.counters.dropped_from.add(reason, 1);
        self.complete(from, frame);
    }

    /// Does what is left to do of a frame, and hands on what comes of it.
    #[inline(never)]
    pub(crate) fn finish(&mut self, mut frame: Frame, mut each: impl FnMut(&mut Self, Frame)) {
        let Some(size) = frame.offload().segment() else {
            if !close(self.pool.bytes_mut(&mut frame)) {
                return self.drop_frame(frame, DropReason::Malformed);
            }
            frame.set_offload(Offload::SOUND);
            return each(self, frame);
        };
        let bytes = self.pool.bytes(&frame);
        let cut = Cut::of(bytes, bytes.len(), size);
        let mut copy = [0; HEAD_LEN];
        let parts = cut.and_then(|cut| {
            let (copy, headers) = (copy.get_mut(..cut.header())?, bytes.get(..cut.header())?);
            copy.copy_from_slice(headers);
            Some((cut, copy))
        });
        let Some((cut, headers)) = parts else {
            return self.drop_frame(frame, DropReason::Malformed);
        };
        for piece in 0..cut.pieces() {
            self.totals.generated += 1;
            let Some(mut made) = self.pool.alloc() else {
                self.totals.dropped.add(DropReason::NoSlot, 1);
                continue;
            };
            let (at, length) = cut.payload(piece);
            if self.pool.fill_from(&mut made, headers, &frame, at, length)
                && cut.finish(piece, self.pool.bytes_mut(&mut made))
            {
                made.set_offload(Offload::SOUND);
                each(self, made);
            } else {
                self.drop_frame(made, DropReason::TooLong);
            }
        }
        self.consume(frame);
    }

    /// Whether a client takes a frame with this left to do. Datagrams are always handed to it one by one.
    #[inline]
    fn takes(&self, to: SessionId, offload: Offload, head: &[u8], length: usize) -> bool {
        let has_agreed = |session: &Session| session.offload;
        let session = self.sessions.get(usize::from(to.0)).and_then(Option::as_deref);
        session.is_some_and(has_agreed)
            && (offload.segment().is_none()
                || Parts::of(head, length).is_some_and(|p| p.flow.protocol == Protocol::TCP))
    }

    /// Delivers a frame to a client.
    #[inline]
    pub(crate) fn to_client(&mut self, frame: Frame, to: SessionId) {
        if frame.offload().is_unfinished() {
            let bytes = self.pool.bytes(&frame);
            if !self.takes(to, frame.offload(), bytes, bytes.len()) {
                return self.finish(frame, |deliver, done| deliver.to_client_as_is(done, to));
            }
        }
        self.to_client_as_is(frame, to);
    }

    #[inline]
    fn to_client_as_is(&mut self, frame: Frame, to: SessionId) {
        let Self { pool, sessions, totals, touched, tap, .. } = self;
        let Some(Some(session)) = sessions.get_mut(usize::from(to.0)) else {
            return self.drop_frame(frame, DropReason::SessionEnded);
        };
        if let Some(tap) = tap {
            let bytes = pool.bytes(&frame);
            tap.hold(to, bytes.len(), |into| {
                into.iter_mut().zip(bytes).map(|(to, from)| *to = *from).count()
            });
        }
        let length = frame.len() as u64;
        let flags = if session.offload { frame.offload().to_flags() } else { 0 };
        let reason = match rx_room(session) {
            Ok(true) if session.holds_too_many() => {
                pool.free(frame);
                DropReason::TooManyHeld
            }
            Ok(true) => {
                let lent = match session.receive {
                    None => pool.lend(frame, to),
                    Some(home) => match pool.alloc_from(home) {
                        Some(mut own) => {
                            pool.copy(&frame, &mut own);
                            pool.free(frame);
                            pool.lend(own, to)
                        }
                        None => {
                            pool.free(frame);
                            None
                        }
                    },
                };
                match lent.map(|raw| session.queues.rx.push(raw.with_flags(flags))) {
                    Some(Ok(())) => {
                        totals.to_clients += 1;
                        session.held += 1;
                        session.counters.delivered += 1;
                        session.counters.delivered_bytes += length;
                        Self::touch(touched, session);
                        if let Some(tap) = tap {
                            tap.release(to, None);
                        }
                        return;
                    }
                    _ => DropReason::NoSlot,
                }
            }
            Ok(false) => {
                pool.free(frame);
                DropReason::RingFull
            }
            Err(fault) => {
                pool.free(frame);
                self.fault(to, fault);
                self.totals.dropped.add(DropReason::SessionEnded, 1);
                return;
            }
        };
        if let Some(tap) = tap {
            tap.release(to, Some(reason));
        }
        totals.dropped.add(reason, 1);
        session.counters.dropped_to.add(reason, 1);
    }

    /// Delivers a client's frame to another client and gives or lends its slot on.
    #[inline]
    pub(crate) fn sent_to_client(&mut self, from: &mut Session, sent: Sent<'_>, to: SessionId) {
        if sent.offload.is_unfinished()
            && !self.takes(to, sent.offload, sent.head(), sent.frame.len())
        {
            let Some(copy) = self.copy_sent(&sent) else {
                return self.drop_sent(from, sent.frame, DropReason::NoSlot);
            };
            self.complete(from, sent.frame);
            return self.to_client(copy, to);
        }
        let Self { pool, sessions, totals, touched, tap, .. } = self;
        let Some(Some(session)) = sessions.get_mut(usize::from(to.0)) else {
            return self.drop_sent(from, sent.frame, DropReason::SessionEnded);
        };
        if let Some(tap) = tap {
            tap.hold(to, sent.frame.len(), |into| sent.read(pool, into));
        }
        let length = sent.frame.len() as u64;
        let flags = if session.offload { sent.offload.to_flags() } else { 0 };
        let reason = match rx_room(session) {
            Ok(true) if session.holds_too_many() => DropReason::TooManyHeld,
            Ok(true) => {
                let passes = from.shares_with(session);
                let (lent, back) = if passes {
                    match pool.pass(sent.frame, to) {
                        Ok(raw) => (Some(raw), None),
                        Err(frame) => (None, Some(frame)),
                    }
                } else {
                    let home = session.receive.unwrap_or(pool.port_home());
                    let lent = pool.alloc_from(home).and_then(|mut own| {
                        pool.copy_vetted(sent.head(), &sent.frame, &mut own);
                        pool.lend(own, to)
                    });
                    (lent, Some(sent.frame))
                };
                let delivered =
                    lent.is_some_and(|raw| session.queues.rx.push(raw.with_flags(flags)).is_ok());
                if let Some(tap) = tap {
                    tap.release(to, (!delivered).then_some(DropReason::NoSlot));
                }
                if delivered {
                    totals.to_clients += 1;
                    session.held += 1;
                    session.counters.delivered += 1;
                    session.counters.delivered_bytes += length;
                    Self::touch(touched, session);
                } else {
                    totals.dropped.add(DropReason::NoSlot, 1);
                    session.counters.dropped_to.add(DropReason::NoSlot, 1);
                }
                if let Some(frame) = back {
                    self.complete(from, frame);
                }
                return;
            }
            Ok(false) => DropReason::RingFull,
            Err(fault) => {
                self.fault(to, fault);
                return self.drop_sent(from, sent.frame, DropReason::SessionEnded);
            }
        };
        if let Some(tap) = tap {
            tap.release(to, Some(reason));
        }
        session.counters.dropped_to.add(reason, 1);
        totals.dropped.add(reason, 1);
        self.complete(from, sent.frame);
    }

    // ---- rings ----

    /// Takes back what a session put on its fill ring: at most one burst. Returns how many slots.
    #[inline]
    pub(crate) fn take_returned(&mut self, id: SessionId) -> Result<usize, Fault> {
        let mut returned = [RawDescriptor::default(); BURST];
        let count = match self.session_mut(id) {
            Some(session) => {
                let fill = &mut session.queues.fill;
                if fill.available() == 0 && fill.refresh()? == 0 {
                    return Ok(0);
                }
                let count = fill.pop_burst(&mut returned);
                fill.release();
                count
            }
            None => 0,
        };
        let mut back = 0;
        for raw in returned.iter().take(count) {
            if let Returned::Completed(owner, raw) = self.pool.take_back(id, *raw)? {
                self.push_completion(owner, raw);
            }
            back += 1;
        }
        if let Some(session) = self.session_mut(id) {
            session.held = session.held.saturating_sub(back);
        }
        Ok(count)
    }

    /// Puts a slot on its owner's completion ring, which has room for all its slots that are away.
    #[inline]
    pub(crate) fn push_completion(&mut self, owner: SessionId, raw: RawDescriptor) {
        let Self { sessions, touched, .. } = self;
        if let Some(Some(session)) = sessions.get_mut(usize::from(owner.0)) {
            let _ = session.queues.completion.push(raw);
            Self::touch(touched, session);
        }
    }

    /// Gives slots back that are no longer the rest of a frame. Returns how many.
    #[cold]
    pub(crate) fn complete_released(&mut self) -> usize {
        let mut count = 0;
        while let Some((owner, raw)) = self.pool.take_released() {
            self.push_completion(owner, raw);
            count += 1;
        }
        count
    }

    /// Announces sleep to every client, then looks whether there is something to do for them after
    /// all: on their rings, or not yet shown to them.
    pub(crate) fn announce_sleep(&mut self) -> bool {
        let Self { pool, sessions, touched, .. } = self;
        let mut work = !touched.is_empty() || pool.has_released();
        for session in sessions.iter_mut().flatten() {
            session.queues.sleep.raise();
            // A fault is found again, and acted on, by the next step.
            work |= session.queues.fill.refresh() != Ok(0);
            work |= session.queues.tx.refresh().is_err() && session.queues.tx.available() == 0;
            // Of frames whose slots could not be given back, none is taken. Only a client that sends
            // slots which it has not taken back itself gets there, and nobody need stay awake for it.
            work |= session.queues.tx.available() > 0 && tx_budget(session, pool) != Ok(0);
        }
        work
    }

    /// Shows every client what was written for it and wakes those that sleep.
    pub(crate) fn flush(&mut self) {
        let Self { touched, sessions, .. } = self;
        for id in touched.drain(..) {
            let Some(Some(session)) = sessions.get_mut(usize::from(id.0)) else { continue };
            session.touched = false;
            let frames = session.queues.rx.publish();
            let slots = session.queues.completion.publish();
            if (frames || slots) && session.queues.peer.must_wake() {
                session.counters.wakeups += 1;
                session.waker.wake();
            }
        }
    }
}

/// Frames that may be taken from a session's tx ring now, at most one burst: each slot must find
/// room on the completion ring, beside those that are away.
#[inline]
pub(crate) fn tx_budget(session: &mut Session, pool: &Pool) -> Result<usize, Fault> {
    let away = pool.away(session.transmit) as usize;
    let completion = &mut session.queues.completion;
    let mut budget = (completion.room() as usize).saturating_sub(away);
    if budget < BURST {
        budget = (completion.refresh()? as usize).saturating_sub(away);
    }
    Ok(budget.min(BURST))
}

/// Whether a session's rx ring has room; asks the client only when it looks full.
#[inline]
fn rx_room(session: &mut Session) -> Result<bool, Fault> {
    let rx = &mut session.queues.rx;
    Ok(rx.room() > 0 || rx.refresh()? > 0)
}
