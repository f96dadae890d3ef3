//! The header in front of each frame that says what of it is left to do (linux/virtio_net.h).
//!
//! ```text
//!   0      1         2          4          6            8              10
//!   flags  gso_type  hdr_len    gso_size   csum_start   csum_offset
//! ```
//!
//! - Numbers are in the machine's order, as the kernel has them without `TUNSETVNETLE`.
//! - What the kernel says is compared with the frame's own headers, and what differs from them is refused. What it
//!   is told is made of them.

use crate::classify::Protocol;
use crate::offload::{Cut, Parts};
use crate::port::checksum::{complete_checksum, internet_checksum, pseudo_sum};
use core::num::NonZeroU16;
use usnet_shmring::offload::Offload;

/// Bytes of the header without merged buffers.
pub const LENGTH: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const CHECKSUM_IS_RIGHT: u8 = 2;
const NOT_JOINED: u8 = 0;
const JOINED_TCP4: u8 = 1;
const JOINED_TCP6: u8 = 4;
const JOINED_UDP: u8 = 5;
/// A bit beside: some segment had the congestion mark.
const WITH_ECN: u8 = 0x80;

/// Where the checksum lies in the transport header.
const fn field(protocol: Protocol) -> u16 {
    if protocol.0 == Protocol::TCP.0 { 16 } else { 6 }
}

/// The kernel's word for segments of this packet.
fn joined(parts: &Parts) -> u8 {
    match (parts.flow.protocol, parts.flow.source.v4_part()) {
        (Protocol::UDP, _) => JOINED_UDP,
        (_, Some(_)) => JOINED_TCP4,
        (_, None) => JOINED_TCP6,
    }
}

