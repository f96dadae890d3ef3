//! What lies between the ends: frames under way, and what happens to them.

use super::WireSpec;
use super::random::Random;
use crate::time::Time;
use core::cmp::Reverse;
use core::time::Duration;
use std::collections::BinaryHeap;

/// How often things go wrong, each in parts of a million frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The frame is lost.
    pub drop: u32,
    /// The frame arrives twice.
    pub duplicate: u32,
    /// The frame is late by up to `late_by`, so that others pass it.
    pub reorder: u32,
    /// Largest lateness of a reordered frame.
    pub late_by: Duration,
    /// One bit of the frame is turned over.
    pub corrupt: u32,
}

/// What the medium did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MediumCounters {
    /// Frames sent, each counted once however many ends there are.
    pub sent: u64,
    /// Frames lost on the way to an end.
    pub dropped: u64,
    /// Further copies made on the way to an end.
    pub duplicated: u64,
    /// Frames made late.
    pub reordered: u64,
    /// Frames with a bit turned over.
    pub corrupted: u64,
}

/// Order of arrival: time, then order of sending.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Arrival {
    due: Time,
    sequence: u64,
    buffer: usize,
    length: usize,
}

#[derive(Debug, Default)]
struct End {
    arrivals: BinaryHeap<Reverse<Arrival>>,
    /// When what this end has sent so far is all on the wire.
    busy_until: Time,
    /// Frames lost on the way here.
    lost: u64,
    /// It was closed.
    gone: bool,
}

/// Shared by all ends, behind their lock.
#[derive(Debug)]
pub(super) struct Medium {
    ends: Vec<End>,
    buffers: Vec<Box<[u8]>>,
    free: Vec<usize>,
    frame_limit: usize,
    queue: usize,
    delay: Duration,
    rate: Option<u64>,
    faults: Faults,
    random: Random,
    sequence: u64,
    counters: MediumCounters,
}

impl Medium {
    pub(super) fn new(spec: &WireSpec, ends: usize) -> Self {
        let queue = spec.queue.max(2);
        Self {
            ends: (0..ends)
                .map(|_| End { arrivals: BinaryHeap::with_capacity(queue), ..End::default() })
                .collect(),
            buffers: Vec::new(),
            free: Vec::new(),
            frame_limit: usize::from(spec.mtu) + 14 + 8,
            queue,
            delay: spec.delay,
            rate: spec.rate.filter(|rate| *rate > 0),
            faults: spec.faults,
            random: Random(spec.seed),
            sequence: 0,
            counters: MediumCounters::default(),
        }
    }

    pub(super) fn counters(&self) -> MediumCounters {
        self.counters
    }

    pub(super) fn lost_to(&self, end: usize) -> u64 {
        self.ends.get(end).map_or(0, |e| e.lost)
    }

    /// Whether one more frame from `end` finds room everywhere, doubled too.
    pub(super) fn has_room(&self, end: usize) -> bool {
        self.others(end).all(|e| e.gone || e.arrivals.len() + 2 <= self.queue)
    }

    fn others(&self, end: usize) -> impl Iterator<Item = &End> {
        self.ends.iter().enumerate().filter(move |(n, _)| *n != end).map(|(_, e)| e)
    }

    /// Nobody is at `end` any more: what is under way to it arrives nowhere, and keeps nobody waiting.
    pub(super) fn leave(&mut self, end: usize) {
        while self.has_any(end) {
            self.discard(end);
        }
        if let Some(end) = self.ends.get_mut(end) {
            end.gone = true;
        }
    }

    /// Sends a frame from `end` to all others.
    pub(super) fn send(&mut self, end: usize, bytes: &[u8], now: Time) {
        self.counters.sent += 1;
        let on_wire = match self.rate {
            // The frame, its check sequence, preamble and gap: 24 bytes more (IEEE 802.3).
            Some(rate) => {
                let bits = (bytes.len() as u64 + 24) * 8;
                Duration::from_nanos(bits.saturating_mul(1_000_000_000) / rate)
            }
            None => Duration::ZERO,
        };
        let arrives = match self.ends.get_mut(end) {
            Some(sender) => {
                sender.busy_until = sender.busy_until.max(now) + on_wire;
                sender.busy_until + self.delay
            }
            None => return,
        };
        for to in 0..self.ends.len() {
            if to != end && self.ends.get(to).is_some_and(|e| !e.gone) {
                self.arrive(to, bytes, arrives);
            }
        }
    }

    fn arrive(&mut self, to: usize, bytes: &[u8], due: Time) {
        let faults = self.faults;
        if self.random.happens(faults.drop) {
            self.counters.dropped += 1;
            if let Some(end) = self.ends.get_mut(to) {
                end.lost += 1;
            }
            return;
        }
        let mut due = due;
        if self.random.happens(faults.reorder) {
            self.counters.reordered += 1;
            let most = u64::try_from(faults.late_by.as_nanos()).unwrap_or(u64::MAX);
            due = due + Duration::from_nanos(self.random.below(most.saturating_add(1)));
        }
        let flipped = self.random.happens(faults.corrupt).then(|| {
            self.counters.corrupted += 1;
            self.random.below(bytes.len() as u64 * 8)
        });
        let copies = 1 + usize::from(self.random.happens(faults.duplicate));
        self.counters.duplicated += copies as u64 - 1;
        for _ in 0..copies {
            self.enqueue(to, bytes, due, flipped);
        }
    }

    fn enqueue(&mut self, to: usize, bytes: &[u8], due: Time, flipped: Option<u64>) {
        let buffer = self.free.pop().unwrap_or_else(|| {
            self.buffers.push(vec![0; self.frame_limit].into_boxed_slice());
            self.buffers.len() - 1
        });
        let Some(into) = self.buffers.get_mut(buffer).and_then(|b| b.get_mut(..bytes.len())) else {
            return;
        };
        into.copy_from_slice(bytes);
        if let Some(bit) = flipped
            && let Some(byte) = usize::try_from(bit / 8).ok().and_then(|at| into.get_mut(at))
        {
            *byte ^= 1 << (bit % 8);
        }
        self.sequence += 1;
        let arrival = Arrival { due, sequence: self.sequence, buffer, length: bytes.len() };
        if let Some(end) = self.ends.get_mut(to) {
            end.arrivals.push(Reverse(arrival));
        }
    }

    /// Whether anything is under way to `end`.
    pub(super) fn has_any(&self, end: usize) -> bool {
        self.ends.get(end).is_some_and(|e| !e.arrivals.is_empty())
    }

    pub(super) fn next_due(&self, end: usize) -> Option<Time> {
        self.ends.get(end)?.arrivals.peek().map(|Reverse(first)| first.due)
    }

    pub(super) fn is_due(&self, end: usize, now: Time) -> bool {
        self.next_due(end).is_some_and(|due| due <= now)
    }

    /// Hands the first frame for `end` to `take` and forgets it.
    pub(super) fn take(&mut self, end: usize, take: impl FnOnce(&[u8]) -> bool) -> bool {
        let Some(Reverse(first)) = self.ends.get_mut(end).and_then(|e| e.arrivals.pop()) else {
            return false;
        };
        let bytes = self.buffers.get(first.buffer).and_then(|b| b.get(..first.length));
        let taken = bytes.is_some_and(take);
        self.free.push(first.buffer);
        taken
    }

    pub(super) fn discard(&mut self, end: usize) {
        self.take(end, |_| true);
    }
}
