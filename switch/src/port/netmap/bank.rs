//! External memory: the daemon's own slots as a region of netmap, so that a buffer of a card's ring is
//! a slot that clients may be lent.
//!
//! ```text
//!   arena    | objects segment (2 MiB) | port segment ................................... |
//!   netmap   | netmap_if | rings       | 0 1 | 2 ... buffers                              |
//!   slots                              | first ...                      buffer = slot - first
//! ```
//!
//! - The objects segment is made first, so that the two are neighbours, and no client ever maps it.
//! - A holder (a port of mode `NULL`) keeps the region and all buffers that no ring needs; these are the
//!   pool's free slots. What the kernel keeps for rings is claimed from the pool and lies in the bank.
//! - A port that opens takes the slots of its rings out of the bank, whichever worker's they were, and they
//!   are its own worker's from its first use on; those that its rings hold at the end it puts back. By
//!   then the kernel has the same opinion of each.

use super::abi::{ExtMem, PoolsInfo, Register, mode};
use super::kernel::{Control, Device, Kernel};
use super::region::{BufferIndex, RESERVED_BUFFERS, Region};
use core::ops::Range;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use usnet_shmring::arena::{Segment, SlotRange};
use usnet_shmring::pool::{Loose, Pool};

/// Bytes of a `netmap_if` object.
const IF_SIZE: u32 = 1024;
/// How many there are.
const IF_TOTAL: u32 = 64;
/// Bytes of a ring object: rings of up to 2,032 slots.
const RING_SIZE: u32 = 32_768;

/// How the objects segment is cut.
struct Placement {
    rings: u32,
    /// Slots at its end that are buffers.
    lead: u32,
    /// Where these begin, in bytes.
    buffers_at: u64,
}

impl Placement {
    fn of(objects: &Segment, slot_size: u32) -> Self {
        let bytes = u32::try_from(objects.bytes().len()).unwrap_or(u32::MAX);
        // A power of two, as are all of the others, so that nothing is left over.
        let lead = (RESERVED_BUFFERS * slot_size).max(RING_SIZE);
        let rings = bytes.saturating_sub(IF_SIZE * IF_TOTAL + lead) / RING_SIZE;
        Self { rings, lead: lead / slot_size, buffers_at: u64::from(bytes - lead) }
    }
}

/// A region over the daemon's own memory.
#[derive(Debug)]
pub struct Bank {
    /// Keeps the region; closed before its memory is let go of, which is what comes next.
    _holder: Mutex<Box<dyn Device>>,
    region: Arc<Region>,
    memory_id: u16,
    /// Slot of the arena that is buffer 0.
    first: u32,
    /// Slots of groups.
    groups: Range<u32>,
    /// Slots that the kernel keeps, for itself or for rings that are not open.
    kept: Mutex<HashMap<u32, Loose>>,
}

impl Bank {
    /// Gives `objects` and the port segment, whose slots the pools `of_workers` have, to the kernel as a
    /// region, and leaves it `ring_buffers` of the slots for rings that will be opened.
    ///
    /// # Errors
    /// Why the kernel does not take it: `Unsupported` where it was built without external memory,
    /// `OutOfMemory` where pages are not contiguous.
    pub fn open(
        kernel: &dyn Kernel,
        objects: &SlotRange,
        port: &Arc<Segment>,
        of_workers: &mut [Pool],
        ring_buffers: u32,
    ) -> io::Result<Arc<Self>> {
        Self::with_groups(kernel, objects, &[], port, of_workers, ring_buffers)
    }

