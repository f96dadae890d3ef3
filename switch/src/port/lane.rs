//! The port of a VLAN: the switch carries its frames to and from the port of the interface that it is a VLAN of.
//!
//! ```text
//!   other interface's port --> tag off --> the VLAN's interface
//!                          <-- tag on  <-- waiting frames <-- transmit
//! ```
//!
//! - Nothing is received here: whoever receives for the other interface hands frames over
//!   (`switch/lanes.rs`), in the same step.
//! - What was sent waits here until the switch takes it, at the latest at the end of the step.

use super::{Burst, Port, PortCounters, PortInfo};
use crate::classify::Mac;
use crate::time::Time;
use std::collections::VecDeque;
use std::io;
use usnet_shmring::pool::{Frame, Pool};

/// What its ports are called.
pub const BACKEND: &str = "vlan";
/// Frames that may wait: all that one source can send in its turn, a client's 16 joined segments of 44 pieces.
const ROOM: usize = 1024;

/// A port whose frames another one carries, with a tag.
#[derive(Debug)]
pub struct Lane {
    info: PortInfo,
    waiting: VecDeque<Frame>,
    counters: PortCounters,
}

impl Lane {
    /// The port of an interface of this name, with the link address of the one that it is a VLAN of.
    #[must_use]
    pub fn new(name: String, mac: Mac, mtu: u16) -> Self {
        Self {
            info: PortInfo { name, backend: BACKEND, mac, mtu },
            waiting: VecDeque::with_capacity(ROOM),
            counters: PortCounters::default(),
        }
    }

    /// A frame of so many bytes was handed over.
    #[inline]
    pub(crate) fn received(&mut self, bytes: usize) {
        self.counters.received += 1;
        self.counters.received_bytes += bytes as u64;
    }

    /// Takes the oldest frame that waits, to be sent with a tag.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Frame> {
        let frame = self.waiting.pop_front()?;
        self.counters.transmitted += 1;
        self.counters.transmitted_bytes += frame.len() as u64;
        Some(frame)
    }

    /// There was no room for a tag in the slot of one that was taken.
    #[cold]
    pub(crate) fn refused(&mut self, bytes: usize) {
        self.counters.transmitted -= 1;
        self.counters.transmitted_bytes -= bytes as u64;
        self.counters.transmit_errors += 1;
    }
}

impl Port for Lane {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn receive(&mut self, _: Time, _: &mut Pool, _: &mut Burst) -> io::Result<usize> {
        Ok(0)
    }

    fn transmit(&mut self, _: Time, _: &mut Pool, from: &mut Burst) -> io::Result<usize> {
        let mut count = 0;
        while self.waiting.len() < ROOM
            && let Some(frame) = from.pop()
        {
            self.waiting.push_back(frame);
            count += 1;
        }
        Ok(count)
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn lane(&mut self) -> Option<&mut Lane> {
        Some(self)
    }

    fn close(&mut self, pool: &mut Pool) {
        self.waiting.drain(..).for_each(|frame| pool.free(frame));
    }
}
