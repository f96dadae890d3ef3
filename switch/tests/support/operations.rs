//! One language of everything that wire, host, clients and control can do to a switch, for the
//! property test, the fuzz target and the replay of its corpus.
//!
//! - Every input is a program; bytes that are missing read as zero.
//! - After every operation frames and slots are conserved. No client sees a frame that clients must
//!   not see, holds a slot twice, or gets a slot of another back. Only a client that lied is ended.

use super::client::Client;
use super::frames::{
    self, BROADCAST, DCCP, OURS, PEER, SCTP, UDP_LITE, arp, ethernet, inward, ip, outward, tagged,
};
use super::rig::{Attach, Mode, Options, Rig, mac};
use core::time::Duration;
use usnet_shmring::descriptor::RawDescriptor;
use usnet_shmring::layout::Word;
use usnet_shmring::ledger::SessionId;
use usnet_switch::classify::{Mac, Payload, classify};
use usnet_switch::config::{Network, Unmatched};
use usnet_switch::session::May;
use usnet_switch::switch::{Behind, Event};

/// The VLAN that an interface may be: one of those that frames are tagged for.
const VLAN: u16 = 5;
/// Clients in the world.
const CLIENTS: u16 = 4;
/// Operations of one program, so that the longest input ends soon.
const MOST: usize = 400;

/// Bytes as a source of small numbers.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, limit: u8) -> u8 {
        self.byte() % limit
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }
}

/// Runs a program.
///
/// # Panics
///
/// If the switch broke a promise.
pub(crate) fn check(program: &[u8]) {
    let mut input = Input(program);
    let mut world = World::new(input.byte());
    for _ in 0..MOST {
        if input.0.is_empty() {
            break;
        }
        world.operate(&mut input);
        world.check();
    }
    world.end();
}

struct World {
    rig: Rig,
    clients: [Life; CLIENTS as usize],
    /// Somebody wrote a slot that was not in its hands: groups see what their members write.
    scribbled: bool,
    /// Frames go through that are nobody's here, whatever they are.
    is_bump: bool,
    /// The second interface is this VLAN of the first.
    vlan: Option<u16>,
}

/// What the world knows of a client.
#[derive(Clone, Copy, Default)]
struct Life {
    live: bool,
    /// Ended, and slots of it are still with others.
    waits: bool,
    /// It may be ended at any time.
    lied: bool,
    grouped: bool,
    /// It may be the supplicant.
    eapol: bool,
    interface: u8,
}

impl World {
    fn new(shape: u8) -> Self {
        let options = Options {
            host: shape & 1 == 0,
            host_sees_arp: shape & 18 == 2,
            behind: if shape & 16 == 0 { Behind::Kernel } else { Behind::Network },
            cut_through: true,
            interfaces: 1 + ((shape >> 2) & 1),
            // Sometimes so few that they run out.
            port_slots: if shape & 8 == 0 { 512 } else { 48 },
            split: shape & 32 != 0,
            unmatched: if shape & 64 == 0 { Unmatched::Drop } else { Unmatched::Unreachable },
        };
        let is_bump = options.behind == Behind::Network;
        let vlan = (shape & 128 != 0 && !is_bump && options.interfaces > 1).then_some(VLAN);
        let mut rig = Rig::with(Options {
            interfaces: if vlan.is_some() { 1 } else { options.interfaces },
            ..options
        });
        if let Some(id) = vlan {
            rig.add_vlan(1, id, &["10.0.1.1", "fd00::1"], options.host);
        }
        Self { rig, clients: Default::default(), scribbled: false, is_bump, vlan }
    }

