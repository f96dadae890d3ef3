//! Messages on their way to the control thread, from the worker and from the keeper: a channel and
//! something to wait on.

use crate::switch::Event;
use rustix::event::EventfdFlags;
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

/// The end that speaks.
#[derive(Debug)]
pub struct EventSink<T = Event> {
    /// `None` only while it is dropped.
    events: Option<Sender<T>>,
    bell: Arc<OwnedFd>,
}

/// The control thread's end; its descriptor is readable while there are events.
#[derive(Debug)]
pub struct EventSource<T = Event> {
    events: Receiver<T>,
    bell: Arc<OwnedFd>,
    closed: Cell<bool>,
}

/// A channel of events.
///
/// # Errors
/// No descriptor is left.
pub fn event_channel<T>() -> io::Result<(EventSink<T>, EventSource<T>)> {
    let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let bell = Arc::new(bell);
    let (sink, source) = channel();
    let sink = EventSink { events: Some(sink), bell: Arc::clone(&bell) };
    Ok((sink, EventSource { events: source, bell, closed: Cell::new(false) }))
}

impl<T> EventSink<T> {
    /// Passes an event on; it is lost if nobody listens any more.
    pub fn send(&self, event: T) {
        if self.events.as_ref().is_some_and(|events| events.send(event).is_ok()) {
            self.ring();
        }
    }

    fn ring(&self) {
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

impl<T> Drop for EventSink<T> {
    /// Also when its thread panics: the other end must not wait for ever.
    fn drop(&mut self) {
        self.events = None;
        self.ring();
    }
}

impl<T> EventSource<T> {
    /// All events that wait.
    #[must_use]
    pub fn take(&self) -> Vec<T> {
        // Before the look, so that an event after it rings again.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        let mut events = Vec::new();
        loop {
            match self.events.try_recv() {
                Ok(event) => events.push(event),
                Err(TryRecvError::Empty) => return events,
                Err(TryRecvError::Disconnected) => {
                    self.closed.set(true);
                    return events;
                }
            }
        }
    }

    /// Whether [`take`](Self::take) has seen that no more events will come: the other end is
    /// gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }
}

impl<T> AsFd for EventSource<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
