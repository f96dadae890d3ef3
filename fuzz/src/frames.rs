//! Frames made by hand, for tests: plain bytes, from a peer to here, checksums left at zero.

/// Link address that frames are sent to.
pub const HERE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
/// Link address that frames come from.
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
/// IPv4 address that packets are sent to.
pub const HERE_V4: [u8; 4] = [10, 0, 0, 5];
/// IPv4 address that packets come from.
pub const PEER_V4: [u8; 4] = [10, 0, 0, 9];
/// IPv6 address that packets are sent to.
pub const HERE_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
/// IPv6 address that packets come from.
pub const PEER_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// A frame with this payload.
#[must_use]
pub fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&HERE_MAC[..], &PEER_MAC, &ether_type.to_be_bytes(), payload].concat()
}

/// The frame with one more tag, outside of those that it has. `kind` is 0x8100 or 0x88a8.
#[must_use]
pub fn tag(kind: u16, control: u16, frame: &[u8]) -> Vec<u8> {
    let (link, rest) = frame.split_at(12);
    [link, &kind.to_be_bytes(), &control.to_be_bytes(), rest].concat()
}

/// A frame with an IPv4 packet without options.
#[must_use]
pub fn over_ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(IPV4, &ipv4(protocol, &[], 0, payload))
}

/// A frame with an IPv6 packet; `next` says what the payload begins with.
#[must_use]
pub fn over_ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(IPV6, &ipv6(next, payload))
}

/// An IPv4 packet. `options` have a length that is a multiple of four; `fragment` are the 16 bits of
/// flags and offset.
///
/// # Panics
///
/// If it gets longer than a packet can be.
#[must_use]
pub fn ipv4(protocol: u8, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).expect("at most 15 words");
    let len = u16::try_from(20 + options.len() + payload.len()).expect("at most 65,535 bytes");
    let mut packet = vec![0x40 | words, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    [&packet[..], &PEER_V4, &HERE_V4, options, payload].concat()
}

/// An IPv6 packet with a hop limit of 255.
///
/// # Panics
///
/// If it gets longer than a packet can be.
#[must_use]
pub fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("at most 65,535 bytes");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([next, 255]);
    [&packet[..], &PEER_V6, &HERE_V6, payload].concat()
}

/// An IPv6 fragment header; `offset` in bytes, a multiple of eight.
#[must_use]
pub fn ipv6_fragment(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let bits = (offset | u16::from(more)).to_be_bytes();
    [&[next, 0], &bits[..], &[0, 0, 0x12, 0x34]].concat()
}

/// An IPv6 options header of eight bytes, all padding; `next` says what follows.
#[must_use]
pub fn ipv6_options(next: u8) -> Vec<u8> {
    vec![next, 0, 1, 4, 0, 0, 0, 0]
}

/// A TCP SYN without options.
#[must_use]
pub fn tcp(source: u16, destination: u16) -> Vec<u8> {
    let mut header = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

/// A UDP datagram.
///
/// # Panics
///
/// If it gets longer than a datagram can be.
#[must_use]
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).expect("at most 65,535 bytes");
    let words = [source, destination, len, 0].map(u16::to_be_bytes);
    [words.as_flattened(), payload].concat()
}

/// An ICMP or ICMPv6 message.
#[must_use]
pub fn icmp(kind: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0], &rest[..], body].concat()
}

/// An ARP packet: the peer says that it has `sender`, and means `target`.
#[must_use]
pub fn arp(operation: u16, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4];
    [&head[..], &operation.to_be_bytes(), &PEER_MAC, &sender, &HERE_MAC, &target].concat()
}

/// The frame with the bytes at `at` replaced.
///
/// # Panics
///
/// If it has no such bytes.
#[must_use]
pub fn patched(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}
