//! Frames, built header by header. Lengths are true unless a test breaks them; checksums are left
//! out, since the switch looks at none.

use std::net::IpAddr;
use usnet_switch::classify::Mac;

/// Interface 0's link address.
pub(crate) const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// A neighbour on the wire.
pub(crate) const PEER: Mac = Mac([2, 0, 0, 0, 0, 0x99]);
pub(crate) const BROADCAST: Mac = Mac::BROADCAST;

pub(crate) const ICMP: u8 = 1;
pub(crate) const IGMP: u8 = 2;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const DCCP: u8 = 33;
pub(crate) const GRE: u8 = 47;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;
pub(crate) const SCTP: u8 = 132;
pub(crate) const UDP_LITE: u8 = 136;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// An Ethernet frame.
pub(crate) fn ethernet(to: Mac, from: Mac, kind: u16, body: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &kind.to_be_bytes(), body].concat()
}

/// The same frame with a VLAN tag.
pub(crate) fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &[0x81, 0], &vlan.to_be_bytes(), rest].concat()
}

/// A piece of a datagram.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) id: u16,
    /// In bytes, a multiple of eight.
    pub(crate) offset: u16,
    pub(crate) more: bool,
}

/// Who sends to whom; the methods add what is said.
#[derive(Clone, Copy)]
pub(crate) struct From {
    pub(crate) link: Mac,
    pub(crate) to_link: Mac,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) piece: Option<Piece>,
}

/// A packet on its way in: from a neighbour to the interface.
pub(crate) fn inward(source: &str, destination: &str) -> From {
    From {
        link: PEER,
        to_link: OURS,
        source: ip(source),
        destination: ip(destination),
        piece: None,
    }
}

/// A packet on its way out: from the interface to a neighbour.
pub(crate) fn outward(source: &str, destination: &str) -> From {
    From {
        link: OURS,
        to_link: PEER,
        source: ip(source),
        destination: ip(destination),
        piece: None,
    }
}

impl From {
    pub(crate) fn link(self, link: Mac) -> Self {
        Self { link, ..self }
    }

    pub(crate) fn to_link(self, to_link: Mac) -> Self {
        Self { to_link, ..self }
    }

    /// As the first piece of a datagram.
    pub(crate) fn first(self, id: u16) -> Self {
        Self { piece: Some(Piece { id, offset: 0, more: true }), ..self }
    }

    /// As the last piece of a datagram.
    pub(crate) fn later(self, id: u16) -> Self {
        Self { piece: Some(Piece { id, offset: 64, more: false }), ..self }
    }

