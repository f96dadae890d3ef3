//! One shared interface: what becomes of frames from its wire, its host stack and its clients.
//!
//! ```text
//!                     +-- host port (kernel)
//!   wire port --------+-- clients, by the steering table
//!                     +-- the switch itself (answers for addresses of clients)
//! ```
//!
//! - A frame never leaves the interface that it came in on.
//! - A frame sent to the interface's own link address by a client or the kernel is steered as if it
//!   had arrived; any other unicast frame goes to the wire.

use crate::answer::{advertisement, arp_reply};
use crate::classify::{
    Address, ArpPacket, Classified, Flow, Icmp, IpKind, IpPacket, Mac, Payload, Protocol, classify,
};
use crate::deliver::{Deliver, Sent};
use crate::net::guard::Pass;
use crate::port::{Burst, Port};
use crate::session::Session;
use crate::steer::{FragmentTable, Table};
use crate::time::Time;
use crate::verdict::{DropReason, Receiver};
use crate::vet::{Vetted, is_group_address, quoted_answer, vet};
use std::io;
use usnet_shmring::ledger::SessionId;
use usnet_shmring::pool::Frame;

/// A port and the frames that wait for it.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) port: Box<dyn Port>,
    pub(crate) out: Burst,
    pub(crate) gone: bool,
    /// Why, until it is reported.
    pub(crate) failed: Option<io::Error>,
}

impl Outlet {
    pub(crate) fn new(port: Box<dyn Port>) -> Self {
        Self { port, out: Burst::new(), gone: false, failed: None }
    }

    /// The port is not used any more.
    pub(crate) fn fail(&mut self, error: io::Error) {
        self.gone = true;
        self.failed.get_or_insert(error);
    }

    /// Sends what waits; returns how many frames left, also if the port failed after them.
    pub(crate) fn flush(&mut self, deliver: &mut Deliver, now: Time) -> usize {
        if self.out.is_empty() || self.gone {
            return 0;
        }
        let before = self.out.len();
        if let Err(error) = self.port.transmit(now, &mut deliver.pool, &mut self.out) {
            self.fail(error);
        }
        let count = before - self.out.len();
        deliver.totals.to_ports += count as u64;
        count
    }

    /// Appends a frame, sending first if there is no room.
    #[inline]
    fn push(&mut self, deliver: &mut Deliver, frame: Frame, now: Time) {
        if self.gone {
            return deliver.drop_frame(frame, DropReason::NoReceiver);
        }
        if self.out.room() == 0 {
            self.flush(deliver, now);
        }
        deliver.to_port(&mut self.out, frame);
    }
}

/// Who gets a frame that came from the wire, or was sent to the interface's own address.
enum Steered {
    To(Receiver),
    /// Everyone who may care; see [`Interface::audience`].
    Group,
    /// The switch answers.
    Answer(Answer),
    Drop(DropReason),
}

enum Answer {
    Arp(ArpPacket),
    Neighbor(Flow, Address),
}

/// An interface of the switch.
#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) mac: Mac,
    /// Longest frame without tags.
    pub(crate) frame_limit: usize,
    pub(crate) table: Table,
    /// Datagrams that clients send in pieces.
    pub(crate) sent_fragments: FragmentTable<SessionId>,
    pub(crate) wire: Outlet,
    pub(crate) host: Option<Outlet>,
    /// What the kernel hears on the interface itself, so that it must not get it a second time.
    pub(crate) kernel_hears: Vec<Pass>,
    /// Clients attached to it.
    pub(crate) clients: Vec<SessionId>,
}

impl Interface {
    // ---- from the wire ----

    /// A frame that arrived on the wire.
    #[inline]
    pub(crate) fn from_wire(&mut self, deliver: &mut Deliver, mut frame: Frame, now: Time) {
        let mut seen = match classify(deliver.pool.bytes(&frame)) {
            Ok(seen) => seen,
            Err(_) => return deliver.drop_frame(frame, DropReason::Malformed),
        };
        if has_tag(deliver.pool.bytes(&frame)) && seen.vlan.is_none() {
            match without_tags(deliver, &mut frame) {
                Some(untagged) => seen = untagged,
                None => return deliver.drop_frame(frame, DropReason::Malformed),
            }
        }
        if seen.destination != self.mac && !seen.destination.is_group() {
            return deliver.drop_frame(frame, DropReason::NotForUs);
        }
        match self.steer(&seen, now) {
            Steered::To(Receiver::Client(id)) => deliver.to_client(frame, id),
            Steered::To(Receiver::Host) if self.kernel_has(deliver, &frame) => {
                deliver.consume(frame);
            }
            Steered::To(Receiver::Host) => self.to_host(deliver, frame, now),
            Steered::Group => {
                let host = !self.kernel_has(deliver, &frame);
                self.to_audience(deliver, frame, &seen, None, host, now);
            }
            Steered::Answer(answer) => {
                let reply = self.reply(deliver, &answer, seen.source);
                deliver.consume(frame);
                if let Some(reply) = reply {
                    self.wire.push(deliver, reply, now);
                }
            }
            Steered::Drop(reason) => deliver.drop_frame(frame, reason),
        }
    }

