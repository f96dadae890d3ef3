//! Counts what the generator sends: frames, losses, order.

use super::frame::read;
use super::report::Rate;
use crate::control::{Claim, UDP};
use crate::error::{FrameError, RequestError};
use crate::session::Session;
use std::collections::HashMap;
use std::hint;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Looks for frames before the sink sleeps.
const LOOKS: u32 = 200;
/// Flows that are told apart.
const MOST_FLOWS: usize = 1 << 16;

/// What to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkOptions {
    /// UDP port to claim.
    pub port: u16,
    /// Numbered frames after which to stop.
    pub count: Option<u64>,
    /// Time after which to stop, from the first frame on.
    pub time: Option<Duration>,
    /// Silence after which to stop, once there was a frame.
    pub silence: Option<Duration>,
    /// Never sleep.
    pub spin: bool,
}

/// Why frames could not be counted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The port was not granted.
    #[error("cannot claim the port")]
    Claim(#[from] RequestError),
    /// Frames no longer flow.
    #[error("cannot receive frames")]
    Frames(#[from] FrameError),
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counted {
    /// Numbered frames, from the first to the last.
    pub rate: Rate,
    /// Numbers that were left out and did not come later.
    pub lost: u64,
    /// Frames with a number below one that had come before: late, or twice.
    pub late: u64,
    /// Flows.
    pub flows: u64,
    /// Frames of other kinds.
    pub others: u64,
}

/// The numbers of one flow.
#[derive(Debug, Default)]
struct Flow {
    /// Number after the highest.
    next: u64,
    /// Numbers below it that did not come.
    missing: u64,
    late: u64,
}

impl Flow {
    #[inline]
    fn count(&mut self, number: u64) {
        if number >= self.next {
            self.missing += number - self.next;
            self.next = number + 1;
        } else {
            self.missing = self.missing.saturating_sub(1);
            self.late += 1;
        }
    }
}

/// All flows: the few of a usual run by index, others by name.
#[derive(Debug, Default)]
struct Flows {
    low: Vec<Flow>,
    high: HashMap<u32, Flow>,
}

impl Flows {
    #[inline]
    fn count(&mut self, flow: u32, number: u64) {
        if let Some(flow) = self.low.get_mut(flow as usize) {
            flow.count(number);
            return;
        }
        self.count_new(flow, number);
    }

    #[cold]
    fn count_new(&mut self, flow: u32, number: u64) {
        if flow < 4096 {
            self.low.resize_with(flow as usize + 1, Flow::default);
            self.count(flow, number);
        } else if self.high.len() < MOST_FLOWS || self.high.contains_key(&flow) {
            self.high.entry(flow).or_default().count(number);
        }
    }

    fn sum(&self) -> (u64, u64, u64) {
        let seen = self.low.iter().chain(self.high.values()).filter(|f| f.next > 0);
        seen.fold((0, 0, 0), |(lost, late, flows), f| (lost + f.missing, late + f.late, flows + 1))
    }
}

/// Counts frames as the options say. `each_second` is told what came since the last time, and the
/// losses and late frames so far.
///
/// # Errors
/// [`SinkError`]
pub fn sink(
    session: &mut Session,
    options: &SinkOptions,
    ready: impl FnOnce(),
    mut each_second: impl FnMut(Rate, u64, u64),
) -> Result<Counted, SinkError> {
    let claim = session.claim(Claim::port(UDP, options.port))?;
    ready();
    let frames = session.frames();
    let mut flows = Flows::default();
    let (mut count, mut bytes, mut others) = (0u64, 0u64, 0u64);
    let mut looks = 0;
    let mut first = None;
    let mut last = Instant::now();
    let (mut told, mut told_bytes, mut told_at) = (0, 0, last);
    loop {
        let waiting = frames.receive()?;
        let before = count;
        while let Some(frame) = frames.next() {
            let mut head = [0; 64];
            let length = frame.len();
            let bytes_of = frame.as_slice().unwrap_or_else(|| {
                let copied = frame.copy_to(&mut head);
                head.get(..copied).unwrap_or_default()
            });
            match read(bytes_of) {
                Some((flow, number)) => {
                    flows.count(flow, number);
                    count += 1;
                    bytes += length as u64;
                }
                None => others += 1,
            }
        }
        let now = Instant::now();
        if count > before {
            first.get_or_insert(now);
            (last, looks) = (now, 0);
        }
        if now - told_at >= Duration::from_secs(1) {
            let (lost, late, _) = flows.sum();
            let new = Rate { frames: count - told, bytes: bytes - told_bytes, time: now - told_at };
            each_second(new, lost, late);
            (told, told_bytes, told_at) = (count, bytes, now);
        }
        let over = |limit: Option<Duration>, since| limit.is_some_and(|l| now - since >= l);
        if options.count.is_some_and(|most| count >= most)
            || first.is_some_and(|first| over(options.time, first) || over(options.silence, last))
        {
            break;
        }
        if waiting == 0 {
            frames.flush()?;
            if looks < LOOKS || options.spin {
                looks += 1;
                hint::spin_loop();
            } else {
                frames.wait(Some(Duration::from_millis(100)), &[])?;
            }
        }
    }
    frames.flush()?;
    // The session may be over; then so is the claim.
    let _ = session.release(claim);
    let (lost, late, seen) = flows.sum();
    let time = first.map_or(Duration::ZERO, |first| last - first);
    Ok(Counted { rate: Rate { frames: count, bytes, time }, lost, late, flows: seen, others })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_lost_until_they_come_late() {
        let mut flows = Flows::default();
        for number in [0, 1, 4, 2, 5] {
            flows.count(1, number);
        }
        flows.count(70_000, 3);
        // Number 3 of the one, numbers 0 to 2 of the other; 2 came late.
        assert_eq!(flows.sum(), (4, 1, 2));
    }
}