    /// The IP packet alone.
    pub(crate) fn packet(&self, protocol: u8, body: &[u8]) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let length = (20 + body.len() as u16).to_be_bytes();
                let Piece { id, offset, more } =
                    self.piece.unwrap_or(Piece { id: 0, offset: 0, more: false });
                let field = ((offset / 8) | (u16::from(more) << 13)).to_be_bytes();
                let id = id.to_be_bytes();
                [
                    &[0x45, 0][..],
                    &length,
                    &id,
                    &field,
                    &[64, protocol, 0, 0],
                    &source.octets(),
                    &destination.octets(),
                    body,
                ]
                .concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let fragment = self.piece.map(|Piece { id, offset, more }| {
                    let field = (offset | u16::from(more)).to_be_bytes();
                    let [high, low] = id.to_be_bytes();
                    [protocol, 0, field[0], field[1], 0, 0, high, low]
                });
                let extension = fragment.as_ref().map_or(&[][..], |f| &f[..]);
                let next = if extension.is_empty() { protocol } else { 44 };
                let length = ((extension.len() + body.len()) as u16).to_be_bytes();
                [
                    &[0x60, 0, 0, 0][..],
                    &length,
                    &[next, 255],
                    &source.octets(),
                    &destination.octets(),
                    extension,
                    body,
                ]
                .concat()
            }
            _ => panic!("two families in one packet"),
        }
    }

    /// A frame with any IP protocol.
    pub(crate) fn ip(&self, protocol: u8, body: &[u8]) -> Vec<u8> {
        let kind = if self.source.is_ipv4() { 0x0800 } else { 0x86dd };
        ethernet(self.to_link, self.link, kind, &self.packet(protocol, body))
    }

    pub(crate) fn udp(&self, source: u16, destination: u16) -> Vec<u8> {
        self.udp_with(source, destination, b"8 bytes.")
    }

    pub(crate) fn udp_with(&self, source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
        self.ip(UDP, &self.udp_body(source, destination, data))
    }

    fn udp_body(&self, source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
        let more = self.piece.is_some_and(|p| p.more);
        let length = (8 + data.len() + if more { 64 } else { 0 }) as u16;
        [
            &source.to_be_bytes()[..],
            &destination.to_be_bytes(),
            &length.to_be_bytes(),
            &[0, 0],
            data,
        ]
        .concat()
    }

    pub(crate) fn tcp(&self, source: u16, destination: u16) -> Vec<u8> {
        self.ip(TCP, &transport(TCP, source, destination))
    }

    /// A frame of any protocol with ports.
    pub(crate) fn ports(&self, protocol: u8, source: u16, destination: u16) -> Vec<u8> {
        self.ip(protocol, &transport(protocol, source, destination))
    }

    /// Bytes that no header begins.
    pub(crate) fn rest(&self, protocol: u8) -> Vec<u8> {
        self.ip(protocol, &[0x55; 16])
    }

    pub(crate) fn echo_request(&self, id: u16) -> Vec<u8> {
        if self.source.is_ipv4() { self.icmp(8, 0, id) } else { self.icmp(128, 0, id) }
    }

    pub(crate) fn echo_reply(&self, id: u16) -> Vec<u8> {
        if self.source.is_ipv4() { self.icmp(0, 0, id) } else { self.icmp(129, 0, id) }
    }

    pub(crate) fn icmp(&self, kind: u8, code: u8, id: u16) -> Vec<u8> {
        let [high, low] = id.to_be_bytes();
        self.ip(self.icmp_protocol(), &[kind, code, 0, 0, high, low, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8])
    }

    fn icmp_protocol(&self) -> u8 {
        if self.source.is_ipv4() { ICMP } else { ICMPV6 }
    }

    /// "Unreachable", about the packet `about`.
    pub(crate) fn unreachable(&self, about: &[u8]) -> Vec<u8> {
        let (kind, code) = if self.source.is_ipv4() { (3, 3) } else { (1, 4) };
        let body = [&[kind, code, 0, 0, 0, 0, 0, 0][..], about].concat();
        self.ip(self.icmp_protocol(), &body)
    }

    /// The UDP packet alone, to be quoted.
    pub(crate) fn quoted_udp(&self, source: u16, destination: u16) -> Vec<u8> {
        self.packet(UDP, &self.udp_body(source, destination, b"8 bytes."))
    }

    /// The echo request alone, to be quoted.
    pub(crate) fn quoted_echo(&self, id: u16) -> Vec<u8> {
        let [high, low] = id.to_be_bytes();
        let kind = if self.source.is_ipv4() { 8 } else { 128 };
        self.packet(self.icmp_protocol(), &[kind, 0, 0, 0, high, low, 0, 1])
    }

    /// A neighbour solicitation (135) or advertisement (136) with a link address option.
    pub(crate) fn neighbor(&self, kind: u8, target: &str, link: Mac) -> Vec<u8> {
        let IpAddr::V6(target) = ip(target) else { panic!("an IPv6 address") };
        let option = if kind == 135 { 1 } else { 2 };
        let body =
            [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &[option, 1], &link.0].concat();
        self.ip(ICMPV6, &body)
    }
}

/// A transport header with ports, and eight bytes.
fn transport(protocol: u8, source: u16, destination: u16) -> Vec<u8> {
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    let rest: &[u8] = match protocol {
        // Sequence, acknowledgement, five words, SYN, window, checksum, urgent pointer.
        TCP => &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 16, 0, 0, 0, 0, 0],
        UDP => &[0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        // Everything is covered by the checksum.
        UDP_LITE => &[0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        SCTP => &[0; 8],
        // Four words.
        DCCP => &[4, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
        _ => panic!("no ports"),
    };
    [&ports, rest].concat()
}

/// An ARP packet as it is in a frame to `to`.
pub(crate) fn arp(
    to: Mac,
    from: Mac,
    operation: u16,
    sender_mac: Mac,
    sender: &str,
    target: &str,
) -> Vec<u8> {
    let v4 = |text: &str| match ip(text) {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => panic!("an IPv4 address"),
    };
    let target_mac = if operation == 1 { Mac::default() } else { to };
    let body = [
        &[0, 1, 8, 0, 6, 4][..],
        &operation.to_be_bytes(),
        &sender_mac.0,
        &v4(sender),
        &target_mac.0,
        &v4(target),
    ]
    .concat();
    ethernet(to, from, 0x0806, &body)
}

/// Who has `target`? Asked by everyone's neighbour.
pub(crate) fn who_has(from: Mac, sender: &str, target: &str) -> Vec<u8> {
    arp(BROADCAST, from, 1, from, sender, target)
}
