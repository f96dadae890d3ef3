//! The system call bpf(2), a socket option that rustix lacks, and the rings that the kernel writes too.
//!
//! - Structures are those of `linux/bpf.h` (`union bpf_attr`), each as long as its last field that is
//!   used; the kernel takes what is missing as zero.
//! - A ring's places are checked against its mapping when it is mapped. Its words are only ever touched
//!   as atomics.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper, and the kernel writes the rings too")]

use bytemuck::{Pod, Zeroable};
use core::mem::{offset_of, size_of};
use core::slice;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use memmap2::{MmapOptions, MmapRaw};
use rustix::net::xdp::XdpRingOffset;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `enum bpf_cmd`.
mod command {
    pub(super) const MAP_CREATE: libc::c_long = 0;
    pub(super) const MAP_UPDATE: libc::c_long = 2;
    #[cfg(test)]
    pub(super) const MAP_DELETE: libc::c_long = 3;
    pub(super) const PROG_LOAD: libc::c_long = 5;
    #[cfg(test)]
    pub(super) const PROG_TEST_RUN: libc::c_long = 10;
    pub(super) const LINK_CREATE: libc::c_long = 28;
}

/// `BPF_XDP` of `enum bpf_attach_type`.
pub(super) const ATTACH_XDP: u32 = 37;
/// `BPF_TCX_EGRESS`, likewise.
pub(super) const ATTACH_TCX_EGRESS: u32 = 47;
/// The licence that a program is under; helpers used here need none in particular.
const LICENCE: &core::ffi::CStr = c"Dual MIT/GPL";

/// Bytes of a name in the kernel's lists (`BPF_OBJ_NAME_LEN`).
pub(super) const NAME_LENGTH: usize = 16;

/// Kinds of maps whose values have one copy each, so that their size is the one that was asked for
/// (`enum bpf_map_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum MapKind {
    /// With one value for each index, mapped.
    Array = 2,
    /// Whose entries give way, the one that was not used for longest first.
    Flows = 9,
    Sockets = 17,
}

/// What a program is loaded as.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProgramKind {
    /// Of `enum bpf_prog_type`.
    pub(super) kind: u32,
    /// Of `enum bpf_attach_type`.
    pub(super) attachment: u32,
    /// `BPF_F_*`.
    pub(super) flags: u32,
}

/// `BPF_F_MMAPABLE`: the values can be mapped.
const MAPPABLE: u32 = 1 << 10;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; NAME_LENGTH],
}
const _: () = assert!(offset_of!(MapCreate, name) == 28 && size_of::<MapCreate>() == 44);

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct MapElement {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}
const _: () = assert!(size_of::<MapElement>() == 32);

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; NAME_LENGTH],
    interface: u32,
    expected_attach_type: u32,
}
const _: () = assert!(offset_of!(ProgramLoad, name) == 48 && size_of::<ProgramLoad>() == 72);

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

#[cfg(test)]
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct TestRun {
    program: u32,
    result: u32,
    in_size: u32,
    out_size: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_in_size: u32,
    context_out_size: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}
#[cfg(test)]
const _: () = assert!(offset_of!(TestRun, context_in) == 48 && size_of::<TestRun>() == 80);

