//! Opens an interface as the configuration says, and keeps what must be undone. `netmap.rs`, `xdp.rs` and
//! `macvtap.rs` open theirs.
//!
//! ```text
//!   af_packet   eth0 --> packet socket --> switch --> host endpoint --> kernel
//!                 |                                   (TAP, or veth and packet socket)
//!                 +--> guard: the kernel hears ARP, discovery and groups, nothing else
//!               kernel ------------------------------------------------------> eth0
//! ```
//!
//! - The kernel keeps its addresses and routes on the interface and sends on it directly. Only what
//!   it receives passes the switch, and comes in at the host endpoint, whose link address is the
//!   interface's: a host accepts a datagram for any of its addresses on any interface (RFC 1122,
//!   3.3.4.2, weak model).
//! - So nothing of the host's configuration moves. The guard and the endpoint go with this process,
//!   however it ends; receive offloads are put back by [`Kept`].

use super::auto::{self, Choice};
use super::bump;
use super::macvtap;
use super::netmap::Cards;
use super::rss::Rss;
use super::serving::Serving;
use super::vlan::{self, Trunk};
use super::xdp;
use crate::classify::Mac;
use crate::config::{Backend, HostEndpoint, Interface, Network, Ring};
use crate::net::guard::{Guard, Pass};
use crate::net::macvtap::MacvtapLink;
use crate::net::namespace::Namespace;
use crate::net::offload::{KeptOffloads, Offload};
use crate::net::sysctl::{Changed, Setting};
use crate::net::{
    Channels, InterfaceAddress, KeptChannels, KeptIndirection, KeptQdisc, Link, NetError, Netlink,
    Scope,
};
use crate::port::Port;
use crate::port::af_packet::{AfPacket, AfPacketSpec, RingVersion, promiscuous};
use crate::port::tap::{Header, Tap, TapSpec};
use crate::port::wire::{Faults, Wire, WireSpec};
use crate::switch::{Behind, InterfaceSpec};
use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use thiserror::Error;
use usnet_shmring::arena::SlotSize;

/// Why an interface could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The kernel's view of it, or a change to it.
    #[error("interface {name}")]
    Net {
        /// The interface.
        name: String,
        /// What failed.
        source: NetError,
    },
    /// The port.
    #[error("cannot open {what} for interface {name}{hint}")]
    Port {
        /// The interface.
        name: String,
        /// What was opened.
        what: &'static str,
        /// The way out, if one is known.
        hint: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The two sides of a bump do not fit.
    #[error(
        "interface {name} takes packets of {mtu} bytes and {behind} behind it of {behind_mtu}; give both \
         the same MTU"
    )]
    Mtu {
        /// The interface.
        name: String,
        /// Its MTU.
        mtu: u16,
        /// The interface behind.
        behind: String,
        /// Its MTU.
        behind_mtu: u16,
    },
    /// A card has not the rings that the workers need.
    #[error(
        "interface {name} has {transmit} transmit and {receive} receive rings for {workers} workers; set \
         worker.count to 1 or the card's rings to as many as workers (ethtool -L)"
    )]
    Rings {
        /// The interface.
        name: String,
        /// Its transmit rings.
        transmit: u16,
        /// Its receive rings.
        receive: u16,
        /// How many workers there are.
        workers: usize,
    },
    /// Of all back ends none can serve it.
    #[error("no port can serve interface {name}: {why}")]
    NoPort {
        /// The interface.
        name: String,
        /// What keeps each of them.
        why: String,
    },
    /// It cannot be shared.
    #[error("interface {name} {problem}")]
    Unsuitable {
        /// The interface.
        name: String,
        /// Why.
        problem: &'static str,
    },
    /// It is not what it was.
    #[error("interface {name} has lost its address {address}; give it back, or restart usnetd")]
    AddressLost {
        /// The interface.
        name: String,
        /// What it had.
        address: Network,
    },
}

