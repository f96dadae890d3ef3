//! Several workers at one interface: each has queues, rings and slots of its own, and one table of claims
//! holds for all.

use crate::isolated::{two_hosts, two_hosts_with};
use crate::{mac_of, payload, receive_until, send_one, spec, udp_frame, with_xdp};
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::ledger::SessionId;
use usnet_shmring::pool::Pool;
use usnet_shmring::region::Writer;
use usnet_switch::classify::{Flow, Protocol};
use usnet_switch::net::guard::Pass;
use usnet_switch::net::namespace::Namespace;
use usnet_switch::port::af_xdp::{AfXdp, AfXdpSpec};
use usnet_switch::port::{Burst, Port};
use usnet_switch::steer::Table;
use usnet_switch::time::Time;
use usnet_switch::verdict::Receiver;

const PATIENCE: Duration = Duration::from_secs(20);

/// A port and a pool for each worker.
struct Workers {
    each: Vec<(AfXdp, Pool)>,
}

impl Workers {
    fn open(spec: &AfXdpSpec, workers: u32) -> std::io::Result<Self> {
        let arena = Arena::reserve(8192, SlotSize::DEFAULT).unwrap();
        let mut rest =
            SlotRange::whole(arena.add_segment("test", Writer::Daemon, 4096, false).unwrap());
        let segment = Arc::clone(rest.segment());
        let ports = AfXdp::open_group(spec, &segment, workers as usize)?;
        assert_eq!(ports.len(), workers as usize);
        let pools = (0..workers).map(|_| Pool::new(rest.split(4096 / workers).unwrap()).unwrap());
        let mut each: Vec<(AfXdp, Pool)> = ports.into_iter().zip(pools).collect();
        for (port, pool) in &mut each {
            // The first look gives the kernel its slots.
            port.receive(Time(0), pool, &mut Burst::new())?;
        }
        Ok(Self { each })
    }

    /// What each has received when all together have `count` datagrams.
    fn receive(&mut self, count: usize) -> Vec<Vec<Vec<u8>>> {
        let mut got = vec![Vec::new(); self.each.len()];
        let start = std::time::Instant::now();
        while got.iter().map(Vec::len).sum::<usize>() < count && start.elapsed() < PATIENCE {
            for ((port, pool), got) in self.each.iter_mut().zip(&mut got) {
                let mut looks = 0;
                let frames = receive_until(port, pool, |_| {
                    looks += 1;
                    looks > 2
                });
                got.extend(frames.into_iter().filter(|frame| payload(frame).is_some()));
            }
        }
        got
    }

    fn close(mut self) {
        for (port, pool) in &mut self.each {
            port.close(pool);
            let (audit, slots) = pool.audit();
            assert_eq!((audit.free, slots), (slots, slots), "{audit:?}");
        }
    }
}

/// Sockets of the other host, so many flows.
fn flows(peer: &Namespace, count: usize) -> Vec<UdpSocket> {
    peer.run(|| (0..count).map(|_| UdpSocket::bind("10.9.0.2:0").unwrap()).collect()).unwrap()
}

#[test]
fn each_worker_has_its_own_queues_and_nothing_passes_them_by() {
    let name = name!("each_worker_has_its_own_queues_and_nothing_passes_them_by");
    with_xdp(name, || {
        for (queues, workers) in [(2, 2), (4, 4), (4, 2), (3, 2)] {
            let peer = two_hosts_with(Some(queues));
            // Room for all of them at any queue.
            let spec = AfXdpSpec { queues, frames: 256, ..spec("sv0") };
            let here = UdpSocket::bind("10.9.0.1:7000").unwrap();
            here.set_nonblocking(true).unwrap();
            let mut all = Workers::open(&spec, workers).unwrap();
            let sockets = flows(&peer, 128);
            for round in 0..4_u8 {
                for socket in &sockets {
                    socket.send_to(&[round; 20], "10.9.0.1:7000").unwrap();
                }
                let got = all.receive(128);
                let each: Vec<usize> = got.iter().map(Vec::len).collect();
                assert_eq!(each.iter().sum::<usize>(), 128, "{queues} queues: {each:?}");
                assert!(each.iter().all(|count| *count > 0), "{queues} queues: {each:?}");
            }
            assert_eq!(here.recv(&mut [0; 64]).unwrap_err().kind(), ErrorKind::WouldBlock);
            // Each sends by itself.
            let there = peer.run(|| UdpSocket::bind("10.9.0.2:7000").unwrap()).unwrap();
            there.set_read_timeout(Some(PATIENCE)).unwrap();
            let to = mac_of(&peer, "pv0");
            for (n, (port, pool)) in (0..).zip(&mut all.each) {
                send_one(port, pool, &udp_frame(spec.mac, to, 7000, &[n; 3]));
                let mut bytes = [0; 64];
                assert_eq!((there.recv(&mut bytes).unwrap(), bytes[0]), (3, n));
            }
            all.close();
            usnet_switch::net::Netlink::open().unwrap().delete_link("sv0").unwrap();
        }
    });
}

#[test]
fn a_port_is_the_kernel_s_again_when_the_last_worker_has_let_go_of_it() {
    let name = name!("a_port_is_the_kernel_s_again_when_the_last_worker_has_let_go_of_it");
    with_xdp(name, || {
        let peer = two_hosts_with(Some(2));
        let address: IpAddr = "10.9.0.1".parse().unwrap();
        let passing = Pass::ALL.to_vec();
        let shared = vec![address];
        let spec = AfXdpSpec { queues: 2, shared, passing, ..spec("sv0") };
        let mut all = Workers::open(&spec, 2).unwrap();
        let mut tables: Vec<Table> = all
            .each
            .iter()
            .map(|(port, _)| {
                let mut table = Table::new(Some(Receiver::Host), 1);
                table.add_address(address.into(), Some(Receiver::Host));
                table.set_claimed(port.claimed_ports().unwrap());
                table
            })
            .collect();
        let here = UdpSocket::bind("10.9.0.1:7000").unwrap();
        here.set_read_timeout(Some(PATIENCE)).unwrap();
        let sockets = flows(&peer, 32);
        let send = || {
            for socket in &sockets {
                socket.send_to(&[0; 20], "10.9.0.1:7000").unwrap();
            }
        };
        let hear = || (0..32).all(|_| here.recv(&mut [0; 64]).is_ok());
        send();
        assert!(hear(), "nobody has claimed it");
        let client = Receiver::Client(SessionId(1));
        let flow = Flow {
            source: "10.9.0.2".parse::<IpAddr>().unwrap().into(),
            destination: address.into(),
            protocol: Protocol::UDP,
            source_port: 9,
            destination_port: 7000,
            ports_known: true,
        };
        for learned in [false, true] {
            for table in &mut tables {
                if learned {
                    table.learn(flow, client, Time(0)).unwrap();
                } else {
                    table.set_listener(address.into(), Protocol::UDP, 7000, 1, Some(client));
                }
            }
            for gone in [0, 1] {
                send();
                let got: usize = all.receive(32).iter().map(Vec::len).sum();
                assert_eq!(got, 32, "{gone} of two workers have let go");
                tables[gone].forget(client);
            }
            send();
            assert!(hear(), "no worker has it any more");
        }
        all.close();
    });
}

#[test]
fn more_workers_than_queues_are_refused_with_the_way_out() {
    with_xdp(name!("more_workers_than_queues_are_refused_with_the_way_out"), || {
        let _peer = two_hosts();
        let error = Workers::open(&spec("sv0"), 2).err().unwrap().to_string();
        assert!(error.contains("1 receive queues for 2 workers; set worker.count to 1"), "{error}");
    });
}
