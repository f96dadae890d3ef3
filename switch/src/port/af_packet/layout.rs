//! Structures of `linux/if_packet.h`, as plain data.

use bytemuck::{Pod, Zeroable};
use core::mem::{offset_of, size_of};

/// `struct tpacket_req3`; its first four words are `struct tpacket_req`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(super) struct RingRequest {
    pub(super) block_size: u32,
    pub(super) block_count: u32,
    pub(super) frame_size: u32,
    pub(super) frame_count: u32,
    pub(super) retire_ms: u32,
    pub(super) private_size: u32,
    pub(super) features: u32,
}
const _: () = assert!(size_of::<RingRequest>() == 28);

impl RingRequest {
    /// Whole ring, in bytes.
    pub(super) fn size(&self) -> usize {
        self.block_size as usize * self.block_count as usize
    }
}

/// `struct tpacket2_hdr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(super) struct HeaderV2 {
    pub(super) status: u32,
    pub(super) len: u32,
    pub(super) snaplen: u32,
    pub(super) mac: u16,
    pub(super) net: u16,
    pub(super) sec: u32,
    pub(super) nsec: u32,
    pub(super) vlan_tci: u16,
    pub(super) vlan_tpid: u16,
    pub(super) padding: [u8; 4],
}
const _: () = assert!(size_of::<HeaderV2>() == 32 && offset_of!(HeaderV2, mac) == 12);

/// `struct tpacket3_hdr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(super) struct HeaderV3 {
    pub(super) next_offset: u32,
    pub(super) sec: u32,
    pub(super) nsec: u32,
    pub(super) snaplen: u32,
    pub(super) len: u32,
    pub(super) status: u32,
    pub(super) mac: u16,
    pub(super) net: u16,
    pub(super) rxhash: u32,
    pub(super) vlan_tci: u32,
    pub(super) vlan_tpid: u16,
    pub(super) padding: [u8; 10],
}
const _: () = assert!(size_of::<HeaderV3>() == 48 && offset_of!(HeaderV3, vlan_tci) == 32);

/// `struct tpacket_block_desc` up to the sequence number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(super) struct BlockHeader {
    pub(super) version: u32,
    pub(super) offset_to_private: u32,
    pub(super) status: u32,
    pub(super) packets: u32,
    pub(super) first_offset: u32,
    pub(super) used: u32,
}
const _: () = assert!(offset_of!(BlockHeader, status) == 8);

/// What both kinds of headers say of a received frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    /// Where the frame begins, from the start of the mapping.
    pub(super) at: usize,
    pub(super) len: u32,
    pub(super) snaplen: u32,
    pub(super) status: u32,
    pub(super) vlan_tci: u16,
    pub(super) vlan_tpid: u16,
}

impl Received {
    pub(super) fn v2(header: &HeaderV2, base: usize) -> Self {
        Self {
            at: base + usize::from(header.mac),
            len: header.len,
            snaplen: header.snaplen,
            status: header.status,
            vlan_tci: header.vlan_tci,
            vlan_tpid: header.vlan_tpid,
        }
    }

    pub(super) fn v3(header: &HeaderV3, base: usize) -> Self {
        Self {
            at: base + usize::from(header.mac),
            len: header.len,
            snaplen: header.snaplen,
            status: header.status,
            // The field is wider than a tag.
            vlan_tci: u16::try_from(header.vlan_tci & 0xffff).unwrap_or(0),
            vlan_tpid: header.vlan_tpid,
        }
    }

    /// The tag that the kernel has taken out of the frame, as it was on the wire.
    pub(super) fn tag(&self) -> Option<[u8; 4]> {
        if self.status & libc::TP_STATUS_VLAN_VALID == 0 {
            return None;
        }
        let has_tpid = self.status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
        let [a, b] = if has_tpid { self.vlan_tpid } else { 0x8100 }.to_be_bytes();
        let [c, d] = self.vlan_tci.to_be_bytes();
        Some([a, b, c, d])
    }

    /// Whether the frame is cut.
    pub(super) fn is_cut(&self) -> bool {
        self.snaplen < self.len
    }

    /// Whether the transport checksum was left to hardware that the frame never met.
    pub(super) fn needs_checksum(&self) -> bool {
        self.status & libc::TP_STATUS_CSUMNOTREADY != 0
    }
}
