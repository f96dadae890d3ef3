//! VLANs of an interface: each has clients, rules and a way to the kernel of its own, and nothing of another's.

use crate::support::frames::*;
use crate::support::port::Script;
use crate::support::rig::Fate::{Client, Dropped, Host, Wire};
use crate::support::rig::{Attach, Fate, Mode, Options, Out, Rig, mac};
use crate::support::vlan::{self, lane};
use core::num::NonZeroU16;
use usnet_shmring::descriptor::RawDescriptor;
use usnet_shmring::offload::{OPEN, Offload};
use usnet_switch::port::Port;
use usnet_switch::port::lane::Lane;
use usnet_switch::session::InterfaceId;
use usnet_switch::switch::{Behind, InterfaceSpec, SwitchError};
use usnet_switch::verdict::DropReason::{self, NoReceiver, NotForUs, TooLong, Vlan};

/// The two VLANs, which are interfaces 1 and 2, and one that nobody has.
const VLANS: [u16; 2] = [42, 4094];
const NOBODYS: u16 = 7;

/// The same in all VLANs, as it may be.
const ADDRESSES: [&str; 2] = ["10.0.0.1", "fd00::1"];

fn spec(wire: Box<dyn Port>, host: Option<Box<dyn Port>>) -> InterfaceSpec {
    vlan::spec(&ADDRESSES, wire, host)
}

/// Interface 0 and both VLANs, with a client each, who has port 7: clients 0, 1 and 2.
fn world(modes: [Mode; 3]) -> Rig {
    let mut rig = Rig::new();
    for (number, id) in (1..).zip(VLANS) {
        rig.add_vlan(number, id, &ADDRESSES, true);
    }
    for (id, mode) in (0..).zip(modes) {
        let interface = id as u8;
        rig.attach(&Attach { id, interface, mode, ..Attach::default() });
        for address in ["10.0.0.1", "fd00::1"] {
            rig.claim(interface, address, UDP, 7, Some(id)).unwrap();
            rig.claim(interface, address, TCP, 7, Some(id)).unwrap();
        }
    }
    rig
}

/// Where a client's frame ends, and what came out.
fn sent(rig: &mut Rig, client: u16, frame: &[u8]) -> (Vec<Fate>, Out) {
    rig.fates(|rig| {
        rig.client(client).send(frame);
    })
}

const MODES: [[Mode; 3]; 3] =
    [[Mode::Isolated; 3], [Mode::Shared; 3], [Mode::Group(1), Mode::Group(1), Mode::Isolated]];

/// A frame as it is on the wire of one of the three interfaces.
fn on(interface: usize, frame: &[u8]) -> Vec<u8> {
    match interface.checked_sub(1) {
        None => frame.to_vec(),
        Some(vlan) => tagged(frame, VLANS[vlan]),
    }
}

#[test]
fn a_frame_of_a_vlan_reaches_its_client_untagged_and_no_other() {
    for modes in MODES {
        let mut rig = world(modes);
        let questions = [
            inward("10.0.0.9", "10.0.0.1").udp(9, 7),
            inward("10.0.0.9", "10.0.0.1").tcp(9, 7),
            inward("fd00::9", "fd00::1").udp(9, 7),
            inward("10.0.0.9", "10.0.0.1").udp_with(9, 7, &[0x5a; 1472]),
            inward("10.0.0.9", "10.0.0.1").first(3).udp(9, 7),
            inward("10.0.0.9", "10.0.0.1").later(3).rest(UDP),
        ];
        for question in questions {
            for interface in 0..3 {
                let arriving = on(interface, &question);
                let (fates, out) =
                    rig.fates(|rig| rig.wires[0].lock().incoming.push_back(arriving));
                assert_eq!(fates, [Client(interface as u16)], "{modes:?}");
                assert_eq!(out.clients, [(interface as u16, question.clone())]);
            }
        }
    }
}

#[test]
fn priority_and_a_tag_that_has_nothing_else_change_nothing() {
    let mut rig = world(MODES[0]);
    let question = inward("10.0.0.9", "10.0.0.1").udp(9, 7);
    for (vlan, client) in [(42 | 0xe000, 1), (42 | 0x1000, 1), (0xe000, 0), (0, 0)] {
        let (fates, out) =
            rig.fates(|rig| rig.wires[0].lock().incoming.push_back(tagged(&question, vlan)));
        assert_eq!((fates, &out.clients[0].1), (vec![Client(client)], &question), "{vlan:#x}");
    }
    // A priority alone before the VLAN, as Linux reads it; and behind it.
    for twice in [tagged(&tagged(&question, 42), 0xa000), tagged(&tagged(&question, 0), 42)] {
        let (fates, out) = rig.fates(|rig| rig.wires[0].lock().incoming.push_back(twice));
        assert_eq!((fates, &out.clients[0].1), (vec![Client(1)], &question));
    }
}

