//! Copies of frames on their way, for those who capture: bounded, and never at the traffic's cost.
//!
//! ```text
//!   worker:  frame --filter, at most snaplen bytes--> chunk of 64 KiB --full--> capture thread --> pcapng
//!                          no chunk is free: counted, not copied  <---free---
//! ```
//!
//! - A capture has 16 chunks from its beginning and never gets more. What finds none is counted as missed.
//! - Nothing here waits: the free chunks are taken by `try_lock`, the full ones given by `try_send`.
//! - While nobody captures, a worker has no `Tap`; that is one test a burst, and one for each frame that is
//!   put on a client's ring or dropped.

mod filter;
mod pcap;
mod pcapng;
mod writer;

pub use filter::Filter;
pub use pcap::{PcapWriter, capture};
pub use pcapng::{Direction, Packet, PcapngWriter, Point};
pub(crate) use writer::{Capturing, start};

use crate::classify::{Classified, HEAD_LEN, classify_head};
use crate::port::Burst;
use crate::verdict::DropReason;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use usnet_shmring::ledger::SessionId;
use usnet_shmring::pool::Pool;

/// Bytes of a chunk: many records.
const CHUNK: usize = 1 << 16;
/// Chunks of one capture.
const CHUNKS: usize = 16;
/// Bytes of a record before its frame.
const RECORD: usize = 24;
/// The longest copy of a frame, so that one fits a chunk.
pub(crate) const LONGEST: usize = CHUNK - RECORD;

/// Where a frame is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The wire port of an interface.
    Wire(u8),
    /// Its host port.
    Host(u8),
    /// A client's rings.
    Client(SessionId),
}

/// What a capture is of; also its points, in the order in which they are described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Both ports of an interface: points 0 and 1. What is dropped of it: point 2.
    Interface(u8),
    /// A client: point 0. What is dropped of it, or on its way to it: point 1.
    Client(SessionId),
}

impl Subject {
    /// The number of the point at which a frame is seen.
    fn point(self, place: Place, is_dropped: bool) -> Option<u8> {
        match (self, place) {
            (Self::Interface(n), Place::Wire(m) | Place::Host(m)) if n == m && is_dropped => {
                Some(2)
            }
            (Self::Interface(n), Place::Wire(m)) if n == m => Some(0),
            (Self::Interface(n), Place::Host(m)) if n == m => Some(1),
            (Self::Client(id), Place::Client(other)) if id == other => Some(is_dropped.into()),
            _ => None,
        }
    }
}

/// One worker's end of a capture.
#[derive(Clone, Debug)]
pub(crate) struct Capture {
    pub(crate) subject: Subject,
    pub(crate) filter: Arc<Filter>,
    pub(crate) snaplen: usize,
    /// The chunk that is being filled.
    chunk: Option<Vec<u8>>,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    full: SyncSender<Vec<u8>>,
    missed: Arc<AtomicU64>,
    /// Nobody reads any more.
    over: Arc<AtomicBool>,
}

impl Capture {
    fn record(&mut self, point: u8, what: &Seen<'_>, time: u64) {
        let length = what.bytes.len().min(self.snaplen);
        let Some(bytes) = what.bytes.get(..length) else { return };
        if self.chunk.as_ref().is_some_and(|chunk| chunk.len() + RECORD + length > CHUNK) {
            self.hand_over();
        }
        if self.chunk.is_none() {
            self.chunk = self.free.try_lock().ok().and_then(|mut free| free.pop());
        }
        let Some(chunk) = &mut self.chunk else {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        // Within the chunk's capacity: nothing is allocated.
        chunk.extend(time.to_ne_bytes());
        chunk.extend(u32::try_from(what.length).unwrap_or(u32::MAX).to_ne_bytes());
        chunk.extend(u32::try_from(length).unwrap_or(0).to_ne_bytes());
        let reason = what.dropped.map_or(u8::MAX, |reason| reason as u8);
        chunk.extend([point, what.direction as u8, reason, 0, 0, 0, 0, 0]);
        chunk.extend(bytes);
    }

    /// Gives what was copied to who writes it.
    fn hand_over(&mut self) {
        let Some(chunk) = self.chunk.take_if(|chunk| !chunk.is_empty()) else { return };
        // There are as many places as chunks.
        match self.full.try_send(chunk) {
            Ok(()) => {}
            Err(TrySendError::Full(chunk)) => self.chunk = Some(chunk),
            Err(TrySendError::Disconnected(_)) => self.over.store(true, Ordering::Relaxed),
        }
    }
}

/// A frame that is seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    /// As much of it as is at hand.
    pub(crate) bytes: &'a [u8],
    /// Bytes of the whole frame.
    pub(crate) length: usize,
    pub(crate) direction: Direction,
    pub(crate) dropped: Option<DropReason>,
}

/// All captures of a worker.
#[derive(Debug)]
pub(crate) struct Tap {
    captures: Vec<Capture>,
    /// Where the frames come from that are worked on.
    pub(crate) source: Option<Place>,
    /// A copy of a frame whose fate is not known yet.
    held: Vec<u8>,
    held_length: usize,
}

impl Default for Tap {
    fn default() -> Self {
        let held = Vec::with_capacity(LONGEST);
        Self { captures: Vec::new(), source: None, held, held_length: 0 }
    }
}

impl Tap {
    pub(crate) fn add(&mut self, capture: Capture) {
        self.captures.push(capture);
    }

