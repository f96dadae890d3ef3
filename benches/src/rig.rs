//! A switch with two clients, and all that each client needs to map.
//!
//! ```text
//!   generator: UDP port 1000 of 10.0.0.1 --+
//!                                          +-- interface 10.0.0.1 -- a port that leads nowhere
//!   sink:      UDP port 2000 of 10.0.0.1 --+
//! ```

use crate::frames;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use usnet_shmring::arena::{Arena, Segment, SlotRange, SlotSize};
use usnet_shmring::control::{
    Address, Attached, Channel, Message, Mode, SegmentAccess, SegmentInfo,
};
use usnet_shmring::layout::{VERSION, region_size};
use usnet_shmring::ledger::SessionId;
use usnet_shmring::pool::Pool;
use usnet_shmring::queues::DaemonQueues;
use usnet_shmring::region::{Region, Writer};
use usnet_shmring::view::View;
use usnet_switch::classify::{Mac, Protocol};
use usnet_switch::port::{Burst, Port, PortCounters, PortInfo};
use usnet_switch::session::{GroupId, SessionSpec};
use usnet_switch::snapshot::Snapshot;
use usnet_switch::switch::{Behind, InterfaceSpec, Switch};
use usnet_switch::time::Time;

/// Cells of every ring.
pub const RING: u32 = 1024;
/// Transmit slots of a client, as in the bare path.
pub const SLOTS: u32 = 512;
/// The generator's and the sink's UDP ports.
pub const PORTS: [u16; 2] = [1000, 2000];
/// The interface's link address.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Its network address.
pub const ADDRESS: [u8; 4] = [10, 0, 0, 1];

/// Whether clients see each other's slots, or get copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// One trust group.
    Shared,
    /// A receive pool each.
    Isolated,
}

impl fmt::Display for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared => "shared",
            Self::Isolated => "isolated",
        })
    }
}

/// What one client is told, and the descriptors that go with it.
#[derive(Debug)]
pub struct Handout {
    attached: Attached,
    descriptors: Vec<OwnedFd>,
}

impl Handout {
    /// Maps it in this process.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn map(self) -> Result<View, String> {
        map(&self.attached, self.descriptors)
    }

    /// Sends it to another process, which calls [`receive`].
    ///
    /// # Errors
    /// Why not, in words.
    pub fn send(&self, channel: &Channel) -> Result<(), String> {
        let descriptors: Vec<_> = self.descriptors.iter().map(AsFd::as_fd).collect();
        channel
            .send(1, &Message::Attached(self.attached), &descriptors, SendFlags::empty())
            .map_err(say("send a session"))
    }
}

fn map(attached: &Attached, descriptors: Vec<OwnedFd>) -> Result<View, String> {
    let (mut views, _) = View::map(attached, descriptors).map_err(say("map a session"))?;
    views.pop().ok_or_else(|| "a session without queue pairs".to_owned())
}

/// Takes a session that [`Handout::send`] sent, and maps it.
///
/// # Errors
/// Why not, in words.
pub fn receive(channel: &Channel) -> Result<View, String> {
    let mut descriptors = Vec::new();
    let (_, message) =
        channel.receive_with_descriptors(&mut descriptors).map_err(say("receive a session"))?;
    match message {
        Message::Attached(attached) => map(&attached, descriptors),
        other => Err(format!("expected a session, got {other:?}")),
    }
}

/// Turns an error into a sentence.
pub fn say<E: fmt::Display>(what: &'static str) -> impl FnOnce(E) -> String {
    move |error| format!("cannot {what}: {error}")
}

/// A port that takes everything and gives nothing.
#[derive(Debug)]
struct Nowhere {
    info: PortInfo,
    counters: PortCounters,
}

impl Port for Nowhere {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn receive(&mut self, _: Time, _: &mut Pool, _: &mut Burst) -> io::Result<usize> {
        Ok(0)
    }

    fn transmit(&mut self, _: Time, pool: &mut Pool, from: &mut Burst) -> io::Result<usize> {
        let count = from.clear(pool);
        self.counters.transmitted += count as u64;
        Ok(count)
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }
}

/// The switch, and what its two clients have to map.
#[derive(Debug)]
pub struct Rig {
    /// To be stepped.
    pub switch: Switch,
    /// Of the generator and of the sink.
    pub handouts: [Handout; 2],
}

/// Makes a switch with a generator (session 0) and a sink (session 1).
///
/// # Errors
/// Why not, in words: memory, descriptors.
pub fn rig(sharing: Sharing) -> Result<Rig, String> {
    rig_over(sharing, |_| Ok(nowhere()))
}

/// A port that takes everything and gives nothing.
pub(crate) fn nowhere() -> Box<dyn Port> {
    let info = PortInfo { name: "nowhere".to_owned(), backend: "none", mac: Mac(MAC), mtu: 1500 };
    Box::new(Nowhere { info, counters: PortCounters::default() })
}

/// What a port may be made of.
#[derive(Debug)]
pub struct Slots<'a> {
    /// All slots.
    pub pool: &'a mut Pool,
    /// 1,024 slots before those of the clients, which nobody else uses.
    pub objects: SlotRange,
    /// The segment of the clients' transmit slots in mode `shared`, before that of the ports.
    pub group: Arc<Segment>,
    /// The segment of the ports' slots.
    pub port: Arc<Segment>,
}

