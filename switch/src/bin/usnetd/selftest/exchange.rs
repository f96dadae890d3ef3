//! Frames from one port to another, each with its number, counted and compared at the other end.

use std::io;
use std::time::{Duration, Instant};
use usnet_shmring::pool::{Frame, Pool};
use usnet_switch::port::{Burst, Port};
use usnet_switch::time::Time;

/// An EtherType for experiments (IEEE 802, 9.2.4): no stack minds it.
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];
/// Begins the payload, so that nobody else's frames are counted.
const MARK: &[u8; 8] = b"usnetest";
/// Where the number stands.
const NUMBER: usize = 14 + MARK.len();

/// What an exchange came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// Frames given to the first port.
    pub(super) sent: u64,
    /// Of these, seen at the other, each counted once.
    pub(super) received: u64,
    /// Frames of ours that were not as they were sent, or came twice.
    pub(super) wrong: u64,
    /// Frames that came behind a later one.
    pub(super) late: u64,
    /// Seconds from the first to the last.
    pub(super) seconds: f64,
}

impl Outcome {
    /// Whether all came, as they were sent. Order is no part of it: the kernel queues what comes from
    /// host rings by the processor that sent it, and this process may move from one to another.
    pub(super) fn is_whole(&self) -> bool {
        self.sent > 0 && self.received == self.sent && self.wrong == 0
    }

    /// Millions of frames a second.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub(super) fn rate(&self) -> f64 {
        self.received as f64 / self.seconds.max(1e-9) / 1e6
    }
}

/// How much is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Number of the first frame; frames of others numbers are an earlier exchange's.
    pub(super) first: u64,
    /// Frames.
    pub(super) frames: u64,
    /// Bytes of each.
    pub(super) size: usize,
    /// Frames that may be under way at one time: as many as the path holds without losing any.
    pub(super) window: u64,
    /// How long to wait for the next one.
    pub(super) patience: Duration,
}

/// Byte `index` of frame `number`, behind the number.
#[expect(clippy::cast_possible_truncation, reason = "any byte will do")]
fn pattern(number: u64, index: usize) -> u8 {
    (number as u8).wrapping_mul(31).wrapping_add(index as u8)
}

fn write(bytes: &mut [u8], number: u64) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = pattern(number, index);
    }
    let head: [&[u8]; 5] =
        [&[0xff; 6], &[0x02, 0x75, 0x73, 0x6e, 0, 1], &ETHER_TYPE, MARK, &number.to_be_bytes()];
    let mut rest = bytes;
    for part in head {
        let Some((place, after)) = rest.split_at_mut_checked(part.len()) else { return };
        place.copy_from_slice(part);
        rest = after;
    }
}

/// The number of a frame of ours, and whether all of it is as it was sent.
fn read(bytes: &[u8]) -> Option<(u64, bool)> {
    if bytes.get(12..14)? != ETHER_TYPE || bytes.get(14..NUMBER)? != MARK {
        return None;
    }
    let number = u64::from_be_bytes(*bytes.get(NUMBER..)?.first_chunk()?);
    let body = bytes.iter().enumerate().skip(NUMBER + 8);
    Some((number, body.into_iter().all(|(index, byte)| *byte == pattern(number, index))))
}

/// Sends a few frames until all of them come: a card's link is away for a moment when it changes its mode,
/// and says so later than it is. Whether they came within `patience`.
pub(super) fn settle(
    from: &mut dyn Port,
    to: &mut dyn Port,
    pool: &mut Pool,
    size: usize,
    patience: Duration,
) -> io::Result<bool> {
    let end = Instant::now() + patience;
    // No number twice: what was sent before may come yet.
    for first in (1 << 41..).step_by(64) {
        let load =
            Load { first, frames: 64, size, window: 16, patience: Duration::from_millis(300) };
        if exchange(from, to, pool, load)?.is_whole() {
            return Ok(true);
        }
        if Instant::now() > end {
            break;
        }
    }
    Ok(false)
}

