//! `usnet-bench switch`

use usnet_bench::bare;
use usnet_bench::measure::{Contender, Plan, compare};
use usnet_bench::path::{Layout, run as path};
use usnet_bench::report::Row;
use usnet_bench::rig::Sharing;

const UNIT: &str = "M frames/s";

pub(crate) fn run(plan: Plan, layout: Layout) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for size in [64, 1500] {
        let mut contenders: [Contender<'_>; 3] = [
            ("shared", Box::new(move |time| path(Sharing::Shared, layout, size, time))),
            ("isolated", Box::new(move |time| path(Sharing::Isolated, layout, size, time))),
            ("bare path, no checks", Box::new(move |time| bare::run(size, time))),
        ];
        let samples = compare(&mut contenders, UNIT, plan)?;
        let [shared, isolated, bare] = samples.as_slice() else { continue };
        for (name, ours) in [("shared", shared), ("isolated", isolated)] {
            let name = format!("generator -> switch -> sink, {size} B, {name}");
            rows.push(Row::new(&name, ours.median(), UNIT, "bare path, no checks", bare.median()));
        }
    }
    Ok(rows)
}
