//! The kernel's side of netmap, as narrow as it can be: open, ask, map, sync, sleep.
//!
//! ```text
//!   port --> Kernel::open --> Device --control--> REGISTER, PORT_INFO_GET, POOLS_INFO_GET
//!                                    --memory---> a descriptor to map the region from
//!                                    --sync-----> NIOCTXSYNC, NIOCRXSYNC
//!                                    --readiness> a descriptor to sleep on
//! ```
//!
//! Two implement it: [`Module`](super::Module), the real one, and the double that tests and the demo
//! use where the module is not loaded (`docs/netmap.md` says what it does not prove).

use super::abi::{ExtMem, Offsets, PoolsInfo, PortInfo, Register};
use core::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;

/// What is asked of the control call. Each is filled in by the answer.
#[derive(Debug)]
pub enum Control<'a> {
    /// Binds the device to a port, at most once.
    Register {
        /// What is wanted, and what was had.
        body: &'a mut Register,
        /// Memory that is to be the port's region. Its `option.status` says whether it was what
        /// was refused, also if the call fails. `option.next` is set by the device.
        extmem: Option<&'a mut ExtMem>,
        /// Where frames are to begin in their buffers; not with `extmem`. Its `option.status` and
        /// `option.next` are as that one's.
        offsets: Option<&'a mut Offsets>,
    },
    /// Asks for a port's rings.
    PortInfo(&'a mut PortInfo),
    /// Asks for the pools of a port's region.
    PoolsInfo(&'a mut PoolsInfo),
}

/// Which rings are synchronised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Transmit rings: what lies before `head` is sent, `tail` moves to what was completed.
    Transmit,
    /// Receive rings: what lies before `head` is given back, `tail` moves to what has arrived.
    Receive,
}

/// Opens devices.
pub trait Kernel: Debug + Send + Sync {
    /// A device that is bound to no port yet.
    ///
    /// # Errors
    /// `NotFound` if there is no netmap here; what the kernel refused.
    fn open(&self) -> io::Result<Box<dyn Device>>;

    /// Whether the driver of an interface sends one frame from several slots (`NS_MOREFRAG`). No request
    /// tells.
    ///
    /// # Errors
    /// Why not, for people.
    fn sends_from_several_slots(&self, name: &str) -> Result<(), &'static str> {
        let _ = name;
        Err("its driver is not known to send a frame from several slots")
    }
}

/// An open `/dev/netmap`, or its double. Dropping it closes the port, unless a mapping of its memory
/// is left.
pub trait Device: Debug + Send + Sync {
    /// One control call for the port `name`, a bare name (`eth0`, `vale0:x`, `eth0{1`).
    ///
    /// # Errors
    /// What the kernel refused, by error number.
    fn control(&self, name: &str, request: Control<'_>) -> io::Result<()>;

    /// Synchronises all bound rings of one direction. Success says little: a bad `head` and a ring
    /// that another thread is in are passed over in silence.
    ///
    /// # Errors
    /// `EIO` if the interface is gone, `ENXIO` if no port is bound.
    fn sync(&self, direction: Direction) -> io::Result<()>;

    /// What the region is mapped from, at offset 0, once a port is bound.
    fn memory(&self) -> BorrowedFd<'_>;

    /// Readable when frames have arrived; in error when the interface is gone.
    fn readiness(&self) -> BorrowedFd<'_>;
}
