//! `switch/*`: the whole path on one processor, cache-hot: what its instructions cost.
//!
//! Throughput between processors, with real processes, is what `usnet-bench switch` measures.

#![allow(missing_docs, reason = "criterion's macros")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};
use usnet_bench::client::{Generator as Sender, Sink};
use usnet_bench::rig::{self, Rig, Sharing, Slots, check_conserved, rig, rig_over};
use usnet_bench::{bare, frames};
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::pool::Pool;
use usnet_shmring::region::Writer;
use usnet_switch::classify::Mac;
use usnet_switch::port::netmap::double::{Double, Generator, Medium, NicSpec};
use usnet_switch::port::netmap::{Bank, Netmap, NetmapSpec, PortName, Wish};
use usnet_switch::port::wire::{Wire, WireSpec};
use usnet_switch::port::{Burst, Port};
use usnet_switch::switch::{Behind, InterfaceSpec, Switch};
use usnet_switch::time::Time;

/// A burst from the generator through the switch to the sink, and its slots back.
fn path(c: &mut Criterion) {
    let mut group = c.benchmark_group("switch/path");
    group.throughput(Throughput::Elements(64));
    for sharing in [Sharing::Shared, Sharing::Isolated] {
        for size in [64, 1500] {
            let Rig { mut switch, handouts: [generator, sink] } = rig(sharing).expect("memory");
            let view = generator.map().expect("a mapping");
            let mut generator = Sender::new(view, rig::frame(0, size));
            let mut sink = Sink::new(sink.map().expect("a mapping"));
            group.bench_function(BenchmarkId::new(format!("{sharing}/size"), size), |b| {
                b.iter(|| {
                    generator.turn().expect("no fault");
                    switch.step(Time(1));
                    sink.turn().expect("no fault");
                });
            });
            check_conserved(&switch.snapshot()).expect("conserved");
            assert_eq!(sink.received > 0, generator.sent > 0, "frames arrived");
        }
    }
    group.finish();
}

/// From a port to a client and its slots back: over netmap's double, beside the wire in memory. Each
/// copies a frame once, as its medium; what the port makes of that is compared.
fn receive(c: &mut Criterion) {
    let mut group = c.benchmark_group("switch/receive");
    group.throughput(Throughput::Elements(64));
    for size in [64, 1500] {
        let frame = frames::udp(
            ([2, 0, 0, 0, 0, 9], rig::MAC),
            ([10, 0, 0, 9], rig::ADDRESS),
            (9, rig::PORTS[1]),
            size,
        );
        let mut feeder = None;
        let over_wire = rig_over(Sharing::Shared, |_| {
            let mut ends = Wire::ends(&WireSpec::default()).map_err(|e| e.to_string())?.into_iter();
            feeder = ends.next();
            Ok(Box::new(ends.next().ok_or("one end")?))
        });
        let mut feeder = Feeder::new(feeder.expect("an end"), &frame);
        let Rig { mut switch, handouts: [_, sink] } = over_wire.expect("memory");
        let mut sink = Sink::new(sink.map().expect("a mapping"));
        let mut now = Time(1);
        group.bench_function(BenchmarkId::new("wire/size", size), |b| {
            b.iter_custom(|count| {
                let mut taken = Duration::ZERO;
                for _ in 0..count {
                    feeder.feed(now);
                    now = Time(now.0 + 1_000_000);
                    let begin = Instant::now();
                    switch.step(now);
                    sink.turn().expect("no fault");
                    taken += begin.elapsed();
                }
                taken
            });
        });
        assert_eq!(sink.received, switch.snapshot().totals.received, "frames arrived");
        for swaps in [true, false] {
            let over_netmap = rig_over(Sharing::Shared, |slots| over_double(slots, &frame, swaps));
            let Rig { mut switch, handouts: [_, sink] } = over_netmap.expect("memory");
            let mut sink = Sink::new(sink.map().expect("a mapping"));
            let name = if swaps { "netmap_swap/size" } else { "netmap_copy/size" };
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter_custom(|count| {
                    let mut taken = Duration::ZERO;
                    for _ in 0..count {
                        let begin = Instant::now();
                        switch.step(Time(1));
                        sink.turn().expect("no fault");
                        taken += begin.elapsed();
                    }
                    taken
                });
            });
            let snapshot = switch.snapshot();
            check_conserved(&snapshot).expect("conserved");
            assert_eq!(snapshot.totals.dropped.total(), 0, "all arrived");
        }
    }
    group.finish();
}

