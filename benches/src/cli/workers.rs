//! `usnet-bench workers`

use usnet_bench::measure::{Contender, Plan, compare};
use usnet_bench::report::Row;
use usnet_bench::workers::run as workers;

const UNIT: &str = "M frames/s";

pub(crate) fn run(plan: Plan) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for size in [64, 1500] {
        let mut contenders: [Contender<'_>; 3] = [
            ("one worker", Box::new(move |time| workers(1, 1, size, time))),
            ("two workers", Box::new(move |time| workers(1, 2, size, time))),
            ("two daemons of one worker", Box::new(move |time| workers(2, 1, size, time))),
        ];
        let samples = compare(&mut contenders, UNIT, plan)?;
        let [one, two, apart] = samples.as_slice() else { continue };
        for (name, yardstick) in [("one worker", one), ("two daemons of one worker", apart)] {
            let what = format!("two workers of one daemon, {size} B");
            rows.push(Row::new(&what, two.median(), UNIT, name, yardstick.median()));
        }
    }
    Ok(rows)
}
