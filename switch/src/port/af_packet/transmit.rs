//! The transmit ring: frames are copied in, one system call a burst sends them.
//!
//! ```text
//!        tail              head          busy = head - tail, at most all
//!         v                 v
//!   | - | sending | queued | - | - |     the kernel sends in order, and finishes in any
//! ```
//!
//! - The kernel sends from the ring's pages without a copy. A receiver on this machine (the other
//!   end of a veth) that keeps a frame gets its own copy of it, so a slot that is free again may be
//!   overwritten at once.
//! - The kernel looks at queued slots during our system call only, so between two calls they may be
//!   moved and taken back.

use super::RingVersion;
use super::layout::{HeaderV2, HeaderV3, RingRequest};
use super::sys::Rings;
use core::mem::{offset_of, size_of};
use core::sync::atomic::Ordering;

/// Frames, and their bytes, that left the ring without being sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) frames: u64,
    pub(super) bytes: u64,
}

/// Where the writer stands.
#[derive(Debug)]
pub(super) struct Writer {
    version: RingVersion,
    request: RingRequest,
    /// Where the ring begins in the mapping.
    base: usize,
    /// The slot to fill next.
    head: u32,
    /// The oldest slot that is not known to be free.
    tail: u32,
    busy: u32,
    /// What was not sent since the ring was made.
    pub(super) refused: Refused,
}

impl Writer {
    pub(super) fn new(version: RingVersion, request: RingRequest, base: usize) -> Self {
        Self { version, request, base, head: 0, tail: 0, busy: 0, refused: Refused::default() }
    }

    /// Where the bytes of a frame begin: behind the header, as `tpacket_parse_header` has it.
    const fn data_offset(version: RingVersion) -> usize {
        match version {
            RingVersion::V2 => size_of::<HeaderV2>(),
            RingVersion::V3 => size_of::<HeaderV3>(),
        }
    }

    /// Bytes of a ring frame that a frame of `length` bytes needs.
    pub(super) const fn frame_size(version: RingVersion, length: usize) -> usize {
        Self::data_offset(version) + length
    }

    fn slot(&self, index: u32) -> usize {
        self.base + index as usize * self.request.frame_size as usize
    }

    fn after(&self, index: u32) -> u32 {
        if index + 1 < self.request.frame_count { index + 1 } else { 0 }
    }

    fn before(&self, index: u32) -> u32 {
        if index > 0 { index - 1 } else { self.request.frame_count.saturating_sub(1) }
    }

    fn status_offset(&self) -> usize {
        match self.version {
            RingVersion::V2 => offset_of!(HeaderV2, status),
            RingVersion::V3 => offset_of!(HeaderV3, status),
        }
    }

    fn status(&self, rings: &Rings, index: u32) -> Option<u32> {
        // Acquire: the kernel has done with the frame before it writes this word.
        Some(rings.status(self.slot(index) + self.status_offset())?.load(Ordering::Acquire))
    }

    fn set_status(&self, rings: &Rings, index: u32, status: u32) {
        if let Some(word) = rings.status(self.slot(index) + self.status_offset()) {
            // Release: the frame before the word that hands it over.
            word.store(status, Ordering::Release);
        }
    }

    fn length(&self, rings: &Rings, index: u32) -> u64 {
        let at = self.slot(index);
        let length = match self.version {
            RingVersion::V2 => rings.read::<HeaderV2>(at).map(|h| h.len),
            RingVersion::V3 => rings.read::<HeaderV3>(at).map(|h| h.len),
        };
        length.map_or(0, u64::from)
    }

    /// Copies a frame in. Returns false, and does nothing, if the ring is full.
    #[inline]
    pub(super) fn push(&mut self, rings: &mut Rings, bytes: &[u8]) -> bool {
        if self.busy >= self.request.frame_count
            || self.status(rings, self.head) != Some(libc::TP_STATUS_AVAILABLE)
        {
            return false;
        }
        let at = self.slot(self.head);
        let Ok(length) = u32::try_from(bytes.len()) else { return false };
        let v2 = HeaderV2 { len: length, ..HeaderV2::default() };
        let v3 = HeaderV3 { len: length, ..HeaderV3::default() };
        let header = match self.version {
            RingVersion::V2 => bytemuck::bytes_of(&v2),
            RingVersion::V3 => bytemuck::bytes_of(&v3),
        };
        let slot = match rings.bytes_mut(at, header.len() + bytes.len()) {
            Some(slot) if slot.len() <= self.request.frame_size as usize => slot,
            _ => return false,
        };
        let Some((head, body)) = slot.split_at_mut_checked(header.len()) else { return false };
        head.copy_from_slice(header);
        body.copy_from_slice(bytes);
        self.set_status(rings, self.head, libc::TP_STATUS_SEND_REQUEST);
        self.head = self.after(self.head);
        self.busy += 1;
        true
    }

    /// Learns which slots the kernel has finished with, and takes out what it refused: it would stay
    /// at a refused slot for ever. Called once a burst.
    pub(super) fn reclaim(&mut self, rings: &mut Rings) {
        while self.busy > 0 {
            match self.status(rings, self.tail) {
                Some(libc::TP_STATUS_AVAILABLE) => {
                    self.tail = self.after(self.tail);
                    self.busy -= 1;
                }
                Some(status) if status & libc::TP_STATUS_WRONG_FORMAT != 0 => {
                    self.close_gap(rings);
                }
                _ => break,
            }
        }
    }

    /// Moves what is queued behind the refused slot at `tail` up by a slot. Rare: frames that are too
    /// long are refused before they come here, unless the interface's MTU has shrunk.
    fn close_gap(&mut self, rings: &mut Rings) {
        self.refused.frames += 1;
        self.refused.bytes += self.length(rings, self.tail);
        let mut gap = self.tail;
        for _ in 1..self.busy {
            let next = self.after(gap);
            rings.copy_within(self.slot(next), self.slot(gap), self.request.frame_size as usize);
            gap = next;
        }
        self.set_status(rings, gap, libc::TP_STATUS_AVAILABLE);
        self.head = gap;
        self.busy -= 1;
    }

    /// Takes back what the kernel has not begun to send.
    pub(super) fn abandon(&mut self, rings: &mut Rings) {
        self.reclaim(rings);
        while self.busy > 0 {
            let last = self.before(self.head);
            if self.status(rings, last) != Some(libc::TP_STATUS_SEND_REQUEST) {
                break;
            }
            self.refused.frames += 1;
            self.refused.bytes += self.length(rings, last);
            self.set_status(rings, last, libc::TP_STATUS_AVAILABLE);
            self.head = last;
            self.busy -= 1;
        }
    }
}