#[test]
fn what_no_interface_has_the_vlan_of_goes_where_it_went() {
    let mut rig = world(MODES[0]);
    let question = inward("10.0.0.9", "10.0.0.1").udp(9, 7);
    let mut service = tagged(&question, 42);
    service[12..14].copy_from_slice(&[0x88, 0xa8]);
    for frame in [tagged(&question, NOBODYS), tagged(&tagged(&question, 42), NOBODYS), service] {
        let (fates, _) = rig.fates(|rig| rig.wires[0].lock().incoming.push_back(frame.clone()));
        assert_eq!(fates, [Host]);
    }
    // The kernel of interface 0, and not that of a VLAN.
    for (number, frames) in [(0, 1), (1, 0), (2, 0)] {
        rig.wires[0].lock().incoming.push_back(tagged(&question, NOBODYS));
        rig.run();
        let host = rig.hosts[number].clone().unwrap();
        assert_eq!(host.lock().outgoing.len(), frames, "{number}");
        rig.drain();
    }
    assert_eq!(rig.arrives(&tagged(&question, 0x0fff)), [Dropped(DropReason::Malformed)]);
    let short = &tagged(&question, 42)[..16];
    assert_eq!(rig.arrives(short), [Dropped(DropReason::Malformed)], "no EtherType behind the tag");
    // Two tags: behind the first it is another network's, which only a kernel can have.
    assert_eq!(rig.arrives(&tagged(&tagged(&question, 4094), 42)), [Host]);
    let strange = inward("10.0.0.9", "10.0.0.1").to_link(PEER).udp(9, 7);
    assert_eq!(rig.arrives(&tagged(&strange, 42)), [Dropped(NotForUs)]);
}

#[test]
fn what_clients_send_leaves_with_the_tag_of_their_vlan() {
    for modes in MODES {
        let mut rig = world(modes);
        let answers = [
            outward("10.0.0.1", "10.0.0.9").udp(7, 9),
            outward("10.0.0.1", "10.0.0.9").tcp(7, 9),
            outward("fd00::1", "fd00::9").udp(7, 9),
            outward("10.0.0.1", "10.0.0.9").udp_with(7, 9, &[0xa5; 1472]),
            outward("10.0.0.1", "10.0.0.255").to_link(BROADCAST).udp(7, 9),
            who_has(OURS, "10.0.0.1", "10.0.0.9"),
        ];
        for answer in answers {
            for client in 0..3 {
                let (fates, out) = sent(&mut rig, client, &answer);
                assert!(fates.contains(&Wire), "{modes:?}: {fates:?}");
                assert_eq!(out.wire, [on(client.into(), &answer)], "{modes:?}, {client}");
                assert!(out.clients.is_empty(), "nobody else hears it");
            }
        }
    }
}

#[test]
fn clients_of_one_address_in_two_vlans_do_not_meet() {
    let mut rig = world([Mode::Group(1); 3]);
    // To the link address that all share, so to its own interface's clients, of which there is but itself.
    let to_port = |port| outward("10.0.0.1", "10.0.0.1").to_link(OURS).udp(7, port);
    assert_eq!(rig.sends(1, &to_port(7)), [Dropped(DropReason::ToSelf)]);
    assert_eq!(rig.sends(1, &to_port(8)), [Host]);
    rig.attach(&Attach { id: 3, interface: 1, ..Attach::default() });
    rig.claim(1, "10.0.0.1", UDP, 8, Some(3)).unwrap();
    assert_eq!(rig.sends(1, &to_port(8)), [Client(3)]);
    assert_eq!(rig.sends(2, &to_port(8)), [Host], "not of that VLAN");
    // What is learned in one counts in no other.
    assert_eq!(rig.sends(1, &outward("10.0.0.1", "10.0.0.9").udp(40_000, 9)), [Wire]);
    let answer = inward("10.0.0.9", "10.0.0.1").udp(9, 40_000);
    assert_eq!(rig.arrives(&tagged(&answer, 42)), [Client(1)]);
    assert_eq!(rig.arrives(&tagged(&answer, 4094)), [Host]);
    assert_eq!(rig.arrives(&answer), [Host]);
}

