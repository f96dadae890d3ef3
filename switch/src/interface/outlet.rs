//! A port of an interface, and the frames that wait for it.

use crate::deliver::Deliver;
use crate::port::{Burst, Port, PortCounters, PortInfo};
use crate::time::Time;
use crate::verdict::DropReason;
use std::io;
use usnet_shmring::pool::{Frame, Pool};

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
}

impl Outlet {
    pub(crate) fn new(port: Box<dyn Port>) -> Self {
        Self { port, out: Burst::new(), gone: false, unsent: false, failed: None }
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
        self.port = Box::new(Closed { info, counters });
    }

    /// Sends what waits; returns how many frames left, also if the port failed after them.
    pub(crate) fn flush(&mut self, deliver: &mut Deliver, now: Time) -> usize {
        if (self.out.is_empty() && !self.unsent) || self.gone {
            return 0;
        }
        self.unsent = false;
        let before = self.out.len();
        if let Err(error) = self.port.transmit(now, &mut deliver.pool, &mut self.out) {
            self.fail(error);
        }
        let count = before - self.out.len();
        deliver.totals.to_ports += count as u64;
        count
    }

    /// Appends a frame, sending first if there is no room. What the port does not do of it is done before.
    #[inline]
    pub(super) fn push(&mut self, deliver: &mut Deliver, frame: Frame, now: Time) {
        if frame.offload().is_unfinished() && !self.port.takes_unfinished() {
            return deliver.finish(frame, |deliver, done| self.push_as_is(deliver, done, now));
        }
        self.push_as_is(deliver, frame, now);
    }

    #[inline]
    fn push_as_is(&mut self, deliver: &mut Deliver, frame: Frame, now: Time) {
        if self.gone {
            return deliver.drop_frame(frame, DropReason::NoReceiver);
        }
        if self.out.room() == 0 {
            self.flush(deliver, now);
        }
        deliver.to_port(&mut self.out, frame);
    }
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
