//! Which piece of a datagram a packet is, by one rule for both families (RFC 791, RFC 8200 4.5).

use super::{Fragment, Malformed, Protocol};

/// Where a piece lies in its datagram; lengths and offsets in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// The datagram's identification.
    pub(super) id: u32,
    /// Where the piece begins, counted from the end of the part that every piece repeats.
    pub(super) offset: usize,
    /// Whether others follow.
    pub(super) more: bool,
    /// Bytes of this piece; not known of a quoted one.
    pub(super) len: Option<usize>,
    /// Bytes that every piece repeats and that the length field of the whole datagram counts.
    pub(super) repeated: usize,
    /// What the first piece begins with.
    pub(super) protocol: Protocol,
}

/// The longest datagram, by its 16-bit length field.
const MAX_DATAGRAM: usize = 65_535;

impl Piece {
    /// Says which piece this is, if it can be one.
    #[cold]
    pub(super) fn check(self) -> Result<Fragment, Malformed> {
        let Self { id, offset, more, len, repeated, protocol } = self;
        if offset == 0 && !more {
            return Ok(Fragment::Whole);
        }
        let has_length_of_piece = len.is_none_or(|len| len != 0 && (!more || len & 7 == 0));
        let end = offset.saturating_add(len.unwrap_or(1)).saturating_add(repeated);
        let overlaps_header = offset != 0 && offset < shortest_header(protocol);
        if !has_length_of_piece || end > MAX_DATAGRAM || overlaps_header {
            return Err(Malformed::Fragment);
        }
        Ok(if offset == 0 { Fragment::First { id } } else { Fragment::Later { id } })
    }
}

/// A first piece holds at least this much, so that a later one which begins before it overlaps the
/// header (RFC 1858, RFC 3128).
fn shortest_header(protocol: Protocol) -> usize {
    match protocol {
        Protocol::TCP => 20,
        Protocol::SCTP | Protocol::DCCP => 12,
        _ => 8,
    }
}
