//! The kernel guard: keeps the kernel from hearing what arrives on a shared interface.
//!
//! ```text
//!   wire -> sv0 --+--> packet socket (usnetd sees every frame)
//!                 |
//!                 +--> guard: nf_tables, family netdev, hook ingress
//!                        |  not IP (ARP, EAPOL ...), neighbour discovery, DHCP: pass
//!                        +--------------------------------------------> kernel
//!                        |  all else: dropped
//!                                       kernel <- host endpoint <- usnetd: what is the kernel's
//! ```
//!
//! Without it the kernel would answer each frame that belongs to a client, with a reset or a "port
//! unreachable", because a packet socket only gets copies.
//!
//! - The table has an owner (`NFT_TABLE_F_OWNER`, Linux 5.12): the kernel removes it when our socket
//!   closes, so nothing is left behind by a daemon that is killed.
//! - Where a macvtap takes all that arrives ([`Guard::readdress`]) the guard drops nothing. What only the
//!   kernel handles it sends to a group of link addresses, which the kernel hears beside a macvtap:
//!
//! ```text
//!   wire -> sv0 --> guard: ARP, discovery, link-local, DHCP: to a group --+--> kernel
//!                     |                                                   +--> macvtap (usnetd)
//!                     +--> all else ------------------------------------> macvtap
//! ```
//!
//! - Packet sockets for all protocols (`ETH_P_ALL`) see frames before the guard; those for one
//!   protocol behind it.
//! - What the kernel sends is not touched.
//! - [`Pass::covers`] says the same of a frame as the kernel's rules do: what passes must not be
//!   given to the kernel a second time.

use super::error::NetError;
use super::link::name_bytes;
use super::netlink::{Failure, Socket};
use super::nft::{self, AcceptRule, Compare, Load, Otherwise};
use super::outlast::Outlasting;
use crate::classify::Mac;

const CHAIN: &str = "ingress";
/// Before any other chain that a person would make.
const PRIORITY: i32 = -500;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
const ICMPV6: u8 = 58;
const UDP: u8 = 17;
/// The first byte of an IPv4 header without options.
const PLAIN_IPV4: u8 = 0x45;
/// Fragment words of a packet that is whole: it may be cut, or not.
const WHOLE: [[u8; 2]; 2] = [[0, 0], [0x40, 0]];
/// The port that DHCP servers answer to.
const DHCP_CLIENT: [u8; 2] = [0, 68];
/// Where datagrams to ff02::1 go (RFC 2464, 7).
const ALL_NODES: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
/// Router solicitation, router advertisement, neighbour solicitation, neighbour advertisement,
/// redirect (RFC 4861, 4).
const DISCOVERY_TYPES: core::ops::RangeInclusive<u8> = 133..=137;

/// A kind of frame that the kernel goes on to receive by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Neither IPv4 nor IPv6: ARP, EAPOL, LLDP, time protocols.
    NotIp,
    /// IPv6 router and neighbour discovery (ICMPv6 types 133..=137 right behind the IPv6 header).
    NeighbourDiscovery,
    /// IP datagrams to a group: IPv4 224.0.0.0/4 and 255.255.255.255, IPv6 ff00::/8. The kernel
    /// never answers these with an error, and only joins groups on the interface itself.
    Groups,
    /// IPv6 datagrams to a link-local address, which the kernel knows on the interface itself only.
    LinkLocal,
    /// Frames of a VLAN (802.1Q or 802.1ad, identifier not 0), for the kernel's VLAN interfaces.
    Tagged,
    /// Answers of DHCP servers to one host: IPv4 without options, whole, UDP to port 68. Programs that ask listen
    /// on the interface itself, with packet sockets; several parties may wait, and each knows its own answers.
    Dhcp,
    /// Frames to a group of link addresses, which the kernel hears beside a macvtap.
    LinkGroups,
}

impl Pass {
    /// What must pass so that the kernel can resolve and be resolved: the rest is steered.
    pub const NEIGHBOURS: [Self; 2] = [Self::NotIp, Self::NeighbourDiscovery];
    /// All that the guard lets pass in front of a packet socket or a program.
    pub const ALL: [Self; 6] = [
        Self::NotIp,
        Self::NeighbourDiscovery,
        Self::Groups,
        Self::LinkLocal,
        Self::Tagged,
        Self::Dhcp,
    ];
    /// What the kernel hears beside a macvtap that has its link address, with [`Guard::readdress`].
    pub const BESIDE_MACVTAP: [Self; 2] = [Self::LinkGroups, Self::Tagged];

