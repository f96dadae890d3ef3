//! A pool agrees with a map of slots under any sequence of calls, allowed or not: sums over states,
//! homes that close exactly once, numbers that are not used again too early.
//!
//! Under Miri: `cargo +nightly miri test -p usnet-shmring` runs these with fewer cases.

use proptest::prelude::*;
use usnet_shmring::model::ledger::{Model, Op};
use usnet_shmring::model::world::Backing;

/// 1,000 sequences of 1,000 operations: a million in all.
const CASES: u32 = if cfg!(miri) { 2 } else { 1000 };
const STEPS: usize = if cfg!(miri) { 60 } else { 1000 };

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pool_agrees_with_a_map_of_slots(
        ops in prop::collection::vec(any::<(u8, u8)>(), STEPS..=STEPS)
    ) {
        let mut model = Model::new(Backing::Heap);
        for (kind, which) in ops {
            model.step(Op::from_bytes(kind, which));
        }
        model.finish();
    }
}

fn run(ops: &[Op]) {
    let mut model = Model::new(Backing::Heap);
    ops.iter().for_each(|op| model.step(*op));
    model.finish();
}

/// Slot numbers as [`Op`] names them: four of the port home, then the homes of sessions as they
/// attach, whose ranges lie in turn in the daemon's and the clients' segment.
const FIRST_TRANSMIT: u8 = 8;

#[test]
fn a_slot_that_was_lent_to_another_session_closes_its_own_home_when_that_session_ends() {
    // Session 0's receive slot is with session 1 while 0, then 1 end.
    run(&[Op::Attach(0), Op::Attach(1), Op::AllocFrom(0), Op::Lend(0, 1), Op::End(0), Op::End(1)]);
}

#[test]
fn a_transmit_slot_passed_on_comes_home_whoever_ends_first() {
    let pass = [Op::Attach(0), Op::Attach(1), Op::Accept(0, FIRST_TRANSMIT), Op::Pass(0, 1)];
    for end in [[Op::End(0), Op::End(1)], [Op::End(1), Op::End(0)]] {
        run(&[&pass[..], &end].concat());
    }
    run(&[&pass[..], &[Op::End(0), Op::TakeBack(1, FIRST_TRANSMIT), Op::Attach(0)]].concat());
}

#[test]
fn a_frame_is_not_passed_to_the_session_that_sent_it() {
    run(&[Op::Attach(0), Op::Accept(0, FIRST_TRANSMIT), Op::Pass(0, 0), Op::Complete(0)]);
}
