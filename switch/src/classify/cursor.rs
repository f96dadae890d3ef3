//! A place in a packet: how far it was read, where it ends, and how much of it was given.
//!
//! ```text
//!   |<- at ->|<---------- left --------->|  padding  |
//!   +--------+---------------------------+-----------+
//!   |  read  |         of the packet                 |   the frame
//!   +--------+---------------------------+-----------+
//!            |<--- given -->|                            may end anywhere
//! ```
//!
//! A header that reaches past the *packet* is malformed, in the way that its reader names. Only one
//! that lies within the packet but past what was *given* is [`Malformed::HeadTooShort`]. So a short
//! head never changes an answer; it can only prevent one.

use super::Malformed;
use bytemuck::AnyBitPattern;

/// A place in a packet. A copy is a second, independent reader.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    given: &'a [u8],
    left: usize,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// At the beginning of a packet of `len` bytes, of which the first `given.len()` are known.
    #[inline(always)]
    pub(super) fn new(given: &'a [u8], len: usize) -> Self {
        Self { given, left: len, at: 0 }
    }

    /// Bytes from here to the end of the packet.
    #[inline(always)]
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Bytes from the beginning of the frame to here.
    #[inline(always)]
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The next `n` bytes, which are then behind this cursor; `cut` if the packet ends before.
    #[inline(always)]
    pub(super) fn take_bytes(&mut self, n: usize, cut: Malformed) -> Result<&'a [u8], Malformed> {
        let left = self.left.checked_sub(n).ok_or(cut)?;
        let (taken, rest) = self.given.split_at_checked(n).ok_or(Malformed::HeadTooShort)?;
        self.given = rest;
        self.left = left;
        // `at + left` is at most the length of the frame, so this does not wrap.
        self.at = self.at.wrapping_add(n);
        Ok(taken)
    }

    /// The next header, which is then behind this cursor; `cut` if the packet ends before.
    #[inline(always)]
    pub(super) fn take<H: AnyBitPattern>(&mut self, cut: Malformed) -> Result<&'a H, Malformed> {
        let bytes = self.take_bytes(size_of::<H>(), cut)?;
        // The length is right and headers have an alignment of one, so this never fails.
        bytemuck::try_from_bytes(bytes).map_err(|_| cut)
    }

    /// The next header; the cursor stays. `cut` if the packet ends before.
    #[inline(always)]
    pub(super) fn peek<H: AnyBitPattern>(&self, cut: Malformed) -> Result<&'a H, Malformed> {
        let mut ahead = *self;
        ahead.take(cut)
    }

    /// Lets the packet end `n` bytes from here; `cut` if it ends before that already.
    #[inline(always)]
    pub(super) fn end_after(&mut self, n: usize, cut: Malformed) -> Result<(), Malformed> {
        if n > self.left {
            return Err(cut);
        }
        self.left = n;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: Malformed = Malformed::Transport;

    #[test]
    fn bytes_are_taken_in_order_and_counted() {
        let mut cursor = Cursor::new(&[1, 2, 3, 4, 5], 5);
        assert_eq!(cursor.take::<[u8; 2]>(CUT), Ok(&[1, 2]));
        assert_eq!((cursor.at(), cursor.left()), (2, 3));
        assert_eq!(cursor.peek::<[u8; 3]>(CUT), Ok(&[3, 4, 5]));
        assert_eq!(cursor.take_bytes(3, CUT), Ok(&[3, 4, 5][..]));
        assert_eq!((cursor.at(), cursor.left()), (5, 0));
        assert_eq!(cursor.take::<[u8; 1]>(CUT), Err(CUT));
    }

    #[test]
    fn past_the_packet_is_cut_even_if_bytes_are_given() {
        let mut cursor = Cursor::new(&[1, 2, 3, 4], 4);
        cursor.end_after(2, CUT).unwrap();
        assert_eq!(cursor.take::<[u8; 3]>(CUT), Err(CUT));
        assert_eq!(cursor.take::<[u8; 2]>(CUT), Ok(&[1, 2]));
    }

    #[test]
    fn past_what_was_given_but_within_the_packet_is_too_short() {
        let mut cursor = Cursor::new(&[1, 2], 4);
        assert_eq!(cursor.take::<[u8; 3]>(CUT), Err(Malformed::HeadTooShort));
        assert_eq!(cursor.take::<[u8; 5]>(CUT), Err(CUT));
        assert_eq!(cursor.take::<[u8; 2]>(CUT), Ok(&[1, 2]), "a refusal moves nothing");
    }

    #[test]
    fn an_end_is_only_ever_moved_nearer() {
        let mut cursor = Cursor::new(&[1, 2, 3], 3);
        assert_eq!(cursor.end_after(4, CUT), Err(CUT));
        assert_eq!(cursor.end_after(3, CUT), Ok(()));
        assert_eq!(cursor.end_after(1, CUT), Ok(()));
        assert_eq!(cursor.end_after(2, CUT), Err(CUT));
    }
}
