//! Completes checksums that a sender left to hardware.
//!
//! Such a frame's checksum field holds the sum of the pseudo header (`CHECKSUM_PARTIAL`, Linux
//! `include/linux/skbuff.h`), so the checksum is the complemented sum over everything from the
//! transport header on, that field included.

use crate::classify::{Fragment, IpPacket, Payload, Protocol, classify};

/// Where the checksum lies in the transport header.
const fn field(protocol: Protocol) -> Option<usize> {
    match protocol {
        Protocol::TCP => Some(16),
        Protocol::UDP => Some(6),
        _ => None,
    }
}

/// Completes the transport checksum of a frame. Frames of other protocols, fragments and frames that
/// the classifier refuses are left as they are.
pub(super) fn complete_checksum(frame: &mut [u8]) {
    let Ok(seen) = classify(frame) else { return };
    let Payload::Ip(IpPacket { flow, fragment: Fragment::Whole, transport_offset, end, .. }) =
        seen.payload
    else {
        return;
    };
    let Some(field) = field(flow.protocol) else { return };
    let Some(transport) = frame.get_mut(transport_offset.into()..end.into()) else { return };
    let sum = !fold(transport);
    // An UDP checksum of zero would mean that there is none (RFC 768).
    let sum = if sum == 0 && flow.protocol == Protocol::UDP { 0xffff } else { sum };
    if let Some(place) = transport.get_mut(field..field + 2) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
}

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
}
