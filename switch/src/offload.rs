//! Frames that are not finished, finished in software: checksums completed, large ones cut into segments.
//!
//! ```text
//!   Frame, open          --> field of its transport checksum written in place
//!   Frame, to be cut     --> headers | size | size | ... | rest     each with headers of its own
//! ```
//!
//! - What is left to do came from a kernel or a client; where headers and payload lie is read from the frame itself,
//!   by the classifier, and from nothing else. A frame that cannot be what it is said to be is malformed.
//! - One frame becomes at most [`MAX_PIECES`]. Each of them is counted as generated, the frame as consumed.
//! - As hardware does it: sequence numbers and identifications go up, FIN and PSH stay with the last piece, CWR with
//!   the first (RFC 3168, 6.1.2; `tcp_gso_segment` in the kernel).

use crate::classify::{Flow, HEAD_LEN, Payload, Plain, Protocol, classify_head, classify_plain};
use crate::classify::{Fragment, IpPacket};
use crate::port::checksum::transport_checksum;
use core::num::NonZeroU16;
use usnet_shmring::offload::Offload;

/// Most frames that one is cut into: the longest with segments of 64 bytes, less than any stack's least.
pub const MAX_PIECES: usize = 1024;

const TCP_FLAGS: usize = 13;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Where the parts of a TCP or UDP packet lie in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Between whom it goes.
    pub flow: Flow,
    /// Where the transport header begins.
    pub transport: usize,
    /// Where the packet ends.
    pub end: usize,
}

impl Parts {
    /// Of a frame of `length` bytes that begins with `head`; `None` if it is no whole TCP or UDP packet.
    #[inline]
    pub fn of(head: &[u8], length: usize) -> Option<Self> {
        if let Some(plain) = classify_plain(head, length) {
            return Some(Self::of_plain(&plain));
        }
        let seen = classify_head(head, length).ok()?;
        let Payload::Ip(IpPacket {
            flow, fragment: Fragment::Whole, transport_offset, end, ..
        }) = seen.payload
        else {
            return None;
        };
        let is_ours = matches!(flow.protocol, Protocol::TCP | Protocol::UDP);
        is_ours.then_some(Self { flow, transport: transport_offset.into(), end: end.into() })
    }

    fn of_plain(plain: &Plain) -> Self {
        let Plain { flow, transport_offset, end, .. } = *plain;
        Self { flow, transport: transport_offset.into(), end: end.into() }
    }
}

/// Writes the transport checksum of an open frame. False if it is no whole TCP or UDP packet.
pub fn close(frame: &mut [u8]) -> bool {
    let Some(Parts { flow, transport, end }) = Parts::of(frame, frame.len()) else { return false };
    frame.get_mut(transport..end).is_some_and(|packet| transport_checksum(&flow, packet))
}

/// How a frame is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    parts: Parts,
    /// Bytes of all headers.
    header: usize,
    /// Bytes of payload of each piece but the last.
    size: usize,
    pieces: usize,
}

impl Cut {
    /// For a frame of `length` bytes that begins with `head`; `None` if it cannot be cut so.
    pub fn of(head: &[u8], length: usize, size: NonZeroU16) -> Option<Self> {
        let parts = Parts::of_plain(&classify_plain(head, length)?);
        let transport = head.get(parts.transport..)?;
        let header = match parts.flow.protocol {
            Protocol::TCP => {
                let (offset, flags) = (transport.get(12)?, transport.get(TCP_FLAGS)?);
                if flags & (SYN | RST) != 0 {
                    return None;
                }
                usize::from(offset >> 4) * 4
            }
            _ => 8,
        };
        let header = parts.transport.checked_add(header)?;
        let payload = parts.end.checked_sub(header)?;
        let size = usize::from(size.get());
        let pieces = payload.div_ceil(size);
        let fits = (1..=MAX_PIECES).contains(&pieces) && header <= HEAD_LEN.min(head.len());
        fits.then_some(Self { parts, header, size, pieces })
    }