/// What an open interface leaves in the system until it is dropped.
#[derive(Debug, Default)]
pub struct Kept {
    /// The kernel's interface and its number: another one of that name was not changed by us.
    link: Option<(String, u32)>,
    /// First, so that the kernel hears again before its endpoint goes.
    guard: Option<Guard>,
    /// Then what takes frames away from the kernel.
    macvtap: Option<MacvtapLink>,
    offloads: Option<KeptOffloads>,
    channels: Option<KeptChannels>,
    /// Makes way for the queues, and is put back after them.
    indirection: Option<KeptIndirection>,
    veth: Option<(Netlink, String)>,
    /// Dropped, and so put back, after the offloads.
    qdisc: Option<KeptQdisc>,
    /// Hears frames for all link addresses while it is open.
    promiscuous: Option<OwnedFd>,
    /// Of the interface behind, of a bump.
    behind: Option<Box<Self>>,
    /// How it is served.
    serving: Serving,
}

impl Kept {
    /// Nothing yet, of this interface of the kernel's.
    pub(super) fn of(link: &Link) -> Self {
        let mut kept = Self::default();
        kept.link = Some((link.name.clone(), link.index));
        kept
    }

    /// Forgets what was changed of an interface that does not exist any more.
    fn forget_what_is_gone(&mut self) {
        let Some((name, index)) = &self.link else { return };
        let now = Netlink::open().and_then(|mut netlink| netlink.link(name));
        // If the kernel does not say, putting back fails in its own words.
        let is_there = match now {
            Ok(link) => link.index == *index,
            Err(error) => !matches!(error, NetError::NoInterface { .. }),
        };
        if !is_there {
            self.offloads.iter_mut().for_each(KeptOffloads::forget);
            self.channels.iter_mut().for_each(KeptChannels::forget);
            self.indirection.iter_mut().for_each(KeptIndirection::forget);
            self.qdisc.iter_mut().for_each(KeptQdisc::forget);
        }
    }

    /// Remembers what was chosen to serve it.
    pub(super) fn choose(&mut self, choice: Choice) {
        self.serving.choice = Some(choice);
    }

    /// Remembers how flows come to its queues.
    pub(super) fn tell_of(&mut self, rss: Rss) {
        self.serving.rss = Some(rss);
    }

    /// How it is served.
    pub(super) fn serving(&self) -> &Serving {
        &self.serving
    }

    /// Puts this table back in the end.
    pub(super) fn keep_indirection(&mut self, table: KeptIndirection) {
        self.indirection = Some(table);
    }

    /// Remembers the queueing discipline, which a back end may replace.
    pub(super) fn keep_qdisc(&mut self, link: &Link) {
        self.qdisc = Some(KeptQdisc::of(link));
    }

    /// Switches offloads off until this is dropped.
    pub(super) fn turn_off_offloads(
        &mut self,
        name: &str,
        which: &[Offload],
    ) -> Result<(), NetError> {
        self.offloads = Some(KeptOffloads::switch_off(name, which)?);
        Ok(())
    }

    /// Switches off what would make received frames longer than a slot.
    pub(super) fn turn_off_joining(&mut self, name: &str) -> Result<(), NetError> {
        self.turn_off_offloads(name, &[Offload::GenericReceive, Offload::LargeReceive])
    }

    /// Gives the interface other queues until this is dropped.
    pub(super) fn change_channels(
        &mut self,
        name: &str,
        before: Channels,
        to: Channels,
    ) -> Result<(), NetError> {
        self.channels = Some(KeptChannels::change(name, before, to)?);
        Ok(())
    }

    /// Whether it has other queues than before.
    pub(super) fn has_changed_channels(&self) -> bool {
        self.channels.is_some()
    }

    /// Keeps the kernel from hearing all but what passes.
    pub(super) fn guard(&mut self, name: &str, passing: &[Pass]) -> Result<(), NetError> {
        self.guard = Some(Guard::install(name, passing)?);
        Ok(())
    }

