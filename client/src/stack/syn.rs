//! Finds the frames that begin a TCP connection, before smoltcp sees them.

use smoltcp::wire::{IpAddress, IpEndpoint};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of a frame that [`ends`] may look at: Ethernet, the longest IPv4 header, TCP.
pub(super) const HEAD: usize = 14 + 60 + 20;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const TCP: u8 = 6;

/// If the frame that begins like this is a first SYN: its destination and its source. Nothing is
/// verified: smoltcp does that.
pub(super) fn ends(head: &[u8]) -> Option<(IpEndpoint, IpEndpoint)> {
    let (_, packet) = head.split_at_checked(14)?;
    let (source, destination, segment): (IpAddress, IpAddress, &[u8]) = match head.get(12..14)? {
        [0x08, 0x00] if *packet.get(9)? == TCP => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let address = |at| {
                let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
                Some(Ipv4Addr::from(bytes).into())
            };
            (address(12)?, address(16)?, packet.get(header..)?)
        }
        [0x86, 0xdd] if *packet.get(6)? == TCP => {
            let address = |at| {
                let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(bytes).into())
            };
            (address(8)?, address(24)?, packet.get(40..)?)
        }
        _ => return None,
    };
    if segment.get(13)? & (SYN | ACK) != SYN {
        return None;
    }
    let port = |at| Some(u16::from_be_bytes(segment.get(at..at + 2)?.try_into().ok()?));
    Some((IpEndpoint::new(destination, port(2)?), IpEndpoint::new(source, port(0)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(flags: u8) -> Vec<u8> {
        let mut frame = vec![0; 58];
        frame[12..15].copy_from_slice(&[8, 0, 0x46]);
        frame[23] = TCP;
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        frame[38..42].copy_from_slice(&[0x30, 0x39, 0, 80]);
        frame[51] = flags;
        frame
    }

    #[test]
    fn a_first_syn_is_found_behind_options() {
        let (local, remote) = ends(&ipv4(SYN)).unwrap();
        assert_eq!(local, IpEndpoint::new(IpAddress::v4(10, 0, 0, 2), 80));
        assert_eq!(remote, IpEndpoint::new(IpAddress::v4(10, 0, 0, 1), 12_345));
    }

    #[test]
    fn other_frames_are_not() {
        assert_eq!(ends(&ipv4(SYN | ACK)), None);
        assert_eq!(ends(&ipv4(ACK)), None);
        for length in 0..51 {
            assert_eq!(ends(&ipv4(SYN)[..length]), None, "cut to {length} bytes");
        }
        let mut udp = ipv4(SYN);
        udp[23] = 17;
        assert_eq!(ends(&udp), None);
    }
}
