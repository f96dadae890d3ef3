//! Completes checksums that a sender left to hardware.
//!
//! Such a frame's checksum field holds the sum of the pseudo header (`CHECKSUM_PARTIAL`, Linux
//! `include/linux/skbuff.h`), so the checksum is the complemented sum over everything from the
//! transport header on, that field included.

use crate::classify::{Flow, Fragment, IpPacket, Payload, Protocol, classify};

/// Where the checksum lies in the transport header.
const fn field(protocol: Protocol) -> Option<usize> {
    match protocol {
        Protocol::TCP => Some(16),
        Protocol::UDP => Some(6),
        Protocol::SCTP => Some(8),
        _ => None,
    }
}

/// Completes the transport checksum of a frame. Frames of other protocols, fragments and frames that
/// the classifier refuses are left as they are, and so are those whose field is not the sum of their
/// pseudo header: there the checksum left to hardware lies deeper, inside of a tunnel.
pub(super) fn complete_checksum(frame: &mut [u8]) {
    complete(frame, true);
}

/// The same where nobody says which frames are unfinished. A field that is the sum of the pseudo header
/// by chance, in a frame that was complete, gets the same checksum again. Left out is SCTP, which has no
/// pseudo header to tell by.
pub(super) fn complete_if_partial(frame: &mut [u8]) {
    complete(frame, false);
}

fn complete(frame: &mut [u8], is_unfinished: bool) {
    let Ok(seen) = classify(frame) else { return };
    let Payload::Ip(IpPacket { flow, fragment: Fragment::Whole, transport_offset, end, .. }) =
        seen.payload
    else {
        return;
    };
    let Some(field) = field(flow.protocol) else { return };
    let Some(transport) = frame.get_mut(transport_offset.into()..end.into()) else { return };
    if flow.protocol == Protocol::SCTP {
        if is_unfinished {
            complete_sctp(transport, field);
        }
        return;
    }
    let Some(&[a, b]) = transport.get(field..field + 2) else { return };
    if !same(u16::from_be_bytes([a, b]), pseudo_sum(&flow, transport.len())) {
        return;
    }
    let sum = finish(flow.protocol, transport);
    if let Some(place) = transport.get_mut(field..field + 2) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
}

/// Writes the checksum of a TCP or UDP packet of this flow, whatever is in the field. False if the packet is too short
/// to have one.
pub(crate) fn transport_checksum(flow: &Flow, packet: &mut [u8]) -> bool {
    let Some(field) = field(flow.protocol) else { return false };
    let pseudo = pseudo_sum(flow, packet.len());
    let Some(place) = packet.get_mut(field..field + 2) else { return false };
    place.copy_from_slice(&pseudo.to_be_bytes());
    let sum = finish(flow.protocol, packet);
    if let Some(place) = packet.get_mut(field..field + 2) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    true
}

/// The checksum of a packet whose field holds the sum of the pseudo header.
fn finish(protocol: Protocol, packet: &[u8]) -> u16 {
    let sum = internet_checksum(packet);
    // An UDP checksum of zero would mean that there is none (RFC 768).
    if sum == 0 && protocol == Protocol::UDP { 0xffff } else { sum }
}

/// The checksum of RFC 1071.
pub(crate) fn internet_checksum(bytes: &[u8]) -> u16 {
    !fold(bytes)
}

/// The sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1). The 0xffff in which an IPv4 address is
/// wrapped is a zero in this arithmetic.
pub(crate) fn pseudo_sum(flow: &Flow, length: usize) -> u16 {
    let Ok(length) = u16::try_from(length) else { return 0 };
    let mut header = [0; 36];
    let parts = flow.source.0.iter().chain(&flow.destination.0);
    let last = [0, flow.protocol.0];
    for (to, from) in header.iter_mut().zip(parts.chain(&length.to_be_bytes()).chain(&last)) {
        *to = *from;
    }
    fold(&header)
}