/// From card to card of netmap's double, as a bump in the wire: every frame is classified or known to be a
/// stranger's. Beside it what `bridge` does with the same rings: exchange buffers, look at nothing.
fn forward(c: &mut Criterion) {
    let mut group = c.benchmark_group("switch/forward");
    group.throughput(Throughput::Elements(64));
    for (name, destination) in [("strangers", [2, 0, 0, 0, 0, 8]), ("own_mac", rig::MAC)] {
        let source = ([2, 0, 0, 0, 0, 9], destination);
        let frame = frames::udp(source, ([10, 0, 0, 9], rig::ADDRESS), (9, 9), 64);
        let mut switch = bump(&frame);
        group.bench_function(BenchmarkId::new("cut_through", name), |b| {
            b.iter(|| switch.step(Time(1)));
        });
        let totals = switch.snapshot().totals;
        assert_eq!((totals.from_clients, totals.dropped.total()), (0, 0), "all went through");
        assert!(totals.to_ports > 0);
    }
    group.finish();
}

/// From a client to a card of netmap's double, whose wire copies each frame once whatever it lies in: its rest
/// in the client's slot, or all in a slot of the daemon.
fn transmit(c: &mut Criterion) {
    let mut group = c.benchmark_group("switch/transmit");
    group.throughput(Throughput::Elements(64));
    for (size, splits) in
        [64, 512, 1000, 1500].into_iter().flat_map(|size| [(size, true), (size, false)])
    {
        let over_netmap = rig_over(Sharing::Shared, |slots| to_double(slots, splits));
        let Rig { mut switch, handouts: [sender, _] } = over_netmap.expect("memory");
        let frame = frames::udp(
            (rig::MAC, [2, 0, 0, 0, 0, 9]),
            (rig::ADDRESS, [10, 0, 0, 9]),
            (rig::PORTS[0], 9),
            size,
        );
        let mut sender = Sender::new(sender.map().expect("a mapping"), frame);
        let name = if splits { "netmap_split/size" } else { "netmap_copied/size" };
        group.bench_function(BenchmarkId::new(name, size), |b| {
            b.iter(|| {
                sender.turn().expect("no fault");
                switch.step(Time(1));
            });
        });
        let snapshot = switch.snapshot();
        check_conserved(&snapshot).expect("conserved");
        let split = snapshot.interfaces.first().map_or(0, |i| i.wire.counters.split);
        assert_eq!(split > 0, splits && size >= 512);
        assert_eq!(snapshot.totals.dropped.total(), 0, "all left");
    }
    group.finish();
}

/// A bump between a card that receives `frame` for ever and one that receives nothing.
fn bump(frame: &[u8]) -> Switch {
    let double = Double::new().expect("a double");
    let mut ports = [("eth0", frame), ("eth1", &[][..])].map(|(name, frame)| {
        let medium = Generator::new(frame).expect("descriptors");
        double.add_nic(NicSpec::new(name, Box::new(medium))).expect("a card");
        let spec = NetmapSpec { name: PortName::nic(name), mac: Mac(rig::MAC), mtu: 1500 };
        Some(Netmap::open(&double, &spec, None).expect("a port"))
    });
    let arena = Arena::reserve(4096, SlotSize::DEFAULT).expect("addresses");
    let segment = arena.add_segment("port", Writer::Daemon, 1024, false).expect("memory");
    let mut switch = Switch::new(Pool::new(SlotRange::whole(segment)).expect("a pool"), 1);
    let interface = InterfaceSpec {
        mac: Mac(rig::MAC),
        mtu: 1500,
        addresses: vec![rig::ADDRESS.into()],
        wire: Box::new(ports[0].take().expect("the first")),
        host: Some(Box::new(ports[1].take().expect("the second"))),
        behind: Behind::Network,
        cut_through: true,
        kernel_hears: Vec::new(),
        unmatched: usnet_switch::config::Unmatched::Drop,
    };
    switch.add_interface(interface).expect("an interface");
    switch
}

