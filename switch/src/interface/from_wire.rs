//! Frames that arrive from the network.

use super::Interface;
use super::recall::LONG_AGO;
use super::recent::{Key, Origin, Way};
use super::stations::Side;
use super::steer::Steered;
use crate::classify::{Classified, classify, classify_plain};
use crate::config::Unmatched;
use crate::deliver::Deliver;
use crate::time::Time;
use crate::verdict::{DropReason, Receiver};
use usnet_shmring::pool::Frame;

impl Interface {
    /// A frame that arrived on the wire.
    #[inline]
    pub(crate) fn from_wire(&mut self, deliver: &mut Deliver, frame: Frame, now: Time) {
        let bytes = deliver.pool.bytes(&frame);
        match self.way_from(Side::Wire, bytes, bytes.len(), now) {
            Some(Way::Client(id)) => deliver.to_client(frame, id),
            Some(Way::Host) => self.wire_to_host(deliver, frame, now),
            Some(Way::Wire | Way::Group | Way::Dhcp) | None if self.bump.is_some() => {
                self.across(deliver, frame, Side::Wire, now);
            }
            Some(Way::Wire | Way::Group | Way::Dhcp) | None => {
                self.any_from_wire(deliver, frame, now)
            }
        }
    }

    /// Where a frame of `length` bytes goes that begins with `head` and came in from a network, if its
    /// head alone says so: [`Way::Host`] is to the other port. The frame may lie anywhere; every way of
    /// frames asks here.
    #[inline(always)]
    pub(super) fn way_from(
        &mut self,
        side: Side,
        head: &[u8],
        length: usize,
        now: Time,
    ) -> Option<Way> {
        if self.passes_unread(head, side) {
            return Some(Way::Host);
        }
        let key = Key::of(head, length, Origin::network(side));
        match self.remembered(key) {
            Some(decision) => {
                debug_assert_eq!(self.steer_anew(head, length, None, LONG_AGO), Some(decision.way));
                Some(self.again(decision, head, now))
            }
            None => self.steer_anew(head, length, key, now),
        }
    }

    /// Where a frame from a network goes, if it is plain and has one receiver.
    #[inline(never)]
    fn steer_anew(
        &mut self,
        head: &[u8],
        length: usize,
        key: Option<Key>,
        now: Time,
    ) -> Option<Way> {
        let plain = classify_plain(head, length)?;
        if plain.destination != self.mac {
            return None;
        }
        let (steered, basis) = self.steer_plain(&plain, now);
        let way = match steered {
            Steered::To(Receiver::Client(id)) => Way::Client(id),
            Steered::To(Receiver::Host) => Way::Host,
            Steered::Both(_)
            | Steered::Group
            | Steered::Answer(_)
            | Steered::Early(_)
            | Steered::Drop(_) => return None,
        };
        self.mark(&basis, head, now);
        self.remember(key, way, &basis);
        Some(way)
    }

    /// A frame that arrived on the wire, of whatever kind.
    fn any_from_wire(&mut self, deliver: &mut Deliver, mut frame: Frame, now: Time) {
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
        match self.steer(&seen, deliver.pool.bytes(&frame), now) {
            Steered::To(Receiver::Client(id)) => deliver.to_client(frame, id),
            Steered::To(Receiver::Host) => self.wire_to_host(deliver, frame, now),
            Steered::Both(id) => {
                if let Some(copy) = deliver.duplicate(&frame) {
                    self.wire_to_host(deliver, copy, now);
                }
                deliver.to_client(frame, id);
            }
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
            Steered::Early(key) => return self.keep(deliver, frame, key, Side::Wire, now),
            Steered::Drop(DropReason::NoReceiver) if self.unmatched != Unmatched::Drop => {
                self.refuse(deliver, frame, &seen, now);
            }
            Steered::Drop(reason) => deliver.drop_frame(frame, reason),
        }
        self.let_follow(deliver, &seen, now);
    }
}

/// Whether a frame has a tag behind its link addresses.
#[inline]
pub(super) fn has_tag(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]))
}

/// Takes priority tags off, which say nothing that a client would understand, and reads the frame
/// again. `None` if that does not work, and the frame is of no use.
#[cold]
pub(super) fn without_tags(deliver: &mut Deliver, frame: &mut Frame) -> Option<Classified> {
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
