//! One shared interface: what becomes of frames from its wire, its host stack and its clients.
//!
//! ```text
//!                     +-- host port (the kernel, or another network: a bump)
//!   wire port --------+-- clients, by the steering table
//!                     +-- the switch itself (answers for addresses of clients)
//! ```
//!
//! - A frame never leaves by the port that it came in on, nor by a port of another interface, but for one of a VLAN,
//!   which has no medium of its own ([`lanes`]).
//! - A frame sent to the interface's own link address by a client or the kernel is steered as if it
//!   had arrived; any other unicast frame goes to the wire.
//! - What is otherwise where another network is behind the host port stands in [`bump`].

mod bump;
mod cut;
mod dhcp;
mod early;
mod explain;
mod from_client;
mod from_host;
mod from_wire;
mod lanes;
mod outlet;
mod recall;
mod recent;
mod stations;
mod steer;

pub(crate) use early::Early;
pub(crate) use from_host::ECHOES;
pub(crate) use lanes::{Lanes, Vlan, put_on};
pub(crate) use outlet::Outlet;
pub(crate) use recent::Recent;
pub(crate) use stations::Stations;

use crate::answer::{advertisement, arp_reply};
use crate::classify::{Classified, Flow, Icmp, IpKind, IpPacket, Mac, Payload, Protocol};
use crate::config::Unmatched;
use crate::deliver::{Deliver, Several};
use crate::membership::{is_of_groups, question};
use crate::net::guard::Pass;
use crate::refusal::{Bucket, LONGEST, is_elsewhere, refusal};
use crate::steer::{FragmentTable, Table};
use crate::time::Time;
use crate::verdict::{DropReason, Receiver};
use std::collections::VecDeque;
use steer::{Answer, is_advertisement};
use usnet_shmring::ledger::SessionId;
use usnet_shmring::offload::Offload;
use usnet_shmring::pool::Frame;

/// An interface of the switch.
#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) mac: Mac,
    /// Longest frame without tags.
    pub(crate) frame_limit: usize,
    pub(crate) table: Table,
    /// Datagrams that clients send in pieces.
    pub(crate) sent_fragments: FragmentTable<SessionId>,
    /// Pieces that wait for the first of their datagram.
    pub(crate) early: Early,
    /// Answers to echo requests of the kernel, oldest first; there is room for all.
    pub(crate) echoes: VecDeque<Flow>,
    /// What was decided a moment ago.
    pub(crate) recent: Recent,
    pub(crate) wire: Outlet,
    pub(crate) host: Option<Outlet>,
    /// What the kernel hears on the interface itself, so that it must not get it a second time.
    pub(crate) kernel_hears: Vec<Pass>,
    /// What whoever sends to a port that nobody has hears.
    pub(crate) unmatched: Unmatched,
    /// How much the switch may say to such.
    pub(crate) answers: Bucket,
    /// Whether frames may go from port to port where they lie.
    pub(crate) cut_through: bool,
    /// Where the stations of the two networks are, if there is one behind the host port.
    pub(crate) bump: Option<Stations>,
    /// What VLAN it is, if it is one.
    pub(crate) vlan: Option<Vlan>,
    /// The interfaces that are its VLANs.
    pub(crate) lanes: Lanes,
    /// Clients attached to it.
    pub(crate) clients: Vec<SessionId>,
}

impl Interface {
    /// Whether the kernel has heard this frame from the wire already.
    fn kernel_has(&self, deliver: &Deliver, frame: &Frame) -> bool {
        let bytes = deliver.pool.bytes(frame);
        self.kernel_hears.iter().any(|pass| pass.covers(bytes))
    }

    fn reply(&self, deliver: &mut Deliver, answer: &Answer, to: Mac) -> Option<Frame> {
        deliver.totals.generated += 1;
        let mut frame = deliver.pool.alloc();
        let filled = match (&mut frame, answer) {
            (None, _) => false,
            (Some(frame), Answer::Arp(request)) => {
                deliver.pool.fill(frame, &arp_reply(request, self.mac))
            }
            (Some(frame), Answer::Neighbor(flow, target)) => {
                deliver.pool.fill(frame, &advertisement(to, flow.source, *target, self.mac))
            }
        };
        match frame {
            Some(frame) if filled => Some(frame),
            Some(frame) => {
                deliver.drop_frame(frame, DropReason::NoSlot);
                None
            }
            None => {
                deliver.totals.dropped.add(DropReason::NoSlot, 1);
                None
            }
        }
    }

    /// A frame from the wire that nobody receives, which may be answered.
    #[cold]
    fn refuse(&mut self, deliver: &mut Deliver, frame: Frame, seen: &Classified, now: Time) {
        let mut bytes = [0; LONGEST];
        let Some(length) = self.refusal(deliver, &frame, seen, &mut bytes) else {
            return deliver.drop_frame(frame, DropReason::NoReceiver);
        };
        if !self.answers.take(now) {
            return deliver.drop_frame(frame, DropReason::TooManyAnswers);
        }
        let answer = deliver.pool.alloc();
        deliver.consume(frame);
        deliver.totals.generated += 1;
        let Some(mut answer) = answer else {
            return deliver.totals.dropped.add(DropReason::NoSlot, 1);
        };
        if deliver.pool.fill(&mut answer, bytes.get(..length).unwrap_or_default()) {
            self.wire.push(deliver, answer, now);
        } else {
            deliver.drop_frame(answer, DropReason::NoSlot);
        }
    }

