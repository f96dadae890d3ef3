//! How fast it is; no test, these print.

use crate::{Memory, spec, with_xdp};
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};
use usnet_shmring::pool::Pool;
use usnet_switch::net::Netlink;
use usnet_switch::net::sysctl::Setting;
use usnet_switch::port::af_packet::{AfPacket, AfPacketSpec, RingVersion};
use usnet_switch::port::af_xdp::AfXdpSpec;
use usnet_switch::port::{Burst, Port};
use usnet_switch::time::Time;

#[test]
#[ignore = "prints the rates of both kinds of sockets; decides nothing"]
fn measure_the_rate_beside_packet_sockets() {
    with_xdp(name!("measure_the_rate_beside_packet_sockets"), || {
        let mut net = Netlink::open().unwrap();
        net.add_veth("la", "lb", None).unwrap();
        for name in ["la", "lb"] {
            Setting::Ipv6Disable.change(name, 1).unwrap().keep();
            net.set_up(name).unwrap();
        }
        let packet = |name: &str| AfPacketSpec {
            name: name.into(),
            index: spec(name).index,
            mac: spec(name).mac,
            mtu: 1500,
            ring: RingVersion::V2,
            frames: 1024,
            promiscuous: false,
            bypass_qdisc: true,
        };
        let quiet = AfXdpSpec { passing: Vec::new(), unfinished: false, ..spec("lb") };
        for length in [60, 1514] {
            for sender in ["af_packet", "af_xdp"] {
                for _ in 0..3 {
                    let [mut packets, mut xdp] = [0.0; 2];
                    for (is_xdp, rate) in [(false, &mut packets), (true, &mut xdp)] {
                        let mut memory = Memory::new();
                        let mut b: Box<dyn Port> = match is_xdp {
                            false => Box::new(AfPacket::open(&packet("lb")).unwrap()),
                            true => {
                                let spec = AfXdpSpec { frames: 1024, ..quiet.clone() };
                                Box::new(memory.open(&spec).unwrap())
                            }
                        };
                        let mut a: Box<dyn Port> = match sender {
                            "af_packet" => Box::new(AfPacket::open(&packet("la")).unwrap()),
                            _ => {
                                let spec = AfXdpSpec { frames: 1024, ..spec("la") };
                                Box::new(memory.open(&spec).unwrap())
                            }
                        };
                        *rate = one_way(&mut *a, &mut *b, &mut memory.pool, length);
                        a.close(&mut memory.pool);
                        b.close(&mut memory.pool);
                    }
                    let ratio = xdp / packets;
                    eprintln!(
                        "{length} bytes, sent by {sender}: received by af_packet {packets:.0}/s, \
                         af_xdp {xdp:.0}/s, ratio {ratio:.2}"
                    );
                }
            }
        }
    });
}

/// Frames a second of processor time of a thread that sends and receives by turns.
fn one_way(a: &mut dyn Port, b: &mut dyn Port, pool: &mut Pool, length: usize) -> f64 {
    let mut bytes = vec![0xff; length];
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    let (begin, before) = (Instant::now(), clock_gettime(ClockId::ThreadCPUTime));
    let now = || Time(u64::try_from(begin.elapsed().as_nanos()).unwrap());
    let (mut out, mut into) = (Burst::new(), Burst::new());
    let mut received = 0_u32;
    while begin.elapsed() < Duration::from_secs(1) {
        while out.room() > 0 {
            let mut frame = pool.alloc().unwrap();
            assert!(pool.fill(&mut frame, &bytes));
            out.push(frame).unwrap();
        }
        a.transmit(now(), pool, &mut out).unwrap();
        received += u32::try_from(b.receive(now(), pool, &mut into).unwrap()).unwrap();
        into.clear(pool);
    }
    out.clear(pool);
    let used = clock_gettime(ClockId::ThreadCPUTime);
    let used = (used.tv_sec - before.tv_sec) * 1_000_000_000 + used.tv_nsec - before.tv_nsec;
    f64::from(received) * 1e9 / f64::from(u32::try_from(used).unwrap())
}
