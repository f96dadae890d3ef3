//! How fast it is; no test, these print.

use crate::isolated::{skip, two_hosts};
use crate::{Memory, payload, receive_until, spec, with_xdp};
use rustix::time::{ClockId, clock_gettime};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use usnet_shmring::pool::Pool;
use usnet_switch::net::Netlink;
use usnet_switch::net::namespace::Namespace;
use usnet_switch::net::sysctl::Setting;
use usnet_switch::port::af_packet::{AfPacket, AfPacketSpec, RingVersion};
use usnet_switch::port::af_xdp::{AfXdp, AfXdpSpec};
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

/// Receives by busy polling for so long after the first frame. Frames a second.
fn receiving(port: &mut AfXdp, pool: &mut Pool, time: Duration) -> f64 {
    let begin = Instant::now();
    let now = || Time(u64::try_from(begin.elapsed().as_nanos()).unwrap());
    let mut into = Burst::new();
    let (mut count, mut first) = (0_u64, None);
    while first.is_none_or(|first: Instant| first.elapsed() < time) {
        assert!(first.is_some() || begin.elapsed() < Duration::from_secs(20), "nobody sends");
        let received = port.receive(now(), pool, &mut into).unwrap();
        if received > 0 {
            first = first.or_else(|| Some(Instant::now()));
            count += received as u64;
            into.clear(pool);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let count = count as f64;
    count / first.map_or(1.0, |first| first.elapsed().as_secs_f64())
}

/// DPDK's test program over the XDP sockets of an interface, on one processor.
fn testpmd(cpu: u32, interface: &str, rest: &[&str]) -> std::io::Result<Child> {
    let prefix = format!("{interface}{}", std::process::id());
    Command::new("dpdk-testpmd")
        .args(["--lcores", &format!("0@{cpu},1@{cpu}"), "--no-huge", "-m", "512", "--no-pci"])
        .args(["--no-telemetry", "--file-prefix", &prefix])
        .args(["--vdev", &format!("net_af_xdp0,iface={interface}"), "--"])
        .args(["--stats-period", "1", "--total-num-mbufs=16384", "--auto-start"])
        .args(rest)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

/// Ends it; the rates that it printed.
fn end(mut program: Child) -> Vec<f64> {
    // While it prints rates it does not look at its input.
    let pid = rustix::process::Pid::from_child(&program);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    drop(program.stdin.take());
    let output = program.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rates = text.lines().filter_map(|line| line.trim().strip_prefix("Rx-pps:"));
    let rates = rates.filter_map(|rest| rest.split_whitespace().next()?.parse().ok());
    rates.filter(|rate| *rate > 1000.0).collect()
}

/// One veth, testpmd at the other end sends 64 bytes as fast as it can; who receives more?
#[test]
#[ignore = "prints the rates of this port and of DPDK's; decides nothing"]
fn measure_the_rate_beside_dpdk() {
    let name = name!("measure_the_rate_beside_dpdk");
    with_xdp(name, || {
        let peer = Namespace::create().unwrap();
        let mut net = Netlink::open().unwrap();
        net.add_veth("va", "vb", Some(peer.as_fd())).unwrap();
        Setting::Ipv6Disable.change("va", 1).unwrap().keep();
        net.set_up("va").unwrap();
        let up = || {
            Setting::Ipv6Disable.change("vb", 1).unwrap().keep();
            Netlink::open().unwrap().set_up("vb").unwrap();
        };
        peer.run(up).unwrap();
        let mac = net.link("va").unwrap().mac;
        let to = format!("--eth-peer=0,{mac}");
        let send = || peer.run(|| testpmd(1, "vb", &["--forward-mode=txonly", &to])).unwrap();
        let time = Duration::from_secs(5);
        let mut cpu = rustix::thread::CpuSet::new();
        cpu.set(0);
        rustix::thread::sched_setaffinity(None, &cpu).unwrap();
        for round in 0..4 {
            let ours = || {
                let mut memory = Memory::new();
                let spec = AfXdpSpec { frames: 2048, passing: Vec::new(), ..spec("va") };
                let mut port = memory.open(&spec).unwrap();
                let sender = send().unwrap();
                let rate = receiving(&mut port, &mut memory.pool, time);
                let missed = port.counters().missed;
                end(sender);
                port.close(&mut memory.pool);
                (rate, missed)
            };
            let theirs = || {
                let receiver = testpmd(0, "va", &["--forward-mode=rxonly"])?;
                std::thread::sleep(Duration::from_secs(2));
                let sender = send()?;
                std::thread::sleep(time + Duration::from_secs(2));
                end(sender);
                std::io::Result::Ok(end(receiver))
            };
            let (first, theirs, second) = (ours(), theirs(), ours());
            let theirs = match theirs {
                Ok(rates) => rates,
                Err(error) => return skip(name, &format!("dpdk-testpmd: {error}")),
            };
            // The first and the last second are not whole.
            let whole = theirs.get(1..theirs.len().saturating_sub(1)).unwrap_or_default();
            let theirs = whole.iter().sum::<f64>() / f64::from(u32::try_from(whole.len()).unwrap());
            let ours = (first.0 + second.0) / 2.0;
            eprintln!(
                "round {round}: testpmd {theirs:.0}/s, this port {:.0}/s and {:.0}/s (missed {} and {}), \
                 ratio {:.2}",
                first.0,
                second.0,
                first.1,
                second.1,
                ours / theirs
            );
        }
    });
}

/// Opens and closes often, and sees a frame each time.
#[test]
#[ignore = "prints how long the first frame takes after an opening"]
fn measure_how_soon_an_opened_port_receives() {
    with_xdp(name!("measure_how_soon_an_opened_port_receives"), || {
        let peer = two_hosts();
        let there = peer.run(|| UdpSocket::bind("10.9.0.2:0").unwrap()).unwrap();
        for is_busy in [false, true] {
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                // Somebody who sends all the time, also while a program comes and goes.
                scope.spawn(|| {
                    while is_busy && !stop.load(Ordering::Relaxed) {
                        let _ = there.send_to(b"flood", "10.9.0.1:7000");
                    }
                });
                let (mut lost, mut never, mut worst) = (0, 0, Duration::ZERO);
                for round in 0..300 {
                    let mut memory = Memory::new();
                    let generic = round % 4 == 3;
                    let mut port = memory.open(&AfXdpSpec { generic, ..spec("sv0") }).unwrap();
                    let begin = Instant::now();
                    let mut found = false;
                    for _ in 0..10 {
                        there.send_to(b"first", "10.9.0.1:7000").unwrap();
                        let look = Instant::now();
                        let got = receive_until(&mut port, &mut memory.pool, |got| {
                            got.iter().any(|frame| payload(frame).is_some())
                                || look.elapsed() > Duration::from_millis(200)
                        });
                        found = got.iter().any(|frame| payload(frame).is_some());
                        if found {
                            break;
                        }
                        lost += 1;
                    }
                    worst = worst.max(begin.elapsed());
                    never += u32::from(!found);
                    port.close(&mut memory.pool);
                }
                stop.store(true, Ordering::Relaxed);
                eprintln!(
                    "300 openings, flooded: {is_busy}: {lost} times nothing in 200 ms, {never} never \
                     received, the slowest took {worst:?}"
                );
            });
        }
    });
}
