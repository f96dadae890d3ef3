//! The classifier, the crate etherparse and smoltcp's own parser read every real frame alike, but for
//! a list of differences that each have a reason.
//!
//! Where two readers both name ports, the addresses and the ports are equal, without exception. Where
//! only one names them, the difference has to be on the list; a difference that no longer occurs has
//! to leave it.

use smoltcp::wire;
use std::collections::BTreeMap;
use usnet_fuzz::classify::flow_by_etherparse;
use usnet_fuzz::corpus::{self, Frame};
use usnet_switch::classify::{
    Address, Flow, Fragment, IpPacket, Malformed, Payload, Protocol, classify,
};

fn flow_by_smoltcp(frame: &[u8]) -> Option<Flow> {
    let frame = wire::EthernetFrame::new_checked(frame).ok()?;
    let (source, destination, protocol, payload) = match frame.ethertype() {
        wire::EthernetProtocol::Ipv4 => {
            let packet = wire::Ipv4Packet::new_checked(frame.payload()).ok()?;
            if packet.version() != 4 || packet.more_frags() || packet.frag_offset() != 0 {
                return None;
            }
            let (source, destination) = (packet.src_addr(), packet.dst_addr());
            (source.into(), destination.into(), packet.next_header(), packet.payload())
        }
        wire::EthernetProtocol::Ipv6 => {
            let packet = wire::Ipv6Packet::new_checked(frame.payload()).ok()?;
            if packet.version() != 6 {
                return None;
            }
            let addresses = (packet.src_addr().octets(), packet.dst_addr().octets());
            let (source, destination) = (Address(addresses.0), Address(addresses.1));
            (source, destination, packet.next_header(), packet.payload())
        }
        _ => return None,
    };
    let (protocol, source_port, destination_port) = match protocol {
        wire::IpProtocol::Tcp => {
            let segment = wire::TcpPacket::new_checked(payload).ok()?;
            (Protocol::TCP, segment.src_port(), segment.dst_port())
        }
        wire::IpProtocol::Udp => {
            let datagram = wire::UdpPacket::new_checked(payload).ok()?;
            (Protocol::UDP, datagram.src_port(), datagram.dst_port())
        }
        _ => return None,
    };
    Some(Flow { source, destination, protocol, source_port, destination_port, ports_known: true })
}

/// TCP and UDP only, which is what all three can name the ports of.
fn flow_of(packet: &IpPacket) -> Option<Flow> {
    let is_common = matches!(packet.flow.protocol, Protocol::TCP | Protocol::UDP);
    (is_common && packet.flow.ports_known).then_some(packet.flow)
}

/// Says in words how a frame is that only we, or only they, can name the ports of.
fn reason(frame: &[u8], ours: Option<Flow>) -> String {
    let tagged = matches!(frame[12..14], [0x81, 0] | [0x88, 0xa8]);
    match (classify(frame), ours) {
        (Err(Malformed::Address), _) => "only they: addresses that nobody can have".to_owned(),
        (Err(malformed), _) => format!("only they: {malformed:?}"),
        (Ok(it), Some(_)) => {
            let Payload::Ip(packet) = it.payload else { unreachable!("ports without a packet") };
            let network_len = packet.transport_offset - u16::from(packet.network_offset);
            let plain_len = if packet.flow.source.to_ip().is_ipv4() { 20 } else { 40 };
            match packet.fragment {
                _ if tagged => "only we: tagged".to_owned(),
                Fragment::First { .. } => "only we: the first piece of a datagram".to_owned(),
                _ if network_len > plain_len => "only we: options or extensions".to_owned(),
                _ => "only we: plain".to_owned(),
            }
        }
        (Ok(it), None) => format!("only they: {:?}", it.payload),
    }
}

/// Compares with another reader, and counts the differences by reason.
fn differences(theirs: fn(&[u8]) -> Option<Flow>) -> (usize, BTreeMap<String, usize>) {
    let mut agreed = 0;
    let mut differences = BTreeMap::new();
    for Frame { bytes, capture, .. } in corpus::ethernet() {
        let ours = classify(bytes).ok().and_then(|it| match it.payload {
            Payload::Ip(packet) => flow_of(&packet),
            _ => None,
        });
        match (ours, theirs(bytes)) {
            (None, None) => {}
            (Some(ours), Some(theirs)) => {
                assert_eq!(ours, theirs, "in {capture}");
                agreed += 1;
            }
            (ours, _) => *differences.entry(reason(bytes, ours)).or_default() += 1,
        }
    }
    (agreed, differences)
}

fn expect(differences: &BTreeMap<String, usize>, allowed: &[(&str, usize)]) {
    let differences: Vec<_> = differences.iter().map(|(it, count)| (it.as_str(), *count)).collect();
    assert_eq!(differences, allowed);
}

/// Sources on the loopback, and groups, of captures of a loopback or with bytes turned over. Neither of
/// the two asks whether an address can be.
const NOBODY: (&str, usize) = ("only they: addresses that nobody can have", 77);
/// The others look for ports only in whole datagrams.
const FIRST_PIECE: (&str, usize) = ("only we: the first piece of a datagram", 51);

#[test]
fn etherparse_reads_the_same_flows() {
    let (agreed, differences) = differences(flow_by_etherparse);
    assert_eq!(agreed, 2202);
    // It passes routing headers with segments left, and looks into MACsec (0x88e5) that is not
    // encrypted.
    let routed = ("only they: ExtensionHeaders", 3);
    let secured = ("only they: Other(35045)", 2);
    expect(&differences, &[routed, secured, NOBODY, FIRST_PIECE]);
}

#[test]
fn smoltcp_reads_the_same_flows() {
    let (agreed, differences) = differences(flow_by_smoltcp);
    assert_eq!(agreed, 2054);
    // Its Ethernet parser does not know tags.
    let tagged = ("only we: tagged", 148);
    expect(&differences, &[NOBODY, tagged, FIRST_PIECE]);
}