    /// Who receives a frame that arrives.
    #[inline]
    fn steer(&mut self, seen: &Classified, now: Time) -> Steered {
        let host = self.host_receiver();
        if seen.vlan.is_some() {
            // The kernel may have VLAN interfaces; clients have none.
            return host;
        }
        match &seen.payload {
            Payload::Ip(packet) => match packet.kind {
                IpKind::Plain => self.steer_ip(seen, packet, now),
                kind => self.steer_control(seen, packet, kind, now),
            },
            Payload::Arp(arp) => self.steer_arp(arp),
            Payload::Eapol | Payload::Other(_) => host,
        }
    }

    fn host_receiver(&self) -> Steered {
        if self.host.is_some() {
            Steered::To(Receiver::Host)
        } else {
            Steered::Drop(DropReason::NoReceiver)
        }
    }

    #[inline]
    fn steer_ip(&mut self, seen: &Classified, packet: &IpPacket, now: Time) -> Steered {
        if seen.destination.is_group() || is_group_address(packet.flow.destination) {
            return Steered::Group;
        }
        match self.table.receiver(packet, now) {
            Some(receiver) => Steered::To(receiver),
            None => Steered::Drop(DropReason::NoReceiver),
        }
    }

    fn steer_control(
        &mut self,
        seen: &Classified,
        packet: &IpPacket,
        kind: IpKind,
        now: Time,
    ) -> Steered {
        let to = |receiver: Option<Receiver>| {
            receiver.map_or(Steered::Drop(DropReason::NoReceiver), Steered::To)
        };
        match kind {
            IpKind::Icmp(Icmp::NeighborAdvertisement { .. }) => Steered::Group,
            IpKind::Icmp(Icmp::NeighborSolicitation { target }) => {
                if self.answers_for(target) {
                    Steered::Answer(Answer::Neighbor(packet.flow, target))
                } else {
                    self.host_receiver()
                }
            }
            IpKind::Icmp(Icmp::Router) => self.host_receiver(),
            // A request is for the owner of the address, whoever asked others with the same id.
            IpKind::Icmp(Icmp::EchoRequest) if !seen.destination.is_group() => {
                let owner = self.table.address_default(packet.flow.destination);
                to(self.table.lead(packet, owner, now))
            }
            IpKind::Icmp(icmp @ Icmp::Error { .. }) if !seen.destination.is_group() => {
                match quoted_answer(&icmp) {
                    // An error goes to who sent what it is about; this one lies.
                    Some(answer) if answer.destination != packet.flow.destination => to(None),
                    Some(answer) => {
                        let owner = self.table.lookup(&answer, now);
                        to(self.table.lead(packet, owner, now))
                    }
                    None => self.host_receiver(),
                }
            }
            IpKind::DhcpReply | IpKind::DhcpRequest => self.host_receiver(),
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
            None => self.host.is_none() && self.table.is_local(address),
        }
    }

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

    #[inline]
    fn to_host(&mut self, deliver: &mut Deliver, frame: Frame, now: Time) {
        match &mut self.host {
            Some(host) => host.push(deliver, frame, now),
            None => deliver.drop_frame(frame, DropReason::NoReceiver),
        }
    }

