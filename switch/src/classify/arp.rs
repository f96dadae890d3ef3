//! ARP for IPv4 over Ethernet (RFC 826, RFC 5227).

use super::address::{is_ipv4_multicast, is_ipv4_sender};
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
    let target_cannot_be = is_ipv4_multicast(packet.target) || !is_ipv4_sender(packet.target);
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