    fn rules(self) -> Vec<AcceptRule> {
        let is = |load, value: &[u8]| (load, Compare::Is, value.to_vec());
        let is_not = |load, value: &[u8]| (load, Compare::IsNot, value.to_vec());
        let ipv4 = || is(Load::Protocol, &ETHERTYPE_IPV4.to_be_bytes());
        let ipv6 = || is(Load::Protocol, &ETHERTYPE_IPV6.to_be_bytes());
        let within = |load, low: &[u8], high: &[u8]| {
            [(load, Compare::AtLeast, low.to_vec()), (load, Compare::AtMost, high.to_vec())]
        };
        let tests = match self {
            Self::NotIp => vec![vec![
                is_not(Load::Protocol, &ETHERTYPE_IPV4.to_be_bytes()),
                is_not(Load::Protocol, &ETHERTYPE_IPV6.to_be_bytes()),
            ]],
            Self::NeighbourDiscovery => {
                let [low, high] = within(
                    Load::Network { offset: 40, len: 1 },
                    &[*DISCOVERY_TYPES.start()],
                    &[*DISCOVERY_TYPES.end()],
                );
                let next_header = Load::Network { offset: 6, len: 1 };
                vec![vec![ipv6(), is(next_header, &[ICMPV6]), low, high]]
            }
            Self::Groups => {
                let first = Load::Network { offset: 16, len: 1 };
                let [low, high] = within(first, &[224], &[239]);
                vec![
                    vec![ipv4(), low, high],
                    vec![ipv4(), is(Load::Network { offset: 16, len: 4 }, &[0xff; 4])],
                    vec![ipv6(), is(Load::Network { offset: 24, len: 1 }, &[0xff])],
                ]
            }
            Self::LinkLocal => {
                let first = Load::Network { offset: 24, len: 2 };
                let [low, high] = within(first, &[0xfe, 0x80], &[0xfe, 0xbf]);
                vec![vec![ipv6(), low, high]]
            }
            Self::Tagged => {
                // Frames with identifier 0 only have a priority, and are the kernel's as others are.
                let tagged = |ethertype: u16| {
                    let outer = Load::Link { offset: 12, len: 2 };
                    vec![is(outer, &ethertype.to_be_bytes()), is_not(Load::VlanId, &[0, 0])]
                };
                vec![tagged(ETHERTYPE_VLAN), tagged(ETHERTYPE_SERVICE_VLAN)]
            }
            Self::Dhcp => {
                let whole = |fragment: [u8; 2]| {
                    vec![
                        ipv4(),
                        is(Load::Network { offset: 0, len: 1 }, &[PLAIN_IPV4]),
                        is(Load::Network { offset: 6, len: 2 }, &fragment),
                        is(Load::Network { offset: 9, len: 1 }, &[UDP]),
                        is(Load::Network { offset: 22, len: 2 }, &DHCP_CLIENT),
                    ]
                };
                WHOLE.map(whole).into()
            }
            Self::LinkGroups => vec![vec![is(Load::Group, &[1, 0])]],
        };
        tests.into_iter().map(|tests| AcceptRule { tests, readdress: None }).collect()
    }

    /// Whether a frame is of this kind, so that the kernel has received it already. What counts is
    /// behind the first VLAN tag, if there is one.
    #[must_use]
    pub fn covers(self, frame: &[u8]) -> bool {
        let Some((tagged, ethertype, packet)) = split_frame(frame) else { return false };
        match (self, ethertype) {
            (Self::Tagged, _) => tagged,
            (Self::LinkGroups, _) => frame.first().is_some_and(|first| first & 1 != 0),
            (Self::NotIp, ETHERTYPE_IPV4 | ETHERTYPE_IPV6) => false,
            (Self::NotIp, _) => true,
            (Self::NeighbourDiscovery, ETHERTYPE_IPV6) => {
                packet.get(6) == Some(&ICMPV6)
                    && packet.get(40).is_some_and(|kind| DISCOVERY_TYPES.contains(kind))
            }
            (Self::Groups, ETHERTYPE_IPV4) => {
                packet.get(16..20).is_some_and(|to| (224..=239).contains(&to[0]) || to == [0xff; 4])
            }
            (Self::Groups, ETHERTYPE_IPV6) => packet.get(24) == Some(&0xff),
            (Self::Dhcp, ETHERTYPE_IPV4) => {
                let is_whole = |word| WHOLE.iter().any(|whole| word == *whole);
                packet.first() == Some(&PLAIN_IPV4)
                    && packet.get(6..8).is_some_and(is_whole)
                    && packet.get(9) == Some(&UDP)
                    && packet.get(22..24).is_some_and(|port| port == DHCP_CLIENT)
            }
            (Self::LinkLocal, ETHERTYPE_IPV6) => {
                packet.get(24..26).is_some_and(|to| to[0] == 0xfe && to[1] & 0xc0 == 0x80)
            }
            _ => false,
        }
    }
}