    /// Bytes of the longest piece.
    pub fn longest(&self) -> usize {
        self.header + self.size.min(self.parts.end.saturating_sub(self.header))
    }

    /// How many pieces there are, at least one and at most [`MAX_PIECES`].
    pub fn pieces(&self) -> usize {
        self.pieces
    }

    /// Bytes of the headers, which every piece begins with; at most [`HEAD_LEN`].
    pub fn header(&self) -> usize {
        self.header
    }

    /// Where the payload of a piece lies in the frame: where it begins, and how much it is.
    pub fn payload(&self, piece: usize) -> (usize, usize) {
        let at = self.header + piece.saturating_mul(self.size);
        (at, self.size.min(self.parts.end.saturating_sub(at)))
    }

    /// Makes a piece out of a copy of the frame's headers with the piece's payload behind it.
    pub fn finish(&self, piece: usize, frame: &mut [u8]) -> bool {
        self.network(piece, frame).is_some()
            && frame.get_mut(self.parts.transport..).is_some_and(|packet| {
                self.transport(piece, packet).is_some()
                    && transport_checksum(&self.parts.flow, packet)
            })
    }

    /// Length, identification and checksum of the IP header.
    fn network(&self, piece: usize, frame: &mut [u8]) -> Option<()> {
        const LINK: usize = 14;
        let length = frame.len().checked_sub(LINK)?;
        let header = frame.get_mut(LINK..self.parts.transport)?;
        if self.parts.flow.source.v4_part().is_none() {
            let payload = u16::try_from(length.checked_sub(header.len())?).ok()?;
            put(header, 4, payload)?;
            return Some(());
        }
        put(header, 2, u16::try_from(length).ok()?)?;
        let id = take(header, 4)?;
        put(header, 4, id.wrapping_add(u16::try_from(piece).ok()?))?;
        put(header, 10, 0)?;
        let sum = crate::port::checksum::internet_checksum(header);
        put(header, 10, sum)
    }

    /// Length, or sequence number and flags, of the transport header.
    fn transport(&self, piece: usize, packet: &mut [u8]) -> Option<()> {
        if self.parts.flow.protocol == Protocol::UDP {
            let length = u16::try_from(packet.len()).ok()?;
            return put(packet, 4, length);
        }
        let sequence: &mut [u8; 4] = packet.get_mut(4..8)?.try_into().ok()?;
        let moved = u32::try_from(piece.saturating_mul(self.size)).ok()?;
        *sequence = u32::from_be_bytes(*sequence).wrapping_add(moved).to_be_bytes();
        let flags = packet.get_mut(TCP_FLAGS)?;
        if piece + 1 < self.pieces {
            *flags &= !(FIN | PSH);
        }
        if piece > 0 {
            *flags &= !CWR;
        }
        Some(())
    }
}

fn take(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn put(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    bytes.get_mut(at..at + 2)?.copy_from_slice(&value.to_be_bytes());
    Some(())
}

/// Whether a frame of `length` bytes that begins with `head` can be what it is said to be, and gives frames of at
/// most `limit` bytes.
///
/// # Errors
/// Why it cannot.
pub fn judge(head: &[u8], length: usize, offload: Offload, limit: usize) -> Result<(), Unfit> {
    match offload.segment() {
        Some(size) => {
            let cut = Cut::of(head, length, size).ok_or(Unfit::Malformed)?;
            if cut.longest() <= limit { Ok(()) } else { Err(Unfit::TooLong) }
        }
        None if length > limit => Err(Unfit::TooLong),
        None if !offload.is_unfinished() => Ok(()),
        None => Parts::of(head, length).map(drop).ok_or(Unfit::Malformed),
    }
}

/// Why a frame cannot be finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is not what it is said to be.
    Malformed,
    /// It, or a piece of it, is too long.
    TooLong,
}
