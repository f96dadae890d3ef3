//! All ports and regions of one machine, and how they come and go.
//!
//! ```text
//!   Machine -- adapters: interfaces stay; pipes, switch ports and null ports while they have users
//!           -- regions:  1 and those of IOMMU groups stay; the others while they have users
//! ```

use super::adapter::{Adapter, Counts, Kind};
use super::nic::{Link, Nic, NicSpec, Quirk, VethSpec, pump};
use super::region::{Region, RegionCounters};
use super::transfer::{nic_of, send};
use super::vale::Table;
use super::{GLOBAL_REGION, MachineSpec, Pools};
use crate::port::netmap::abi::{ExtMem, PoolsInfo, PortInfo};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;

/// Everything that the kernel knows.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) spec: MachineSpec,
    pub(super) adapters: Vec<Option<Adapter>>,
    pub(super) regions: BTreeMap<u16, Region>,
    /// Of regions that are no more.
    past: BTreeMap<u16, RegionCounters>,
    /// Regions of IOMMU groups.
    groups: BTreeMap<u16, u16>,
    /// Regions over memory of the caller: address, size, region.
    of_caller: Vec<(u64, u64, u16)>,
    last_region: u16,
    pub(super) bridges: Table,
}

impl Machine {
    pub(super) fn new(spec: MachineSpec) -> io::Result<Self> {
        let mut global = Region::new(GLOBAL_REGION, spec.pools)?;
        global.is_permanent = true;
        Ok(Self {
            spec,
            adapters: Vec::new(),
            regions: BTreeMap::from([(GLOBAL_REGION, global)]),
            past: BTreeMap::new(),
            groups: BTreeMap::new(),
            of_caller: Vec::new(),
            last_region: GLOBAL_REGION,
            bridges: Table::default(),
        })
    }

    pub(super) fn add_nic(&mut self, spec: NicSpec) -> io::Result<()> {
        let counts = Counts {
            tx: spec.tx_rings,
            rx: spec.rx_rings,
            host_tx: spec.host_rings,
            host_rx: spec.host_rings,
        };
        if spec.tx_slots < 2 || spec.rx_slots < 2 || spec.name.len() > 15 {
            return Err(Errno::INVAL.into());
        }
        if self.find(&spec.name).is_some() {
            return Err(Errno::EXIST.into());
        }
        let mut nic = Nic::new(Link::Wire(spec.wire), spec.host, spec.mtu);
        nic.needs_flag = spec.quirks.contains(&Quirk::NeedsBufChanged);
        nic.is_generic = spec.quirks.contains(&Quirk::Generic);
        nic.has_one_slot = spec.quirks.contains(&Quirk::OneSlot);
        nic.sends_whole = spec.quirks.contains(&Quirk::WholePackets);
        nic.completion = spec.completion;
        nic.overflow = spec.overflow;
        nic.link_reset = spec.link_reset;
        nic.host_rings = spec.host_rings;
        if let Some(group) = spec.iommu_group {
            nic.own_region = self.region_of_group(group)?;
            nic.has_iommu = true;
        }
        let slots = (spec.tx_slots, spec.rx_slots);
        let mut adapter = Adapter::new(&spec.name, Kind::Nic(Box::new(nic)), counts, slots);
        adapter.region = nic_of(&mut adapter.kind).map_or(GLOBAL_REGION, |nic| nic.own_region);
        self.put(adapter);
        Ok(())
    }

    pub(super) fn add_veth(&mut self, spec: VethSpec) -> io::Result<()> {
        let VethSpec { names: [first, second], rings, slots, hosts, mtu } = spec;
        if slots < 2 || first.len() > 15 || second.len() > 15 || first == second {
            return Err(Errno::INVAL.into());
        }
        if self.find(&first).is_some() || self.find(&second).is_some() {
            return Err(Errno::EXIST.into());
        }
        let counts = Counts { tx: rings, rx: rings, host_tx: 1, host_rx: 1 };
        let [first_host, second_host] = hosts;
        let make = |name: &str, host, peer| {
            let kind = Kind::Nic(Box::new(Nic::new(Link::Peer(peer), host, mtu)));
            let mut adapter = Adapter::new(name, kind, counts, (slots, slots));
            adapter.region = GLOBAL_REGION;
            adapter
        };
        self.put_pair(
            |peer| make(&first, first_host, peer),
            |peer| make(&second, second_host, peer),
        );
        Ok(())
    }

