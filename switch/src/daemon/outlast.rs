//! A killed daemon lets go of its descriptors before its memory.
//!
//! ```text
//!   SIGKILL --> threads end --> memory is unmapped: 4 ms --> descriptors close: the guard goes, the kernel hears
//!   with this:  threads end --> descriptors close, a pipe among them --> the other process ends, and the memory
//! ```
//!
//! - The kernel unmaps what a process has before it closes its descriptors, half a microsecond for each page that was
//!   touched. A second process that shares the memory makes it wait with that.
//! - The second process reads from a pipe whose other end only the daemon has. It has no other descriptor and runs
//!   nothing but a few system calls.
//! - The signal for a parent's death would come too early: when the thread is gone that started the process.

#![expect(
    unsafe_code,
    reason = "clone with shared memory, sigprocmask, which rustix does not have"
)]

use rustix::pipe::{PipeFlags, pipe_with};
use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

/// Units of 16 bytes, to which a stack is aligned.
const STACK_UNITS: usize = 1024;

/// As long as the daemon has it, its memory outlasts its descriptors if it is killed.
#[derive(Debug)]
#[must_use = "dropping it ends the other process"]
pub struct Outlasting {
    _pipe: OwnedFd,
}

impl Outlasting {
    /// Starts the second process. For a moment it has all descriptors that are open now.
    ///
    /// # Errors
    /// No process or pipe can be made. Nothing is lost by that but some milliseconds after a kill.
    pub fn start() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        // Never freed: the process runs on it until it ends.
        let stack = Box::leak(vec![0_u128; STACK_UNITS].into_boxed_slice());
        let top: *mut c_void = stack.as_mut_ptr_range().end.cast();
        let pipe = read.as_raw_fd().unsigned_abs() as usize;
        // Handlers of this process must not run in the other one.
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigfillset` initialises the set that the next call reads; that writes a whole set into `before`.
        let blocked = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr())
        };
        if blocked != 0 {
            return Err(io::Error::from_raw_os_error(blocked));
        }
        let pipe = ptr::without_provenance_mut(pipe);
        // SAFETY: `top` is the aligned end of a stack that is never freed and that nothing else uses. `outlast`
        // does nothing but system calls on its own stack: of this process's memory it may change `errno` alone, and
        // that only if a call fails, upon which it ends. It returns to libc, which ends the process.
        let pid = unsafe { libc::clone(outlast, top, libc::CLONE_VM | libc::SIGCHLD, pipe) };
        let result = if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        // SAFETY: the call above has succeeded, so it has written the set.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
        result.map(|()| Self { _pipe: write })
    }
}

/// What the second process does: it waits for the end of the pipe.
extern "C" fn outlast(pipe: *mut c_void) -> c_int {
    let mut byte = 0_u8;
    // SAFETY: `read` writes one byte at most, into `byte`; else numbers and a literal string go in.
    unsafe {
        let is_only = libc::dup2(c_int::try_from(pipe.addr()).unwrap_or(-1), 0) == 0
            && libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0) == 0;
        if is_only {
            libc::prctl(libc::PR_SET_NAME, c"usnetd-memory".as_ptr());
            libc::read(0, (&raw mut byte).cast(), 1);
        }
    }
    0
}
