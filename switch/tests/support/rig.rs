//! The switch, its ports and its clients, and where frames end.

use super::client::{Client, Memory};
use super::port::{Hand, Script};
use std::net::IpAddr;
use std::sync::Arc;
use usnet_shmring::arena::{Arena, Segment, SlotRange, SlotSize};
use usnet_shmring::descriptor::{Fault, RawDescriptor};
use usnet_shmring::ledger::SessionId;
use usnet_shmring::pool::Pool;
use usnet_shmring::queues::{ClientQueues, DaemonQueues};
use usnet_shmring::region::{Region, Writer};
use usnet_switch::classify::{Mac, Protocol};
use usnet_switch::config::{Network, Unmatched};
use usnet_switch::net::guard::Pass;
use usnet_switch::port::Port;
use usnet_switch::session::InterfaceId;
use usnet_switch::session::{GroupId, May, SessionSpec};
use usnet_switch::snapshot::Snapshot;
use usnet_switch::switch::{Behind, Event, InterfaceSpec, Switch, SwitchError};
use usnet_switch::time::Time;
use usnet_switch::verdict::DropReason;

/// Slots that the arena numbers.
pub(crate) const SLOTS: u32 = 4096;

/// How a switch is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) host: bool,
    pub(crate) host_sees_arp: bool,
    pub(crate) behind: Behind,
    pub(crate) cut_through: bool,
    pub(crate) interfaces: u8,
    pub(crate) port_slots: u32,
    /// Ports send the rest of long frames from clients' slots, with or without a group.
    pub(crate) split: bool,
    pub(crate) unmatched: Unmatched,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: true,
            host_sees_arp: false,
            behind: Behind::Kernel,
            cut_through: true,
            interfaces: 1,
            port_slots: 512,
            split: false,
            unmatched: Unmatched::Drop,
        }
    }
}

/// What ports may be opened over.
#[allow(dead_code, reason = "the tests over netmap use all of it")]
pub(crate) struct Place<'a> {
    /// Slots that clients will send from.
    pub(crate) clients: &'a SlotRange,
    /// Slots that the daemon writes.
    pub(crate) daemon: &'a Memory,
    pub(crate) port: Arc<Segment>,
    pub(crate) pool: &'a mut Pool,
    /// Before the clients' slots, which lie before those of the pool; none in a rig without region.
    pub(crate) objects: Option<SlotRange>,
}

/// How a session's frames are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Isolated,
    Shared,
    Group(u16),
}

/// How a client attaches.
#[derive(Clone, Debug)]
pub(crate) struct Attach {
    pub(crate) id: u16,
    pub(crate) interface: u8,
    pub(crate) mode: Mode,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) exclusive: Vec<IpAddr>,
    pub(crate) quota: u32,
    /// Groups that it may join.
    pub(crate) groups: Vec<Network>,
    pub(crate) may: May,
    pub(crate) capacity: u32,
    pub(crate) transmit: u32,
    pub(crate) receive: u32,
    /// Has agreed on unfinished frames.
    pub(crate) offload: bool,
}

impl Default for Attach {
    fn default() -> Self {
        Self {
            id: 0,
            interface: 0,
            mode: Mode::Isolated,
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            exclusive: Vec::new(),
            quota: 64,
            groups: Vec::new(),
            may: May::default(),
            capacity: 128,
            transmit: 64,
            receive: 128,
            offload: false,
        }
    }
}

/// Where a frame ended; one entry for each copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Client(u16),
    Host,
    Wire,
    Consumed,
    Dropped(DropReason),
}

/// What came out of the switch.
#[derive(Debug, Default)]
pub(crate) struct Out {
    pub(crate) wire: Vec<Vec<u8>>,
    pub(crate) host: Vec<Vec<u8>>,
    pub(crate) clients: Vec<(u16, Vec<u8>)>,
}

#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) switch: Switch,
    pub(crate) now: Time,
    pub(crate) wires: Vec<Hand>,
    pub(crate) hosts: Vec<Option<Hand>>,
    pub(crate) clients: Vec<Client>,
    pub(crate) memories: Vec<Memory>,
    pub(crate) events: Vec<Event>,
    /// Slots that the daemon writes and that clients write, not yet given to anyone.
    daemon_slots: Vec<SlotRange>,
    client_slots: Vec<SlotRange>,
}

