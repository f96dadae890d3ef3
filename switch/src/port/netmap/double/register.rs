//! REGISTER and its undoing: a device is bound to rings of a port.
//!
//! ```text
//!   name, mode --> port (made, if a pipe, a switch port or none at all) --> region
//!              --> rings claimed --> rings made --> described --> extra buffers
//! ```
//!
//! A failure leaves everything as it was.

use super::adapter::{Adapter, Bound, Counts, Kind};
use super::machine::Machine;
use super::media::Bell;
use super::monitor;

use super::Pools;
use super::transfer::nic_of;
use crate::port::netmap::abi::layout::{port, ring, slot};
use crate::port::netmap::abi::{ExtMem, Offsets, Register, flag, mode};
use rustix::io::Errno;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Slots of a ring of a pipe on a bare name, or of a switch port, if nothing else is asked for.
const DEFAULT_SLOTS: u32 = 1024;
/// Most slots that can be asked for.
const MAX_SLOTS: u32 = 16384;
/// Stands for a region of the port's own.
const PRIVATE: u16 = 0;

/// What goes with a request.
#[derive(Debug, Default)]
pub(super) struct Options<'a> {
    pub(super) extmem: Option<&'a mut ExtMem>,
    pub(super) offsets: Option<&'a mut Offsets>,
}

/// The region that a request names.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    id: u16,
    is_of_caller: bool,
}

impl Machine {
    /// Binds a device to a port and fills `body` in.
    pub(super) fn register(
        &mut self,
        name: &str,
        body: &mut Register,
        options: Options<'_>,
        bell: &Arc<Bell>,
    ) -> io::Result<Bound> {
        let bound = self.register_in(name, body, options, bell);
        self.tidy();
        bound
    }

    fn register_in(
        &mut self,
        name: &str,
        body: &mut Register,
        Options { extmem, offsets }: Options<'_>,
        bell: &Arc<Bell>,
    ) -> io::Result<Bound> {
        if !(mode::ALL_NIC..=mode::ONE_SW).contains(&body.mode) {
            return Err(Errno::INVAL.into());
        }
        let wanted = match extmem {
            Some(extmem) => {
                let region = self.region_of_caller(extmem);
                let status = region.as_ref().err().and_then(io::Error::raw_os_error);
                extmem.option.status = status.map_or(0, i32::cast_unsigned);
                Some(Wanted { id: region?, is_of_caller: true })
            }
            None if body.memory_id == 0 => None,
            None if !self.regions.contains_key(&body.memory_id) => return Err(Errno::INVAL.into()),
            None => Some(Wanted { id: body.memory_id, is_of_caller: false }),
        };
        let at = self.find_or_make(name, body, wanted)?;
        self.activate(at, body, wanted)?;
        let bound = self.bind(at, body, offsets, bell);
        if bound.is_err() {
            self.release(at, None);
        }
        bound
    }

    fn find_or_make(
        &mut self,
        name: &str,
        body: &Register,
        wanted: Option<Wanted>,
    ) -> io::Result<usize> {
        let slots =
            |asked: u32, default| if asked == 0 { default } else { asked.clamp(2, MAX_SLOTS) };
        if body.mode == mode::NULL {
            if wanted.is_none() {
                return Err(Errno::INVAL.into());
            }
            let counts = Counts { tx: 0, rx: 0, host_tx: 0, host_rx: 0 };
            return Ok(self.put(Adapter::new(name, Kind::Null, counts, (0, 0))));
        }
        if monitor::is_wanted(body) {
            return self.make_monitor(name, body);
        }
        if let Some(at) = self.find(name) {
            return Ok(at);
        }
        let counts = Counts { tx: 1, rx: 1, host_tx: 0, host_rx: 0 };
        if let Some(brace) = name.rfind(['{', '}']) {
            let (parent, id) =
                (name.get(..brace).unwrap_or(""), name.get(brace + 1..).unwrap_or(""));
            let parent_at = self.find(parent);
            let (region, tx, rx) = match parent_at.map(|at| self.at(at)).transpose()? {
                Some(parent) => (parent.region, parent.tx_slots, parent.rx_slots),
                None => (PRIVATE, DEFAULT_SLOTS, DEFAULT_SLOTS),
            };
            let (tx, rx) = (slots(body.tx_slots, tx), slots(body.rx_slots, rx));
            let is_master = name.get(brace..).is_some_and(|end| end.starts_with('{'));
            let other = format!("{parent}{}{id}", if is_master { '}' } else { '{' });
            let make = |name: &str, slots, peer| {
                let mut adapter = Adapter::new(name, Kind::Pipe { peer }, counts, slots);
                adapter.region = region;
                adapter
            };
            self.put_pair(|peer| make(name, (tx, rx), peer), |peer| make(&other, (rx, tx), peer));
            return self.find(name).ok_or_else(|| Errno::NXIO.into());
        }
        if name.starts_with("vale")
            && let Some((bridge, _)) = name.split_once(':')
        {
            let kind = Kind::Vale { bridge: bridge.to_owned() };
            let (tx, rx) =
                (slots(body.tx_slots, DEFAULT_SLOTS), slots(body.rx_slots, DEFAULT_SLOTS));
            return Ok(self.put(Adapter::new(name, kind, counts, (tx, rx))));
        }
        Err(Errno::NXIO.into())
    }

