//! A wire in memory: any number of ends, a virtual clock, faults by seed.
//!
//! ```text
//!   end 0 --+            every frame that one end sends arrives at all others,
//!   end 1 --+-- medium   at `sent + time on the wire + delay`, in that order
//!   end 2 --+
//! ```
//!
//! - Deterministic: the same seed, frames and times give the same bytes, in the same order, at the
//!   same times. Time is only what the callers say.
//! - A full queue leaves frames in the sender's burst; the medium itself loses frames only as the
//!   [`Faults`] say, and counts them.
//! - After the first frames nothing is allocated: buffers go round.

mod medium;
mod random;

pub use medium::{Faults, MediumCounters};

use super::{Burst, Port, PortCounters, PortInfo};
use crate::classify::Mac;
use crate::time::Time;
use core::time::Duration;
use medium::Medium;
use rustix::event::EventfdFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use usnet_shmring::pool::{MIN_FRAME, Pool};

/// What its ports are called.
pub const BACKEND: &str = "wire";

/// What a wire is like.
#[derive(Clone, Debug)]
pub struct WireSpec {
    /// Number of ends, 1..=256; what the only end sends is heard by nobody.
    pub ends: usize,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Frames that may be under way to one end.
    pub queue: usize,
    /// Time that every frame takes, beside its own length.
    pub delay: Duration,
    /// Bits a second that one end can send; `None` for no limit.
    pub rate: Option<u64>,
    /// What goes wrong, and how often.
    pub faults: Faults,
    /// Decides every fault.
    pub seed: u64,
}

impl Default for WireSpec {
    /// Two ends, 1,500 bytes, 4,096 frames, no delay, no limit, no faults.
    fn default() -> Self {
        Self {
            ends: 2,
            mtu: 1500,
            queue: 4096,
            delay: Duration::ZERO,
            rate: None,
            faults: Faults::default(),
            seed: 0,
        }
    }
}

/// One end of a wire. Ends may live in different threads.
#[derive(Debug)]
pub struct Wire {
    medium: Arc<Mutex<Medium>>,
    end: usize,
    info: PortInfo,
    counters: PortCounters,
    /// Readable while something may have arrived; one for each end.
    bells: Arc<[OwnedFd]>,
}

impl Wire {
    /// Makes a wire and returns its ends, in order. The link address of end *n* is
    /// `02:00:00:00:00:nn`, locally administered.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn ends(spec: &WireSpec) -> io::Result<Vec<Self>> {
        let count = spec.ends.clamp(1, 256);
        let bells = (0..count)
            .map(|_| rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK))
            .collect::<Result<Arc<[_]>, _>>()?;
        let medium = Arc::new(Mutex::new(Medium::new(spec, count)));
        let end = |end: usize| Self {
            medium: Arc::clone(&medium),
            end,
            info: PortInfo {
                name: format!("wire{end}"),
                backend: BACKEND,
                mac: Mac([2, 0, 0, 0, 0, u8::try_from(end).unwrap_or(u8::MAX)]),
                mtu: spec.mtu,
            },
            counters: PortCounters::default(),
            bells: Arc::clone(&bells),
        };
        Ok((0..count).map(end).collect())
    }

    /// What the medium did to frames, over all ends.
    #[must_use]
    pub fn medium_counters(&self) -> MediumCounters {
        self.lock().counters()
    }

    /// Gives this end another link address.
    pub fn set_mac(&mut self, mac: Mac) {
        self.info.mac = mac;
    }

    /// Taken once a burst.
    fn lock(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn frame_limit(&self) -> usize {
        usize::from(self.info.mtu) + 14 + 8
    }
}

impl Port for Wire {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn receive(&mut self, now: Time, pool: &mut Pool, into: &mut Burst) -> io::Result<usize> {
        let Self { medium, counters, .. } = self;
        let mut medium = medium.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        while into.room() > 0 && medium.is_due(self.end, now) {
            let Some(mut frame) = pool.alloc() else {
                // The frame has arrived and finds no slot, as on a card.
                medium.discard(self.end);
                counters.no_slot += 1;
                continue;
            };
            let filled = medium.take(self.end, |bytes| pool.fill(&mut frame, bytes));
            if !filled {
                counters.receive_errors += 1;
                pool.free(frame);
                continue;
            }
            counters.received += 1;
            counters.received_bytes += frame.len() as u64;
            if let Err(frame) = into.push(frame) {
                pool.free(frame);
            }
            count += 1;
        }
        if count == 0
            && !medium.has_any(self.end)
            && let Some(bell) = self.bells.get(self.end)
        {
            // Under the lock, so that no sender rings between the look and this.
            let _ = rustix::io::read(bell, &mut [0; 8]);
        }
        Ok(count)
    }

    fn transmit(&mut self, now: Time, pool: &mut Pool, from: &mut Burst) -> io::Result<usize> {
        let limit = self.frame_limit();
        let mut medium = self.medium.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        while medium.has_room(self.end) {
            let Some(frame) = from.pop() else { break };
            let bytes = pool.bytes(&frame);
            if bytes.len() > limit || bytes.len() < usize::from(MIN_FRAME) {
                self.counters.transmit_errors += 1;
            } else {
                medium.send(self.end, bytes, now);
                self.counters.transmitted += 1;
                self.counters.transmitted_bytes += bytes.len() as u64;
            }
            pool.free(frame);
            count += 1;
        }
        if count > 0 {
            for (end, bell) in self.bells.iter().enumerate() {
                if end != self.end {
                    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
                }
            }
        }
        Ok(count)
    }

    fn counters(&self) -> PortCounters {
        PortCounters { missed: self.lock().lost_to(self.end), ..self.counters }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.bells.get(self.end).map(AsFd::as_fd)
    }

    fn next_event(&self) -> Option<Time> {
        self.lock().next_due(self.end)
    }

    fn close(&mut self, _pool: &mut Pool) {
        self.lock().leave(self.end);
    }
}
