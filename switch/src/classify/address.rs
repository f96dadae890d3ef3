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
