//! Network namespaces that leave nothing behind, for root and for ordinary users.
//!
//! ```text
//!   enter_private()            this process -> [ user + ] network namespace of its own
//!   isolate(&mut command)      the same for a child, before it runs its program
//!   Namespace::create()        one more, held by a descriptor
//!        .run(|| ...)          work in a thread that lives there
//!        .adopt(&mut command)  a child that lives there
//! ```
//!
//! - No namespace gets a name below `/run/netns`: each ends with the last process, descriptor and
//!   socket in it, also when all of them are killed, and its interfaces with it.
//! - A network namespace belongs to a thread, a user namespace to a process. So an ordinary user
//!   enters one before the first thread is started (or in a child), and is `root` in it.

use super::error::{KernelNote, NetError};
use super::link::Netlink;
use super::sys;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::ffi::CStr;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::thread;

/// How a private namespace was got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// With the capability to make network namespaces (root).
    Capability,
    /// By way of a user namespace, as an ordinary user. Device files such as `/dev/net/tun` keep
    /// the permissions that the user had before.
    UserNamespace,
}

/// Puts this process into a network namespace of its own, with the loopback up. Call it while the
/// process has one thread.
///
/// # Errors
/// Neither root's way nor a user namespace can be had; the text says what forbids it.
pub fn enter_private() -> Result<Privilege, NetError> {
    let privilege = enter().map_err(explain)?;
    bring_loopback_up()?;
    Ok(privilege)
}

/// Makes the child that `command` starts begin in a network namespace of its own (as root, or as an
/// ordinary user by way of a user namespace). Its loopback is down: see [`bring_loopback_up`].
/// Where this is not possible, starting the child fails; [`explain`] says why.
pub fn isolate(command: &mut Command) {
    sys::before_exec(command, || enter().map(drop).map_err(io::Error::from));
}

/// Makes the child that `command` starts die, by SIGKILL, when the *thread* that starts it ends.
pub fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    sys::before_exec(command, move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // Between fork and here the parent may have died already.
        if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
    });
}

/// Sets the loopback of the calling thread's namespace up.
///
/// # Errors
/// The privilege is missing.
pub fn bring_loopback_up() -> Result<(), NetError> {
    Netlink::open()?.set_up("lo")
}

/// A network namespace, alive at least as long as this value.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
}