    fn has_second(&self) -> bool {
        self.rig.wires.len() > 1 || self.vlan.is_some()
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        let what = input.byte();
        let who = u16::from(input.below(CLIENTS as u8));
        match what % 20 {
            0..=4 => {
                let count = 1 + input.below(80);
                let mut frame = frame(input, false);
                if let Some(id) = self.vlan.filter(|_| who & 1 != 0) {
                    frame = tagged(&frame, id);
                }
                let interface = usize::from(who) % self.rig.wires.len();
                let mut wire = self.rig.wires[interface].lock();
                wire.incoming.extend((0..count).map(|_| frame.clone()));
            }
            5 => {
                let frame = frame(input, true);
                let of_vlan = self.vlan.is_some() && who & 1 != 0;
                if let Some(host) = &self.rig.hosts[usize::from(of_vlan)] {
                    host.lock().incoming.push_back(frame);
                }
            }
            6..=9 => {
                let count = 1 + input.below(80);
                let mut frame = match what % 20 {
                    // To another client, or itself, at the shared address.
                    8 | 9 => {
                        outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp(port(input), port(input))
                    }
                    _ => frame(input, true),
                };
                // So long that its rest may stay with the client.
                if input.byte() & 1 != 0 {
                    frame.resize(600, 0);
                }
                if let Some(client) = self.live(who) {
                    for _ in 0..count {
                        client.try_send(&frame);
                    }
                }
            }
            10 => self.with(who, |c| c.take(200)),
            11 => {
                let count = usize::from(input.byte());
                self.with(who, |c| c.give_back(count));
            }
            12 => self.with(who, |c| c.collect()),
            13 => self.attach(who, input),
            14 => {
                self.rig.switch.detach(SessionId(who));
            }
            15 => self.claim(who, input),
            16 => self.lie(who, input),
            17 => self.port(input),
            18 => {
                self.rig.now = self.rig.now + Duration::from_secs(u64::from(input.byte()));
            }
            _ => {
                self.rig.switch.prepare_sleep();
                self.rig.switch.woke();
            }
        }
        if what >= 40 {
            self.rig.switch.step(self.rig.now);
        }
    }

    /// A client that is attached and has not lied; what a liar's own side holds is anyone's guess.
    fn live(&mut self, who: u16) -> Option<&mut Client> {
        let life = self.clients[usize::from(who)];
        (life.live && !life.lied).then(|| self.rig.client(who))
    }

    fn with<T>(&mut self, who: u16, act: impl FnOnce(&mut Client) -> T) {
        if let Some(client) = self.live(who) {
            act(client);
        }
    }

    fn attach(&mut self, who: u16, input: &mut Input<'_>) {
        let shape = input.byte();
        let interface = u8::from(self.has_second() && shape & 0x80 != 0);
        let own = ip(&format!("10.0.{interface}.{}", 50 + who));
        let mut addresses = vec![ip(&format!("10.0.{interface}.1")), ip("fd00::1")];
        let mut exclusive = Vec::new();
        if shape & 4 != 0 {
            addresses.push(own);
            exclusive.push(own);
        }
        let mode = match shape & 3 {
            0 | 1 => Mode::Isolated,
            2 => Mode::Shared,
            _ => Mode::Group(1),
        };
        let groups = Network::new(ip("224.0.0.0"), 4).expect("a prefix");
        let attach = Attach {
            id: who,
            interface,
            mode,
            addresses,
            exclusive,
            quota: u32::from(input.below(8)),
            groups: if shape & 16 == 0 { Vec::new() } else { vec![groups] },
            capacity: 64,
            transmit: 32,
            receive: 32,
            may: May { dhcp: shape & 32 != 0, eapol: shape & 64 != 0 },
            offload: shape & 8 != 0,
        };
        let life = &mut self.clients[usize::from(who)];
        if life.live || life.waits {
            return;
        }
        *life = Life {
            live: true,
            interface,
            grouped: matches!(mode, Mode::Group(_)),
            eapol: attach.may.eapol,
            ..Life::default()
        };
        self.rig.try_attach(&attach).expect("a number is free once everything is back");
    }

    fn claim(&mut self, who: u16, input: &mut Input<'_>) {
        let interface = input.below(2);
        let address = input.pick(&["10.0.0.1", "fd00::1", "10.0.1.1", "10.0.0.50", "1.2.3.4"]);
        let protocol = input.pick(&[frames::UDP, frames::TCP, SCTP, DCCP, UDP_LITE, 1]);
        let to = (input.byte() & 3 != 0).then_some(who);
        let _ = self.rig.claim(interface, address, protocol, port(input), to);
    }

