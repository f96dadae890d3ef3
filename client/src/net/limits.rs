//! How long a socket's operations may take.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The limit of one direction, shared by all handles of a socket. 0 nanoseconds: none.
#[derive(Debug, Default)]
pub(super) struct Limit(AtomicU64);

impl Limit {
    pub(super) fn get(&self) -> Option<Duration> {
        let nanoseconds = self.0.load(Ordering::Relaxed);
        (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds))
    }

    pub(super) fn set(&self, limit: Option<Duration>) -> io::Result<()> {
        if limit.is_some_and(|limit| limit.is_zero()) {
            let text = "cannot set a 0 duration timeout";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let limit = limit.map_or(0, |l| u64::try_from(l.as_nanos()).unwrap_or(u64::MAX));
        self.0.store(limit, Ordering::Relaxed);
        Ok(())
    }
}

/// What a socket's users have set.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub(super) read: Limit,
    pub(super) write: Limit,
    pub(super) nonblocking: AtomicBool,
}

/// When an operation that begins now must give up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deadline {
    /// It may not wait at all.
    Now,
    /// At a time, or never.
    At(Option<Instant>),
}

impl Limits {
    pub(super) fn deadline(&self, limit: &Limit) -> Deadline {
        if self.nonblocking.load(Ordering::Relaxed) {
            return Deadline::Now;
        }
        Deadline::At(limit.get().and_then(|limit| Instant::now().checked_add(limit)))
    }
}

impl Deadline {
    /// Until when to wait; `WouldBlock` if that is over, as on Unix.
    pub(super) fn until(self) -> io::Result<Option<Instant>> {
        match self {
            Self::Now => Err(io::ErrorKind::WouldBlock.into()),
            Self::At(Some(end)) if end <= Instant::now() => Err(io::ErrorKind::WouldBlock.into()),
            Self::At(end) => Ok(end),
        }
    }
}
