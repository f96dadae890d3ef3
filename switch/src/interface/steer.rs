//! Who receives a frame that arrives, or that is sent to the interface's own link address.
//!
//! ```text
//!   plain datagrams ------------------------------> the table
//!   neighbours, echoes, errors, fragments, DHCP --> each to whom it concerns, or who asked
//!   group addresses ------------------------------> everyone who may care
//!   EAPOL ----------------------------------------> the client that speaks it, else the host
//!   other than IP, and tagged --------------------> the host
//! ```

use super::Interface;
use super::recall::Basis;
use crate::classify::{
    Address, ArpPacket, Classified, Flow, Icmp, IpKind, IpPacket, Payload, Plain,
};
use crate::steer::{DatagramKey, Found};
use crate::time::Time;
use crate::verdict::{DropReason, Receiver};
use crate::vet::{is_group_address, quoted_answer};
use usnet_shmring::ledger::SessionId;

/// Who gets a frame that came from the wire, or was sent to the interface's own address.
pub(super) enum Steered {
    To(Receiver),
    /// To a client, and a copy to the host, which may wait for it as well.
    Both(SessionId),
    /// Everyone who may care; see [`Interface::audience`].
    Group,
    /// The switch answers.
    Answer(Answer),
    /// Not known before the first piece of its datagram comes.
    Early(DatagramKey),
    Drop(DropReason),
}

pub(super) enum Answer {
    Arp(ArpPacket),
    Neighbor(Flow, Address),
}

/// Whether a message of router discovery is a router's.
pub(super) fn is_advertisement(packet: &IpPacket, bytes: &[u8]) -> bool {
    const ROUTER_ADVERTISEMENT: u8 = 134;
    packet.kind == IpKind::Icmp(Icmp::Router)
        && bytes.get(usize::from(packet.transport_offset)) == Some(&ROUTER_ADVERTISEMENT)
}

impl Interface {
    /// Who receives a frame that arrives. `seen` was read from `bytes`.
    #[inline]
    pub(super) fn steer(&mut self, seen: &Classified, bytes: &[u8], now: Time) -> Steered {
        let host = self.host_receiver();
        if seen.vlan.is_some() {
            // The kernel may have VLAN interfaces; clients have none.
            return host;
        }
        match &seen.payload {
            Payload::Ip(packet) => match packet.kind {
                IpKind::Plain => self.steer_ip(seen, packet, now),
                kind => self.steer_control(seen, packet, kind, bytes, now),
            },
            Payload::Arp(arp) => self.steer_arp(arp),
            Payload::Eapol => self.table.supplicant.holder().map_or(host, Steered::To),
            Payload::Other(_) => host,
        }
    }

    fn host_receiver(&self) -> Steered {
        if self.host.is_some() {
            Steered::To(Receiver::Host)
        } else {
            Steered::Drop(DropReason::NoReceiver)
        }
    }

    /// What [`steer`](Self::steer) says of a plain frame.
    #[inline]
    pub(super) fn steer_plain(&mut self, frame: &Plain, now: Time) -> (Steered, Basis) {
        if frame.destination.is_group() || is_group_address(frame.flow.destination) {
            return (Steered::Group, Basis::Rules);
        }
        let (receiver, source) = self.table.lookup_flow(&frame.flow, now);
        let steered = match receiver {
            Some(receiver) => Steered::To(receiver),
            None => Steered::Drop(DropReason::NoReceiver),
        };
        (steered, Basis::of(source))
    }

    #[inline]
    fn steer_ip(&mut self, seen: &Classified, packet: &IpPacket, now: Time) -> Steered {
        if seen.destination.is_group() || is_group_address(packet.flow.destination) {
            return Steered::Group;
        }
        let receiver = match self.table.receiver(packet, now) {
            Found::Receiver(receiver) => receiver,
            // With no client, or at an address that none can have, whose it is follows from no first piece.
            Found::Early(key)
                if !self.clients.is_empty() && self.table.is_local(packet.flow.destination) =>
            {
                return Steered::Early(key);
            }
            Found::Early(_) => self.table.fallback(packet.flow.destination),
        };
        match receiver {
            Some(receiver) => Steered::To(receiver),
            None => Steered::Drop(DropReason::NoReceiver),
        }
    }

    fn steer_control(
        &mut self,
        seen: &Classified,
        packet: &IpPacket,
        kind: IpKind,
        bytes: &[u8],
        now: Time,
    ) -> Steered {
        let to = |receiver: Option<Receiver>| {
            receiver.map_or(Steered::Drop(DropReason::NoReceiver), Steered::To)
        };
        let host = self.host.is_some().then_some(Receiver::Host);
        match kind {
            IpKind::Icmp(Icmp::NeighborAdvertisement { .. }) => Steered::Group,
            IpKind::Icmp(Icmp::NeighborSolicitation { target }) => {
                if self.answers_for(target) {
                    Steered::Answer(Answer::Neighbor(packet.flow, target))
                } else {
                    self.host_receiver()
                }
            }
            IpKind::Icmp(Icmp::Router) if is_advertisement(packet, bytes) => Steered::Group,
            IpKind::Icmp(Icmp::Router) => self.host_receiver(),
            // A request is for the owner of the address, whoever asked others with the same id.
            IpKind::Icmp(Icmp::EchoRequest) if !seen.destination.is_group() => {
                let owner = self.table.address_default(packet.flow.destination);
                to(self.table.lead(packet, owner, now))
            }
            // The kernel may use the same identifier at an address that it shares: whether it does is not always
            // seen here, and an answer that it has not asked for it ignores.
            IpKind::Icmp(Icmp::EchoReply) if host.is_some() => {
                match self.steer_ip(seen, packet, now) {
                    Steered::To(Receiver::Client(id))
                        if self.table.owner(packet.flow.destination).is_none()
                            && !self.table.is_in_prefix(packet.flow.destination) =>
                    {
                        Steered::Both(id)
                    }
                    steered => steered,
                }
            }
            IpKind::Icmp(icmp @ Icmp::Error { .. }) if !seen.destination.is_group() => {
                match quoted_answer(&icmp) {
                    // An error goes to who sent what it is about; this one lies.
                    Some(answer) if answer.destination != packet.flow.destination => to(None),
                    Some(answer) => {
                        let owner = self.table.lookup(&answer, now);
                        to(self.table.lead(packet, owner, now))
                    }
                    None => to(self.table.lead(packet, host, now)),
                }
            }
            IpKind::DhcpReply => {
                let asker = self.dhcp_asker(packet, bytes, now).or(host);
                to(self.table.lead(packet, asker, now))
            }
            IpKind::DhcpRequest => to(self.table.lead(packet, host, now)),
            _ => self.steer_ip(seen, packet, now),
        }
    }

    fn steer_arp(&self, arp: &ArpPacket) -> Steered {
        // Replies and announcements concern whoever has asked or remembers.
        if arp.operation != 1 || arp.sender == arp.target {
            return Steered::Group;
        }
        if self.answers_for(arp.target) {
            Steered::Answer(Answer::Arp(*arp))
        } else {
            self.host_receiver()
        }
    }

    /// Whether the switch says on the wire who has this address: a client has it alone, or there is
    /// no kernel to say so.
    fn answers_for(&self, address: Address) -> bool {
        match self.table.address_default(address) {
            Some(Receiver::Client(_)) => true,
            Some(Receiver::Host) => false,
            // What the kernel hears by itself it answers by itself.
            None if self.table.is_in_prefix(address) => true,
            None => {
                self.host.is_none() && self.kernel_hears.is_empty() && self.table.is_local(address)
            }
        }
    }
}
