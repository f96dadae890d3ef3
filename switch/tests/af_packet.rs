//! The packet socket port against real kernel stacks at the other end of a veth.

mod isolated;

use isolated::{isolated, two_hosts};
use std::net::UdpSocket;
use std::time::Duration;
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::pool::Pool;
use usnet_shmring::region::Writer;
use usnet_switch::classify::Mac;
use usnet_switch::net::Netlink;
use usnet_switch::net::namespace::Namespace;
use usnet_switch::port::af_packet::{AfPacket, AfPacketSpec, RingVersion};
use usnet_switch::port::{Burst, Port};
use usnet_switch::time::Time;

fn pool() -> Pool {
    let arena = Arena::reserve(4096, SlotSize::DEFAULT).unwrap();
    let segment = arena.add_segment("test", Writer::Daemon, 4096, false).unwrap();
    Pool::new(SlotRange::whole(segment)).unwrap()
}

fn spec(name: &str, ring: RingVersion) -> AfPacketSpec {
    let link = Netlink::open().unwrap().link(name).unwrap();
    AfPacketSpec {
        name: name.into(),
        index: link.index,
        mac: link.mac,
        mtu: u16::try_from(link.mtu).unwrap(),
        ring,
        frames: 64,
        promiscuous: false,
        bypass_qdisc: false,
    }
}

fn mac_of(peer: &Namespace, name: &str) -> Mac {
    peer.run(|| Netlink::open().unwrap().link(name).unwrap().mac).unwrap()
}

/// The sum of RFC 1071, complemented.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// UDP from 10.9.0.1 to 10.9.0.2 without a UDP checksum.
fn udp_frame(from: Mac, to: Mac, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    frame.extend([8, 0]);
    let total = u16::try_from(28 + payload.len()).unwrap().to_be_bytes();
    let mut ip = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 17, 0, 0];
    ip.extend([10, 9, 0, 1, 10, 9, 0, 2]);
    let sum = checksum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    frame.extend(ip);
    frame.extend([0x30, 0x39]);
    frame.extend(port.to_be_bytes());
    frame.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

fn send_all(port: &mut AfPacket, pool: &mut Pool, frames: &[Vec<u8>]) {
    let mut burst = Burst::new();
    let mut next = frames.iter();
    let mut idle = 0;
    loop {
        while burst.room() > 0
            && let Some(bytes) = next.next()
        {
            let mut frame = pool.alloc().unwrap();
            assert!(pool.fill(&mut frame, bytes));
            burst.push(frame).unwrap();
        }
        let sent = port.transmit(Time(0), pool, &mut burst).unwrap();
        if burst.is_empty() && next.len() == 0 {
            return;
        }
        if sent == 0 {
            idle += 1;
            assert!(idle < 10_000, "{} frames found no room", burst.len());
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

#[test]
fn bytes_that_wait_at_a_local_receiver_do_not_change() {
    let name = "bytes_that_wait_at_a_local_receiver_do_not_change";
    isolated(name, || {
        for ring in [RingVersion::V2, RingVersion::V3] {
            let peer = two_hosts();
            let socket = peer.run(|| UdpSocket::bind("10.9.0.2:0").unwrap()).unwrap();
            let to = socket.local_addr().unwrap().port();
            let (from_mac, to_mac) = (spec("sv0", ring).mac, mac_of(&peer, "pv0"));
            let mut port = AfPacket::open(&spec("sv0", ring)).unwrap();
            let mut pool = pool();
            // Some that wait, then more than any ring has slots, before the first is read.
            let payload = |n: u32| [n.to_be_bytes(); 250].concat();
            let count = 16;
            let frames: Vec<_> = (0..1000)
                .map(|n| {
                    let port = if n < count { to } else { 9 };
                    udp_frame(from_mac, to_mac, port, &payload(n))
                })
                .collect();
            send_all(&mut port, &mut pool, &frames);
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut bytes = [0; 2048];
            for n in 0..count {
                let len = socket.recv(&mut bytes).unwrap();
                assert_eq!(bytes[..len], payload(n), "datagram {n} with {ring:?}");
            }
            port.close(&mut pool);
            Netlink::open().unwrap().delete_link("sv0").unwrap();
        }
    });
}
