//! A ring agrees with a queue, at every capacity, burst and position.
//!
//! Under Miri: `cargo +nightly miri test -p usnet-shmring` runs these with fewer cases.

use core::cell::Cell;
use core::sync::atomic::Ordering;
use proptest::prelude::*;
use std::rc::Rc;
use usnet_shmring::descriptor::{RawDescriptor, RingName};
use usnet_shmring::model::ring::{self, Op};
use usnet_shmring::ring::{Consumer, Producer};
use usnet_shmring::words::{LoadCells, LoadWord, Memory, StoreCells, StoreWord};

const CASES: u32 = if cfg!(miri) { 2 } else { 2000 };
const OPS: usize = if cfg!(miri) { 40 } else { 200 };

/// First positions where something could go wrong: around zero, the wrap, and the sign.
fn positions(capacity: u32) -> impl Strategy<Value = u32> {
    let near = move |at: u32| {
        (0..=4 * capacity).prop_map(move |d| at.wrapping_add(d).wrapping_sub(2 * capacity))
    };
    prop_oneof![3 => near(0), 1 => near(1 << 31), 1 => any::<u32>()]
}

fn op(capacity: u32) -> impl Strategy<Value = Op> {
    let count = 0..=u16::try_from(2 * capacity).unwrap_or(u16::MAX);
    prop_oneof![
        4 => count.clone().prop_map(Op::PushBurst),
        1 => Just(Op::Push),
        3 => Just(Op::Publish),
        3 => Just(Op::ProducerRefresh),
        4 => count.prop_map(Op::PopBurst),
        1 => Just(Op::Pop),
        3 => Just(Op::Release),
        3 => Just(Op::ConsumerRefresh),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_ring_agrees_with_a_queue(
        (capacity, position, ops) in (0..if cfg!(miri) { 3 } else { 6u32 }).prop_map(|e| 2 << e).prop_flat_map(|capacity| {
            let ops = prop::collection::vec(op(capacity), 0..OPS);
            (Just(capacity), positions(capacity), ops)
        })
    ) {
        let (producer, consumer) = ring::halves(capacity, position);
        ring::run(producer, consumer, ops);
    }
}

#[test]
fn every_burst_size_passes_through_every_position_around_the_wrap() {
    let exponents = if cfg!(miri) { 0..1 } else { 0..4 };
    for capacity in exponents.map(|e| 2u32 << e) {
        for burst in 0..=u16::try_from(2 * capacity).unwrap() {
            for before in 0..=2 * capacity {
                let (producer, consumer) = ring::halves(capacity, 0u32.wrapping_sub(before));
                let round = [
                    Op::PushBurst(burst),
                    Op::Publish,
                    Op::ConsumerRefresh,
                    Op::PopBurst(burst),
                    Op::Release,
                    Op::ProducerRefresh,
                ];
                let rounds = 2 + 2 * capacity as usize / usize::from(burst.max(1));
                ring::run(producer, consumer, round.into_iter().cycle().take(6 * rounds));
            }
        }
    }
}

#[test]
fn an_exact_fit_fills_every_cell_and_not_one_more() {
    let exponents = if cfg!(miri) { 0..2 } else { 0..15 };
    for capacity in exponents.map(|e| 2u32 << e) {
        let count = u16::try_from(capacity).unwrap();
        for position in [0, 1, u32::MAX, 0u32.wrapping_sub(capacity)] {
            let (producer, consumer) = ring::halves(capacity, position);
            let (half, one) = (count / 2, 1);
            let ops = [
                Op::PushBurst(count),
                Op::Push,
                Op::PushBurst(one),
                Op::Publish,
                Op::Publish,
                Op::PushBurst(one),
                Op::ConsumerRefresh,
                Op::PopBurst(half),
                Op::Release,
                Op::Push,
                Op::ProducerRefresh,
                Op::PushBurst(count),
                Op::Push,
                Op::PopBurst(count),
                Op::Pop,
                Op::Publish,
                Op::ConsumerRefresh,
                Op::PopBurst(count),
                Op::Release,
                Op::Release,
            ];
            ring::run(producer, consumer, ops);
        }
    }
}

/// Memory that counts its loads.
#[derive(Clone, Debug, Default)]
struct Counted {
    value: Rc<Cell<u32>>,
    loads: Rc<Cell<u32>>,
    cells: Rc<[(Cell<u64>, Cell<u32>); 8]>,
}

impl LoadWord for Counted {
    fn load(&self, _: Ordering) -> u32 {
        self.loads.set(self.loads.get() + 1);
        self.value.get()
    }
}

impl StoreWord for Counted {
    fn store(&self, value: u32, _: Ordering) {
        self.value.set(value);
    }
}

impl LoadCells for Counted {
    fn capacity(&self) -> u32 {
        8
    }

    fn load(&self, position: u32) -> u64 {
        let (value, loads) = &self.cells[position as usize & 7];
        loads.set(loads.get() + 1);
        value.get()
    }
}

impl StoreCells for Counted {
    fn capacity(&self) -> u32 {
        8
    }

    fn store(&self, position: u32, value: u64) {
        self.cells[position as usize & 7].0.set(value);
    }
}

impl Memory for Counted {
    type OwnWord = Self;
    type PeerWord = Self;
    type OwnCells = Self;
    type PeerCells = Self;

    fn fence() {}
}

#[test]
fn a_burst_loads_each_cell_once_and_the_peers_position_only_in_refresh() {
    let (produced, consumed, cells) = (Counted::default(), Counted::default(), Counted::default());
    let at = u32::MAX - 3;
    let mut producer =
        Producer::<Counted>::new(RingName::Tx, cells.clone(), produced.clone(), consumed.clone())
            .starting_at(at);
    let mut consumer =
        Consumer::<Counted>::new(RingName::Tx, cells.clone(), produced.clone(), consumed.clone())
            .starting_at(at);
    let loads = || (produced.loads.get(), consumed.loads.get());

    let burst: Vec<_> = (0..8).map(|n| RawDescriptor::new(n, 0, 60)).collect();
    assert_eq!(producer.push_burst(&burst), 8);
    assert!(producer.push(burst[0]).is_err() && producer.publish());
    let mut into = [RawDescriptor::default(); 16];
    assert_eq!((consumer.pop_burst(&mut into), consumer.pop()), (0, None), "nobody looked yet");
    assert_eq!(loads(), (0, 0), "neither side may ask the peer but in refresh");

    assert_eq!(consumer.refresh(), Ok(8));
    assert_eq!(consumer.pop_burst(&mut into), 8);
    assert!(consumer.release());
    assert_eq!(loads(), (1, 0));
    assert!(cells.cells.iter().all(|(_, loads)| loads.get() == 1), "a cell was not read once");
    assert_eq!(producer.refresh(), Ok(8));
    assert_eq!(loads(), (1, 1));
}
