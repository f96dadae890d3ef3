//! netmap's rings with anything in them: whatever the kernel or a peer writes, the port neither panics
//! nor reaches outside of its memory, and no slot of the pool is lost.
//!
//! ```text
//!   byte 0    bit 0: the region is the daemon's own memory, so that buffers are swapped
//!             bit 1: with the slots of a client, from which the rest of long frames is sent
//!   then      operations of four bytes: what, and a place and a value for it
//! ```
//!
//! The region begins as the kernel would make it: one ring each way of 16 slots. Operations overwrite
//! words of its tables, before the port is opened and between syncs.

use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use usnet_shmring::arena::{Arena, SEGMENT_SLOTS, SlotRange, SlotSize};
use usnet_shmring::descriptor::RawDescriptor;
use usnet_shmring::ledger::SessionId;
use usnet_shmring::pool::{Frame, HomeKind, Pool};
use usnet_shmring::region::Writer;
use usnet_switch::classify::Mac;
use usnet_switch::port::netmap::abi::{COMMON_REGION, PoolsInfo};
use usnet_switch::port::netmap::{
    Bank, Control, Device, Direction, Kernel, Netmap, NetmapSpec, PortName, Wish,
};
use usnet_switch::port::{Burst, Port};
use usnet_switch::time::Time;

/// Slots of each ring.
const RING: u32 = 16;
/// Where things lie: the holder's `netmap_if`, the port's, its rings, and the buffers of a region
/// that is not the daemon's.
const HOLDER: u64 = 0;
const PORT: u64 = 1024;
const TRANSMIT: u64 = 4096;
const RECEIVE: u64 = 8192;
const TABLES: u64 = 12_288;
const BUFFERS: u64 = 16_384;
const BUFFER_SIZE: u32 = 2048;
/// Buffers of a region that is not the daemon's.
const TOTAL: u32 = 64;
/// First of the buffers in the rings, behind those that lie before the ports' slots.
const HELD: u32 = 16;
/// Buffers that the holder gets: these and no others are on its list, and those of a client.
const EXTRA: core::ops::Range<u32> = 100..160;
/// Slots of the client's segment.
const CLIENT: u32 = SEGMENT_SLOTS;

/// The kernel's side: tables as they should be, and whatever the program then writes.
#[derive(Debug)]
struct Chaos {
    memfd: File,
    /// This process's own memory, for a region that lies in it.
    process: File,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Where the daemon's memory begins, and its buffers.
    own: Option<(u64, u64)>,
    pools: PoolsInfo,
    heads: [u32; 2],
    /// Buffers before those of the ports.
    before: u32,
    /// Distances by which the tails move with the next syncs.
    moves: [u32; 2],
}

