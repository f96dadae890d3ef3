//! Which piece of a datagram a packet is, by one rule for both families (RFC 791, RFC 8200 4.5).

use super::{Fragment, Malformed, Protocol};

/// Where a piece lies in its datagram; lengths and offsets in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// The datagram's identification.
    pub(super) id: u32,
    /// Where the piece begins, counted from the end of the part that every piece repeats.
    pub(super) offset: usize,
    /// Whether others follow.
    pub(super) more: bool,
    /// Bytes of this piece; not known of a quoted one.
    pub(super) len: Option<usize>,
    /// Bytes that every piece repeats and that the length field of the whole datagram counts.
    pub(super) repeated: usize,
    /// What the first piece begins with.
    pub(super) protocol: Protocol,
}

/// The longest datagram, by its 16-bit length field.
const MAX_DATAGRAM: usize = 65_535;

impl Piece {
    /// Says which piece this is, if it can be one.
    #[cold]
    pub(super) fn check(self) -> Result<Fragment, Malformed> {
        let Self { id, offset, more, len, repeated, protocol } = self;
        if offset == 0 && !more {
            return Ok(Fragment::Whole);
        }
        let has_length_of_piece = len.is_none_or(|len| len != 0 && (!more || len & 7 == 0));
        let end = offset.saturating_add(len.unwrap_or(1)).saturating_add(repeated);
        let overlaps_header = offset != 0 && offset < shortest_header(protocol);
        if !has_length_of_piece || end > MAX_DATAGRAM || overlaps_header {
            return Err(Malformed::Fragment);
        }
        Ok(if offset == 0 { Fragment::First { id } } else { Fragment::Later { id } })
    }
}