/// Interface `n`'s link address.
pub(crate) fn mac(interface: u8) -> Mac {
    Mac([2, 0, 0, 0, interface, 1])
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        let (mut wires, mut hosts) = (Vec::new(), Vec::new());
        let rig = Self::in_memory(options, false, |place, n| {
            let (wire, hand) = Script::new(&format!("wire{n}"), mac(n));
            let host = options.host.then(|| Script::new(&format!("host{n}"), mac(n)));
            if options.split {
                for hand in [Some(&hand), host.as_ref().map(|(_, hand)| hand)].into_iter().flatten()
                {
                    let clients = Memory::of(place.clients);
                    hand.lock().split = Some([place.daemon.again(), clients]);
                }
            }
            wires.push(hand);
            hosts.push(host.as_ref().map(|(_, hand)| hand.clone()));
            (wire, host.map(|(port, _)| port as _))
        });
        Self { wires, hosts, ..rig }
    }

    /// Over ports of the caller's, on which it has no hand itself.
    #[allow(dead_code, reason = "the tests over netmap use it")]
    pub(crate) fn over(
        options: Options,
        mut ports: impl FnMut(u8) -> (Box<dyn Port>, Option<Box<dyn Port>>),
    ) -> Self {
        Self::in_memory(options, false, |_, n| ports(n))
    }

    /// The same with a look at the memory. `is_region`: objects, clients' slots and a pool of 1,024 slots lie
    /// side by side, in this order.
    pub(crate) fn in_memory(
        options: Options,
        is_region: bool,
        mut ports: impl FnMut(&mut Place<'_>, u8) -> (Box<dyn Port>, Option<Box<dyn Port>>),
    ) -> Self {
        let arena = Arena::reserve(SLOTS, SlotSize::DEFAULT).expect("address space");
        let segment = |name, writer, slots| {
            SlotRange::whole(arena.add_segment(name, writer, slots, false).expect("memory"))
        };
        let (objects, port, client, daemon);
        if is_region {
            objects = Some(segment("objects", Writer::Daemon, 1024));
            client = segment("client", Writer::Client, 1024);
            port = segment("port", Writer::Daemon, 1024);
            daemon = segment("daemon", Writer::Daemon, 1024);
        } else {
            objects = None;
            let mut rest = segment("daemon", Writer::Daemon, 2048);
            client = segment("client", Writer::Client, 1024);
            port = rest.split(options.port_slots).expect("slots");
            daemon = rest;
        }
        let memories = vec![Memory::of(&port)];
        let port_segment = Arc::clone(port.segment());
        let mut pool = Pool::new(port).expect("a pool");
        let mut place = Place {
            clients: &client,
            daemon: &memories[0],
            port: port_segment,
            pool: &mut pool,
            objects,
        };
        let made: Vec<_> = (0..options.interfaces).map(|n| ports(&mut place, n)).collect();
        let mut switch = Switch::new(pool, 7);
        for (n, (wire, host)) in (0..).zip(made) {
            let spec = InterfaceSpec {
                mac: mac(n),
                mtu: 1500,
                addresses: vec![
                    format!("10.0.{n}.1").parse().unwrap(),
                    format!("fd0{n}::1").parse().unwrap(),
                ],
                wire,
                host,
                behind: options.behind,
                cut_through: options.cut_through,
                kernel_hears: if options.host_sees_arp { Pass::NEIGHBOURS.into() } else { vec![] },
                unmatched: options.unmatched,
            };
            assert_eq!(switch.add_interface(spec).unwrap(), InterfaceId(n));
        }
        Self {
            switch,
            now: Time(0),
            wires: Vec::new(),
            hosts: Vec::new(),
            clients: Vec::new(),
            memories,
            events: Vec::new(),
            daemon_slots: vec![daemon],
            client_slots: vec![client],
        }
    }

    /// Takes `count` slots: a range of just that size that came back, or the front of a larger one.
    fn slots(from: &mut Vec<SlotRange>, count: u32) -> SlotRange {
        if let Some(index) = from.iter().position(|range| range.count() == count) {
            return from.swap_remove(index);
        }
        from.iter_mut().find_map(|range| range.split(count)).expect("slots")
    }

    /// The spec of a session and the client that goes with it.
    pub(crate) fn spec(&mut self, attach: &Attach) -> (SessionSpec, Client) {
        let capacity = attach.capacity;
        let (inbound, outbound) = (Region::heap(1, capacity), Region::heap(1, capacity));
        let transmit = Self::slots(&mut self.client_slots, attach.transmit);
        let receive = (attach.mode == Mode::Isolated)
            .then(|| Self::slots(&mut self.daemon_slots, attach.receive));
        self.memories.extend(receive.iter().map(Memory::of));
        self.memories.push(Memory::of(&transmit));
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .expect("a socket pair");
        let id = SessionId(attach.id);
        let queues = ClientQueues::new(&inbound, &outbound, capacity, 0).expect("queues");
        let client = Client::new(
            id,
            queues,
            outbound.clone(),
            capacity,
            Memory::of(&transmit),
            Some(theirs),
        );
        let spec = SessionSpec {
            offload: attach.offload,
            id,
            interface: InterfaceId(attach.interface),
            queues: DaemonQueues::new(&inbound, &outbound, capacity, 0).expect("queues"),
            transmit,
            receive,
            group: if let Mode::Group(group) = attach.mode { Some(GroupId(group)) } else { None },
            addresses: attach.addresses.clone(),
            exclusive: attach.exclusive.clone(),
            wake: Some(ours),
            flow_quota: attach.quota,
            groups: attach.groups.clone(),
            may: attach.may,
        };
        (spec, client)
    }

    pub(crate) fn try_attach(&mut self, attach: &Attach) -> Result<(), SwitchError> {
        let (spec, client) = self.spec(attach);
        self.switch.attach(spec)?;
        self.clients.retain(|c| c.id != client.id);
        self.clients.push(client);
        Ok(())
    }

    pub(crate) fn attach(&mut self, attach: &Attach) {
        self.try_attach(attach).expect("attached");
    }

    /// Attaches an isolated client number `id` with the shared addresses.
    pub(crate) fn attach_plain(&mut self, id: u16) {
        self.attach(&Attach { id, ..Attach::default() });
    }

    /// Attaches client number `id` that has an address of its own beside the shared ones.
    pub(crate) fn attach_owner(&mut self, id: u16, own: &str) {
        let mut attach = Attach { id, ..Attach::default() };
        attach.addresses.push(own.parse().unwrap());
        attach.exclusive.push(own.parse().unwrap());
        self.attach(&attach);
    }

    pub(crate) fn client(&mut self, id: u16) -> &mut Client {
        self.clients.iter_mut().find(|c| c.id.0 == id).expect("such a client")
    }

    pub(crate) fn listen(&mut self, id: u16, address: &str, protocol: u8, port: u16) {
        self.claim(0, address, protocol, port, Some(id)).expect("claimed");
    }

    pub(crate) fn claim(
        &mut self,
        interface: u8,
        address: &str,
        protocol: u8,
        port: u16,
        to: Option<u16>,
    ) -> Result<(), SwitchError> {
        self.switch.set_listener(
            InterfaceId(interface),
            address.parse().unwrap(),
            Protocol(protocol),
            port,
            1,
            to.map(SessionId),
        )
    }

    /// One step, after which everything must be accounted for.
    pub(crate) fn step(&mut self) -> usize {
        let moved = self.switch.step(self.now);
        self.check();
        self.take_events();
        moved
    }

    /// Keeps events; slots of ended sessions may be used again.
    pub(crate) fn take_events(&mut self) {
        for event in self.switch.take_events() {
            match event {
                Event::RangesClosed(ranges) => {
                    for mut range in ranges {
                        self.memories.retain(|memory| memory.first != range.first());
                        range.zero();
                        match range.segment().writer() {
                            Writer::Daemon => self.daemon_slots.push(range),
                            Writer::Client => self.client_slots.push(range),
                        }
                    }
                }
                other => {
                    if let Event::SessionEnded { id, .. } = other {
                        self.clients.retain(|client| client.id != id);
                    }
                    self.events.push(other);
                }
            }
        }
    }

    #[track_caller]
    pub(crate) fn check(&self) -> Snapshot {
        let snapshot = self.switch.snapshot();
        assert!(snapshot.frames_conserved, "{snapshot:#?}");
        assert!(snapshot.slots_conserved, "{snapshot:#?}");
        snapshot
    }

    /// Steps until nothing moves.
    pub(crate) fn run(&mut self) {
        for _ in 0..10_000 {
            if self.step() == 0 {
                return;
            }
        }
        panic!("the switch never rests");
    }

    pub(crate) fn read(&self, raw: RawDescriptor) -> Vec<u8> {
        let memory = self.memories.iter().find(|m| m.holds(raw.slot()));
        memory.expect("the slot is somewhere").read(raw)
    }

    /// Takes what client `id` received and gives the slots back.
    pub(crate) fn received(&mut self, id: u16) -> Vec<Vec<u8>> {
        let raws = self.client(id).take(usize::MAX);
        let frames = raws.iter().map(|raw| self.read(*raw)).collect();
        self.client(id).give_back(usize::MAX);
        frames
    }

    /// Runs and takes everything that came out, at every end.
    pub(crate) fn drain(&mut self) -> Out {
        let mut out = Out::default();
        self.run();
        for wire in &self.wires {
            out.wire.append(&mut wire.lock().outgoing);
        }
        for host in self.hosts.iter().flatten() {
            out.host.append(&mut host.lock().outgoing);
        }
        let ids: Vec<u16> = self.clients.iter().map(|c| c.id.0).collect();
        for id in ids {
            out.clients.extend(self.received(id).into_iter().map(|frame| (id, frame)));
            self.client(id).collect();
        }
        self.run();
        out
    }

    /// Gives the switch something to do and says where it ended.
    #[track_caller]
    pub(crate) fn fates(&mut self, act: impl FnOnce(&mut Self)) -> (Vec<Fate>, Out) {
        let before = self.check().totals;
        act(self);
        let out = self.drain();
        let after = self.check().totals;
        let mut fates: Vec<Fate> = Vec::new();
        fates.extend(out.clients.iter().map(|(id, _)| Fate::Client(*id)));
        fates.extend(out.host.iter().map(|_| Fate::Host));
        fates.extend(out.wire.iter().map(|_| Fate::Wire));
        fates.extend((before.consumed..after.consumed).map(|_| Fate::Consumed));
        for reason in DropReason::ALL {
            let range = before.dropped.get(*reason)..after.dropped.get(*reason);
            fates.extend(range.map(|_| Fate::Dropped(*reason)));
        }
        (fates, out)
    }

    /// Where a frame ends that arrives on wire 0.
    #[track_caller]
    pub(crate) fn arrives(&mut self, frame: &[u8]) -> Vec<Fate> {
        self.fates(|rig| rig.wires[0].lock().incoming.push_back(frame.to_vec())).0
    }

    /// Where a frame ends that the kernel sends.
    #[track_caller]
    pub(crate) fn host_sends(&mut self, frame: &[u8]) -> Vec<Fate> {
        self.fates(|rig| {
            let host = rig.hosts[0].as_ref().expect("a host");
            host.lock().incoming.push_back(frame.to_vec());
        })
        .0
    }

    /// Where a frame ends that client `id` sends.
    #[track_caller]
    pub(crate) fn sends(&mut self, id: u16, frame: &[u8]) -> Vec<Fate> {
        self.fates(|rig| {
            rig.client(id).send(frame);
        })
        .0
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.switch.snapshot().totals.dropped.get(reason)
    }

    /// How sessions ended since the last call: number and fault.
    pub(crate) fn ended(&mut self) -> Vec<(u16, Option<Fault>)> {
        self.take_events();
        let mut ended = Vec::new();
        self.events.retain(|event| match event {
            Event::SessionEnded { id, fault, .. } => {
                ended.push((id.0, *fault));
                false
            }
            _ => true,
        });
        ended
    }
}
