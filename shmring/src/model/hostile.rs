//! A daemon half, an honest neighbour, and a peer that stores anything anywhere it can.
//!
//! The peer never gets further than a [`Fault`]: then its session ends, all slots are counted, and
//! the neighbour's next frame must go through both ways.

use super::Bytes;
use super::world::{Backing, DaemonHalf, Regions, World};
use crate::arena::Segment;
use crate::descriptor::{Fault, RawDescriptor};
use crate::layout::Word;
use crate::ledger::SessionId;
use crate::pool::MIN_FRAME;
use crate::queues::ClientQueues;
use crate::region::{OwnCells, OwnWord, PeerWord};
use crate::words::{LoadWord, StoreCells, StoreWord};
use core::sync::atomic::Ordering;
use std::sync::Arc;

/// Everything that a client can write, and the words it can learn from.
#[derive(Debug)]
pub struct Pen {
    /// Words of the outbound region: tx and fill produced, rx and completion consumed, sleep flag.
    words: [OwnWord; 5],
    /// Cells of tx and fill.
    cells: [OwnCells; 2],
    /// What the daemon last published of the same rings, in the same order.
    daemon: [PeerWord; 4],
    segment: Arc<Segment>,
    capacity: u32,
}

const WORDS: [Word; 5] = [
    Word::FirstProduced,
    Word::SecondProduced,
    Word::FirstConsumed,
    Word::SecondConsumed,
    Word::Sleeps,
];
/// The daemon's counterpart of each.
const COUNTERPARTS: [Word; 4] =
    [Word::FirstConsumed, Word::SecondConsumed, Word::FirstProduced, Word::SecondProduced];

impl Pen {
    /// A second writer of a client's words. `None` if the regions are not of this capacity.
    #[must_use]
    pub fn new(regions: &Regions, world: &World) -> Option<Self> {
        let capacity = world.capacity;
        let own = |word| regions.client_outbound.own_word(capacity, 0, word);
        let cells = |ring| regions.client_outbound.own_cells(capacity, 0, ring);
        let peer = |word| regions.client_inbound.peer_word(capacity, 0, word);
        let [a, b, c, d, e] = WORDS.map(own);
        let [w, x, y, z] = COUNTERPARTS.map(peer);
        Some(Self {
            words: [a?, b?, c?, d?, e?],
            cells: [cells(0)?, cells(1)?],
            daemon: [w?, x?, y?, z?],
            segment: Arc::clone(&world.client_segment),
            capacity,
        })
    }

    /// A slot number worth naming: the high bits of `which` choose among the slots of both sessions,
    /// of the ports and outside, the low ones the slot.
    #[must_use]
    pub fn landmark(&self, which: u8) -> u32 {
        let (client, capacity) = (self.segment.first(), self.capacity);
        let client_end = client + self.segment.count();
        // The daemon's segment lies before the clients'; sessions take ranges from the end.
        let base = match which >> 5 {
            0 | 1 => client_end - 2 * capacity,
            2 | 3 => client - 2 * capacity,
            4 => client_end - capacity,
            5 => client - capacity,
            6 => 0,
            _ => client_end,
        };
        base + u32::from(which & 31)
    }

    /// Stores a byte of the hostile session's transmit slots, `at` counted from their first.
    pub fn payload(&self, at: u16, byte: u8) {
        let first = self.segment.count() - 2 * self.capacity;
        let size = self.segment.arena().slot_size().bytes();
        let at = usize::from(at) % (self.capacity * size) as usize;
        self.segment.scribble((first * size) as usize + at, byte);
    }

    /// Stores `value` in word `which` (modulo their number).
    pub fn store(&self, which: u8, value: u32) {
        if let Some(word) = self.words.get(usize::from(which) % self.words.len()) {
            word.store(value, Ordering::Release);
        }
    }

    /// Stores into word `which` the daemon's own position of that ring plus `distance`.
    pub fn store_near(&self, which: u8, distance: i32) {
        let which = which % 4;
        let seen = self.daemon.get(usize::from(which)).map_or(0, |w| w.load(Ordering::Acquire));
        self.store(which, seen.wrapping_add_signed(distance));
    }

    /// Stores into a cell of tx (even) or fill (odd).
    pub fn cell(&self, ring: u8, position: u32, raw: u64) {
        if let Some(cells) = self.cells.get(usize::from(ring & 1)) {
            cells.store(position & (self.capacity - 1), raw);
        }
    }
}

/// A client that does everything right.
#[derive(Debug)]
pub struct Honest {
    queues: ClientQueues,
    first_transmit: u32,
}

