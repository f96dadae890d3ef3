//! A switch in the kernel: ports `valeN:x` of one name hear each other.
//!
//! ```text
//!   vale0:a --tx--> learn the source; known destination: one port, else all others --rx--> vale0:b
//! ```
//!
//! Frames are always copied, since each port has a region of its own. A port without free slots
//! loses the frame.

use super::adapter::{Adapter, Kind};
use super::transfer::{gather, place, post};
use std::collections::HashMap;
use std::ops::Range;

/// Link addresses that were heard: switch, address, port.
#[derive(Debug, Default)]
pub(super) struct Table {
    switches: HashMap<String, HashMap<[u8; 6], usize>>,
    scratch: Vec<u8>,
    /// Frames that found no slot.
    pub(super) missed: u64,
}

impl Table {
    /// Forgets a port.
    pub(super) fn forget(&mut self, port: usize) {
        for addresses in self.switches.values_mut() {
            addresses.retain(|_, at| *at != port);
        }
    }
}

/// Sends what is in a port's transmit rings to the other ports of its switch.
pub(super) fn transmit(
    adapters: &mut [Option<Adapter>],
    at: usize,
    bound: &Range<usize>,
    table: &mut Table,
) {
    // Out of its place, so that it does not hear itself.
    let Some(mut this) = adapters.get_mut(at).and_then(Option::take) else { return };
    if let (Some(view), Kind::Vale { bridge }) = (&this.view, &this.kind) {
        for kring in this.transmit.get_mut(bound.clone()).into_iter().flatten() {
            let Some(ring) = kring.view(view) else { continue };
            kring.begin(&ring, view);
            if !kring.is_good {
                continue;
            }
            post(kring, &ring, false, view);
            table.scratch.resize(1 << 16, 0);
            while kring.next != kring.hw_cur {
                let (next, length) = gather(kring, kring.hw_cur, false, view, &mut table.scratch);
                kring.next = next;
                let Some((destination, source)) = table.scratch.get(..length).and_then(addresses)
                else {
                    continue;
                };
                if !table.switches.contains_key(bridge) {
                    table.switches.insert(bridge.clone(), HashMap::new());
                }
                let known = table.switches.get_mut(bridge).and_then(|known| {
                    known.insert(source, at);
                    known.get(&destination).copied()
                });
                let frame = table.scratch.get(..length).unwrap_or_default();
                for (other, slot) in adapters.iter_mut().enumerate() {
                    let Some(adapter) = slot else { continue };
                    let is_here = matches!(&adapter.kind, Kind::Vale { bridge: b } if b == bridge);
                    if is_here && known.is_none_or(|known| known == other) {
                        table.missed += u64::from(!hand_over(adapter, frame));
                    }
                }
            }
            kring.hw_tail = kring.before(kring.hw_cur);
            kring.finish(&ring);
        }
    }
    if let Some(slot) = adapters.get_mut(at) {
        *slot = Some(this);
    }
}

/// Destination and source of a frame.
fn addresses(frame: &[u8]) -> Option<([u8; 6], [u8; 6])> {
    let (destination, rest) = frame.split_first_chunk()?;
    Some((*destination, *rest.first_chunk()?))
}

fn hand_over(adapter: &mut Adapter, frame: &[u8]) -> bool {
    let (Some(view), Some(kring)) = (&adapter.view, adapter.receive.first_mut()) else {
        return false;
    };
    let Some(ring) = kring.view(view) else { return false };
    let is_placed = place(kring, &ring, view, frame);
    for bell in adapter.bells.iter().filter(|_| is_placed) {
        bell.set(true);
    }
    is_placed
}
