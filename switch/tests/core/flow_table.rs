//! The table of exact flows under floods of flows that nobody has chosen, and that somebody has chosen with care.

use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use usnet_shmring::ledger::SessionId;
use usnet_switch::classify::{Address, Flow, Protocol};
use usnet_switch::steer::{ExactTable, Refusal};
use usnet_switch::time::Time;
use usnet_switch::verdict::Receiver;

const CAPACITY: usize = 16_384;
const OWNER: Receiver = Receiver::Client(SessionId(1));
/// A debug build sees a tenth of them; `cargo test --release` all.
const FLOWS: u32 = if cfg!(debug_assertions) { 1_000_000 } else { 10_000_000 };

fn flow(source: u32, port: u16) -> Flow {
    Flow {
        source: Address::v4(source.to_be_bytes()),
        destination: Address::v4([10, 0, 0, 1]),
        protocol: Protocol::UDP,
        source_port: port,
        destination_port: 7,
        ports_known: true,
    }
}

/// Fills a table with flows that nobody has used for long enough to be given up. Returns how many got in.
fn fill(seed: u64, flows: impl Iterator<Item = Flow>) -> (ExactTable, usize) {
    let mut table = ExactTable::new(CAPACITY, seed);
    let capacity = table.capacity();
    let mut entered = 0;
    for flow in flows {
        match table.insert(flow, OWNER, true, Time(1)) {
            Ok(gave_up) => {
                assert_eq!(gave_up, None, "all are in use");
                entered += 1;
            }
            Err(refusal) => assert_eq!(refusal, Refusal::Full),
        }
        assert!(table.len() <= capacity);
    }
    assert_eq!(table.len(), entered);
    (table, entered)
}

/// A pseudo-random sequence that visits each number once (a full-period generator).
fn scattered() -> impl Iterator<Item = u32> {
    core::iter::successors(Some(1_u32), |x| {
        Some(x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223))
    })
}

#[test]
fn a_flood_of_flows_fills_the_table_and_takes_no_more() {
    let flows = scattered().take(FLOWS as usize).map(|n| flow(n, 9));
    let (mut table, entered) = fill(7, flows);
    assert_eq!(entered, table.capacity(), "so many flows find every place");
    // What is in is found, and what is not is not.
    let found =
        scattered().take(FLOWS as usize).filter(|n| table.get(&flow(*n, 9), Time(1)).is_some());
    assert_eq!(found.count(), entered);
}

/// rustc's hash function, which many tables use without a seed (FxHash: rotate, xor, multiply).
#[derive(Default)]
struct Fx(u64);

impl Hasher for Fx {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let word = u64::from_le_bytes(word);
            self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }
}

/// The bucket of such a table.
fn unseeded_bucket(flow: &Flow) -> u64 {
    let mut hasher = BuildHasherDefault::<Fx>::default().build_hasher();
    hasher.write(&flow.source.0);
    hasher.write(&flow.destination.0);
    hasher.write_u16(flow.source_port);
    hasher.finish() % (CAPACITY as u64 / 4)
}

#[test]
fn flows_chosen_to_collide_under_an_unseeded_hash_are_spread_like_any_others() {
    // Half as many flows as there are places.
    let half = CAPACITY / 2;
    let chosen = || {
        let all = (1..=u16::MAX)
            .flat_map(|port| (0..).take(512).map(move |n| flow(0xc000_0200 + n, port)));
        all.filter(|flow| unseeded_bucket(flow) == 1).take(half)
    };
    let count = chosen().count();
    assert!(count > 4000, "there are {count} such flows, and they would be in one bucket of four");
    for seed in [1, 2, 0xdead_beef] {
        let (_, chosen) = fill(seed, chosen());
        let (_, any) = fill(seed, scattered().map(|n| flow(n, 9)).take(count));
        let refused = (count - chosen) as f64 / count as f64;
        let usual = (count - any) as f64 / count as f64;
        assert!(
            refused <= usual + 0.01,
            "{refused} of the chosen flows refused, {usual} of others"
        );
    }
}
