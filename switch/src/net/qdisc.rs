//! The queueing discipline of an interface (linux/pkt_sched.h): remembered, and put back where
//! something has replaced it.

use super::link::{Link, Netlink};
use super::netlink::Message;
use super::{NetError, netlink::Failure};
use bytemuck::{Pod, Zeroable};

const RTM_DELQDISC: u16 = 37;
/// `TC_H_ROOT`: what an interface's packets come to first.
const ROOT: u32 = u32::MAX;

/// `struct tcmsg`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Header {
    family: u8,
    padding: [u8; 3],
    index: i32,
    handle: u32,
    parent: u32,
    info: u32,
}

impl Netlink {
    /// Removes the interface's queueing discipline, in whose place comes the one that the kernel gives
    /// an interface of this kind. Does nothing if it has that one.
    ///
    /// # Errors
    /// There is no such interface, or the privilege is missing.
    pub fn reset_qdisc(&mut self, name: &str) -> Result<(), NetError> {
        let index = i32::try_from(self.link(name)?.index).unwrap_or(0);
        let header = Header { family: 0, padding: [0; 3], index, handle: 0, parent: ROOT, info: 0 };
        match self.socket.request(Message::new(RTM_DELQDISC, 0, &header)) {
            // Its default cannot be removed.
            Err(Failure::Refused(error, _)) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result.map_err(|e| e.of("reset the queueing discipline of", name)),
        }
    }
}

/// The discipline that an interface had, put back when this is dropped if it has another then.
/// Only the kernel's default can be had again; of any other it is said that it is gone.
#[derive(Debug)]
pub struct KeptQdisc {
    name: String,
    before: Option<String>,
    is_forgotten: bool,
}

impl KeptQdisc {
    /// Remembers the discipline of an interface.
    #[must_use]
    pub fn of(link: &Link) -> Self {
        Self { name: link.name.clone(), before: link.qdisc.clone(), is_forgotten: false }
    }

    /// Puts nothing back: the interface is gone.
    pub fn forget(&mut self) {
        self.is_forgotten = true;
    }

    fn restore(&self) -> Result<(), NetError> {
        let mut netlink = Netlink::open()?;
        if netlink.link(&self.name)?.qdisc == self.before {
            return Ok(());
        }
        netlink.reset_qdisc(&self.name)?;
        let now = netlink.link(&self.name)?.qdisc;
        if now != self.before {
            let (name, before) = (&self.name, &self.before);
            tracing::warn!(%name, ?before, ?now, "the queueing discipline is another than before");
        }
        Ok(())
    }
}

impl Drop for KeptQdisc {
    fn drop(&mut self) {
        if !self.is_forgotten
            && let Err(error) = self.restore()
        {
            tracing::warn!(%error, "the queueing discipline was not put back");
        }
    }
}
