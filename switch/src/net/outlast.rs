//! What is done when this process has been killed, by small processes that share its memory and wait for its end.
//!
//! ```text
//!   SIGKILL --> threads end --> memory is unmapped: 4 ms --> descriptors close: the guard goes, the kernel hears
//!   with one:   threads end --> descriptors close, a pipe among them --> the other process has its say, and ends,
//!                                                                        and with it the memory
//! ```
//!
//! - The kernel unmaps what a process has before it closes its descriptors, half a microsecond for each page that was
//!   touched. A second process that shares the memory makes it wait with that.
//! - The second process reads from a pipe whose other end only this one has. It has one other descriptor at most, and
//!   runs nothing but a few system calls.
//! - What a mapping holds, too, closes a moment later: a packet socket with its rings, for instance. So this is for
//!   where something else must not wait: [guards](super::guard) and macvtaps.
//! - The signal for a parent's death would come too early: when the thread is gone that started the process.

#![expect(
    unsafe_code,
    reason = "clone with shared memory, sigprocmask, which rustix does not have"
)]

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};
use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

/// Units of 16 bytes, to which a stack is aligned.
const STACK_UNITS: usize = 1024;

/// A process that outlives this one by a moment. Dropping it has it do at once what it waits to do.
#[derive(Debug)]
#[must_use = "dropping it ends the other process"]
pub(super) struct Outlasting {
    pipe: Option<OwnedFd>,
    pid: Pid,
    // The process uses both until it has ended.
    _will: Box<Will>,
    _stack: Box<[u128]>,
}

/// What the other process knows. It only reads it.
#[derive(Debug)]
struct Will {
    name: &'static CStr,
    pipe: c_int,
    /// -1: there is nothing to say.
    socket: c_int,
    word: Box<[u8]>,
}

impl Outlasting {
    /// Keeps the memory mapped until the descriptors are closed.
    ///
    /// # Errors
    /// No process or pipe can be made. Nothing is lost by that but some milliseconds after a kill.
    pub(super) fn keep_memory() -> io::Result<Self> {
        Self::start(c"usnetd-memory", None, Box::default())
    }

    /// Sends `word` through `socket` when this process is gone.
    ///
    /// # Errors
    /// No process or pipe can be made.
    pub(super) fn say(name: &'static CStr, socket: OwnedFd, word: &[u8]) -> io::Result<Self> {
        Self::start(name, Some(socket), word.into())
    }

    fn start(name: &'static CStr, socket: Option<OwnedFd>, word: Box<[u8]>) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let socket_number = socket.as_ref().map_or(-1, |socket| socket.as_raw_fd());
        let will = Box::new(Will { name, pipe: read.as_raw_fd(), socket: socket_number, word });
        let mut stack = vec![0_u128; STACK_UNITS].into_boxed_slice();
        let top: *mut c_void = stack.as_mut_ptr_range().end.cast();
        let argument: *const Will = &raw const *will;
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
        let flags = libc::CLONE_VM | libc::SIGCHLD;
        // SAFETY: `top` is the aligned end of a stack that nothing else uses. It and what `argument` points to
        // stay where they are until `Drop` has waited for the process's end, or for ever if this is forgotten or
        // the process is killed. `outlast` does nothing but system calls on its own stack: of this process's memory it
        // may change `errno` alone, and that only if a call fails, upon which it ends. It returns to libc, which
        // ends the process.
        let pid = unsafe { libc::clone(outlast, top, flags, argument.cast_mut().cast()) };
        let result = if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) };
        // SAFETY: the call above has succeeded, so it has written the set.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
        let pid = Pid::from_raw(result?).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { pipe: Some(write), pid, _will: will, _stack: stack })
    }
}

impl Drop for Outlasting {
    fn drop(&mut self) {
        drop(self.pipe.take());
        while matches!(waitpid(Some(self.pid), WaitOptions::empty()), Err(Errno::INTR)) {}
    }
}

/// The other process: it waits for the end of the pipe, and says what it has to say.
extern "C" fn outlast(argument: *mut c_void) -> c_int {
    let mut byte = 0_u8;
    // SAFETY: whoever started this keeps the will, and changes nothing of it, until this has ended.
    let will = unsafe { &*argument.cast::<Will>() };
    // SAFETY: `read` writes one byte at most, into `byte`; `send` reads the bytes of `word`; else numbers and a
    // string go in.
    unsafe {
        let (pipe, first_other) = match will.socket {
            -1 => (libc::dup2(will.pipe, 0), 1),
            socket => (libc::dup2(will.pipe, 0).max(libc::dup2(socket, 1) - 1), 2),
        };
        let is_alone = libc::syscall(libc::SYS_close_range, first_other, libc::c_uint::MAX, 0) == 0;
        if pipe != 0 || !is_alone {
            return 1;
        }
        libc::prctl(libc::PR_SET_NAME, will.name.as_ptr());
        libc::read(0, (&raw mut byte).cast(), 1);
        if will.socket != -1 {
            libc::send(1, will.word.as_ptr().cast(), will.word.len(), libc::MSG_NOSIGNAL);
        }
    }
    0
}
