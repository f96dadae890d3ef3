//! Frames that a client sends: judged by a private copy of their heads, then handed on.
//!
//! ```text
//!   head --> remembered? --yes---------------------> way --> client, host, wire, group, or dropped
//!              |no                                    ^
//!              +--> plain? vet, steer --> remember ---+
//!              +--> any other: the whole head, vet, steer
//! ```

use super::Interface;
use super::from_wire::has_tag;
use super::lanes::TAG;
use super::recall::{Basis, LONG_AGO};
use super::recent::{Key, Origin, Way};
use super::steer::{Answer, Steered};
use crate::classify::{
    Classified, Flow, Icmp, IpKind, IpPacket, Payload, Plain, classify_head, classify_plain,
};
use crate::deliver::{Deliver, Sent};
use crate::learned::Why;
use crate::membership::{is_of_groups, report};
use crate::offload::{Unfit, judge};
use crate::port::Burst;
use crate::session::Session;
use crate::time::Time;
use crate::verdict::{DropReason, Receiver};
use crate::vet::{Vetted, is_alone, vet, vet_plain};
use usnet_shmring::ledger::SessionId;

/// The way of a frame that `from` sent to the interface's own link address.
#[inline(always)]
fn way_here(steered: Steered, from: SessionId) -> Result<Way, DropReason> {
    match steered {
        Steered::To(Receiver::Client(id)) | Steered::Both(id) if id == from => {
            Err(DropReason::ToSelf)
        }
        // The kernel is not asked by a client for an answer to its own question: it notes that when it asks.
        Steered::To(Receiver::Client(id)) | Steered::Both(id) => Ok(Way::Client(id)),
        Steered::To(Receiver::Host) => Ok(Way::Host),
        Steered::Drop(reason) => Err(reason),
        // A client sends the first piece first.
        Steered::Early(_) => Err(DropReason::PieceAlone),
        Steered::Group | Steered::Answer(_) => Err(DropReason::NotPermitted),
    }
}

impl Interface {
    /// A frame that a client sent, judged by the private copy of its head. `from` is taken out of
    /// its place; a frame for the sender itself goes into `answers`.
    #[inline]
    pub(crate) fn from_client(
        &mut self,
        deliver: &mut Deliver,
        from: &mut Session,
        mut sent: Sent<'_>,
        answers: &mut Burst,
        now: Time,
    ) {
        let length = sent.frame.len();
        deliver.totals.from_clients += 1;
        from.counters.sent += 1;
        from.counters.sent_bytes += length as u64;
        if sent.offload.is_unfinished() {
            sent.read_on(&deliver.pool);
            let judged = judge(sent.head(), length, sent.offload, self.frame_limit);
            if let Err(unfit) = judged {
                let reason = match unfit {
                    Unfit::Malformed => DropReason::Malformed,
                    Unfit::TooLong => DropReason::TooLong,
                };
                return deliver.drop_sent(from, sent.frame, reason);
            }
        } else if length > self.frame_limit {
            return deliver.drop_sent(from, sent.frame, DropReason::TooLong);
        }
        let key = Key::of(sent.head(), length, Origin::client(from.id));
        let way = match self.remembered(key) {
            Some(decision) => {
                debug_assert_eq!(self.judge_plain_head(from, &sent), Some(decision.way));
                Ok(self.again(decision, sent.head(), now))
            }
            None => self.judge_anew(deliver, from, &mut sent, key, now),
        };
        match way {
            Ok(Way::Client(id)) => deliver.sent_to_client(from, sent, id),
            Ok(Way::Host) => self.sent_to_outlet(deliver, from, sent, true, now),
            Ok(Way::Wire) if self.bump.is_some() => self.sent_to_either(deliver, from, sent, now),
            Ok(Way::Wire) => self.sent_to_outlet(deliver, from, sent, false, now),
            Ok(Way::Group) => self.group_from_client(deliver, from, sent, answers, now),
            Ok(Way::Dhcp) => self.dhcp_from_client(deliver, from, sent, now),
            Err(reason) => deliver.drop_sent(from, sent.frame, reason),
        }
    }

    /// Whether a client may send this frame, and where it goes.
    #[inline(never)]
    fn judge_anew(
        &mut self,
        deliver: &Deliver,
        from: &mut Session,
        sent: &mut Sent<'_>,
        key: Option<Key>,
        now: Time,
    ) -> Result<Way, DropReason> {
        if let Some(plain) = classify_plain(sent.head(), sent.frame.len()) {
            let (way, basis) = self.judge_plain(from, &plain, now)?;
            self.mark(&basis, sent.head(), now);
            self.remember(key, way, &basis);
            return Ok(way);
        }
        sent.read_on(&deliver.pool);
        self.judge(from, sent.head(), sent.frame.len(), now)
    }

    /// For assertions: the long way, if the frame is plain and may go.
    fn judge_plain_head(&mut self, from: &mut Session, sent: &Sent<'_>) -> Option<Way> {
        let plain = classify_plain(sent.head(), sent.frame.len())?;
        self.judge_plain(from, &plain, LONG_AGO).ok().map(|(way, _)| way)
    }