    fn region_of_group(&mut self, group: u16) -> io::Result<u16> {
        if let Some(id) = self.groups.get(&group) {
            return Ok(*id);
        }
        let id = self.new_region(self.spec.pools)?;
        if let Some(region) = self.regions.get_mut(&id) {
            region.is_permanent = true;
        }
        self.groups.insert(group, id);
        Ok(id)
    }

    fn next_id(&mut self) -> io::Result<u16> {
        self.last_region = self.last_region.checked_add(1).ok_or(Errno::NOMEM)?;
        Ok(self.last_region)
    }

    /// A region in memory of its own.
    pub(super) fn new_region(&mut self, pools: Pools) -> io::Result<u16> {
        let id = self.next_id()?;
        self.regions.insert(id, Region::new(id, pools)?);
        Ok(id)
    }

    /// The region over the memory that the option names, which may be there already. Fills the
    /// option in.
    pub(super) fn region_of_caller(&mut self, extmem: &mut ExtMem) -> io::Result<u16> {
        if !self.spec.extmem {
            return Err(Errno::OPNOTSUPP.into());
        }
        let (address, size) = (extmem.address, extmem.pools.memory_size);
        let known = self.of_caller.iter().find(|known| (known.0, known.1) == (address, size));
        let id = match known {
            Some((_, _, id)) => *id,
            None => {
                let id = self.next_id()?;
                let region = Region::in_memory_of_caller(id, address, &extmem.pools)?;
                self.regions.insert(id, region);
                self.of_caller.push((address, size, id));
                id
            }
        };
        if let Some(region) = self.regions.get(&id) {
            extmem.pools = region.info();
        }
        Ok(id)
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.adapters
            .iter()
            .position(|slot| slot.as_ref().is_some_and(|a| a.name == name && !a.is_gone))
    }

    pub(super) fn adapter(&mut self, name: &str) -> io::Result<&mut Adapter> {
        let at = self.find(name).ok_or(Errno::NXIO)?;
        self.at(at)
    }

    pub(super) fn at(&mut self, at: usize) -> io::Result<&mut Adapter> {
        Ok(self.adapters.get_mut(at).and_then(Option::as_mut).ok_or(Errno::NXIO)?)
    }

    fn place(&mut self) -> usize {
        if let Some(at) = self.adapters.iter().position(Option::is_none) {
            return at;
        }
        self.adapters.push(None);
        self.adapters.len() - 1
    }

    pub(super) fn put(&mut self, adapter: Adapter) -> usize {
        let at = self.place();
        self.put_at(at, adapter);
        at
    }

    fn put_at(&mut self, at: usize, adapter: Adapter) {
        if let Some(slot) = self.adapters.get_mut(at) {
            *slot = Some(adapter);
        }
    }

    /// Two ports that are each other's peer; each is made with the other's place.
    pub(super) fn put_pair(
        &mut self,
        first: impl FnOnce(usize) -> Adapter,
        second: impl FnOnce(usize) -> Adapter,
    ) {
        let place_of_first = self.place();
        // Holds the place, so that the second finds another.
        self.put_at(place_of_first, first(usize::MAX));
        let place_of_second = self.place();
        self.put_at(place_of_second, second(place_of_first));
        if let Some(Some(adapter)) = self.adapters.get_mut(place_of_first) {
            match &mut adapter.kind {
                Kind::Pipe { peer } => *peer = place_of_second,
                Kind::Nic(nic) => nic.link = Link::Peer(place_of_second),
                Kind::Vale { .. } | Kind::Monitor(_) | Kind::Null => {}
            }
        }
    }

