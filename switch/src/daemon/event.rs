//! Events on their way from the worker to the control thread: a channel and something to wait on.

use crate::switch::Event;
use rustix::event::EventfdFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// The worker's end.
#[derive(Clone, Debug)]
pub struct EventSink {
    events: Sender<Event>,
    bell: Arc<OwnedFd>,
}

/// The control thread's end; its descriptor is readable while there are events.
#[derive(Debug)]
pub struct EventSource {
    events: Receiver<Event>,
    bell: Arc<OwnedFd>,
}

/// A channel of events.
///
/// # Errors
/// No descriptor is left.
pub fn event_channel() -> io::Result<(EventSink, EventSource)> {
    let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let bell = Arc::new(bell);
    let (sink, source) = channel();
    Ok((EventSink { events: sink, bell: Arc::clone(&bell) }, EventSource { events: source, bell }))
}

impl EventSink {
    /// Passes an event on; it is lost if nobody listens any more.
    pub fn send(&self, event: Event) {
        if self.events.send(event).is_ok() {
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }
}

impl EventSource {
    /// All events that wait.
    #[must_use]
    pub fn take(&self) -> Vec<Event> {
        // Before the look, so that an event after it rings again.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.events.try_iter().collect()
    }
}

impl AsFd for EventSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
