#![allow(missing_docs, clippy::all)]
use std::hint::black_box;
use std::time::Instant;
use usnet_switch::classify::*;
fn corpus() -> Vec<(Vec<u8>, usize)> {
    let b = std::fs::read("/work/shared/data/tcpdump-ethernet.pcap").unwrap();
    let mut v = vec![]; let mut i = 24;
    while i + 16 <= b.len() {
        let c = u32::from_le_bytes(b[i+8..i+12].try_into().unwrap()) as usize;
        let w = u32::from_le_bytes(b[i+12..i+16].try_into().unwrap()) as usize;
        v.push((b[i+16..i+16+c].to_vec(), w)); i += 16 + c;
    }
    v
}
fn time(name: &str, frames: &[Vec<u8>], rounds: usize) {
    let mut best = f64::MAX;
    for _ in 0..7 {
        let t = Instant::now();
        for _ in 0..rounds { for f in frames { let _ = black_box(classify(black_box(f))); } }
        best = best.min(t.elapsed().as_nanos() as f64 / (rounds * frames.len()) as f64);
    }
    println!("{name}: {best:.1} ns/frame over {} frames", frames.len());
}
#[test]
fn speed() {
    let c = corpus();
    println!("size {}", size_of::<Result<Classified, Malformed>>());
    let mut m = std::collections::BTreeMap::new();
    for (f, _) in &c {
        let k = match classify(f) { Err(e) => format!("{e:?}"), Ok(c) => match c.payload { Payload::Ip(p) => format!("{:?} {:?} {}", p.flow.protocol, p.kind, c.vlan.is_some()).split('{').next().unwrap().into(), p => format!("{p:?}").split('{').next().unwrap().to_string() } };
        *m.entry(k).or_insert(0) += 1;
    }
    for (k, v) in m { println!("{v:6} {k}"); }
    let all: Vec<_> = c.iter().map(|x| x.0.clone()).collect();
    time("corpus", &all, 100);
    let sel = |p: &dyn Fn(&Classified) -> bool| -> Vec<Vec<u8>> { all.iter().filter(|f| classify(f).is_ok_and(|c| p(&c))).cloned().collect() };
    let plain = sel(&|c| matches!(c.payload, Payload::Ip(p) if p.network_offset == 14 && p.transport_offset == 34 && p.fragment == Fragment::Whole && (p.flow.protocol == Protocol::TCP || p.flow.protocol == Protocol::UDP)));
    time("v4 tcp/udp", &plain, 100);
    let one: Vec<_> = plain.iter().filter(|f| f[23] == 6).take(1).cloned().collect();
    time("one tcp", &one, 1_000_000);
    let one: Vec<_> = plain.iter().filter(|f| f[23] == 17).take(1).cloned().collect();
    time("one udp", &one, 1_000_000);
    let v6 = sel(&|c| matches!(c.payload, Payload::Ip(p) if p.network_offset == 14 && p.transport_offset == 54 && (p.flow.protocol == Protocol::TCP || p.flow.protocol == Protocol::UDP)));
    time("v6 tcp/udp", &v6, 100);
    let t = sel(&|c| c.vlan.is_some());
    time("vlan", &t, 100);
    let t = sel(&|c| matches!(c.payload, Payload::Ip(IpPacket { kind: IpKind::Icmp(_), ..})));
    time("icmp", &t, 100);
    let t = sel(&|c| matches!(c.payload, Payload::Arp(_)));
    time("arp", &t, 100);
    let t: Vec<_> = all.iter().filter(|f| classify(f).is_err()).cloned().collect();
    time("malformed", &t, 100);
}
