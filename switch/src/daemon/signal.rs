//! Signals as something to wait for, instead of something that interrupts.

#![expect(unsafe_code, reason = "sigprocmask and signalfd, which rustix does not have")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// Signals that are waited for, by their numbers (`libc::SIGTERM` ...).
#[derive(Debug)]
pub struct Signals {
    descriptor: OwnedFd,
}

impl Signals {
    /// Keeps these signals from interrupting this thread, and every thread that it starts from now
    /// on, and collects them here.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn collect(signals: &[i32]) -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `set` has room for a `sigset_t`; `sigemptyset` initialises all of it, and the
        // calls after it only change the initialised set.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(set.as_mut_ptr(), *signal);
            }
            set.assume_init()
        };
        // SAFETY: `set` is an initialised set; no old mask is asked for.
        let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        if blocked != 0 {
            return Err(io::Error::from_raw_os_error(blocked));
        }
        // SAFETY: `set` is an initialised set; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor; nobody else knows its number.
        Ok(Self { descriptor: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// The next signal, if one has come.
    #[must_use]
    pub fn next(&self) -> Option<i32> {
        // `struct signalfd_siginfo` (linux/signalfd.h): 128 bytes, the number first.
        let mut info = [0; 128];
        let length = rustix::io::read(&self.descriptor, &mut info).ok()?;
        let number = info.first_chunk().filter(|_| length == info.len())?;
        i32::try_from(u32::from_ne_bytes(*number)).ok()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
