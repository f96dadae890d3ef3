//! Maps, programs and links of bpf(2) (linux/bpf.h), as far as XDP sockets need them.
//!
//! ```text
//!   Code --load--> Program --attach--> Link     frames of the interface meet the program
//!                     |                            until the link is dropped
//!                    Map   keys and values that both sides see
//! ```
//!
//! - Nothing is pinned: all ends with the descriptors, also when the process is killed.

use super::asm::Code;
use super::sys::{self, MapKind, MapMemory, NAME_LENGTH, RawMap};
use super::watch::FlowKey;
use crate::steer::{CLAIMED_BYTES, ClaimedPorts};
use bytemuck::Pod;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU8, Ordering};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use thiserror::Error;

/// Bytes that the verifier may say of a program that it refuses.
const LOG_SIZE: usize = 1 << 16;

/// Why the kernel did not take something.
#[derive(Debug, Error)]
pub(super) enum XdpError {
    #[error("cannot {what}{hint}")]
    Refused { what: &'static str, hint: &'static str, source: io::Error },
    /// With the last thing that the verifier said.
    #[error("the verifier refuses the BPF program: {verdict}")]
    Verifier { verdict: String, source: io::Error },
}

impl From<XdpError> for io::Error {
    fn from(error: XdpError) -> Self {
        let (XdpError::Refused { source, .. } | XdpError::Verifier { source, .. }) = &error;
        Self::new(source.kind(), error)
    }
}

/// What was tried, and the way out where there is a known one.
pub(super) fn refused(what: &'static str) -> impl Fn(io::Error) -> XdpError {
    move |source| {
        let hint = match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "; it needs root, or CAP_BPF and CAP_NET_ADMIN, in the first user namespace"
            }
            Some(libc::ENOSYS) => "; this kernel is built without bpf(2)",
            Some(libc::EBUSY) => {
                "; another XDP program is on the interface, which `ip link` shows; detach it first"
            }
            _ => "",
        };
        XdpError::Refused { what, hint, source }
    }
}

fn name_of(text: &str) -> [u8; NAME_LENGTH] {
    let mut name = [0; NAME_LENGTH];
    // The last byte stays zero.
    for (to, from) in name.iter_mut().zip(text.bytes().take(NAME_LENGTH - 1)) {
        *to = from;
    }
    name
}

/// A map from plain data to plain data.
#[derive(Debug)]
pub(super) struct Map<K, V> {
    raw: RawMap,
    of: PhantomData<fn(K) -> V>,
}

impl<K, V> Map<K, V> {
    fn create(kind: MapKind, name: &str, entries: u32) -> Result<Self, XdpError> {
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let (key, value) = (size(size_of::<K>()), size(size_of::<V>()));
        let raw = RawMap::create(kind, name_of(name), key, value, entries)
            .map_err(refused("make a BPF map"))?;
        Ok(Self { raw, of: PhantomData })
    }

    /// The number by which instructions name the map.
    pub(super) fn number(&self) -> i32 {
        self.raw.as_fd().as_raw_fd()
    }
}

impl<K: Pod, V: Pod> Map<K, V> {
    /// Puts an entry in, in place of one with the same key.
    pub(super) fn insert(&self, key: &K, value: &V) -> Result<(), XdpError> {
        self.raw
            .update(bytemuck::bytes_of(key), bytemuck::bytes_of(value))
            .map_err(refused("change a BPF map"))
    }
}

#[cfg(test)]
impl<K: Pod, V: Pod> Map<K, V> {
    /// Takes an entry out. Returns whether there was one.
    pub(super) fn remove(&self, key: &K) -> bool {
        self.raw.delete(bytemuck::bytes_of(key)).unwrap()
    }
}

/// The sockets of an interface, by receive queue (`BPF_MAP_TYPE_XSKMAP`).
pub(super) type SocketMap = Map<u32, i32>;

impl SocketMap {
    /// For `queues` queues.
    pub(super) fn sockets(queues: u32) -> Result<Self, XdpError> {
        Self::create(MapKind::Sockets, "usnet_sockets", queues)
    }

    /// Makes a queue's frames go to a socket that is bound to that queue.
    pub(super) fn set(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        self.insert(&queue, &socket.as_raw_fd())
    }
}

/// A count for each port that may be a client's: an array of one value, which the workers' tables write and
/// the program reads, without a system call in between.
#[derive(Debug)]
pub(super) struct ClaimMap {
    map: Map<u32, [u8; CLAIMED_BYTES]>,
    memory: MapMemory,
}

impl ClaimMap {
    /// For the tables of so many workers.
    pub(super) fn new(workers: u8) -> Result<Self, XdpError> {
        let map = Map::create(MapKind::Array, "usnet_claimed", 1)?;
        let memory = MapMemory::of(&map.raw).map_err(refused("map a BPF map"))?;
        // Until all tables have spoken any port may be a client's.
        for count in memory.bytes() {
            count.store(workers, Ordering::SeqCst);
        }
        Ok(Self { map, memory })
    }

    /// The number by which instructions name the map.
    pub(super) fn number(&self) -> i32 {
        self.map.number()
    }
}

/// VLANs whose frames are the switch's: an array of one value, with a byte for each identifier.
#[derive(Debug)]
pub(super) struct VlanMap {
    map: Map<u32, [u8; IDENTIFIERS]>,
    memory: MapMemory,
}

/// As many as a tag can say.
const IDENTIFIERS: usize = 1 << 12;

impl VlanMap {
    /// Of none.
    pub(super) fn new() -> Result<Self, XdpError> {
        let map = Map::create(MapKind::Array, "usnet_vlans", 1)?;
        let memory = MapMemory::of(&map.raw).map_err(refused("map a BPF map"))?;
        Ok(Self { map, memory })
    }

