//! The kernel behind its firewall, real kernels at both ends.

use crate::isolated::two_hosts;
use crate::{Memory, payload, spec, with_xdp};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use usnet_switch::classify::Protocol;
use usnet_switch::net::namespace::Namespace;
use usnet_switch::port::af_xdp::{AfXdpSpec, KernelPorts};
use usnet_switch::port::{Burst, Port};
use usnet_switch::steer::Table;
use usnet_switch::time::Time;

const PATIENCE: Duration = Duration::from_secs(20);

fn walled(ports: &[(Protocol, u16)], ping: bool) -> AfXdpSpec {
    let ports = ports.iter().map(|(protocol, port)| (*protocol, *port..=*port)).collect();
    let shared = ["10.9.0.1", "fd09::1"].map(|a| a.parse().unwrap()).into();
    let firewall = Some(KernelPorts { ports, ping });
    AfXdpSpec { shared, firewall, frames: 512, ..spec("sv0") }
}

/// Runs `body` while what comes to the switch is collected, and frees it: no client has it.
fn behind(spec: &AfXdpSpec, body: impl FnOnce(&Mutex<Vec<Vec<u8>>>)) {
    let mut memory = Memory::new();
    let mut port = memory.open(spec).unwrap();
    let mut table = Table::new(None, 1);
    for address in &spec.shared {
        table.add_address((*address).into(), None);
    }
    table.set_claimed(port.claimed_ports().unwrap());
    let (stop, seen) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        let switch = scope.spawn(|| {
            let start = Instant::now();
            let mut burst = Burst::new();
            while !stop.load(Ordering::Relaxed) {
                let now = Time(u64::try_from(start.elapsed().as_nanos()).unwrap());
                port.receive(now, &mut memory.pool, &mut burst).unwrap();
                while let Some(frame) = burst.pop() {
                    seen.lock().unwrap().push(memory.pool.bytes(&frame).to_vec());
                    memory.pool.free(frame);
                }
                thread::sleep(Duration::from_micros(200));
            }
            port.close(&mut memory.pool);
            memory.assert_all_free();
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&seen)));
        stop.store(true, Ordering::Relaxed);
        switch.join().unwrap();
        result.unwrap();
    });
}

/// Waits until the switch has seen such a frame.
fn until_seen(seen: &Mutex<Vec<Vec<u8>>>, what: &str, is_it: impl Fn(&[u8]) -> bool) {
    let start = Instant::now();
    while !seen.lock().unwrap().iter().any(|frame| is_it(frame)) {
        assert!(start.elapsed() < PATIENCE, "the switch never saw {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The kernel asks a datagram service of the other host, as a resolver does.
fn ask(peer: &Namespace, at: &str) {
    let at: IpAddr = at.parse().unwrap();
    let server = peer.run(|| UdpSocket::bind((at, 0)).unwrap()).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let client = UdpSocket::bind(any).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"question", server.local_addr().unwrap()).unwrap();
    let mut bytes = [0; 64];
    let (length, to) = server.recv_from(&mut bytes).unwrap();
    server.send_to(&bytes[..length], to).unwrap();
    assert_eq!(client.recv(&mut bytes).unwrap(), 8);
}

/// A megabyte from a listener to whoever connects.
fn fetch(listener: &TcpListener, connect: impl FnOnce(SocketAddr) -> TcpStream) {
    let to = listener.local_addr().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&vec![7; 1 << 20]).unwrap();
        });
        let mut stream = connect(to);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 1 << 20);
    });
}

/// The kernel pings the other host.
fn ping(at: &str) {
    let protocol = Some(ipproto::ICMP);
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    );
    let socket = socket.unwrap();
    let at = SocketAddrV4::new(at.parse().unwrap(), 0);
    // Type 8, a checksum, identifier and number.
    let request = [8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1];
    let timeout = rustix::net::sockopt::Timeout::Recv;
    rustix::net::sockopt::set_socket_timeout(&socket, timeout, Some(PATIENCE)).unwrap();
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &at).unwrap();
    let mut bytes = [0; 128];
    loop {
        let (length, _) = rustix::net::recv(&socket, &mut bytes, RecvFlags::empty()).unwrap();
        if length >= 28 && bytes[20] == 0 && bytes[24..26] == [0x12, 0x34] {
            return;
        }
    }
}

