//! Who would get a frame that arrives on the wire, and why; see [`explain`](crate::explain).

use super::Interface;
use super::steer::Steered;
use crate::classify::{Classified, Icmp, IpKind, IpPacket, Payload, Protocol, classify};
use crate::config::Unmatched;
use crate::explain::{Explained, Outcome, Question};
use crate::refusal::LONGEST;
use crate::steer::Look;
use crate::time::Time;
use crate::verdict::{DropReason, Receiver};
use crate::vet::is_group_address;
use usnet_shmring::ledger::SessionId;
use usnet_shmring::offload::Offload;

/// How a claim came to be the one that counts.
fn how(look: &Look) -> &'static str {
    match (look.has_sources, look.is_spread) {
        (_, true) => ", by a group in which this flow is served,",
        (true, false) => ", as far as this remote end is concerned,",
        (false, false) => "",
    }
}

impl Interface {
    /// What would become of this frame. Nothing is learned, and no flow kept fresh.
    pub(crate) fn explain(&mut self, question: &Question, now: Time) -> Explained {
        let mut told =
            Explained { steps: Vec::new(), outcome: Outcome::Dropped(DropReason::Malformed) };
        let frame = question.frame(self.mac);
        let Ok(seen) = classify(&frame) else {
            told.step("frame", None, "it cannot be read");
            return told;
        };
        let Payload::Ip(packet) = seen.payload else { return told };
        told.step("frame", None, format_args!("for the interface's link address {}", self.mac));
        let look = self.table.look(&packet.flow);
        let has_exact = self.tell_steps(&mut told, &packet, &look, now);
        let learned_elsewhere = look.exact.is_none().then_some(look.book).flatten();
        told.outcome = match learned_elsewhere.filter(|_| has_exact) {
            // Asking the way that frames go would take the flow over.
            Some(receiver) => Outcome::To(receiver),
            None => {
                // A flow that is found is marked as used when it was last used.
                let now = look.exact.and_then(|(_, used)| used).unwrap_or(now);
                match self.steer(&seen, &frame, now) {
                    Steered::To(receiver) => Outcome::To(receiver),
                    Steered::Both(id) => {
                        Outcome::ToMany(vec![Receiver::Client(id), Receiver::Host])
                    }
                    Steered::Group => Outcome::ToMany(self.audience(&seen, now)),
                    Steered::Answer(_) => Outcome::Answered,
                    Steered::Drop(reason) => Outcome::Dropped(reason),
                    // Only pieces wait, and this is whole.
                    Steered::Early(_) => Outcome::Dropped(DropReason::NoReceiver),
                }
            }
        };
        if told.outcome == Outcome::To(Receiver::Host)
            && self.kernel_hears.iter().any(|pass| pass.covers(&frame))
        {
            told.step("kernel", Some(Receiver::Host), "it hears this by itself, before the switch");
            told.outcome = Outcome::Heard;
        }
        if told.outcome == Outcome::Dropped(DropReason::NoReceiver) {
            self.tell_refusal(&mut told, &frame, &seen);
        }
        told
    }

    /// What the sender hears of a frame that nobody receives.
    fn tell_refusal(&self, told: &mut Explained, frame: &[u8], seen: &Classified) {
        // Its checksums are not filled in.
        let answer = self.refusal_of(frame, Offload::SOUND, seen, &mut [0; LONGEST]);
        let is_tcp = matches!(&seen.payload, Payload::Ip(packet)
            if packet.flow.protocol == Protocol::TCP);
        let says = match answer {
            _ if self.unmatched == Unmatched::Drop => return,
            None => "what has no receiver is answered here, but this is not",
            Some(_) if is_tcp => "the switch answers with a reset, unless it has answered too many",
            Some(_) => "the switch answers that it is unreachable, unless it has answered too many",
        };
        told.step("on_unmatched", None, says);
        if answer.is_some() {
            told.outcome = Outcome::Answered;
        }
    }

