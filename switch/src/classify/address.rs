//! Which addresses a packet on the wire may have (RFC 1122 3.2.1.3, RFC 4291, and what Linux calls
//! martian without knowing the host's own addresses).

use super::Malformed;

/// Checks both addresses of an IPv4 packet. `is_igmp`: those may come from 0.0.0.0 (RFC 4541).
#[inline(always)]
pub(super) fn check_ipv4(
    source: [u8; 4],
    destination: [u8; 4],
    is_igmp: bool,
) -> Result<(), Malformed> {
    let nobody = source == [0; 4] && !may_come_from_nobody(destination, is_igmp);
    if nobody || !is_ipv4_sender(source) || is_nowhere(destination) {
        return Err(Malformed::Address);
    }
    Ok(())
}

/// Whether this is neither a multicast, a broadcast nor a loopback address. 0.0.0.0 passes.
#[inline(always)]
pub(super) fn is_ipv4_sender(address: [u8; 4]) -> bool {
    let [first, ..] = address;
    !is_ipv4_multicast(address) && address != [255; 4] && first != 127
}

/// 224.0.0.0/4 (RFC 1112).
#[inline(always)]
pub(super) fn is_ipv4_multicast([first, ..]: [u8; 4]) -> bool {
    first & 0xf0 == 0xe0
}

/// Whether no frame may go there: unspecified or loopback.
#[inline]
fn is_nowhere(destination: [u8; 4]) -> bool {
    let [first, ..] = destination;
    destination == [0; 4] || first == 127
}

/// A host without an address speaks to everybody (DHCP), to its link, or IGMP.
#[cold]
fn may_come_from_nobody(destination: [u8; 4], is_igmp: bool) -> bool {
    let link_local_group = matches!(destination, [224, 0, 0, _]);
    destination == [255; 4] || link_local_group || (is_igmp && is_ipv4_multicast(destination))
}

/// Checks both addresses of an IPv6 packet. `is_icmp`: those may come from `::` to a group
/// (duplicate address detection, router solicitation, listener reports).
#[inline(always)]
pub(super) fn check_ipv6(
    source: &[u8; 16],
    destination: &[u8; 16],
    is_icmp: bool,
) -> Result<(), Malformed> {
    let to_group = is_ipv6_multicast(destination);
    let source_is_sane = is_ipv6_unicast(source) || (*source == [0; 16] && to_group && is_icmp);
    let destination_is_sane = if to_group {
        // Scopes 0 (reserved) and 1 (this interface) never leave a host.
        let [_, scope, ..] = destination;
        scope & 0x0f > 1
    } else {
        is_ipv6_unicast(destination)
    };
    if source_is_sane && destination_is_sane { Ok(()) } else { Err(Malformed::Address) }
}

/// `ff00::/8`.
#[inline(always)]
pub(super) fn is_ipv6_multicast([first, ..]: &[u8; 16]) -> bool {
    *first == 0xff
}

