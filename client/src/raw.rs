//! Frames in bursts, where they lie, with the waking and the waiting.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut session = usnet::Session::attach(usnet::Options::named("reflector"))?;
//! let frames = session.frames();
//! loop {
//!     if frames.receive()? == 0 {
//!         frames.wait(None, &[])?;
//!     }
//!     let (receiver, transmitter) = frames.split();
//!     while let Some(frame) = receiver.next() {
//!         if let Some(mut slot) = transmitter.next() {
//!             let length = frame.copy_to(slot.as_mut_slice());
//!             slot.send(length)?;
//!         }
//!     }
//!     frames.flush()?; // shows all of them to the daemon at once
//! }
//! # }
//! ```

use crate::error::FrameError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
pub use usnet_shmring::view::{BURST, BadLength, Receiver, RxFrame, Transmitter, TxFrame};
use usnet_shmring::view::{Signals, View};

/// Other descriptors that one [`Frames::wait`] can watch.
pub const MAX_WATCHED: usize = 6;

/// The rings of a session. One thread at a time; everything on them is by bursts, nothing allocates.
#[derive(Debug)]
pub struct Frames {
    view: View,
    signals: Signals,
    /// The control connection, for its hang-up alone.
    control: OwnedFd,
    /// Frames were published of which the daemon, if it sleeps, does not know.
    unannounced: bool,
}

impl Frames {
    pub(crate) fn new(view: View, signals: Signals, control: OwnedFd) -> Self {
        Self { view, signals, control, unannounced: false }
    }

    /// Takes the next burst of frames, for [`next`](Self::next); the slots of the last one go back.
    /// While frames of the last burst are left, this only counts them.
    ///
    /// # Errors
    /// [`FrameError::Broken`]
    #[inline]
    pub fn receive(&mut self) -> Result<usize, FrameError> {
        Ok(self.view.receiver.receive()?)
    }

    /// The next frame of the burst.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "a frame borrows the rings")]
    pub fn next(&mut self) -> Option<RxFrame<'_>> {
        self.view.receiver.next()
    }

    /// An empty slot to write a frame into; `None` until the daemon gives some back, which
    /// [`flush`](Self::flush) looks for and [`wait`](Self::wait) waits for.
    #[inline]
    pub fn transmit(&mut self) -> Option<TxFrame<'_>> {
        self.view.transmitter.next()
    }

    /// Both directions, to read and write at the same time.
    #[inline]
    pub fn split(&mut self) -> (&mut Receiver, &mut Transmitter) {
        (&mut self.view.receiver, &mut self.view.transmitter)
    }

    /// Shows the daemon all frames sent and all slots given back since the last time, wakes it if it
    /// sleeps and somebody waits for one of these, and takes sent slots back. Once a burst.
    ///
    /// # Errors
    /// [`FrameError::Broken`], or [`FrameError::System`] if the daemon cannot be woken.
    #[inline]
    pub fn flush(&mut self) -> Result<(), FrameError> {
        self.view.receiver.give_back();
        let published = self.view.transmitter.publish() | mem::take(&mut self.unannounced);
        let awaited = published | self.view.receiver.take_owed();
        if awaited && self.view.peer.must_wake() {
            self.kick()?;
        }
        self.view.transmitter.reclaim()?;
        Ok(())
    }

    /// Shows the daemon all frames sent since the last time, and takes sent slots back, but lets it
    /// sleep: for those who go on at once and [`flush`](Self::flush) soon.
    ///
    /// # Errors
    /// [`FrameError::Broken`]
    #[inline]
    pub fn publish(&mut self) -> Result<(), FrameError> {
        self.unannounced |= self.view.transmitter.publish();
        self.view.transmitter.reclaim()?;
        Ok(())
    }

    #[cold]
    fn kick(&self) -> Result<(), FrameError> {
        match rustix::io::write(&self.signals.kick, &1u64.to_ne_bytes()) {
            // A full eventfd wakes as well.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(FrameError::System { what: "wake the daemon", source: errno.into() }),
        }
    }

    /// Whether there is something to do: a frame to take, or slots that came back.
    fn ready(&mut self, want: Want) -> Result<bool, FrameError> {
        let returned = self.view.transmitter.reclaim()?;
        if want == Want::Slots {
            return Ok(self.view.transmitter.free() > 0);
        }
        // Slots may have come back before this call, to one who has not looked since.
        if self.view.transmitter.is_relieved() {
            return Ok(true);
        }
        let (left, waiting) = (self.view.receiver.left(), self.view.receiver.refresh()?);
        Ok(returned + left + waiting > 0)
    }

    /// Announces sleep. Returns false, and takes it back, if there is something to do already.
    /// Whoever gets true sleeps in [`Waiter::sleep`] and calls [`rise`](Self::rise) after.
    pub(crate) fn lie_down(&mut self, want: Want) -> Result<bool, FrameError> {
        if self.ready(want)? {
            return Ok(false);
        }
        self.view.sleep.raise();
        match self.ready(want) {
            Ok(false) => Ok(true),
            other => {
                self.view.sleep.lower();
                other.map(|_| false)
            }
        }
    }

    /// Takes the announcement of sleep back.
    pub(crate) fn rise(&mut self) {
        self.view.sleep.lower();
    }

    /// Descriptors to sleep on while others use the rings.
    pub(crate) fn waiter(&self) -> std::io::Result<Waiter> {
        Ok(Waiter { wake: self.signals.wake.try_clone()?, control: self.control.try_clone()? })
    }

    /// Sleeps until a frame or a sent slot arrives, one of `others` is readable, or `timeout` is
    /// over (`None`: never). Returns at once if there is something to do: frames wait, slots came back
    /// just now, or [`transmit`](Self::transmit) has failed and would not now. May return early.
    ///
    /// # Errors
    /// [`FrameError::Gone`] once the daemon has ended the session, [`FrameError::Broken`] and
    /// [`FrameError::System`] as they say.
    pub fn wait(
        &mut self,
        timeout: Option<Duration>,
        others: &[BorrowedFd<'_>],
    ) -> Result<(), FrameError> {
        let free = self.view.transmitter.free();
        self.flush()?;
        if self.view.transmitter.free() > free && others.is_empty() {
            return Ok(());
        }
        let timeout = if self.lie_down(Want::Anything)? { timeout } else { Some(Duration::ZERO) };
        let slept = sleep(&self.signals.wake, &self.control, others, timeout);
        self.rise();
        slept
    }
}

