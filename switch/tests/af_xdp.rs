//! XDP sockets against real kernel stacks at the other end of a veth.

mod isolated;

use isolated::{isolated, skip, two_hosts};
use rustix::time::{ClockId, clock_gettime};
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};
use usnet_shmring::arena::{Arena, Segment, SlotRange, SlotSize};
use usnet_shmring::ledger::SessionId;
use usnet_shmring::pool::{HomeKind, Pool};
use usnet_shmring::region::Writer;
use usnet_switch::classify::{Mac, Protocol};
use usnet_switch::net::guard::Pass;
use usnet_switch::net::namespace::Namespace;
use usnet_switch::net::sysctl::Setting;
use usnet_switch::net::{Channels, Netlink};
use usnet_switch::port::af_packet::{AfPacket, AfPacketSpec, RingVersion};
use usnet_switch::port::af_xdp::{AfXdp, AfXdpSpec};
use usnet_switch::port::{Burst, Port};
use usnet_switch::steer::Table;
use usnet_switch::time::Time;
use usnet_switch::verdict::Receiver;

/// Slots of a test's pool.
const SLOTS: u32 = 4096;

/// A pool, and its port segment.
struct Memory {
    arena: Arc<Arena>,
    segment: Arc<Segment>,
    pool: Pool,
}

impl Memory {
    fn new() -> Self {
        let arena = Arena::reserve(4 * SLOTS, SlotSize::DEFAULT).unwrap();
        // So that the port segment is not at the beginning.
        let before = arena.add_segment("before", Writer::Daemon, 1024, false).unwrap();
        let range = arena.add_segment("test", Writer::Daemon, SLOTS, false).map(SlotRange::whole);
        let range = range.unwrap();
        drop(before);
        let segment = Arc::clone(range.segment());
        Self { arena, segment, pool: Pool::new(range).unwrap() }
    }

    fn open(&mut self, spec: &AfXdpSpec) -> std::io::Result<AfXdp> {
        let mut port = AfXdp::open(spec, &self.segment)?;
        // The first look gives the kernel its slots.
        let mut burst = Burst::new();
        port.receive(Time(0), &mut self.pool, &mut burst)?;
        burst.clear(&mut self.pool);
        Ok(port)
    }

    fn assert_all_free(&self) {
        let (audit, slots) = self.pool.audit();
        assert_eq!((audit.free, slots), (slots, slots), "{audit:?}");
    }
}

fn spec(name: &str) -> AfXdpSpec {
    let link = Netlink::open().unwrap().link(name).unwrap();
    AfXdpSpec {
        name: name.into(),
        index: link.index,
        mac: link.mac,
        mtu: u16::try_from(link.mtu).unwrap(),
        queues: 1,
        frames: 64,
        passing: Pass::NEIGHBOURS.to_vec(),
        shared: Vec::new(),
        unfinished: true,
        generic: false,
        copy: false,
    }
}

/// Runs a test in namespaces of its own, if XDP programs may be loaded.
fn with_xdp(name: &str, body: impl FnOnce()) {
    isolated(name, || {
        let mut net = Netlink::open().unwrap();
        net.add_veth("probe0", "probe1", None).unwrap();
        match Memory::new().open(&spec("probe0")) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                skip(name, &error.to_string());
            }
            opened => {
                drop(opened.unwrap());
                net.delete_link("probe0").unwrap();
                body();
            }
        }
    });
}

fn mac_of(peer: &Namespace, name: &str) -> Mac {
    peer.run(|| Netlink::open().unwrap().link(name).unwrap().mac).unwrap()
}

/// Receives until `enough` says so.
fn receive_until(
    port: &mut AfXdp,
    pool: &mut Pool,
    mut enough: impl FnMut(&[Vec<u8>]) -> bool,
) -> Vec<Vec<u8>> {
    let start = Instant::now();
    let mut burst = Burst::new();
    let mut frames = Vec::new();
    while !enough(&frames) && start.elapsed() < Duration::from_secs(20) {
        let now = Time(u64::try_from(start.elapsed().as_nanos()).unwrap());
        port.receive(now, pool, &mut burst).unwrap();
        while let Some(frame) = burst.pop() {
            frames.push(pool.bytes(&frame).to_vec());
            pool.free(frame);
        }
    }
    frames
}

/// Payload of an UDP datagram over IPv4, if the frame is one.
fn payload(frame: &[u8]) -> Option<&[u8]> {
    (frame.get(12..14)? == [8, 0] && frame.get(23) == Some(&17)).then(|| frame.get(42..))?
}