    /// Lets the kernel hear beside a macvtap what only it handles.
    pub(super) fn readdress(&mut self, link: &Link) -> Result<(), NetError> {
        self.guard = Some(Guard::readdress(&link.name, link.mac)?);
        Ok(())
    }

    /// Keeps a macvtap that was made.
    pub(super) fn keep_macvtap(&mut self, made: MacvtapLink) {
        self.macvtap = Some(made);
    }

    /// Lets the kernel hear everything again while the ports are still open; both sides of a bump. Beside a macvtap it
    /// hears nothing without the guard as long as that is there, so that goes first; what waits in it is still read.
    pub(super) fn let_kernel_hear(&mut self) {
        drop(self.macvtap.take());
        self.lift_guard();
        self.behind.iter_mut().for_each(|behind| behind.let_kernel_hear());
    }

    fn lift_guard(&mut self) {
        if let Some(guard) = self.guard.take()
            && let Err(error) = guard.remove()
        {
            tracing::warn!(%error, "the guard was not removed");
        }
    }

    /// Has the interface hear frames for all link addresses.
    pub(super) fn hear_all(&mut self, link: &Link) -> io::Result<()> {
        self.promiscuous = Some(promiscuous(link.index)?);
        Ok(())
    }

    /// Keeps what the interface behind leaves, too.
    pub(super) fn and(&mut self, behind: Self) {
        self.behind = Some(Box::new(behind));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.forget_what_is_gone();
        drop(self.macvtap.take());
        self.lift_guard();
        drop(self.offloads.take());
        self.indirection.iter().for_each(KeptIndirection::make_way);
        drop(self.channels.take());
        drop(self.indirection.take());
        if let Some((mut netlink, name)) = self.veth.take()
            && let Err(error) = netlink.delete_link(&name)
        {
            tracing::warn!(%error, "the host endpoint was not removed");
        }
    }
}

/// One worker's part of an interface.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) wire: Box<dyn Port>,
    pub(super) host: Option<Box<dyn Port>>,
}

impl Queue {
    /// The parts of all workers: each has its own port to the network, and one to the host if there
    /// is any.
    pub(super) fn pair<W: Port + 'static>(
        wires: Vec<W>,
        hosts: Option<Vec<Box<dyn Port>>>,
    ) -> Vec<Self> {
        let mut hosts = hosts.map(Vec::into_iter);
        let part =
            |wire| Self { wire: Box::new(wire), host: hosts.as_mut().and_then(Iterator::next) };
        wires.into_iter().map(part).collect()
    }
}

/// An interface that is ready for the switch.
#[derive(Debug)]
pub struct Opened {
    /// By worker, for [`Switch::add_interface`](crate::switch::Switch::add_interface).
    pub specs: Vec<InterfaceSpec>,
    /// Its addresses with their networks.
    pub addresses: Vec<Network>,
    /// To be kept as long as the switch uses it, and dropped after.
    pub kept: Kept,
}

/// Ends of wires that interfaces have not taken yet, by the wire's name. Each end is one wire's for each
/// worker: what a worker sends arrives at the same worker.
#[derive(Debug, Default)]
pub struct Wires {
    ends: HashMap<String, Vec<Vec<Wire>>>,
}

/// Largest IP packet of a wire that says nothing else.
const WIRE_MTU: u16 = 1500;
/// The IPv4 dummy address of RFC 7600: no host has it, nothing is sent from or to it.
const DUMMY_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
/// Frames in each ring of a packet socket.
const RING_FRAMES: u32 = 2048;

