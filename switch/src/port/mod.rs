//! Where frames come from and go to: one narrow trait, two verbs in bursts.
//!
//! ```text
//!             receive                        transmit
//!   medium ------------> Burst of Frames ---------------> medium
//!             slots from the Pool             slots back to the Pool
//! ```
//!
//! - A port fills slots of the pool and frees the slots that it has sent; between two calls it may
//!   hold slots (a network card's rings do), and gives all of them back in [`Port::close`].
//! - A port never blocks. A frame that it cannot take stays in the burst; one that it must refuse
//!   (too long, malformed by the medium) is freed and counted.
//! - Frames are as on the wire: Ethernet header first, VLAN tags in place, checksums complete, no
//!   frame check sequence. What is left to do of one that is not says its [`Offload`](usnet_shmring::offload::Offload); only a port
//!   that [takes unfinished frames](Port::takes_unfinished) is given such.

pub mod af_packet;
pub mod af_xdp;
pub(crate) mod checksum;
pub mod datagram;
pub mod lane;
pub mod netmap;
pub mod tap;
pub mod wire;

use crate::classify::Mac;
use crate::steer::ClaimedPorts;
use crate::time::Time;
use core::fmt::Debug;
use core::ops::{AddAssign, Range};
use serde::Serialize;
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use usnet_shmring::pool::{Frame, Pool};

/// Frames that move together.
pub const BURST: usize = 64;

/// Up to [`BURST`] frames in order. Never allocates after it was made.
#[derive(Debug)]
pub struct Burst {
    frames: VecDeque<Frame>,
}

impl Default for Burst {
    fn default() -> Self {
        Self::new()
    }
}

impl Burst {
    /// An empty burst.
    #[must_use]
    pub fn new() -> Self {
        Self { frames: VecDeque::with_capacity(BURST) }
    }

    /// Frames in it, 0..=[`BURST`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Frames that still fit.
    #[must_use]
    pub fn room(&self) -> usize {
        BURST - self.frames.len().min(BURST)
    }

    /// Puts a frame at the end.
    ///
    /// # Errors
    /// The frame itself if the burst is full.
    pub fn push(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.room() == 0 {
            return Err(frame);
        }
        self.frames.push_back(frame);
        Ok(())
    }

    /// Takes the first frame.
    #[must_use]
    pub fn pop(&mut self) -> Option<Frame> {
        self.frames.pop_front()
    }

    /// Puts a frame back that was just taken from the front.
    pub fn put_back(&mut self, frame: Frame) {
        self.frames.push_front(frame);
    }

    /// The first frame, left in place.
    #[must_use]
    pub fn first(&self) -> Option<&Frame> {
        self.frames.front()
    }

    /// All frames, in order, left in place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter()
    }

    /// Frees all frames and returns how many there were.
    pub fn clear(&mut self, pool: &mut Pool) -> usize {
        let count = self.frames.len();
        for frame in self.frames.drain(..) {
            pool.free(frame);
        }
        count
    }
}

/// What a port is, for people and for the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Name of the interface, or of the end of a wire.
    pub name: String,
    /// Kind of the back end: `wire`, `af_packet`, `tap` ...
    pub backend: &'static str,
    /// Its link address.
    pub mac: Mac,
    /// Largest IP packet, in bytes; a frame is at most this and 14 bytes, and 4 for each VLAN tag.
    pub mtu: u16,
}

/// Frames counted at the port's own edge. All only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PortCounters {
    /// Frames handed to the switch.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames given to the medium.
    pub transmitted: u64,
    /// Their bytes.
    pub transmitted_bytes: u64,
    /// Frames that the medium lost before the port saw them (the kernel's own count).
    pub missed: u64,
    /// Frames received but too long for a slot, cut, or malformed by the medium.
    pub receive_errors: u64,
    /// Frames that the medium refused: too long, too short, link down.
    pub transmit_errors: u64,
    /// Frames received with no free slot to put them in.
    pub no_slot: u64,
    /// Of the transmitted: frames whose rest was sent from a client's slot.
    pub split: u64,
}

impl AddAssign for PortCounters {
    fn add_assign(&mut self, other: Self) {
        let Self {
            received,
            received_bytes,
            transmitted,
            transmitted_bytes,
            missed,
            receive_errors,
            transmit_errors,
            no_slot,
            split,
        } = other;
        self.received += received;
        self.received_bytes += received_bytes;
        self.transmitted += transmitted;
        self.transmitted_bytes += transmitted_bytes;
        self.missed += missed;
        self.receive_errors += receive_errors;
        self.transmit_errors += transmit_errors;
        self.no_slot += no_slot;
        self.split += split;
    }
}