/// Where the frames of an exchange are made.
pub(super) trait Source {
    /// A frame of `length` bytes that `fill` writes; `None` if there is no slot just now.
    fn make(
        &mut self,
        pool: &mut Pool,
        length: u16,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> io::Result<Option<Frame>>;
}

/// In slots of the pool.
struct Slots;

impl Source for Slots {
    fn make(
        &mut self,
        pool: &mut Pool,
        length: u16,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> io::Result<Option<Frame>> {
        let Some(mut frame) = pool.alloc() else { return Ok(None) };
        if !pool.set_window(&mut frame, 0, length) {
            pool.free(frame);
            return Err(io::ErrorKind::InvalidInput.into());
        }
        fill(pool.bytes_mut(&mut frame));
        Ok(Some(frame))
    }
}

/// Sends frames by one port and takes them at the other.
pub(super) fn exchange(
    from: &mut dyn Port,
    to: &mut dyn Port,
    pool: &mut Pool,
    load: Load,
) -> io::Result<Outcome> {
    exchange_of(&mut Slots, from, to, pool, load)
}

/// The same with frames of another make.
pub(super) fn exchange_of(
    source: &mut dyn Source,
    from: &mut dyn Port,
    to: &mut dyn Port,
    pool: &mut Pool,
    load: Load,
) -> io::Result<Outcome> {
    let mut outcome = Outcome::default();
    let (mut out, mut into) = (Burst::new(), Burst::new());
    let mut came = vec![false; usize::try_from(load.frames).map_err(io::Error::other)?];
    let begin = Instant::now();
    let mut last = begin;
    let (mut next, mut was_idle) = (0, false);
    let now = || Time(u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX));
    loop {
        while out.room() > 0
            && outcome.sent < load.frames
            && outcome.sent.saturating_sub(next) < load.window
        {
            let length = u16::try_from(load.size).unwrap_or(u16::MAX);
            let number = load.first + outcome.sent;
            let made = source.make(pool, length, &mut |bytes| write(bytes, number))?;
            let Some(frame) = made else { break };
            outcome.sent += 1;
            if let Err(frame) = out.push(frame) {
                pool.free(frame);
                break;
            }
        }
        // Also when there is nothing to add: a port may keep a full burst back until it is asked again.
        if !out.is_empty() || was_idle {
            from.transmit(now(), pool, &mut out)?;
        }
        was_idle = to.receive(now(), pool, &mut into)? == 0;
        while let Some(frame) = into.pop() {
            let seen = read(pool.bytes(&frame))
                .and_then(|(number, is_right)| Some((number.checked_sub(load.first)?, is_right)))
                .and_then(|(number, is_right)| {
                    Some((number, came.get_mut(usize::try_from(number).ok()?)?, is_right))
                });
            if let Some((number, came, is_right)) = seen {
                let is_first = !std::mem::replace(came, true);
                outcome.wrong += u64::from(!is_right || !is_first);
                outcome.received += u64::from(is_first);
                // One that is missing does not make those behind it late.
                outcome.late += u64::from(is_first && number < next);
                next = next.max(number + 1);
                last = Instant::now();
            }
            pool.free(frame);
        }
        if outcome.received >= load.frames || last.elapsed() > load.patience {
            break;
        }
    }
    outcome.seconds = last.duration_since(begin).as_secs_f64();
    out.clear(pool);
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
    use usnet_shmring::region::Writer;
    use usnet_switch::port::wire::{Faults, Wire, WireSpec};

    const LOAD: Load =
        Load { first: 0, frames: 2000, size: 64, window: 64, patience: Duration::from_secs(1) };

    fn over_a_wire(faults: Faults) -> Outcome {
        let arena = Arena::reserve(1024, SlotSize::DEFAULT).unwrap();
        let segment = arena.add_segment("exchange", Writer::Daemon, 1024, false).unwrap();
        let mut pool = Pool::new(SlotRange::whole(segment)).unwrap();
        let mut ends = Wire::ends(&WireSpec { faults, seed: 1, ..WireSpec::default() }).unwrap();
        let (mut to, mut from) = (ends.pop().unwrap(), ends.pop().unwrap());
        exchange(&mut from, &mut to, &mut pool, LOAD).unwrap()
    }

    #[test]
    fn a_frame_is_read_as_it_was_written_and_a_changed_byte_is_seen() {
        let mut frame = [0; 100];
        write(&mut frame, 7);
        assert_eq!(read(&frame), Some((7, true)));
        frame[99] ^= 1;
        assert_eq!(read(&frame), Some((7, false)));
        frame[15] ^= 1;
        assert_eq!(read(&frame), None, "somebody else's");
    }

    #[test]
    fn frames_that_overtake_each_other_are_counted_and_all_are_waited_for() {
        let late_by = Duration::from_micros(50);
        let outcome = over_a_wire(Faults { reorder: 300_000, late_by, ..Faults::default() });
        assert!(outcome.is_whole() && outcome.late > 0, "{outcome:?}");
    }

    #[test]
    fn a_frame_that_comes_twice_or_not_at_all_is_not_hidden_by_another() {
        let twice = over_a_wire(Faults { duplicate: 100_000, ..Faults::default() });
        assert!(!twice.is_whole() && twice.received == twice.sent && twice.wrong > 0, "{twice:?}");
        let lost = over_a_wire(Faults { drop: 100_000, duplicate: 100_000, ..Faults::default() });
        assert!(lost.received < lost.sent && !lost.is_whole(), "{lost:?}");
    }
}