    /// What each table says, in the order in which they are asked. Whether exact flows are asked.
    fn tell_steps(&self, told: &mut Explained, packet: &IpPacket, look: &Look, now: Time) -> bool {
        let flow = &packet.flow;
        let to = flow.destination.to_ip();
        if is_group_address(flow.destination) {
            let groups = &self.table.groups;
            let has_joined = |id: &&SessionId| groups.has(flow.destination, **id, now);
            let members = self.clients.iter().filter(has_joined).count();
            let text = format!("{to} is a group: for all that hold the port, and the host");
            told.step("group", None, text);
            told.step("members", None, format_args!("clients that have joined it: {members}"));
            return false;
        }
        match packet.kind {
            IpKind::Plain => {}
            IpKind::Icmp(Icmp::EchoRequest) => {
                told.step("kind", None, "an echo request is for whoever has the address");
                self.tell_address(told, packet, look);
                return false;
            }
            IpKind::DhcpReply => {
                let text = "an answer of DHCP is for who asked with its number; if nobody did, for";
                told.step("kind", self.host(), text);
                return false;
            }
            IpKind::DhcpRequest => {
                told.step("kind", self.host(), "questions of DHCP are for");
                return false;
            }
            IpKind::Icmp(Icmp::EchoReply) => {
                self.tell_echo_reply(told, packet, look);
                return true;
            }
            _ => {}
        }
        match look.exact {
            Some((receiver, Some(_))) => {
                told.step("exact flow", Some(receiver), "learned from what it has sent:");
                return true;
            }
            Some((receiver, None)) => {
                told.step("exact flow", Some(receiver), "a rule for this flow alone:");
                return true;
            }
            None => told.step("exact flow", None, "none with these addresses and ports"),
        }
        if let Some(receiver) = look.book {
            told.step("other workers", Some(receiver), "one has learned this flow:");
            return true;
        }
        match look.listener {
            Some(Some(receiver)) => {
                let text =
                    format!("port {} at {to} is claimed{} by", flow.destination_port, how(look));
                told.step("listener", Some(receiver), text);
                return true;
            }
            Some(None) => {
                let which = if look.has_sources { " for this remote end" } else { "" };
                let text = format!("nobody claims port {} at {to}{which}", flow.destination_port);
                told.step("listener", None, text);
            }
            None => {}
        }
        if let Some(receiver) = look.protocol {
            let text = format!("protocol {} at {to} is claimed{} by", flow.protocol.0, how(look));
            told.step("protocol", Some(receiver), text);
            return true;
        }
        self.tell_address(told, packet, look);
        true
    }

    /// Whose an echo reply is: who asked that host with the identifier, which is in the place of both ports.
    fn tell_echo_reply(&self, told: &mut Explained, packet: &IpPacket, look: &Look) {
        let (to, from) = (packet.flow.destination, packet.flow.source.to_ip());
        let asked = look.exact.map(|(receiver, _)| receiver).or(look.book);
        let id = packet.flow.destination_port;
        let Some(asker) = asked else {
            let text = format!("nobody is known to have asked {from} with identifier {id}");
            told.step("echo", None, text);
            return self.tell_address(told, packet, look);
        };
        let text = format!("a reply of {from} with identifier {id} is for who asked with it:");
        told.step("echo", Some(asker), text);
        let is_alone = look.owner.is_some() || self.table.is_in_prefix(to);
        if self.host.is_some() && asker != Receiver::Host && !is_alone {
            let text = "it may have asked with the same identifier, so a copy goes there:";
            told.step("kernel", Some(Receiver::Host), text);
        }
    }

    fn host(&self) -> Option<Receiver> {
        self.host.as_ref().map(|_| Receiver::Host)
    }

    /// Whose the address is by its prefix; whether it is anybody's.
    fn tell_prefix(&self, told: &mut Explained, packet: &IpPacket, look: &Look) -> bool {
        let Some((rule, holder)) = look.prefix else { return false };
        let to = packet.flow.destination.to_ip();
        let text = format!("{to} is of a prefix, and {rule} is claimed by");
        told.step("prefix", Some(holder), text);
        true
    }

    fn tell_address(&self, told: &mut Explained, packet: &IpPacket, look: &Look) {
        let to = packet.flow.destination.to_ip();
        match (look.is_local, look.owner, look.shared) {
            (true, Some(owner), _) => {
                told.step("address", Some(owner), format_args!("{to} belongs to one alone:"));
            }
            (true, None, Some(shared)) => {
                let text = format!("{to} is shared; what nobody claims there is for");
                told.step("address", Some(shared), text);
            }
            (true, None, None) => {
                told.step("address", None, format_args!("{to} is shared among clients only"));
            }
            (false, ..) if self.tell_prefix(told, packet, look) => {}
            (false, ..) => {
                told.step("address", None, format_args!("{to} is not the interface's"));
                match look.default {
                    Some(default) => {
                        told.step("interface", Some(default), "what is for no address here is for");
                    }
                    None => {
                        told.step("interface", None, "what is for no address here is for nobody")
                    }
                }
            }
        }
        if self.host.is_none() {
            told.step("host", None, "the interface has no way to a host");
        }
    }

    /// Who would get a copy of a group frame.
    fn audience(&self, seen: &Classified, now: Time) -> Vec<Receiver> {
        let clients = self.clients.iter().filter(|id| self.cares(**id, seen, false, now));
        clients.map(|id| Receiver::Client(*id)).chain(self.host()).collect()
    }
}