/// Whether two sums are the same number; ones' complement has two zeros.
const fn same(a: u16, b: u16) -> bool {
    a % 0xffff == b % 0xffff
}

/// Writes the CRC-32C of an SCTP packet (RFC 9260, 6.8), the checksum field counted as zero and the
/// result in little-endian order. SCTP has no pseudo header.
fn complete_sctp(packet: &mut [u8], field: usize) {
    let Some(place) = packet.get_mut(field..field + 4) else { return };
    place.fill(0);
    let crc = !packet.iter().fold(u32::MAX, |crc, &byte| {
        let [low, ..] = crc.to_le_bytes();
        let entry = CRC32C.get(usize::from(low ^ byte)).copied().unwrap_or(0);
        (crc >> 8) ^ entry
    });
    if let Some(place) = packet.get_mut(field..field + 4) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

/// The CRC of each byte, by the reversed Castagnoli polynomial.
const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u32;
    while byte < 256 {
        let mut crc = byte;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
};

/// The ones' complement sum of 16-bit words (RFC 1071). Summed in wide words of either byte order,
/// which gives the same, turned round at the end.
fn fold(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|w| u64::from(u32::from_ne_bytes(*w))).sum();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    sum += u64::from(u32::from_ne_bytes(last));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::from_be(u16::try_from(sum).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr};

    /// An UDP frame with a complete checksum, by smoltcp.
    fn udp_frame(payload: &[u8]) -> Vec<u8> {
        let (source, destination) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let udp = UdpRepr { src_port: 1000, dst_port: 2000 };
        let ip = Ipv4Repr {
            src_addr: source,
            dst_addr: destination,
            next_header: IpProtocol::Udp,
            payload_len: 8 + payload.len(),
            hop_limit: 64,
        };
        let mut frame = vec![0; 14 + 20 + 8 + payload.len()];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[0] = 2;
        frame[6] = 2;
        let caps = ChecksumCapabilities::default();
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &caps);
        udp.emit(
            &mut UdpPacket::new_unchecked(&mut frame[34..]),
            &source.into(),
            &destination.into(),
            payload.len(),
            |buffer| buffer.copy_from_slice(payload),
            &caps,
        );
        frame
    }

    #[test]
    fn a_partial_checksum_becomes_the_one_that_smoltcp_computes() {
        for length in 0..200usize {
            let payload: Vec<u8> =
                (0..=250u8).cycle().map(|n| n.wrapping_mul(37)).take(length).collect();
            let complete = udp_frame(&payload);
            let mut frame = complete.clone();
            // What CHECKSUM_PARTIAL leaves in the field: the folded pseudo header.
            let mut pseudo = vec![10, 0, 0, 1, 10, 0, 0, 2, 0, 17];
            pseudo.extend(u16::try_from(8 + length).unwrap().to_be_bytes());
            frame[40..42].copy_from_slice(&fold(&pseudo).to_be_bytes());
            complete_checksum(&mut frame);
            assert_eq!(frame, complete, "payload of {length}");
        }
    }

    #[test]
    fn the_crc_of_sctp_is_castagnolis() {
        // The check value of CRC-32C is that of "123456789"; zeros in the field add nothing there
        // that the definition does not.
        let mut packet = *b"\0\0\0\0";
        complete_sctp(&mut packet, 0);
        assert_eq!(packet, 0x4867_4bc7_u32.to_le_bytes(), "four zero bytes");
        let mut packet = [0xff; 32];
        complete_sctp(&mut packet, 28);
        let mut again = packet;
        complete_sctp(&mut again, 28);
        assert_eq!(packet, again);
    }

    #[test]
    fn a_checksum_that_is_not_partial_is_left_alone() {
        for field in [[0, 0], [0x12, 0x34]] {
            let mut frame = udp_frame(b"as in the outer header of a tunnel");
            frame[40..42].copy_from_slice(&field);
            let before = frame.clone();
            complete_checksum(&mut frame);
            assert_eq!(frame, before);
        }
    }
}