#[test]
fn a_client_that_tags_its_frames_itself_is_refused_and_counted() {
    let mut rig = world(MODES[0]);
    let frame = outward("10.0.0.1", "10.0.0.9").udp(7, 9);
    let to_all = outward("10.0.0.1", "10.0.0.255").to_link(BROADCAST).udp(7, 9);
    let service = |vlan: u16| {
        let mut frame = tagged(&frame, vlan);
        frame[12..14].copy_from_slice(&[0x88, 0xa8]);
        frame
    };
    for client in [0, 1, 2] {
        for vlan in [42, 4094, NOBODYS, 42 | 0xe000] {
            let tries = [
                tagged(&frame, vlan),
                tagged(&to_all, vlan),
                tagged(&tagged(&frame, vlan), 0),
                tagged(&tagged(&frame, 0), vlan),
                tagged(&who_has(OURS, "10.0.0.1", "10.0.0.9"), vlan),
                service(vlan),
            ];
            for frame in tries {
                let (fates, out) = sent(&mut rig, client, &frame);
                assert_eq!((fates, out.wire.len()), (vec![Dropped(Vlan)], 0), "{client}, {vlan}");
            }
        }
    }
    // Behind a VLAN's tag another would come before it.
    for client in [1, 2] {
        for frame in [tagged(&frame, 0), service(0), tagged(&to_all, 0xe000)] {
            assert_eq!(rig.sends(client, &frame), [Dropped(Vlan)]);
        }
    }
    let counted = |rig: &Rig, client: u16| {
        let seen = rig.switch.snapshot();
        let session = seen.sessions.iter().find(|session| session.id == client).unwrap();
        session.counters.dropped_from.get(Vlan)
    };
    assert_eq!((counted(&rig, 0), counted(&rig, 1), counted(&rig, 2)), (24, 27, 27));
    // Tags that are none to us are other protocols', which no client may speak.
    let mut unknown = tagged(&frame, 42);
    unknown[12..14].copy_from_slice(&[0x91, 0x00]);
    assert_eq!(rig.sends(1, &unknown), [Dropped(DropReason::NotPermitted)]);
}

#[test]
fn the_kernel_has_a_part_in_each_vlan() {
    let mut rig = world(MODES[0]);
    for number in 0..3 {
        let host = rig.hosts[number].clone().unwrap();
        // Nobody's port, a ping, a question for an address.
        for frame in [
            inward("10.0.0.9", "10.0.0.1").udp(9, 22),
            inward("10.0.0.9", "10.0.0.1").echo_request(5),
            who_has(PEER, "10.0.0.9", "10.0.0.1"),
        ] {
            rig.wires[0].lock().incoming.push_back(on(number, &frame));
            rig.run();
            assert_eq!(std::mem::take(&mut host.lock().outgoing), [frame]);
        }
        let answer = outward("10.0.0.1", "10.0.0.9").tcp(22, 9);
        host.lock().incoming.push_back(answer.clone());
        assert_eq!(rig.drain().wire, [on(number, &answer)]);
        // Two networks in one: the kernel may.
        host.lock().incoming.push_back(tagged(&answer, NOBODYS));
        assert_eq!(rig.drain().wire, [on(number, &tagged(&answer, NOBODYS))]);
    }
}

#[test]
fn without_a_kernel_the_switch_answers_for_the_addresses_of_a_vlan() {
    let mut rig = Rig::new();
    rig.add_vlan(1, 42, &ADDRESSES, false);
    let question = who_has(PEER, "10.0.0.9", "10.0.0.1");
    rig.wires[0].lock().incoming.push_back(tagged(&question, 42));
    let out = rig.drain();
    let mut answer = arp(PEER, OURS, 2, OURS, "10.0.0.1", "10.0.0.9");
    answer.resize(60, 0);
    assert_eq!((out.wire, out.host.len()), (vec![tagged(&answer, 42)], 0));
    assert_eq!(
        rig.arrives(&tagged(&inward("10.0.0.9", "10.0.0.1").udp(9, 7), 42)),
        [Dropped(NoReceiver)]
    );
}