/// Whether there is a VLAN tag with an identifier, the EtherType behind it, and what follows that.
fn split_frame(frame: &[u8]) -> Option<(bool, u16, &[u8])> {
    let word = |at: usize| {
        let bytes = frame.get(at..at + 2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    match word(12)? {
        ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN => {
            Some((word(14)? & 0xfff != 0, word(16)?, frame.get(18..)?))
        }
        ethertype => Some((false, ethertype, frame.get(14..)?)),
    }
}

/// An interface on which the kernel hears only what passes. Dropping it, closing its descriptor or
/// killing its process removes the guard.
#[derive(Debug)]
pub struct Guard {
    socket: Socket,
    table: String,
    interface: String,
    /// A killed process would be unmapped before the guard goes.
    _outlasting: Option<Outlasting>,
}

impl Guard {
    /// Puts the guard in front of an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// There is no such interface; it is guarded already; the kernel is older than 5.12 or has no
    /// nf_tables; or the privilege (`CAP_NET_ADMIN`) is missing.
    pub fn install(interface: &str, passing: &[Pass]) -> Result<Self, NetError> {
        let rules = passing.iter().flat_map(|pass| pass.rules());
        Self::with(interface, Otherwise::Drop, rules)
    }

    /// Lets the kernel hear, beside a macvtap that takes all other frames to `mac`, the interface's link
    /// address: ARP and what else is not IP, neighbour discovery, datagrams to link-local addresses and DHCP. They go on
    /// as frames to a group. A frame keeps its kind (`PACKET_HOST`), so the kernel takes it as its own.
    ///
    /// # Errors
    /// As [`install`](Self::install).
    pub fn readdress(interface: &str, mac: Mac) -> Result<Self, NetError> {
        let to_us = (Load::Link { offset: 0, len: 6 }, Compare::Is, mac.0.to_vec());
        let kinds = [
            (Pass::NotIp, Mac::BROADCAST),
            (Pass::NeighbourDiscovery, ALL_NODES),
            (Pass::LinkLocal, ALL_NODES),
            (Pass::Dhcp, Mac::BROADCAST),
        ];
        let rules = kinds
            .into_iter()
            .flat_map(|(kind, group)| kind.rules().into_iter().map(move |rule| (rule, group)));
        let rules = rules.map(|(mut rule, group)| {
            rule.tests.insert(0, to_us.clone());
            AcceptRule { readdress: Some(group.0), ..rule }
        });
        Self::with(interface, Otherwise::Accept, rules)
    }

    fn with(
        interface: &str,
        otherwise: Otherwise,
        rules: impl Iterator<Item = AcceptRule>,
    ) -> Result<Self, NetError> {
        name_bytes(interface)?;
        // Before the socket: descriptors with higher numbers are closed first, and once the other process runs it
        // may have this one's processor.
        let outlasting = Outlasting::keep_memory()
            .inspect_err(|error| {
                tracing::warn!(%error, "after a kill the kernel hears some milliseconds later");
            })
            .ok();
        let mut socket = open(interface)?;
        let table = format!("usnet-{interface}");
        let mut body = vec![
            nft::new_owned_table(&table),
            nft::new_chain(&table, CHAIN, interface, PRIORITY, otherwise),
        ];
        body.extend(rules.map(|rule| nft::new_rule(&table, CHAIN, &rule)));
        socket
            .batch(nft::batch_begin(), body, nft::batch_end())
            .map_err(|e| e.of("keep the kernel from hearing", interface))?;
        Ok(Self { socket, table, interface: interface.into(), _outlasting: outlasting })
    }

    /// Removes the guard and waits until it is gone.
    ///
    /// # Errors
    /// Somebody else has removed it.
    pub fn remove(mut self) -> Result<(), NetError> {
        let body = vec![nft::delete_table(&self.table)];
        self.socket
            .batch(nft::batch_begin(), body, nft::batch_end())
            .map_err(|e: Failure| e.of("let the kernel hear again", self.interface))
    }
}

fn open(interface: &str) -> Result<Socket, NetError> {
    Socket::open(Some(rustix::net::netlink::NETFILTER))
        .map_err(|e| e.of("reach nf_tables for", interface))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ethertype: u16, packet: &[u8]) -> Vec<u8> {
        [&[0; 12], &ethertype.to_be_bytes()[..], packet].concat()
    }

    #[test]
    fn a_frame_too_short_for_its_header_is_not_covered() {
        for len in 0..14 {
            assert!(Pass::ALL.iter().all(|pass| !pass.covers(&[0x86; 14][..len])), "{len} bytes");
        }
    }

    #[test]
    fn only_discovery_messages_are_neighbour_discovery() {
        for kind in 0..=255 {
            let mut packet = [0; 48];
            (packet[6], packet[40]) = (ICMPV6, kind);
            let covered = Pass::NeighbourDiscovery.covers(&frame(ETHERTYPE_IPV6, &packet));
            assert_eq!(covered, (133..=137).contains(&kind), "ICMPv6 type {kind}");
        }
    }
}
