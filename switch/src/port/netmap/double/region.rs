//! Regions: one piece of memory each, cut into three pools of objects.
//!
//! ```text
//!   offset 0          ring_offset            buffer_offset
//!   | netmap_if ...   | netmap_ring ...      | 0 | 1 | 2 | 3 | ...
//!                                              reserved: where bad indices end
//! ```
//!
//! - `used - reserved - granted` buffers are leaked: given out, and held by nobody who would give
//!   them back. They stay so until the region's last user goes; then all pools begin anew.
//! - A buffer that is freed while it is free counts as a double free and changes nothing else.

use super::memory::Memory;
use super::{Pools, index};
use crate::port::netmap::abi::PoolsInfo;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Buffers 0 and 1, which no slot holds.
const RESERVED: u32 = 2;

/// Objects of one kind: which of them are in use. The lowest free one is given out first.
#[derive(Debug)]
struct Pool {
    used: Vec<bool>,
    free: usize,
    /// No lower one is free.
    lowest: usize,
}

impl Pool {
    fn new(total: u32) -> Self {
        Self { used: vec![false; total as usize], free: total as usize, lowest: 0 }
    }

    fn take(&mut self) -> Option<u32> {
        let (at, used) =
            self.used.iter_mut().enumerate().skip(self.lowest).find(|(_, used)| !**used)?;
        *used = true;
        self.free -= 1;
        self.lowest = at + 1;
        u32::try_from(at).ok()
    }

    /// False if it was free already, or is none.
    fn give_back(&mut self, object: u32) -> bool {
        match self.used.get_mut(object as usize) {
            Some(used) if *used => *used = false,
            _ => return false,
        }
        self.free += 1;
        self.lowest = self.lowest.min(object as usize);
        true
    }
}

/// The memory and its geometry, to be held by whoever moves frames in it.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) memory: Arc<Memory>,
    pub(super) buffer_offset: usize,
    pub(super) buffer_size: usize,
    pub(super) buffer_total: u32,
}

impl View {
    /// Where a buffer lies. An index out of range is buffer 0, as in the drivers.
    #[inline]
    pub(super) fn buffer(&self, buffer: u32) -> usize {
        let buffer = if buffer < self.buffer_total { buffer as usize } else { 0 };
        self.buffer_offset + buffer * self.buffer_size
    }
}

/// How a region's buffers are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionCounters {
    /// Devices that are bound to a port with this region.
    pub users: usize,
    /// Buffers that can be had now.
    pub free_buffers: usize,
    /// Buffers that nobody has and that cannot be had, until the last user goes.
    pub leaked_now: u64,
    /// Buffers that were leaked when a last user went, over all times.
    pub leaked_before: u64,
    /// Buffers that were given back by two holders.
    pub double_frees: u64,
}

/// One region.
#[derive(Debug)]
pub(super) struct Region {
    info: PoolsInfo,
    pub(super) view: View,
    /// What it is mapped from; none if the memory is the caller's.
    pub(super) file: Option<OwnedFd>,
    /// Stays without users: the global region and those of IOMMU groups.
    pub(super) is_permanent: bool,
    ports: Pool,
    rings: Pool,
    buffers: Pool,
    /// Buffers that live rings and extra lists were made with.
    granted: u64,
    users: usize,
    leaked_before: u64,
    double_frees: u64,
}

impl Region {
    /// A region in a memfd of its own.
    pub(super) fn new(id: u16, pools: Pools) -> io::Result<Self> {
        let info = pools.info(id).ok_or(Errno::INVAL)?;
        let file = rustix::fs::memfd_create("netmap-double", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, info.memory_size)?;
        let memory = Memory::map(file.as_fd(), index(info.memory_size))?;
        Ok(Self::over(info, memory, Some(file)))
    }

    /// A region in memory of the caller, as `EXTMEM` asks: `wanted` has its size and the pools.
    /// Memory beyond those is buffers.
    pub(super) fn in_memory_of_caller(
        id: u16,
        address: u64,
        wanted: &PoolsInfo,
    ) -> io::Result<Self> {
        let default = |value: u32, default| if value == 0 { default } else { value };
        let pools = Pools {
            if_total: default(wanted.if_total, 2),
            if_size: default(wanted.if_size, 1024),
            ring_total: default(wanted.ring_total, 4),
            ring_size: default(wanted.ring_size, 20480),
            buffer_total: default(wanted.buffer_total, 4098),
            buffer_size: default(wanted.buffer_size, 2048),
        };
        if !address.is_multiple_of(4096) {
            return Err(Errno::INVAL.into());
        }
        let mut info = pools.info(id).ok_or(Errno::INVAL)?;
        let surplus = wanted.memory_size.checked_sub(info.memory_size).ok_or(Errno::NOMEM)?;
        let more =
            u32::try_from(surplus / u64::from(info.buffer_size)).map_err(|_| Errno::INVAL)?;
        info.buffer_total = info.buffer_total.checked_add(more).ok_or(Errno::INVAL)?;
        info.memory_size = wanted.memory_size;
        Ok(Self::over(info, Memory::of_caller(address, wanted.memory_size)?, None))
    }

