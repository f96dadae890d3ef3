//! `classify/*`: the classifier beside etherparse, over real frames and over the common one.

#![allow(missing_docs, reason = "criterion's macros")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use etherparse::SlicedPacket;
use std::hint::black_box;
use usnet_bench::frames;
use usnet_fuzz::corpus;
use usnet_switch::classify::{HEAD_LEN, classify, classify_head};

type Group<'a> = criterion::BenchmarkGroup<'a, criterion::measurement::WallTime>;

fn both(group: &mut Group<'_>, name: &str, frames: &[Vec<u8>]) {
    group.throughput(Throughput::Elements(frames.len() as u64));
    group.bench_function(BenchmarkId::new("usnet", name), |b| {
        b.iter(|| {
            frames.iter().map(|frame| u32::from(classify(black_box(frame)).is_ok())).sum::<u32>()
        });
    });
    group.bench_function(BenchmarkId::new("usnet_head", name), |b| {
        b.iter(|| {
            let ok = |frame: &Vec<u8>| {
                let head = frame.get(..HEAD_LEN).unwrap_or(frame);
                u32::from(classify_head(black_box(head), frame.len()).is_ok())
            };
            frames.iter().map(ok).sum::<u32>()
        });
    });
    group.bench_function(BenchmarkId::new("etherparse", name), |b| {
        b.iter(|| {
            let ok =
                |frame: &Vec<u8>| u32::from(SlicedPacket::from_ethernet(black_box(frame)).is_ok());
            frames.iter().map(ok).sum::<u32>()
        });
    });
}

/// One kind of frame at a time, and all frames of the corpus in turn.
fn kinds(c: &mut Criterion) {
    let mut group = c.benchmark_group("classify/frame/kind");
    let udp = |size| frames::udp(([2; 6], [4; 6]), ([10, 0, 0, 1], [10, 0, 0, 2]), (7, 9), size);
    both(&mut group, "udp4_64", &vec![udp(64); 64]);
    both(&mut group, "udp4_1500", &vec![udp(1500); 64]);
    let mixed: Vec<Vec<u8>> = corpus::ethernet().map(|frame| frame.bytes.to_vec()).collect();
    both(&mut group, "mixed", &mixed);
    group.finish();
}

criterion_group!(benches, kinds);
criterion_main!(benches);
