//! smoltcp's view of the rings: it reads received frames, and writes sent ones, where they lie.
//!
//! ```text
//!   agreed on unfinished frames:
//!     rx   sound or open ----------------> smoltcp, which verifies no transport checksum
//!          there, not verified -- sum? --> smoltcp, or nowhere
//!     tx   smoltcp --> checksum left open, segments larger than the MTU left whole
//! ```

use crate::checksum::is_right;
use crate::closed_window::ClosedWindows;
use crate::error::FrameError;
use crate::raw::{Checksum, Frames, Offload, RxFrame, Transmitter};
use crate::session::Grant;
use crate::stack::is_report;
use smoltcp::phy::{self, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;
use std::fmt;
use std::mem;
use std::num::NonZeroUsize;

/// A [`phy::Device`] over the rings of a session. Flushing is left to the caller, once a burst.
pub struct Device {
    frames: Frames,
    mtu: usize,
    /// Frames may be unfinished, in both directions.
    unfinished: bool,
    /// Bytes of the longest frame that is left to be cut; 0: none.
    longest: usize,
    /// Frames that other clients could change are copied here before smoltcp looks at them.
    copy: Box<[u8]>,
    /// Connections that have shown a window of nothing.
    closed: ClosedWindows,
    /// Of the next frame smoltcp has seen what it acknowledges.
    is_acknowledged: bool,
    /// smoltcp wanted to send and all slots were away.
    starved: bool,
    /// What smoltcp says of groups is not sent.
    silent: bool,
    /// The first thing that went wrong; smoltcp has no way to hand it on.
    failed: Option<FrameError>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frames, mtu, unfinished, starved, .. } = self;
        f.debug_struct("Device")
            .field("frames", frames)
            .field("mtu", mtu)
            .field("unfinished", unfinished)
            .field("starved", starved)
            .finish_non_exhaustive()
    }
}

/// Bytes of an Ethernet header.
const HEADER: usize = 14;
/// Bytes of the longest frame that a descriptor can name.
const LONGEST: usize = u16::MAX as usize;

impl Device {
    /// A device for IP packets as the grant has them.
    #[must_use]
    pub fn new(mut frames: Frames, grant: &Grant) -> Self {
        let (_, transmitter) = frames.split();
        let slot = transmitter.slot_size();
        let mtu = grant.mtu.min(slot - HEADER);
        let unfinished = grant.unfinished;
        // Cutting frames in two would cost more than it saves.
        let holds_several = slot >= 2 * (mtu + HEADER);
        let longest = if unfinished && holds_several { slot.min(LONGEST) } else { 0 };
        let copy = vec![0; slot].into();
        Self {
            frames,
            mtu,
            unfinished,
            longest,
            copy,
            closed: ClosedWindows::default(),
            is_acknowledged: false,
            starved: false,
            silent: false,
            failed: None,
        }
    }

    /// Whether frames of several joined segments come and go.
    #[must_use]
    pub fn joins(&self) -> bool {
        self.longest > 0
    }

    /// The rings behind it.
    pub fn frames(&mut self) -> &mut Frames {
        &mut self.frames
    }

    /// Shows everything to the daemon, as [`Frames::flush`].
    ///
    /// # Errors
    /// What went wrong since the last time.
    pub fn flush(&mut self) -> Result<(), FrameError> {
        self.frames.flush()?;
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Makes sure of a burst to read from; tells how many frames of it are left.
    pub(crate) fn prepare(&mut self) -> usize {
        self.frames.receive().unwrap_or_else(|error| {
            self.failed.get_or_insert(error);
            0
        })
    }

    /// Copies the beginning of the next frame; returns how many bytes.
    pub(crate) fn peek(&mut self, into: &mut [u8]) -> usize {
        let (receiver, _) = self.frames.split();
        receiver.peek().map_or(0, |frame| frame.copy_to(into))
    }

    /// Leaves it to another to say which groups are joined: what smoltcp says of them is not sent.
    pub(crate) fn silence_groups(&mut self) {
        self.silent = true;
    }

    /// Sends a finished frame of somebody else than smoltcp. False: all slots are away.
    pub(crate) fn send(&mut self, frame: &[u8]) -> bool {
        let Some(mut slot) = self.frames.transmit() else {
            self.starved = true;
            return false;
        };
        if let Some(bytes) = slot.as_mut_slice().get_mut(..frame.len()) {
            bytes.copy_from_slice(frame);
            // Frames are shorter than any slot, and longer than the shortest frame.
            let _ = slot.send(frame.len());
        }
        true
    }

    /// Whether smoltcp found no slot to send from since the last call: its wish to be polled at once
    /// is then to be answered by waiting for slots.
    pub fn take_starved(&mut self) -> bool {
        mem::take(&mut self.starved)
    }
}

impl phy::Device for Device {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    #[inline]
    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        if self.prepare() == 0 {
            return None;
        }
        let (receiver, transmitter) = self.frames.split();
        if transmitter.free() == 0 {
            // A frame may ask for an answer, so it waits until there is a slot for one.
            self.starved = true;
            return None;
        }
        let (unfinished, silent) = (self.unfinished, self.silent);
        let closed = &mut self.closed;
        let tx = TxToken { transmitter, closed, unfinished, silent, meta: PacketMeta::default() };
        if !tx.closed.is_empty() && !mem::replace(&mut self.is_acknowledged, true) {
            let frame = receiver.peek()?;
            if let Some(length) = acknowledgement(tx.closed, &frame, &mut self.copy) {
                let made = self.copy.get(..length).unwrap_or_default();
                return Some((RxToken(Received::Made(made)), tx));
            }
        }
        self.is_acknowledged = false;
        let frame = receiver.next()?;
        let frame = Received::Frame { frame, copy: &mut self.copy, verify: unfinished };
        Some((RxToken(frame), tx))
    }

