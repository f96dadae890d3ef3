//! Frames of every kind that may come in at a bump, for random programs.

use crate::support::frames::*;
use proptest::prelude::*;
use proptest::sample::select;
use usnet_switch::classify::Mac;

/// Stations of the network at the wire port, and of the one behind.
pub(crate) const HERE: Mac = PEER;
pub(crate) const THERE: Mac = Mac([2, 0, 0, 0, 0, 0x77]);

/// Any frame: of a kind, to anybody, with a byte overwritten.
pub(crate) fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let links = vec![OURS, HERE, THERE, BROADCAST, Mac([0x33, 0x33, 0, 0, 0, 1])];
    let ours = vec!["10.0.0.1", "10.0.0.50", "10.0.0.8", "224.0.0.251"];
    let frame = (select(links), select(ours), 0..12u8, 0..10u16, any::<(bool, bool)>()).prop_map(
        |(to, address, kind, port, (is_tagged, is_question))| {
            let packet = inward("10.0.0.9", address).to_link(to);
            let frame = match kind {
                0..=4 => packet.udp(9, port),
                5 => packet.tcp(9, port),
                6 => packet.first(port).udp(9, 7),
                7 => packet.later(port).rest(UDP),
                8 => packet.echo_request(port),
                9 if address != "224.0.0.251" => {
                    arp(to, HERE, if is_question { 1 } else { 2 }, HERE, "10.0.0.9", address)
                }
                _ => ethernet(to, HERE, 0x88cc, &[0; 50]),
            };
            if is_tagged { tagged(&frame, port % 2) } else { frame }
        },
    );
    let damage = prop::option::weighted(0.3, (12..60usize, any::<u8>()));
    (frame, damage).prop_map(|(mut frame, damage)| {
        if let Some((at, byte)) = damage
            && let Some(place) = frame.get_mut(at)
        {
            *place = byte;
        }
        frame
    })
}
