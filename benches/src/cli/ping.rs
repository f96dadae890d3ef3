//! `usnet-bench ping`

use usnet_bench::measure::{Contender, Plan, compare};
use usnet_bench::ping::median;
use usnet_bench::report::Row;

const ALONE: &str = "ping, kernel alone";

const PORTS: [(&str, &str); 4] = [
    ("ping, af_packet", "port = \"af_packet\""),
    ("ping, af_xdp that takes all", "port = \"af_xdp\"\ntake = \"all\""),
    ("ping, af_xdp that takes what is claimed", "port = \"af_xdp\"\ntake = \"claimed\""),
    ("ping, macvtap", "port = \"macvtap\""),
];

pub(crate) fn run(plan: Plan) -> Result<Vec<Row>, String> {
    let mut contenders: Vec<Contender<'_>> = vec![(ALONE, Box::new(|time| median(None, time)))];
    for (name, port) in PORTS {
        contenders.push((name, Box::new(move |time| median(Some(port), time))));
    }
    let samples = compare(&mut contenders, "us", plan)?;
    let median = |at: usize| samples.get(at).map_or(f64::NAN, |s| s.median());
    let row = |(at, (name, _)): (usize, &(&str, &str))| {
        Row::new(name, median(at + 1), "us", ALONE, median(0))
    };
    Ok(PORTS.iter().enumerate().map(row).collect())
}
