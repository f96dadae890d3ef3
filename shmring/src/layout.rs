//! Where each shared word lies. `docs/protocol.md` is the normative text; this file must agree.
//!
//! ```text
//!   inbound (daemon writes)                    outbound (client writes)
//!   0     RegionHeader                         0     RegionHeader (written by the daemon, once)
//!   4096  pair 0: rx.produced          128     4096  pair 0: tx.produced          128
//!                 completion.produced  128                   fill.produced        128
//!                 tx.consumed          128                   rx.consumed          128
//!                 fill.consumed        128                   completion.consumed  128
//!                 daemon sleeps        128                   client sleeps        128
//!                 (reserved)           384                   (reserved)           384
//!                 rx cells       8 * capacity                tx cells       8 * capacity
//!                 completion cells   the same                fill cells         the same
//!         pair 1 ...                                 pair 1 ...
//! ```
//!
//! Both regions have one shape, so one set of offsets serves both: *first* is rx or tx, *second* is
//! completion or fill; `consumed` words speak of the other region's rings in the same order.

use bytemuck::{Pod, Zeroable};
use core::mem::{offset_of, size_of};

/// Version of the shared-memory layout and of the control protocol together.
pub const VERSION: u32 = 3;

/// First bytes of an inbound region.
pub const INBOUND_MAGIC: [u8; 8] = *b"usnet-in";
/// First bytes of an outbound region.
pub const OUTBOUND_MAGIC: [u8; 8] = *b"usnetout";

/// Distance between words that are written at different times: two cache lines, since x86-64 and
/// arm64 machines prefetch lines in pairs.
pub const LINE: usize = 128;
/// Where the first queue pair begins.
pub const PAIRS: usize = 4096;
/// Where the cells of a queue pair begin, from the pair's start.
pub const CELLS: usize = 8 * LINE;

/// Names the region and repeats its shape, for people and debuggers. Neither side may rely on it
/// after the handshake.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct RegionHeader {
    /// [`INBOUND_MAGIC`] or [`OUTBOUND_MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: u32,
    /// Queue pairs, 1 or more.
    pub pairs: u32,
    /// Cells of each ring; a power of two, 2..=32,768.
    pub ring_capacity: u32,
    /// Bytes of a slot; a power of two.
    pub slot_size: u32,
    /// Bytes of the region.
    pub size: u64,
    /// Zero.
    pub reserved: [u8; 96],
}
const _: () = assert!(
    size_of::<RegionHeader>() == 128
        && offset_of!(RegionHeader, ring_capacity) == 16
        && offset_of!(RegionHeader, size) == 24
);

/// The words of a queue pair in one region, as offsets from the pair's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Produced position of the first ring (inbound: rx, outbound: tx).
    FirstProduced,
    /// Produced position of the second ring (inbound: completion, outbound: fill).
    SecondProduced,
    /// Consumed position of the peer's first ring (inbound: tx, outbound: rx).
    FirstConsumed,
    /// Consumed position of the peer's second ring (inbound: fill, outbound: completion).
    SecondConsumed,
    /// Non-zero while the writer of this region sleeps.
    Sleeps,
}

impl Word {
    /// Offset from the pair's start, in bytes.
    #[must_use]
    pub const fn offset(self) -> usize {
        self as usize * LINE
    }
}

/// Bytes of one queue pair in one region.
#[must_use]
pub const fn pair_size(ring_capacity: u32) -> usize {
    CELLS + (2 * cells_size(ring_capacity)).next_multiple_of(LINE)
}

/// Bytes of one ring's cells.
#[must_use]
pub const fn cells_size(ring_capacity: u32) -> usize {
    8 * ring_capacity as usize
}

/// Bytes of a region, whole pages.
#[must_use]
pub const fn region_size(pairs: u32, ring_capacity: u32) -> usize {
    (PAIRS + pairs as usize * pair_size(ring_capacity)).next_multiple_of(4096)
}