    fn over(info: PoolsInfo, memory: Memory, file: Option<OwnedFd>) -> Self {
        let view = View {
            memory: Arc::new(memory),
            buffer_offset: index(info.buffer_offset),
            buffer_size: info.buffer_size as usize,
            buffer_total: info.buffer_total,
        };
        let mut region = Self {
            info,
            view,
            file,
            is_permanent: false,
            ports: Pool::new(0),
            rings: Pool::new(0),
            buffers: Pool::new(0),
            granted: 0,
            users: 0,
            leaked_before: 0,
            double_frees: 0,
        };
        region.begin_anew();
        region
    }

    fn begin_anew(&mut self) {
        self.ports = Pool::new(self.info.if_total);
        self.rings = Pool::new(self.info.ring_total);
        self.buffers = Pool::new(self.info.buffer_total);
        for _ in 0..RESERVED {
            let _ = self.buffers.take();
        }
        self.granted = 0;
    }

    pub(super) fn info(&self) -> PoolsInfo {
        self.info
    }

    pub(super) fn counters(&self) -> RegionCounters {
        let used = (self.buffers.used.len() - self.buffers.free) as u64;
        RegionCounters {
            users: self.users,
            free_buffers: self.buffers.free,
            leaked_now: used.saturating_sub(u64::from(RESERVED) + self.granted),
            leaked_before: self.leaked_before,
            double_frees: self.double_frees,
        }
    }

    pub(super) fn join(&mut self) {
        self.users += 1;
    }

    /// One user less; the last one leaves all pools as new.
    pub(super) fn leave(&mut self) {
        self.users = self.users.saturating_sub(1);
        if self.users == 0 {
            self.leaked_before += self.counters().leaked_now;
            self.begin_anew();
        }
    }

    /// Where a new `netmap_if` of `size` bytes lies, all zero.
    pub(super) fn take_port(&mut self, size: usize) -> io::Result<usize> {
        let object_size = self.info.if_size as usize;
        if size > object_size {
            return Err(Errno::NOMEM.into());
        }
        let object = self.ports.take().ok_or(Errno::NOMEM)?;
        let at = index(self.info.if_offset) + object as usize * object_size;
        self.clear(at, object_size);
        Ok(at)
    }

    pub(super) fn give_port_back(&mut self, at: usize) {
        let object = (at - index(self.info.if_offset)) / self.info.if_size as usize;
        self.ports.give_back(u32::try_from(object).unwrap_or(u32::MAX));
    }

    /// Where a new ring of `size` bytes lies, all zero.
    pub(super) fn take_ring(&mut self, size: usize) -> io::Result<usize> {
        let object_size = self.info.ring_size as usize;
        if size > object_size {
            return Err(Errno::NOMEM.into());
        }
        let object = self.rings.take().ok_or(Errno::NOMEM)?;
        let at = index(self.info.ring_offset) + object as usize * object_size;
        self.clear(at, object_size);
        Ok(at)
    }

    pub(super) fn give_ring_back(&mut self, at: usize) {
        let object = (at - index(self.info.ring_offset)) / self.info.ring_size as usize;
        self.rings.give_back(u32::try_from(object).unwrap_or(u32::MAX));
    }

    fn clear(&self, at: usize, size: usize) {
        for offset in (0..size).step_by(8) {
            self.view.memory.store64(at + offset, 0);
        }
    }

    /// A buffer, counted as granted.
    pub(super) fn take_buffer(&mut self) -> Option<u32> {
        let buffer = self.buffers.take()?;
        self.granted += 1;
        Some(buffer)
    }

    /// That many buffers are no longer anybody's; those that come back do so one by one.
    pub(super) fn end_grant(&mut self, count: u32) {
        self.granted = self.granted.saturating_sub(u64::from(count));
    }

    /// False, and counted, if it is free already.
    pub(super) fn give_buffer_back(&mut self, buffer: u32) -> bool {
        if !(RESERVED..self.info.buffer_total).contains(&buffer) {
            return false;
        }
        let was_used = self.buffers.give_back(buffer);
        if !was_used {
            self.double_frees += 1;
        }
        was_used
    }

    /// Takes up to `count` buffers, chains them through their first word, and returns the first and
    /// how many there are.
    pub(super) fn take_list(&mut self, count: u32) -> (u32, u32) {
        let (mut head, mut got) = (0, 0);
        while got < count
            && let Some(buffer) = self.take_buffer()
        {
            self.view.memory.store32(self.view.buffer(buffer), head);
            head = buffer;
            got += 1;
        }
        (head, got)
    }

    /// Frees what the list holds now, up to the first link that leads nowhere good.
    pub(super) fn give_list_back(&mut self, head: u32) {
        let mut next = head;
        while (RESERVED..self.info.buffer_total).contains(&next) {
            let at = self.view.buffer(next);
            let buffer = next;
            next = self.view.memory.load32(at);
            self.view.memory.store32(at, 0);
            if !self.give_buffer_back(buffer) {
                break;
            }
        }
    }
}