    /// Takes an interface away, its peer too. Devices that are bound to it learn it at their next
    /// sync.
    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        let peer = self.adapter(name)?.peer();
        let ends = self.find(name).into_iter().chain(peer);
        for at in ends.collect::<Vec<_>>() {
            let adapter = self.at(at)?;
            let Some(nic) = nic_of(&mut adapter.kind) else { return Err(Errno::INVAL.into()) };
            if peer.is_none() {
                nic.link = Link::None;
            }
            nic.host = None;
            adapter.is_gone = true;
            for bell in &adapter.bells {
                bell.set(true);
            }
            self.end_monitors(at);
        }
        self.tidy();
        Ok(())
    }

    /// Lets go of what nobody uses any more.
    pub(super) fn tidy(&mut self) {
        for at in 0..self.adapters.len() {
            let Some(Some(adapter)) = self.adapters.get(at) else { continue };
            let stays = matches!(adapter.kind, Kind::Nic(_)) && !adapter.is_gone;
            let peer = adapter.peer().and_then(|peer| self.adapters.get(peer)?.as_ref());
            if !stays && adapter.users == 0 && peer.is_none_or(|peer| peer.users == 0) {
                let other = adapter.peer();
                self.bridges.forget(at);
                for at in [Some(at), other].into_iter().flatten() {
                    if let Some(slot) = self.adapters.get_mut(at) {
                        *slot = None;
                    }
                }
            }
        }
        let Self { regions, past, of_caller, .. } = self;
        regions.retain(|id, region| {
            let counters = region.counters();
            let stays = region.is_permanent || counters.users > 0;
            if !stays {
                past.insert(*id, RegionCounters { free_buffers: 0, ..counters });
            }
            stays
        });
        of_caller.retain(|(_, _, id)| regions.contains_key(id));
    }

    pub(super) fn region_counters(&self, id: u16) -> Option<RegionCounters> {
        self.regions.get(&id).map(Region::counters).or_else(|| self.past.get(&id).copied())
    }

    pub(super) fn region_ids(&self) -> Vec<u16> {
        self.regions.keys().chain(self.past.keys()).copied().collect()
    }

    /// Moves frames between wires and hosts where netmap has not taken them, and goes on with what
    /// cards have still to send.
    pub(super) fn pump(&mut self) -> u64 {
        let mut moved = 0;
        for at in 0..self.adapters.len() {
            moved += pump(&mut self.adapters, at);
            let Some(Some(Adapter { kind, counts, transmit, view, .. })) =
                self.adapters.get_mut(at)
            else {
                continue;
            };
            let (Some(nic), Some(view)) = (nic_of(kind), view) else { continue };
            for kring in transmit.iter_mut().take(counts.tx).filter(|ring| ring.next != ring.hw_cur)
            {
                let before = nic.counters.transmitted;
                if nic.peer().is_none() {
                    send(nic, kring, view);
                }
                moved += nic.counters.transmitted - before;
            }
        }
        moved
    }

    /// Answers for a port; with no name for the region that the question names, or region 1.
    pub(super) fn port_info(&mut self, name: &str, info: &mut PortInfo) -> io::Result<()> {
        let pools = self.pools_of(name, info.memory_id)?;
        *info = PortInfo {
            memory_size: pools.memory_size,
            memory_id: pools.memory_id,
            ..PortInfo::default()
        };
        if name.is_empty() {
            return Ok(());
        }
        let adapter = self.adapter(name)?;
        let short = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
        info.tx_slots = adapter.tx_slots;
        info.rx_slots = adapter.rx_slots;
        info.tx_rings = short(adapter.counts.tx);
        info.rx_rings = short(adapter.counts.rx);
        info.host_tx_rings = short(adapter.counts.host_tx);
        info.host_rx_rings = short(adapter.counts.host_rx);
        Ok(())
    }

    /// The pools of a port's region, in the same way.
    pub(super) fn pools_of(&mut self, name: &str, id: u16) -> io::Result<PoolsInfo> {
        let wanted = if id == 0 { GLOBAL_REGION } else { id };
        // A pipe that nobody has opened is made for the question, in the region that it names.
        let is_bare_pipe = name.contains(['{', '}']) && self.adapter(name).is_err();
        let id = if name.is_empty() || is_bare_pipe {
            wanted
        } else {
            let adapter = self.adapter(name)?;
            if adapter.users == 0 && id != 0 { id } else { adapter.region }
        };
        Ok(self.regions.get(&id).ok_or(Errno::INVAL)?.info())
    }
}
