//! Frames to send: UDP over IPv4, as the yardsticks and the paths need them.

use etherparse::PacketBuilder;

/// Shortest frame of [`udp`].
pub const SHORTEST: usize = 42;

/// A UDP frame of exactly `size` bytes (at least [`SHORTEST`]) with right checksums; the payload
/// counts up.
#[must_use]
pub fn udp(
    macs: ([u8; 6], [u8; 6]),
    addresses: ([u8; 4], [u8; 4]),
    ports: (u16, u16),
    size: usize,
) -> Vec<u8> {
    let payload: Vec<u8> = (0..=u8::MAX).cycle().take(size.saturating_sub(SHORTEST)).collect();
    let mut frame = Vec::with_capacity(size);
    // Writing to a vector fails only for payloads that no frame has.
    let _ = PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv4(addresses.0, addresses.1, 64)
        .udp(ports.0, ports.1)
        .write(&mut frame, &payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use usnet_switch::classify::{Payload, classify};

    #[test]
    fn a_frame_has_its_size_and_is_what_it_says() {
        for size in [SHORTEST, 64, 1500] {
            let frame = udp(([2; 6], [4; 6]), ([10, 0, 0, 1], [10, 0, 0, 2]), (7, 9), size);
            assert_eq!(frame.len(), size);
            let Payload::Ip(packet) = classify(&frame).unwrap().payload else { panic!("IP") };
            assert_eq!((packet.flow.source_port, packet.flow.destination_port), (7, 9));
        }
    }
}
