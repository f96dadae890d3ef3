//! What a sync moves between an interface's rings and its media.
//!
//! ```text
//!   transmit:  slots up to head --post--> told to the card --send--> wire      host tx --> host
//!   receive:   slots up to head --post--> card's again;  wire --arrive--> hw_tail
//! ```
//!
//! - A frame is copied once on reception, from where the medium has it into the buffer.
//! - The wire is read for all rings of a card, whichever device asks; a frame's addresses and ports
//!   choose its ring.
//! - A wire that takes no more leaves slots with the card, which goes on at the next sync.

use super::adapter::Kind;
use super::nic::{Completion, Link, Nic, Overflow};
use super::region::View;
use super::ring::{Kring, RingView, Slot};
use crate::port::netmap::abi::slot_flag;

/// Frames shorter than an Ethernet header do not go to the host.
const MIN_TO_HOST: usize = 14;

/// The same for transmission: where frames begin, and that they go on. Whether anything came of it.
pub(super) fn post_frames(nic: &Nic, kring: &mut Kring, ring: &RingView<'_>, view: &View) -> bool {
    let (first, last) = (kring.hw_cur, kring.before(kring.head));
    let goes_on = slot_flag::MOREFRAG;
    if nic.sends_whole && first != kring.head && ring.slot(last).flags & goes_on != 0 {
        return false;
    }
    post(kring, ring, nic.needs_flag, view);
    let mut number = first;
    while number != kring.head {
        let offset = kring.offset(ring, number);
        if let Some(place) = kring.offsets.get_mut(number as usize) {
            *place = offset;
        }
        let slot = ring.slot(number);
        let gone = if nic.sends_whole { slot_flag::REPORT } else { slot_flag::REPORT | goes_on };
        if slot.flags & gone != 0 {
            ring.set_length(number, slot.length, slot.flags & !gone);
        }
        number = kring.after(number);
    }
    true
}

/// Tells the card of the slots that the user has handed over.
pub(super) fn post(kring: &mut Kring, ring: &RingView<'_>, needs_flag: bool, view: &View) {
    let mut number = kring.hw_cur;
    while number != kring.head {
        let mut slot = ring.slot(number);
        if slot.flags & slot_flag::BUF_CHANGED != 0 {
            ring.set_slot(number, Slot { flags: slot.flags & !slot_flag::BUF_CHANGED, ..slot });
        } else if needs_flag && let Some(known) = kring.posted.get(number as usize) {
            slot.buffer = known.buffer;
        }
        if slot.buffer >= view.buffer_total {
            slot.buffer = 0;
        }
        if let Some(posted) = kring.posted.get_mut(number as usize) {
            *posted = slot;
        }
        number = kring.after(number);
    }
    kring.hw_cur = number;
}

/// Sends what the card was told of, as far as the wire takes it, and gives slots back.
pub(super) fn send(nic: &mut Nic, kring: &mut Kring, view: &View) {
    let is_up = nic.is_up();
    let Nic { link, scratch, counters, completion, is_generic, has_one_slot, .. } = nic;
    let each_alone = *is_generic || *has_one_slot;
    if let Link::Wire(wire) = link
        && is_up
    {
        while kring.next != kring.hw_cur {
            let (end, length) = gather(kring, kring.hw_cur, each_alone, view, scratch);
            match scratch.get(..length) {
                Some(frame) if length > 0 => {
                    if !wire.send(frame) {
                        break;
                    }
                    counters.transmitted += 1;
                }
                _ => counters.bad_length += 1,
            }
            kring.next = end;
        }
    }
    let done = match completion {
        Completion::AtOnce => kring.next,
        Completion::NextSync => core::mem::replace(&mut kring.done, kring.next),
    };
    kring.hw_tail = kring.before(done);
}

/// Copies one frame's slots from `next` on; returns where the next begins, and the bytes.
pub(super) fn gather(
    kring: &Kring,
    end: u32,
    each_alone: bool,
    view: &View,
    into: &mut [u8],
) -> (u32, usize) {
    let (mut number, mut length) = (kring.next, 0);
    while number != end {
        let Some(slot) = kring.posted.get(number as usize) else { break };
        // Longer than a buffer is cut, as the drivers do.
        let offset = kring.offsets.get(number as usize).copied().unwrap_or(0);
        let part = usize::from(slot.length).min(view.buffer_size.saturating_sub(offset));
        if let Some(place) = into.get_mut(length..length + part) {
            view.memory.read(view.buffer(slot.buffer) + offset, place);
            length += part;
        }
        number = kring.after(number);
        if each_alone || slot.flags & slot_flag::MOREFRAG == 0 {
            break;
        }
    }
    (number, length)
}

/// Puts a frame into the ring's next slots; false if there are not enough.
pub(super) fn place(kring: &mut Kring, ring: &RingView<'_>, view: &View, frame: &[u8]) -> bool {
    let size = kring.filled(view);
    let parts = frame.len().div_ceil(size).max(1);
    if parts > kring.room() as usize {
        return false;
    }
    let mut rest = frame;
    loop {
        let (part, after) = rest.split_at(rest.len().min(size));
        let number = kring.hw_tail;
        let buffer = kring.posted.get(number as usize).map_or(0, |posted| posted.buffer);
        view.memory.write(view.buffer(buffer), part);
        let flags = if after.is_empty() { 0 } else { slot_flag::MOREFRAG };
        ring.set_length(number, u16::try_from(part.len()).unwrap_or(u16::MAX), flags);
        kring.hw_tail = kring.after(number);
        if after.is_empty() {
            return true;
        }
        rest = after;
    }
}