    /// Copies a frame to all that may care: clients but `except`, and the host if `host` says so.
    /// The last receiver gets the frame itself.
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
        let mut last: Option<SessionId> = None;
        for id in &self.clients {
            if except != Some(*id)
                && self.cares(*id, seen, is_link)
                && let Some(receiver) = last.replace(*id)
                && let Some(copy) = deliver.duplicate(&frame)
            {
                deliver.to_client(copy, receiver);
            }
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

    /// Whether a client wants a group frame: neighbour answers always, datagrams to ports that it
    /// holds at any address.
    fn cares(&self, id: SessionId, seen: &Classified, is_link: bool) -> bool {
        if is_link {
            return true;
        }
        match &seen.payload {
            // Other protocols with ports speak to one host only.
            Payload::Ip(IpPacket { flow, .. }) if !is_datagram(flow) => false,
            Payload::Ip(packet) if packet.flow.ports_known => self
                .table
                .listeners(packet.flow.protocol, packet.flow.destination_port)
                .any(|receiver| receiver == Receiver::Client(id)),
            _ => false,
        }
    }

    // ---- from the host stack ----

    /// A frame that the kernel sent on the host port.
    pub(crate) fn from_host(&mut self, deliver: &mut Deliver, frame: Frame, now: Time) {
        let seen = match classify(deliver.pool.bytes(&frame)) {
            Ok(seen) => seen,
            Err(_) => return deliver.drop_frame(frame, DropReason::Malformed),
        };
        if seen.destination == self.mac && self.mac != Mac::default() {
            return match self.steer(&seen, now) {
                Steered::To(Receiver::Client(id)) => deliver.to_client(frame, id),
                Steered::Answer(answer) => self.answer_host(deliver, frame, &answer, &seen, now),
                Steered::Drop(reason) => deliver.drop_frame(frame, reason),
                Steered::To(Receiver::Host) | Steered::Group => {
                    deliver.drop_frame(frame, DropReason::ToSelf);
                }
            };
        }
        if seen.destination.is_group() {
            match self.steer(&seen, now) {
                Steered::Answer(answer) => {
                    return self.answer_host(deliver, frame, &answer, &seen, now);
                }
                Steered::Group if !self.clients.is_empty() => {
                    if let Some(copy) = deliver.duplicate(&frame) {
                        self.to_audience(deliver, copy, &seen, None, false, now);
                    }
                }
                // Tagged frames and the kernel's own business with its link and its neighbours.
                Steered::Group | Steered::To(_) | Steered::Drop(_) => {}
            }
        }
        self.wire.push(deliver, frame, now);
    }

    /// Answers the kernel's question in place of the client that has the address.
    fn answer_host(
        &mut self,
        deliver: &mut Deliver,
        question: Frame,
        answer: &Answer,
        seen: &Classified,
        now: Time,
    ) {
        let reply = self.reply(deliver, answer, seen.source);
        deliver.consume(question);
        match (reply, &mut self.host) {
            (Some(reply), Some(host)) => host.push(deliver, reply, now),
            (Some(reply), None) => deliver.drop_frame(reply, DropReason::NoReceiver),
            (None, _) => {}
        }
    }

    // ---- from a client ----

    /// A frame that a client sent, judged by the private copy of its head. `from` is taken out of
    /// its place; a frame for the sender itself goes into `answers`.
    #[inline]
    pub(crate) fn from_client(
        &mut self,
        deliver: &mut Deliver,
        from: &mut Session,
        sent: Sent<'_>,
        answers: &mut Burst,
        now: Time,
    ) {
        let length = sent.frame.len();
        deliver.totals.from_clients += 1;
        from.counters.sent += 1;
        from.counters.sent_bytes += length as u64;
        if length > self.frame_limit {
            return deliver.drop_sent(from, sent.frame, DropReason::TooLong);
        }
        let seen = match crate::classify::classify_head(sent.head, length) {
            Ok(seen) => seen,
            Err(_) => return deliver.drop_sent(from, sent.frame, DropReason::Malformed),
        };
        match vet(from, self.mac, &mut self.table, &mut self.sent_fragments, &seen, sent.head, now)
        {
            Ok(Vetted::Plain) => {}
            Ok(Vetted::Learn(flow)) => {
                if let Err(reason) = self.learn(from, flow, now) {
                    return deliver.drop_sent(from, sent.frame, reason);
                }
            }
            Err(reason) => return deliver.drop_sent(from, sent.frame, reason),
        }
        if seen.destination == self.mac {
            return match self.steer(&seen, now) {
                Steered::To(Receiver::Client(id)) if id == from.id => {
                    deliver.drop_sent(from, sent.frame, DropReason::ToSelf);
                }
                Steered::To(Receiver::Client(id)) => deliver.sent_to_client(from, sent, id),
                Steered::To(Receiver::Host) => self.sent_to_outlet(deliver, from, sent, true, now),
                Steered::Drop(reason) => deliver.drop_sent(from, sent.frame, reason),
                Steered::Group | Steered::Answer(_) => {
                    deliver.drop_sent(from, sent.frame, DropReason::NotPermitted);
                }
            };
        }
        if seen.destination.is_group() {
            return self.group_from_client(deliver, from, sent, &seen, answers, now);
        }
        self.sent_to_outlet(deliver, from, sent, false, now);
    }

    /// Enters a learned flow before the frame that taught it leaves.
    fn learn(&mut self, from: &mut Session, flow: Flow, now: Time) -> Result<(), DropReason> {
        if !from.may_learn(&mut self.table, now) {
            return Err(DropReason::TableFull);
        }
        // Whoever loses an idle flow by this finds out when its own share is used up.
        match self.table.learn(flow, Receiver::Client(from.id), now) {
            Ok(_) => {
                from.learned.push_back(flow);
                Ok(())
            }
            Err(_) => Err(DropReason::TableFull),
        }
    }

    /// Copies a client's frame for the host port or the wire, and completes its slot.
    #[inline]
    fn sent_to_outlet(
        &mut self,
        deliver: &mut Deliver,
        from: &mut Session,
        sent: Sent<'_>,
        to_host: bool,
        now: Time,
    ) {
        let outlet = if to_host { self.host.as_mut() } else { Some(&mut self.wire) };
        let Some(outlet) = outlet else {
            return deliver.drop_sent(from, sent.frame, DropReason::NoReceiver);
        };
        match deliver.copy_sent(&sent) {
            Some(copy) => {
                outlet.push(deliver, copy, now);
                deliver.complete(from, sent.frame);
            }
            None => deliver.drop_sent(from, sent.frame, DropReason::NoSlot),
        }
    }

    /// A client's broadcast or multicast: to the wire and to all here that may care; or a question
    /// that the switch answers.
    fn group_from_client(
        &mut self,
        deliver: &mut Deliver,
        from: &mut Session,
        sent: Sent<'_>,
        seen: &Classified,
        answers: &mut Burst,
        now: Time,
    ) {
        let answer = match &seen.payload {
            Payload::Arp(arp) if arp.operation == 1 && self.table.is_local(arp.target) => {
                // An announcement of the client's own address asks for no answer.
                (arp.sender != arp.target || !from.exclusive.contains(&arp.sender))
                    .then_some(Answer::Arp(*arp))
            }
            Payload::Ip(IpPacket {
                kind: IpKind::Icmp(Icmp::NeighborSolicitation { target }),
                flow,
                ..
            }) if self.table.is_local(*target) => Some(Answer::Neighbor(*flow, *target)),
            _ => None,
        };
        if let Some(answer) = answer {
            let reply = self.reply(deliver, &answer, seen.source);
            deliver.totals.consumed += 1;
            deliver.complete(from, sent.frame);
            if let Some(Err(reply)) = reply.map(|reply| answers.push(reply)) {
                deliver.drop_frame(reply, DropReason::NoSlot);
            }
            return;
        }
        let Some(copy) = deliver.copy_sent(&sent) else {
            return deliver.drop_sent(from, sent.frame, DropReason::NoSlot);
        };
        deliver.complete(from, sent.frame);
        let is_question = matches!(&seen.payload, Payload::Arp(_))
            || matches!(&seen.payload, Payload::Ip(p) if matches!(p.kind, IpKind::Icmp(_)));
        if !is_question && let Some(local) = deliver.duplicate(&copy) {
            self.to_audience(deliver, local, seen, Some(from.id), true, now);
        }
        self.wire.push(deliver, copy, now);
    }

    // ---- sessions ----

    /// Removes every trace of a client.
    pub(crate) fn forget(&mut self, id: SessionId) {
        self.table.forget(Receiver::Client(id));
        self.sent_fragments.forget(|owner| owner == id);
        self.clients.retain(|client| *client != id);
    }
}

/// Whether a frame has a tag behind its link addresses.
#[inline]
fn has_tag(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]))
}

/// Takes priority tags off, which say nothing that a client would understand, and reads the frame
/// again. `None` if that does not work, and the frame is of no use.
#[cold]
fn without_tags(deliver: &mut Deliver, frame: &mut Frame) -> Option<Classified> {
    const TAG: u16 = 4;
    while has_tag(deliver.pool.bytes(frame)) {
        deliver.pool.bytes_mut(frame).get_mut(..16)?.copy_within(..12, usize::from(TAG));
        let length = u16::try_from(frame.len()).ok()?.checked_sub(TAG)?;
        let offset = frame.offset();
        if !deliver.pool.set_window(frame, offset + TAG, length) {
            return None;
        }
    }
    classify(deliver.pool.bytes(frame)).ok()
}

/// Whether a protocol's messages may be for many.
fn is_datagram(flow: &Flow) -> bool {
    matches!(flow.protocol, Protocol::UDP | Protocol::UDP_LITE)
}
