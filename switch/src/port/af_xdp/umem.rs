//! The UMEM: the pool's port segment as the kernel's buffers, and the private list of what it was given.
//!
//! ```text
//!   segment   | slot first | first + 1 | first + 2 | ...        slot = first + address / slot size
//!   UMEM      0            size        2 size                   offset = address % slot size
//!   given         rx, 0        -          tx, 0                 one entry a slot
//!
//!   groups, segment   | rest |   -   |   | head |   ...         where the rest of a frame is sent from a client's
//!   rests, given      | head |   -   |   | tx,0 |   ...         slot: the slots of trust groups lie before the pool's
//!
//!   chunk     | slot        |            where a slot is no larger than a page, or lies on a huge page
//!   chunks    | 0 | 1 | 2 | 3 |          else: the kernel takes pages. Received is into the first of a slot
//! ```
//!
//! - A frame that is longer than what a chunk has behind its headroom comes in several slots, and is joined in
//!   the first of them; it is sent from one slot in several pieces.
//! - Slots of other segments are not in it: the pages are pinned once, when the port opens, and sessions
//!   come and go. Received frames are lent out of this segment, and what the switch sends was vetted
//!   in a slot of it, all of it or its head.
//! - Into a client's slot nothing is ever received: only slots of the pool are given for that.
//! - The kernel's word for a slot is never used without the list: a slot that was not given, or to
//!   another ring, closes the port.

use super::bpf::XdpError;
use super::rings::inconsistent;
use core::ops::Range;
use rustix::net::xdp::{XdpUmemReg, XdpUmemRegFlags};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use usnet_shmring::arena::Segment;
use usnet_shmring::pool::{Frame, Pool, Tail};

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
    /// The client's slot that its rest lies in, by its index in `rests`.
    rest: Option<u32>,
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
    /// Of trust groups, side by side before it, lowest first.
    groups: Vec<Arc<Segment>>,
    slot_size: u32,
    /// What the kernel takes for one buffer.
    chunk: u32,
    given: Vec<Option<Given>>,
    /// For each slot of the groups, of which frame a rest is sent from there: an index of `given`.
    rests: Vec<Option<u32>>,
}

impl Umem {
    /// Over a segment that the daemon alone writes, and over `groups`, which clients write and rests of frames are
    /// sent from. Of these only those that lie side by side up to the segment.
    pub(super) fn new(segment: Arc<Segment>, groups: &[Arc<Segment>]) -> Self {
        let slot_size = segment.arena().slot_size().bytes();
        let mut given = Vec::new();
        given.resize_with(segment.count() as usize, || None);
        let mut first = segment.first();
        let is_next = |group: &&Arc<Segment>| {
            let is_next = group.first() + group.count() == first
                && Arc::ptr_eq(group.arena(), segment.arena())
                && group.is_huge() == segment.is_huge();
            first = group.first();
            is_next
        };
        let mut groups: Vec<_> = groups.iter().rev().take_while(is_next).cloned().collect();
        groups.reverse();
        let count = groups.iter().map(|group| group.count() as usize).sum();
        let is_whole = slot_size <= SMALL_PAGE || segment.is_huge();
        let chunk = if is_whole { slot_size } else { SMALL_PAGE };
        Self { segment, groups, slot_size, chunk, given, rests: vec![None; count] }
    }

    /// The clients' slots that rests of frames may lie in.
    pub(super) fn tails(&self) -> Range<u32> {
        let end = self.segment.first();
        self.groups.first().map_or(0..0, |group| group.first()..end)
    }