/// The sum of RFC 1071.
fn fold(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// UDP from 10.9.0.1 to 10.9.0.2 without a UDP checksum.
fn udp_frame(from: Mac, to: Mac, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    frame.extend([8, 0]);
    let total = u16::try_from(28 + payload.len()).unwrap().to_be_bytes();
    let mut ip = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 17, 0, 0];
    ip.extend([10, 9, 0, 1, 10, 9, 0, 2]);
    let sum = (!fold(&ip)).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    frame.extend(ip);
    frame.extend([0x30, 0x39]);
    frame.extend(port.to_be_bytes());
    frame.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

fn send_one(port: &mut AfXdp, pool: &mut Pool, bytes: &[u8]) {
    let mut burst = Burst::new();
    let mut frame = pool.alloc().unwrap();
    assert!(pool.fill(&mut frame, bytes));
    burst.push(frame).unwrap();
    port.transmit(Time(0), pool, &mut burst).unwrap();
    assert!(burst.is_empty());
}

#[test]
fn the_kernel_has_its_frames_back_at_once_when_the_port_goes() {
    let name = "the_kernel_has_its_frames_back_at_once_when_the_port_goes";
    with_xdp(name, || {
        let peer = two_hosts();
        let mut memory = Memory::new();
        let here = UdpSocket::bind("10.9.0.1:7000").unwrap();
        let there = peer.run(|| UdpSocket::bind("10.9.0.2:7000").unwrap()).unwrap();
        let mut bytes = [0; 64];
        let mut port = memory.open(&spec("sv0")).unwrap();
        there.send_to(b"to the switch", "10.9.0.1:7000").unwrap();
        let is_it = |frame: &Vec<u8>| payload(frame).is_some_and(|p| p == b"to the switch");
        let got = receive_until(&mut port, &mut memory.pool, |got| got.iter().any(is_it));
        assert!(got.iter().any(is_it), "{} other frames", got.len());
        here.set_nonblocking(true).unwrap();
        assert_eq!(here.recv(&mut bytes).unwrap_err().kind(), ErrorKind::WouldBlock);
        // As after SIGKILL: nobody closes anything by hand.
        drop(port);
        there.send_to(b"to the kernel", "10.9.0.1:7000").unwrap();
        here.set_nonblocking(false).unwrap();
        here.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let length = here.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"to the kernel");
    });
}

#[test]
fn an_interface_that_is_removed_is_told_and_every_slot_comes_back() {
    let name = "an_interface_that_is_removed_is_told_and_every_slot_comes_back";
    with_xdp(name, || {
        let peer = two_hosts();
        let mut memory = Memory::new();
        let spec = spec("sv0");
        let mut port = memory.open(&spec).unwrap();
        let (from, to) = (spec.mac, mac_of(&peer, "pv0"));
        send_one(&mut port, &mut memory.pool, &udp_frame(from, to, 9, b"before"));
        peer.run(|| Netlink::open().unwrap().delete_link("pv0").unwrap()).unwrap();
        let mut burst = Burst::new();
        let told = (0..1000).any(|n| {
            let result = port.receive(Time(n * 20_000_000), &mut memory.pool, &mut burst);
            burst.clear(&mut memory.pool);
            result.is_err()
        });
        assert!(told, "the interface was removed");
        port.close(&mut memory.pool);
        memory.assert_all_free();
    });
}

#[test]
fn an_interface_is_taken_once_and_can_be_taken_again_at_once() {
    with_xdp("an_interface_is_taken_once_and_can_be_taken_again_at_once", || {
        let _peer = two_hosts();
        let mut memory = Memory::new();
        let mut port = memory.open(&spec("sv0")).unwrap();
        let error = memory.open(&spec("sv0")).unwrap_err();
        assert!(error.to_string().contains("another socket has the queue"), "{error}");
        port.close(&mut memory.pool);
        memory.assert_all_free();
        for _ in 0..20 {
            let mut port = memory.open(&spec("sv0")).unwrap();
            port.close(&mut memory.pool);
        }
        memory.assert_all_free();
    });
}