/// The same with a port of the caller's on the wire.
///
/// # Errors
/// As [`rig`], and what `make` says.
pub fn rig_over(
    sharing: Sharing,
    make: impl FnOnce(Slots<'_>) -> Result<Box<dyn Port>, String>,
) -> Result<Rig, String> {
    let arena = Arena::reserve(1 << 14, SlotSize::DEFAULT).map_err(say("reserve addresses"))?;
    let add = |name, writer, slots| {
        let segment = arena.add_segment(name, writer, slots, false).map_err(say("make slots"))?;
        let fd = segment.as_fd().try_clone_to_owned().map_err(say("duplicate a descriptor"))?;
        Ok::<_, String>((SlotRange::whole(segment), fd))
    };
    let (objects, _) = add("objects", Writer::Daemon, 1024)?;
    let (mut group, group_fd) = add("group", Writer::Client, 2 * SLOTS)?;
    let (port, port_fd) = add("port", Writer::Daemon, 4096)?;
    let port_info = info(SegmentAccess::Receive, 4, &port);
    let segment = Arc::clone(port.segment());
    let mut pool = Pool::new(port).map_err(say("make a pool"))?;
    let of_group = Arc::clone(group.segment());
    let wire = make(Slots { pool: &mut pool, objects, group: of_group, port: segment })?;
    let mut switch = Switch::new(pool, 1);
    let interface = switch
        .add_interface(InterfaceSpec {
            mac: Mac(MAC),
            mtu: 1500,
            addresses: vec![ADDRESS.into()],
            wire,
            host: None,
            behind: Behind::Kernel,
            cut_through: true,
            kernel_hears: Vec::new(),
            unmatched: usnet_switch::config::Unmatched::Drop,
        })
        .map_err(say("add an interface"))?;

    let group_info = info(SegmentAccess::Group, 5, &group);
    let mut attach = |number: u16| {
        let id = SessionId(number);
        let transmit = group.split(SLOTS).ok_or("too few slots")?;
        let mut segments = [SegmentInfo::default(); 4];
        let received = match sharing {
            Sharing::Shared => {
                segments = [
                    info(SegmentAccess::Transmit, 5, &transmit),
                    port_info,
                    group_info,
                    segments[3],
                ];
                None
            }
            Sharing::Isolated => {
                let (receive, fd) = add("receive", Writer::Daemon, SLOTS)?;
                segments[0] = info(SegmentAccess::Transmit, 5, &transmit);
                segments[1] = info(SegmentAccess::Receive, 4, &receive);
                Some((receive, fd))
            }
        };
        let (receive, received_fd) = received.map_or((None, None), |(r, fd)| (Some(r), Some(fd)));
        let (inbound, inbound_fd) =
            Region::create(Writer::Daemon, 1, RING, 2048).map_err(say("make a region"))?;
        let (outbound, outbound_fd) =
            Region::create(Writer::Client, 1, RING, 2048).map_err(say("make a region"))?;
        let queues = DaemonQueues::new(&inbound, &outbound, RING, 0).ok_or("a region too small")?;
        let kick = eventfd(0, EventfdFlags::CLOEXEC).map_err(say("make an eventfd"))?;
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (wake, client_wake) =
            socketpair(kind.0, kind.1, kind.2, None).map_err(say("make a socket"))?;
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(say("duplicate a descriptor"));
        let read = match received_fd {
            Some(fd) => fd,
            None => copy(&port_fd)?,
        };
        let descriptors = vec![inbound_fd, outbound_fd, kick, client_wake, read, copy(&group_fd)?];
        switch
            .attach(SessionSpec {
                offload: false,
                id,
                interface,
                queues,
                transmit,
                receive,
                group: (sharing == Sharing::Shared).then_some(GroupId(1)),
                addresses: vec![ADDRESS.into()],
                exclusive: Vec::new(),
                wake: Some(wake),
                flow_quota: 16,
                groups: Vec::new(),
                may: usnet_switch::session::May::default(),
            })
            .map_err(say("attach"))?;
        let port = PORTS.get(usize::from(number)).copied().unwrap_or(0);
        switch
            .set_listener(interface, ADDRESS.into(), Protocol::UDP, port, 1, Some(id))
            .map_err(say("claim a port"))?;
        let mode = if sharing == Sharing::Shared { Mode::Shared } else { Mode::Isolated };
        let attached = Attached {
            version: VERSION,
            session: number.into(),
            mode: mode as u32,
            ring_capacity: RING,
            slot_size: 2048,
            mtu: 1500,
            inbound_size: region_size(1, RING) as u64,
            outbound_size: region_size(1, RING) as u64,
            mac: MAC,
            pairs: 1,
            ipv4: Address::new(IpAddr::from(ADDRESS), 24),
            ipv6: Address::default(),
            gateway4: Address::default(),
            gateway6: Address::default(),
            segments,
            features: 0,
            reserved: 0,
        };
        Ok::<_, String>(Handout { attached, descriptors })
    };
    let handouts = [attach(0)?, attach(1)?];
    Ok(Rig { switch, handouts })
}

fn info(access: SegmentAccess, descriptor: u32, range: &SlotRange) -> SegmentInfo {
    SegmentInfo {
        access: access as u32,
        descriptor,
        first: range.first(),
        count: range.count(),
        offset: range.offset(),
    }
}

/// A frame of `size` bytes from client `from` (0 or 1) to the other one.
#[must_use]
pub fn frame(from: usize, size: usize) -> Vec<u8> {
    let ports = if from == 0 { (PORTS[0], PORTS[1]) } else { (PORTS[1], PORTS[0]) };
    frames::udp((MAC, MAC), (ADDRESS, ADDRESS), ports, size)
}

/// Checks that no frame and no slot was lost or doubled.
///
/// # Errors
/// What does not add up.
pub fn check_conserved(snapshot: &Snapshot) -> Result<(), String> {
    if snapshot.frames_conserved && snapshot.slots_conserved {
        return Ok(());
    }
    Err(format!(
        "not conserved: totals {:?}, waiting {}, slots {:?}",
        snapshot.totals, snapshot.waiting, snapshot.slots
    ))
}
