//! The frames that the generator numbers and the sink checks.
//!
//! ```text
//!   Ethernet 14 | IPv4 20 | UDP 8 | mark 4 | flow 4 | number 8 | filler
//! ```
//!
//! Mark, flow and number are big-endian; numbers count from 0 in each flow. The UDP checksum is
//! zero, which says that there is none.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Bytes before the mark.
const PAYLOAD: usize = 14 + 20 + 8;
/// Bytes of the shortest such frame, that Ethernet allows without its check sequence.
pub(super) const SHORTEST: usize = 60;
/// Bytes that say what the frame is.
const MARKED: usize = PAYLOAD + 16;
const MARK: [u8; 4] = *b"usgn";

/// A frame of one flow, but for its number.
#[derive(Debug)]
pub(super) struct Template {
    head: [u8; MARKED],
}

impl Template {
    /// For frames of `size` bytes, which must be at least [`SHORTEST`].
    pub(super) fn new(
        size: u16,
        (source_mac, source): ([u8; 6], SocketAddrV4),
        (target_mac, target): ([u8; 6], SocketAddrV4),
        flow: u32,
    ) -> Self {
        let mut head = [0; MARKED];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(place) = head.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        let ip_length = size - 14;
        put(&target_mac);
        put(&source_mac);
        put(&[0x08, 0x00]);
        let mut ip = [0; 20];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&ip_length.to_be_bytes());
        ip[6] = 0x40;
        ip[8] = 64;
        ip[9] = 17;
        ip[12..16].copy_from_slice(&source.ip().octets());
        ip[16..20].copy_from_slice(&target.ip().octets());
        let sum = internet_checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        put(&ip);
        put(&source.port().to_be_bytes());
        put(&target.port().to_be_bytes());
        put(&(ip_length - 20).to_be_bytes());
        put(&[0, 0]);
        put(&MARK);
        put(&flow.to_be_bytes());
        Self { head }
    }

    /// Writes the frame with its number to the front of `slot`; what follows is filler.
    #[inline]
    pub(super) fn write(&self, slot: &mut [u8], number: u64) {
        if let Some(place) = slot.first_chunk_mut::<MARKED>() {
            *place = self.head;
            place[MARKED - 8..].copy_from_slice(&number.to_be_bytes());
        }
    }
}

/// The flow and number of such a frame; `None` if it is another one.
#[inline]
pub(super) fn read(frame: &[u8]) -> Option<(u32, u64)> {
    let head = frame.first_chunk::<MARKED>()?;
    let (_, marked) = head.split_last_chunk::<16>()?;
    let (mark, rest) = marked.split_first_chunk::<4>()?;
    let (flow, number) = rest.split_first_chunk::<4>()?;
    let number: [u8; 8] = number.try_into().ok()?;
    let is_udp = head.get(12..15)? == [0x08, 0x00, 0x45] && *head.get(23)? == 17;
    (is_udp && *mark == MARK).then(|| (u32::from_be_bytes(*flow), u64::from_be_bytes(number)))
}

fn internet_checksum(header: &[u8]) -> u16 {
    let words = header.as_chunks::<2>().0.iter().map(|w| u32::from(u16::from_be_bytes(*w)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// An ARP request for `target`.
pub(super) fn arp_request(mac: [u8; 6], own: Ipv4Addr, target: Ipv4Addr) -> [u8; SHORTEST] {
    let mut frame = [0; SHORTEST];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&own.octets());
    frame[38..42].copy_from_slice(&target.octets());
    frame
}

/// The link address that an ARP reply gives for `target`.
pub(super) fn arp_reply(frame: &[u8], target: Ipv4Addr) -> Option<[u8; 6]> {
    let is_reply = frame.get(12..22)? == [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2];
    let speaks_of_it = frame.get(28..32)? == target.octets();
    (is_reply && speaks_of_it).then(|| frame.get(22..28)?.try_into().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{EthernetFrame, Ipv4Packet, Ipv4Repr, UdpPacket};

    fn template(size: u16) -> Template {
        let source = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 4000);
        let target = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 9);
        Template::new(size, ([2; 6], source), ([4; 6], target), 77)
    }

    #[test]
    fn a_frame_is_what_another_parser_says() {
        for size in [60, 61, 1514] {
            let mut bytes = vec![0; usize::from(size)];
            template(size).write(&mut bytes, 1 << 40);
            assert_eq!(read(&bytes), Some((77, 1 << 40)));
            let ethernet = EthernetFrame::new_checked(&bytes[..]).unwrap();
            let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
            Ipv4Repr::parse(&ip, &ChecksumCapabilities::default()).unwrap();
            let udp = UdpPacket::new_checked(ip.payload()).unwrap();
            assert_eq!((udp.src_port(), udp.dst_port()), (4000, 9));
            assert_eq!(usize::from(udp.len()), usize::from(size) - 34);
        }
    }

    #[test]
    fn other_frames_have_no_number() {
        let mut bytes = vec![0; 60];
        template(60).write(&mut bytes, 3);
        assert_eq!(read(&bytes[..57]), None);
        for at in [12, 14, 23, 42, 45] {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_eq!(read(&other), None, "byte {at}");
        }
    }

    #[test]
    fn an_arp_reply_is_read_for_the_right_address() {
        let (own, target) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        // A reply is a request the other way round.
        let mut reply = arp_request([9; 6], target, own);
        assert_eq!(arp_reply(&reply, target), None, "still a request");
        reply[21] = 2;
        assert_eq!(arp_reply(&reply, target), Some([9; 6]));
        assert_eq!(arp_reply(&reply, own), None);
    }
}
