//! The UMEM: the pool's port segment as the kernel's buffers, and the private list of what it was given.
//!
//! ```text
//!   segment   | slot first | first + 1 | first + 2 | ...        slot = first + address / slot size
//!   UMEM      0            size        2 size                   offset = address % slot size
//!   given         rx, 0        -          tx, 0                 one entry a slot
//! ```
//!
//! - Slots of other segments are not in it: the pages are pinned once, when the port opens, and sessions
//!   come and go. Received frames are lent out of this segment, and what the switch sends was vetted
//!   in a slot of it.
//! - The kernel's word for a slot is never used without the list: a slot that was not given, or to
//!   another ring, closes the port.

use super::bpf::XdpError;
use super::rings::inconsistent;
use rustix::net::xdp::{XdpUmemReg, XdpUmemRegFlags};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use usnet_shmring::arena::Segment;
use usnet_shmring::pool::{Frame, Pool};

/// Room that the kernel leaves in front of a received frame (`XDP_PACKET_HEADROOM`, linux/bpf.h).
pub(super) const HEADROOM: u32 = 256;

/// The smallest page of any machine, and so the largest slot that needs no huge page there.
const SMALL_PAGE: u32 = 4096;

/// What a slot was given for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be received into, by a queue.
    Receive(u32),
    /// To be sent, by a queue.
    Transmit(u32),
}

/// The slots that the kernel may use, and those that it has.
#[derive(Debug)]
pub(super) struct Umem {
    /// Keeps the memory mapped.
    segment: Arc<Segment>,
    slot_size: u32,
    given: Vec<Option<(Frame, Purpose)>>,
}

impl Umem {
    /// Over a segment that the daemon alone writes.
    pub(super) fn new(segment: Arc<Segment>) -> Self {
        let slot_size = segment.arena().slot_size().bytes();
        let mut given = Vec::new();
        given.resize_with(segment.count() as usize, || None);
        Self { segment, slot_size, given }
    }

    /// Longest frame that fits behind the kernel's headroom.
    pub(super) fn longest_frame(&self) -> u32 {
        self.slot_size - HEADROOM
    }

    /// Pins the memory, and gives it to a socket.
    pub(super) fn register(&self, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        let bytes = self.segment.bytes();
        let registration = XdpUmemReg {
            addr: bytes.cast::<u8>().as_ptr().expose_provenance() as u64,
            len: bytes.len() as u64,
            chunk_size: self.slot_size,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        let registered = rustix::net::sockopt::set_xdp_umem_reg(socket, registration);
        registered.map_err(io::Error::from).map_err(|source| {
            let hint = match source.raw_os_error() {
                Some(libc::EINVAL) if self.slot_size > SMALL_PAGE && !self.segment.is_huge() => {
                    "; slots larger than a page must lie on huge pages: set memory.huge_pages, or a \
                     memory.slot_size of 4096"
                }
                Some(libc::ENOBUFS) => "; raise the limit of locked memory, RLIMIT_MEMLOCK",
                _ => "",
            };
            XdpError::Refused { what: "give the slots to the kernel", hint, source }
        })
    }

    fn index(&self, slot: u32) -> Option<usize> {
        let index = slot.checked_sub(self.segment.first())?;
        (index < self.segment.count()).then_some(index as usize)
    }

    /// Whether a frame lies in it.
    #[inline]
    pub(super) fn contains(&self, frame: &Frame) -> bool {
        self.index(frame.slot()).is_some()
    }

    /// Puts a frame's slot on the list. Returns where the frame begins, or where to receive one.
    ///
    /// # Errors
    /// The frame itself if it lies elsewhere, or the list has its slot.
    #[inline]
    pub(super) fn give(&mut self, frame: Frame, to: Purpose) -> Result<u64, Frame> {
        let Some(index) = self.index(frame.slot()) else { return Err(frame) };
        let offset = match to {
            Purpose::Receive(_) => 0,
            Purpose::Transmit(_) => frame.offset(),
        };
        let address = index as u64 * u64::from(self.slot_size) + u64::from(offset);
        match self.given.get_mut(index) {
            Some(place @ None) => {
                *place = Some((frame, to));
                Ok(address)
            }
            _ => Err(frame),
        }
    }

    /// Takes the slot at an address that a ring showed off the list, as the frame that was given, and
    /// where in the slot the address lies.
    ///
    /// # Errors
    /// The slot was not given for that purpose.
    #[inline]
    pub(super) fn take(&mut self, address: u64, from: Purpose) -> io::Result<(Frame, u16)> {
        let size = u64::from(self.slot_size);
        let place = usize::try_from(address / size).ok().and_then(|i| self.given.get_mut(i));
        let offset = u16::try_from(address % size);
        match (place, offset) {
            (Some(place), Ok(offset)) if place.as_ref().is_some_and(|(_, to)| *to == from) => {
                match place.take() {
                    Some((frame, _)) => Ok((frame, offset)),
                    None => Err(inconsistent("a slot that it was not given")),
                }
            }
            _ => Err(inconsistent("a slot that it was not given")),
        }
    }

    /// Takes everything off the list. Only when the kernel has nothing of it any more.
    pub(super) fn take_all(&mut self, pool: &mut Pool) {
        for (frame, _) in self.given.iter_mut().filter_map(Option::take) {
            pool.free(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
    use usnet_shmring::region::Writer;

    const OURS: Purpose = Purpose::Receive(0);

    /// A UMEM that does not begin at slot 0, and its pool.
    fn umem() -> (Umem, Pool) {
        let arena = Arena::reserve(4096, SlotSize::DEFAULT).unwrap();
        let add = || arena.add_segment("t", Writer::Daemon, 1024, false).unwrap();
        let _before = add();
        let range = SlotRange::whole(add());
        let segment = Arc::clone(range.segment());
        assert_eq!(segment.first(), 1024);
        (Umem::new(segment), Pool::new(range).unwrap())
    }

    #[test]
    fn what_was_given_comes_back_once_and_only_for_its_purpose() {
        let (mut umem, mut pool) = umem();
        let frame = pool.alloc().unwrap();
        let slot = frame.slot();
        let address = umem.give(frame, OURS).unwrap();
        assert_eq!(address, u64::from(slot - 1024) * 2048);
        for other in [Purpose::Receive(1), Purpose::Transmit(0)] {
            assert!(umem.take(address, other).is_err(), "{other:?}");
        }
        let (frame, offset) = umem.take(address + 256, OURS).unwrap();
        assert_eq!((frame.slot(), offset), (slot, 256));
        assert!(umem.take(address, OURS).is_err(), "a slot that was taken back already");
        pool.free(frame);
    }

    #[test]
    fn an_address_outside_of_what_was_given_is_refused() {
        let (mut umem, mut pool) = umem();
        let frame = pool.alloc().unwrap();
        let address = umem.give(frame, OURS).unwrap();
        let end = 1024 * 2048;
        for lie in [address.wrapping_sub(1), address + 2048, end, end + address, u64::MAX, 1 << 48]
        {
            assert!(umem.take(lie, OURS).is_err(), "{lie:#x}");
        }
        umem.take_all(&mut pool);
        assert_eq!(pool.free_slots(), 1024);
    }
}
