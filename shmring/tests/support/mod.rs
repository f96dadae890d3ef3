//! What the tests with a second process share.

#![allow(dead_code, reason = "each test uses a part")]

pub(crate) mod sys;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use usnet_shmring::control::{Attached, Channel, Message, SegmentInfo};

/// Set in a process that a test started; its value is the role.
const ROLE: &str = "USNET_TEST_ROLE";
/// No test takes a hundredth of this; a process that does has hung.
const PATIENCE: Duration = Duration::from_secs(120);

/// The role of this process, if a test started it.
pub(crate) fn role() -> Option<OsString> {
    std::env::var_os(ROLE)
}

/// This test binary again, running the test `name` as `role`, with a channel to it as its standard
/// input. Killed when dropped, and when it hangs.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    pub(crate) channel: Channel,
    started: Instant,
}

impl Peer {
    pub(crate) fn start(name: &str, role: &str) -> io::Result<Self> {
        let (ours, theirs) = socket_pair()?;
        let child = Command::new(std::env::current_exe()?)
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .stdin(Stdio::from(theirs))
            .spawn()?;
        Ok(Self { child, channel: ours.into(), started: Instant::now() })
    }

    /// Whether it still runs; kills it if it has hung.
    pub(crate) fn is_running(&mut self) -> bool {
        if self.started.elapsed() > PATIENCE {
            let _ = self.child.kill();
        }
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it has ended, and says whether all that it asserted was true.
    pub(crate) fn succeeded(mut self) -> bool {
        while self.is_running() {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.child.wait().is_ok_and(|status| status.success())
    }

    /// Runs `work` with a helper that kills the child should it hang, so that whatever waits for it
    /// goes on and fails.
    pub(crate) fn guarded(self) -> Guarded {
        let channel = self.channel.as_fd().try_clone_to_owned();
        Guarded {
            channel: Channel::from(channel.expect("a descriptor")),
            watch: std::thread::spawn(move || self.succeeded()),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A peer that a thread watches.
#[derive(Debug)]
pub(crate) struct Guarded {
    pub(crate) channel: Channel,
    watch: JoinHandle<bool>,
}

impl Guarded {
    pub(crate) fn is_running(&self) -> bool {
        !self.watch.is_finished()
    }

    pub(crate) fn succeeded(self) -> bool {
        self.watch.join().unwrap_or(false)
    }
}

/// In a peer: the channel to the test that started it.
pub(crate) fn parent() -> Channel {
    let fd = std::io::stdin().as_fd().try_clone_to_owned().expect("a descriptor");
    Channel::from(fd)
}

/// Two ends of a control connection.
pub(crate) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// An answer to an attach that says where the segments are, and nothing of networks.
pub(crate) fn attached(capacity: u32, sizes: [usize; 2], segments: [SegmentInfo; 4]) -> Message {
    let [inbound_size, outbound_size] = sizes.map(|size| size as u64);
    let ring_capacity = capacity;
    let zero: Attached = bytemuck::Zeroable::zeroed();
    let version = usnet_shmring::layout::VERSION;
    Message::Attached(Attached {
        version,
        ring_capacity,
        slot_size: 2048,
        inbound_size,
        outbound_size,
        segments,
        ..zero
    })
}