/// Reads a header of the kernel's. A checksum that only its own sum can complete, inside of a tunnel for instance, is
/// completed at once. `None`: the header says of the frame what it is not.
pub fn read(header: &[u8; LENGTH], frame: &mut [u8]) -> Option<Offload> {
    let [flags, kind, _, _, size @ .., a, b, c, d] = *header;
    let (size, start, offset) =
        (u16::from_ne_bytes(size), u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
    let needs_checksum = flags & NEEDS_CHECKSUM != 0;
    if kind & !WITH_ECN != NOT_JOINED {
        let size = NonZeroU16::new(size)?;
        let parts = Parts::of(frame, frame.len())?;
        Cut::of(frame, frame.len(), size)?;
        let fits = needs_checksum && joined(&parts) == kind & !WITH_ECN;
        return fits.then_some(Offload::segments(size));
    }
    if !needs_checksum {
        let is_right = flags & CHECKSUM_IS_RIGHT != 0;
        return Some(if is_right { Offload::SOUND } else { Offload::NONE });
    }
    match Parts::of(frame, frame.len()) {
        Some(parts)
            if parts.transport == usize::from(start) && field(parts.flow.protocol) == offset =>
        {
            Some(Offload::OPEN)
        }
        _ => complete_at(frame, start.into(), offset.into()),
    }
}

/// Completes a checksum as the header says: over all from `start` on, written `offset` bytes behind it.
fn complete_at(frame: &mut [u8], start: usize, offset: usize) -> Option<Offload> {
    const SCTP: usize = 8;
    if offset == SCTP {
        complete_checksum(frame);
        return Some(Offload::NONE);
    }
    let packet = frame.get_mut(start..)?;
    let sum = internet_checksum(packet);
    packet.get_mut(offset..offset + 2)?.copy_from_slice(&sum.to_be_bytes());
    Some(Offload::NONE)
}

/// Makes the header for a frame, and writes into the frame's checksum field what the kernel expects there. With it
/// comes how much of the frame is to be sent: padding would be summed, too. `None` if the frame is not what it is
/// said to be.
pub fn write(offload: Offload, frame: &mut [u8]) -> Option<([u8; LENGTH], usize)> {
    let mut header = [0; LENGTH];
    let length = frame.len();
    if !offload.is_unfinished() {
        return Some((header, length));
    }
    let parts = Parts::of(frame, length)?;
    let offset = field(parts.flow.protocol);
    let at = parts.transport + usize::from(offset);
    let sum = pseudo_sum(&parts.flow, parts.end - parts.transport);
    frame.get_mut(at..at + 2)?.copy_from_slice(&sum.to_be_bytes());
    let (kind, headers, size) = match offload.segment() {
        None => (NOT_JOINED, 0, 0),
        Some(size) => {
            let cut = Cut::of(frame, length, size)?;
            match cut.pieces() {
                // The kernel would call that hostile.
                1 => (NOT_JOINED, 0, 0),
                _ => (joined(&parts), u16::try_from(cut.header()).ok()?, size.get()),
            }
        }
    };
    let start = u16::try_from(parts.transport).ok()?;
    let [flags, gso, rest @ ..] = &mut header;
    (*flags, *gso) = (NEEDS_CHECKSUM, kind);
    for (to, from) in rest.chunks_exact_mut(2).zip([headers, size, start, offset]) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    Some((header, parts.end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::num::NonZeroU16;
    use usnet_shmring::offload::Checksum;

    /// A TCP frame over IPv4 with this much payload.
    fn frame(payload: usize) -> Vec<u8> {
        let total = u16::try_from(40 + payload).unwrap().to_be_bytes();
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend([0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 80, 0, 90, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 1, 0, 0, 0, 0]);
        frame.resize(54 + payload, 0x5a);
        frame
    }

    fn header(flags: u8, kind: u8, size: u16, start: u16, offset: u16) -> [u8; LENGTH] {
        let mut header = [0; LENGTH];
        (header[0], header[1]) = (flags, kind);
        for (at, number) in [(4, size), (6, start), (8, offset)] {
            header[at..at + 2].copy_from_slice(&number.to_ne_bytes());
        }
        header
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let size = NonZeroU16::new(1448).unwrap();
        for offload in [Offload::NONE, Offload::OPEN, Offload::segments(size)] {
            let mut frame = frame(4000);
            let (header, length) = write(offload, &mut frame).unwrap();
            assert_eq!(length, frame.len());
            assert_eq!(read(&header, &mut frame), Some(offload));
        }
        let sound = read(&header(CHECKSUM_IS_RIGHT, 0, 0, 0, 0), &mut frame(10)).unwrap();
        assert_eq!(sound.checksum(), Checksum::Sound);
    }

    #[test]
    fn padding_is_not_sent_where_the_kernel_would_sum_it() {
        let mut padded = frame(10);
        padded.extend([0xff; 30]);
        assert_eq!(write(Offload::OPEN, &mut padded).map(|(_, length)| length), Some(64));
        assert_eq!(write(Offload::NONE, &mut padded).map(|(_, length)| length), Some(94));
    }

    #[test]
    fn one_segment_is_not_called_joined() {
        let mut short = frame(1000);
        let size = NonZeroU16::new(1448).unwrap();
        let (header, _) = write(Offload::segments(size), &mut short).unwrap();
        assert_eq!((header[0], header[1]), (NEEDS_CHECKSUM, NOT_JOINED));
    }

    #[test]
    fn a_header_that_the_frame_contradicts_is_refused() {
        let joined = |kind, size| header(NEEDS_CHECKSUM, kind, size, 34, 16);
        let cases = [
            ("segments of nothing", joined(JOINED_TCP4, 0)),
            ("another family", joined(JOINED_TCP6, 1448)),
            ("another protocol", joined(JOINED_UDP, 1448)),
            ("an unknown kind", joined(77, 1448)),
            ("more pieces than any stack makes", joined(JOINED_TCP4, 1)),
            ("segments without checksums", header(0, JOINED_TCP4, 1448, 34, 16)),
            ("a checksum behind the end", header(NEEDS_CHECKSUM, 0, 0, 4054, 16)),
            ("a sum from behind the end", header(NEEDS_CHECKSUM, 0, 0, u16::MAX, u16::MAX)),
            ("a field behind the end", header(NEEDS_CHECKSUM, 0, 0, 34, u16::MAX)),
        ];
        for (name, header) in cases {
            assert_eq!(read(&header, &mut frame(4000)), None, "{name}");
        }
        assert_eq!(read(&joined(JOINED_TCP4, 1448), &mut [0; 60]), None, "not IP at all");
        assert_eq!(read(&joined(JOINED_TCP4 | WITH_ECN, 1448), &mut frame(4000)), {
            Some(Offload::segments(NonZeroU16::new(1448).unwrap()))
        });
    }

    #[test]
    fn a_checksum_at_another_place_is_completed_there_at_once() {
        let mut frame = frame(100);
        // As if something were carried inside that has its own checksum at 60, and no pseudo header.
        frame[60..62].fill(0);
        let done = read(&header(NEEDS_CHECKSUM, 0, 0, 54, 6), &mut frame);
        assert_eq!(done, Some(Offload::NONE));
        assert_eq!(internet_checksum(&frame[54..]), 0, "the sum over all is right now");
    }
}