/// Whether one host may have this address on a link: not a group, `::`, `::1`, nor an IPv4 address in
/// disguise (`::ffff:0:0/96`). The last is what lets [`Address`](super::Address) hold both families:
/// on the wire no IPv6 packet has such an address.
#[inline(always)]
pub(super) fn is_ipv6_unicast(address: &[u8; 16]) -> bool {
    let number = u128::from_be_bytes(*address);
    let is_mapped = number >> 32 == 0xffff;
    !is_ipv6_multicast(address) && number > 1 && !is_mapped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::packet_of;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use usnet_fuzz::frames::{over_ipv4, over_ipv6, patched, tcp, udp};

    fn ipv4(source: &str, destination: &str, is_igmp: bool) -> Result<(), Malformed> {
        let octets = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
        check_ipv4(octets(source), octets(destination), is_igmp)
    }

    fn ipv6(source: &str, destination: &str, is_icmp: bool) -> Result<(), Malformed> {
        let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        check_ipv6(&octets(source), &octets(destination), is_icmp)
    }

    #[test]
    fn no_ipv4_packet_comes_from_a_group_or_a_loopback() {
        for source in ["224.0.0.1", "239.255.255.255", "255.255.255.255", "127.0.0.1", "127.9.9.9"]
        {
            assert_eq!(ipv4(source, "10.0.0.5", false), Err(Malformed::Address), "{source}");
        }
        for source in ["1.1.1.1", "126.255.255.255", "128.0.0.0", "223.255.255.255", "240.0.0.1"] {
            assert_eq!(ipv4(source, "10.0.0.5", false), Ok(()), "{source}");
        }
    }

    #[test]
    fn no_ipv4_packet_goes_to_a_loopback_or_to_nobody() {
        for destination in ["0.0.0.0", "127.0.0.1", "127.255.255.255"] {
            let verdict = ipv4("10.0.0.9", destination, true);
            assert_eq!(verdict, Err(Malformed::Address), "{destination}");
        }
        for destination in ["0.0.0.1", "224.0.0.251", "255.255.255.255", "10.255.255.255"] {
            assert_eq!(ipv4("10.0.0.9", destination, false), Ok(()), "{destination}");
        }
    }

    #[test]
    fn a_host_without_an_ipv4_address_speaks_to_all_or_to_groups() {
        assert_eq!(ipv4("0.0.0.0", "255.255.255.255", false), Ok(()));
        assert_eq!(ipv4("0.0.0.0", "224.0.0.22", false), Ok(()));
        assert_eq!(ipv4("0.0.0.0", "239.1.2.3", true), Ok(()));
        assert_eq!(ipv4("0.0.0.0", "239.1.2.3", false), Err(Malformed::Address));
        assert_eq!(ipv4("0.0.0.0", "10.0.0.5", true), Err(Malformed::Address));
        assert_eq!(ipv4("0.0.0.0", "0.0.0.0", true), Err(Malformed::Address));
    }

    #[test]
    fn no_ipv6_packet_has_an_address_that_is_no_hosts() {
        for address in ["::1", "::ffff:10.0.0.9", "::ffff:0.0.0.0", "::"] {
            assert_eq!(ipv6(address, "fd00::5", true), Err(Malformed::Address), "{address}");
            assert_eq!(ipv6("fd00::9", address, true), Err(Malformed::Address), "{address}");
        }
        assert_eq!(ipv6("ff02::1", "fd00::5", true), Err(Malformed::Address));
        for address in ["::2", "::10.0.0.9", "::fffe:10.0.0.9", "1::ffff:10.0.0.9", "fe80::9"] {
            assert_eq!(ipv6(address, "fd00::5", false), Ok(()), "{address}");
            assert_eq!(ipv6("fd00::9", address, false), Ok(()), "{address}");
        }
    }

    #[test]
    fn an_ipv6_group_lives_on_more_than_one_host() {
        for group in ["ff00::1", "ff01::1", "ff11::1", "fff0::1"] {
            assert_eq!(ipv6("fd00::9", group, false), Err(Malformed::Address), "{group}");
        }
        for group in ["ff02::1", "ff0e::1", "ff12::1", "ffff::1"] {
            assert_eq!(ipv6("fd00::9", group, false), Ok(()), "{group}");
        }
    }

    #[test]
    fn a_host_without_an_ipv6_address_sends_only_icmp_and_only_to_groups() {
        assert_eq!(ipv6("::", "ff02::1", true), Ok(()));
        assert_eq!(ipv6("::", "ff02::1", false), Err(Malformed::Address));
        assert_eq!(ipv6("::", "fe80::1", true), Err(Malformed::Address));
    }

    #[test]
    fn packets_are_checked_by_these_rules() {
        let group = patched(over_ipv4(6, &tcp(1, 2)), 26, &[224, 0, 0, 1]);
        assert_eq!(packet_of(&group), Err(Malformed::Address));
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 9];
        for at in [22, 38] {
            let disguised = patched(over_ipv6(17, &udp(1, 2, b"")), at, &mapped);
            assert_eq!(packet_of(&disguised), Err(Malformed::Address));
        }
    }
}