#[test]
fn the_switch_gets_what_is_claimed_and_the_kernel_the_rest() {
    with_xdp("the_switch_gets_what_is_claimed_and_the_kernel_the_rest", || {
        let peer = two_hosts();
        let mut memory = Memory::new();
        let shared: Vec<IpAddr> = ["10.9.0.1", "fd09::1"].map(|a| a.parse().unwrap()).into();
        let passing = Pass::ALL.to_vec();
        let spec = AfXdpSpec { shared: shared.clone(), passing, ..spec("sv0") };
        let mut port = memory.open(&spec).unwrap();
        let mut table = Table::new(Some(Receiver::Host), 1);
        table.set_claimed(port.claimed_ports().unwrap());
        for (address, from) in shared.iter().zip(["10.9.0.2", "fd09::2"]) {
            table.add_address((*address).into(), Some(Receiver::Host));
            let client = Some(Receiver::Client(SessionId(1)));
            assert!(table.set_listener((*address).into(), Protocol::UDP, 7000, 1, client));
            let here = UdpSocket::bind((*address, 7001)).unwrap();
            here.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let from: IpAddr = from.parse().unwrap();
            let there = peer.run(|| UdpSocket::bind((from, 0)).unwrap()).unwrap();
            for n in 0..10 {
                there.send_to(&[n; 20], (*address, 7000)).unwrap();
                there.send_to(&[n; 20], (*address, 7001)).unwrap();
            }
            for n in 0..10 {
                let mut bytes = [0; 64];
                assert_eq!(here.recv(&mut bytes).unwrap(), 20);
                assert_eq!(bytes[0], n);
            }
            // Ports lie at the beginning of the datagram.
            let at = if address.is_ipv4() { 36 } else { 56 };
            let is_for =
                |frame: &[u8], port: u16| frame.get(at..at + 2) == Some(&port.to_be_bytes());
            let ours = |got: &[Vec<u8>]| got.iter().filter(|f| is_for(f, 7000)).count();
            let got = receive_until(&mut port, &mut memory.pool, |got| ours(got) == 10);
            assert_eq!(ours(&got), 10, "{address}");
            assert!(!got.iter().any(|frame| is_for(frame, 7001)), "{address}");
        }
        port.close(&mut memory.pool);
        memory.assert_all_free();
    });
}

#[test]
fn a_checksum_that_was_left_to_a_card_is_completed() {
    with_xdp("a_checksum_that_was_left_to_a_card_is_completed", || {
        let peer = two_hosts();
        let mut memory = Memory::new();
        let mut port = memory.open(&spec("sv0")).unwrap();
        let there = peer.run(|| UdpSocket::bind("10.9.0.2:0").unwrap()).unwrap();
        for length in [1, 2, 63, 700, 1400] {
            let text = vec![0x5a; length];
            there.send_to(&text, "10.9.0.1:7000").unwrap();
            let is_it = |frame: &Vec<u8>| payload(frame).is_some_and(|p| p.starts_with(&text));
            let got = receive_until(&mut port, &mut memory.pool, |got| got.iter().any(is_it));
            let frame = got.iter().find(|frame| is_it(frame)).unwrap();
            let udp = &frame[34..42 + length];
            let mut sum = frame[26..34].to_vec();
            sum.extend([0, 17]);
            sum.extend(u16::try_from(udp.len()).unwrap().to_be_bytes());
            sum.extend(udp);
            assert_eq!(fold(&sum), 0xffff, "UDP of {length} bytes");
        }
        port.close(&mut memory.pool);
        memory.assert_all_free();
    });
}

#[test]
fn a_frame_that_lies_elsewhere_is_sent_by_a_copy() {
    with_xdp("a_frame_that_lies_elsewhere_is_sent_by_a_copy", || {
        let peer = two_hosts();
        let mut memory = Memory::new();
        let other = memory.arena.add_segment("session", Writer::Daemon, 1024, false).unwrap();
        let home = HomeKind::Receive(SessionId(1));
        let home = memory.pool.add_home(home, SlotRange::whole(other)).unwrap();
        let spec = spec("sv0");
        let mut port = memory.open(&spec).unwrap();
        let there = peer.run(|| UdpSocket::bind("10.9.0.2:7000").unwrap()).unwrap();
        there.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let text = udp_frame(spec.mac, mac_of(&peer, "pv0"), 7000, b"from a session's slot");
        let mut frame = memory.pool.alloc_from(home).unwrap();
        assert!(memory.pool.fill(&mut frame, &text));
        let mut burst = Burst::new();
        burst.push(frame).unwrap();
        assert_eq!(port.transmit(Time(0), &mut memory.pool, &mut burst).unwrap(), 1);
        let mut bytes = [0; 64];
        let length = there.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"from a session's slot");
        port.close(&mut memory.pool);
        memory.assert_all_free();
    });
}

