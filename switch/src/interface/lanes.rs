//! VLANs of an interface: which there are, and tags off and on.
//!
//! ```text
//!   | destination | source | 0x8100 | priority, identifier | EtherType | ...    as the port has it
//!                 | destination | source |                 | EtherType | ...    as the VLAN's interface has it
//! ```
//!
//! - The payload stays where it lies: the link addresses move by the tag's four bytes. For a tag to go on there must
//!   be room for these in front of the frame, which copies for such an interface have; else the payload moves.
//! - A tag with a priority alone (identifier 0) says nothing; what lies behind it counts. Service tags (0x88a8) are
//!   not looked at.

use super::Interface;
use crate::deliver::Deliver;
use crate::port::BURST;
use crate::session::InterfaceId;
use crate::time::Time;
use crate::verdict::DropReason;
use std::collections::VecDeque;
use usnet_shmring::pool::{Frame, Pool};

/// Bytes of a tag.
pub(crate) const TAG: u16 = 4;
/// Bytes of both link addresses.
const ADDRESSES: usize = 12;
/// What a customer tag begins with.
const CUSTOMER: [u8; 2] = [0x81, 0x00];

/// A VLAN of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vlan {
    /// The interface.
    pub(crate) of: InterfaceId,
    /// The identifier, 1..=4094.
    pub(crate) id: u16,
}

/// The VLANs of an interface that have interfaces of their own.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    /// By identifier.
    all: Vec<(u16, InterfaceId)>,
    /// Frames without their tag, until they are handed over. There is room for a burst if there are VLANs.
    held: VecDeque<(InterfaceId, Frame)>,
}

impl Lanes {
    /// Whether there are any.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        !self.all.is_empty()
    }

    /// Whose a VLAN is.
    #[inline]
    pub(crate) fn of(&self, id: u16) -> Option<InterfaceId> {
        let at = self.all.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.all.get(at).map(|(_, interface)| *interface)
    }

    /// Identifiers of all.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u16> {
        self.all.iter().map(|(id, _)| *id)
    }

    /// From now on a VLAN is this interface's. False, and nothing has changed, if it is another's.
    pub(crate) fn add(&mut self, id: u16, interface: InterfaceId) -> bool {
        let Err(at) = self.all.binary_search_by_key(&id, |(id, _)| *id) else { return false };
        self.all.insert(at, (id, interface));
        self.held.reserve(BURST.saturating_sub(self.held.len()));
        true
    }

    /// A VLAN is nobody's any more.
    pub(crate) fn remove(&mut self, id: u16) {
        self.all.retain(|(other, _)| *other != id);
    }

    /// The oldest frame that is to be handed over, and to whom.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<(InterfaceId, Frame)> {
        self.held.pop_front()
    }

    /// Which interface's VLAN a frame is of, and how many bytes of tags say so.
    #[inline]
    fn find(&self, frame: &[u8]) -> Option<(InterfaceId, u16)> {
        let (_, tags) = frame.split_at_checked(ADDRESSES)?;
        match identifier(tags)? {
            0 => Some((self.of(identifier(tags.get(4..)?)?)?, 2 * TAG)),
            id => Some((self.of(id)?, TAG)),
        }
    }
}

/// What a tag names, if there is one.
#[inline]
fn identifier(tag: &[u8]) -> Option<u16> {
    let [a, b, high, low, ..] = *tag else { return None };
    ([a, b] == CUSTOMER).then_some(u16::from_be_bytes([high, low]) & 0x0fff)
}

impl Interface {
    /// A frame that arrived on the wire of an interface that may have VLANs: one of these is held until it is handed
    /// over to the interface of that VLAN.
    #[inline]
    pub(crate) fn from_trunk(&mut self, deliver: &mut Deliver, mut frame: Frame, now: Time) {
        match self.lanes.find(deliver.pool.bytes(&frame)) {
            None => self.from_wire(deliver, frame, now),
            Some((interface, tags)) => {
                if self.lanes.held.len() >= BURST {
                    return deliver.drop_frame(frame, DropReason::PortFull);
                }
                if !take_off(&mut deliver.pool, &mut frame, tags) {
                    return deliver.drop_frame(frame, DropReason::Malformed);
                }
                self.lanes.held.push_back((interface, frame));
            }
        }
    }
}

/// Takes so many bytes of tags off a frame. False if they do not come off.
#[inline]
fn take_off(pool: &mut Pool, frame: &mut Frame, tags: u16) -> bool {
    let (offset, Ok(length)) = (frame.offset(), u16::try_from(frame.len())) else { return false };
    let Some(left) = length.checked_sub(tags) else { return false };
    let head = ADDRESSES + usize::from(tags);
    let Some(head) = pool.bytes_mut(frame).get_mut(..head) else { return false };
    head.copy_within(..ADDRESSES, usize::from(tags));
    pool.set_window(frame, offset.saturating_add(tags), left)
}

/// Puts a tag on a frame. False, and the frame is what it was, if its slot has no room for that.
#[inline]
pub(crate) fn put_on(pool: &mut Pool, frame: &mut Frame, id: u16) -> bool {
    let (offset, Ok(length)) = (frame.offset(), u16::try_from(frame.len())) else { return false };
    let Some(all) = length.checked_add(TAG) else { return false };
    if usize::from(length) < ADDRESSES {
        return false;
    }
    let bytes = match offset.checked_sub(TAG) {
        Some(before) if pool.set_window(frame, before, all) => {
            let bytes = pool.bytes_mut(frame);
            if let Some(head) = bytes.get_mut(..ADDRESSES + usize::from(TAG)) {
                head.copy_within(usize::from(TAG).., 0);
            }
            bytes
        }
        _ if pool.set_window(frame, offset, all) => {
            let bytes = pool.bytes_mut(frame);
            if bytes.len() == usize::from(all) {
                bytes.copy_within(ADDRESSES..usize::from(length), ADDRESSES + usize::from(TAG));
            }
            bytes
        }
        _ => return false,
    };
    let Some((_, tag)) = bytes.split_at_mut_checked(ADDRESSES) else { return false };
    let Some(tag) = tag.first_chunk_mut::<4>() else { return false };
    let ([a, b], [high, low]) = (CUSTOMER, id.to_be_bytes());
    *tag = [a, b, high, low];
    true
}
