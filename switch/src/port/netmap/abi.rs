//! netmap's control structures, API 14 and 15, as `net/netmap.h` of netmap commit 89607e1406c1 has
//! them on every 64-bit target.
//!
//! Rings and slots are not here: they lie in memory that the kernel writes and are never a Rust
//! value; see [`layout`] for their offsets, and `ring` for who reads them.

use bytemuck::{Pod, Zeroable};
use core::mem::{offset_of, size_of};

/// The version that is asked for; the module also takes 15.
pub const API: u16 = 14;
/// Bytes of a port's name, its end included.
pub const NAME_SIZE: usize = 64;

/// Requests of [`Header`]: `nr_reqtype`.
pub mod request {
    /// Binds the descriptor to a port: [`Register`](super::Register).
    pub const REGISTER: u16 = 1;
    /// Asks for a port's rings: [`PortInfo`](super::PortInfo).
    pub const PORT_INFO_GET: u16 = 2;
    /// Asks for a region's pools: [`PoolsInfo`](super::PoolsInfo).
    pub const POOLS_INFO_GET: u16 = 12;
}

/// Options: `nro_reqtype`.
pub mod option {
    /// Memory of the caller as the port's region: [`ExtMem`](super::ExtMem).
    pub const EXTMEM: u32 = 1;
    /// Frames begin in their buffers where their slots say: [`Offsets`](super::Offsets).
    pub const OFFSETS: u32 = 5;
}

/// Number of the region that is common to all ports without one of their own.
pub const COMMON_REGION: u16 = 1;

/// What of a port is bound: `nr_mode`.
pub mod mode {
    /// All rings of the card.
    pub const ALL_NIC: u32 = 1;
    /// The host rings.
    pub const SW: u32 = 2;
    /// Both.
    pub const NIC_SW: u32 = 3;
    /// One pair of rings of the card: `nr_ringid`.
    pub const ONE_NIC: u32 = 4;
    /// No port at all, only a region and extra buffers.
    pub const NULL: u32 = 7;
    /// One pair of host rings: `nr_ringid`.
    pub const ONE_SW: u32 = 8;
}

/// `nr_flags`.
pub mod flag {
    /// Hear what a port sends.
    pub const MONITOR_TX: u64 = 0x100;
    /// Hear what a port receives.
    pub const MONITOR_RX: u64 = 0x200;
    /// Without copying.
    pub const ZCOPY_MON: u64 = 0x400;
    /// Nobody else may bind these rings.
    pub const EXCLUSIVE: u64 = 0x800;
    /// Only rings that receive.
    pub const RX_RINGS_ONLY: u64 = 0x2000;
    /// Only rings that send.
    pub const TX_RINGS_ONLY: u64 = 0x4000;
    /// `poll` does not send, but for `POLLOUT`.
    pub const NO_TX_POLL: u64 = 0x20000;
}

/// Flags of a slot.
pub mod slot_flag {
    /// `buf_idx` is another than at the last sync.
    pub const BUF_CHANGED: u16 = 0x01;
    /// The card is to tell when it has sent the packet, not only at every half ring.
    pub const REPORT: u16 = 0x02;
    /// The packet goes on in the next slot.
    pub const MOREFRAG: u16 = 0x20;
    /// In a monitor's ring: the packet was sent, not received.
    pub const TX_MONITORED: u16 = 0x40;
}

/// `ioctl` numbers on Linux.
pub mod ioctl {
    /// Carries a [`Header`](super::Header).
    pub const CTRL: u64 = 0xc058_6997;
    /// Sends what was put into the transmit rings.
    pub const TX_SYNC: u64 = 0x6994;
    /// Gives slots of the receive rings back and takes frames.
    pub const RX_SYNC: u64 = 0x6995;
}

/// `struct nmreq_header`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// [`API`].
    pub version: u16,
    /// One of [`request`].
    pub request: u16,
    /// Zero.
    pub reserved: u32,
    /// Bare name of the port, ended by zero.
    pub name: [u8; NAME_SIZE],
    /// Address of the first option; 0 if there is none.
    pub options: u64,
    /// Address of the request's own structure.
    pub body: u64,
}

