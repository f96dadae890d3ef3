//! A port as the kernel keeps it, however many devices are bound to it: its rings, and what they
//! lead to.
//!
//! ```text
//!   Adapter -- transmit: tx 0, tx 1, .. host tx 0, ..
//!           -- receive:  rx 0, rx 1, .. host rx 0, ..
//! ```
//!
//! - A ring exists while a device has it bound; those of a pair exist while a device has either end.
//! - The receive ring of a pair has no buffers of its own: its slots are the peer's. At its end each
//!   side frees what lies on its side.

use super::GLOBAL_REGION;
use super::media::Bell;
use super::monitor::Hears;
use super::nic::Nic;
use super::region::{Region, View};
use super::ring::{Kring, Slot};
use super::transfer::nic_of;
use crate::port::netmap::abi::layout::{port, ring, slot};
use crate::port::netmap::abi::{API, Offsets};
use rustix::io::Errno;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Numbers of rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) tx: usize,
    pub(super) rx: usize,
    pub(super) host_tx: usize,
    pub(super) host_rx: usize,
}

/// What a port is.
#[derive(Debug)]
pub(super) enum Kind {
    /// An interface.
    Nic(Box<Nic>),
    /// One end of a pipe.
    Pipe {
        /// The other one.
        peer: usize,
    },
    /// A port of a switch in the kernel.
    Vale {
        /// The switch.
        bridge: String,
    },
    /// Hears an interface.
    Monitor(Hears),
    /// Only a region.
    Null,
}

/// A port.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) counts: Counts,
    pub(super) tx_slots: u32,
    pub(super) rx_slots: u32,
    pub(super) transmit: Vec<Kring>,
    pub(super) receive: Vec<Kring>,
    /// Its region, while it has users; before that, the one it would have.
    pub(super) region: u16,
    pub(super) view: Option<View>,
    /// Devices that are bound to it.
    pub(super) users: usize,
    /// The interface was removed.
    pub(super) is_gone: bool,
    pub(super) bells: Vec<Arc<Bell>>,
}

/// What a device has of a port.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) adapter: usize,
    pub(super) transmit: Range<usize>,
    pub(super) receive: Range<usize>,
    pub(super) port_at: usize,
    pub(super) extra_buffers: u32,
}

