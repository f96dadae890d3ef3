//! A port of an interface, and the frames that wait for it.
//!
//! A frame whose rest lies in a client's slot is made here alone, for a port that sends from that slot, and goes
//! to no other: what waits is dropped before another port takes the place of one.

use crate::capture::{Direction, Place, Seen};
use crate::classify::HEAD_LEN;
use crate::deliver::{Deliver, Sent};
use crate::port::{Burst, Port, PortCounters, PortInfo};
use crate::time::Time;
use crate::verdict::DropReason;
use std::io;
use usnet_shmring::pool::{ClientFrame, Frame, Pool};

/// A port and the frames that wait for it.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) port: Box<dyn Port>,
    pub(crate) out: Burst,
    pub(crate) gone: bool,
    /// The port holds frames that it must be told to send.
    pub(super) unsent: bool,
    /// Why, until it is reported.
    pub(crate) failed: Option<io::Error>,
    /// Slots of clients from which the port sends: the first, and how many.
    tails: (u32, u32),
    /// The frames go by another interface's port, with a tag.
    is_lane: bool,
    /// What it is to those who capture.
    pub(crate) place: Option<Place>,
    /// Frames at the front of `out` that were seen by them already.
    seen: usize,
}

/// A client's frame of fewer bytes is copied: that costs less than a second slot.
pub(crate) const SPLIT_FROM: usize = 512;
/// Bytes of a split frame that are copied. All that was judged is in them, and every header that whoever gets
/// the frame may read: Ethernet, IPv4 with all options and TCP with all options are 134 bytes.
pub(crate) const SPLIT_HEAD: u16 = 192;

const _: () = assert!(HEAD_LEN <= SPLIT_HEAD as usize && (SPLIT_HEAD as usize) < SPLIT_FROM);

impl Outlet {
    pub(crate) fn new(mut port: Box<dyn Port>, pool: &mut Pool) -> Self {
        let (out, tails) = (Burst::new(), allow_tails(port.as_ref(), pool));
        let (gone, unsent, failed, place, seen) = (false, false, None, None, 0);
        let is_lane = port.lane().is_some();
        Self { port, out, gone, unsent, failed, tails, is_lane, place, seen }
    }

    /// Whether its frames go by another interface's port.
    #[inline]
    pub(crate) fn is_lane(&self) -> bool {
        self.is_lane
    }

    /// Another port in the place of this one, for which nothing waits.
    pub(crate) fn put(&mut self, mut port: Box<dyn Port>, pool: &mut Pool) {
        self.tails = allow_tails(port.as_ref(), pool);
        self.is_lane = port.lane().is_some();
        self.port = port;
    }

    /// The port is not used any more.
    pub(crate) fn fail(&mut self, error: io::Error) {
        self.gone = true;
        self.failed.get_or_insert(error);
    }

    /// Closes a port that has failed, so that what it held is free: the interface itself may be waiting
    /// for that to go. Its name and its counters stay.
    pub(crate) fn close(&mut self, pool: &mut Pool) {
        self.port.close(pool);
        let (info, counters) = (self.port.info().clone(), self.port.counters());
        self.put(Box::new(Closed { info, counters }), pool);
    }

    /// Sends what waits; returns how many frames left, also if the port failed after them.
    pub(crate) fn flush(&mut self, deliver: &mut Deliver, now: Time) -> usize {
        if (self.out.is_empty() && !self.unsent) || self.gone {
            return 0;
        }
        self.unsent = false;
        let before = self.out.len();
        if let Some((tap, place)) = deliver.tap.as_mut().zip(self.place) {
            for frame in self.out.iter().skip(self.seen) {
                let (bytes, length) = (deliver.pool.bytes(frame), frame.len());
                let what = Seen { bytes, length, direction: Direction::Out, dropped: None };
                tap.see(place, &what);
            }
        }
        if let Err(error) = self.port.transmit(now, &mut deliver.pool, &mut self.out) {
            self.fail(error);
        }
        let count = before - self.out.len();
        self.seen = self.out.len();
        if !self.is_lane {
            deliver.totals.to_ports += count as u64;
        }
        count
    }

    /// Whether the port sends the rest of this frame from where it lies. One of which something is left to do
    /// has to be written, and so copied.
    #[inline]
    pub(super) fn sends_rest_of(&self, sent: &Sent<'_>) -> bool {
        let (first, count) = self.tails;
        sent.frame.slot().wrapping_sub(first) < count
            && sent.frame.len() >= SPLIT_FROM
            && !sent.offload.is_unfinished()
            && !self.gone
    }

    /// Appends a client's frame that [`sends_rest_of`](Self::sends_rest_of) was asked about: its head, as it
    /// was judged, in a slot of the daemon, and the rest where it lies.
    ///
    /// # Errors
    /// The frame, if there is no slot for the head.
    #[inline(never)]
    pub(super) fn push_split(
        &mut self,
        deliver: &mut Deliver,
        sent: Sent<'_>,
        now: Time,
    ) -> Result<(), ClientFrame> {
        let (head, frame) = sent.into_parts();
        let frame = deliver.pool.join(head, frame, SPLIT_HEAD)?;
        if self.out.room() == 0 {
            self.flush(deliver, now);
        }
        // Sending may have ended the port.
        if self.gone {
            deliver.drop_frame(frame, DropReason::NoReceiver);
        } else {
            deliver.to_port(&mut self.out, frame);
        }
        Ok(())
    }

    /// Appends a frame, sending first if there is no room. What the port does not do of it is done before.
    #[inline]
    pub(crate) fn push(&mut self, deliver: &mut Deliver, frame: Frame, now: Time) {
        if frame.offload().is_unfinished() && !self.port.takes_unfinished() {
            return deliver.finish(frame, |deliver, done| self.push_as_is(deliver, done, now));
        }
        self.push_as_is(deliver, frame, now);
    }

    #[inline]
    fn push_as_is(&mut self, deliver: &mut Deliver, frame: Frame, now: Time) {
        debug_assert!(!deliver.pool.is_joined(&frame), "split frames come by `push_split`");
        if self.gone {
            return deliver.drop_frame(frame, DropReason::NoReceiver);
        }
        if self.out.room() == 0 {
            self.flush(deliver, now);
        }
        deliver.to_port(&mut self.out, frame);
    }
}

/// Slots of clients from which a port sends; if there are any, the pool makes room for what belongs to them.
fn allow_tails(port: &dyn Port, pool: &mut Pool) -> (u32, u32) {
    let tails = port.tails();
    if !tails.is_empty() {
        pool.allow_tails();
    }
    (tails.start, tails.end.saturating_sub(tails.start))
}

/// In the place of a port that has failed.
#[derive(Debug)]
struct Closed {
    info: PortInfo,
    counters: PortCounters,
}

impl Port for Closed {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn receive(&mut self, _: Time, _: &mut Pool, _: &mut Burst) -> io::Result<usize> {
        Ok(0)
    }

    fn transmit(&mut self, _: Time, pool: &mut Pool, from: &mut Burst) -> io::Result<usize> {
        Ok(from.clear(pool))
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }
}