#[test]
fn frames_to_a_link_that_is_down_are_refused_until_it_is_up_again() {
    let name = "frames_to_a_link_that_is_down_are_refused_until_it_is_up_again";
    with_xdp(name, || {
        let peer = two_hosts();
        let mut memory = Memory::new();
        let spec = spec("sv0");
        let mut port = memory.open(&spec).unwrap();
        let to = mac_of(&peer, "pv0");
        let mut net = Netlink::open().unwrap();
        net.set_down("sv0").unwrap();
        let frame = udp_frame(spec.mac, to, 7000, b"x");
        // The first is in the ring when the kernel says that the link is down.
        for _ in 0..3 {
            send_one(&mut port, &mut memory.pool, &frame);
        }
        assert_eq!(port.counters().transmit_errors, 2);
        net.set_up("sv0").unwrap();
        let there = peer.run(|| UdpSocket::bind("10.9.0.2:7000").unwrap()).unwrap();
        there.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut burst = Burst::new();
        // Time passes: the port tries again by itself.
        port.receive(Time(1_000_000_000), &mut memory.pool, &mut burst).unwrap();
        let mut bytes = [0; 64];
        assert_eq!(there.recv(&mut bytes).unwrap(), 1);
        burst.clear(&mut memory.pool);
        port.close(&mut memory.pool);
        memory.assert_all_free();
    });
}

#[test]
fn an_mtu_above_a_slot_is_refused_with_the_way_out() {
    with_xdp("an_mtu_above_a_slot_is_refused_with_the_way_out", || {
        let _peer = two_hosts();
        let mut memory = Memory::new();
        let fits = AfXdpSpec { mtu: 2048 - 256 - 22, ..spec("sv0") };
        memory.open(&fits).unwrap().close(&mut memory.pool);
        let error = memory.open(&AfXdpSpec { mtu: fits.mtu + 1, ..fits }).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("slots of 4096 bytes") && text.contains("af_packet"), "{text}");
        memory.assert_all_free();
    });
}

#[test]
fn every_queue_of_an_interface_is_received_from() {
    with_xdp("every_queue_of_an_interface_is_received_from", || {
        let peer = two_hosts();
        let two = Channels { receive: 2, transmit: 2, combined: 0 };
        if let Err(error) = two.set("sv0") {
            return skip("every_queue_of_an_interface_is_received_from", &error.to_string());
        }
        peer.run(move || two.set("pv0").unwrap()).unwrap();
        assert_eq!(Channels::of("sv0").unwrap().receiving(), 2);
        let mut memory = Memory::new();
        let mut port = memory.open(&AfXdpSpec { queues: 2, ..spec("sv0") }).unwrap();
        // Different flows go different ways; none of them is the kernel's.
        let here = UdpSocket::bind("10.9.0.1:7000").unwrap();
        here.set_nonblocking(true).unwrap();
        let sockets: Vec<UdpSocket> =
            peer.run(|| (0..64).map(|_| UdpSocket::bind("10.9.0.2:0").unwrap()).collect()).unwrap();
        for (n, socket) in sockets.iter().enumerate() {
            socket.send_to(&[u8::try_from(n).unwrap(); 20], "10.9.0.1:7000").unwrap();
        }
        let ours = |got: &[Vec<u8>]| got.iter().filter(|f| payload(f).is_some()).count();
        let got = receive_until(&mut port, &mut memory.pool, |got| ours(got) == 64);
        assert_eq!(ours(&got), 64);
        assert_eq!(here.recv(&mut [0; 64]).unwrap_err().kind(), ErrorKind::WouldBlock);
        port.close(&mut memory.pool);
        memory.assert_all_free();
        // With a socket for the first queue only, the other's frames are the kernel's.
        let mut port = memory.open(&spec("sv0")).unwrap();
        for socket in &sockets {
            socket.send_to(b"again", "10.9.0.1:7000").unwrap();
        }
        here.set_nonblocking(false).unwrap();
        here.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(here.recv(&mut [0; 64]).unwrap(), 5);
        port.close(&mut memory.pool);
        memory.assert_all_free();
    });
}

#[test]
#[ignore = "prints the rates of both kinds of sockets; decides nothing"]
fn measure_the_rate_beside_packet_sockets() {
    with_xdp("measure_the_rate_beside_packet_sockets", || {
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