#[test]
fn what_is_left_to_do_of_a_frame_is_done_before_it_gets_its_tag() {
    let mut rig = Rig::new();
    rig.add_vlan(1, 42, &ADDRESSES, false);
    for id in 0..2 {
        rig.attach(&Attach { id, interface: id as u8, offload: true, ..Attach::default() });
        rig.claim(id as u8, "10.0.0.1", TCP, 7, Some(id)).unwrap();
    }
    // An acknowledgement with 1,400 bytes.
    let header =
        [&[0, 7, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 16, 0, 0, 0, 0, 0][..]].concat();
    let joined = outward("10.0.0.1", "10.0.0.9").ip(TCP, &[&header[..], &[0x5a; 1400]].concat());
    let segments = Offload::segments(NonZeroU16::new(500).unwrap()).to_flags();
    for (flags, frames) in [(segments, 3), (OPEN, 1)] {
        let mut sent = [0, 1].map(|id| {
            let (_, out) = rig.fates(|rig| {
                let client = rig.client(id);
                let slot = client.free.pop().expect("a free slot");
                client.transmit.write(slot, 0, &joined);
                let raw = RawDescriptor::new(slot, 0, joined.len() as u16);
                client.send_raw(raw.with_flags(flags));
            });
            out.wire
        });
        assert_eq!(sent[0].len(), frames);
        sent[0].iter_mut().for_each(|frame| *frame = tagged(frame, 42));
        assert_eq!(sent[0], sent[1]);
    }
}

#[test]
fn a_frame_that_has_no_room_for_a_tag_is_dropped_and_counted() {
    let mut rig = world(MODES[0]);
    let kernel = rig.hosts[1].clone().unwrap();
    // The kernel's end takes what fills a slot; a tag does not fit in.
    let whole = |length: usize| {
        let mut frame = outward("10.0.0.1", "10.0.0.9").udp(22, 9);
        frame.resize(length, 0);
        frame
    };
    for (length, fates) in [(2044, Wire), (2045, Dropped(TooLong)), (2048, Dropped(TooLong))] {
        let frame = whole(length);
        let (seen, out) = rig.fates(|_| kernel.lock().incoming.push_back(frame.clone()));
        assert_eq!(seen, [fates], "{length}");
        assert!(out.wire.iter().all(|sent| *sent == tagged(&frame, 42)));
    }
    let seen = rig.switch.snapshot();
    let counters = seen.interfaces[1].wire.counters;
    assert_eq!((counters.transmitted, counters.transmit_errors), (1, 2));
}

#[test]
fn a_vlan_counts_its_own_frames_and_the_wire_all() {
    let mut rig = world(MODES[0]);
    let question = inward("10.0.0.9", "10.0.0.1").udp(9, 7);
    for _ in 0..3 {
        assert_eq!(rig.arrives(&tagged(&question, 42)), [Client(1)]);
    }
    assert_eq!(rig.arrives(&question), [Client(0)]);
    for _ in 0..2 {
        assert_eq!(rig.sends(1, &outward("10.0.0.1", "10.0.0.9").udp(7, 9)), [Wire]);
    }
    let seen = rig.switch.snapshot();
    let counters = |interface: usize| {
        let counters = seen.interfaces[interface].wire.counters;
        (counters.received, counters.transmitted)
    };
    assert_eq!((counters(1), counters(2)), ((3, 2), (0, 0)));
    assert_eq!(seen.totals.received, 4);
    assert_eq!(seen.totals.to_ports, 2);
}

#[test]
fn a_burst_of_every_vlan_is_moved_in_one_step() {
    let mut rig = world(MODES[1]);
    let question = inward("10.0.0.9", "10.0.0.1").udp(9, 7);
    for n in 0..60 {
        rig.wires[0].lock().incoming.push_back(on(n % 3, &question));
    }
    rig.step();
    for client in 0..3 {
        assert_eq!(rig.received(client).len(), 20);
    }
    // And out again, from more clients than a port takes in one burst.
    for id in 3..20 {
        rig.attach(&Attach {
            id,
            interface: 1,
            mode: Mode::Shared,
            transmit: 32,
            ..Attach::default()
        });
    }
    for id in 3..20 {
        for n in 0..20 {
            rig.client(id).send(&outward("10.0.0.1", "10.0.0.9").udp(1000 * id + n, 9));
        }
    }
    rig.step();
    let sent = rig.drain().wire;
    assert_eq!(sent.len(), 17 * 20);
    assert!(sent.iter().all(|frame| frame[12..16] == [0x81, 0, 0, 42]));
}