impl Chaos {
    fn new() -> io::Result<Arc<Self>> {
        let memfd = File::from(rustix::fs::memfd_create("chaos", MemfdFlags::CLOEXEC)?);
        memfd.set_len(BUFFERS + u64::from(TOTAL * BUFFER_SIZE))?;
        let process = File::options().read(true).write(true).open("/proc/self/mem")?;
        Ok(Arc::new(Self { memfd, process, state: Mutex::default() }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let own = self.state().own;
        match own {
            Some((base, _)) => self.process.write_all_at(bytes, base + at),
            None => self.memfd.write_all_at(bytes, at),
        }
    }

    fn word(&self, at: u64, value: u32) -> io::Result<()> {
        self.write(at, &value.to_ne_bytes())
    }

    fn read(&self, at: u64) -> io::Result<u32> {
        let own = self.state().own;
        let mut bytes = [0; 4];
        match own {
            Some((base, _)) => self.process.read_exact_at(&mut bytes, base + at)?,
            None => self.memfd.read_exact_at(&mut bytes, at)?,
        }
        Ok(u32::from_ne_bytes(bytes))
    }

    /// One port, its two rings, their slots.
    fn tables(&self) -> io::Result<()> {
        let own = self.state().own;
        let buffers = own.map_or(BUFFERS, |(_, buffers)| buffers);
        let before = self.state().before;
        self.word(PORT + 24, 1)?;
        self.word(PORT + 28, 1)?;
        for (place, ring, first, tail) in
            [(0, TRANSMIT, HELD, RING - 1), (1, RECEIVE, HELD + RING, 0)]
        {
            self.write(PORT + 56 + 8 * place, &(ring - PORT).to_ne_bytes())?;
            self.write(ring, &(buffers - ring).to_ne_bytes())?;
            self.word(ring + 8, RING)?;
            self.word(ring + 12, BUFFER_SIZE)?;
            for field in [20, 24] {
                self.word(ring + field, 0)?;
            }
            self.word(ring + 28, tail)?;
            for slot in 0..RING {
                self.word(ring + 256 + 16 * u64::from(slot), before + first + slot)?;
                self.word(ring + 260 + 16 * u64::from(slot), 60)?;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Shared(Arc<Chaos>);

impl Kernel for Shared {
    fn open(&self) -> io::Result<Box<dyn Device>> {
        Ok(Box::new(Self(Arc::clone(&self.0))))
    }
}

impl Device for Shared {
    fn control(&self, _: &str, request: Control<'_>) -> io::Result<()> {
        let chaos = &self.0;
        match request {
            Control::Register { body, extmem: Some(extmem), .. } => {
                let mut pools = extmem.pools;
                let size = u64::from(pools.buffer_total) * u64::from(pools.buffer_size);
                pools.buffer_offset = pools.memory_size - size;
                let buffers = pools.buffer_offset;
                let mut state = chaos.state();
                (state.own, state.pools) = (Some((extmem.address, buffers)), pools);
                drop(state);
                // The client's lie in front.
                let before = pools.buffer_total - SEGMENT_SLOTS - HELD;
                chaos.state().before = before;
                let mut next = 0;
                let of_client = HELD..HELD + before;
                for buffer in EXTRA.map(|buffer| before + buffer).chain(of_client) {
                    chaos.word(buffers + u64::from(buffer * BUFFER_SIZE), next)?;
                    next = buffer;
                }
                chaos.word(HOLDER + 32, next)?;
                (body.offset, body.memory_id) = (HOLDER, 7);
                chaos.tables()
            }
            Control::Register { body, extmem: None, offsets } => {
                // What was asked for is granted: anything else is refused by the port.
                if let Some(offsets) = offsets {
                    offsets.option.status = 0;
                }
                (body.offset, body.memory_id) = (PORT, body.memory_id.max(1));
                Ok(())
            }
            Control::PortInfo(info) => {
                info.memory_id = COMMON_REGION;
                Ok(())
            }
            Control::PoolsInfo(pools) if chaos.state().own.is_some() => {
                *pools = chaos.state().pools;
                Ok(())
            }
            Control::PoolsInfo(pools) => {
                pools.memory_size = BUFFERS + u64::from(TOTAL * BUFFER_SIZE);
                pools.buffer_offset = BUFFERS;
                (pools.buffer_total, pools.buffer_size) = (TOTAL, BUFFER_SIZE);
                Ok(())
            }
        }
    }

    fn sync(&self, direction: Direction) -> io::Result<()> {
        let (index, ring) = match direction {
            Direction::Transmit => (0, TRANSMIT),
            Direction::Receive => (1, RECEIVE),
        };
        // As a kernel: slots before `head` are done with; the tail moves as far as the program says.
        let head = self.0.read(ring + 20)?;
        let mut state = self.0.state();
        let distance = core::mem::take(&mut state.moves[index]);
        state.heads[index] = head;
        drop(state);
        if distance > 0 {
            let tail = self.0.read(ring + 28)?;
            self.0.word(ring + 28, tail.wrapping_add(distance) % RING)?;
        }
        Ok(())
    }

    fn memory(&self) -> BorrowedFd<'_> {
        self.0.memfd.as_fd()
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.0.memfd.as_fd()
    }
}

/// Runs a program of operations.
///
/// # Panics
///
/// If the port broke a promise.
pub fn check(program: &[u8]) {
    let Some((mode, rest)) = program.split_first() else { return };
    let (operations, _) = rest.as_chunks::<4>();
    // Each is a few system calls.
    let operations = operations.get(..256).unwrap_or(operations);
    let arena = Arena::reserve(4 * SEGMENT_SLOTS, SlotSize::DEFAULT).expect("address space");
    let segment = |name| arena.add_segment(name, Writer::Daemon, 1, false).expect("memory");
    let objects = SlotRange::whole(segment("objects"));
    let client = (mode & 2 != 0).then(|| {
        let segment = arena.add_segment("client", Writer::Client, CLIENT, false);
        SlotRange::whole(segment.expect("memory"))
    });
    let port = SlotRange::whole(segment("port"));
    let port_segment = Arc::clone(port.segment());
    let mut pool = Pool::new(port).expect("a pool");
    let total = pool.free_slots();
    let chaos = Chaos::new().expect("a memfd");
    let kernel = Shared(Arc::clone(&chaos));
    let bank = if mode & 1 == 0 {
        chaos.tables().expect("in the memfd");
        None
    } else {
        let held = 2 * RING;
        let groups: Vec<_> = client.iter().map(|range| Arc::clone(range.segment())).collect();
        let pools = core::slice::from_mut(&mut pool);
        let bank = Bank::with_groups(&kernel, &objects, &groups, &port_segment, pools, held);
        Some(bank.expect("as a kernel makes it"))
    };
    let mut client = client.filter(|_| bank.is_some()).map(|range| Client::new(&mut pool, range));
    run(&chaos, &kernel, bank.as_ref(), &mut pool, client.as_mut(), operations);
    let kept = bank.as_ref().map_or(0, |bank| bank.kept());
    assert_eq!(pool.free_slots() + kept, total, "a slot was lost");
    let (audit, slots) = pool.audit();
    assert_eq!((audit.total(), audit.taken), (slots, 0));
    if let Some(mut client) = client {
        client.take_back(&mut pool);
        assert_eq!(client.free.len(), CLIENT as usize, "a client's slot was lost, or came twice");
    }
}

/// A client whose slots the card reads.
struct Client {
    free: Vec<u32>,
}

impl Client {
    const ID: SessionId = SessionId(0);

    fn new(pool: &mut Pool, range: SlotRange) -> Self {
        let free = (range.first()..range.first() + range.count()).collect();
        pool.add_home(HomeKind::Transmit(Self::ID), range).expect("a client's slots");
        pool.allow_tails();
        Self { free }
    }

    fn take_back(&mut self, pool: &mut Pool) {
        while let Some((_, raw)) = pool.take_released() {
            self.free.push(raw.slot());
        }
    }

    /// A frame of `length` bytes from an offset of a slot.
    fn frame(&mut self, pool: &mut Pool, offset: u16, length: u16) -> Option<Frame> {
        self.take_back(pool);
        let raw = RawDescriptor::new(self.free.pop()?, offset, length);
        let frame = pool.accept(Self::ID, raw).expect("at rest");
        pool.join(&[7; 64], frame, 192)
            .map_err(|frame| {
                let back = pool.complete(frame).expect("the session lives");
                self.free.push(back.1.slot());
            })
            .ok()
    }
}

/// Ends a port as the switch does.
fn close(port: &mut Option<Netmap>, pool: &mut Pool) {
    if let Some(mut port) = port.take() {
        port.close(pool);
    }
}

fn run(
    chaos: &Chaos,
    kernel: &dyn Kernel,
    bank: Option<&Arc<Bank>>,
    pool: &mut Pool,
    mut client: Option<&mut Client>,
    operations: &[[u8; 4]],
) {
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let spec = NetmapSpec { name: PortName::nic("eth0"), mac, mtu: 1500 };
    let mut port: Option<Netmap> = None;
    let (mut burst, mut time) = (Burst::new(), 0);
    for &[what, low, high, value] in operations {
        time += 1;
        let at = u64::from(u16::from_le_bytes([low, high])) % TABLES;
        match what % 8 {
            0 => {
                close(&mut port, pool);
                port = Netmap::open_wishing(kernel, &spec, bank, Wish::Split).ok();
            }
            1 => close(&mut port, pool),
            // A byte anywhere in the tables, and whole words where it matters most.
            2 => chaos.write(at, &[value]).expect("in the region"),
            3 => {
                let slot = RECEIVE + 256 + 16 * u64::from(low % 16);
                chaos.write(slot + u64::from(high % 8), &[value]).expect("in the region");
            }
            4 => {
                let ring = if low & 1 == 0 { TRANSMIT } else { RECEIVE };
                chaos.word(ring + 28, u32::from(value)).expect("in the region");
            }
            5 => chaos.state().moves = [u32::from(low % 16), u32::from(high % 16)],
            6 => {
                let Some(open) = &mut port else { continue };
                let failed = open.receive(Time(time), pool, &mut burst).is_err();
                while let Some(frame) = burst.pop() {
                    let bytes = pool.bytes(&frame);
                    assert!(bytes.len() >= 14 && bytes.len() <= BUFFER_SIZE as usize);
                    pool.free(frame);
                }
                if failed {
                    close(&mut port, pool);
                }
            }
            _ => {
                let Some(open) = &mut port else { continue };
                let splits = !open.tails().is_empty() && high & 2 != 0;
                for _ in 0..1 + low % 20 {
                    if let Some(client) = client.as_mut().filter(|_| splits) {
                        let length = 512 + 4 * u16::from(value);
                        let Some(frame) = client.frame(pool, u16::from(high), length) else {
                            break;
                        };
                        if let Err(frame) = burst.push(frame) {
                            pool.free(frame);
                        }
                        continue;
                    }
                    let Some(mut frame) = pool.alloc() else { break };
                    let length = 14 + u16::from(value);
                    assert!(pool.set_window(&mut frame, u16::from(high & 1), length));
                    if let Err(frame) = burst.push(frame) {
                        pool.free(frame);
                    }
                }
                let failed = open.transmit(Time(time), pool, &mut burst).is_err();
                burst.clear(pool);
                if failed {
                    close(&mut port, pool);
                }
            }
        }
    }
    close(&mut port, pool);
}

const _: () = {
    assert!(SEGMENT_SLOTS >= EXTRA.end);
    // Tables lie before everything else, in either kind of region.
    assert!(TABLES < BUFFERS);
};