    /// Gives a port its region, if it has none yet.
    fn activate(&mut self, at: usize, body: &Register, wanted: Option<Wanted>) -> io::Result<()> {
        let adapter = self.at(at)?;
        let own = adapter.region;
        let (most_slots, peer) = (adapter.tx_slots.max(adapter.rx_slots), adapter.peer());
        if adapter.view.is_some() {
            return Ok(());
        }
        let mut id = wanted.map_or(own, |wanted| wanted.id);
        let mut mtu = 0;
        if let Some(nic) = nic_of(&mut adapter.kind) {
            let is_fixed = match wanted {
                Some(wanted) if wanted.is_of_caller => nic.has_iommu || nic.peer().is_some(),
                Some(wanted) => {
                    (nic.has_iommu || nic.peer().is_some()) && wanted.id != nic.own_region
                }
                None => {
                    id = nic.own_region;
                    nic.stuck_to.is_some()
                }
            };
            if nic.has_iommu
                && let Some(wanted) = wanted
            {
                nic.stuck_to = (wanted.id != nic.own_region).then_some(wanted.id);
            }
            if is_fixed {
                return Err(Errno::NOMEM.into());
            }
            mtu = nic.mtu;
            let asked = |asked: u16| if asked == 0 { nic.host_rings } else { usize::from(asked) };
            adapter.counts.host_tx = asked(body.host_tx_rings);
            adapter.counts.host_rx = asked(body.host_rx_rings);
        }
        if id == PRIVATE {
            id = self.new_region(private_pools(
                most_slots,
                body.extra_buffers,
                self.spec.pools.buffer_size,
            ))?;
        }
        let Self { adapters, regions, .. } = self;
        let region = regions.get(&id).ok_or(Errno::INVAL)?;
        if mtu > region.info().buffer_size {
            return Err(Errno::INVAL.into());
        }
        for at in [Some(at), peer].into_iter().flatten() {
            if let Some(Some(adapter)) = adapters.get_mut(at) {
                adapter.activate(region);
            }
        }
        Ok(())
    }

    fn bind(
        &mut self,
        at: usize,
        body: &mut Register,
        offsets: Option<&mut Offsets>,
        bell: &Arc<Bell>,
    ) -> io::Result<Bound> {
        let adapter = self.at(at)?;
        let (mut transmit, mut receive) = rings_of(adapter, body)?;
        if body.flags & flag::RX_RINGS_ONLY != 0 {
            transmit = 0..0;
        }
        if body.flags & flag::TX_RINGS_ONLY != 0 {
            receive = 0..0;
        }
        let is_exclusive = body.flags & flag::EXCLUSIVE != 0;
        adapter.claim(true, &transmit, is_exclusive)?;
        if let Err(error) = adapter.claim(false, &receive, is_exclusive) {
            adapter.unclaim(true, &transmit);
            return Err(error);
        }
        let mut bound = Bound { adapter: at, transmit, receive, port_at: 0, extra_buffers: 0 };
        if let Err(error) = self.make(&mut bound, body, offsets) {
            self.release(at, Some(&bound));
            return Err(error);
        }
        let adapter = self.at(at)?;
        adapter.users += 1;
        if adapter.users == 1
            && let Some(nic) = nic_of(&mut adapter.kind)
        {
            nic.reset_link();
        }
        adapter.bells.push(Arc::clone(bell));
        let id = adapter.region;
        if let Some(region) = self.regions.get_mut(&id) {
            region.join();
        }
        Ok(bound)
    }