impl Wires {
    /// Makes every wire that the interfaces name.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(interfaces: &[Interface], workers: usize) -> Result<Self, OpenError> {
        let mut wires = Self::default();
        for interface in interfaces.iter().filter(|i| i.port == Backend::Wire) {
            let name = Self::name(interface);
            let users =
                interfaces.iter().filter(|i| i.port == Backend::Wire && Self::name(i) == name);
            let ends = users.clone().count();
            let mtu = users.filter_map(|i| i.mtu).min().unwrap_or(WIRE_MTU);
            if !wires.ends.contains_key(name) {
                // At the other end of a wire of one there is nobody to take frames out again.
                let drop = if ends == 1 { 1_000_000 } else { 0 };
                let faults = Faults { drop, ..Faults::default() };
                let spec = WireSpec { ends, mtu, faults, ..WireSpec::default() };
                let mut bundles: Vec<Vec<Wire>> = (0..ends).map(|_| Vec::new()).collect();
                for _ in 0..workers {
                    let made =
                        Wire::ends(&spec).map_err(|e| port_error(&interface.name, "a wire", e))?;
                    bundles.iter_mut().zip(made).for_each(|(bundle, end)| bundle.push(end));
                }
                wires.ends.insert(name.to_owned(), bundles);
            }
        }
        Ok(wires)
    }

    fn name(interface: &Interface) -> &str {
        interface.network.as_deref().unwrap_or(&interface.name)
    }

    fn take(&mut self, interface: &Interface) -> Option<Vec<Wire>> {
        self.ends.get_mut(Self::name(interface))?.pop()
    }
}

pub(super) fn net_error(name: &str) -> impl FnOnce(NetError) -> OpenError {
    let name = name.to_owned();
    move |source| OpenError::Net { name, source }
}

pub(super) fn port_error(name: &str, what: &'static str, source: io::Error) -> OpenError {
    let hint = match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "; run as root, or with CAP_NET_RAW and CAP_NET_ADMIN in its namespace"
        }
        _ => "",
    };
    OpenError::Port { name: name.to_owned(), what, hint, source }
}

/// Opens an interface, also one that is a VLAN of another, of which `trunk` is what there is.
pub(super) fn open_any(
    interface: &Interface,
    trunk: Option<Trunk>,
    workers: usize,
    wires: &mut Wires,
    cards: &Cards,
) -> Result<Opened, OpenError> {
    if interface.vlan.is_some() {
        return vlan::open(interface, trunk, workers);
    }
    open(interface, workers, wires, cards)
}

/// Opens an interface that is no VLAN for `workers` workers, at least one.
///
/// # Errors
/// [`OpenError`]; what was changed by then is put back.
pub fn open(
    interface: &Interface,
    workers: usize,
    wires: &mut Wires,
    cards: &Cards,
) -> Result<Opened, OpenError> {
    if let Some(behind) = &interface.behind {
        return bump::open(interface, behind, workers, cards);
    }
    match interface.port {
        Backend::Auto => auto::open(interface, workers, cards),
        Backend::AfPacket => open_af_packet(interface, workers),
        Backend::AfXdp => xdp::open(interface, workers, cards.slots_to_keep(), cards.groups()),
        Backend::Macvtap => macvtap::open(interface, workers, slot_size(cards)),
        Backend::Tap => open_tap(interface, workers, slot_size(cards)),
        Backend::Wire => open_wire(interface, wires),
        Backend::Vlan => vlan::open(interface, None, workers),
        Backend::Netmap => {
            let (_, link, _, addresses) = shared_link(interface)?;
            cards.open_interface(interface, &link, Kept::of(&link), addresses, workers)
        }
    }
}

fn open_wire(interface: &Interface, wires: &mut Wires) -> Result<Opened, OpenError> {
    let Some(mut bundle) = wires.take(interface) else {
        return Err(OpenError::Unsuitable {
            name: interface.name.clone(),
            problem: "is no end of a wire that was made",
        });
    };
    let first = bundle.first().map(Port::info);
    let mac = interface.mac.or(first.map(|info| info.mac)).unwrap_or(Mac([0; 6]));
    let mtu = first.map_or(WIRE_MTU, |info| info.mtu);
    bundle.iter_mut().for_each(|wire| wire.set_mac(mac));
    let queues = Queue::pair(bundle, None);
    Ok(opened(interface, mac, mtu, interface.addresses.clone(), queues, &[]))
}

/// Bytes of a slot, where they are known.
fn slot_size(cards: &Cards) -> Option<SlotSize> {
    cards.slots().map(|segment| segment.arena().slot_size())
}