    /// The number by which instructions name the map.
    pub(super) fn number(&self) -> i32 {
        self.map.number()
    }

    /// From now on frames of this VLAN are the switch's, or are not.
    pub(super) fn set(&self, id: u16, is_served: bool) {
        if let Some(byte) = self.memory.bytes().get(usize::from(id)) {
            byte.store(is_served.into(), Ordering::SeqCst);
        }
    }
}

/// When the kernel last sent something of a flow, in nanoseconds since the system began
/// (`BPF_MAP_TYPE_LRU_HASH`).
pub(super) type FlowMap = Map<FlowKey, u64>;

/// Flows of the kernel's that are remembered; those that were not used for longest go first.
const KERNEL_FLOWS: u32 = 1 << 16;

impl FlowMap {
    pub(super) fn flows() -> Result<Self, XdpError> {
        Self::create(MapKind::Flows, "usnet_flows", KERNEL_FLOWS)
    }
}

impl ClaimedPorts for ClaimMap {
    fn counts(&self) -> &[AtomicU8] {
        self.memory.bytes()
    }
}

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It meets frames that arrive.
    Xdp {
        /// Also those of which it sees only the beginning, since the rest lies in other buffers.
        fragments: bool,
    },
    /// It meets packets that the kernel sends.
    Egress,
}

impl Kind {
    /// The type of the program (`enum bpf_prog_type`), its attachment's, and flags
    /// (`BPF_F_XDP_HAS_FRAGS`).
    const fn numbers(self) -> sys::ProgramKind {
        match self {
            Self::Xdp { fragments } => sys::ProgramKind {
                kind: 6,
                attachment: sys::ATTACH_XDP,
                flags: if fragments { 1 << 5 } else { 0 },
            },
            Self::Egress => {
                sys::ProgramKind { kind: 3, attachment: sys::ATTACH_TCX_EGRESS, flags: 0 }
            }
        }
    }
}

/// A program that the verifier has taken.
#[derive(Debug)]
pub(super) struct Program(OwnedFd);

impl Program {
    /// Loads a program. A map that it names must be open now, and lives as long as the program.
    pub(super) fn load(kind: Kind, name: &str, code: &Code) -> Result<Self, XdpError> {
        let words = code.words();
        let (kind, name) = (kind.numbers(), name_of(name));
        // The verifier is only asked to explain itself when there is something to explain.
        let error = match sys::load_program(kind, name, &words, &mut [], 0) {
            Ok(program) => return Ok(Self(program)),
            Err(error) => error,
        };
        let mut log = vec![0; LOG_SIZE];
        if let Ok(program) = sys::load_program(kind, name, &words, &mut log, 1) {
            return Ok(Self(program));
        }
        match last_words(&log) {
            Some(verdict) => Err(XdpError::Verifier { verdict, source: error }),
            None => Err(refused("load a BPF program")(error)),
        }
    }

    /// Loads a program and returns all that the verifier says.
    #[cfg(test)]
    pub(super) fn explain(kind: Kind, code: &Code) -> io::Result<String> {
        let mut log = vec![0; 16 * LOG_SIZE];
        let name = name_of("explained");
        let _ = sys::load_program(kind.numbers(), name, &code.words(), &mut log, 2)?;
        let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
        Ok(String::from_utf8_lossy(log.get(..end).unwrap_or_default()).into_owned())
    }

    /// Lets the program meet the interface's frames until the link is dropped.
    pub(super) fn attach(&self, interface: u32, hook: Hook) -> Result<Link, XdpError> {
        let link = sys::create_link(self.0.as_fd(), interface, sys::ATTACH_XDP, hook.flag())
            .map_err(refused("attach the XDP program"))?;
        Ok(Link { _descriptor: link })
    }

    /// Lets the program meet what the kernel sends on the interface until the link is dropped.
    pub(super) fn attach_egress(&self, interface: u32) -> Result<Link, XdpError> {
        let link = sys::create_link(self.0.as_fd(), interface, sys::ATTACH_TCX_EGRESS, 0);
        let link = link.map_err(|source| match source.raw_os_error() {
            Some(libc::EINVAL) => XdpError::Refused {
                what: "watch what the kernel sends",
                hint: "; take = \"firewall\" needs Linux 6.6 or newer",
                source,
            },
            _ => refused("watch what the kernel sends")(source),
        })?;
        Ok(Link { _descriptor: link })
    }

    /// Runs it over a packet, as if that had come in on receive queue 0 of the loopback.
    #[cfg(test)]
    pub(super) fn run(&self, packet: &[u8]) -> io::Result<u32> {
        sys::test_run(self.0.as_fd(), packet)
    }
}

/// The end of what the verifier wrote: its verdict, and the instruction that it is about.
fn last_words(log: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(log.split(|b| *b == 0).next().unwrap_or_default());
    let lines: Vec<&str> =
        text.lines().filter(|l| !l.is_empty() && !l.starts_with("processed ")).collect();
    let last = lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join("; ");
    (!last.is_empty()).then_some(last)
}

/// Where on a frame's way a program is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// In the driver, before the kernel has made anything of the frame.
    Driver,
    /// In the kernel's receive path; any interface has it.
    Generic,
}

impl Hook {
    /// `XDP_FLAGS_*` of linux/if_link.h.
    const fn flag(self) -> u32 {
        match self {
            Self::Driver => 1 << 2,
            Self::Generic => 1 << 1,
        }
    }
}

/// A program's place on an interface. The kernel ends it when the descriptor closes.
#[derive(Debug)]
pub(super) struct Link {
    _descriptor: OwnedFd,
}
