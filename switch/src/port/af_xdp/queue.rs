//! One queue of an interface: an XDP socket with its four rings.
//!
//! ```text
//!   fill        slots to receive into   -->         rx  <-- slots with frames
//!   tx          slots with frames       -->  completion <-- slots that were sent
//! ```
//!
//! - Slots that it receives into: `frames`, from the first look to closing. Its fill ring has room for twice as
//!   many, since the kernel tells late what it has taken.
//! - Pieces on their way out: at most `frames`, which all rings of that direction have room for.

use super::bpf::{XdpError, refused};
use super::rings::{Consumer, DESCRIPTOR_WORDS, Producer, inconsistent};
use super::sys::{self, RingMemory};
use super::umem::{Purpose, Umem};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_RX_RING,
    XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpOptionsFlags,
    XdpStatistics,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socket_with};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};
use usnet_shmring::pool::{Frame, Pool};

/// How long a queue may stay taken that another socket has just let go of: the kernel does that later.
const RELEASE_TIME: Duration = Duration::from_secs(1);
/// Bytes of frames that may be on their way out, in the kernel's count: some for each of all slots.
const SEND_BUFFER: usize = 16 << 20;
/// System calls that one burst may take. In copy mode one sends 32 frames (`TX_BATCH_SIZE`).
const KICKS: usize = 8;

const BIND: &str = "bind an XDP socket to a queue";

/// What to bind to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Binding {
    pub(super) interface: u32,
    pub(super) queue: u32,
    /// Even if the driver could do without.
    pub(super) copy: bool,
    /// Frames may come and go in several pieces.
    pub(super) pieces: bool,
    pub(super) busy_poll: Option<BusyPoll>,
    /// Slots of each direction; a power of two.
    pub(super) frames: u32,
}

/// How the driver is polled by the system calls of whoever has the socket, instead of by interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// How long one call may go on.
    pub microseconds: u32,
    /// Frames that one call may take.
    pub budget: u16,
}

/// What became of the frames in the tx ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kick {
    /// They are gone, or the driver is at them.
    Done,
    /// Some have to wait for room.
    Waiting,
    /// The link is down.
    Down,
}

/// A bound socket and its rings.
#[derive(Debug)]
pub(super) struct Queue {
    number: u32,
    frames: u32,
    /// Slots to receive into that the kernel has yet to get.
    missing: u32,
    socket: OwnedFd,
    /// Whether the driver only moves frames in our calls.
    is_polled: bool,
    pub(super) fill: Producer,
    pub(super) rx: Consumer,
    tx: Producer,
    completion: Consumer,
    /// Cells of the tx ring, in the kernel and in the completion ring.
    in_flight: u32,
    /// The frame whose pieces are coming in.
    pub(super) joining: Joining,
}

/// What has come of a frame of several pieces.
#[derive(Debug, Default)]
pub(super) enum Joining {
    /// There is none under way.
    #[default]
    Nothing,
    /// So far.
    Begun(Frame),
    /// It is of no use, whatever else comes of it.
    Refused,
}

fn new_socket() -> Result<OwnedFd, XdpError> {
    socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .map_err(io::Error::from)
        .map_err(refused("open an XDP socket"))
}

/// Binds; waits a little where the queue was taken a moment ago.
fn bind(mut attempt: impl FnMut() -> rustix::io::Result<()>) -> io::Result<()> {
    let begin = Instant::now();
    loop {
        match attempt() {
            Err(Errno::BUSY) if begin.elapsed() < RELEASE_TIME => sleep(Duration::from_millis(2)),
            result => return Ok(result?),
        }
    }
}

impl Queue {
    /// Opens a queue. The first of an interface registers the UMEM, the others share that of the `first`'s
    /// socket.
    pub(super) fn open(
        umem: &Umem,
        binding: Binding,
        first: Option<BorrowedFd<'_>>,
    ) -> Result<Self, XdpError> {
        let queue = Self::prepare(umem, binding, first.is_none())?;
        queue.bind(binding, first)?;
        Ok(queue)
    }

