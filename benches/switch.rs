//! `switch/*`: the whole path on one processor, cache-hot: what its instructions cost.
//!
//! Throughput between processors, with real processes, is what `usnet-bench switch` measures.

#![allow(missing_docs, reason = "criterion's macros")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use usnet_bench::bare;
use usnet_bench::client::{Generator, Sink};
use usnet_bench::rig::{self, Rig, Sharing, check_conserved, rig};
use usnet_switch::time::Time;

/// A burst from the generator through the switch to the sink, and its slots back.
fn path(c: &mut Criterion) {
    let mut group = c.benchmark_group("switch/path");
    group.throughput(Throughput::Elements(64));
    for sharing in [Sharing::Shared, Sharing::Isolated] {
        for size in [64, 1500] {
            let Rig { mut switch, handouts: [generator, sink] } = rig(sharing).expect("memory");
            let view = generator.map().expect("a mapping");
            let mut generator = Generator::new(view, rig::frame(0, size));
            let mut sink = Sink::new(sink.map().expect("a mapping"));
            group.bench_function(BenchmarkId::new(format!("{sharing}/size"), size), |b| {
                b.iter(|| {
                    generator.turn().expect("no fault");
                    switch.step(Time(1));
                    sink.turn().expect("no fault");
                });
            });
            check_conserved(&switch.snapshot()).expect("conserved");
            assert!(sink.received > 0, "frames arrived");
        }
    }
    group.finish();
}

/// The yardstick between two processors.
fn limit(c: &mut Criterion) {
    let mut group = c.benchmark_group("switch/limit");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    for size in [64, 1500] {
        group.bench_function(BenchmarkId::new("bare/size", size), |b| {
            b.iter_custom(|count| {
                let rate = bare::run(size, Duration::from_millis(5)).expect("memory");
                Duration::from_secs_f64(count as f64 / rate / 1e6)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, path, limit);
criterion_main!(benches);
