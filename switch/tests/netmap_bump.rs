//! A bump in the wire between two cards, on the double of netmap: what goes through is a buffer that
//! changes rings.

use std::sync::Arc;
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::pool::Pool;
use usnet_shmring::region::Writer;
use usnet_switch::classify::Mac;
use usnet_switch::port::netmap::double::{
    Double, MachineSpec, Medium, NicSpec, QueueMedium, Quirk, queue_pair,
};
use usnet_switch::port::netmap::{Bank, Netmap, NetmapSpec};
use usnet_switch::port::{Handling, Region};
use usnet_switch::snapshot::Snapshot;
use usnet_switch::switch::{Behind, InterfaceSpec, Switch};
use usnet_switch::time::Time;

const SLOTS: u32 = 1024;
const RING: u32 = 32;
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// Two cards whose drivers, as e1000's, look at a buffer only where a slot says that it has changed.
struct Cards {
    double: Double,
    /// The other ends of their wires.
    wires: [QueueMedium; 2],
}

impl Cards {
    fn new() -> Self {
        let double = Double::with(MachineSpec::default()).unwrap();
        let wires = ["eth1", "eth2"].map(|name| {
            let (wire, card) = queue_pair(RING as usize).unwrap();
            let mut spec = NicSpec::new(name, Box::new(card));
            (spec.tx_slots, spec.rx_slots) = (RING, RING);
            spec.quirks = vec![Quirk::NeedsBufChanged];
            double.add_nic(spec).unwrap();
            wire
        });
        Self { double, wires }
    }

    fn open(&self, name: &str, bank: Option<&Arc<Bank>>) -> Netmap {
        let name = format!("netmap:{name}").parse().unwrap();
        Netmap::open(&self.double, &NetmapSpec { name, mac: MAC, mtu: 1500 }, bank).unwrap()
    }
}

/// A switch with a bump over both cards, in the bank.
struct Bump {
    cards: Cards,
    switch: Switch,
    bank: Arc<Bank>,
    /// Slots that are in the rings of neither.
    free: usize,
}

impl Bump {
    fn new() -> Self {
        let cards = Cards::new();
        let arena = Arena::reserve(4 * SLOTS, SlotSize::DEFAULT).unwrap();
        let add =
            |name| SlotRange::whole(arena.add_segment(name, Writer::Daemon, SLOTS, false).unwrap());
        let (objects, port) = (add("objects"), add("port"));
        let segment = Arc::clone(port.segment());
        let mut pool = Pool::new(port).unwrap();
        let bank = Bank::open(
            &cards.double,
            &objects,
            &segment,
            std::slice::from_mut(&mut pool),
            6 * RING,
        )
        .unwrap();
        let [wire, host] = ["eth1", "eth2"].map(|name| cards.open(name, Some(&bank)));
        assert!(wire.swaps() && host.swaps());
        let free = pool.free_slots();
        let mut switch = Switch::new(pool, 7);
        let spec = InterfaceSpec {
            mac: MAC,
            mtu: 1500,
            addresses: vec!["10.0.0.1".parse().unwrap()],
            wire: Box::new(wire),
            host: Some(Box::new(host)),
            behind: Behind::Network,
            cut_through: true,
            kernel_hears: Vec::new(),
            unmatched: usnet_switch::config::Unmatched::Drop,
        };
        switch.add_interface(spec).unwrap();
        Self { cards, switch, bank, free }
    }

    fn run(&mut self) -> Snapshot {
        while self.switch.step(Time(0)) > 0 {}
        let snapshot = self.switch.snapshot();
        let exchange = snapshot.interfaces[0].wire.exchange.as_ref().unwrap();
        assert_eq!((exchange.region, exchange.frames), (Region::Own, Handling::Swapped));
        assert!(snapshot.frames_conserved && snapshot.slots_conserved, "{snapshot:#?}");
        snapshot
    }

    fn come_out(&mut self, side: usize) -> Vec<Vec<u8>> {
        let mut bytes = [0; 2048];
        core::iter::from_fn(|| {
            let length = self.cards.wires[side].receive(&mut bytes)?;
            Some(bytes[..length].to_vec())
        })
        .collect()
    }
}

/// A frame for somebody else that says who it is in every byte.
fn numbered(number: u8, length: usize) -> Vec<u8> {
    let body = (12..length).map(|at| number.wrapping_mul(31).wrapping_add(at.to_le_bytes()[0]));
    [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8].into_iter().chain(body).collect()
}

/// One for the shared address, which nobody claims.
fn unclaimed(port: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 8, 8, 0];
    frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 9, 10, 0, 0, 1]);
    frame.extend([0, 9, 0, port, 0, 8, 0, 0]);
    frame.resize(60, 0);
    frame
}

#[test]
fn buffers_go_from_card_to_card_and_nothing_is_copied_or_lost() {
    let mut bump = Bump::new();
    let mut sent = 0;
    for lap in 0..40u8 {
        for side in [0, 1] {
            let frames: Vec<_> = (0..20)
                .map(|n| {
                    let number = lap.wrapping_mul(40).wrapping_add(n);
                    if n % 3 == 0 {
                        unclaimed(n)
                    } else {
                        numbered(number, 60 + usize::from(lap) * 30)
                    }
                })
                .collect();
            assert!(frames.iter().all(|frame| bump.cards.wires[side].send(frame)));
            sent += frames.len() as u64;
            let snapshot = bump.run();
            assert_eq!(bump.come_out(1 - side), frames, "lap {lap} from side {side}");
            assert_eq!(bump.come_out(side), Vec::<Vec<u8>>::new(), "nothing comes back");
            let totals = snapshot.totals;
            assert_eq!((totals.received, totals.to_ports), (sent, sent));
            // No frame was made for a copy, and the ports exchange buffers: so none was copied.
            assert_eq!((totals.generated, totals.dropped.total()), (0, 0));
            assert_eq!(snapshot.slots.free as usize, bump.free, "each buffer for another");
        }
    }
    let Bump { cards, switch, bank, free, .. } = bump;
    let kept = bank.kept();
    let pool = switch.close();
    assert_eq!(pool.free_slots(), free);
    assert_eq!(bank.kept(), kept + 4 * RING as usize, "what the rings held");
    let id = bank.memory_id();
    assert_eq!((cards.double.leaks(id), cards.double.double_frees(id)), (0, 0));
}

#[test]
fn a_card_that_takes_no_more_costs_counted_frames_and_no_buffer() {
    let mut bump = Bump::new();
    let frames: Vec<_> = (0..RING).map(|n| numbered(n.to_le_bytes()[0], 60)).collect();
    let mut sent = 0;
    for _ in 0..20 {
        sent += frames.iter().filter(|frame| bump.cards.wires[0].send(frame)).count() as u64;
        bump.run();
    }
    let snapshot = bump.run();
    let dropped = snapshot.totals.dropped.total();
    assert!(dropped > 0, "more than wire, ring and burst hold: {snapshot:#?}");
    assert_eq!(snapshot.totals.received, sent);
    // The wire takes again, and what waits goes on in order.
    let mut came = bump.come_out(1);
    for _ in 0..20 {
        bump.run();
        bump.cards.double.pump();
        came.extend(bump.come_out(1));
    }
    assert_eq!(came.len() as u64, sent - dropped);
    let snapshot = bump.run();
    assert_eq!((snapshot.waiting, snapshot.slots.free as usize), (0, bump.free));
}
