//! Hears that interfaces or addresses have changed (rtnetlink(7), RTNLGRP_LINK and the like).
//!
//! What has changed is not read: whoever hears it looks for itself, since the kernel drops notices when
//! there are too many, and says only that it did.

use super::error::NetError;
use super::netlink::Failure;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV6_IFADDR`.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;
/// Notices that are read in one turn.
const MOST: usize = 4096;

/// Readable when something has changed in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Watch {
    socket: OwnedFd,
}

impl Watch {
    /// Begins to hear.
    ///
    /// # Errors
    /// The socket cannot be had.
    pub fn open() -> Result<Self, NetError> {
        let open = || -> Result<OwnedFd, Errno> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
            Ok(socket)
        };
        let socket = open().map_err(|errno| Failure::from(errno).of("watch", "interfaces"))?;
        Ok(Self { socket })
    }

    /// Whether anything has changed since the last call.
    #[must_use]
    pub fn take(&self) -> bool {
        let mut has_changed = false;
        for _ in 0..MOST {
            // Cut to nothing: one datagram is taken, whatever is in it.
            match recv(&self.socket, &mut [0_u8; 0][..], RecvFlags::TRUNC) {
                Ok(_) | Err(Errno::NOBUFS) => has_changed = true,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        has_changed
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