/// `struct nmreq_register`: asks, and is filled in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Register {
    /// Out: where the port's `netmap_if` lies in the region, in bytes.
    pub offset: u64,
    /// Out: bytes of the region.
    pub memory_size: u64,
    /// In, a wish, and out: slots of each transmit ring.
    pub tx_slots: u32,
    /// In, a wish, and out: slots of each receive ring.
    pub rx_slots: u32,
    /// In, a wish, and out: transmit rings of the card.
    pub tx_rings: u16,
    /// In, a wish, and out: receive rings of the card.
    pub rx_rings: u16,
    /// In, a wish, and out: transmit rings of the host.
    pub host_tx_rings: u16,
    /// In, a wish, and out: receive rings of the host.
    pub host_rx_rings: u16,
    /// In, a wish, and out: the region. Buffers may be swapped where it is the same.
    pub memory_id: u16,
    /// Which ring, of modes with one; which pipe.
    pub ring_id: u16,
    /// One of [`mode`].
    pub mode: u32,
    /// In: buffers wanted beside those of the rings; out: how many there are.
    pub extra_buffers: u32,
    /// Zero.
    pub padding: u32,
    /// Of [`flag`].
    pub flags: u64,
}

/// `struct nmreq_port_info_get`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PortInfo {
    /// Bytes of the region.
    pub memory_size: u64,
    /// Slots of each transmit ring.
    pub tx_slots: u32,
    /// Slots of each receive ring.
    pub rx_slots: u32,
    /// Transmit rings of the card.
    pub tx_rings: u16,
    /// Receive rings of the card.
    pub rx_rings: u16,
    /// Transmit rings of the host.
    pub host_tx_rings: u16,
    /// Receive rings of the host.
    pub host_rx_rings: u16,
    /// The region.
    pub memory_id: u16,
    /// Zero.
    pub padding: [u16; 3],
}

impl PortInfo {
    /// Buffers that all rings of the port hold, host rings too: of these there is one pair at least.
    #[must_use]
    pub fn ring_buffers(&self) -> u32 {
        let rings =
            |card: u16, host: u16, slots| (u32::from(card) + u32::from(host.max(1))) * slots;
        rings(self.tx_rings, self.host_tx_rings, self.tx_slots)
            + rings(self.rx_rings, self.host_rx_rings, self.rx_slots)
    }
}

/// `struct nmreq_pools_info`: the three kinds of object that a region is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PoolsInfo {
    /// Bytes of the region.
    pub memory_size: u64,
    /// The region.
    pub memory_id: u16,
    /// Zero.
    pub padding: [u16; 3],
    /// Where `netmap_if` objects begin, in bytes.
    pub if_offset: u64,
    /// How many there are.
    pub if_total: u32,
    /// Bytes of each.
    pub if_size: u32,
    /// Where rings begin, in bytes.
    pub ring_offset: u64,
    /// How many there are.
    pub ring_total: u32,
    /// Bytes of each.
    pub ring_size: u32,
    /// Where buffers begin, in bytes.
    pub buffer_offset: u64,
    /// How many there are; the first two are not for use.
    pub buffer_total: u32,
    /// Bytes of each.
    pub buffer_size: u32,
}

/// `struct nmreq_option`: what every option begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct OptionHeader {
    /// Address of the next option; 0 ends the chain.
    pub next: u64,
    /// One of [`option`].
    pub kind: u32,
    /// Out: 0, or the error number for which the option was refused.
    pub status: u32,
    /// Bytes of a variable part.
    pub size: u64,
}

/// `struct nmreq_opt_extmem`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ExtMem {
    /// [`option::EXTMEM`].
    pub option: OptionHeader,
    /// Address of the memory.
    pub address: u64,
    /// In: its size and the pools wanted; out: the pools made of it.
    pub pools: PoolsInfo,
}

/// `struct nmreq_opt_offsets`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Offsets {
    /// [`option::OFFSETS`].
    pub option: OptionHeader,
    /// In: the largest that will be used; out: the largest that is not cut.
    pub most: u64,
    /// In: what all slots begin with.
    pub initial: u64,
    /// In: bits of a slot's pointer that are an offset; 0 for all.
    pub bits: u32,
    /// Zero.
    pub tx_align: u32,
    /// In: least distance between two frames of one buffer; 0 if there is one in each.
    pub least_gap: u64,
}