    /// Writes the answer to a frame that nobody receives; returns its length, if there is one.
    fn refusal(
        &self,
        deliver: &Deliver,
        frame: &Frame,
        seen: &Classified,
        answer: &mut [u8; LONGEST],
    ) -> Option<usize> {
        self.refusal_of(deliver.pool.bytes(frame), frame.offload(), seen, answer)
    }

    /// The same for a frame of these bytes.
    fn refusal_of(
        &self,
        bytes: &[u8],
        offload: Offload,
        seen: &Classified,
        answer: &mut [u8; LONGEST],
    ) -> Option<usize> {
        let Payload::Ip(packet) = &seen.payload else { return None };
        let is_ours = self.table.is_local(packet.flow.destination);
        let is_honest = is_elsewhere(seen, self.mac) && !self.table.is_local(packet.flow.source);
        if !is_ours || !is_honest {
            return None;
        }
        refusal(self.unmatched, seen, bytes, offload, self.frame_limit, answer)
    }

    /// A frame from the wire for the kernel, which may have heard it there already.
    #[inline]
    fn wire_to_host(&mut self, deliver: &mut Deliver, frame: Frame, now: Time) {
        if self.kernel_has(deliver, &frame) {
            deliver.consume(frame);
        } else {
            self.to_host(deliver, frame, now);
        }
    }

    #[inline]
    fn to_host(&mut self, deliver: &mut Deliver, frame: Frame, now: Time) {
        match &mut self.host {
            Some(host) => host.push(deliver, frame, now),
            None => deliver.drop_frame(frame, DropReason::NoReceiver),
        }
    }

    /// A frame for all that may care: clients but `except`, and the host if `host` says so. Those who read the port's
    /// slots get the frame itself, all the same slot; the others copies; if there are none such, the last.
    fn to_audience(
        &mut self,
        deliver: &mut Deliver,
        frame: Frame,
        seen: &Classified,
        except: Option<SessionId>,
        host: bool,
        now: Time,
    ) {
        let is_link = !matches!(&seen.payload, Payload::Ip(packet)
            if !matches!(packet.kind, IpKind::Icmp(Icmp::NeighborAdvertisement { .. })));
        let host = host && self.host.is_some();
        let about_groups = self.hear_question(deliver.pool.bytes(&frame), seen, now);
        let from_router = matches!(&seen.payload, Payload::Ip(packet)
            if is_advertisement(packet, deliver.pool.bytes(&frame)));
        let mut last: Option<SessionId> = None;
        let mut several = Several::default();
        for id in &self.clients {
            let cares = match about_groups {
                // Other hosts' reports would keep a client from sending its own, which the switch needs.
                Some(is_question) => is_question && self.table.groups.has_any(*id),
                None if from_router => deliver.configures(*id),
                None => self.cares(*id, seen, is_link, now),
            };
            if except != Some(*id)
                && cares
                && !(deliver.may_share(*id, &frame) && several.push(*id))
                && let Some(receiver) = last.replace(*id)
                && let Some(copy) = deliver.duplicate(&frame)
            {
                deliver.to_client(copy, receiver);
            }
        }
        if let Some(single) = several.take_single()
            && let Some(receiver) = last.replace(single)
            && let Some(copy) = deliver.duplicate(&frame)
        {
            deliver.to_client(copy, receiver);
        }
        if !several.is_empty() {
            if let Some(receiver) = last
                && let Some(copy) = deliver.duplicate(&frame)
            {
                deliver.to_client(copy, receiver);
            }
            if host && let Some(copy) = deliver.duplicate(&frame) {
                self.to_host(deliver, copy, now);
            }
            return deliver.to_several(frame, &mut several);
        }
        match last {
            Some(receiver) => {
                if host && let Some(copy) = deliver.duplicate(&frame) {
                    self.to_host(deliver, copy, now);
                }
                deliver.to_client(frame, receiver);
            }
            None if host => self.to_host(deliver, frame, now),
            None => deliver.consume(frame),
        }
    }

    /// Whether a frame is about groups, and if so whether it is a router's question, which is noted.
    fn hear_question(&mut self, bytes: &[u8], seen: &Classified, now: Time) -> Option<bool> {
        let Payload::Ip(packet) = &seen.payload else { return None };
        if !is_of_groups(packet) {
            return None;
        }
        let asked = question(packet, bytes);
        if let Some(group) = asked {
            let is_v4 = packet.flow.protocol == Protocol::IGMP;
            self.table.groups.ask(group, is_v4, now);
        }
        Some(asked.is_some())
    }

    /// Whether a client wants a group frame: neighbour answers always, what goes to a group that it
    /// has joined, and datagrams to ports that it holds at any address.
    fn cares(&self, id: SessionId, seen: &Classified, is_link: bool, now: Time) -> bool {
        if is_link {
            return true;
        }
        if let Payload::Ip(packet) = &seen.payload
            && self.table.groups.has(packet.flow.destination, id, now)
        {
            return true;
        }
        match &seen.payload {
            // Other protocols with ports speak to one host only.
            Payload::Ip(IpPacket { flow, .. }) if !is_datagram(flow) => false,
            Payload::Ip(packet) if packet.flow.ports_known => {
                self.table.listeners(&packet.flow).any(|receiver| receiver == Receiver::Client(id))
            }
            _ => false,
        }
    }

    // ---- sessions ----

    /// Removes every trace of a client.
    pub(crate) fn forget(&mut self, id: SessionId) {
        self.table.forget(Receiver::Client(id));
        self.sent_fragments.forget(|owner| owner == id);
        self.clients.retain(|client| *client != id);
    }
}

/// Whether a protocol's messages may be for many.
fn is_datagram(flow: &Flow) -> bool {
    matches!(flow.protocol, Protocol::UDP | Protocol::UDP_LITE)
}
