//! Cut-through between two ports in netmap's own region, on its double: where frames end does not depend on
//! it, and what goes through needs no slot.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "frames are built from small numbers"
)]

#[path = "core/any_frame.rs"]
mod any_frame;
#[path = "support/mod.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod support;

use any_frame::{HERE, THERE, any_frame};
use proptest::collection::vec;
use proptest::prelude::*;
use support::frames::*;
use support::rig::{Attach, Mode, Options, Rig};
use usnet_switch::port::netmap::double::{
    Completion, Double, GLOBAL_REGION, MachineSpec, Medium, NicSpec, Pools, QueueMedium, Quirk,
    queue_pair,
};
use usnet_switch::port::netmap::{Netmap, NetmapSpec};
use usnet_switch::port::{Handling, Region};
use usnet_switch::session::InterfaceId;
use usnet_switch::switch::{Behind, InterfaceSpec};

const RING: u32 = 32;
/// Slots of the pool: fewer than a client may keep, more than wait for a port.
const SLOTS: u32 = 100;

/// A switch over netmap's own memory, and what lies at the other ends of its ports.
struct World {
    rig: Rig,
    double: Double,
    /// Of the wire port, and of the host port.
    ends: [QueueMedium; 2],
}

impl World {
    fn with(
        behind: Behind,
        cut_through: bool,
        queue: usize,
        mtu: u16,
        change: impl Fn(&mut NicSpec),
    ) -> Self {
        let pools = Pools { buffer_size: 2048, ..Pools::default() };
        let spec = MachineSpec { extmem: false, pools };
        let double = Double::with(spec).unwrap();
        let (wire, card) = queue_pair(queue).unwrap();
        let (other, far) = queue_pair(queue).unwrap();
        let mut specs = vec![NicSpec::new("eth1", Box::new(card))];
        match behind {
            Behind::Kernel => specs[0].host = Some(Box::new(far)),
            Behind::Network => specs.push(NicSpec::new("eth2", Box::new(far))),
        }
        for mut spec in specs {
            (spec.tx_slots, spec.rx_slots) = (RING, RING);
            // A missing NS_BUF_CHANGED sends and fills what lay there before.
            spec.quirks = vec![Quirk::NeedsBufChanged];
            change(&mut spec);
            double.add_nic(spec).unwrap();
        }
        let open = |name: &str| {
            let name = format!("netmap:{name}").parse().unwrap();
            Box::new(Netmap::open(&double, &NetmapSpec { name, mac: OURS, mtu }, None).unwrap())
        };
        let second = if behind == Behind::Kernel { "eth1^" } else { "eth2" };
        let options = Options { behind, cut_through, port_slots: SLOTS, ..Options::default() };
        let rig = Rig::over(options, |_| (open("eth1"), Some(open(second) as _)));
        Self { rig, double, ends: [wire, other] }
    }

    fn new(behind: Behind, cut_through: bool) -> Self {
        Self::with(behind, cut_through, 256, 1500, |_| {})
    }

    fn with_clients(mut self) -> Self {
        self.rig.attach_plain(1);
        self.rig.listen(1, "10.0.0.1", UDP, 7);
        self.rig.attach_owner(2, "10.0.0.50");
        self.rig.attach(&Attach { id: 3, mode: Mode::Shared, ..Attach::default() });
        self.rig.listen(3, "10.0.0.1", UDP, 3);
        self
    }

    fn come_out(&mut self, end: usize) -> Vec<Vec<u8>> {
        let mut bytes = [0; 4096];
        core::iter::from_fn(|| {
            let length = self.ends[end].receive(&mut bytes)?;
            Some(bytes[..length].to_vec())
        })
        .collect()
    }

    /// Closes everything; every buffer of the region is where netmap looks for it.
    fn end(self) {
        let Self { rig, double, .. } = self;
        drop(rig.switch.close());
        assert_eq!((double.leaks(GLOBAL_REGION), double.double_frees(GLOBAL_REGION)), (0, 0));
    }
}