/// What a sleeper waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Frames or slots.
    Anything,
    /// Slots to send from: frames must wait until there are some.
    Slots,
}

/// What one needs to sleep without holding the rings.
#[derive(Debug)]
pub(crate) struct Waiter {
    wake: OwnedFd,
    control: OwnedFd,
}

impl Waiter {
    /// As [`Frames::wait`], between [`Frames::lie_down`] and [`Frames::rise`].
    pub(crate) fn sleep(
        &self,
        timeout: Option<Duration>,
        others: &[BorrowedFd<'_>],
    ) -> Result<(), FrameError> {
        sleep(&self.wake, &self.control, others, timeout)
    }
}

fn sleep(
    wake: &OwnedFd,
    control: &OwnedFd,
    others: &[BorrowedFd<'_>],
    timeout: Option<Duration>,
) -> Result<(), FrameError> {
    let first = PollFd::new(wake, PollFlags::IN);
    // Answers to requests are read by those who asked; only the hang-up counts here.
    let second = PollFd::new(control, PollFlags::empty());
    let mut fds = [const { None }; MAX_WATCHED + 2];
    let all = [first, second]
        .into_iter()
        .chain(others.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
    let mut count = 0;
    for (place, fd) in fds.iter_mut().zip(all) {
        *place = Some(fd);
        count += 1;
    }
    // `poll` wants them side by side; unused places watch the wake socket for nothing.
    let mut fds = fds.map(|fd| fd.unwrap_or_else(|| PollFd::new(wake, PollFlags::empty())));
    let fds = fds.get_mut(..count).unwrap_or_default();
    let limit = timeout.map(|t| Timespec {
        tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: t.subsec_nanos().into(),
    });
    match poll(fds, limit.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(FrameError::System { what: "sleep", source: errno.into() }),
    }
    let seen = |index: usize| fds.get(index).map_or(PollFlags::empty(), PollFd::revents);
    let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    if seen(1).intersects(gone) || seen(0).intersects(gone) {
        return Err(FrameError::Gone);
    }
    if seen(0).contains(PollFlags::IN) {
        // The bytes say nothing: whatever they announced lies on the rings.
        let mut bytes = [0u8; 64];
        match rustix::net::recv(wake, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(FrameError::Gone),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Err(FrameError::Gone),
            Err(errno) => {
                return Err(FrameError::System { what: "read wake-ups", source: errno.into() });
            }
        }
    }
    Ok(())
}

impl AsFd for Frames {
    /// The wake socket: readable when the daemon has something, for those who sleep in a poll of
    /// their own. They must then call [`Frames::wait`] with a zero timeout to go on.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.wake.as_fd()
    }
}
