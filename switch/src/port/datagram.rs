//! A socket of datagrams as a port: one frame a datagram, for a program at its other end.
//!
//! ```text
//!   program <-- AF_UNIX SOCK_DGRAM --> this process
//! ```
//!
//! - One system call and one copy a frame: what programs of the predecessor speak.
//! - What the program does not read is dropped and counted: it keeps nobody waiting.
//! - A socket whose other end is closed is an error when something is sent, and no other sign is given.

use super::{Burst, Port, PortCounters, PortInfo};
use crate::classify::Mac;
use crate::time::Time;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use usnet_shmring::pool::{MIN_FRAME, Pool};

/// A port over a connected socket of datagrams.
#[derive(Debug)]
pub struct Datagrams {
    info: PortInfo,
    socket: OwnedFd,
    counters: PortCounters,
}

impl Datagrams {
    /// A port over `socket`.
    #[must_use]
    pub fn over(socket: OwnedFd, name: &str, mac: Mac, mtu: u16) -> Self {
        let info = PortInfo { name: name.to_owned(), backend: "datagram", mac, mtu };
        Self { info, socket, counters: PortCounters::default() }
    }
}

impl Port for Datagrams {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn receive(&mut self, _: Time, pool: &mut Pool, into: &mut Burst) -> io::Result<usize> {
        let mut count = 0;
        let slot = u16::try_from(pool.slot_size()).unwrap_or(u16::MAX);
        while into.room() > 0 {
            let Some(mut frame) = pool.alloc() else { break };
            pool.set_window(&mut frame, 0, slot);
            // TRUNC: the length of the datagram, also if it is longer than the slot.
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            let received = recv(&self.socket, pool.bytes_mut(&mut frame), flags);
            let length = match received {
                Ok((_, length)) => length,
                Err(errno) => {
                    pool.free(frame);
                    match errno {
                        // A disconnected end says so once, and may be connected again.
                        Errno::AGAIN | Errno::INTR | Errno::CONNRESET => break,
                        errno => return Err(errno.into()),
                    }
                }
            };
            let length = u16::try_from(length).ok();
            match length.filter(|n| *n >= MIN_FRAME && pool.set_window(&mut frame, 0, *n)) {
                Some(length) => {
                    self.counters.received += 1;
                    self.counters.received_bytes += u64::from(length);
                    count += 1;
                    if let Err(frame) = into.push(frame) {
                        pool.free(frame);
                    }
                }
                None => {
                    self.counters.receive_errors += 1;
                    pool.free(frame);
                }
            }
        }
        Ok(count)
    }

    fn transmit(&mut self, _: Time, pool: &mut Pool, from: &mut Burst) -> io::Result<usize> {
        let mut count = 0;
        while let Some(frame) = from.pop() {
            let bytes = pool.bytes(&frame);
            let sent = send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            match sent {
                Ok(length) => {
                    self.counters.transmitted += 1;
                    self.counters.transmitted_bytes += length as u64;
                }
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR | Errno::MSGSIZE) => {
                    self.counters.transmit_errors += 1;
                }
                Err(errno) => {
                    pool.free(frame);
                    return Err(errno.into());
                }
            }
            pool.free(frame);
            count += 1;
        }
        Ok(count)
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}