fn open_tap(
    interface: &Interface,
    workers: usize,
    slots: Option<SlotSize>,
) -> Result<Opened, OpenError> {
    // The kernel is at the other end of this wire, so the two ends need addresses of their own.
    let mac = interface.mac.unwrap_or(Mac([2, 0x75, 0x73, 0x6e, 0x65, 0x74]));
    let mtu = interface.mtu.unwrap_or(WIRE_MTU);
    let [a, b, c, d, e, f] = mac.0;
    let kernel_mac = Mac([a, b, c, d, e, f ^ 1]);
    // Where a slot holds several segments the kernel may join them.
    let joined = slots.map_or(0, SlotSize::bytes);
    let header =
        if joined >= 2 * (u32::from(mtu) + 22) { Header::Segments } else { Header::Checksums };
    let spec = TapSpec { name: interface.name.clone(), mac: kernel_mac, mtu, header };
    let taps = Tap::open_queues(&spec, workers)
        .map_err(|e| port_error(&interface.name, "a TAP device", e))?;
    let mut netlink = Netlink::open().map_err(net_error(&interface.name))?;
    let name = taps.first().map_or(spec.name.as_str(), Tap::name);
    if header == Header::Segments {
        netlink.limit_joined(name, joined).map_err(net_error(&interface.name))?;
    }
    netlink.set_up(name).map_err(net_error(&interface.name))?;
    let queues = Queue::pair(taps, None);
    Ok(opened(interface, mac, mtu, interface.addresses.clone(), queues, &[]))
}

pub(super) fn opened(
    interface: &Interface,
    mac: Mac,
    mtu: u16,
    addresses: Vec<Network>,
    queues: Vec<Queue>,
    kernel_hears: &[Pass],
) -> Opened {
    if let Some(Queue { wire, host }) = queues.first() {
        tracing::info!(
            interface = interface.name,
            %mac,
            mtu,
            queues = queues.len(),
            wire = wire.info().backend,
            host = host.as_ref().map_or("none", |h| h.info().backend),
            "interface opened"
        );
    }
    let spec = |Queue { wire, host }| InterfaceSpec {
        mac,
        mtu,
        addresses: addresses.iter().map(|network| network.address()).collect(),
        wire,
        host,
        behind: Behind::Kernel,
        cut_through: interface.cut_through,
        kernel_hears: kernel_hears.to_vec(),
        unmatched: interface.on_unmatched,
    };
    let specs = queues.into_iter().map(spec).collect();
    Opened { specs, addresses, kept: Kept::default() }
}

fn open_af_packet(interface: &Interface, workers: usize) -> Result<Opened, OpenError> {
    let name = interface.name.as_str();
    let (mut netlink, link, mtu, addresses) = shared_link(interface)?;
    let mut kept = Kept::of(&link);
    kept.turn_off_joining(name).map_err(net_error(name))?;
    let host = match interface.host {
        HostEndpoint::None => None,
        _ => Some(open_host(&mut kept, &mut netlink, interface, &link, workers)?),
    };
    let wires = open_sockets(name, &link, interface.ring, false, workers)?;
    // Last: from here on the kernel depends on the switch.
    if host.is_some() {
        kept.guard(name, &Pass::ALL).map_err(net_error(name))?;
    }
    let passes: &[Pass] = if host.is_some() { &Pass::ALL } else { &[] };
    let queues = Queue::pair(wires, host);
    let opened = opened(interface, link.mac, mtu, addresses, queues, passes);
    Ok(Opened { kept, ..opened })
}

