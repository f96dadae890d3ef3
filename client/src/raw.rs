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
pub use usnet_shmring::offload::{Checksum, Offload};
use usnet_shmring::region::Mapped;
use usnet_shmring::ring::{PeerSleepFlag, SleepFlag};
pub use usnet_shmring::view::{BURST, BadLength, Receiver, RxFrame, Transmitter, TxFrame};
use usnet_shmring::view::{Signals, View};

/// Other descriptors that one [`Frames::wait`] can watch.
pub const MAX_WATCHED: usize = 6;

/// The rings of a session. One thread at a time; everything on them is by bursts, nothing allocates.
///
/// A session has a queue pair for each worker of the daemon. Frames are received from all of them, one
/// burst from each in turn, and sent on one, which [`send_on`](Self::send_on) chooses.
#[derive(Debug)]
pub struct Frames {
    /// By queue pair, as the two below; at least one.
    receivers: Box<[Receiver]>,
    transmitters: Box<[Transmitter]>,
    flags: Box<[Flags]>,
    /// The pair that the last burst came from; less than there are.
    from: usize,
    /// The pair that is sent on; less than there are.
    on: usize,
    signals: Signals,
    /// The control connection, for its hang-up alone.
    control: OwnedFd,
    /// Frames were published of which the daemon, if it sleeps, does not know.
    unannounced: bool,
}

/// Who of the two ends of a queue pair sleeps.
#[derive(Debug)]
struct Flags {
    own: SleepFlag<Mapped>,
    peer: PeerSleepFlag<Mapped>,
}

impl Frames {
    /// `None` without a queue pair. Sessions with different numbers send on different pairs.
    pub(crate) fn new(
        views: Vec<View>,
        session: u32,
        signals: Signals,
        control: OwnedFd,
    ) -> Option<Self> {
        let on = (session as usize).checked_rem(views.len())?;
        let (mut receivers, mut transmitters, mut flags) = (Vec::new(), Vec::new(), Vec::new());
        for View { receiver, transmitter, sleep, peer } in views {
            receivers.push(receiver);
            transmitters.push(transmitter);
            flags.push(Flags { own: sleep, peer });
        }
        Some(Self {
            receivers: receivers.into(),
            transmitters: transmitters.into(),
            flags: flags.into(),
            from: 0,
            on,
            signals,
            control,
            unannounced: false,
        })
    }

    /// Queue pairs of the session: as many as the daemon has workers.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.flags.len()
    }

    /// Chooses the queue pair that frames are sent on from now on; `pair` counts from 0, modulo the
    /// number of pairs. At first it is one that the session's number chooses. Frames of a flow stay in
    /// order as long as they are sent on one pair.
    pub fn send_on(&mut self, pair: usize) {
        self.on = pair % self.pairs();
    }

    /// Takes the next burst of frames, for [`next`](Self::next); the slots of the last one go back.
    /// While frames of the last burst are left, this only counts them.
    ///
    /// # Errors
    /// [`FrameError::Broken`]
    #[inline]
    pub fn receive(&mut self) -> Result<usize, FrameError> {
        let left = self.receivers[self.from].left();
        if left > 0 {
            return Ok(left);
        }
        let pairs = self.receivers.len();
        for _ in 0..pairs {
            // The slots of the last burst go back, too: those of this pair's.
            let at = if self.from + 1 < pairs { self.from + 1 } else { 0 };
            self.from = at;
            let count = self.receivers[at].receive()?;
            if count > 0 {
                return Ok(count);
            }
        }
        Ok(0)
    }

    /// The next frame of the burst.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "a frame borrows the rings")]
    pub fn next(&mut self) -> Option<RxFrame<'_>> {
        self.receivers[self.from].next()
    }

    /// An empty slot to write a frame into; `None` until the daemon gives some back, which
    /// [`flush`](Self::flush) looks for and [`wait`](Self::wait) waits for.
    #[inline]
    pub fn transmit(&mut self) -> Option<TxFrame<'_>> {
        self.transmitters[self.on].next()
    }

    /// Both directions, to read and write at the same time.
    #[inline]
    pub fn split(&mut self) -> (&mut Receiver, &mut Transmitter) {
        (&mut self.receivers[self.from], &mut self.transmitters[self.on])
    }

    /// Shows the daemon all frames sent and all slots given back since the last time, wakes it if it
    /// sleeps and somebody waits for one of these, and takes sent slots back. Once a burst.
    ///
    /// # Errors
    /// [`FrameError::Broken`], or [`FrameError::System`] if the daemon cannot be woken.
    #[inline]
    pub fn flush(&mut self) -> Result<(), FrameError> {
        let unannounced = mem::take(&mut self.unannounced);
        let mut kick = false;
        let pairs = self.receivers.iter_mut().zip(&mut self.transmitters).zip(&self.flags);
        for ((receiver, transmitter), flags) in pairs {
            receiver.give_back();
            let awaited = transmitter.publish() | unannounced | receiver.take_owed();
            kick |= awaited && flags.peer.must_wake();
        }
        if kick {
            self.kick()?;
        }
        self.reclaim()?;
        Ok(())
    }

    /// Shows the daemon all frames sent since the last time, and takes sent slots back, but lets it
    /// sleep: for those who go on at once and [`flush`](Self::flush) soon.
    ///
    /// # Errors
    /// [`FrameError::Broken`]
    #[inline]
    pub fn publish(&mut self) -> Result<(), FrameError> {
        for transmitter in &mut self.transmitters {
            self.unannounced |= transmitter.publish();
        }
        self.reclaim()?;
        Ok(())
    }

    /// Takes sent slots back, and says how many there were.
    #[inline]
    fn reclaim(&mut self) -> Result<usize, FrameError> {
        let mut count = 0;
        for transmitter in &mut self.transmitters {
            count += transmitter.reclaim()?;
        }
        Ok(count)
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
        let returned = self.reclaim()?;
        if want == Want::Slots {
            return Ok(self.transmitters[self.on].free() > 0);
        }
        // Slots may have come back before this call, to one who has not looked since.
        if self.transmitters.iter().any(Transmitter::is_relieved) {
            return Ok(true);
        }
        let mut found = returned > 0;
        for receiver in &mut self.receivers {
            found |= receiver.left() > 0;
            found |= receiver.refresh()? > 0;
        }
        Ok(found)
    }

    /// Announces sleep. Returns false, and takes it back, if there is something to do already.
    /// Whoever gets true sleeps in [`Waiter::sleep`] and calls [`rise`](Self::rise) after.
    pub(crate) fn lie_down(&mut self, want: Want) -> Result<bool, FrameError> {
        if self.ready(want)? {
            return Ok(false);
        }
        for flags in &mut self.flags {
            flags.own.raise();
        }
        match self.ready(want) {
            Ok(false) => Ok(true),
            other => {
                self.rise();
                other.map(|_| false)
            }
        }
    }

    /// Slots to send from, on all pairs.
    fn free(&self) -> usize {
        self.transmitters.iter().map(Transmitter::free).sum()
    }

    /// Takes the announcement of sleep back.
    pub(crate) fn rise(&mut self) {
        for flags in &mut self.flags {
            flags.own.lower();
        }
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
        let free = self.free();
        self.flush()?;
        if self.free() > free && others.is_empty() {
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