/// How a port's frames get from its medium into slots and back, of one that has several ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// Region memory its buffers are.
    pub region: Region,
    /// What happens to a frame.
    pub frames: Handling,
    /// Why it is so, for people.
    pub why: &'static str,
    /// From where frames of `shared` clients are sent.
    pub sends: Sends,
    /// Why that is so, for people.
    pub why_sends: &'static str,
}

/// From where a port sends what a `shared` client gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sends {
    /// A vetted head from a slot of the daemon, the rest from the client's own slot.
    Split,
    /// A slot of the daemon, into which all of it was copied.
    Copied,
}

/// Whose memory a port's buffers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// The daemon's slots.
    Own,
    /// Netmap's own.
    Netmap,
    /// Netmap's own, and a program at the other end writes the port's slots.
    PeerWritten,
}

/// What happens to a frame between medium and slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Handling {
    /// Its buffer is the slot.
    Swapped,
    /// To the interface's other port it goes where it lies; else it is copied.
    CutThrough,
    /// It is copied in and out.
    Copied,
}

/// A network port. An error of either verb means that the port is gone.
pub trait Port: Debug + Send {
    /// What it is.
    fn info(&self) -> &PortInfo;

    /// Takes frames that have arrived, in order, into slots of `pool` and appends them to `into`
    /// while there is room. Returns how many; 0 means nothing now.
    ///
    /// # Errors
    /// The port is gone.
    fn receive(&mut self, now: Time, pool: &mut Pool, into: &mut Burst) -> io::Result<usize>;

    /// Sends frames from the front of `from`, in order; those that found no room stay in it. Slots
    /// of sent and of refused frames go back to `pool`, now or at a later call. Returns how many
    /// frames left the burst. A full burst may be kept back, since more may follow at once: what was is
    /// sent by the next call with less, or by the second call of [`receive`](Self::receive) after it,
    /// for which [`next_event`](Self::next_event) asks.
    ///
    /// # Errors
    /// The port is gone.
    fn transmit(&mut self, now: Time, pool: &mut Pool, from: &mut Burst) -> io::Result<usize>;

    /// Whether it sends frames whose checksum is left open and that are to be cut into segments.
    fn takes_unfinished(&self) -> bool {
        false
    }

    /// Its counters.
    fn counters(&self) -> PortCounters;

    /// How it came to be served where there are several ways, for people.
    fn mode(&self) -> Option<&'static str> {
        None
    }

    /// Counts that it wants kept of the ports that may be a client's, if it leaves other frames to the
    /// kernel. Those of all workers of an interface are the same.
    fn claimed_ports(&self) -> Option<Arc<dyn ClaimedPorts>> {
        None
    }

    /// A descriptor that is readable when frames can be received, to sleep on.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// When the port next has something by itself, without the descriptor telling.
    fn next_event(&self) -> Option<Time> {
        None
    }

    /// Itself, if it is over netmap: between two of these frames may go without becoming slots.
    fn netmap(&mut self) -> Option<&mut netmap::Netmap> {
        None
    }

    /// The same, to look at.
    fn as_netmap(&self) -> Option<&netmap::Netmap> {
        None
    }

    /// Itself, if its frames go by another interface's port.
    fn lane(&mut self) -> Option<&mut lane::Lane> {
        None
    }

    /// From now on frames of this VLAN (1..=4094) are the switch's, or not any more: for a port that leaves frames of
    /// VLANs to the kernel.
    fn serve_vlan(&mut self, id: u16, is_served: bool) {
        let _ = (id, is_served);
    }

    /// Slots of clients from which it sends the rest of a frame where it lies ([`Pool::join`]). Only frames
    /// whose rest is in one of these may be given to it; empty if there are none such.
    fn tails(&self) -> Range<u32> {
        0..0
    }

    /// How its frames get into slots and back, if it has several ways.
    fn exchange(&self) -> Option<Exchange> {
        None
    }

    /// Gives every slot back that the port still holds. Called once, before the port is dropped.
    fn close(&mut self, pool: &mut Pool) {
        let _ = pool;
    }
}
