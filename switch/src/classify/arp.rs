//! ARP for IPv4 over Ethernet (RFC 826, RFC 5227).

use super::address::is_ipv4_sender;
use super::cursor::Cursor;
use super::{Address, ArpPacket, Mac, Malformed};
use bytemuck::{Pod, Zeroable};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Packet {
    /// Hardware type, protocol type, and the lengths of their addresses.
    space: [u8; 6],
    operation: [u8; 2],
    sender_mac: [u8; 6],
    sender: [u8; 4],
    target_mac: [u8; 6],
    target: [u8; 4],
}

/// Ethernet, IPv4, six and four bytes.
const IPV4_OVER_ETHERNET: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// Reads the packet. Trailing padding is normal.
pub(super) fn parse(mut cursor: Cursor<'_>) -> Result<ArpPacket, Malformed> {
    let packet = cursor.take::<Packet>(Malformed::Arp)?;
    let operation = u16::from_be_bytes(packet.operation);
    let sender_mac = Mac(packet.sender_mac);
    // A sender without an address is a probe, which only asks. Who answers a probe names target
    // 0.0.0.0; nobody asks for that address.
    let says_nothing = match operation {
        REQUEST => packet.target == [0; 4],
        REPLY => packet.sender == [0; 4],
        _ => true,
    };
    let target_cannot_be = !is_ipv4_sender(packet.target);
    if packet.space != IPV4_OVER_ETHERNET
        || says_nothing
        || sender_mac.is_group()
        || !is_ipv4_sender(packet.sender)
        || target_cannot_be
    {
        return Err(Malformed::Arp);
    }
    Ok(ArpPacket {
        operation,
        sender_mac,
        sender: Address::v4(packet.sender),
        target_mac: Mac(packet.target_mac),
        target: Address::v4(packet.target),
    })
}

#[cfg(test)]
mod tests {
    use crate::classify::{Address, ArpPacket, Mac, Malformed, Payload, classify};
    use usnet_fuzz::frames::{ARP, HERE_MAC, HERE_V4, PEER_MAC, PEER_V4, arp, ethernet, patched};

    fn read(packet: &[u8]) -> Result<ArpPacket, Malformed> {
        classify(&ethernet(ARP, packet)).map(|it| match it.payload {
            Payload::Arp(packet) => packet,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn a_request_and_a_reply_say_who_means_whom() {
        for operation in [1, 2] {
            let expected = ArpPacket {
                operation,
                sender_mac: Mac(PEER_MAC),
                sender: Address::v4(PEER_V4),
                target_mac: Mac(HERE_MAC),
                target: Address::v4(HERE_V4),
            };
            assert_eq!(read(&arp(operation, PEER_V4, HERE_V4)), Ok(expected));
        }
    }

    #[test]
    fn only_requests_and_replies_pass() {
        for operation in [0, 3, 4, 8, 9, 0x0100, 0xffff] {
            assert_eq!(read(&arp(operation, PEER_V4, HERE_V4)), Err(Malformed::Arp));
        }
    }

    #[test]
    fn padding_is_normal_and_a_missing_byte_is_not() {
        let packet = arp(1, PEER_V4, HERE_V4);
        assert_eq!(read(&packet[..27]), Err(Malformed::Arp));
        let mut padded = packet.clone();
        padded.resize(46, 0xaa);
        assert_eq!(read(&padded), read(&packet));
    }

    #[test]
    fn only_ipv4_over_ethernet_is_understood() {
        let good = arp(1, PEER_V4, HERE_V4);
        for at in 0..6 {
            for bit in 0..8 {
                let bad = patched(good.clone(), at, &[good[at] ^ (1 << bit)]);
                assert_eq!(read(&bad), Err(Malformed::Arp), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_probe_has_no_sender_and_its_answer_no_target() {
        assert!(read(&arp(1, [0; 4], HERE_V4)).is_ok());
        assert!(read(&arp(2, PEER_V4, [0; 4])).is_ok());
        assert_eq!(read(&arp(2, [0; 4], HERE_V4)), Err(Malformed::Arp), "nobody answers");
        assert_eq!(read(&arp(1, PEER_V4, [0; 4])), Err(Malformed::Arp), "nobody is asked for");
    }

    #[test]
    fn groups_and_loopback_are_neither_claimed_nor_asked_for() {
        for address in [[224, 0, 0, 1], [239, 255, 255, 255], [255; 4], [127, 0, 0, 1]] {
            for operation in [1, 2] {
                assert_eq!(read(&arp(operation, address, HERE_V4)), Err(Malformed::Arp));
                assert_eq!(read(&arp(operation, PEER_V4, address)), Err(Malformed::Arp));
            }
        }
        let packet = patched(arp(2, PEER_V4, HERE_V4), 8, &[0xff; 6]);
        assert_eq!(read(&packet), Err(Malformed::Arp), "a group has no address");
    }
}