    /// Makes what was claimed, and says so in `body`.
    fn make(
        &mut self,
        bound: &mut Bound,
        body: &mut Register,
        offsets: Option<&mut Offsets>,
    ) -> io::Result<()> {
        let Self { adapters, regions, .. } = self;
        let adapter =
            adapters.get_mut(bound.adapter).and_then(Option::as_mut).ok_or(Errno::NXIO)?;
        let region = regions.get_mut(&adapter.region).ok_or(Errno::INVAL)?;
        let peer = adapter.peer();
        adapter.make_rings(region, peer.is_some())?;
        if let Some(offsets) = offsets {
            let granted = adapter.grant_offsets(bound, offsets);
            let status = granted.as_ref().err().and_then(io::Error::raw_os_error);
            offsets.option.status = status.map_or(0, i32::cast_unsigned);
            granted?;
        }
        let short = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
        body.memory_size = region.info().memory_size;
        body.memory_id = region.info().memory_id;
        (body.tx_slots, body.rx_slots) = (adapter.tx_slots, adapter.rx_slots);
        (body.tx_rings, body.rx_rings) = (short(adapter.counts.tx), short(adapter.counts.rx));
        body.host_tx_rings = short(adapter.counts.host_tx);
        body.host_rx_rings = short(adapter.counts.host_rx);
        if let Some(peer) = peer {
            let Ok([Some(adapter), Some(peer)]) = adapters.get_disjoint_mut([bound.adapter, peer])
            else {
                return Err(Errno::NXIO.into());
            };
            peer.make_rings(region, true)?;
            peer.borrow_slots(adapter);
            adapter.borrow_slots(peer);
        }
        let adapter = adapters.get(bound.adapter).and_then(Option::as_ref).ok_or(Errno::NXIO)?;
        bound.port_at = adapter.describe(region, &bound.transmit, &bound.receive)?;
        let (head, got) = region.take_list(body.extra_buffers);
        region.view.memory.store32(bound.port_at + port::EXTRA_HEAD, head);
        bound.extra_buffers = got;
        body.extra_buffers = got;
        body.offset = bound.port_at as u64;
        Ok(())
    }

    /// Closes a device's port.
    pub(super) fn unbind(&mut self, bound: &Bound, bell: &Arc<Bell>) {
        let Ok(adapter) = self.at(bound.adapter) else { return };
        adapter.users = adapter.users.saturating_sub(1);
        adapter.bells.retain(|other| !Arc::ptr_eq(other, bell));
        if adapter.users == 0
            && let Some(nic) = nic_of(&mut adapter.kind)
        {
            nic.reset_link();
        }
        let id = adapter.region;
        self.release(bound.adapter, Some(bound));
        if let Some(region) = self.regions.get_mut(&id) {
            let head = region.view.memory.load32(bound.port_at + port::EXTRA_HEAD);
            region.end_grant(bound.extra_buffers);
            region.give_list_back(head);
            region.give_port_back(bound.port_at);
            region.leave();
        }
        self.tidy();
    }

    /// Lets go of the rings that a device has claimed, and of the port's state if it was the last.
    fn release(&mut self, at: usize, bound: Option<&Bound>) {
        let Ok(adapter) = self.at(at) else { return };
        if let Some(bound) = bound {
            adapter.unclaim(true, &bound.transmit);
            adapter.unclaim(false, &bound.receive);
        }
        let (id, peer) = (adapter.region, adapter.peer());
        let Self { adapters, regions, .. } = self;
        let Some(region) = regions.get_mut(&id) else { return };
        if let Some(peer) = peer {
            let Ok([Some(one), Some(other)]) = adapters.get_disjoint_mut([at, peer]) else {
                return;
            };
            let is_used = one.users + other.users > 0;
            one.end_rings(region, Some(&other.receive), is_used);
            other.end_rings(region, Some(&one.receive), is_used);
            if !is_used {
                one.deactivate();
                other.deactivate();
            }
        } else if let Some(Some(adapter)) = adapters.get_mut(at) {
            adapter.end_rings(region, None, false);
            if adapter.users == 0 {
                adapter.deactivate();
            }
        }
    }
}

/// The rings that a request binds: transmit, receive.
fn rings_of(adapter: &Adapter, body: &Register) -> io::Result<(Range<usize>, Range<usize>)> {
    let Counts { tx, rx, host_tx, host_rx } = adapter.counts;
    let id = usize::from(body.ring_id);
    let one = |first: usize, count: usize| {
        // With more rings one way than the other, a number beyond is ring 0 there.
        let at = if id < count { id } else { 0 };
        first + at..first + (at + 1).min(count)
    };
    let invalid = || Err(Errno::INVAL.into());
    let is_card = matches!(adapter.kind, Kind::Nic(_));
    Ok(match body.mode {
        mode::NULL => (0..0, 0..0),
        mode::ALL_NIC => (0..tx, 0..rx),
        mode::ONE_NIC if id < tx.max(rx) => (one(0, tx), one(0, rx)),
        mode::SW if is_card => (tx..tx + host_tx, rx..rx + host_rx),
        mode::NIC_SW if is_card => (0..tx + host_tx, 0..rx + host_rx),
        mode::ONE_SW if is_card && id < host_tx.max(host_rx) => {
            (one(tx, host_tx), one(rx, host_rx))
        }
        _ => return invalid(),
    })
}

/// Pools of a region for one pipe or one switch port.
fn private_pools(slots: u32, extra_buffers: u32, buffer_size: u32) -> Pools {
    let ring = ring::SLOTS + slots as usize * slot::SIZE;
    Pools {
        if_total: 4,
        if_size: 1024,
        ring_total: 8,
        ring_size: u32::try_from(ring.next_multiple_of(64)).unwrap_or(u32::MAX),
        buffer_total: slots.saturating_mul(4).saturating_add(extra_buffers).saturating_add(2),
        buffer_size,
    }
}