impl Honest {
    /// Sends one frame and takes one, and gives all slots back.
    ///
    /// # Panics
    /// If the daemon's half does not do its part.
    pub fn exchange(&mut self, half: &mut DaemonHalf, world: &mut World) {
        let q = &mut self.queues;
        q.tx.refresh().expect("an honest daemon");
        q.tx.push(RawDescriptor::new(self.first_transmit, 0, MIN_FRAME)).expect("room");
        q.tx.publish();
        let turn = half.turn(&mut world.pool, 1, |_| (), |_| ()).expect("an honest client");
        assert_eq!((turn.taken, turn.given, turn.lost), (1, 1, 0));
        assert_eq!((q.completion.refresh(), q.rx.refresh()), (Ok(1), Ok(1)));
        assert_eq!(q.completion.pop().map(RawDescriptor::slot), Some(self.first_transmit));
        let frame = q.rx.pop().expect("a frame");
        q.completion.release();
        q.rx.release();
        q.fill.refresh().expect("an honest daemon");
        q.fill.push(frame).expect("room");
        q.fill.publish();
        let turn = half.turn(&mut world.pool, 0, |_| (), |_| ()).expect("an honest client");
        assert_eq!(turn.returned, 1);
    }
}

/// A daemon with a hostile session and an honest one.
#[derive(Debug)]
pub struct Stage {
    /// Pool and spare ranges.
    pub world: World,
    /// The hostile session, daemon's half and client's pen; `None` between a fault and a new attach.
    pub hostile: Option<(DaemonHalf, Arc<Pen>)>,
    honest: (DaemonHalf, Honest),
    /// Faults so far.
    pub faults: u64,
}

/// Number of the hostile session.
pub const HOSTILE: SessionId = SessionId(7);
const HONEST: SessionId = SessionId(8);

impl Stage {
    /// Rings and homes of `capacity`.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[must_use]
    pub fn new(backing: Backing, capacity: u32) -> Self {
        let mut world = World::new(backing, capacity, 16);
        let (half, regions) = world.attach(HONEST);
        let queues = regions.client(capacity);
        // Homes are taken from the end of the segment.
        let segment = &world.client_segment;
        let first_transmit = segment.first() + segment.count() - capacity;
        let honest = (half, Honest { queues, first_transmit });
        let mut stage = Self { world, hostile: None, honest, faults: 0 };
        stage.attach();
        stage
    }

    /// Makes a new hostile session if there is none.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn attach(&mut self) {
        if self.hostile.is_none() {
            let (half, regions) = self.world.attach(HOSTILE);
            let pen = Pen::new(&regions, &self.world).expect("the same capacity");
            self.hostile = Some((half, Arc::new(pen)));
        }
    }

    /// One turn of the daemon with the hostile session, which a fault ends.
    ///
    /// # Panics
    /// If slots were lost or made.
    pub fn turn(&mut self, wanted: usize) -> Option<Fault> {
        let (half, _) = self.hostile.as_mut()?;
        let fault = half.turn(&mut self.world.pool, wanted, |_| (), |_| ()).err();
        self.world.check();
        if fault.is_some() {
            self.faults += 1;
            if let Some((half, _)) = self.hostile.take() {
                self.world.end(half);
            }
        }
        fault
    }

    /// Shows that the honest session does not notice.
    ///
    /// # Panics
    /// If it does.
    pub fn neighbour_is_served(&mut self) {
        let (half, client) = &mut self.honest;
        client.exchange(half, &mut self.world);
        self.world.check();
    }
}

/// Decodes and runs.
///
/// # Panics
/// If the peer gets further than a fault.
pub fn run_bytes(data: &[u8]) {
    let mut stage = Stage::new(Backing::Heap, 8);
    let mut bytes = Bytes(data);
    // Long inputs only repeat themselves.
    for _ in 0..512 {
        if bytes.is_empty() {
            break;
        }
        let op = bytes.byte();
        let which = op >> 3;
        let Some((_, pen)) = &stage.hostile else {
            stage.attach();
            continue;
        };
        match op & 7 {
            0 => pen.store(which, bytes.word()),
            1 => pen.store_near(which, i8::from_le_bytes([bytes.byte()]).into()),
            2 => pen.cell(which, u32::from(which >> 1), bytes.long()),
            3 => {
                let (at, slot) = (bytes.byte(), bytes.byte());
                let length = u16::from(bytes.byte()) << 4;
                let raw = RawDescriptor::new(pen.landmark(slot), u16::from(at), length);
                pen.cell(which, u32::from(which >> 1), raw.0);
            }
            4 => {
                let at = u16::from(bytes.byte()) << 11 | u16::from(which);
                pen.payload(at, bytes.byte());
            }
            5 => stage.neighbour_is_served(),
            _ => {
                let _ = stage.turn(usize::from(which));
            }
        }
    }
    let _ = stage.turn(1);
    stage.neighbour_is_served();
    if let Some((half, _)) = stage.hostile.take() {
        stage.world.end(half);
    }
    stage.world.check();
}
