//! Answers that the switch gives itself: who has this address? The interface has.
//!
//! Clients share the interface's link address, and the kernel would not answer on their behalf for
//! what never reaches the wire.

use crate::classify::{Address, ArpPacket, Mac};

/// Bytes of an ARP reply frame, padded to Ethernet's minimum.
pub(crate) const ARP_REPLY: usize = 60;
/// Bytes of a neighbour advertisement frame: Ethernet, IPv6, ICMPv6 with one option.
pub(crate) const ADVERTISEMENT: usize = 14 + 40 + 32;

/// The reply to an ARP request (RFC 826): `mac` has the target address.
pub(crate) fn arp_reply(request: &ArpPacket, mac: Mac) -> [u8; ARP_REPLY] {
    let mut frame = [0; ARP_REPLY];
    let mut rest = frame.as_mut_slice();
    let mut put = |bytes: &[u8]| {
        let (head, tail) = core::mem::take(&mut rest).split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        rest = tail;
    };
    put(&request.sender_mac.0);
    put(&mac.0);
    // ARP; Ethernet, IPv4, 6 and 4 bytes, reply.
    put(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2]);
    put(&mac.0);
    put(&v4(request.target));
    put(&request.sender_mac.0);
    put(&v4(request.sender));
    frame
}

fn v4(address: Address) -> [u8; 4] {
    let [.., a, b, c, d] = address.0;
    [a, b, c, d]
}

/// The answer to a neighbour solicitation (RFC 4861, 4.4): `mac` has `target`, solicited, override.
/// One who asks from no address, to see whether the target is free, is answered in public.
pub(crate) fn advertisement(
    to_mac: Mac,
    to: Address,
    target: Address,
    mac: Mac,
) -> [u8; ADVERTISEMENT] {
    const NOBODY: Address = Address([0; 16]);
    const ALL_NODES: Address = Address([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
    let (to_mac, to, flags) =
        if to == NOBODY { (ALL_NODES_MAC, ALL_NODES, 0x20) } else { (to_mac, to, 0x60) };
    let mut frame = [0; ADVERTISEMENT];
    let mut rest = frame.as_mut_slice();
    let mut put = |bytes: &[u8]| {
        let (head, tail) = core::mem::take(&mut rest).split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        rest = tail;
    };
    put(&to_mac.0);
    put(&mac.0);
    put(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
    put(&target.0);
    put(&to.0);
    put(&[136, 0, 0, 0, flags, 0, 0, 0]);
    put(&target.0);
    // Target link-layer address.
    put(&[2, 1]);
    put(&mac.0);
    let sum = icmpv6_checksum(&frame);
    if let Some([high, low]) = frame.get_mut(56..58) {
        [*high, *low] = sum.to_be_bytes();
    }
    frame
}

/// The checksum of an ICMPv6 message behind an Ethernet and a plain IPv6 header (RFC 4443, 2.3).
pub(crate) fn icmpv6_checksum(frame: &[u8]) -> u16 {
    let body = frame.get(22..).unwrap_or_default();
    let length = u32::try_from(frame.len().saturating_sub(54)).unwrap_or(0);
    let mut sum = length + 58;
    for pair in body.chunks(2) {
        sum += match *pair {
            [high, low] => u32::from(u16::from_be_bytes([high, low])),
            [high] => u32::from(high) << 8,
            _ => 0,
        };
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{Icmp, IpKind, Payload, classify};
    use smoltcp::wire::{ArpOperation, ArpPacket as Wire, ArpRepr, Icmpv6Packet, Icmpv6Repr};
    use smoltcp::wire::{EthernetAddress, NdiscRepr};

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const ASKER: Mac = Mac([2, 0, 0, 0, 0, 2]);

    #[test]
    fn an_arp_reply_is_read_by_smoltcp_and_by_our_classifier() {
        let request = ArpPacket {
            operation: 1,
            sender_mac: ASKER,
            sender: Address::v4([10, 0, 0, 2]),
            target_mac: Mac::default(),
            target: Address::v4([10, 0, 0, 1]),
        };
        let frame = arp_reply(&request, MAC);
        let repr = ArpRepr::parse(&Wire::new_checked(&frame[14..]).unwrap()).unwrap();
        assert_eq!(
            repr,
            ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply,
                source_hardware_addr: EthernetAddress(MAC.0),
                source_protocol_addr: [10, 0, 0, 1].into(),
                target_hardware_addr: EthernetAddress(ASKER.0),
                target_protocol_addr: [10, 0, 0, 2].into(),
            }
        );
        let seen = classify(&frame).unwrap();
        assert_eq!((seen.source, seen.destination), (MAC, ASKER));
        assert!(matches!(seen.payload, Payload::Arp(arp) if arp.operation == 2));
    }

    #[test]
    fn an_advertisement_has_a_valid_checksum_and_names_its_target() {
        let target = Address(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).octets());
        let to = Address(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).octets());
        let frame = advertisement(ASKER, to, target, MAC);
        let seen = classify(&frame).unwrap();
        let Payload::Ip(packet) = seen.payload else { panic!("not IP") };
        assert_eq!(packet.kind, IpKind::Icmp(Icmp::NeighborAdvertisement { target }));
        let repr = Icmpv6Repr::parse(
            &target.0.into(),
            &to.0.into(),
            &Icmpv6Packet::new_checked(&frame[54..]).unwrap(),
            &smoltcp::phy::ChecksumCapabilities::default(),
        );
        assert!(
            matches!(repr, Ok(Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { .. }))),
            "{repr:?}"
        );
    }
}