#[test]
fn frames_of_a_vlan_are_its_clients_beside_what_is_cut_through() {
    for cut_through in [true, false] {
        let mut world = World::new(Behind::Kernel, cut_through).with_clients();
        world.rig.add_vlan(1, 42, &["10.0.0.1", "fd00::1"], false);
        world.rig.attach(&Attach { id: 4, interface: 1, ..Attach::default() });
        world.rig.claim(1, "10.0.0.1", UDP, 7, Some(4)).unwrap();
        let ours = inward("10.0.0.9", "10.0.0.1").udp(9, 7);
        let kernels = inward("10.0.0.9", "10.0.0.1").udp(9, 22);
        let arriving = [
            kernels.clone(),
            tagged(&ours, 42),
            ours.clone(),
            tagged(&ours, 5),
            tagged(&kernels, 42),
            kernels.clone(),
        ];
        assert!(arriving.iter().all(|frame| world.ends[0].send(frame)));
        world.rig.run();
        assert_eq!(world.rig.received(4), std::slice::from_ref(&ours), "{cut_through}");
        assert_eq!(world.rig.received(1), std::slice::from_ref(&ours));
        assert_eq!(world.come_out(1), [kernels.clone(), tagged(&ours, 5), kernels]);
        let answer = outward("10.0.0.1", "10.0.0.9").udp(7, 9);
        world.rig.client(4).send(&answer);
        world.rig.run();
        assert_eq!(world.come_out(0), [tagged(&answer, 42)]);
        world.rig.check();
        world.end();
    }
}

#[test]
fn what_goes_through_needs_no_slot_and_nothing_else_is_changed() {
    for (cut_through, behind) in
        [(true, Behind::Network), (true, Behind::Kernel), (false, Behind::Network)]
    {
        let mut world = World::new(behind, cut_through).with_clients();
        // All slots are with a client that gives none back.
        for _ in 0..SLOTS {
            assert!(world.ends[0].send(&inward("10.0.0.9", "10.0.0.1").udp(9, 3)));
        }
        world.rig.run();
        let slots = world.rig.check().slots;
        assert_eq!((slots.lent, slots.daemon), (SLOTS + 3 * 64, 0), "and what clients send from");
        world.double.pump();
        let through: Vec<_> = (0..200u16)
            .map(|n| {
                inward("10.0.0.9", "10.0.0.1").udp_with(9, 100 + n, &vec![n as u8; usize::from(n)])
            })
            .collect();
        let mut came = Vec::new();
        for frames in through.chunks(20) {
            assert!(frames.iter().all(|frame| world.ends[0].send(frame)));
            world.rig.run();
            came.extend(world.come_out(1));
        }
        let snapshot = world.rig.check();
        let totals = snapshot.totals;
        let ports = snapshot.interfaces[0].clone();
        let frames = if cut_through { Handling::CutThrough } else { Handling::Copied };
        for port in [ports.wire, ports.host.unwrap()] {
            let exchange = port.exchange.unwrap();
            assert_eq!((exchange.region, exchange.frames), (Region::Netmap, frames));
        }
        if cut_through {
            assert_eq!(came, through);
            assert_eq!((totals.to_ports, totals.received), (200, 200 + u64::from(SLOTS)));
            let back = outward("10.0.0.1", "10.0.0.9").udp(22, 9);
            assert!(world.ends[1].send(&back));
            world.rig.run();
            assert_eq!(world.come_out(0), [back]);
        } else {
            assert_eq!(
                (came.len(), totals.received),
                (0, u64::from(SLOTS)),
                "no slot, so none is received"
            );
        }
        world.end();
    }
}

#[test]
fn ports_that_were_opened_again_cut_through_as_well() {
    let mut world = World::new(Behind::Network, true);
    let frame = inward("10.0.0.9", "10.0.0.8").to_link(THERE).udp(9, 7);
    world.double.remove("eth1").unwrap();
    world.rig.run();
    assert!(world.rig.switch.retire_ports(InterfaceId(0), false).unwrap());
    let (wire, card) = queue_pair(256).unwrap();
    world.double.add_nic(NicSpec::new("eth1", Box::new(card))).unwrap();
    world.ends[0] = wire;
    let [wire, host] = ["eth1", "eth2"].map(|name| {
        let name = format!("netmap:{name}").parse().unwrap();
        Netmap::open(&world.double, &NetmapSpec { name, mac: OURS, mtu: 1500 }, None).unwrap()
    });
    let spec = InterfaceSpec {
        mac: OURS,
        mtu: 1500,
        addresses: Vec::new(),
        wire: Box::new(wire),
        host: Some(Box::new(host)),
        behind: Behind::Network,
        cut_through: true,
        kernel_hears: Vec::new(),
        unmatched: usnet_switch::config::Unmatched::Drop,
    };
    world.rig.switch.replace_ports(InterfaceId(0), spec).unwrap();
    assert!(world.ends[0].send(&frame));
    world.rig.run();
    assert_eq!(world.come_out(1), [frame]);
    let exchange = world.rig.check().interfaces[0].wire.exchange.clone();
    assert_eq!(exchange.unwrap().frames, Handling::CutThrough);
    world.end();
}

