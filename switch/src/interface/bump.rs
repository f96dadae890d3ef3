//! A bump in the wire: the host port leads to another network instead of the kernel.
//!
//! ```text
//!   network --- wire port --+--> clients: what they claimed, what they asked for
//!                           |
//!                           +--> host port --- the network behind: everything else, as it came
//! ```
//!
//! - Both ways alike: what comes in on one port and is no client's leaves by the other, never by its own.
//! - Clients are reached at the interface's link address alone, so a frame to another one goes on unread,
//!   whatever it is. One to a group goes on, and to the clients that care.
//! - One to the interface's link address that cannot be read is dropped, as everywhere: it may be a client's,
//!   and whoever is behind must not be shown what a client claimed. One to a group goes on all the same.
//! - What a client has alone is answered for on both sides; the question ends here.

use super::Interface;
use super::from_wire::{has_tag, without_tags};
use super::recent::Way;
use super::stations::Side;
use super::steer::Steered;
use crate::classify::{Mac, classify};
use crate::deliver::{Deliver, Sent};
use crate::session::Session;
use crate::time::Time;
use crate::verdict::{DropReason, Receiver};
use usnet_shmring::pool::Frame;

/// Destination and source of a frame.
#[inline]
fn link_addresses(frame: &[u8]) -> Option<(Mac, Mac)> {
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *frame.first_chunk::<12>()?;
    Some((Mac([d0, d1, d2, d3, d4, d5]), Mac([s0, s1, s2, s3, s4, s5])))
}

impl Interface {
    /// Whether a frame goes on to the other port of a bump without a look at more than its link
    /// addresses: no client can be its receiver.
    #[inline]
    pub(super) fn passes_unread(&mut self, frame: &[u8], from: Side) -> bool {
        let Some(stations) = &mut self.bump else { return false };
        let Some((destination, source)) = link_addresses(frame) else { return false };
        if self.clients.is_empty() {
            return destination != self.mac;
        }
        stations.heard(source, from);
        destination != self.mac && !destination.is_group()
    }

    /// A frame that came in on the host port from the network behind.
    #[inline]
    pub(super) fn from_behind(&mut self, deliver: &mut Deliver, frame: Frame, now: Time) {
        let bytes = deliver.pool.bytes(&frame);
        match self.way_from(Side::Behind, bytes, bytes.len(), now) {
            Some(Way::Client(id)) => deliver.to_client(frame, id),
            // The other port: for a frame from behind, the wire.
            Some(Way::Host) => self.wire.push(deliver, frame, now),
            Some(Way::Wire | Way::Group | Way::Dhcp) | None => {
                self.across(deliver, frame, Side::Behind, now)
            }
        }
    }

    /// A frame of whatever kind, to the interface's link address or to a group.
    pub(super) fn across(
        &mut self,
        deliver: &mut Deliver,
        mut frame: Frame,
        from: Side,
        now: Time,
    ) {
        let bytes = deliver.pool.bytes(&frame);
        let Ok(seen) = classify(bytes) else {
            let is_group = link_addresses(bytes).is_some_and(|(to, _)| to.is_group());
            return if is_group {
                self.onwards(deliver, frame, from, now);
            } else {
                deliver.drop_frame(frame, DropReason::Malformed);
            };
        };
        // A priority tag means nothing to a client and stays for everybody else.
        let has_priority = seen.vlan.is_none() && has_tag(bytes);
        let steered = self.steer(&seen, deliver.pool.bytes(&frame), now);
        match steered {
            Steered::To(Receiver::Client(id)) | Steered::Both(id) => {
                if matches!(steered, Steered::Both(_))
                    && let Some(copy) = deliver.duplicate(&frame)
                {
                    self.onwards(deliver, copy, from, now);
                }
                if has_priority && without_tags(deliver, &mut frame).is_none() {
                    return deliver.drop_frame(frame, DropReason::Malformed);
                }
                deliver.to_client(frame, id);
            }
            Steered::To(Receiver::Host) => self.onwards(deliver, frame, from, now),
            Steered::Group => {
                if !self.clients.is_empty()
                    && let Some(mut copy) = deliver.duplicate(&frame)
                {
                    let seen =
                        if has_priority { without_tags(deliver, &mut copy) } else { Some(seen) };
                    match seen {
                        Some(seen) => self.to_audience(deliver, copy, &seen, None, false, now),
                        None => deliver.drop_frame(copy, DropReason::Malformed),
                    }
                }
                self.onwards(deliver, frame, from, now);
            }
            Steered::Answer(answer) => {
                let reply = self.reply(deliver, &answer, seen.source);
                deliver.consume(frame);
                if let Some(reply) = reply {
                    self.back(deliver, reply, from, now);
                }
            }
            Steered::Early(key) => return self.keep(deliver, frame, key, from, now),
            Steered::Drop(reason) => deliver.drop_frame(frame, reason),
        }
        self.let_follow(deliver, &seen, now);
    }

    /// Out by the port that the frame did not come in on.
    #[inline]
    pub(super) fn onwards(&mut self, deliver: &mut Deliver, frame: Frame, from: Side, now: Time) {
        match from {
            Side::Wire => self.to_host(deliver, frame, now),
            Side::Behind => self.wire.push(deliver, frame, now),
        }
    }

    /// The switch's own answer, to where the question came from.
    fn back(&mut self, deliver: &mut Deliver, answer: Frame, to: Side, now: Time) {
        match to {
            Side::Wire => self.wire.push(deliver, answer, now),
            Side::Behind => self.to_host(deliver, answer, now),
        }
    }

    /// A client's frame to the link address of a station of one of the two networks: out on its side, or
    /// on both if nobody knows.
    pub(super) fn sent_to_either(
        &mut self,
        deliver: &mut Deliver,
        from: &mut Session,
        sent: Sent<'_>,
        now: Time,
    ) {
        let to = link_addresses(sent.head()).map(|(destination, _)| destination);
        match to.and_then(|to| self.bump.as_ref()?.side_of(to)) {
            Some(side) => self.sent_to_outlet(deliver, from, sent, side == Side::Behind, now),
            None => {
                let Some(copy) = deliver.copy_sent(&sent) else {
                    return deliver.drop_sent(from, sent.frame, DropReason::NoSlot);
                };
                deliver.complete(from, sent.frame);
                if let Some(second) = deliver.duplicate(&copy) {
                    self.to_host(deliver, second, now);
                }
                self.wire.push(deliver, copy, now);
            }
        }
    }
}