/// Takes what the wire has into the card's rings.
pub(super) fn arrive(nic: &mut Nic, rings: &mut [Kring], view: &View) {
    if !nic.is_up() {
        return;
    }
    let Nic { link: Link::Wire(wire), host, scratch, counters, is_generic, overflow, .. } = nic
    else {
        return;
    };
    let slots: u32 = rings.iter().map(|ring| ring.slots).sum();
    for _ in 0..slots {
        if !rings.iter().any(|ring| ring.users > 0 && ring.room() > 0) {
            break;
        }
        let some = wire.lend(scratch, &mut |frame| {
            let Some(kring) = choose(rings, frame) else { return };
            let Some(ring) = kring.view(view).filter(|_| kring.users > 0) else {
                let is_taken = host.as_mut().is_some_and(|host| host.send(frame));
                counters.passed += u64::from(is_taken);
                counters.refused += u64::from(!is_taken);
                return;
            };
            if frame.is_empty() || (frame.len() > view.buffer_size && !*is_generic) {
                counters.bad_length += 1;
            } else if place(kring, &ring, view, frame) {
                counters.received += 1;
            } else {
                counters.missed += 1;
            }
        });
        if !some {
            return;
        }
    }
    if *overflow == Overflow::Drop {
        let mut left = slots;
        while left > 0 && wire.lend(scratch, &mut |_| counters.missed += 1) {
            left -= 1;
        }
    }
}

/// The ring that a frame comes to, by its addresses and ports as they lie in IPv4.
fn choose<'a>(rings: &'a mut [Kring], frame: &[u8]) -> Option<&'a mut Kring> {
    let count = rings.len();
    if count <= 1 {
        return rings.first_mut();
    }
    let flow = frame.get(26..38).or_else(|| frame.get(..12)).unwrap_or_default();
    let hash = flow
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    rings.get_mut((hash >> 8) as usize % count)
}

/// Gives what the user put into a host ring to the host's stack.
pub(super) fn send_to_host(nic: &mut Nic, kring: &mut Kring, ring: &RingView<'_>, view: &View) {
    post(kring, ring, false, view);
    let Nic { host, scratch, counters, .. } = nic;
    while kring.next != kring.hw_cur {
        let slot = kring.posted.get(kring.next as usize).copied().unwrap_or_default();
        kring.next = kring.after(kring.next);
        let length = usize::from(slot.length);
        let Some(frame) = scratch
            .get_mut(..length)
            .filter(|_| (MIN_TO_HOST..=view.buffer_size).contains(&length))
        else {
            counters.bad_length += 1;
            continue;
        };
        view.memory.read(view.buffer(slot.buffer), frame);
        let is_taken = host.as_mut().is_some_and(|host| host.send(frame));
        counters.to_host += u64::from(is_taken);
        counters.refused += u64::from(!is_taken);
    }
    kring.hw_tail = kring.before(kring.hw_cur);
}

/// Takes what the host's stack has sent into its rings, while the card is open.
pub(super) fn arrive_from_host(nic: &mut Nic, rings: &mut [Kring], view: &View) {
    let Nic { host: Some(host), scratch, counters, .. } = nic else { return };
    let slots: u32 = rings.iter().map(|ring| ring.slots).sum();
    for _ in 0..slots {
        if !rings.iter().any(|ring| ring.users > 0 && ring.room() > 0) {
            return;
        }
        let some = host.lend(scratch, &mut |frame| {
            let Some(kring) = choose(rings, frame) else { return };
            let ring = kring.view(view).filter(|_| kring.users > 0);
            match ring {
                None => counters.lost += 1,
                Some(_) if frame.len() > view.buffer_size => counters.bad_length += 1,
                Some(ring) if place(kring, &ring, view, frame) => counters.from_host += 1,
                Some(_) => counters.missed += 1,
            }
        });
        if !some {
            return;
        }
    }
}

/// Hands slots to the other end of a pair, as they are.
pub(super) fn send_to_peer(
    kring: &mut Kring,
    ring: &RingView<'_>,
    peer: &mut Kring,
    peer_ring: &RingView<'_>,
) -> bool {
    let (mut number, mut arrived) = (kring.hw_cur, None);
    while number != kring.head {
        let slot = ring.slot(number);
        peer_ring.set_slot(number, slot);
        if slot.flags & slot_flag::BUF_CHANGED != 0 {
            ring.set_slot(number, Slot { flags: slot.flags & !slot_flag::BUF_CHANGED, ..slot });
        }
        number = kring.after(number);
        if slot.flags & slot_flag::MOREFRAG == 0 {
            arrived = Some(number);
        }
    }
    kring.hw_cur = number;
    // A frame is shown when its last slot has come.
    if let Some(tail) = arrived {
        peer.hw_tail = tail;
    }
    arrived.is_some()
}

/// Gives slots back to the other end, with the buffers that the user says it changed.
pub(super) fn give_to_peer(
    kring: &mut Kring,
    ring: &RingView<'_>,
    peer: &mut Kring,
    peer_ring: &RingView<'_>,
) {
    if kring.hw_cur == kring.head {
        return;
    }
    let mut number = kring.hw_cur;
    while number != kring.head {
        let slot = ring.slot(number);
        if slot.flags & slot_flag::BUF_CHANGED != 0 {
            peer_ring.set_slot(number, slot);
            ring.set_slot(number, Slot { flags: slot.flags & !slot_flag::BUF_CHANGED, ..slot });
        }
        number = kring.after(number);
    }
    kring.hw_cur = number;
    peer.hw_tail = kring.before(number);
}

/// The interface of a port, if it is one.
pub(super) fn nic_of(kind: &mut Kind) -> Option<&mut Nic> {
    if let Kind::Nic(nic) = kind { Some(nic) } else { None }
}