#[test]
fn when_the_wire_fails_frames_of_its_vlans_are_dropped_and_it_goes_on_with_another() {
    let mut rig = world(MODES[0]);
    let answer = outward("10.0.0.1", "10.0.0.9").udp(7, 9);
    rig.wires[0].lock().breaks_receiving = true;
    rig.wires[0].lock().incoming.push_back(tagged(&inward("10.0.0.9", "10.0.0.1").udp(9, 7), 42));
    assert_eq!(rig.drain().clients.len(), 1, "what came before is handed over");
    assert_eq!(rig.sends(1, &answer), [Dropped(NoReceiver)]);
    // Its VLANs are closed with it, and come back with it, perhaps with another address.
    rig.switch.retire_ports(InterfaceId(1), true).unwrap();
    assert_eq!(rig.sends(1, &answer), [Dropped(NoReceiver)]);
    let (wire, hand) = Script::new("again", mac(5));
    let there = InterfaceSpec { mac: mac(5), ..spec(wire, None) };
    rig.switch.replace_ports(InterfaceId(0), there).unwrap();
    rig.wires[0] = hand;
    let question = inward("10.0.0.9", "10.0.0.1").to_link(mac(5)).udp(9, 7);
    assert_eq!(rig.arrives(&tagged(&question, 42)), [Dropped(NoReceiver)], "not open again yet");
    let lane = Box::new(Lane::new("lane".into(), mac(5), 1500));
    let (host, _) = Script::new("host", mac(5));
    let spec = InterfaceSpec { mac: mac(5), ..spec(lane, Some(host)) };
    rig.switch.replace_ports(InterfaceId(1), spec).unwrap();
    assert_eq!(rig.arrives(&tagged(&question, 42)), [Client(1)]);
    let answer = outward("10.0.0.1", "10.0.0.9").link(mac(5)).udp(7, 9);
    let (fates, out) = sent(&mut rig, 1, &answer);
    assert_eq!((fates, out.wire), (vec![Wire], vec![tagged(&answer, 42)]));
}

#[test]
fn a_vlan_that_goes_leaves_its_frames_to_who_had_them_before() {
    let question = tagged(&inward("10.0.0.9", "10.0.0.1").udp(9, 7), 42);
    let mut rig = world(MODES[0]);
    assert_eq!(rig.arrives(&question), [Client(1)]);
    rig.switch.remove_interface(InterfaceId(1)).unwrap();
    assert_eq!(rig.arrives(&question), [Host]);
    // Another may be it now.
    rig.add_vlan(1, 42, &ADDRESSES, false);
    assert_eq!(rig.arrives(&question), [Dropped(NoReceiver)]);

    // What it was a VLAN of goes first: nothing comes, and what it sends has no way.
    let mut rig = world(MODES[0]);
    rig.switch.remove_interface(InterfaceId(0)).unwrap();
    rig.take_events();
    rig.wires.clear();
    let answer = outward("10.0.0.1", "10.0.0.9").udp(7, 9);
    assert_eq!(rig.sends(1, &answer), [Dropped(NoReceiver)]);
    let (wire, hand) = Script::new("wire0", mac(0));
    rig.switch.add_interface_at(InterfaceId(0), spec(wire, None)).unwrap();
    rig.wires.push(hand);
    assert_eq!(rig.sends(1, &answer), [Dropped(NoReceiver)], "the next of its number is another");
    assert_eq!(rig.arrives(&question), [Dropped(NoReceiver)]);
}

#[test]
fn only_a_lane_can_be_a_vlan_and_only_once_and_of_what_has_a_port() {
    let mut rig = world(MODES[0]);
    let set = |rig: &mut Rig, interface, of, id| {
        rig.switch.set_vlan(InterfaceId(interface), InterfaceId(of), id)
    };
    rig.switch.add_interface_at(InterfaceId(3), spec(lane(), None)).unwrap();
    for (interface, of, id) in [(0, 0, 9), (3, 3, 9), (3, 1, 9), (1, 0, 9), (3, 0, 0), (3, 0, 4095)]
    {
        let refused = set(&mut rig, interface, of, id);
        assert!(matches!(refused, Err(SwitchError::NoVlan { .. })), "{interface}: {refused:?}");
    }
    let taken = set(&mut rig, 3, 0, 42);
    assert!(matches!(taken, Err(SwitchError::VlanTaken { id: 42, .. })), "{taken:?}");
    assert!(matches!(set(&mut rig, 3, 9, 9), Err(SwitchError::NoInterface(InterfaceId(9)))));
    // One that is not told what it is of has no network.
    rig.attach(&Attach { id: 9, interface: 3, ..Attach::default() });
    let answer = outward("10.0.0.1", "10.0.0.9").udp(7, 9);
    assert_eq!(rig.sends(9, &answer), [Dropped(NoReceiver)]);
    set(&mut rig, 3, 0, 9).unwrap();
    let (_, out) = sent(&mut rig, 9, &answer);
    assert_eq!(out.wire, [tagged(&answer, 9)]);
    let network = Options { behind: Behind::Network, ..Options::default() };
    let mut rig = Rig::with(network);
    rig.switch.add_interface_at(InterfaceId(1), spec(lane(), None)).unwrap();
    assert!(matches!(set(&mut rig, 1, 0, 9), Err(SwitchError::NoVlan { .. })), "of a bump");
}