/// Whether an interface can be opened again that had these networks: nothing is changed by the look.
///
/// # Errors
/// [`OpenError`]: what is missing.
pub(super) fn can_return(
    interface: &Interface,
    networks: &[Network],
    trunk: Option<Trunk>,
    cards: &Cards,
) -> Result<(), OpenError> {
    if interface.vlan.is_some() {
        return vlan::can_open(interface, trunk).map(drop);
    }
    if let Some(behind) = &interface.behind {
        return bump::can_return(interface, behind, cards);
    }
    if !interface.port.has_link() {
        return Ok(());
    }
    let (_, _, _, addresses) = shared_link(interface)?;
    match networks.iter().find(|network| !addresses.contains(network)) {
        None if interface.port == Backend::Netmap => cards.look_at(&interface.name),
        None => Ok(()),
        Some(lost) => Err(OpenError::AddressLost { name: interface.name.clone(), address: *lost }),
    }
}

/// An interface that the kernel has and that can be shared: how it is now, its MTU, and the addresses
/// that host and clients share.
pub(super) fn shared_link(
    interface: &Interface,
) -> Result<(Netlink, Link, u16, Vec<Network>), OpenError> {
    let mut netlink = Netlink::open().map_err(net_error(&interface.name))?;
    let (link, mtu) = usable_link(&mut netlink, &interface.name)?;
    let addresses = if interface.addresses.is_empty() {
        link_addresses(&mut netlink, interface)?
    } else {
        interface.addresses.clone()
    };
    Ok((netlink, link, mtu, addresses))
}

/// An interface that the kernel has and a switch can use, and its MTU.
pub(super) fn usable_link(netlink: &mut Netlink, name: &str) -> Result<(Link, u16), OpenError> {
    let unsuitable = |problem| OpenError::Unsuitable { name: name.to_owned(), problem };
    let link = netlink.link(name).map_err(net_error(name))?;
    if !link.is_ethernet || link.is_loopback() {
        return Err(unsuitable("is no Ethernet interface"));
    }
    if !link.is_up() {
        return Err(unsuitable("is down; set it up first"));
    }
    let mtu = u16::try_from(link.mtu).map_err(|_| unsuitable("has too large an MTU"))?;
    Ok((link, mtu))
}

pub(super) fn open_sockets(
    name: &str,
    link: &Link,
    ring: Ring,
    promiscuous: bool,
    workers: usize,
) -> Result<Vec<AfPacket>, OpenError> {
    let ring = match ring {
        Ring::V2 => RingVersion::V2,
        Ring::V3 => RingVersion::V3,
    };
    let spec = AfPacketSpec {
        name: link.name.clone(),
        index: link.index,
        mac: link.mac,
        mtu: link_mtu(link),
        ring,
        frames: RING_FRAMES,
        promiscuous,
        bypass_qdisc: false,
    };
    AfPacket::open_group(&spec, workers).map_err(|e| port_error(name, "a packet socket", e))
}

fn link_mtu(link: &Link) -> u16 {
    u16::try_from(link.mtu).unwrap_or(u16::MAX)
}

fn link_addresses(netlink: &mut Netlink, interface: &Interface) -> Result<Vec<Network>, OpenError> {
    let all = netlink.addresses(&interface.name).map_err(net_error(&interface.name))?;
    let shared: Vec<Network> = all
        .iter()
        .filter(|a| a.scope == Scope::Global)
        .filter_map(|a| Network::new(a.ip, a.prefix_len))
        .collect();
    if shared.is_empty() {
        return Err(OpenError::Unsuitable {
            name: interface.name.clone(),
            problem: "has no global address to share; give it one, or name addresses in the \
                      configuration",
        });
    }
    Ok(shared)
}

/// What the kernel's way in to a shared interface is called.
pub(super) fn endpoint_name(interface: &str) -> String {
    format!("u-{interface}").chars().take(15).collect()
}

