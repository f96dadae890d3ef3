//! `ring/*`: push and pop on one processor, a hop between two, and the limits of both.

#![allow(missing_docs, reason = "criterion's macros")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use usnet_bench::hop::{BURST, Limit, Receiver, Sender, run};
use usnet_bench::{pingpong, rings};

/// A burst in and out again, cache-hot: what the instructions cost.
fn push_pop(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring/push_pop");
    group.throughput(Throughput::Elements(BURST as u64));
    fn bench(
        group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
        name: &str,
        (mut sender, mut receiver): (impl Sender, impl Receiver),
    ) {
        let burst = core::array::from_fn(|index| index as u64);
        let mut taken = [0; BURST];
        group.bench_function(BenchmarkId::new(name, BURST), |b| {
            b.iter(|| {
                if sender.has_room() {
                    sender.send(black_box(&burst));
                }
                let count = receiver.receive(&mut taken);
                receiver.release();
                black_box(&taken);
                count
            });
        });
    }
    bench(&mut group, "usnet", rings::usnet().expect("two memfds"));
    bench(&mut group, "rtrb", rings::rtrb());
    bench(&mut group, "array_queue", rings::array_queue());
    bench(&mut group, "bare", rings::bare());
    group.finish();
}

/// Bursts from one processor to another, payload written and read.
fn hop(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring/hop");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    fn bench<S: Sender, R: Receiver>(
        group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
        name: &str,
        ring: impl Fn() -> (S, R),
    ) {
        for size in [64, 1500] {
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter_custom(|count| {
                    let (sender, receiver) = ring();
                    let moved = run(sender, receiver, size, Limit::Frames(count)).expect("memory");
                    // At least `count` frames were moved; their share of the time is asked for.
                    moved.time.mul_f64(count as f64 / moved.frames as f64)
                });
            });
        }
    }
    bench(&mut group, "usnet", || rings::usnet().expect("two memfds"));
    bench(&mut group, "rtrb", rings::rtrb);
    bench(&mut group, "array_queue", rings::array_queue);
    bench(&mut group, "bare", rings::bare);
    group.finish();
}

/// What no ring can beat: a cache line there and back, and a plain copy.
fn limit(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring/limit");
    group.sample_size(10).bench_function("ping_pong/line/64", |b| {
        b.iter_custom(|count| {
            let round_trips = pingpong::run(Duration::from_millis(5));
            Duration::from_nanos(round_trips.value_at_quantile(0.5)).mul_f64(count as f64)
        });
    });
    for size in [64usize, 1500] {
        let (from, mut to) = (vec![1u8; size], vec![0u8; size]);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("memcpy/bytes", size), |b| {
            b.iter(|| {
                to.copy_from_slice(black_box(&from));
                black_box(&mut to);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, push_pop, hop, limit);
criterion_main!(benches);
