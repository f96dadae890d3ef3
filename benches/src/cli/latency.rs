//! `usnet-bench latency`

use std::cell::RefCell;
use usnet_bench::measure::{Contender, Plan, compare};
use usnet_bench::path::{latency, percentiles};
use usnet_bench::report::Row;
use usnet_bench::rig::Sharing;
use usnet_bench::{datagrams, pingpong};

const NAMES: [&str; 5] = ["p50", "p90", "p99", "p99.9", "max"];

pub(crate) fn run(plan: Plan) -> Result<Vec<Row>, String> {
    // Every percentile of every round; `compare` sees the medians.
    let all = RefCell::new([const { Vec::<[f64; 5]>::new() }; 4]);
    let keep = |contender: usize, values: [f64; 5]| {
        if let Some(rounds) = all.borrow_mut().get_mut(contender) {
            rounds.push(values);
        }
        let [median, ..] = values;
        Ok(median)
    };
    let mut contenders: [Contender<'_>; 4] = [
        ("shared", Box::new(|time| keep(0, latency(Sharing::Shared, time)?))),
        ("isolated", Box::new(|time| keep(1, latency(Sharing::Isolated, time)?))),
        ("cache line", Box::new(|time| keep(2, percentiles(&pingpong::run(time))))),
        ("UNIX datagrams", Box::new(|time| keep(3, percentiles(&datagrams::run(time)?)))),
    ];
    compare(&mut contenders, "ns (p50)", plan)?;
    drop(contenders);
    let [shared, isolated, line, datagrams] = all.into_inner().map(|rounds| middle(&rounds));
    let mut rows = Vec::new();
    for (sharing, ours) in [("shared", shared), ("isolated", isolated)] {
        let yards = [("cache line there and back", line), ("UNIX datagrams", datagrams)];
        for (yardstick, theirs) in yards {
            for ((name, ours), theirs) in NAMES.iter().zip(ours).zip(theirs) {
                let name = format!("round trip of 64 B, {sharing}, {name}");
                rows.push(Row::new(&name, ours, "ns", yardstick, theirs));
            }
        }
    }
    Ok(rows)
}

/// The median of the rounds, percentile by percentile.
fn middle(rounds: &[[f64; 5]]) -> [f64; 5] {
    core::array::from_fn(|percentile| {
        let mut values: Vec<f64> =
            rounds.iter().filter_map(|round| round.get(percentile).copied()).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    })
}