    #[inline]
    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        let (_, transmitter) = self.frames.split();
        if transmitter.free() == 0 {
            self.starved = true;
            return None;
        }
        let (unfinished, silent) = (self.unfinished, self.silent);
        let closed = &mut self.closed;
        Some(TxToken { transmitter, closed, unfinished, silent, meta: PacketMeta::default() })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + HEADER;
        if self.unfinished {
            capabilities.checksum.tcp = phy::Checksum::None;
            capabilities.checksum.udp = phy::Checksum::None;
        }
        let longest = NonZeroUsize::new(self.longest);
        capabilities.segmentation.tcpv4 = longest;
        capabilities.segmentation.tcpv6 = longest;
        capabilities
    }
}

/// The frame without its data, in `copy`, if smoltcp would else overlook what it acknowledges.
#[cold]
fn acknowledgement(
    closed: &mut ClosedWindows,
    frame: &RxFrame<'_>,
    copy: &mut [u8],
) -> Option<usize> {
    let count = frame.copy_to(copy);
    let bytes = copy.get_mut(..count)?;
    let is_known = frame.offload().checksum() != Checksum::There;
    if is_known || is_right(bytes) { closed.without_data(bytes) } else { None }
}

/// A frame that smoltcp may look at.
#[derive(Debug)]
pub struct RxToken<'a>(Received<'a>);

#[derive(Debug)]
enum Received<'a> {
    Frame {
        frame: RxFrame<'a>,
        copy: &'a mut [u8],
        /// smoltcp verifies no transport checksum, so this has to.
        verify: bool,
    },
    /// Made of the next frame.
    Made(&'a [u8]),
}

impl phy::RxToken for RxToken<'_> {
    #[inline]
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let (frame, copy, verify) = match self.0 {
            Received::Frame { frame, copy, verify } => (frame, copy, verify),
            Received::Made(bytes) => return f(bytes),
        };
        let verify = verify && frame.offload().checksum() == Checksum::There;
        let bytes = match frame.as_slice() {
            Some(bytes) => bytes,
            None => {
                let count = frame.copy_to(copy);
                copy.get(..count).unwrap_or_default()
            }
        };
        // Of an empty frame smoltcp makes nothing.
        f(if verify && !is_right(bytes) { &[] } else { bytes })
    }
}

/// A slot that smoltcp may write. Nothing is taken until it does.
#[derive(Debug)]
pub struct TxToken<'a> {
    transmitter: &'a mut Transmitter,
    closed: &'a mut ClosedWindows,
    unfinished: bool,
    silent: bool,
    meta: PacketMeta,
}

impl phy::TxToken for TxToken<'_> {
    #[inline]
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        if let Some(mut slot) = self.transmitter.next()
            && let Some(bytes) = slot.as_mut_slice().get_mut(..len)
        {
            let result = f(bytes);
            if self.silent && bytes.first().is_some_and(|first| first & 1 != 0) && is_report(bytes)
            {
                return result;
            }
            self.closed.sent(bytes);
            let offload = match self.meta.segmentation_offload_size {
                Some(size) => Offload::segments(size),
                None if self.unfinished && crate::checksum::has_transport(bytes) => Offload::OPEN,
                None => Offload::NONE,
            };
            // smoltcp sends whole Ethernet frames no longer than the capabilities say.
            let _ = slot.send_unfinished(len, offload);
            return result;
        }
        // Not reached while a token is made only when a slot is free and smoltcp keeps to the MTU;
        // the frame is lost as on any network.
        f(&mut vec![0; len])
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.meta = meta;
    }
}