    /// Makes its socket and rings, which nothing fills and nobody reads yet. One that is the first registers the UMEM.
    pub(super) fn prepare(umem: &Umem, binding: Binding, is_first: bool) -> Result<Self, XdpError> {
        let Binding { queue, busy_poll, frames, .. } = binding;
        let socket = new_socket()?;
        if is_first {
            umem.register(socket.as_fd())?;
        }
        // Best effort: without the privilege the usual limit holds, and more system calls are needed.
        let _ = sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER);
        let rings = || -> io::Result<[RingMemory; 4]> {
            sockopt::set_xdp_umem_fill_ring_size(&socket, 2 * frames)?;
            sockopt::set_xdp_umem_completion_ring_size(&socket, frames)?;
            sockopt::set_xdp_rx_ring_size(&socket, frames)?;
            sockopt::set_xdp_tx_ring_size(&socket, frames)?;
            let at = sockopt::xdp_mmap_offsets(&socket)?;
            let map = |page, offsets, words| RingMemory::map(socket.as_fd(), page, offsets, words);
            let cells = frames as usize;
            Ok([
                map(XDP_UMEM_PGOFF_FILL_RING, &at.fr, 2 * cells)?,
                map(XDP_PGOFF_RX_RING, &at.rx, cells * DESCRIPTOR_WORDS)?,
                map(XDP_PGOFF_TX_RING, &at.tx, cells * DESCRIPTOR_WORDS)?,
                map(XDP_UMEM_PGOFF_COMPLETION_RING, &at.cr, cells)?,
            ])
        };
        let [fill, rx, tx, completion] = rings().map_err(refused("map the rings"))?;
        Ok(Self {
            number: queue,
            frames,
            missing: frames,
            socket,
            is_polled: busy_poll.is_some(),
            fill: Producer::new(fill, 2 * frames),
            rx: Consumer::new(rx, frames),
            tx: Producer::new(tx, frames),
            completion: Consumer::new(completion, frames),
            in_flight: 0,
            joining: Joining::Nothing,
        })
    }

    /// Binds it, as the first of its UMEM or beside the `first`.
    pub(super) fn bind(
        &self,
        binding: Binding,
        first: Option<BorrowedFd<'_>>,
    ) -> Result<(), XdpError> {
        let Binding { interface, queue, copy, pieces, busy_poll, .. } = binding;
        let socket = &self.socket;
        let bound = match first {
            // The kernel takes zero-copy where the driver has it, unless told not to.
            None => {
                let mut flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
                flags.set(SocketAddrXdpFlags::XDP_COPY, copy);
                flags.set(SocketAddrXdpFlags::XDP_USE_SG, pieces);
                let address = SocketAddrXdp::new(flags, interface, queue);
                bind(|| rustix::net::bind(socket, &address))
            }
            Some(shared_umem_fd) => {
                let flags = SocketAddrXdpFlags::XDP_SHARED_UMEM;
                let addr = SocketAddrXdp::new(flags, interface, queue);
                let address = SocketAddrXdpWithSharedUmem { addr, shared_umem_fd };
                bind(|| rustix::net::bind(socket, &address))
            }
        };
        bound.map_err(|source| match source.raw_os_error() {
            Some(libc::EBUSY) => {
                let hint = "; another socket has the queue";
                XdpError::Refused { what: BIND, hint, source }
            }
            Some(libc::EINVAL | libc::EOPNOTSUPP) if pieces => {
                let hint = "; frames of several pieces need Linux 6.6 or newer: lower the MTU, or set \
                            memory.huge_pages and a memory.slot_size that holds a frame";
                XdpError::Refused { what: BIND, hint, source }
            }
            _ => refused(BIND)(source),
        })?;
        if let Some(BusyPoll { microseconds, budget }) = busy_poll {
            sys::set_busy_poll(socket.as_fd(), microseconds, budget)
                .map_err(refused("have the driver polled (SO_PREFER_BUSY_POLL, Linux 5.11)"))?;
        }
        Ok(())
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Whether the driver uses the slots itself.
    pub(super) fn is_zero_copy(&self) -> io::Result<bool> {
        let options = sockopt::xdp_options(&self.socket)?;
        Ok(options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY))
    }

    /// The kernel's own counts.
    pub(super) fn statistics(&self) -> Option<XdpStatistics> {
        sockopt::xdp_statistics(&self.socket).ok()
    }

    /// The error that the kernel has noted: the interface is gone.
    pub(super) fn error(&self) -> io::Result<()> {
        sockopt::socket_error(&self.socket)?.map_err(io::Error::from)
    }

    /// Gives the kernel the slots to receive into that it does not have yet: all at the first call, unless
    /// the pool has too few.
    #[inline]
    pub(super) fn fill_up(&mut self, umem: &mut Umem, pool: &mut Pool) -> io::Result<()> {
        while self.missing > 0
            && let Some(frame) = pool.alloc()
        {
            self.missing -= 1;
            match umem.give(frame, Purpose::Receive(self.number)) {
                Ok(address) if self.fill.push_address(address) => {}
                Ok(_) => return Err(inconsistent("no room for the slots to receive into")),
                Err(frame) => {
                    pool.free(frame);
                    return Err(io::Error::other("a free slot lies outside of the port segment"));
                }
            }
        }
        Ok(())
    }

    /// Whether the kernel has fewer slots to receive into than it should.
    #[inline]
    pub(super) fn is_short(&self) -> bool {
        self.missing > 0
    }

    /// Frames in the rx ring. Of a driver that is polled, after it was.
    #[inline]
    pub(super) fn received(&mut self) -> io::Result<u32> {
        let there = self.rx.available()?;
        if there > 0 || !self.is_polled {
            return Ok(there);
        }
        self.wake_receive();
        self.rx.available()
    }

    /// Wakes the kernel if it waits for slots to receive into, or to be polled.
    #[inline]
    pub(super) fn wake_receive(&self) {
        if self.is_polled || self.fill.needs_wakeup() {
            // The frames come by the ring; this call only wakes.
            let _ = rustix::net::recv(&self.socket, &mut [0_u8; 0][..], RecvFlags::DONTWAIT);
        }
    }

    /// Frees the slots that were sent.
    #[inline]
    pub(super) fn reclaim(&mut self, umem: &mut Umem, pool: &mut Pool) -> io::Result<()> {
        if self.in_flight == 0 {
            return Ok(());
        }
        self.completion.available()?;
        while let Some(address) = self.completion.pop_address() {
            if let Some(frame) = umem.sent(address, self.number)? {
                pool.free(frame);
            }
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        self.completion.release();
        Ok(())
    }

    /// How many pieces may be pushed.
    #[inline]
    pub(super) fn room(&mut self) -> io::Result<u32> {
        Ok(self.tx.refresh()?.min(self.frames.saturating_sub(self.in_flight)))
    }

    /// Puts a frame that lies in the UMEM into the tx ring, after a look at [`room`](Self::room); or a part of one,
    /// that `more` follows.
    #[inline]
    pub(super) fn push(
        &mut self,
        umem: &Umem,
        mut address: u64,
        mut length: u32,
        more: bool,
    ) -> bool {
        loop {
            let piece = length.min(umem.to_end_of_chunk(address));
            let pushed = self.tx.push_frame(address, piece, more || piece < length);
            self.in_flight += u32::from(pushed);
            if !pushed || piece == length {
                return pushed;
            }
            (address, length) = (address + u64::from(piece), length - piece);
        }
    }

    /// Shows the kernel what was pushed, and has it sent.
    pub(super) fn kick(&mut self) -> io::Result<Kick> {
        self.tx.publish();
        for turn in 0..KICKS {
            if !self.tx.needs_wakeup() && (turn > 0 || !self.is_polled) {
                return Ok(Kick::Done);
            }
            match rustix::net::send(&self.socket, &[], SendFlags::DONTWAIT) {
                Ok(_) => {}
                // EAGAIN: more than one call's worth, or no room in the completion ring.
                Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::INTR) => {}
                Err(Errno::NETDOWN) => return Ok(Kick::Down),
                Err(error) => return Err(error.into()),
            }
            let before = self.tx.waiting();
            self.tx.refresh()?;
            match self.tx.waiting() {
                0 => return Ok(Kick::Done),
                now if now == before => break,
                _ => {}
            }
        }
        Ok(Kick::Waiting)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits until the kernel has let go of a queue whose socket is closed: only then is the driver done
/// with the slots. What tells is that another socket can be bound. Returns whether it has.
pub(super) fn wait_for_release(interface: u32, queue: u32, umem: &Umem) -> bool {
    let attempt = || -> Result<(), XdpError> {
        let socket = new_socket()?;
        umem.register(socket.as_fd())?;
        let rings = sockopt::set_xdp_umem_fill_ring_size(&socket, 2)
            .and_then(|()| sockopt::set_xdp_umem_completion_ring_size(&socket, 2))
            .and_then(|()| sockopt::set_xdp_rx_ring_size(&socket, 2));
        rings.map_err(io::Error::from).map_err(refused("size rings"))?;
        let address = SocketAddrXdp::new(SocketAddrXdpFlags::XDP_COPY, interface, queue);
        bind(|| rustix::net::bind(&socket, &address)).map_err(refused("bind"))
    };
    match attempt() {
        Ok(()) => true,
        // The interface is gone, and with it whatever used the slots.
        Err(XdpError::Refused { source, .. }) => source.raw_os_error() == Some(libc::ENODEV),
        Err(XdpError::Verifier { .. }) => false,
    }
}