/// The kernel's way in: a TAP device, or where there is none a veth pair.
pub(super) fn open_host(
    kept: &mut Kept,
    netlink: &mut Netlink,
    interface: &Interface,
    link: &Link,
    workers: usize,
) -> Result<Vec<Box<dyn Port>>, OpenError> {
    let mtu = link_mtu(link);
    let name = endpoint_name(&interface.name);
    let spec = TapSpec { name: name.clone(), mac: link.mac, mtu, header: Header::Checksums };
    let taps = match interface.host {
        HostEndpoint::Veth => None,
        wish => match Tap::open_queues(&spec, workers) {
            Ok(taps) => Some(taps),
            Err(error) if wish == HostEndpoint::Auto => {
                tracing::info!(%error, "no TAP device can be had; a veth pair serves the host");
                None
            }
            Err(error) => return Err(port_error(&interface.name, "a TAP device", error)),
        },
    };
    if let Some(taps) = taps {
        set_up_host(netlink, interface, &name)?;
        return Ok(boxed(taps));
    }
    open_host_veth(kept, netlink, interface, link, &name, workers)
}

pub(super) fn boxed<P: Port + 'static>(ports: Vec<P>) -> Vec<Box<dyn Port>> {
    ports.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect()
}

/// A veth pair: the kernel's end here, ours in a namespace that only its socket keeps. So the pair
/// goes with this process even if it is killed.
fn open_host_veth(
    kept: &mut Kept,
    netlink: &mut Netlink,
    interface: &Interface,
    link: &Link,
    name: &str,
    workers: usize,
) -> Result<Vec<Box<dyn Port>>, OpenError> {
    let mtu = link_mtu(link);
    let inner: String = format!("v-{}", interface.name).chars().take(15).collect();
    // Without CAP_SYS_ADMIN there is no such namespace, and our end lies beside the kernel's.
    let namespace = Namespace::create().ok();
    netlink
        .add_veth(name, &inner, namespace.as_ref().map(AsFd::as_fd))
        .map_err(net_error(&interface.name))?;
    let own = Netlink::open().map_err(net_error(&interface.name))?;
    kept.veth = Some((own, name.to_owned()));
    netlink.set_mac(name, link.mac).map_err(net_error(&interface.name))?;
    netlink.set_mtu(name, mtu.into()).map_err(net_error(&interface.name))?;
    set_up_host(netlink, interface, name)?;
    let open_inner = || {
        let mut netlink = Netlink::open().map_err(net_error(&interface.name))?;
        netlink.set_mtu(&inner, mtu.into()).map_err(net_error(&interface.name))?;
        let _ = Setting::Ipv6Disable.change(&inner, 1).map(Changed::keep);
        netlink.set_up(&inner).map_err(net_error(&interface.name))?;
        let link = netlink.link(&inner).map_err(net_error(&interface.name))?;
        open_sockets(&interface.name, &link, Ring::V2, false, workers)
    };
    let sockets = match namespace {
        Some(namespace) => namespace.run(open_inner).map_err(net_error(&interface.name))??,
        None => open_inner()?,
    };
    Ok(boxed(sockets))
}

/// Makes the kernel accept at the endpoint what is for its other interface, and say nothing there.
fn set_up_host(netlink: &mut Netlink, interface: &Interface, name: &str) -> Result<(), OpenError> {
    let change =
        |setting: Setting, value| setting.change(name, value).map_err(net_error(&interface.name));
    // The kernel takes the larger of this and the setting of `all`, so 2 (any interface will do) is
    // what it is whatever that says. But it is only 2 for an interface that has an address; else any
    // but 0 refuses all (`__fib_validate_source`). This one is nobody's (RFC 7600).
    change(Setting::Ipv4ReversePath, 2)?.keep();
    let dummy = InterfaceAddress { ip: DUMMY_ADDRESS.into(), prefix_len: 32, scope: Scope::Host };
    netlink.add_address(name, dummy).map_err(net_error(&interface.name))?;
    change(Setting::Ipv4ArpIgnore, 8)?.keep();
    // Without IPv6 in the kernel there is nothing to keep quiet.
    for (setting, value) in [
        (Setting::Ipv6AddressGeneration, 1),
        (Setting::Ipv6AcceptRouterAdvertisement, 0),
        (Setting::Ipv6DuplicateDetection, 0),
    ] {
        let _ = setting.change(name, value).map(Changed::keep);
    }
    netlink.set_up(name).map_err(net_error(&interface.name))
}
