//! Unfinished frames: what a kernel says of one is refused or true, and what is made of one is what hardware would make.
//!
//! ```text
//!   input   header of linux/virtio_net.h 10 | the longest frame that may leave 2 | frame
//! ```

use usnet_shmring::offload::Offload;
use usnet_switch::classify::Protocol;
use usnet_switch::offload::{Cut, MAX_PIECES, Parts, judge};
use usnet_switch::port::tap::vnet;

/// Bytes of an Ethernet header.
const LINK: usize = 14;

/// Checks a frame with what stands in front of it.
///
/// # Panics
///
/// If a promise was broken.
pub fn check(input: &[u8]) {
    let Some((header, rest)) = input.split_first_chunk::<{ vnet::LENGTH }>() else { return };
    let Some((limit, frame)) = rest.split_first_chunk::<2>() else { return };
    if frame.len() > usize::from(u16::MAX) {
        return;
    }
    let limit = usize::from(u16::from_be_bytes(*limit));
    let mut taken = frame.to_vec();
    let Some(offload) = vnet::read(header, &mut taken) else { return };
    assert_eq!(taken.len(), frame.len());
    if judge(&taken, taken.len(), offload, limit).is_err() {
        return;
    }
    if offload.is_unfinished() {
        check_written(&taken, offload);
    }
    match offload.segment() {
        Some(_) => check_pieces(&taken, offload, limit),
        None => assert!(taken.len() <= limit),
    }
}

/// What is written for the kernel is read as the same.
fn check_written(frame: &[u8], offload: Offload) {
    let mut sent = frame.to_vec();
    let (header, length) = vnet::write(offload, &mut sent).expect("it was judged");
    sent.truncate(length);
    let again = vnet::read(&header, &mut sent).expect("it was written so");
    let pieces = offload.segment().and_then(|size| Cut::of(frame, frame.len(), size));
    match pieces {
        // One segment is not called joined.
        Some(cut) if cut.pieces() > 1 => assert_eq!(again, offload),
        _ => assert_eq!(again, Offload::OPEN),
    }
    assert_eq!(Parts::of(&sent, length), Parts::of(frame, frame.len()));
}

/// All bytes of the payload go out once, in order, in frames of the allowed length with right checksums.
fn check_pieces(frame: &[u8], offload: Offload, limit: usize) {
    let size = offload.segment().expect("it is joined");
    let cut = Cut::of(frame, frame.len(), size).expect("it was judged");
    let parts = Parts::of(frame, frame.len()).expect("it was judged");
    assert!((1..=MAX_PIECES).contains(&cut.pieces()));
    let mut at = cut.header();
    let first = frame[parts.transport..].get(4..8).expect("a transport header");
    let first = u32::from_be_bytes(first.try_into().expect("four bytes"));
    for number in 0..cut.pieces() {
        let (begin, length) = cut.payload(number);
        assert!(begin == at && length > 0, "piece {number}: {begin}, {length} bytes, after {at}");
        at += length;
        let mut piece = [&frame[..cut.header()], &frame[begin..begin + length]].concat();
        assert!(piece.len() <= limit.min(cut.longest()));
        assert!(cut.finish(number, &mut piece), "piece {number}");
        let own = Parts::of(&piece, piece.len()).expect("a whole packet");
        assert_eq!((own.flow, own.transport), (parts.flow, parts.transport));
        assert_eq!(own.end, piece.len(), "no padding");
        if let Some(sequence) = check_checksums(&piece) {
            let moved = u32::try_from(begin - cut.header()).expect("a frame is short");
            assert_eq!(sequence, first.wrapping_add(moved), "piece {number}");
        }
    }
    assert_eq!(at, parts.end, "the last piece ends with the packet");
}

/// Adds it up byte by byte, as RFC 1071 describes it. (etherparse sums what it has parsed, and leaves reserved bits
/// out.) Returns the sequence number, of TCP.
fn check_checksums(piece: &[u8]) -> Option<u32> {
    let parts = Parts::of(piece, piece.len()).expect("a whole packet");
    let (header, packet) = (&piece[LINK..parts.transport], &piece[parts.transport..parts.end]);
    let addresses = match header[0] >> 4 {
        4 => {
            assert_eq!(sum(header), 0xffff, "the IPv4 header");
            &header[12..20]
        }
        _ => &header[8..40],
    };
    let length = u32::try_from(packet.len()).expect("a frame is short").to_be_bytes();
    let pseudo = [addresses, &length, &[0, 0, 0, parts.flow.protocol.0]].concat();
    let whole = [&pseudo[..], packet].concat();
    assert_eq!(sum(&whole), 0xffff, "the transport checksum");
    let is_tcp = parts.flow.protocol == Protocol::TCP;
    // Without a checksum it would say nothing.
    assert!(is_tcp || packet[6..8] != [0, 0]);
    is_tcp.then(|| u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]))
}

/// The sum of words in ones' complement; all ones over what holds its checksum.
fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
    bytes.chunks(2).map(word).fold(0, |sum, word| {
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    })
}