    /// An interface goes: who captures it has seen all, and none that gets its number.
    pub(crate) fn forget_interface(&mut self, number: u8) {
        let (gone, stay) = core::mem::take(&mut self.captures)
            .into_iter()
            .partition(|capture| capture.subject == Subject::Interface(number));
        self.captures = stay;
        let gone: Vec<Capture> = gone;
        for mut capture in gone {
            capture.hand_over();
            capture.over.store(true, Ordering::Relaxed);
        }
    }

    /// The longest copy that anybody wants, at least what the classifier looks at.
    fn longest(&self) -> usize {
        self.captures.iter().map(|capture| capture.snaplen).max().unwrap_or(0).max(HEAD_LEN)
    }

    /// Whether anybody cares for what is seen there.
    fn is_of(&self, place: Place) -> bool {
        self.captures.iter().any(|capture| capture.subject.point(place, false).is_some())
    }

    /// Copies a frame for all who want it.
    pub(crate) fn see(&mut self, place: Place, what: &Seen<'_>) {
        let mut read: Option<Option<Classified>> = None;
        let mut time = None;
        for capture in &mut self.captures {
            let Some(point) = capture.subject.point(place, what.dropped.is_some()) else {
                continue;
            };
            if *capture.filter != Filter::All {
                let seen = read.get_or_insert_with(|| classify_head(what.bytes, what.length).ok());
                if !capture.filter.wants(seen.as_ref()) {
                    continue;
                }
            }
            let time = *time.get_or_insert_with(now);
            capture.record(point, what, time);
        }
    }

    /// A burst has been received.
    pub(crate) fn see_received(&mut self, place: Place, burst: &Burst, pool: &Pool) {
        self.source = Some(place);
        for frame in burst.iter() {
            let (bytes, length) = (pool.bytes(frame), frame.len());
            self.see(place, &Seen { bytes, length, direction: Direction::In, dropped: None });
        }
    }

    /// A frame is dropped that came from where frames come from now.
    pub(crate) fn see_dropped(&mut self, bytes: &[u8], reason: DropReason) {
        let Some(place) = self.source else { return };
        // A client's own view: it has sent it. A port's: it has received it.
        let direction =
            if matches!(place, Place::Client(_)) { Direction::Out } else { Direction::In };
        let what = Seen { bytes, length: bytes.len(), direction, dropped: Some(reason) };
        self.see(place, &what);
    }

    /// Keeps a frame that is on its way to a client, until its fate is known; read by `read`, if anybody wants
    /// that.
    pub(crate) fn hold(
        &mut self,
        to: SessionId,
        length: usize,
        read: impl FnOnce(&mut [u8]) -> usize,
    ) {
        self.held.clear();
        self.held_length = 0;
        if self.is_of(Place::Client(to)) {
            self.read(length, read);
            self.held_length = length;
        }
    }

    /// Fills `held` with as much of a frame of `length` bytes as anybody wants.
    fn read(&mut self, length: usize, read: impl FnOnce(&mut [u8]) -> usize) {
        self.held.clear();
        self.held.resize(length.min(self.longest()).min(LONGEST), 0);
        let count = read(&mut self.held);
        self.held.truncate(count);
    }

    /// What became of the frame that is held.
    pub(crate) fn release(&mut self, to: SessionId, dropped: Option<DropReason>) {
        if self.held_length == 0 {
            return;
        }
        let held = core::mem::take(&mut self.held);
        let (direction, length) = (Direction::In, self.held_length);
        self.see(Place::Client(to), &Seen { bytes: &held, length, direction, dropped });
        self.held = held;
        self.held_length = 0;
    }

    /// A frame that a client has sent, its bytes read by `read` into a buffer if anybody wants it.
    pub(crate) fn see_sent(
        &mut self,
        from: SessionId,
        length: usize,
        dropped: Option<DropReason>,
        read: impl FnOnce(&mut [u8]) -> usize,
    ) {
        let place = Place::Client(from);
        if !self.is_of(place) {
            return;
        }
        self.read(length, read);
        let held = core::mem::take(&mut self.held);
        self.see(place, &Seen { bytes: &held, length, direction: Direction::Out, dropped });
        self.held = held;
    }

    /// At the end of a step: what was copied is handed over, and who does not read any more forgotten. Whether any
    /// capture is left.
    pub(crate) fn flush(&mut self) -> bool {
        self.source = None;
        self.captures.iter_mut().for_each(Capture::hand_over);
        self.captures.retain(|capture| !capture.over.load(Ordering::Relaxed));
        !self.captures.is_empty()
    }
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_that_nobody_reads_misses_frames_and_never_grows() {
        let (capturing, capture) = Capturing::new(Subject::Interface(0), Filter::All, 1000);
        let mut tap = Tap::default();
        tap.add(capture);
        let seen = |bytes| Seen { bytes, length: 1000, direction: Direction::In, dropped: None };
        let frame = [7; 1000];
        for _ in 0..2000 {
            tap.see(Place::Wire(0), &seen(&frame));
            tap.see(Place::Wire(1), &seen(&frame));
            assert!(tap.flush());
        }
        // One record each, since every step hands over what there is.
        let missed = capturing.missed();
        assert_eq!(missed, 2000 - CHUNKS as u64);
        let records: Vec<Vec<u8>> = capturing.full().collect();
        assert!(records.iter().all(|r| r.len() == RECORD + 1000 && r.capacity() == CHUNK));
        // Read chunks are filled again.
        records.into_iter().for_each(|chunk| capturing.give_back(chunk));
        for _ in 0..10 {
            tap.see(Place::Wire(0), &seen(&frame));
        }
        tap.flush();
        assert_eq!((capturing.missed(), capturing.full().count()), (missed, 1));
        drop(capturing);
        tap.see(Place::Wire(0), &seen(&frame));
        assert!(!tap.flush(), "nobody captures any more");
    }
}