#[test]
fn what_finds_no_room_is_counted_and_none_overtakes_another() {
    for behind in [Behind::Network, Behind::Kernel] {
        let mut world =
            World::with(behind, true, 24, 1500, |spec| spec.completion = Completion::NextSync);
        let mut sent = Vec::new();
        for n in 0..400u16 {
            let frame = inward("10.0.0.9", "10.0.0.1").udp(n, 100);
            if world.ends[0].send(&frame) {
                sent.push(frame);
            }
            if n % 20 == 19 {
                world.rig.run();
            }
        }
        world.rig.run();
        let mut came = Vec::new();
        for _ in 0..40 {
            came.extend(world.come_out(1));
            world.double.pump();
            world.rig.run();
        }
        let snapshot = world.rig.check();
        let lost = snapshot.totals.dropped.total() as usize;
        let host_refuses = behind == Behind::Kernel;
        assert!(host_refuses || lost > 0, "{snapshot:#?}");
        assert!(host_refuses || came.len() + lost == sent.len(), "{} and {lost}", came.len());
        let mut rest = sent.iter();
        assert!(came.iter().all(|frame| rest.any(|other| other == frame)), "in order");
        world.end();
    }
}

#[test]
fn a_frame_in_several_buffers_or_too_long_goes_the_ordinary_way() {
    // A port whose longest frame fills a buffer, and one that takes less.
    for (mtu, longest, refused) in [(2034, 2048, [2, 0]), (1500, 1522, [1, 1])] {
        let mut world = World::with(Behind::Network, true, 256, mtu, |spec| {
            spec.quirks = vec![Quirk::Generic];
        });
        let frame = |length: usize| [&THERE.0[..], &HERE.0, &vec![7; length - 12]].concat();
        for length in [60, longest, longest + 1, 3000] {
            assert!(world.ends[0].send(&frame(length)));
            world.rig.run();
            let expected = if length <= longest { vec![frame(length)] } else { vec![] };
            assert_eq!(world.come_out(1), expected, "{length} bytes");
        }
        let ports = world.rig.check().interfaces[0].clone();
        let host = ports.host.unwrap().counters;
        // Longer than a slot of the pool, and than the port takes.
        assert_eq!([ports.wire.counters.receive_errors, host.transmit_errors], refused);
        world.end();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn where_frames_end_does_not_depend_on_it(
        is_bump in any::<bool>(),
        has_clients in prop::bool::weighted(0.8),
        bursts in vec((any::<bool>(), vec(any_frame(), 1..25)), 1..12),
    ) {
        let behind = if is_bump { Behind::Network } else { Behind::Kernel };
        let worlds = [true, false].map(|cut_through| {
            let world = World::new(behind, cut_through);
            if has_clients { world.with_clients() } else { world }
        });
        let ends = worlds.map(|mut world| {
            let mut all = Vec::new();
            for (from_host, frames) in &bursts {
                for frame in frames {
                    assert!(world.ends[usize::from(*from_host)].send(frame));
                }
                let out = world.rig.drain();
                all.push((world.come_out(0), world.come_out(1), out.clients));
            }
            let snapshot = world.rig.check();
            let ports = snapshot.interfaces[0].clone();
            let counters = (ports.wire.counters, ports.host.unwrap().counters);
            world.end();
            (all, snapshot.totals, counters)
        });
        let [cut, ordinary] = ends;
        prop_assert_eq!(cut, ordinary);
    }
}