fn address<T>(of: *const T) -> u64 {
    of.expose_provenance() as u64
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn length(of: &[u8]) -> io::Result<u32> {
    u32::try_from(of.len()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// bpf(2).
///
/// # Safety
/// Whatever addresses `attribute` holds lead to as many bytes as `command` reads or writes there.
unsafe fn bpf<T: Pod>(command: libc::c_long, attribute: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attribute` is plain data of the size that is given; its addresses are by the caller's
    // contract.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, core::ptr::from_mut(attribute), size_of::<T>())
    };
    libc::c_int::try_from(result).ok().filter(|r| *r >= 0).ok_or_else(io::Error::last_os_error)
}

/// The descriptor that a command has just made.
fn owned(descriptor: libc::c_int) -> OwnedFd {
    // SAFETY: only called with what MAP_CREATE, PROG_LOAD or LINK_CREATE has returned: an open
    // descriptor that nobody else knows of.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// A map, with the sizes that the kernel goes by.
#[derive(Debug)]
pub(super) struct RawMap {
    descriptor: OwnedFd,
    key_size: usize,
    value_size: usize,
}

impl RawMap {
    pub(super) fn create(
        kind: MapKind,
        name: [u8; NAME_LENGTH],
        key_size: u32,
        value_size: u32,
        entries: u32,
    ) -> io::Result<Self> {
        let flags = if kind == MapKind::Array { MAPPABLE } else { 0 };
        let kind = kind as u32;
        let mut attribute =
            MapCreate { kind, key_size, value_size, entries, flags, name, ..MapCreate::zeroed() };
        // SAFETY: the attribute holds no address.
        let descriptor = owned(unsafe { bpf(command::MAP_CREATE, &mut attribute) }?);
        Ok(Self { descriptor, key_size: key_size as usize, value_size: value_size as usize })
    }

    fn element(&self, key: &[u8], value: u64) -> io::Result<MapElement> {
        if key.len() != self.key_size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let map = number(self.descriptor.as_fd());
        Ok(MapElement { map, key: address(key.as_ptr()), value, ..MapElement::zeroed() })
    }

    pub(super) fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if value.len() != self.value_size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut attribute = self.element(key, address(value.as_ptr()))?;
        // SAFETY: key and value have the sizes that the map was made with, checked above and in
        // `element`; the kernel only reads them.
        unsafe { bpf(command::MAP_UPDATE, &mut attribute) }.map(drop)
    }
}

#[cfg(test)]
impl RawMap {
    /// Whether there was an entry.
    pub(super) fn delete(&self, key: &[u8]) -> io::Result<bool> {
        let mut attribute = self.element(key, 0)?;
        // SAFETY: the key has the size that the map was made with, checked in `element`; the kernel only
        // reads it.
        match unsafe { bpf(command::MAP_DELETE, &mut attribute) } {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            result => result.map(|_| true),
        }
    }
}

/// The value of an array of one, mapped: the program sees what is stored here.
#[derive(Debug)]
pub(super) struct MapMemory {
    map: MmapRaw,
}

impl MapMemory {
    /// Maps the only value of an array. The kernel rounds it up to whole pages.
    pub(super) fn of(map: &RawMap) -> io::Result<Self> {
        Ok(Self { map: MmapOptions::new().len(map.value_size).map_raw(&map.descriptor)? })
    }

    pub(super) fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: the whole mapping, which lives as long as `self`; any bits are a valid `AtomicU8`, and
        // an atomic may be read by the kernel's program at any time.
        unsafe { slice::from_raw_parts(self.map.as_ptr().cast(), self.map.len()) }
    }
}

impl AsFd for RawMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Loads a program. The verifier writes into `log` unless it is empty.
pub(super) fn load_program(
    as_what: ProgramKind,
    name: [u8; NAME_LENGTH],
    instructions: &[u64],
    log: &mut [u8],
    log_level: u32,
) -> io::Result<OwnedFd> {
    let mut attribute = ProgramLoad {
        kind: as_what.kind,
        count: u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: address(instructions.as_ptr()),
        licence: address(LICENCE.as_ptr()),
        flags: as_what.flags,
        name,
        expected_attach_type: as_what.attachment,
        ..ProgramLoad::zeroed()
    };
    if !log.is_empty() {
        attribute.log_level = log_level;
        attribute.log_size = length(log)?;
        attribute.log = address(log.as_mut_ptr());
    }
    // SAFETY: `instructions` has `count` elements of the 8 bytes of an instruction, the licence ends
    // with a zero byte, `log` can be written for `log_size` bytes; all live until the call returns.
    unsafe { bpf(command::PROG_LOAD, &mut attribute) }.map(owned)
}

/// Attaches a program to an interface, until the descriptor closes.
pub(super) fn create_link(
    program: BorrowedFd<'_>,
    interface: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let program = number(program);
    let mut attribute = LinkCreate { program, interface, attach_type, flags };
    // SAFETY: the attribute holds no address.
    unsafe { bpf(command::LINK_CREATE, &mut attribute) }.map(owned)
}

/// Runs a program once over a packet, and returns what the program returned.
#[cfg(test)]
pub(super) fn test_run(program: BorrowedFd<'_>, packet: &[u8]) -> io::Result<u32> {
    let mut attribute = TestRun {
        program: number(program),
        in_size: length(packet)?,
        data_in: address(packet.as_ptr()),
        repeat: 1,
        ..TestRun::zeroed()
    };
    // SAFETY: the kernel reads `packet`, whose length is given, and writes to no address, since none
    // is given for output.
    unsafe { bpf(command::PROG_TEST_RUN, &mut attribute) }?;
    Ok(attribute.result)
}

/// Has the driver behind a socket polled by its system calls.
pub(super) fn set_busy_poll(
    socket: BorrowedFd<'_>,
    microseconds: u32,
    budget: u16,
) -> io::Result<()> {
    let time = libc::c_int::try_from(microseconds).map_err(|_| io::ErrorKind::InvalidInput)?;
    for (option, value) in [
        (libc::SO_PREFER_BUSY_POLL, 1),
        (libc::SO_BUSY_POLL, time),
        (libc::SO_BUSY_POLL_BUDGET, libc::c_int::from(budget)),
    ] {
        let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
        // SAFETY: the kernel reads an int, which lives until the call returns.
        let result = unsafe {
            let value = core::ptr::from_ref(&value).cast();
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, size)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// One ring of a socket: two positions, a word of flags, cells.
#[derive(Debug)]
pub(super) struct RingMemory {
    map: MmapRaw,
    producer: usize,
    consumer: usize,
    flags: usize,
    cells: usize,
    words: usize,
}

impl RingMemory {
    /// Maps a ring whose cells are `words` words of 64 bits, which the socket has at `page_offset`.
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        page_offset: u64,
        offsets: &XdpRingOffset,
        words: usize,
    ) -> io::Result<Self> {
        let place =
            |at: u64| usize::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        let cells = place(offsets.desc)?;
        let length = words.checked_mul(8).and_then(|bytes| bytes.checked_add(cells));
        let length = length.ok_or(io::ErrorKind::InvalidData)?;
        let map = MmapOptions::new().offset(page_offset).len(length).populate().map_raw(&socket)?;
        let Some(flags) = offsets.flags else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "AF_XDP of before Linux 5.4"));
        };
        let [producer, consumer] = [place(offsets.producer)?, place(offsets.consumer)?];
        Self::new(map, producer, consumer, place(flags)?, cells, words)
    }

    fn new(
        map: MmapRaw,
        producer: usize,
        consumer: usize,
        flags: usize,
        cells: usize,
        words: usize,
    ) -> io::Result<Self> {
        let lies_in = |at: usize, align: usize, bytes: usize| {
            at.is_multiple_of(align) && at.checked_add(bytes).is_some_and(|end| end <= map.len())
        };
        let bytes = words.checked_mul(8).ok_or(io::ErrorKind::InvalidData)?;
        if ![producer, consumer, flags].iter().all(|at| lies_in(*at, 4, 4))
            || !lies_in(cells, 8, bytes)
        {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self { map, producer, consumer, flags, cells, words })
    }

    /// A ring in ordinary memory, whose other side a test plays.
    #[cfg(test)]
    pub(super) fn private(words: usize) -> io::Result<Self> {
        let map = MmapRaw::from(MmapOptions::new().len(192 + words * 8).map_anon()?);
        Self::new(map, 0, 64, 128, 192, words)
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: `at` is one of the three places that `new` has checked to be aligned (the mapping
        // begins at a page) and to lie in the mapping, which lives as long as `self`. Any bits are a
        // valid `AtomicU32`, which the kernel may write at any time.
        unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().add(at).cast()) }
    }

    #[inline]
    pub(super) fn producer(&self) -> &AtomicU32 {
        self.word(self.producer)
    }

    #[inline]
    pub(super) fn consumer(&self) -> &AtomicU32 {
        self.word(self.consumer)
    }

    #[inline]
    pub(super) fn flags(&self) -> &AtomicU32 {
        self.word(self.flags)
    }

    #[inline]
    pub(super) fn cells(&self) -> &[AtomicU64] {
        // SAFETY: `new` has checked that `words` words from `cells` on are aligned and lie in the
        // mapping, which lives as long as `self`. Any bits are a valid `AtomicU64`, which the kernel
        // may write at any time.
        unsafe { slice::from_raw_parts(self.map.as_ptr().add(self.cells).cast(), self.words) }
    }
}
