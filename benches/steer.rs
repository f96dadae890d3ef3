//! `steer/*`: who receives a flow, by number of flows and kind of rule.

#![allow(missing_docs, reason = "criterion's macros")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::collections::HashMap;
use std::hint::black_box;
use usnet_shmring::ledger::SessionId;
use usnet_switch::classify::{Address, Flow, Protocol};
use usnet_switch::steer::Table;
use usnet_switch::time::Time;
use usnet_switch::verdict::Receiver;

const LOCAL: Address = Address::v4([10, 0, 0, 1]);
const LOOKUPS: usize = 1024;

fn flow(number: u32) -> Flow {
    let [_, a, b, c] = number.to_be_bytes();
    Flow {
        source: Address::v4([11, a, b, c]),
        destination: LOCAL,
        protocol: Protocol::UDP,
        source_port: 9,
        destination_port: 7,
        ports_known: true,
    }
}

fn client(number: u32) -> Receiver {
    Receiver::Client(SessionId((number % 64) as u16))
}

/// Numbers below `count` in an order that caches do not like.
fn scattered(count: u32) -> Vec<Flow> {
    let mut state = 1u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        flow(((state >> 33) as u32) % count)
    })
    .take(LOOKUPS)
    .collect()
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("steer/lookup");
    group.throughput(Throughput::Elements(LOOKUPS as u64));

    let mut table = Table::new(None, 1);
    table.add_address(LOCAL, None);
    table.set_listener(LOCAL, Protocol::UDP, 7, 1, Some(client(3)));
    let flows = scattered(1_000_000);
    group.bench_function("listener/ports/1", |b| {
        b.iter(|| {
            let hits = flows.iter().filter(|f| table.lookup(black_box(f), Time(1)).is_some());
            hits.count()
        });
    });

    for count in [1u32, 100, 10_000] {
        let mut table = Table::new(None, 1);
        table.add_address(LOCAL, None);
        // The yardstick: the standard library's map, which a remote peer cannot flood either.
        let mut map = HashMap::new();
        for number in 0..count {
            let _ = table.add_exact(flow(number), client(number), Time(0));
            map.insert(flow(number), client(number));
        }
        let flows = scattered(count);
        group.bench_function(BenchmarkId::new("exact/flows", count), |b| {
            b.iter(|| {
                let hits = flows.iter().filter(|f| table.lookup(black_box(f), Time(1)).is_some());
                hits.count()
            });
        });
        group.bench_function(BenchmarkId::new("hash_map/flows", count), |b| {
            b.iter(|| flows.iter().filter(|f| map.contains_key(black_box(*f))).count());
        });
    }
    group.finish();
}

criterion_group!(benches, lookup);
criterion_main!(benches);
