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

/// Three sessions that hold one slot of the port home.
const SHARED: [Op; 5] =
    [Op::Attach(0), Op::Attach(1), Op::Attach(2), Op::Alloc, Op::Share(0, 0b111)];

#[test]
fn a_slot_that_several_hold_is_free_when_the_last_has_given_it_back_or_ended() {
    let back = |session| {
        let each = (0..4).map(move |slot| Op::TakeBack(session, slot));
        each.collect::<Vec<_>>()
    };
    let all = [[0, 1, 2], [2, 0, 1], [1, 2, 0]];
    let (orders, ways) = if cfg!(miri) { (&all[..1], 2) } else { (&all[..], 8) };
    for &order in orders {
        // After each of them: gives it back, gives it back twice, ends.
        for kinds in 0..ways {
            let mut ops = SHARED.to_vec();
            for (turn, session) in order.into_iter().enumerate() {
                if kinds >> turn & 1_u8 == 1 {
                    ops.push(Op::End(session));
                } else {
                    ops.extend(back(session));
                    ops.extend(back(session));
                    // One that never got it.
                    ops.extend([Op::Attach(3)].into_iter().chain(back(3)));
                }
            }
            ops.extend([Op::Alloc, Op::Alloc, Op::Alloc, Op::Alloc]);
            run(&ops);
        }
    }
}

#[test]
fn a_session_whose_number_is_used_again_does_not_hold_what_the_one_before_has_held() {
    let mut ops = SHARED.to_vec();
    ops.extend([Op::End(1), Op::Attach(1)]);
    ops.extend((0..4).map(|slot| Op::TakeBack(1, slot)));
    ops.extend([Op::End(0), Op::End(1), Op::End(2)]);
    run(&ops);
}

#[test]
fn what_cannot_be_lent_to_several_stays_with_the_daemon() {
    let mut ops = SHARED.to_vec();
    // To one, to nobody; a slot of a receive home; more slots than there are places.
    ops.extend([Op::Alloc, Op::Share(0, 0b001), Op::Share(0, 0), Op::Free(0)]);
    ops.extend([Op::AllocFrom(0), Op::Share(0, 0b011), Op::Free(0)]);
    ops.extend([Op::Alloc, Op::Share(0, 0b011), Op::Alloc, Op::Share(0, 0b011)]);
    run(&ops);
}
