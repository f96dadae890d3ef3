//! `usnet-bench ring`

use std::time::Duration;
use usnet_bench::hop::{Limit, Receiver, Sender, run as hop};
use usnet_bench::measure::{Contender, Plan, compare};
use usnet_bench::report::Row;
use usnet_bench::{pingpong, rings};

const UNIT: &str = "M frames/s";

pub(crate) fn run(plan: Plan) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for size in [64, 1500] {
        let mut contenders: [Contender<'_>; 4] = [
            (
                "usnet ring",
                Box::new(move |time| {
                    rate(rings::usnet().map_err(|error| error.to_string())?, size, time)
                }),
            ),
            ("rtrb", Box::new(move |time| rate(rings::rtrb(), size, time))),
            ("crossbeam ArrayQueue", Box::new(move |time| rate(rings::array_queue(), size, time))),
            ("bare ring, no checks", Box::new(move |time| rate(rings::bare(), size, time))),
        ];
        let samples = compare(&mut contenders, UNIT, plan)?;
        let [ours, others @ ..] = samples.as_slice() else { continue };
        for ((yardstick, _), other) in contenders.iter().skip(1).zip(others) {
            let name = format!("ring hop, {size} B");
            rows.push(Row::new(&name, ours.median(), UNIT, yardstick, other.median()));
        }
    }
    let line = pingpong::run(plan.each).value_at_quantile(0.5);
    if let Some(ours) = rows.first() {
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of one round trip")]
        let line = line as f64;
        let burst = 1e3 / ours.value * usnet_bench::hop::BURST as f64;
        let yardstick = "cache line there and back";
        rows.push(Row::new("ring hop, burst of 32 x 64 B", burst, "ns", yardstick, line));
    }
    Ok(rows)
}

fn rate<S: Sender, R: Receiver>(
    (sender, receiver): (S, R),
    size: usize,
    time: Duration,
) -> Result<f64, String> {
    let moved = hop(sender, receiver, size, Limit::Time(time));
    Ok(moved.map_err(|error| format!("cannot map the payload: {error}"))?.rate())
}