    /// What no honest client does.
    fn lie(&mut self, who: u16, input: &mut Input<'_>) {
        let kind = input.below(8);
        let (value, small) = (input.word(), u32::from(input.byte()));
        let life = &mut self.clients[usize::from(who)];
        if !life.live {
            return;
        }
        life.lied = true;
        let client = self.rig.client(who);
        let word = [
            Word::FirstProduced,
            Word::SecondProduced,
            Word::FirstConsumed,
            Word::SecondConsumed,
            Word::Sleeps,
        ];
        match kind {
            0..=2 => client.store(word[value as usize % 5], small),
            3 => client.store(word[value as usize % 5], value),
            4 => client.store_cell(
                (value >> 8) & 1,
                small,
                (u64::from(value) << 20) | u64::from(small),
            ),
            5 => {
                // A real slot, perhaps not its own, perhaps twice.
                let raw = RawDescriptor::new(value % 2600, 0, 60);
                let _ = client.queues.tx.refresh();
                let _ = client.queues.tx.push(raw);
                client.queues.tx.publish();
            }
            6 => {
                let raw = RawDescriptor::new(value % 2600, 0, 0);
                let _ = client.queues.fill.refresh();
                let _ = client.queues.fill.push(raw);
                client.queues.fill.publish();
            }
            _ => {
                // A slot changes while the switch or another client reads it.
                self.scribbled = true;
                let slot = client.transmit.first + small % client.transmit.count;
                client.transmit.write(slot, 0, &value.to_le_bytes());
            }
        }
    }

    fn port(&mut self, input: &mut Input<'_>) {
        let (which, how, number) = (input.byte(), input.byte(), usize::from(input.byte()));
        let host = if which & 1 == 0 { None } else { self.rig.hosts[0].clone() };
        let hand = host.unwrap_or_else(|| self.rig.wires[0].clone());
        let mut medium = hand.lock();
        match how % 8 {
            0..=2 => medium.room = Some(number % 70),
            3 => medium.room = None,
            4 => medium.keeps = number % 40,
            5 => medium.limit = (number & 1 == 0).then_some(64),
            6 => medium.breaks = number > 200,
            _ => medium.breaks_receiving = number > 200,
        }
        if how % 8 < 4 {
            medium.outgoing.clear();
        }
    }

    fn check(&mut self) {
        self.rig.check();
        self.follow();
        for index in 0..self.rig.clients.len() {
            let who = self.rig.clients[index].id.0;
            let Some(client) = self.live(who) else { continue };
            // Taken, and so checked, though not given back.
            for raw in client.take(usize::MAX) {
                let frame = self.rig.read(raw);
                self.may_be_seen(who, &frame);
            }
        }
        for wire in &self.rig.wires {
            for frame in wire.lock().outgoing.drain(..) {
                let fits = self.is_bump || classify(&frame).is_ok();
                assert!(fits, "malformed frames go nowhere: {frame:02x?}");
            }
        }
        for hand in self.rig.hosts.iter().flatten() {
            hand.lock().outgoing.clear();
        }
    }

    /// Follows what the switch says of its sessions.
    fn follow(&mut self) {
        self.rig.take_events();
        for event in self.rig.events.drain(..) {
            match event {
                Event::SessionEnded { id, fault, .. } => {
                    let life = &mut self.clients[usize::from(id.0)];
                    assert!(life.live, "a session ends once");
                    assert!(fault.is_none() || life.lied, "an honest client is ended: {fault:?}");
                    (life.live, life.waits) = (false, true);
                }
                Event::SessionGone(id) => self.clients[usize::from(id.0)].waits = false,
                _ => {}
            }
        }
    }

    fn may_be_seen(&self, who: u16, frame: &[u8]) {
        let life = self.clients[usize::from(who)];
        if self.scribbled && life.grouped {
            return;
        }
        let seen = classify(frame).expect("malformed frames go nowhere");
        assert_eq!(seen.vlan, None, "no tagged frame reaches a client");
        let number = if self.vlan.is_some() { 0 } else { life.interface };
        let ours = seen.destination == mac(number);
        assert!(ours || seen.destination.is_group(), "{seen:?}");
        let may_hear = match seen.payload {
            Payload::Ip(_) | Payload::Arp(_) => true,
            Payload::Eapol => life.eapol,
            Payload::Other(_) => false,
        };
        assert!(may_hear, "{seen:?}");
    }

    /// Whoever is honest gets every slot of its own back once the liars are gone, the others have
    /// given back what they hold, and cards have sent what they hold.
    fn settle(&mut self) {
        for hand in self.rig.wires.iter().chain(self.rig.hosts.iter().flatten()) {
            let mut medium = hand.lock();
            if medium.split.is_some() {
                (medium.keeps, medium.room) = (0, None);
            }
        }
        for who in 0..CLIENTS {
            if self.clients[usize::from(who)].lied {
                self.rig.switch.detach(SessionId(who));
            }
        }
        for _ in 0..20 {
            self.check();
            for who in 0..CLIENTS {
                self.with(who, |client| {
                    client.give_back(usize::MAX);
                    client.collect();
                });
            }
            if self.rig.switch.step(self.rig.now) == 0 {
                break;
            }
        }
        for who in 0..CLIENTS {
            self.with(who, |client| {
                client.collect();
                let (free, all) = (client.free.len(), client.transmit.count as usize);
                assert_eq!(free, all, "client {who} waits for slots that nobody has");
            });
        }
    }