/// A first piece holds at least this much, so that a later one which begins before it overlaps the
/// header (RFC 1858, RFC 3128).
fn shortest_header(protocol: Protocol) -> usize {
    match protocol {
        Protocol::TCP => 20,
        Protocol::SCTP | Protocol::DCCP => 12,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use crate::classify::{Fragment, IpKind, IpPacket, Malformed, packet_of};
    use usnet_fuzz::frames::{
        IPV4, ethernet, icmp, ipv4, ipv6_fragment, ipv6_options, over_ipv6, tcp, udp,
    };

    const ID: u32 = 0x1234;

    /// A piece in an IPv4 and in an IPv6 packet, which must be read alike.
    fn piece(protocol: u8, offset: u16, more: bool, data: &[u8]) -> Result<IpPacket, Malformed> {
        let bits = (offset / 8) | (u16::from(more) << 13);
        let v4 = packet_of(&ethernet(IPV4, &ipv4(protocol, &[], bits, data)));
        let v6 = [&ipv6_fragment(protocol, offset, more), data].concat();
        let v6 = packet_of(&over_ipv6(44, &v6));
        assert_eq!(v4.map(|it| it.fragment), v6.map(|it| it.fragment));
        v4
    }

    #[test]
    fn the_first_piece_names_the_ports() {
        let first = piece(17, 0, true, &udp(1, 2, &[0; 24])).unwrap();
        assert_eq!(first.fragment, Fragment::First { id: ID });
        assert!(first.flow.ports_known);
        assert_eq!((first.flow.source_port, first.flow.destination_port), (1, 2));
    }

    #[test]
    fn a_later_piece_has_no_ports_whatever_it_holds() {
        for more in [false, true] {
            let later = piece(17, 32, more, &udp(68, 67, &[0; 24])).unwrap();
            assert_eq!(later.fragment, Fragment::Later { id: ID });
            assert!(!later.flow.ports_known);
            assert_eq!((later.flow.source_port, later.flow.destination_port), (0, 0));
            assert_eq!(later.kind, IpKind::Plain);
        }
    }

    #[test]
    fn the_length_field_of_a_first_piece_speaks_of_the_whole_datagram() {
        let mut datagram = udp(1, 2, &[0; 24]);
        datagram[4..6].copy_from_slice(&1000_u16.to_be_bytes());
        assert!(piece(17, 0, true, &datagram).is_ok());
        assert_eq!(piece(17, 0, false, &datagram), Err(Malformed::Transport), "not a piece");
        datagram[4..6].copy_from_slice(&7_u16.to_be_bytes());
        assert_eq!(piece(17, 0, true, &datagram), Err(Malformed::Transport));
    }

    #[test]
    fn a_first_piece_holds_its_whole_transport_header() {
        assert_eq!(piece(6, 0, true, &tcp(1, 2)[..16]), Err(Malformed::Fragment));
        let mut segment = [tcp(1, 2), vec![0; 12]].concat();
        assert!(piece(6, 0, true, &segment).is_ok());
        segment[12] = 0x80;
        assert!(piece(6, 0, true, &segment).is_ok());
        segment[12] = 0x90;
        assert_eq!(piece(6, 0, true, &segment), Err(Malformed::Fragment), "options past the piece");
        assert_eq!(piece(132, 0, true, &[0; 8]), Err(Malformed::Fragment));
    }

    #[test]
    fn a_later_piece_does_not_overlap_the_header() {
        for (protocol, header) in [(6, 20), (17, 8), (132, 12), (33, 12), (253, 8)] {
            for offset in (8..=32).step_by(8) {
                let verdict = piece(protocol, offset, false, &[0; 8]).map(|_| ());
                let expected = if offset < header { Err(Malformed::Fragment) } else { Ok(()) };
                assert_eq!(verdict, expected, "protocol {protocol}, offset {offset}");
            }
        }
    }

    #[test]
    fn every_piece_but_the_last_is_a_multiple_of_eight_and_none_is_empty() {
        for len in 0..=24 {
            let last = piece(253, 32, false, &vec![0; len]);
            assert_eq!(last.is_ok(), len != 0, "last, {len} bytes");
            let middle = piece(253, 32, true, &vec![0; len]);
            assert_eq!(middle.is_ok(), len != 0 && len % 8 == 0, "middle, {len} bytes");
        }
    }

    #[test]
    fn no_piece_lies_past_the_longest_datagram() {
        // An IPv4 header of 20 bytes counts, an IPv6 header does not.
        let v4 = |offset: u16, len: usize| {
            packet_of(&ethernet(IPV4, &ipv4(253, &[], offset / 8, &vec![0; len])))
        };
        assert!(v4(65_512, 3).is_ok());
        assert_eq!(v4(65_512, 4), Err(Malformed::Fragment));
        let v6 = |before: usize, offset: u16, len: usize| {
            let options = [ipv6_options(60).repeat(before), ipv6_options(44)].concat();
            let piece = [options, ipv6_fragment(253, offset, false), vec![0; len]].concat();
            packet_of(&over_ipv6(60, &piece))
        };
        assert!(v6(0, 65_520, 7).is_ok());
        assert_eq!(v6(0, 65_520, 8), Err(Malformed::Fragment));
        assert_eq!(v6(1, 65_520, 7), Err(Malformed::Fragment));
    }

    #[test]
    fn an_atomic_fragment_is_whole() {
        let packet = [ipv6_fragment(17, 0, false), udp(1, 2, b"x")].concat();
        let packet = packet_of(&over_ipv6(44, &packet)).unwrap();
        assert_eq!(packet.fragment, Fragment::Whole);
        assert!(packet.flow.ports_known);
    }

    #[test]
    fn a_later_piece_names_what_the_fragment_header_names() {
        let later = [ipv6_fragment(60, 64, false), vec![0xff; 9]].concat();
        let packet = packet_of(&over_ipv6(44, &later)).unwrap();
        assert_eq!(packet.flow.protocol.0, 60, "and is not walked into");
    }

    #[test]
    fn neighbour_discovery_is_never_in_pieces() {
        let solicitation = icmp(135, 0, [0; 4], &[0xfd; 16]);
        let whole = packet_of(&over_ipv6(58, &solicitation));
        assert!(whole.is_ok());
        for more in [false, true] {
            let piece = [ipv6_fragment(58, 0, more), solicitation.clone()].concat();
            assert_eq!(packet_of(&over_ipv6(44, &piece)), Err(Malformed::Transport));
        }
    }
}
