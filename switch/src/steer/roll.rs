//! A short list that all workers of an interface know, for what changes rarely.
//!
//! ```text
//!   worker 0: Roll --change--> Shared (a lock, a number of changes) --look, once a burst--> worker 1: Roll
//! ```
//!
//! - Who changes the list takes its lock, and so does who finds that another has changed it. Reading takes none.
//! - Nothing is allocated as long as no more entries are entered than [`expected`](Roll::expect).

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The list as all workers of an interface know it.
#[derive(Debug)]
pub(super) struct Shared<T> {
    /// Grows with every change.
    changes: AtomicU64,
    entries: Mutex<Vec<T>>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { changes: AtomicU64::new(0), entries: Mutex::default() }
    }
}

/// The list as one worker knows it.
#[derive(Debug)]
pub(super) struct Roll<T> {
    shared: Arc<Shared<T>>,
    changes: u64,
    entries: Vec<T>,
}

impl<T> Default for Roll<T> {
    fn default() -> Self {
        Self { shared: Arc::default(), changes: 0, entries: Vec::new() }
    }
}

impl<T: Clone> Roll<T> {
    /// Uses a list together with others from now on.
    pub(super) fn share(&mut self, shared: Arc<Shared<T>>) {
        *self = Self { shared, ..Self::default() };
    }

    /// Makes room for so many entries, so that nothing is allocated later.
    pub(super) fn expect(&mut self, entries: usize) {
        self.entries.reserve(entries);
        self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner).reserve(entries);
    }

    /// Takes over what other workers have changed.
    #[inline]
    pub(super) fn look(&mut self) {
        if self.shared.changes.load(Ordering::Acquire) != self.changes {
            self.change(|_| false);
        }
    }

    /// Changes the list, if `how` says that it did, and takes it over as it is then.
    #[cold]
    pub(super) fn change(&mut self, how: impl FnOnce(&mut Vec<T>) -> bool) {
        let mut entries = self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if how(&mut entries) {
            self.shared.changes.fetch_add(1, Ordering::Release);
        }
        // Under the lock, so this is the state that the number names.
        let changes = self.shared.changes.load(Ordering::Relaxed);
        if changes != self.changes {
            self.changes = changes;
            self.entries.clone_from(&entries);
        }
    }

    /// The list as it was when it was last looked at.
    pub(super) fn entries(&self) -> &[T] {
        &self.entries
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.entries.capacity()
    }
}