/// Offsets, in bytes, of what lies in a region. Counts and positions are 32 bits, `ring_ofs` and
/// `buf_ofs` 64.
pub mod layout {
    /// `struct netmap_if`.
    pub mod port {
        /// Transmit rings of the card.
        pub const TX_RINGS: usize = 24;
        /// Receive rings of the card.
        pub const RX_RINGS: usize = 28;
        /// First of the list of extra buffers.
        pub const EXTRA_HEAD: usize = 32;
        /// Transmit rings of the host.
        pub const HOST_TX_RINGS: usize = 36;
        /// Receive rings of the host.
        pub const HOST_RX_RINGS: usize = 40;
        /// The table of rings: transmit, host transmit, receive, host receive; relative to this
        /// structure, 0 for a ring that is not bound.
        pub const RING_OFFSETS: usize = 56;
    }

    /// `struct netmap_ring`.
    pub mod ring {
        /// Where buffer 0 lies, relative to the ring.
        pub const BUFFERS: usize = 0;
        /// Number of slots.
        pub const SLOT_COUNT: usize = 8;
        /// Bytes of a buffer.
        pub const BUFFER_SIZE: usize = 12;
        /// First slot that is the user's. Written by the user.
        pub const HEAD: usize = 20;
        /// Wake-up point. Written by the user.
        pub const CURRENT: usize = 24;
        /// First slot that is the kernel's. Written by the kernel.
        pub const TAIL: usize = 28;
        /// First slot.
        pub const SLOTS: usize = 256;
    }

    /// `struct netmap_slot`.
    pub mod slot {
        /// Which buffer, 32 bits.
        pub const BUFFER: usize = 0;
        /// Bytes of the frame, 16 bits.
        pub const LENGTH: usize = 4;
        /// Of [`slot_flag`](super::super::slot_flag), 16 bits.
        pub const FLAGS: usize = 6;
        /// Where an offset stands if there are such, 64 bits.
        pub const POINTER: usize = 8;
        /// Bytes of a slot.
        pub const SIZE: usize = 16;
    }
}

// The table of sizes and offsets that was read from the header by a C program.
const _: () = {
    assert!(size_of::<Header>() == 88);
    assert!(offset_of!(Header, reserved) == 4 && offset_of!(Header, name) == 8);
    assert!(offset_of!(Header, options) == 72 && offset_of!(Header, body) == 80);
    assert!(size_of::<Register>() == 56);
    assert!(offset_of!(Register, tx_slots) == 16 && offset_of!(Register, tx_rings) == 24);
    assert!(offset_of!(Register, host_tx_rings) == 28 && offset_of!(Register, memory_id) == 32);
    assert!(offset_of!(Register, ring_id) == 34 && offset_of!(Register, mode) == 36);
    assert!(offset_of!(Register, extra_buffers) == 40 && offset_of!(Register, flags) == 48);
    assert!(size_of::<PortInfo>() == 32);
    assert!(offset_of!(PortInfo, tx_rings) == 16 && offset_of!(PortInfo, memory_id) == 24);
    assert!(size_of::<PoolsInfo>() == 64);
    assert!(offset_of!(PoolsInfo, memory_id) == 8 && offset_of!(PoolsInfo, if_offset) == 16);
    assert!(offset_of!(PoolsInfo, ring_offset) == 32 && offset_of!(PoolsInfo, ring_size) == 44);
    assert!(offset_of!(PoolsInfo, buffer_offset) == 48 && offset_of!(PoolsInfo, buffer_size) == 60);
    assert!(size_of::<OptionHeader>() == 24 && offset_of!(OptionHeader, status) == 12);
    assert!(size_of::<ExtMem>() == 96);
    assert!(offset_of!(ExtMem, address) == 24 && offset_of!(ExtMem, pools) == 32);
    assert!(size_of::<Offsets>() == 56 && offset_of!(Offsets, most) == 24);
    assert!(offset_of!(Offsets, bits) == 40 && offset_of!(Offsets, least_gap) == 48);
};
