//! The classifier: any bytes are a frame, and what it says of them must be true.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use usnet_switch::classify::{
    Address, Classified, Flow, Fragment, HEAD_LEN, IpKind, IpPacket, Malformed, Payload, Protocol,
    classify, classify_head,
};

/// Checks everything that can be said of one frame without knowing what is in it.
///
/// # Panics
///
/// If the classifier broke a promise.
pub fn check(frame: &[u8]) {
    let verdict = classify(frame);
    assert_ne!(verdict, Err(Malformed::HeadTooShort), "the whole frame was given");
    check_heads(frame, verdict);
    if let Ok(classified) = verdict {
        check_link(frame, &classified);
        match classified.payload {
            Payload::Ip(packet) => {
                check_packet(frame, &packet);
                check_padding(frame, &classified, usize::from(packet.end));
                check_ports_by_etherparse(frame, &packet);
            }
            Payload::Arp(arp) => assert!(matches!(arp.operation, 1 | 2), "{arp:?}"),
            Payload::Eapol => {}
            Payload::Other(kind) => {
                assert!(!matches!(kind, 0x0800 | 0x0806 | 0x86dd | 0x888e | 0x8100 | 0x88a8));
            }
        }
    }
}

/// A short head may prevent an answer but not change one, and the longer it is, the less it prevents.
fn check_heads(frame: &[u8], verdict: Result<Classified, Malformed>) {
    let half = frame.len() / 2;
    let mut lengths = [0, 13, 14, 22, 34, 41, 42, 54, 61, 62, 74, half, HEAD_LEN, frame.len()];
    lengths.sort_unstable();
    let mut answered = false;
    for len in lengths {
        let head = frame.get(..len).unwrap_or(frame);
        let by_head = classify_head(head, frame.len());
        if by_head == Err(Malformed::HeadTooShort) {
            assert!(!answered, "a longer head cannot say less (head of {len})");
        } else {
            assert_eq!(by_head, verdict, "head of {len}");
            answered = true;
        }
    }
    assert!(answered, "the whole frame is no short head");
}

fn check_link(frame: &[u8], classified: &Classified) {
    assert_eq!(frame[..6], classified.destination.0);
    assert_eq!(frame[6..12], classified.source.0);
    assert!(!classified.source.is_group());
    for id in [classified.vlan, classified.inner_vlan].into_iter().flatten() {
        assert!((1..4095).contains(&id), "VLAN {id}");
    }
    assert!(classified.vlan.is_some() || classified.inner_vlan.is_none());
}

/// What is said of the packet stands in the frame, and within the packet.
fn check_packet(frame: &[u8], packet: &IpPacket) {
    let IpPacket { flow, fragment, kind, network_offset, transport_offset, end } = *packet;
    let (network, transport) = (usize::from(network_offset), usize::from(transport_offset));
    let end = usize::from(end);
    assert!(matches!(network, 14 | 18 | 22));
    assert!(network + 20 <= transport && transport <= end && end <= frame.len());

    let (source, destination) = match frame[network] >> 4 {
        4 => (&frame[network + 12..network + 16], &frame[network + 16..network + 20]),
        _ => (&frame[network + 8..network + 24], &frame[network + 24..network + 40]),
    };
    let is_ipv4 = frame[network] >> 4 == 4;
    assert_eq!(flow.source, address(source));
    assert_eq!(flow.destination, address(destination));
    assert_eq!(flow.source.to_ip().is_ipv4(), is_ipv4, "the families stay apart");
    assert_eq!(flow.destination.to_ip().is_ipv4(), is_ipv4, "the families stay apart");

    let payload = &frame[transport..end];
    let pair = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
    if flow.ports_known && flow.protocol.has_ports() {
        assert_eq!((flow.source_port, flow.destination_port), (pair(0), pair(2)));
    } else if flow.ports_known {
        assert!(matches!(kind, IpKind::Icmp(_)), "{packet:?}");
        assert_eq!((flow.source_port, flow.destination_port), (pair(4), pair(4)));
    } else {
        assert_eq!((flow.source_port, flow.destination_port), (0, 0));
        let is_later = matches!(fragment, Fragment::Later { .. });
        assert!(is_later || !flow.protocol.has_ports(), "{packet:?}");
    }
    if let Fragment::Later { .. } = fragment {
        assert_eq!(kind, IpKind::Plain, "nothing is known of a later piece");
    }
}

fn address(bytes: &[u8]) -> Address {
    match *bytes {
        [a, b, c, d] => Address::v4([a, b, c, d]),
        _ => Address(bytes.try_into().expect("an IPv6 address")),
    }
}

/// What lies behind the packet says nothing.
fn check_padding(frame: &[u8], classified: &Classified, end: usize) {
    assert_eq!(classify(&frame[..end]).as_ref(), Ok(classified), "without padding");
    let mut padded = frame.to_vec();
    padded.resize(end, 0);
    padded.resize(end + 7, 0xff);
    assert_eq!(classify(&padded).as_ref(), Ok(classified), "with other padding");
}

/// Two readers that both see ports see the same flow.
fn check_ports_by_etherparse(frame: &[u8], packet: &IpPacket) {
    let Some(theirs) = flow_by_etherparse(frame) else { return };
    if packet.flow.ports_known && packet.flow.protocol.has_ports() {
        assert_eq!(packet.flow, theirs, "etherparse reads another flow");
    }
}

/// The flow of a TCP or UDP packet, as the crate `etherparse` reads it.
#[must_use]
pub fn flow_by_etherparse(frame: &[u8]) -> Option<Flow> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (source, destination) = match packet.net? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            (Address::v4(header.source()), Address::v4(header.destination()))
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (Address(header.source()), Address(header.destination()))
        }
        NetSlice::Arp(_) => return None,
    };
    let (protocol, source_port, destination_port) = match packet.transport? {
        TransportSlice::Tcp(tcp) => (Protocol::TCP, tcp.source_port(), tcp.destination_port()),
        TransportSlice::Udp(udp) => (Protocol::UDP, udp.source_port(), udp.destination_port()),
        _ => return None,
    };
    Some(Flow { source, destination, protocol, source_port, destination_port, ports_known: true })
}
