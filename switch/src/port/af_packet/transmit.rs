//! The transmit ring: frames are copied in, one system call a burst sends them.

use super::RingVersion;
use super::layout::{HeaderV2, HeaderV3, RingRequest};
use super::sys::Rings;
use core::mem::{offset_of, size_of};
use core::sync::atomic::Ordering;

/// Where the writer stands.
#[derive(Debug)]
pub(super) struct Writer {
    version: RingVersion,
    request: RingRequest,
    /// Where the ring begins in the mapping.
    base: usize,
    index: u32,
    /// Frames that the kernel refused.
    pub(super) refused: u64,
}

impl Writer {
    pub(super) fn new(version: RingVersion, request: RingRequest, base: usize) -> Self {
        Self { version, request, base, index: 0, refused: 0 }
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

    /// Copies a frame in. Returns false, and does nothing, if the ring is full.
    #[inline]
    pub(super) fn push(&mut self, rings: &mut Rings, bytes: &[u8]) -> bool {
        let at = self.base + self.index as usize * self.request.frame_size as usize;
        let status_at = at
            + match self.version {
                RingVersion::V2 => offset_of!(HeaderV2, status),
                RingVersion::V3 => offset_of!(HeaderV3, status),
            };
        let Some(status) = rings.status(status_at) else { return false };
        // Acquire: the kernel has done with the frame before it writes this word.
        match status.load(Ordering::Acquire) {
            libc::TP_STATUS_AVAILABLE => {}
            wrong if wrong & libc::TP_STATUS_WRONG_FORMAT != 0 => self.refused += 1,
            _ => return false,
        }
        let Ok(length) = u32::try_from(bytes.len()) else { return false };
        let (header, tail);
        let v2 = HeaderV2 { len: length, ..HeaderV2::default() };
        let v3 = HeaderV3 { len: length, ..HeaderV3::default() };
        match self.version {
            RingVersion::V2 => header = bytemuck::bytes_of(&v2),
            RingVersion::V3 => header = bytemuck::bytes_of(&v3),
        }
        match rings.bytes_mut(at, header.len() + bytes.len()) {
            Some(into) if into.len() <= self.request.frame_size as usize => tail = into,
            _ => return false,
        }
        let Some((head, body)) = tail.split_at_mut_checked(header.len()) else { return false };
        head.copy_from_slice(header);
        body.copy_from_slice(bytes);
        if let Some(status) = rings.status(status_at) {
            // Release: the frame before the word that hands it over.
            status.store(libc::TP_STATUS_SEND_REQUEST, Ordering::Release);
        }
        self.index = (self.index + 1) % self.request.frame_count.max(1);
        true
    }
}
