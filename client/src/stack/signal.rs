//! Waking exactly those who wait for a socket.
//!
//! A waiter holds the stack's lock while it looks, registers a waker with smoltcp and lies down on
//! the condition variable, which gives the lock away as it does so. Whoever changes the socket holds
//! the lock too, so no change falls between the look and the sleep.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::Instant;

/// Something that threads wait for.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    changed: Condvar,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

impl Signal {
    /// A signal, and the waker that raises it.
    pub(crate) fn new() -> (Arc<Self>, Waker) {
        let signal = Arc::new(Self::default());
        (Arc::clone(&signal), signal.into())
    }

    pub(crate) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Sleeps until the signal is raised or `deadline` is over; tells whether it is. May wake early.
    pub(crate) fn wait<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, T>, bool) {
        let Some(deadline) = deadline else {
            let guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
            return (guard, false);
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return (guard, true);
        }
        let woken = self.changed.wait_timeout(guard, left);
        (woken.unwrap_or_else(PoisonError::into_inner).0, false)
    }
}

/// Says that one of a group of sockets has changed, and which group.
#[derive(Debug)]
pub(crate) struct Flag {
    own: AtomicBool,
    any: Arc<AtomicBool>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.raise();
    }
}

impl Flag {
    pub(crate) fn new(any: &Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Self { own: AtomicBool::new(false), any: Arc::clone(any) })
    }

    // Only ever touched under the stack's lock, so there is nothing to order.
    pub(crate) fn raise(&self) {
        self.own.store(true, Ordering::Relaxed);
        self.any.store(true, Ordering::Relaxed);
    }

    pub(crate) fn take(&self) -> bool {
        self.own.swap(false, Ordering::Relaxed)
    }
}
