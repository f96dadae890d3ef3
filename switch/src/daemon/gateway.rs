//! The kernel's default routes, for clients that have no configuration of their own.

use crate::config::Interface;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `RTF_GATEWAY` (linux/route.h).
const BY_ROUTER: u32 = 2;

/// Routers of an interface: those that the configuration names, or else the kernel's.
#[must_use]
pub(super) fn of(interface: &Interface) -> Vec<IpAddr> {
    match interface.gateways.as_slice() {
        [] => default_gateways(&interface.name),
        given => given.to_vec(),
    }
}

/// Routers of the calling thread's network namespace that are reached by `interface`, at most one of
/// each family.
fn default_gateways(interface: &str) -> Vec<IpAddr> {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    let v4 = ipv4(&read("/proc/thread-self/net/route"), interface);
    let v6 = ipv6(&read("/proc/thread-self/net/ipv6_route"), interface);
    v4.map(IpAddr::from).into_iter().chain(v6.map(IpAddr::from)).collect()
}

/// Lines of `/proc/net/route`: name, destination, gateway, flags, three numbers, mask ...; addresses
/// as the words that lie in memory.
fn ipv4(table: &str, interface: &str) -> Option<Ipv4Addr> {
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [name, destination, gateway, flags, _, _, _, mask, ..] = fields.as_slice() else {
            return None;
        };
        let word = |text: &str| u32::from_str_radix(text, 16).ok();
        let is_default = *name == interface
            && word(destination)? == 0
            && word(mask)? == 0
            && word(flags)? & BY_ROUTER != 0;
        is_default.then_some(Ipv4Addr::from(word(gateway)?.to_ne_bytes()))
    })
}

/// Lines of `/proc/net/ipv6_route`: destination, its prefix, source, its prefix, next hop, metric, two
/// counters, flags, name; all hexadecimal.
fn ipv6(table: &str, interface: &str) -> Option<Ipv6Addr> {
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [_, prefix, _, _, next, _, _, _, flags, name] = fields.as_slice() else {
            return None;
        };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let is_default = *name == interface && *prefix == "00" && flags & BY_ROUTER != 0;
        is_default.then_some(Ipv6Addr::from(u128::from_str_radix(next, 16).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_router_of_the_interface_is_found_in_the_kernels_tables() {
        let v4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                  eth1\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                  eth1\t00000000\tFE00000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        if cfg!(target_endian = "little") {
            assert_eq!(ipv4(v4, "eth1"), Some(Ipv4Addr::new(10, 0, 0, 254)));
            assert_eq!(ipv4(v4, "eth2"), None);
        }
        let zero = "0".repeat(32);
        let router = "fe800000000000000000000000000001";
        let v6 = format!(
            "{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200 eth1\n\
             {zero} 00 {zero} 00 {router} 00000400 00000001 00000000 00000003 eth1\n"
        );
        assert_eq!(ipv6(&v6, "eth1"), Some("fe80::1".parse().unwrap()));
        assert_eq!(ipv6(&v6, "eth0"), None);
    }
}
