//! The receive ring: which frame is next, and giving it back.
//!
//! ```text
//!   V2   one status word a frame: handed over as soon as it has arrived
//!   V3   one status word a block: handed over when the block is full or a millisecond old
//! ```

use super::RingVersion;
use super::layout::{BlockHeader, HeaderV2, HeaderV3, Received, RingRequest};
use super::sys::Rings;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

/// Where the reader stands.
#[derive(Debug)]
pub(super) struct Reader {
    version: RingVersion,
    request: RingRequest,
    /// V2: frame index. V3: block index.
    index: u32,
    /// V3: frames left in the block, and where the next one begins.
    left: u32,
    next: usize,
    in_block: bool,
}

impl Reader {
    pub(super) fn new(version: RingVersion, request: RingRequest) -> Self {
        Self { version, request, index: 0, left: 0, next: 0, in_block: false }
    }

    /// Frames that the ring holds, about.
    pub(super) fn frames(&self) -> u32 {
        self.request.frame_count
    }

    /// The next frame that has arrived. It stays ours until [`advance`](Self::advance).
    #[inline]
    pub(super) fn peek(&mut self, rings: &Rings) -> Option<Received> {
        match self.version {
            RingVersion::V2 => {
                let at = self.index as usize * self.request.frame_size as usize;
                // Acquire: the kernel writes the frame, then this word.
                if rings.status(at)?.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                    return None;
                }
                Some(Received::v2(&rings.read::<HeaderV2>(at)?, at))
            }
            RingVersion::V3 => {
                if !self.in_block {
                    self.enter_block(rings)?;
                }
                Some(Received::v3(&rings.read::<HeaderV3>(self.next)?, self.next))
            }
        }
    }

    fn block(&self) -> usize {
        self.index as usize * self.request.block_size as usize
    }

    fn enter_block(&mut self, rings: &Rings) -> Option<()> {
        let block = self.block();
        let status = rings.status(block + offset_of!(BlockHeader, status))?;
        // Acquire: the kernel writes the block, then this word.
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        let header: BlockHeader = rings.read(block)?;
        if header.packets == 0 {
            // Only a timeout closes an empty block.
            self.give_back_block(rings);
            return None;
        }
        self.left = header.packets;
        self.next = block + header.first_offset as usize;
        self.in_block = true;
        Some(())
    }

    fn give_back_block(&mut self, rings: &Rings) {
        if let Some(status) = rings.status(self.block() + offset_of!(BlockHeader, status)) {
            // Release: we have done with the block.
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
        self.in_block = false;
        self.index = (self.index + 1) % self.request.block_count.max(1);
    }

    /// Gives the frame that [`peek`](Self::peek) has shown back to the kernel.
    #[inline]
    pub(super) fn advance(&mut self, rings: &Rings) {
        match self.version {
            RingVersion::V2 => {
                let at = self.index as usize * self.request.frame_size as usize;
                if let Some(status) = rings.status(at) {
                    // Release: we have done with the frame.
                    status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
                }
                self.index = (self.index + 1) % self.request.frame_count.max(1);
            }
            RingVersion::V3 => {
                let step = rings.read::<HeaderV3>(self.next).map_or(0, |h| h.next_offset as usize);
                self.left = self.left.saturating_sub(1);
                let next = self.next + step;
                let end = self.block() + self.request.block_size as usize;
                // A step of nothing, or out of the block, would be the kernel's fault; the block is
                // given back whole.
                if self.left == 0 || step == 0 || next >= end {
                    self.give_back_block(rings);
                } else {
                    self.next = next;
                }
            }
        }
    }
}