    /// The same with the segments of groups, which lie between the two. The kernel writes into the slots of
    /// these, so they must be zeroed once more.
    ///
    /// # Errors
    /// As [`open`](Self::open), or the kernel would take a group's slot for a ring.
    pub fn with_groups(
        kernel: &dyn Kernel,
        objects: &SlotRange,
        groups: &[Arc<Segment>],
        port: &Arc<Segment>,
        of_workers: &mut [Pool],
        ring_buffers: u32,
    ) -> io::Result<Arc<Self>> {
        let slot_size = port.arena().slot_size().bytes();
        let objects = objects.segment();
        let place = Placement::of(objects, slot_size);
        let in_use = groups.iter().map(|group| group.count()).sum::<u32>() + port.count();
        let total = place.lead + in_use;
        let bytes = |segment: &Segment| segment.bytes().len() as u64;
        let mut extmem = ExtMem {
            address: objects.bytes().as_ptr().expose_provenance() as u64,
            pools: PoolsInfo {
                memory_size: bytes(objects)
                    + groups.iter().map(|group| bytes(group)).sum::<u64>()
                    + bytes(port),
                if_total: IF_TOTAL,
                if_size: IF_SIZE,
                ring_total: place.rings,
                ring_size: RING_SIZE,
                buffer_total: total,
                buffer_size: slot_size,
                ..PoolsInfo::default()
            },
            ..ExtMem::default()
        };
        let free = total.saturating_sub(RESERVED_BUFFERS).saturating_sub(ring_buffers);
        let mut register =
            Register { mode: mode::NULL, extra_buffers: free, ..Register::default() };
        let holder = kernel.open()?;
        let request =
            Control::Register { body: &mut register, extmem: Some(&mut extmem), offsets: None };
        holder.control("usnet", request)?;
        // The option's answer says where nothing lies; a port of the region that is not opened does.
        let mut pools = PoolsInfo { memory_id: register.memory_id, ..PoolsInfo::default() };
        holder.control("usnet{pools", Control::PoolsInfo(&mut pools))?;
        let expected = (place.buffers_at, slot_size);
        if (pools.buffer_offset, pools.buffer_size) != expected || pools.buffer_total > total {
            return Err(io::Error::other(format!(
                "netmap placed buffers of {} bytes at {}, not of {} at {}",
                pools.buffer_size, pools.buffer_offset, expected.1, expected.0
            )));
        }
        let segments = [objects].into_iter().chain(groups).chain([port]).map(Arc::clone);
        let region = Region::of_segments(segments.collect(), &pools)?;
        let ours: HashSet<u32> =
            region.extra_buffers(register.offset)?.into_iter().map(|b| b.0).collect();
        // They are the pool's now and will be written; the list would lead anywhere. It is not made again
        // at the end, for its links would be written into slots that the pool may have lent by then. The
        // region goes with its last user, whatever its lists say.
        region.set_extra_buffers(register.offset, std::iter::empty())?;
        let first = objects.first() + objects.count() - place.lead;
        let of_groups = match groups {
            [lowest, ..] => lowest.first()..port.first(),
            [] => 0..0,
        };
        if let Some(slot) = of_groups.clone().find(|slot| !ours.contains(&(slot - first))) {
            return Err(io::Error::other(format!(
                "netmap keeps buffer {} for rings, which clients could write",
                slot - first
            )));
        }
        let mut kept = HashMap::new();
        for pool in of_workers {
            let claimed = pool.claim(|slot| !ours.contains(&slot.wrapping_sub(first)));
            let loose = claimed.into_iter().filter_map(|frame| pool.give_up(frame));
            kept.extend(loose.map(|loose| (loose.slot(), loose)));
        }
        Ok(Arc::new(Self {
            _holder: Mutex::new(holder),
            region,
            memory_id: register.memory_id,
            first,
            groups: of_groups,
            kept: Mutex::new(kept),
        }))
    }

    /// The region's number.
    #[must_use]
    pub fn memory_id(&self) -> u16 {
        self.memory_id
    }

    /// Slots of groups that lie in the region.
    #[must_use]
    pub fn groups(&self) -> Range<u32> {
        self.groups.clone()
    }

    pub(super) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// The buffer that a slot is; `None` of slots that are not in the region.
    #[inline]
    pub(super) fn buffer(&self, slot: u32) -> Option<BufferIndex> {
        self.region.buffer(slot.wrapping_sub(self.first))
    }

    /// Takes the slot of a ring's buffer out of the bank.
    pub(super) fn take(&self, number: u32) -> Option<Loose> {
        let buffer = self.region.buffer(number)?;
        self.lock().remove(&self.first.wrapping_add(buffer.0))
    }

    /// Puts a slot of a ring that closes back.
    pub(super) fn put(&self, loose: Loose) {
        self.lock().insert(loose.slot(), loose);
    }

    /// Slots that the kernel keeps now.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Loose>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