    /// Whether a client may send this plain frame, and where it goes.
    #[inline]
    fn judge_plain(
        &mut self,
        from: &mut Session,
        frame: &Plain,
        now: Time,
    ) -> Result<(Way, Basis), DropReason> {
        let basis = match vet_plain(from, self.mac, &mut self.table, frame, now)? {
            Vetted::Plain => Basis::Rules,
            Vetted::Known(flow) => Basis::Flow(flow),
            Vetted::Learn(flow) => {
                self.learn(from, flow, Why::Begun, now)?;
                Basis::Moment
            }
            // Not plain.
            Vetted::Dhcp => return Ok((Way::Dhcp, Basis::Moment)),
            Vetted::Keep(flow) => match self.learn(from, flow, Why::Answered, now) {
                Ok(()) => Basis::Moment,
                // Where its answers go follows from the rules alone, as long as these stay.
                Err(_) => Basis::Rules,
            },
        };
        if frame.destination == self.mac {
            let (steered, also) = self.steer_plain(frame, now);
            return Ok((way_here(steered, from.id)?, basis.and(also)));
        }
        Ok((if frame.destination.is_group() { Way::Group } else { Way::Wire }, basis))
    }

    /// Whether a client may send the frame of `length` bytes that begins with `head`, and where it
    /// goes.
    #[inline(never)]
    fn judge(
        &mut self,
        from: &mut Session,
        head: &[u8],
        length: usize,
        now: Time,
    ) -> Result<Way, DropReason> {
        let seen = classify_head(head, length).map_err(|_| DropReason::Malformed)?;
        if self.vlan.is_some() && has_tag(head) {
            // Not even one with a priority alone: another would come before it.
            return Err(DropReason::Vlan);
        }
        let Self { mac, table, sent_fragments, .. } = self;
        match vet(from, *mac, table, sent_fragments, &seen, head, now)? {
            Vetted::Plain | Vetted::Known(_) => {}
            Vetted::Learn(flow) => self.learn(from, flow, Why::Begun, now)?,
            Vetted::Dhcp => return Ok(Way::Dhcp),
            Vetted::Keep(flow) => drop(self.learn(from, flow, Why::Answered, now)),
        }
        if let Payload::Ip(packet) = &seen.payload
            && is_of_groups(packet)
        {
            self.enter(from, packet, &seen, head, now)?;
        }
        if seen.destination == self.mac {
            let steered = self.steer(&seen, head, now);
            return way_here(steered, from.id);
        }
        // What a supplicant says is nobody's business but the authenticator's.
        let is_for_all = seen.destination.is_group() && seen.payload != Payload::Eapol;
        Ok(if is_for_all { Way::Group } else { Way::Wire })
    }

    /// Enters what a client's report says before it leaves.
    #[cold]
    fn enter(
        &mut self,
        from: &Session,
        packet: &IpPacket,
        seen: &Classified,
        head: &[u8],
        now: Time,
    ) -> Result<(), DropReason> {
        let report = report(packet, seen.destination, head).ok_or(DropReason::NotPermitted)?;
        let groups = &mut self.table.groups;
        groups.join(report.joined(), from.id, now).map_err(|_| DropReason::TableFull)?;
        report.left().for_each(|group| groups.leave(group, from.id));
        Ok(())
    }

    /// Enters a learned flow before the frame that taught it leaves.
    fn learn(
        &mut self,
        from: &mut Session,
        flow: Flow,
        why: Why,
        now: Time,
    ) -> Result<(), DropReason> {
        if !from.learned.has_room(&mut self.table, from.id, &flow, why, now) {
            return Err(DropReason::TableFull);
        }
        // Whoever loses an idle flow by this finds out when its own share is used up.
        match self.table.learn(flow, Receiver::Client(from.id), now) {
            Ok(_) => {
                from.learned.note(&self.table, flow, why);
                Ok(())
            }
            Err(_) => Err(DropReason::TableFull),
        }
    }

    /// Copies a client's frame, or its head alone, for the host port or the wire, and completes its slot.
    #[inline]
    pub(super) fn sent_to_outlet(
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
        if outlet.sends_rest_of(&sent) {
            // Its slot comes back when the port has sent it.
            if let Err(frame) = outlet.push_split(deliver, sent, now) {
                deliver.drop_sent(from, frame, DropReason::NoSlot);
            }
            return;
        }
        let room = if outlet.is_lane() { TAG } else { 0 };
        match deliver.copy_sent_behind(&sent, room) {
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
        answers: &mut Burst,
        now: Time,
    ) {
        // Judged before, and so rare that it may be read a second time.
        let Ok(seen) = classify_head(sent.head(), sent.frame.len()) else {
            return deliver.drop_sent(from, sent.frame, DropReason::Malformed);
        };
        let answer = match &seen.payload {
            Payload::Arp(arp) if arp.operation == 1 && self.table.is_local(arp.target) => {
                // An announcement of the client's own address asks for no answer.
                (arp.sender != arp.target || !is_alone(from, &self.table, arp.sender))
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
            || matches!(&seen.payload, Payload::Ip(p) if matches!(p.kind, IpKind::Icmp(_) | IpKind::Igmp));
        if !is_question && let Some(local) = deliver.duplicate(&copy) {
            self.to_audience(deliver, local, &seen, Some(from.id), true, now);
        }
        // The kernel is not asked, but on the other side of a bump there are neighbours.
        if is_question
            && self.bump.is_some()
            && let Some(question) = deliver.duplicate(&copy)
        {
            self.to_host(deliver, question, now);
        }
        self.wire.push(deliver, copy, now);
    }
}