    /// Where the pool's slots begin, in slots.
    fn before(&self) -> u64 {
        self.rests.len() as u64
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
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX - self.chunk);
        self.pieces_of(frame.offset(), length)
    }

    /// In how many pieces so many bytes of a slot are sent.
    #[inline]
    fn pieces_of(&self, offset: u16, length: u32) -> u32 {
        let begin = u32::from(offset) % self.chunk;
        (begin + length).div_ceil(self.chunk).max(1)
    }

    /// In how many pieces a frame is sent whose rest lies elsewhere.
    #[inline]
    pub(super) fn pieces_of_both(&self, head: &Frame, rest: &Tail) -> u32 {
        self.pieces(head) + self.pieces_of(rest.offset, rest.length.into())
    }

    /// Pins the memory, and gives it to a socket.
    pub(super) fn register(&self, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        let lowest = self.groups.first().unwrap_or(&self.segment).bytes();
        let all = self.groups.iter().chain([&self.segment]);
        let registration = XdpUmemReg {
            addr: lowest.cast::<u8>().as_ptr().expose_provenance() as u64,
            len: all.map(|segment| segment.bytes().len() as u64).sum(),
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
        let address = self.address(index, offset);
        match self.given.get_mut(index) {
            Some(place @ None) => {
                *place = Some(Given { frame, to, pieces, rest: None });
                Ok(address)
            }
            _ => Err(frame),
        }
    }

    /// An address in a slot of the pool.
    #[inline]
    fn address(&self, index: usize, offset: u16) -> u64 {
        (self.before() + index as u64) * u64::from(self.slot_size) + u64::from(offset)
    }

    /// Puts the two slots of a frame that is sent by `queue` on the list. Returns where head and rest begin.
    ///
    /// # Errors
    /// The frame itself if one of them lies elsewhere, or the list has it.
    #[inline]
    pub(super) fn give_both(
        &mut self,
        head: Frame,
        rest: &Tail,
        queue: u32,
    ) -> Result<(u64, u64), Frame> {
        let pieces = self.pieces_of_both(&head, rest);
        let end = u32::from(rest.offset) + u32::from(rest.length);
        let (Some(index), Some(of_rest)) =
            (self.index(head.slot()), rest.slot.checked_sub(self.tails().start))
        else {
            return Err(head);
        };
        let at = self.address(index, head.offset());
        let (Some(place @ None), Some(back @ None), Ok(number), true) = (
            self.given.get_mut(index),
            self.rests.get_mut(of_rest as usize),
            u32::try_from(index),
            end <= self.slot_size,
        ) else {
            return Err(head);
        };
        *back = Some(number);
        let to = Purpose::Transmit(queue);
        *place = Some(Given { frame: head, to, pieces, rest: Some(of_rest) });
        let rest_at = u64::from(of_rest) * u64::from(self.slot_size) + u64::from(rest.offset);
        Ok((at, rest_at))
    }

    /// Takes the slot at an address that a ring showed off the list, as the frame that was given, and
    /// where in the slot the address lies.
    ///
    /// # Errors
    /// The slot was not given for that purpose.
    #[inline]
    pub(super) fn take(&mut self, address: u64, from: Purpose) -> io::Result<(Frame, u16)> {
        let size = u64::from(self.slot_size);
        let index = (address / size).checked_sub(self.before());
        let index = index.and_then(|index| usize::try_from(index).ok());
        let place = index.and_then(|index| self.given.get_mut(index));
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
        let slot = address / u64::from(self.slot_size);
        let index = match slot.checked_sub(self.before()) {
            Some(index) => usize::try_from(index).ok(),
            // A rest, or a piece of one.
            None => usize::try_from(slot)
                .ok()
                .and_then(|slot| self.rests.get(slot).copied().flatten())
                .map(|head| head as usize),
        };
        let place = index.and_then(|index| self.given.get_mut(index));
        let Some(place) = place else { return Err(inconsistent("a slot that it was not given")) };
        match place {
            Some(given) if given.to == Purpose::Transmit(queue) && given.pieces > 1 => {
                given.pieces -= 1;
                Ok(None)
            }
            Some(given) if given.to == Purpose::Transmit(queue) => {
                let rest = given.rest.and_then(|rest| self.rests.get_mut(rest as usize));
                if let Some(rest) = rest {
                    *rest = None;
                }
                Ok(place.take().map(|given| given.frame))
            }
            _ => Err(inconsistent("a slot that it was not given")),
        }
    }

    /// Takes everything off the list. Only when the kernel has nothing of it any more.
    pub(super) fn take_all(&mut self, pool: &mut Pool) {
        for given in self.given.iter_mut().filter_map(Option::take) {
            pool.free(given.frame);
        }
        self.rests.fill(None);
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
        (Umem::new(segment, &[]), Pool::new(range).unwrap())
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
        let mut umem = Umem::new(Arc::clone(range.segment()), &[]);
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
    fn a_frame_whose_rest_lies_with_a_client_comes_back_with_the_last_piece_of_both() {
        let arena = Arena::reserve(8192, SlotSize::new(8192).unwrap()).unwrap();
        let add = |writer| Arc::new(arena.add_segment("t", writer, 1024, false).unwrap());
        let apart = add(Writer::Client);
        let _gap = add(Writer::Daemon);
        let groups = [apart, add(Writer::Client), add(Writer::Client)];
        let range = SlotRange::whole(arena.add_segment("t", Writer::Daemon, 1024, false).unwrap());
        let mut umem = Umem::new(Arc::clone(range.segment()), &groups);
        assert_eq!(umem.tails(), 2048..4096, "but those that are no neighbours");
        let mut pool = Pool::new(range).unwrap();
        let rest = Tail { slot: 2050, offset: 4000, length: 200 };

        let frame = |pool: &mut Pool| {
            let mut frame = pool.alloc().unwrap();
            assert!(pool.set_window(&mut frame, 64, 192));
            frame
        };
        let first = frame(&mut pool);
        assert_eq!(umem.pieces_of_both(&first, &rest), 3, "the rest lies on two pages");
        let slot = u64::from(first.slot() - 2048);
        let (head_at, rest_at) = umem.give_both(first, &rest, 3).unwrap();
        assert_eq!((head_at, rest_at), (slot * 8192 + 64, 2 * 8192 + 4000));

        // Neither of the two may be given again, nor what lies elsewhere.
        for other in [2047, 4096, u32::MAX] {
            let refused = umem.give_both(frame(&mut pool), &Tail { slot: other, ..rest }, 3);
            pool.free(refused.unwrap_err());
        }
        let refused = umem.give_both(frame(&mut pool), &rest, 3);
        pool.free(refused.unwrap_err());
        let too_long = Tail { slot: 2051, offset: 8000, length: 193 };
        let refused = umem.give_both(frame(&mut pool), &too_long, 3);
        pool.free(refused.unwrap_err());

        assert!(umem.sent(rest_at, 2).is_err(), "another queue's");
        assert!(umem.sent(rest_at + 8192, 3).is_err(), "a client's slot that was not given");
        assert!(umem.take(rest_at, Purpose::Transmit(3)).is_err(), "it is nobody's to receive");
        assert!(umem.sent(rest_at, 3).unwrap().is_none());
        assert!(umem.sent(head_at, 3).unwrap().is_none());
        let frame = umem.sent(rest_at + 96, 3).unwrap().unwrap();
        assert!(umem.sent(rest_at, 3).is_err(), "it is the client's again");
        assert!(umem.give_both(frame, &rest, 3).is_ok());
        umem.take_all(&mut pool);
        assert_eq!(pool.free_slots(), 1024);
        assert!(umem.sent(rest_at, 3).is_err());
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