/// A card of netmap's double that sends everything at once.
fn to_double(slots: Slots<'_>, splits: bool) -> Result<Box<dyn Port>, String> {
    let text = |error: std::io::Error| error.to_string();
    let double = Double::new().map_err(text)?;
    double.add_nic(NicSpec::new("eth0", Box::new(Void))).map_err(text)?;
    let groups = [slots.group];
    let pools = core::slice::from_mut(slots.pool);
    let bank = Bank::with_groups(&double, &slots.objects, &groups, &slots.port, pools, 4 * 256)
        .map_err(text)?;
    let spec = NetmapSpec { name: PortName::nic("eth0"), mac: Mac(rig::MAC), mtu: 1500 };
    let wish = if splits { Wish::Split } else { Wish::Copy("to compare") };
    let port = Netmap::open_wishing(&double, &spec, Some(&bank), wish).map_err(text)?;
    assert_eq!(port.splits(), splits);
    Ok(Box::new(port))
}

/// A wire on which everything goes and nothing comes.
#[derive(Debug)]
struct Void;

impl Medium for Void {
    fn receive(&mut self, _: &mut [u8]) -> Option<usize> {
        None
    }

    fn send(&mut self, _: &[u8]) -> bool {
        true
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A card of netmap's double that receives `frame` for ever.
fn over_double(slots: Slots<'_>, frame: &[u8], swaps: bool) -> Result<Box<dyn Port>, String> {
    let text = |error: std::io::Error| error.to_string();
    let double = Double::new().map_err(text)?;
    let medium = Generator::new(frame).map_err(text)?;
    double.add_nic(NicSpec::new("eth0", Box::new(medium))).map_err(text)?;
    let bank = swaps
        .then(|| {
            Bank::open(
                &double,
                &slots.objects,
                &slots.port,
                core::slice::from_mut(slots.pool),
                4 * 256,
            )
        })
        .transpose()
        .map_err(text)?;
    let spec = NetmapSpec { name: PortName::nic("eth0"), mac: Mac(rig::MAC), mtu: 1500 };
    let port = Netmap::open(&double, &spec, bank.as_ref()).map_err(text)?;
    assert_eq!(port.swaps(), swaps);
    Ok(Box::new(port))
}

/// Puts a burst on a wire.
struct Feeder {
    end: Wire,
    pool: Pool,
    frame: Vec<u8>,
}

impl Feeder {
    fn new(end: Wire, frame: &[u8]) -> Self {
        let arena = Arena::reserve(1024, SlotSize::DEFAULT).expect("addresses");
        let segment = arena.add_segment("feeder", Writer::Daemon, 64, false).expect("memory");
        let pool = Pool::new(SlotRange::whole(segment)).expect("a pool");
        Self { end, pool, frame: frame.to_vec() }
    }

    fn feed(&mut self, now: Time) {
        let mut burst = Burst::new();
        for _ in 0..64 {
            let mut frame = self.pool.alloc().expect("a slot");
            assert!(self.pool.fill(&mut frame, &self.frame));
            burst.push(frame).expect("room");
        }
        self.end.transmit(now, &mut self.pool, &mut burst).expect("a wire");
        burst.clear(&mut self.pool);
    }
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

criterion_group!(benches, path, receive, forward, transmit, limit);
criterion_main!(benches);
