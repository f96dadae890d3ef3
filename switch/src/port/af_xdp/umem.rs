//! The UMEM: the pool's port segment as the kernel's buffers, and the private list of what it was given.
//!
//! ```text
//!   segment   | slot first | first + 1 | first + 2 | ...        slot = first + address / slot size
//!   UMEM      0            size        2 size                   offset = address % slot size
//!   given         rx, 0        -          tx, 0                 one entry a slot
//!
//!   chunk     | slot        |            where a slot is no larger than a page, or lies on a huge page
//!   chunks    | 0 | 1 | 2 | 3 |          else: the kernel takes pages. Received is into the first of a slot
//! ```
//!
//! - A frame that is longer than what a chunk has behind its headroom comes in several slots, and is joined in
//!   the first of them; it is sent from one slot in several pieces.
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

/// A slot that the kernel has.
#[derive(Debug)]
struct Given {
    frame: Frame,
    to: Purpose,
    /// Pieces of it in the rings.
    pieces: u32,
}

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
    /// What the kernel takes for one buffer.
    chunk: u32,
    given: Vec<Option<Given>>,
}

impl Umem {
    /// Over a segment that the daemon alone writes.
    pub(super) fn new(segment: Arc<Segment>) -> Self {
        let slot_size = segment.arena().slot_size().bytes();
        let mut given = Vec::new();
        given.resize_with(segment.count() as usize, || None);
        let is_whole = slot_size <= SMALL_PAGE || segment.is_huge();
        let chunk = if is_whole { slot_size } else { SMALL_PAGE };
        Self { segment, slot_size, chunk, given }
    }

    /// Longest frame that fits behind the kernel's headroom.
    pub(super) fn longest_frame(&self) -> u32 {
        self.slot_size - HEADROOM
    }

    /// Longest frame that is received in one piece.
    pub(super) fn longest_piece(&self) -> u32 {
        self.chunk - HEADROOM
    }

    /// Most bytes from this address on that can be sent as one piece.
    #[inline]
    pub(super) fn to_end_of_chunk(&self, address: u64) -> u32 {
        let chunk = u64::from(self.chunk);
        u32::try_from(chunk - address % chunk).unwrap_or(self.chunk)
    }

    /// In how many pieces a frame is sent.
    #[inline]
    pub(super) fn pieces(&self, frame: &Frame) -> u32 {
        let begin = u32::from(frame.offset()) % self.chunk;
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX - self.chunk);
        (begin + length).div_ceil(self.chunk).max(1)
    }

    /// Pins the memory, and gives it to a socket.
    pub(super) fn register(&self, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        let bytes = self.segment.bytes();
        let registration = XdpUmemReg {
            addr: bytes.cast::<u8>().as_ptr().expose_provenance() as u64,
            len: bytes.len() as u64,
            chunk_size: self.chunk,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        let registered = rustix::net::sockopt::set_xdp_umem_reg(socket, registration);
        registered.map_err(io::Error::from).map_err(|source| {
            let hint = match source.raw_os_error() {
                Some(libc::EINVAL) if self.chunk > SMALL_PAGE => {
                    "; this kernel takes no slots larger than a page: unset memory.huge_pages, or set a \
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
        let (offset, pieces) = match to {
            Purpose::Receive(_) => (0, 1),
            Purpose::Transmit(_) => (frame.offset(), self.pieces(&frame)),
        };
        let address = index as u64 * u64::from(self.slot_size) + u64::from(offset);
        match self.given.get_mut(index) {
            Some(place @ None) => {
                *place = Some(Given { frame, to, pieces });
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
            (Some(place), Ok(offset)) if place.as_ref().is_some_and(|given| given.to == from) => {
                match place.take() {
                    Some(given) => Ok((given.frame, offset)),
                    None => Err(inconsistent("a slot that it was not given")),
                }
            }
            _ => Err(inconsistent("a slot that it was not given")),
        }
    }

    /// Notes that the piece at an address was sent by `queue`. Returns its frame if it was the last.
    ///
    /// # Errors
    /// The slot was not given for that purpose.
    #[inline]
    pub(super) fn sent(&mut self, address: u64, queue: u32) -> io::Result<Option<Frame>> {
        let size = u64::from(self.slot_size);
        let place = usize::try_from(address / size).ok().and_then(|i| self.given.get_mut(i));
        if let Some(Some(given)) = place
            && given.to == Purpose::Transmit(queue)
            && given.pieces > 1
        {
            given.pieces -= 1;
            return Ok(None);
        }
        self.take(address, Purpose::Transmit(queue)).map(|(frame, _)| Some(frame))
    }

    /// Takes everything off the list. Only when the kernel has nothing of it any more.
    pub(super) fn take_all(&mut self, pool: &mut Pool) {
        for given in self.given.iter_mut().filter_map(Option::take) {
            pool.free(given.frame);
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
    fn a_frame_that_was_sent_in_pieces_comes_back_with_the_last() {
        let arena = Arena::reserve(2048, SlotSize::new(16_384).unwrap()).unwrap();
        let range = SlotRange::whole(arena.add_segment("t", Writer::Daemon, 1024, false).unwrap());
        let mut umem = Umem::new(Arc::clone(range.segment()));
        assert_eq!((umem.longest_piece(), umem.longest_frame()), (4096 - 256, 16_384 - 256));
        let mut pool = Pool::new(range).unwrap();
        for (offset, length, pieces) in
            [(0, 4096, 1), (0, 4097, 2), (1, 4096, 2), (256, 9014, 3), (4095, 1, 1), (0, 16_384, 4)]
        {
            let mut frame = pool.alloc().unwrap();
            assert!(pool.set_window(&mut frame, offset, length));
            assert_eq!(umem.pieces(&frame), pieces, "{length} bytes at {offset}");
            let mut address = umem.give(frame, Purpose::Transmit(3)).unwrap();
            for left in (0..pieces).rev() {
                assert!(umem.sent(address, 2).is_err(), "another queue's");
                let frame = umem.sent(address, 3).unwrap();
                assert_eq!(frame.is_some(), left == 0);
                frame.into_iter().for_each(|frame| pool.free(frame));
                address += u64::from(umem.to_end_of_chunk(address));
            }
        }
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
