//! What lies behind an interface: a wire, or the host's stack.
//!
//! ```text
//!   rings of a NIC <--> Medium <--> a descriptor, a queue in memory, a generator
//! ```
//!
//! - A medium never blocks.
//! - Its descriptor is readable whenever it has a frame; it may be readable without one.

use core::fmt::{self, Debug, Formatter};
use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Something that frames come from and go to.
pub trait Medium: Debug + Send {
    /// Takes the next frame; returns its length, cut to what `into` holds.
    fn receive(&mut self, into: &mut [u8]) -> Option<usize>;

    /// Gives a frame away; false if there is no room for it now.
    fn send(&mut self, frame: &[u8]) -> bool;

    /// Readable while there is a frame to receive.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// Shows the next frame to `take`, in place where the medium holds it in memory; returns whether
    /// there was one.
    fn lend(&mut self, scratch: &mut [u8], take: &mut dyn FnMut(&[u8])) -> bool {
        let Some(frame) = self.receive(scratch).and_then(|length| scratch.get(..length)) else {
            return false;
        };
        take(frame);
        true
    }
}

/// A flag that can be slept on.
#[derive(Debug)]
pub(super) struct Bell {
    descriptor: OwnedFd,
    is_rung: Mutex<bool>,
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let descriptor = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { descriptor, is_rung: Mutex::new(false) })
    }

    /// Readable from now on, or no longer. A system call only where that is a change.
    pub(super) fn set(&self, rung: bool) {
        let mut is_rung = self.is_rung.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_rung == rung {
            return;
        }
        *is_rung = rung;
        if rung {
            let _ = rustix::io::write(&self.descriptor, &1u64.to_ne_bytes());
        } else {
            let _ = rustix::io::read(&self.descriptor, &mut [0; 8]);
        }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// A descriptor of which one read is one frame: a TAP device, a packet socket.
#[derive(Debug)]
pub struct FdMedium {
    descriptor: OwnedFd,
}

impl FdMedium {
    /// Takes the descriptor and sets `O_NONBLOCK` on it.
    ///
    /// # Errors
    /// It has no flags to set.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&descriptor)?;
        rustix::fs::fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK)?;
        Ok(Self { descriptor })
    }
}

impl Medium for FdMedium {
    fn receive(&mut self, into: &mut [u8]) -> Option<usize> {
        // 0 bytes are the end of a stream, such as a socket whose peer is gone.
        rustix::io::read(&self.descriptor, into).ok().filter(|length| *length > 0)
    }

    fn send(&mut self, frame: &[u8]) -> bool {
        // An interface that is down, for example, loses the frame as a wire would.
        !matches!(rustix::io::write(&self.descriptor, frame), Err(Errno::AGAIN | Errno::NOBUFS))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.descriptor.as_fd())
    }
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Vec<u8>>,
    /// Buffers that go round, so that nothing is allocated after the first frames.
    spare: Vec<Vec<u8>>,
}

/// One end of [`queue_pair`].
pub struct QueueMedium {
    capacity: usize,
    queues: Arc<[(Mutex<Queue>, Bell); 2]>,
    end: usize,
    /// The buffer of the frame that was received last.
    last: Vec<u8>,
}

/// Two ends; what one sends the other receives. Each way holds `capacity` frames.
///
/// # Errors
/// No descriptors are left.
pub fn queue_pair(capacity: usize) -> io::Result<(QueueMedium, QueueMedium)> {
    let queue = || Ok::<_, io::Error>((Mutex::new(Queue::default()), Bell::new()?));
    let queues = Arc::new([queue()?, queue()?]);
    let end = |end| QueueMedium { capacity, queues: Arc::clone(&queues), end, last: Vec::new() };
    Ok((end(0), end(1)))
}

impl QueueMedium {
    /// Frames that wait for this end.
    #[must_use]
    pub fn len(&self) -> usize {
        self.incoming().0.frames.len()
    }

    /// Whether none wait.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn incoming(&self) -> (MutexGuard<'_, Queue>, &Bell) {
        self.queue(self.end)
    }

    fn queue(&self, end: usize) -> (MutexGuard<'_, Queue>, &Bell) {
        let [first, second] = &*self.queues;
        let (queue, bell) = if end == 0 { first } else { second };
        (queue.lock().unwrap_or_else(PoisonError::into_inner), bell)
    }
}

impl Debug for QueueMedium {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueMedium").field("end", &self.end).finish_non_exhaustive()
    }
}

impl Medium for QueueMedium {
    fn receive(&mut self, into: &mut [u8]) -> Option<usize> {
        let mut length = 0;
        self.lend(&mut [], &mut |frame| {
            length = frame.len().min(into.len());
            if let (Some(to), Some(from)) = (into.get_mut(..length), frame.get(..length)) {
                to.copy_from_slice(from);
            }
        })
        .then_some(length)
    }

    fn send(&mut self, frame: &[u8]) -> bool {
        let (mut queue, bell) = self.queue(1 - self.end);
        if queue.frames.len() >= self.capacity {
            return false;
        }
        let mut buffer = queue.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(frame);
        queue.frames.push_back(buffer);
        bell.set(true);
        true
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.incoming().1.as_fd())
    }

    fn lend(&mut self, _scratch: &mut [u8], take: &mut dyn FnMut(&[u8])) -> bool {
        let last = core::mem::take(&mut self.last);
        let (mut queue, bell) = self.incoming();
        if last.capacity() > 0 {
            queue.spare.push(last);
        }
        let Some(frame) = queue.frames.pop_front() else {
            // Under the lock, so that no sender rings between the look and this.
            bell.set(false);
            return false;
        };
        // `take` may lock other queues, whose holders may want this one.
        drop(queue);
        take(&frame);
        self.last = frame;
        true
    }
}

/// The same frame for ever, and a place where frames end: the fastest wire there is, for benches.
#[derive(Debug)]
pub struct Generator {
    frame: Vec<u8>,
    always: Bell,
}

impl Generator {
    /// A generator of `frame`; of nothing if it is empty, which leaves the sink.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn new(frame: &[u8]) -> io::Result<Self> {
        let always = Bell::new()?;
        always.set(!frame.is_empty());
        Ok(Self { frame: frame.to_vec(), always })
    }
}

impl Medium for Generator {
    fn receive(&mut self, into: &mut [u8]) -> Option<usize> {
        let length = self.frame.len().min(into.len());
        into.get_mut(..length)?.copy_from_slice(self.frame.get(..length)?);
        (length > 0).then_some(length)
    }

    fn send(&mut self, _frame: &[u8]) -> bool {
        true
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.always.as_fd())
    }

    fn lend(&mut self, _scratch: &mut [u8], take: &mut dyn FnMut(&[u8])) -> bool {
        if self.frame.is_empty() {
            return false;
        }
        take(&self.frame);
        true
    }
}
