//! Opens an interface for all workers at once: each gets queues of its own, and one program stands in front
//! of all.
//!
//! ```text
//!   queue 0 --> socket --> worker 0     queue q belongs to worker q mod workers; all sockets share one UMEM,
//!   queue 1 --> socket --> worker 1     each queue has rings of its own, and each worker its slots
//!   queue 2 --> socket --> worker 0
//! ```

use super::bpf::{ClaimMap, FlowMap, Hook, Kind, Link, Program, SocketMap, VlanMap, XdpError};
use super::firewall::Firewall;
use super::port::{AfXdp, Mode};
use super::program::{Shares, XDP_PASS, take};
use super::queue::{Binding, BusyPoll, Queue};
use super::umem::{HEADROOM, Umem};
use super::watch::watch;
use crate::classify::{Mac, Protocol};
use crate::net::guard::Pass;
use crate::steer::{CLAIMED_PROTOCOLS, ClaimedPorts, PROTOCOL_BYTES};
use core::ops::RangeInclusive;
use core::sync::atomic::Ordering;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use usnet_shmring::arena::Segment;

/// What to open.
#[derive(Clone, Debug)]
pub struct AfXdpSpec {
    /// Name of the interface, for people.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its link address.
    pub mac: Mac,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Its receive queues, at least as many as workers.
    pub queues: u32,
    /// Slots of each direction and queue, about; rounded to a power of two.
    pub frames: u32,
    /// What the kernel goes on to hear by itself.
    pub passing: Vec<Pass>,
    /// Addresses whose frames the kernel gets directly unless a client has claimed the port; none: the
    /// switch gets all but `passing`.
    pub shared: Vec<IpAddr>,
    /// Of frames to `shared` addresses and others, only answers to what the kernel sent, and these.
    pub firewall: Option<KernelPorts>,
    /// Whether the medium hands over frames whose checksums a card was meant to finish, as a veth does.
    pub unfinished: bool,
    /// Meet frames in the kernel's receive path even if the driver could.
    pub generic: bool,
    /// Let the kernel copy frames even if the driver could use the slots.
    pub copy: bool,
    /// Poll the driver instead of waiting for its interrupts.
    pub busy_poll: Option<BusyPoll>,
    /// Segments of trust groups, side by side before the port segment: where the driver uses the slots itself and takes
    /// frames of several pieces, the rest of what their clients send leaves from there.
    pub groups: Vec<Arc<Segment>>,
    /// Do all that is done for a driver which uses the slots itself, though the kernel copies: to try it.
    pub as_zero_copy: bool,
}

/// What the kernel serves behind its firewall.
#[derive(Clone, Debug, Default)]
pub struct KernelPorts {
    /// Ports at the shared addresses, and at groups.
    pub ports: Vec<(Protocol, RangeInclusive<u16>)>,
    /// Whether it answers pings.
    pub ping: bool,
}

/// Frames of this MTU fit the buffers of any driver. With a larger one a driver may receive a frame into several,
/// and then wants a program that says that it can live with that.
const USUAL_MTU: u16 = 1500;

