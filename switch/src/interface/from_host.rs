//! Frames that come in on the host port: those that the kernel sends.

use super::Interface;
use super::steer::{Answer, Steered};
use crate::classify::{Classified, Icmp, IpKind, IpPacket, Mac, Payload, classify, classify_plain};
use crate::deliver::Deliver;
use crate::time::Time;
use crate::verdict::{DropReason, Receiver};
use usnet_shmring::pool::Frame;

/// Echo requests of the kernel whose answers are kept for it at one time.
pub(crate) const ECHOES: usize = 256;

impl Interface {
    /// A frame that came in on the host port.
    pub(crate) fn from_host(&mut self, deliver: &mut Deliver, frame: Frame, now: Time) {
        if self.bump.is_some() {
            return self.from_behind(deliver, frame, now);
        }
        let bytes = deliver.pool.bytes(&frame);
        if self.leaves(bytes, bytes.len()) {
            return self.wire.push(deliver, frame, now);
        }
        let seen = match classify(deliver.pool.bytes(&frame)) {
            Ok(seen) => seen,
            Err(_) => return deliver.drop_frame(frame, DropReason::Malformed),
        };
        self.note_question(&seen, deliver.pool.bytes(&frame), now);
        if seen.destination == self.mac && self.mac != Mac::default() {
            return match self.steer(&seen, deliver.pool.bytes(&frame), now) {
                Steered::To(Receiver::Client(id)) | Steered::Both(id) => {
                    deliver.to_client(frame, id);
                }
                Steered::Answer(answer) => self.answer_host(deliver, frame, &answer, &seen, now),
                Steered::Drop(reason) => deliver.drop_frame(frame, reason),
                // The kernel sends the first piece first.
                Steered::Early(_) => deliver.drop_frame(frame, DropReason::PieceAlone),
                Steered::To(Receiver::Host) | Steered::Group => {
                    deliver.drop_frame(frame, DropReason::ToSelf);
                }
            };
        }
        if seen.destination.is_group() {
            match self.steer(&seen, deliver.pool.bytes(&frame), now) {
                Steered::Answer(answer) => {
                    return self.answer_host(deliver, frame, &answer, &seen, now);
                }
                Steered::Group if !self.clients.is_empty() => {
                    if let Some(copy) = deliver.duplicate(&frame) {
                        self.to_audience(deliver, copy, &seen, None, false, now);
                    }
                }
                // Tagged frames and the kernel's own business with its link and its neighbours.
                Steered::Group
                | Steered::To(_)
                | Steered::Both(_)
                | Steered::Early(_)
                | Steered::Drop(_) => {}
            }
        }
        self.wire.push(deliver, frame, now);
    }

    /// Learns whose the answers to a question of the kernel are, so that no client takes them by asking
    /// with the same number. Of more echo requests than [`ECHOES`] that are under way it is not learned.
    fn note_question(&mut self, seen: &Classified, bytes: &[u8], now: Time) {
        let flow = match &seen.payload {
            Payload::Ip(IpPacket { kind: IpKind::Icmp(Icmp::EchoRequest), flow, .. }) => flow,
            Payload::Ip(packet) if packet.kind == IpKind::DhcpRequest => {
                return self.note_dhcp(packet, bytes, now);
            }
            _ => return,
        };
        let (answer, table) = (flow.reversed(), &mut self.table);
        if !table.is_local(flow.source) || table.exact(&answer, now).is_some() {
            return;
        }
        if self.echoes.len() >= ECHOES
            && let Some(oldest) = self.echoes.pop_front()
            && !table.retire(&oldest, Receiver::Host, now)
        {
            return self.echoes.push_back(oldest);
        }
        if table.learn(answer, Receiver::Host, now).is_ok() {
            self.echoes.push_back(answer);
        }
    }

    /// Whether a frame of `length` bytes that the kernel sent and that begins with `head` goes to the wire
    /// alone, as the head says: it is plain and for another link address than ours.
    #[inline]
    pub(super) fn leaves(&self, head: &[u8], length: usize) -> bool {
        classify_plain(head, length).is_some_and(|plain| {
            let is_ours = plain.destination == self.mac && self.mac != Mac::default();
            !is_ours && !plain.destination.is_group()
        })
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
}
