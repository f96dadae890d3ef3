//! smoltcp's view of the rings: it reads received frames, and writes sent ones, where they lie.

use crate::error::FrameError;
use crate::raw::{Frames, RxFrame, Transmitter};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use std::fmt;

/// A [`phy::Device`] over the rings of a session. Flushing is left to the caller, once a burst.
pub struct Device {
    frames: Frames,
    mtu: usize,
    /// Frames that other clients could change are copied here before smoltcp looks at them.
    copy: Box<[u8]>,
    /// smoltcp wanted to send and all slots were away.
    starved: bool,
    /// The first thing that went wrong; smoltcp has no way to hand it on.
    failed: Option<FrameError>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frames, mtu, starved, .. } = self;
        f.debug_struct("Device")
            .field("frames", frames)
            .field("mtu", mtu)
            .field("starved", starved)
            .finish_non_exhaustive()
    }
}

/// Bytes of an Ethernet header.
const HEADER: usize = 14;

impl Device {
    /// A device for IP packets of at most `mtu` bytes.
    #[must_use]
    pub fn new(mut frames: Frames, mtu: usize) -> Self {
        let (_, transmitter) = frames.split();
        let slot = transmitter.slot_size();
        let mtu = mtu.min(slot - HEADER);
        Self { frames, mtu, copy: vec![0; slot].into(), starved: false, failed: None }
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

    /// Whether smoltcp found no slot to send from since the last call: its wish to be polled at once
    /// is then to be answered by waiting for slots.
    pub fn take_starved(&mut self) -> bool {
        std::mem::take(&mut self.starved)
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
        let frame = receiver.next()?;
        Some((RxToken { frame, copy: &mut self.copy }, TxToken { transmitter }))
    }

    #[inline]
    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        let (_, transmitter) = self.frames.split();
        if transmitter.free() == 0 {
            self.starved = true;
            return None;
        }
        Some(TxToken { transmitter })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + HEADER;
        capabilities
    }
}

/// A frame that smoltcp may look at.
#[derive(Debug)]
pub struct RxToken<'a> {
    frame: RxFrame<'a>,
    copy: &'a mut [u8],
}

impl phy::RxToken for RxToken<'_> {
    #[inline]
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        if let Some(bytes) = self.frame.as_slice() {
            return f(bytes);
        }
        let count = self.frame.copy_to(self.copy);
        f(self.copy.get(..count).unwrap_or_default())
    }
}

/// A slot that smoltcp may write. Nothing is taken until it does.
#[derive(Debug)]
pub struct TxToken<'a> {
    transmitter: &'a mut Transmitter,
}

impl phy::TxToken for TxToken<'_> {
    #[inline]
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        if let Some(mut slot) = self.transmitter.next()
            && let Some(bytes) = slot.as_mut_slice().get_mut(..len)
        {
            let result = f(bytes);
            // smoltcp sends whole Ethernet frames no longer than the capabilities say.
            let _ = slot.send(len);
            return result;
        }
        // Not reached while a token is made only when a slot is free and smoltcp keeps to the MTU;
        // the frame is lost as on any network.
        f(&mut vec![0; len])
    }
}