impl AfXdp {
    /// Opens all queues of an interface for one worker; as [`open_group`](Self::open_group).
    ///
    /// # Errors
    /// What the kernel refused, and the way out where one is known.
    pub fn open(spec: &AfXdpSpec, segment: &Arc<Segment>) -> io::Result<Self> {
        let ports = Self::open_group(spec, segment, 1)?;
        ports.into_iter().next().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Binds sockets to all queues of an interface, shares them out among `workers` ports, and puts the
    /// program in front of them; `segment` is the port segment that the workers' pools are parts of. The kernel gets
    /// slots when a port is first asked for frames, and until then all frames are the kernel's: a queue whose socket the
    /// program does not know yet lets pass. Needs `CAP_NET_ADMIN`, `CAP_NET_RAW` and `CAP_BPF`, the
    /// last in the first user namespace.
    ///
    /// # Errors
    /// What the kernel refused, and the way out where one is known.
    pub fn open_group(
        spec: &AfXdpSpec,
        segment: &Arc<Segment>,
        workers: usize,
    ) -> io::Result<Vec<Self>> {
        let (queues, count) = (spec.queues.max(1), workers.max(1));
        let Some(workers) = u8::try_from(count).ok().filter(|w| u32::from(*w) <= queues) else {
            return Err(too_few(&spec.name, queues, count));
        };
        let sockets = Arc::new(SocketMap::sockets(queues)?);
        let mut ports = open_queues(spec, segment, &[], workers)?;
        let is_zero_copy =
            |ports: &[Self]| spec.as_zero_copy || ports.iter().all(|port| port.mode.zero_copy);
        if !spec.groups.is_empty() && is_zero_copy(&ports) {
            // A driver may use slots itself only as long as frames are of one piece.
            drop(ports);
            ports = match open_queues(spec, segment, &spec.groups, workers) {
                Ok(ports) if is_zero_copy(&ports) => ports,
                other => {
                    drop(other);
                    open_queues(spec, segment, &[], workers)?
                }
            };
        }
        if is_zero_copy(&ports) {
            for port in &mut ports {
                let bindings = core::mem::take(&mut port.unbound);
                port.bind_later(bindings);
            }
        } else {
            ports.iter_mut().for_each(|port| port.unbound.clear());
        }
        // Last, since from here on the kernel does not get the frames.
        let InFront { hook, links, claimed, vlans } = put_in_front(spec, &sockets, workers)?;
        let links = Arc::new(links);
        for port in &mut ports {
            port.mode = Mode { hook, is_polled: spec.busy_poll.is_some(), ..port.mode };
            port.links = Some(Arc::clone(&links));
            port.unnamed = Some(Arc::clone(&sockets));
            port.claimed.clone_from(&claimed);
            port.vlans = Some(Arc::clone(&vlans));
            port.watch()?;
        }
        Ok(ports)
    }
}

/// Binds sockets to all queues, with the slots of `groups` before those of the port segment.
fn open_queues(
    spec: &AfXdpSpec,
    segment: &Arc<Segment>,
    groups: &[Arc<Segment>],
    workers: u8,
) -> io::Result<Vec<AfXdp>> {
    let umem = || Umem::new(Arc::clone(segment), groups);
    let mut ports: Vec<_> = (0..workers).map(|_| AfXdp::new(spec, umem())).collect();
    let pieces = check_length(spec, &ports)? || ports.iter().any(|port| port.mode.splits);
    let frames = spec.frames.clamp(64, 1 << 14).next_power_of_two();
    let mut first = None;
    let places = (0..ports.len()).cycle();
    for (queue, place) in (0..spec.queues.max(1)).zip(places) {
        let Some(port) = ports.get_mut(place) else { break };
        let copy = spec.copy || spec.generic;
        let (interface, busy_poll) = (spec.index, spec.busy_poll);
        let binding = Binding { interface, queue, copy, pieces, busy_poll, frames };
        let queue = Queue::open(&port.umem, binding, first.as_ref().map(AsFd::as_fd))?;
        if first.is_none() {
            first = Some(queue.as_fd().try_clone_to_owned()?);
        }
        port.mode.zero_copy = queue.is_zero_copy()?;
        port.queues.push(queue);
        port.unbound.push(binding);
    }
    Ok(ports)
}

/// What stands in front of the queues.
struct InFront {
    hook: Hook,
    /// The XDP program's, and what serves it.
    links: Vec<Link>,
    claimed: Option<Arc<ClaimMap>>,
    vlans: Arc<VlanMap>,
}

/// Loads the programs and attaches them.
fn put_in_front(spec: &AfXdpSpec, sockets: &SocketMap, workers: u8) -> io::Result<InFront> {
    let flows = spec.firewall.as_ref().map(|_| FlowMap::flows()).transpose()?;
    let named = spec.firewall.as_ref().map(named_ports).transpose()?;
    let firewall = match (&spec.firewall, &flows, &named) {
        (Some(KernelPorts { ping, .. }), Some(flows), Some(named)) => {
            Some(Firewall { flows: flows.number(), named: named.number(), ping: *ping })
        }
        _ => None,
    };
    let mut claimed = None;
    let mut shares = None;
    if !spec.shared.is_empty() || firewall.is_some() {
        let map = ClaimMap::new(workers)?;
        let (mac, addresses) = (spec.mac, spec.shared.clone());
        shares = Some(Shares { mac, addresses, claimed: map.number(), firewall });
        claimed = Some(Arc::new(map));
    }
    let vlans = Arc::new(VlanMap::new()?);
    let code = take(sockets.number(), vlans.number(), &spec.passing, shares.as_ref(), XDP_PASS)
        .map_err(io::Error::other)?;
    // The program keeps the maps.
    let kind = Kind::Xdp { fragments: spec.mtu > USUAL_MTU };
    let program = Program::load(kind, "usnet_take", &code)?;
    tracing::debug!(interface = spec.name, instructions = code.len(), "XDP program loaded");
    // First, so that it has seen the question when the answer comes.
    let watching = match &flows {
        Some(flows) => {
            let code = watch(flows.number()).map_err(io::Error::other)?;
            let program = Program::load(Kind::Egress, "usnet_watch", &code)?;
            Some(program.attach_egress(spec.index)?)
        }
        None => None,
    };
    let (hook, link) = attach(&program, spec)?;
    Ok(InFront { hook, links: [link].into_iter().chain(watching).collect(), claimed, vlans })
}

/// The array of ports that the kernel serves.
fn named_ports(kernel: &KernelPorts) -> Result<ClaimMap, XdpError> {
    let map = ClaimMap::new(0)?;
    for (protocol, ports) in &kernel.ports {
        let Some(index) = CLAIMED_PROTOCOLS.iter().position(|p| p == protocol) else { continue };
        for port in ports.clone() {
            if let Some(count) = map.counts().get(index * PROTOCOL_BYTES + usize::from(port)) {
                count.store(1, Ordering::SeqCst);
            }
        }
    }
    Ok(map)
}

/// Whether frames may be longer than a piece.
fn check_length(spec: &AfXdpSpec, ports: &[AfXdp]) -> io::Result<bool> {
    let longest = u32::from(spec.mtu) + 14 + 8;
    if ports.iter().all(|port| longest <= port.umem.longest_frame()) {
        return Ok(ports.iter().any(|port| longest > port.umem.longest_piece()));
    }
    let text = format!(
        "an MTU of {} needs slots of {} bytes, {HEADROOM} of which are the kernel's; set memory.slot_size, \
         lower the MTU, or take port = \"af_packet\"",
        spec.mtu,
        (longest + HEADROOM).next_power_of_two()
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

fn too_few(name: &str, queues: u32, workers: usize) -> io::Error {
    let text = format!(
        "{name} has {queues} receive queues for {workers} workers; set worker.count to {queues}, or give it \
         as many queues (ethtool -L)"
    );
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Attaches the program in the driver, or behind it where the driver cannot.
fn attach(program: &Program, spec: &AfXdpSpec) -> Result<(Hook, Link), XdpError> {
    if !spec.generic {
        match program.attach(spec.index, Hook::Driver) {
            Ok(link) => return Ok((Hook::Driver, link)),
            Err(XdpError::Refused { source, .. })
                if !matches!(source.raw_os_error(), Some(libc::EBUSY | libc::EPERM)) =>
            {
                let interface = &spec.name;
                tracing::info!(%interface, %source, "the driver takes no XDP program; generic mode");
            }
            Err(error) => return Err(error),
        }
    }
    Ok((Hook::Generic, program.attach(spec.index, Hook::Generic)?))
}