impl Adapter {
    pub(super) fn new(name: &str, kind: Kind, counts: Counts, slots: (u32, u32)) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            counts,
            tx_slots: slots.0,
            rx_slots: slots.1,
            transmit: Vec::new(),
            receive: Vec::new(),
            region: 0,
            view: None,
            users: 0,
            is_gone: false,
            bells: Vec::new(),
        }
    }

    /// The port whose rings are this one's other side.
    pub(super) fn peer(&self) -> Option<usize> {
        match &self.kind {
            Kind::Pipe { peer } => Some(*peer),
            Kind::Nic(nic) => nic.peer(),
            Kind::Vale { .. } | Kind::Monitor(_) | Kind::Null => None,
        }
    }

    /// Rings that the request reports, and those that the port's table has: netmap tells pipes and
    /// switch ports that they have one host ring, which nobody can bind.
    pub(super) fn table_hosts(&self) -> (usize, usize) {
        match self.kind {
            Kind::Pipe { .. } | Kind::Vale { .. } | Kind::Monitor(_) => (1, 1),
            Kind::Nic(_) | Kind::Null => (self.counts.host_tx, self.counts.host_rx),
        }
    }

    /// Begins to be used, with all rings as new and none made yet.
    pub(super) fn activate(&mut self, region: &Region) {
        let Counts { tx, rx, host_tx, host_rx } = self.counts;
        let ring = |slots, is_transmit| move |_| Kring::new(slots, is_transmit);
        self.transmit = (0..tx + host_tx).map(ring(self.tx_slots, true)).collect();
        self.receive = (0..rx + host_rx).map(ring(self.rx_slots, false)).collect();
        self.view = Some(region.view.clone());
        self.region = region.info().memory_id;
    }

    pub(super) fn deactivate(&mut self) {
        self.transmit.clear();
        self.receive.clear();
        self.view = None;
    }

    fn rings(&mut self, is_transmit: bool) -> &mut Vec<Kring> {
        if is_transmit { &mut self.transmit } else { &mut self.receive }
    }

    /// Counts a device in at the rings of `range`.
    pub(super) fn claim(
        &mut self,
        is_transmit: bool,
        range: &Range<usize>,
        is_exclusive: bool,
    ) -> io::Result<()> {
        let rings = self.rings(is_transmit).get_mut(range.clone()).ok_or(Errno::INVAL)?;
        if rings.iter().any(|ring| ring.is_exclusive || (is_exclusive && ring.users > 0)) {
            return Err(Errno::BUSY.into());
        }
        for ring in rings {
            ring.users += 1;
            ring.is_exclusive = is_exclusive;
        }
        Ok(())
    }

    /// Counts a device out.
    pub(super) fn unclaim(&mut self, is_transmit: bool, range: &Range<usize>) {
        for ring in self.rings(is_transmit).get_mut(range.clone()).into_iter().flatten() {
            ring.users = ring.users.saturating_sub(1);
            ring.is_exclusive = false;
        }
    }

    /// Makes the rings that somebody uses, as far as they do not exist. Those of a pair are made
    /// whoever uses them, on reception without buffers.
    pub(super) fn make_rings(&mut self, region: &mut Region, is_pair: bool) -> io::Result<()> {
        let view = region.view.clone();
        for is_transmit in [true, false] {
            let of_card = if is_transmit { self.counts.tx } else { self.counts.rx };
            for (id, kring) in self.rings(is_transmit).iter_mut().enumerate() {
                let is_paired = is_pair && id < of_card;
                if kring.at.is_some() || (kring.users == 0 && !is_paired) {
                    continue;
                }
                let at = region.take_ring(ring::SLOTS + kring.slots as usize * slot::SIZE)?;
                kring.at = Some(at);
                let Some(ring) = kring.view(&view) else { continue };
                ring.set_up(kring.slots, &view, id, is_transmit);
                kring.show(&ring);
                kring.posted = vec![Slot::default(); kring.slots as usize];
                kring.offsets = vec![0; kring.slots as usize];
                if is_paired && !is_transmit {
                    continue;
                }
                let length = u16::try_from(view.buffer_size).unwrap_or(u16::MAX);
                for number in 0..kring.slots {
                    let buffer = region.take_buffer().ok_or(Errno::NOMEM)?;
                    kring.granted += 1;
                    let slot = Slot { buffer, length, flags: 0 };
                    ring.set_slot(number, slot);
                    if let Some(posted) = kring.posted.get_mut(number as usize) {
                        *posted = slot;
                    }
                }
            }
        }
        Ok(())
    }

    /// Has the bound rings' slots say where in their buffers frames begin.
    pub(super) fn grant_offsets(&mut self, bound: &Bound, wish: &mut Offsets) -> io::Result<()> {
        let Self { kind, view: Some(view), transmit, receive, .. } = self else {
            return Err(Errno::INVAL.into());
        };
        if !nic_of(kind).is_some_and(|nic| nic.grants_offsets()) {
            return Err(Errno::OPNOTSUPP.into());
        }
        let mask = match wish.bits {
            65.. => return Err(Errno::INVAL.into()),
            0 | 64 => u64::MAX,
            bits => (1 << bits) - 1,
        };
        let Offsets { most, initial, .. } = *wish;
        if most > view.buffer_size as u64 || most & mask != most || initial > most {
            return Err(Errno::INVAL.into());
        }
        let bound_of = |rings: &mut [Kring], range: &Range<usize>| {
            for kring in rings.get_mut(range.clone()).into_iter().flatten() {
                if kring.offset_mask == 0 {
                    (kring.offset_mask, kring.offset_most) = (mask, most);
                    if let Some(ring) = kring.view(view) {
                        ring.set_offset_mask(mask);
                    }
                } else if kring.offset_mask & mask != mask || kring.offset_most < most {
                    return Err(Errno::BUSY);
                }
            }
            Ok(())
        };
        bound_of(transmit, &bound.transmit)?;
        bound_of(receive, &bound.receive)?;
        Ok(())
    }

    /// Lets the receive rings of the card show the buffers of the other side's transmit rings, if
    /// both were just made.
    pub(super) fn borrow_slots(&mut self, peer: &Self) {
        let Some(view) = &self.view else { return };
        let of_card = self.counts.rx;
        for (kring, other) in self.receive.iter_mut().take(of_card).zip(&peer.transmit) {
            let (Some(ring), Some(from)) = (kring.view(view), other.view(view)) else { continue };
            if core::mem::replace(&mut kring.is_borrowing, true) {
                continue;
            }
            for number in 0..kring.slots.min(other.slots) {
                ring.set_slot(number, from.slot(number));
            }
        }
    }

    /// Ends the rings that nobody uses and frees the buffers in their slots. Of a pair, `peer` are
    /// the other side's receive rings, and the card's rings stay while `pair_is_used`.
    pub(super) fn end_rings(
        &mut self,
        region: &mut Region,
        peer: Option<&[Kring]>,
        pair_is_used: bool,
    ) {
        let Some(view) = self.view.clone() else { return };
        for is_transmit in [true, false] {
            let of_card = if is_transmit { self.counts.tx } else { self.counts.rx };
            for (id, kring) in self.rings(is_transmit).iter_mut().enumerate() {
                let other = peer.filter(|_| id < of_card);
                let Some(ring) = kring.view(&view) else { continue };
                if kring.users > 0 || (other.is_some() && pair_is_used) {
                    continue;
                }
                for number in 0..kring.slots {
                    let is_here = match other {
                        None => true,
                        Some(_) if !is_transmit => kring.holds(number),
                        Some(other) => !other.get(id).is_some_and(|ring| ring.holds(number)),
                    };
                    if is_here {
                        region.give_buffer_back(ring.slot(number).buffer);
                    }
                }
                region.end_grant(kring.granted);
                region.give_ring_back(kring.at.take().unwrap_or(0));
                kring.granted = 0;
            }
        }
    }

    /// Writes the port's description for one device and returns where it lies.
    pub(super) fn describe(
        &self,
        region: &mut Region,
        transmit: &Range<usize>,
        receive: &Range<usize>,
    ) -> io::Result<usize> {
        let Counts { tx, rx, .. } = self.counts;
        let (host_tx, host_rx) = self.table_hosts();
        let entries = tx + host_tx + rx + host_rx;
        let at = region.take_port(port::RING_OFFSETS + entries * 8)?;
        let memory = &region.view.memory;
        let name = self.name.as_bytes();
        let mut place = [0; 16];
        for (to, from) in place.iter_mut().take(15).zip(name) {
            *to = *from;
        }
        memory.write(at, &place);
        memory.store32(at + 16, u32::from(API));
        memory.store32(at + 20, u32::from(self.region != GLOBAL_REGION));
        for (field, count) in [
            (port::TX_RINGS, tx),
            (port::RX_RINGS, rx),
            (port::HOST_TX_RINGS, host_tx),
            (port::HOST_RX_RINGS, host_rx),
        ] {
            memory.store32(at + field, u32::try_from(count).unwrap_or(0));
        }
        let table = at + port::RING_OFFSETS;
        let sides = [(&self.transmit, transmit, 0), (&self.receive, receive, tx + host_tx)];
        for (rings, bound, first) in sides {
            for (id, ring) in rings.iter().enumerate().filter(|(id, _)| bound.contains(id)) {
                let offset = ring.at.unwrap_or(at) as u64;
                memory.store64(table + (first + id) * 8, offset.wrapping_sub(at as u64));
            }
        }
        Ok(at)
    }

    /// Whether a bound receive ring of the card exists.
    pub(super) fn receives(&self) -> bool {
        self.receive.iter().take(self.counts.rx).any(|ring| ring.at.is_some() && ring.users > 0)
    }

    /// Whether a bound transmit ring of the card exists.
    pub(super) fn transmits(&self) -> bool {
        self.transmit.iter().take(self.counts.tx).any(|ring| ring.at.is_some() && ring.users > 0)
    }
}