    /// Everybody goes; every slot and every frame is accounted for to the end.
    fn end(mut self) {
        self.settle();
        for who in 0..CLIENTS {
            self.rig.switch.detach(SessionId(who));
        }
        self.rig.switch.step(self.rig.now);
        let slots = self.rig.check().slots;
        assert_eq!(
            (slots.lent, slots.shared, slots.taken),
            (0, 0, 0),
            "nobody is left to hold a slot"
        );
        for hand in self.rig.wires.iter().chain(self.rig.hosts.iter().flatten()) {
            hand.lock().keeps = 0;
        }
        let total = slots.total;
        let (audit, slots) = self.rig.switch.close().audit();
        assert_eq!((audit.free, slots), (total, total), "every slot is free in the end: {audit:?}");
    }
}

fn port(input: &mut Input<'_>) -> u16 {
    input.pick(&[7, 80, 9, 40_000, 0, 68])
}

/// A frame that the switch has an opinion on; `leaves` if it is sent rather than received.
fn frame(input: &mut Input<'_>, leaves: bool) -> Vec<u8> {
    let shape = input.byte();
    let us =
        input.pick(&["10.0.0.1", "10.0.0.1", "10.0.0.50", "10.0.0.51", "10.0.1.1", "10.0.0.9"]);
    let them = input.pick(&["10.0.0.9", "10.0.0.1", "10.0.0.255", "224.0.0.251", "10.0.0.50"]);
    let (us, them) = if shape & 0x20 == 0 {
        (us, them)
    } else {
        ("fd00::1", input.pick(&["fd00::9", "fd00::1"]))
    };
    let mut from = if leaves { outward(us, them) } else { inward("10.0.0.9", us) };
    if !leaves && us.contains(':') {
        from = inward("fd00::9", us);
    }
    let links: [Mac; 5] = [OURS, OURS, PEER, BROADCAST, mac(1)];
    from = from.to_link(if shape & 0x40 == 0 { from.to_link } else { input.pick(&links) });
    from = match shape & 0x0f {
        12 | 13 => from.first(input.byte().into()),
        14 | 15 => from.later(input.byte().into()),
        _ => from,
    };
    let (a, b) = (port(input), port(input));
    let whole = from.piece.is_none();
    let frame = match input.below(20) {
        0..=4 => from.udp(a, b),
        5 | 6 => {
            let fits = if whole { input.byte() } else { 8 };
            from.udp_with(a, b, &vec![0xaa; usize::from(fits) * 4])
        }
        7 if whole => from.tcp(a, b),
        8 if whole => from.ports(input.pick(&[SCTP, DCCP, UDP_LITE]), a, b),
        9 => from.echo_request(a),
        10 => from.echo_reply(a),
        11 if whole => {
            let back = frames::From { source: from.destination, destination: from.source, ..from };
            from.unreachable(&back.quoted_udp(b, a))
        }
        12 | 13 => {
            let operation = 1 + u16::from(input.below(2));
            let sender = input.pick(&["10.0.0.1", "10.0.0.50", "10.0.0.9", "0.0.0.0"]);
            let target = input.pick(&["10.0.0.1", "10.0.0.50", "10.0.0.9"]);
            arp(from.to_link, from.link, operation, from.link, sender, target)
        }
        14 if us.contains(':') => {
            let kind = 135 + input.below(2);
            from.neighbor(kind, input.pick(&["fd00::1", "fd00::9"]), from.link)
        }
        15 => ethernet(from.to_link, from.link, input.pick(&[0x888e, 0x88cc, 0x0800]), &[1; 50]),
        16 => tagged(&from.udp(a, b), input.pick(&[0, 5, 4095])),
        17 => {
            let count = usize::from(input.byte());
            let mut bytes: Vec<u8> = (0..14 + count).map(|_| input.byte()).collect();
            bytes[0] &= 0xfe;
            bytes
        }
        _ => from.rest(input.byte()),
    };
    assert!(frame.len() <= 1514);
    frame
}
