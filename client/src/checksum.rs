//! Transport checksums of received frames, for a stack that was told not to verify them.
//!
//! Only what smoltcp itself would verify: TCP and UDP right behind the IP header. Everything else is left to it.

/// Where a TCP or UDP packet lies in a frame.
pub(crate) struct Found<'a> {
    /// Source and destination address.
    pub(crate) addresses: &'a [u8],
    pub(crate) protocol: u8,
    /// Where it begins in the frame.
    pub(crate) begin: usize,
    pub(crate) packet: &'a [u8],
}

pub(crate) const TCP: u8 = 6;
const UDP: u8 = 17;
/// Bytes of an Ethernet header.
pub(crate) const LINK: usize = 14;

/// The packet of a frame; `None` if it has none, or a piece of one.
pub(crate) fn find(frame: &[u8]) -> Option<Found<'_>> {
    let ip = frame.get(LINK..)?;
    let (addresses, protocol, header, packet) = match frame.get(12..LINK)? {
        [0x08, 0x00] => {
            let header = usize::from(ip.first()? & 0xf) * 4;
            let total = u16::from_be_bytes(ip.get(2..4)?.try_into().ok()?);
            // More pieces, or not the first one.
            let is_piece = u16::from_be_bytes(ip.get(6..8)?.try_into().ok()?) & 0x3fff != 0;
            let packet = ip.get(header..total.into()).filter(|_| !is_piece)?;
            (ip.get(12..20)?, *ip.get(9)?, header, packet)
        }
        [0x86, 0xdd] => {
            let length = u16::from_be_bytes(ip.get(4..6)?.try_into().ok()?);
            (ip.get(8..40)?, *ip.get(6)?, 40, ip.get(40..)?.get(..length.into())?)
        }
        _ => return None,
    };
    let packet = if protocol == UDP {
        let length = u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?);
        packet.get(..length.into())?
    } else {
        packet
    };
    let begin = LINK + header;
    matches!(protocol, TCP | UDP).then_some(Found { addresses, protocol, begin, packet })
}

/// Whether a frame has a transport checksum of its own, which smoltcp has left open.
pub(crate) fn has_transport(frame: &[u8]) -> bool {
    find(frame).is_some()
}

/// Whether a frame's transport checksum is right, or it has none.
pub(crate) fn is_right(frame: &[u8]) -> bool {
    let Some(Found { addresses, protocol, packet, .. }) = find(frame) else { return true };
    let has_none = protocol == UDP && packet.get(6..8) == Some(&[0, 0]);
    if has_none && addresses.len() == 8 {
        return true;
    }
    let length = u32::try_from(packet.len()).unwrap_or(u32::MAX).to_be_bytes();
    let sum = fold(addresses) + fold(&length) + u64::from(protocol) + fold(packet);
    // Complemented, it is zero in either of the two ways.
    sum != 0 && sum.is_multiple_of(0xffff)
}

/// The sum of 16-bit words (RFC 1071), in the order of the network; odd bytes with a zero behind them.
fn fold(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    sum += u64::from(u32::from_ne_bytes(last));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Of a sum in the other order the bytes are the other way round (RFC 1071, 2(B)).
    u64::from(u16::from_be(u16::try_from(sum).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{IpAddress, UdpPacket, UdpRepr};

    /// A UDP frame as smoltcp makes it.
    fn frame(source: IpAddress, destination: IpAddress, payload: &[u8]) -> Vec<u8> {
        let udp = UdpRepr { src_port: 7, dst_port: 9 };
        let mut packet = vec![0; 8 + payload.len()];
        udp.emit(
            &mut UdpPacket::new_unchecked(&mut packet),
            &source,
            &destination,
            payload.len(),
            |buffer| buffer.copy_from_slice(payload),
            &ChecksumCapabilities::default(),
        );
        let length = u16::try_from(packet.len()).unwrap();
        let (kind, header) = match (source, destination) {
            (IpAddress::Ipv4(a), IpAddress::Ipv4(b)) => {
                let total = (length + 20).to_be_bytes();
                let head = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, UDP, 0, 0];
                ([8, 0], [&head[..], &a.octets(), &b.octets()].concat())
            }
            (IpAddress::Ipv6(a), IpAddress::Ipv6(b)) => {
                let length = length.to_be_bytes();
                let head = [0x60, 0, 0, 0, length[0], length[1], UDP, 64];
                ([0x86, 0xdd], [&head[..], &a.octets(), &b.octets()].concat())
            }
            _ => unreachable!("one family"),
        };
        [&[0; 12][..], &kind, &header, &packet].concat()
    }

    #[test]
    fn what_smoltcp_makes_is_right_and_with_any_bit_wrong_is_not() {
        let pairs = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")];
        for (source, destination) in pairs {
            for length in [0, 1, 2, 3, 64, 1001] {
                let payload: Vec<u8> = (0..=255).cycle().take(length).collect();
                let mut frame =
                    frame(source.parse().unwrap(), destination.parse().unwrap(), &payload);
                assert!(has_transport(&frame) && is_right(&frame), "{source}, {length} bytes");
                let padded = [&frame[..], &[0xff; 7]].concat();
                assert!(is_right(&padded), "padding does not count");
                let at = frame.len() - 1;
                frame[at] ^= 0x10;
                assert!(!is_right(&frame), "{source}, {length} bytes");
            }
        }
    }

    #[test]
    fn what_has_no_transport_checksum_is_left_to_others() {
        for frame in [&[0; 60][..], &[0xff; 9], b""] {
            assert!(!has_transport(frame) && is_right(frame));
        }
        let mut piece = frame("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), b"data");
        piece[20] = 0x20;
        assert!(!has_transport(&piece) && is_right(&piece));
        let mut without = frame("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), b"data");
        without[40..42].fill(0);
        assert!(is_right(&without));
    }
}