impl Namespace {
    /// The one of the calling thread.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn current() -> Result<Self, NetError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(c"/proc/thread-self/ns/net", flags, Mode::empty())
            .map_err(|errno| failed("open the network namespace", errno))?;
        Ok(Self { fd })
    }

    /// A new one with its loopback up. Needs root, or a process after [`enter_private`].
    ///
    /// # Errors
    /// The privilege is missing.
    pub fn create() -> Result<Self, NetError> {
        let work = || {
            sys::unshare(UnshareFlags::NEWNET).map_err(explain)?;
            bring_loopback_up()?;
            Self::current()
        };
        in_thread(work)?
    }

    /// Runs `work` in a thread that lives in this namespace, and waits for it. Sockets that it
    /// opens stay in the namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered: the privilege is missing.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetError> {
        in_thread(|| {
            self.enter()?;
            Ok(work())
        })?
    }

    /// Moves the calling thread into this namespace.
    ///
    /// # Errors
    /// The privilege is missing.
    pub fn enter(&self) -> Result<(), NetError> {
        move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| failed("enter the network namespace", errno))
    }

    /// The same once more.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> Result<Self, NetError> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)
            .map_err(|errno| failed("keep the network namespace", errno))?;
        Ok(Self { fd })
    }

    /// Its number, which no other has as long as it lives.
    #[must_use]
    pub fn number(&self) -> u64 {
        rustix::fs::fstat(&self.fd).map_or(0, |stat| stat.st_ino)
    }

    /// Makes the child that `command` starts live in this namespace.
    ///
    /// # Errors
    /// The descriptor cannot be duplicated.
    pub fn adopt(&self, command: &mut Command) -> Result<(), NetError> {
        let fd = self.fd.try_clone().map_err(|source| NetError::Namespace {
            operation: "share the network namespace",
            hint: KernelNote::default(),
            source,
        })?;
        sys::before_exec(command, move || {
            Ok(move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))?)
        });
        Ok(())
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NetError> {
    thread::scope(|scope| {
        let handle = thread::Builder::new().name("namespace".into()).spawn_scoped(scope, work);
        let handle = handle.map_err(|source| NetError::Namespace {
            operation: "start a thread for a network namespace",
            hint: KernelNote::default(),
            source,
        })?;
        match handle.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn failed(operation: &'static str, errno: Errno) -> NetError {
    NetError::Namespace { operation, hint: KernelNote::default(), source: errno.into() }
}

/// Enters new namespaces. Neither allocates nor locks, for it also runs between fork and exec.
fn enter() -> Result<Privilege, Errno> {
    match sys::unshare(UnshareFlags::NEWNET) {
        Ok(()) => return Ok(Privilege::Capability),
        Err(Errno::PERM) => {}
        Err(other) => return Err(other),
    }
    // Inside nobody knows who we were.
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    // The files below are root's as long as this process, if it has changed its user, is not marked
    // as one that may be looked into (proc(5)).
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET)?;
    // Without this an ordinary user may not map a group (user_namespaces(7)).
    match write_file(c"/proc/self/setgroups", b"deny") {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(other) => return Err(other),
    }
    write_map(c"/proc/self/uid_map", user.as_raw())?;
    write_map(c"/proc/self/gid_map", group.as_raw())?;
    Ok(Privilege::UserNamespace)
}

/// Maps root inside to `outside`.
fn write_map(path: &CStr, outside: u32) -> Result<(), Errno> {
    let mut line = [0_u8; 32];
    let mut rest = &mut line[..];
    // "0 4294967295 1" is 14 bytes.
    write!(rest, "0 {outside} 1").map_err(|_| Errno::INVAL)?;
    let unused = rest.len();
    write_file(path, &line[..line.len() - unused])
}

fn write_file(path: &CStr, bytes: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    if rustix::io::write(&file, bytes)? == bytes.len() { Ok(()) } else { Err(Errno::IO) }
}

/// Says why a private namespace was refused, from the settings of this machine.
#[must_use]
pub fn explain(error: impl Into<io::Error>) -> NetError {
    let source = error.into();
    let hint = reason(&source, |path| fs::read_to_string(path).ok());
    let operation = "make a private network namespace";
    NetError::Namespace { operation, hint: KernelNote(hint), source }
}

/// The settings that can forbid it: file, value that forbids, what to say.
const FORBIDDING: [(&str, &str, &str); 4] = [
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "user namespaces are switched off: sysctl user.max_user_namespaces is 0",
    ),
    (
        "/proc/sys/user/max_net_namespaces",
        "0",
        "network namespaces are switched off: sysctl user.max_net_namespaces is 0",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "only root may make user namespaces: sysctl kernel.unprivileged_userns_clone is 0",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor restricts user namespaces: sysctl \
         kernel.apparmor_restrict_unprivileged_userns is 1",
    ),
];

fn reason(error: &io::Error, read: impl Fn(&str) -> Option<String>) -> Option<String> {
    let number = error.raw_os_error()?;
    for (path, value, text) in FORBIDDING {
        if read(path).is_some_and(|found| found.trim() == value) {
            return Some(text.into());
        }
    }
    let text = match number {
        libc::EINVAL => "the kernel has no user namespaces, or this process has several threads",
        libc::ENOSPC | libc::EUSERS => {
            "the limit of nested or of all namespaces of this user is reached: see sysctl user"
        }
        libc::EPERM | libc::EACCES => {
            "not root, and user namespaces are forbidden, perhaps by a container's seccomp filter \
             or a security module"
        }
        _ => return None,
    };
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(errno: i32, file: &str, value: &str) -> String {
        let error = io::Error::from_raw_os_error(errno);
        reason(&error, |path| (path == file).then(|| value.into())).unwrap_or_default()
    }

    #[test]
    fn the_setting_that_forbids_a_namespace_is_named() {
        for (file, value, _) in FORBIDDING {
            let name = file.rsplit('/').next().unwrap();
            assert!(hint(libc::EPERM, file, &format!("{value}\n")).contains(name), "{file}");
            assert!(!hint(libc::EPERM, file, "7").contains(name), "{file}");
        }
        assert!(hint(libc::EPERM, "", "").contains("seccomp"));
        assert!(hint(libc::EINVAL, "", "").contains("threads"));
        assert_eq!(hint(libc::EIO, "", ""), "");
    }
}