#[test]
fn the_kernel_gets_its_answers_and_what_is_for_named_ports() {
    with_xdp(name!("the_kernel_gets_its_answers_and_what_is_for_named_ports"), || {
        let peer = two_hosts();
        let spec = walled(&[(Protocol::TCP, 7022), (Protocol::UDP, 7023)], false);
        behind(&spec, |seen| {
            for (here, there) in [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")] {
                let (here, at): (IpAddr, IpAddr) = (here.parse().unwrap(), there.parse().unwrap());
                // As a client.
                ask(&peer, there);
                let listener = peer.run(|| TcpListener::bind((at, 0)).unwrap()).unwrap();
                fetch(&listener, |to| TcpStream::connect_timeout(&to, PATIENCE).unwrap());
                // As a server, where it is named.
                let listener = TcpListener::bind((here, 7022)).unwrap();
                fetch(&listener, |to| {
                    let connect = || TcpStream::connect_timeout(&to, PATIENCE).unwrap();
                    peer.run(connect).unwrap()
                });
                let socket = UdpSocket::bind((here, 7023)).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let from = peer.run(|| UdpSocket::bind((at, 0)).unwrap()).unwrap();
                from.send_to(b"named", (here, 7023)).unwrap();
                assert_eq!(socket.recv(&mut [0; 64]).unwrap(), 5);
                // And nowhere else.
                let socket = UdpSocket::bind((here, 7024)).unwrap();
                socket.set_nonblocking(true).unwrap();
                from.send_to(b"unsolicited", (here, 7024)).unwrap();
                until_seen(seen, "a datagram", |frame| frame.ends_with(b"unsolicited"));
                assert_eq!(socket.recv(&mut [0; 64]).unwrap_err().kind(), ErrorKind::WouldBlock);
                let listener = TcpListener::bind((here, 7025)).unwrap();
                listener.set_nonblocking(true).unwrap();
                let moment = Duration::from_millis(50);
                let to = listener.local_addr().unwrap();
                let refused = peer.run(|| TcpStream::connect_timeout(&to, moment).is_err());
                assert!(refused.unwrap(), "nobody answers");
                let at = if here.is_ipv4() { 36 } else { 56 };
                until_seen(seen, "a SYN", |frame| {
                    frame.get(at..at + 2) == Some(&7025_u16.to_be_bytes())
                });
                assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
                seen.lock().unwrap().clear();
            }
            ping("10.9.0.2");
            // Nothing that was the kernel's came here.
            let seen = seen.lock().unwrap();
            let is_icmp = |f: &Vec<u8>| f.get(12..14) == Some(&[8, 0]) && f.get(23) == Some(&1);
            assert!(!seen.iter().any(is_icmp));
        });
        // The programs are gone with the port.
        let socket = UdpSocket::bind("10.9.0.1:7024").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let from = peer.run(|| UdpSocket::bind("10.9.0.2:0").unwrap()).unwrap();
        from.send_to(b"free", "10.9.0.1:7024").unwrap();
        assert_eq!(socket.recv(&mut [0; 64]).unwrap(), 4);
    });
}

#[test]
fn the_other_host_s_pings_are_answered_where_it_is_wanted() {
    with_xdp(name!("the_other_host_s_pings_are_answered_where_it_is_wanted"), || {
        let peer = two_hosts();
        behind(&walled(&[], true), |_| peer.run(|| ping("10.9.0.1")).unwrap());
        behind(&walled(&[], false), |seen| {
            let from = peer.run(|| UdpSocket::bind("10.9.0.2:0").unwrap()).unwrap();
            from.send_to(b"unsolicited", "10.9.0.1:7").unwrap();
            let is_it = |frame: &[u8]| payload(frame).is_some_and(|p| p == b"unsolicited");
            until_seen(seen, "a datagram", is_it);
        });
    });
}
