//! Two stacks joined by a switch in miniature: what std::net promises, byte by byte.

mod common;

use common::{Fake, Running, within};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol,
    Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::thread;
use std::time::Duration;
use usnet::net::{TcpListener, TcpStream, UdpSocket};
use usnet::{Session, Stack, StackOptions};

const ANY: (Ipv4Addr, u16) = (Ipv4Addr::UNSPECIFIED, 0);

fn options() -> StackOptions {
    StackOptions { linger: Duration::from_secs(2), ..StackOptions::default() }
}

/// Two stacks, 10.7.0.1 and 10.7.0.2, and the switch between them.
fn two_stacks() -> (Stack, Stack, Running) {
    two_stacks_over(Fake::new())
}

fn two_stacks_over(mut fake: Fake) -> (Stack, Stack, Running) {
    let (a, b) = (fake.attach(), fake.attach());
    let running = fake.run();
    (Stack::over(a, options()).unwrap(), Stack::over(b, options()).unwrap(), running)
}

fn address(stack: &Stack) -> IpAddr {
    IpAddr::V4(stack.grant().ipv4.unwrap().address)
}

/// Bytes that differ at every place within a long period.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..length).map(|_| next()).collect()
}

fn echo_server(stack: &Stack, connections: usize) -> (SocketAddr, thread::JoinHandle<()>) {
    let listener = TcpListener::bind(stack, ANY).unwrap();
    let at = SocketAddr::new(address(stack), listener.local_addr().unwrap().port());
    let server = thread::spawn(move || {
        for stream in listener.incoming().take(connections) {
            let mut stream = stream.unwrap();
            let mut buffer = vec![0; 100_000];
            loop {
                match stream.read(&mut buffer).unwrap() {
                    0 => break,
                    count => stream.write_all(&buffer[..count]).unwrap(),
                }
            }
        }
    });
    (at, server)
}

/// Sends `length` bytes to an echo server and reads them back at the same time.
fn exchange(stack: &Stack, at: SocketAddr, length: usize) {
    let stream = TcpStream::connect(stack, at).unwrap();
    let sent = pattern(length);
    let mut writer = stream.try_clone().unwrap();
    let expected = sent.clone();
    let sender = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    (&stream).read_to_end(&mut received).unwrap();
    sender.join().unwrap();
    assert_eq!(received.len(), expected.len());
    assert!(received == expected, "bytes differ");
}

#[test]
fn a_megabyte_comes_back_byte_by_byte() {
    within(60, "the exchange", || {
        let (a, b, _running) = two_stacks();
        let (at, server) = echo_server(&b, 1);
        exchange(&a, at, 1 << 20);
        server.join().unwrap();
    });
}

#[test]
fn a_switch_that_loses_frames_costs_time_and_no_bytes() {
    within(120, "the exchange", || {
        let mut fake = Fake::new();
        fake.lose_every = Some(97);
        let (a, b, _running) = two_stacks_over(fake);
        let (at, server) = echo_server(&b, 1);
        exchange(&a, at, 1 << 20);
        server.join().unwrap();
    });
}

#[test]
fn ipv6_works_as_ipv4() {
    within(60, "the exchange", || {
        let (a, b, _running) = two_stacks();
        let listener = TcpListener::bind(&b, ("::", 8080)).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            assert!(peer.is_ipv6());
            stream.write_all(b"six").unwrap();
        });
        let mut text = String::new();
        let at: SocketAddr = "[fd07::2]:8080".parse().unwrap();
        TcpStream::connect(&a, at).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "six");
        server.join().unwrap();
    });
}

#[test]
fn many_connections_one_after_the_other_and_at_once() {
    within(120, "the connections", || {
        let (a, b, _running) = two_stacks();
        let listener = TcpListener::bind(&b, (Ipv4Addr::UNSPECIFIED, 80)).unwrap();
        let at = SocketAddr::new(address(&b), 80);
        const EACH: usize = 40;
        const AT_ONCE: usize = 8;
        let server = thread::spawn(move || {
            for stream in listener.incoming().take(EACH * AT_ONCE) {
                let mut stream = stream.unwrap();
                let mut request = [0; 4];
                stream.read_exact(&mut request).unwrap();
                stream.write_all(&request).unwrap();
            }
        });
        let clients: Vec<_> = (0..AT_ONCE)
            .map(|n| {
                let stack = a.clone();
                thread::spawn(move || {
                    for i in 0..EACH {
                        let mut stream = TcpStream::connect(&stack, at).unwrap();
                        let request = u32::try_from(n * EACH + i).unwrap().to_be_bytes();
                        stream.write_all(&request).unwrap();
                        let mut answer = Vec::new();
                        stream.read_to_end(&mut answer).unwrap();
                        assert_eq!(answer, request);
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|c| c.join().unwrap());
        server.join().unwrap();
    });
}

#[test]
fn datagrams_go_both_ways_and_keep_their_borders() {
    within(60, "the datagrams", || {
        let (a, b, _running) = two_stacks();
        let server = UdpSocket::bind(&b, (Ipv4Addr::UNSPECIFIED, 7)).unwrap();
        let at = SocketAddr::new(address(&b), 7);
        let echo = thread::spawn(move || {
            let mut buffer = [0; 2000];
            loop {
                let (count, from) = server.recv_from(&mut buffer).unwrap();
                server.send_to(&buffer[..count], from).unwrap();
                if count == 0 {
                    break;
                }
            }
        });
        let client = UdpSocket::bind(&a, ANY).unwrap();
        client.connect(at).unwrap();
        let bytes = pattern(1472);
        for length in [1, 2, 17, 512, 1000, 1471, 1472, 0] {
            assert_eq!(client.send(&bytes[..length]).unwrap(), length);
            let mut buffer = [0; 2000];
            assert_eq!(client.recv(&mut buffer).unwrap(), length);
            assert_eq!(buffer[..length], bytes[..length]);
        }
        let error = client.send(&[0; 1473]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(90), "longer than the MTU: {error}");
        echo.join().unwrap();
    });
}

#[test]
fn a_connected_datagram_socket_hears_its_peer_alone() {
    within(60, "the datagrams", || {
        let (a, b, _running) = two_stacks();
        let (first, second) =
            (UdpSocket::bind(&b, ANY).unwrap(), UdpSocket::bind(&b, ANY).unwrap());
        let peer = |s: &UdpSocket| SocketAddr::new(address(&b), s.local_addr().unwrap().port());
        let client = UdpSocket::bind(&a, ANY).unwrap();
        let at = SocketAddr::new(address(&a), client.local_addr().unwrap().port());
        client.connect(peer(&second)).unwrap();
        assert_eq!(client.peer_addr().unwrap(), peer(&second));
        first.send_to(b"stranger", at).unwrap();
        second.send_to(b"friend", at).unwrap();
        let mut buffer = [0; 20];
        assert_eq!(client.recv(&mut buffer).unwrap(), 6);
        assert_eq!(&buffer[..6], b"friend");
    });
}

#[test]
fn timeouts_and_nonblocking_give_would_block() {
    within(60, "the timeouts", || {
        let (a, b, _running) = two_stacks();
        let (at, _server) = echo_server(&b, 1);
        let mut stream = TcpStream::connect(&a, at).unwrap();
        assert_eq!(
            stream.set_read_timeout(Some(Duration::ZERO)).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
        stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        assert_eq!(stream.read_timeout().unwrap(), Some(Duration::from_millis(10)));
        assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
        stream.set_read_timeout(None).unwrap();
        stream.set_nonblocking(true).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
        let listener = TcpListener::bind(&a, ANY).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        let socket = UdpSocket::bind(&a, ANY).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        assert_eq!(socket.recv_from(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn nobody_there_is_refused_or_times_out() {
    within(60, "the refusals", || {
        let (a, b, _running) = two_stacks();
        let refused = TcpStream::connect(&a, (address(&b), 9)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let nobody = SocketAddr::from(([10, 7, 0, 99], 9));
        let silent = TcpStream::connect_timeout(&a, &nobody, Duration::from_millis(50));
        assert_eq!(silent.unwrap_err().kind(), ErrorKind::TimedOut);
        let unroutable = TcpStream::connect(&a, ("::", 9)).unwrap_err();
        assert_eq!(unroutable.kind(), ErrorKind::AddrNotAvailable);
    });
}

#[test]
fn a_port_has_one_owner_and_comes_back_when_dropped() {
    within(60, "the ports", || {
        let (a, _b, _running) = two_stacks();
        let bind = || TcpListener::bind(&a, (Ipv4Addr::UNSPECIFIED, 80));
        let listener = bind().unwrap();
        assert_eq!(bind().unwrap_err().kind(), ErrorKind::AddrInUse);
        let foreign = TcpListener::bind(&a, ("10.7.0.2", 81)).unwrap_err();
        assert_eq!(foreign.kind(), ErrorKind::AddrNotAvailable);
        drop(listener);
        drop(bind().unwrap());
        let udp = || UdpSocket::bind(&a, (Ipv4Addr::UNSPECIFIED, 53));
        let socket = udp().unwrap();
        assert_eq!(udp().unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(socket);
        drop(udp().unwrap());
    });
}

#[test]
fn the_end_of_a_stack_releases_every_exact_claim() {
    within(60, "the end", || {
        let mut fake = Fake::new();
        let (a, b) = (fake.attach(), fake.attach());
        let watch = a.control();
        let running = fake.run();
        let (a, b) = (Stack::over(a, options()).unwrap(), Stack::over(b, options()).unwrap());
        let listener = TcpListener::bind(&a, (Ipv4Addr::UNSPECIFIED, 80)).unwrap();
        let client = TcpStream::connect(&b, (address(&a), 80)).unwrap();
        let (server, _) = listener.accept().unwrap();
        drop(listener);
        let http = usnet::Claim::port(6, 80);
        assert!(watch.claim(http).is_err(), "a connection still uses the port");
        drop((client, server));
        drop(a);
        assert_eq!(watch.claim(http).unwrap(), http);
        drop((b, running));
    });
}

#[test]
fn the_last_bytes_of_a_program_arrive() {
    within(60, "the last bytes", || {
        let (a, b, _running) = two_stacks();
        let listener = TcpListener::bind(&b, (Ipv4Addr::UNSPECIFIED, 80)).unwrap();
        let at = SocketAddr::new(address(&b), 80);
        let bytes = pattern(400_000);
        let sent = bytes.clone();
        // The whole stack ends right after the write.
        let writer = thread::spawn(move || {
            TcpStream::connect(&a, at).unwrap().write_all(&sent).unwrap();
            drop(a);
        });
        let mut received = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        assert!(received == bytes);
        writer.join().unwrap();
    });
}

#[test]
fn shutdown_and_reset_look_as_in_std() {
    within(60, "the connections", || {
        let (a, b, _running) = two_stacks();
        let listener = TcpListener::bind(&b, (Ipv4Addr::UNSPECIFIED, 80)).unwrap();
        let mut near = TcpStream::connect(&a, (address(&b), 80)).unwrap();
        let (mut far, peer) = listener.accept().unwrap();
        assert_eq!((peer, far.peer_addr().unwrap()), (near.local_addr().unwrap(), peer));
        assert_eq!(near.peer_addr().unwrap(), far.local_addr().unwrap());
        assert!(!near.nodelay().unwrap());
        near.set_nodelay(true).unwrap();
        assert!(near.nodelay().unwrap());

        // Half closed: the other direction goes on.
        near.shutdown(Shutdown::Write).unwrap();
        assert_eq!(near.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(far.read(&mut [0; 8]).unwrap(), 0);
        far.write_all(b"still here").unwrap();
        let mut buffer = [0; 10];
        assert_eq!(near.peek(&mut buffer).unwrap(), 10);
        near.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"still here");
        near.shutdown(Shutdown::Read).unwrap();
        assert_eq!(near.read(&mut [0; 8]).unwrap(), 0);

        // Dropped with unread data: reset.
        let mut near = TcpStream::connect(&a, (address(&b), 80)).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        far.write_all(b"unread").unwrap();
        near.peek(&mut [0; 6]).unwrap();
        near.write_all(b"x").unwrap();
        far.read_exact(&mut [0; 1]).unwrap();
        drop(near);
        assert_eq!(far.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn the_death_of_the_daemon_ends_every_wait() {
    within(60, "the waits", || {
        let (a, b, mut running) = two_stacks();
        let (at, server) = echo_server(&b, 2);
        let stream = TcpStream::connect(&a, at).unwrap();
        let listener = TcpListener::bind(&a, ANY).unwrap();
        let socket = UdpSocket::bind(&a, ANY).unwrap();
        let reader = thread::spawn(move || (&stream).read(&mut [0; 8]).unwrap_err());
        let accepter = thread::spawn(move || listener.accept().unwrap_err());
        let receiver = thread::spawn(move || socket.recv_from(&mut [0; 8]).unwrap_err());
        running.stop();
        running.fake.lock().unwrap().peers.clear();
        for waiter in [reader, accepter, receiver] {
            let error = waiter.join().unwrap();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
        }
        assert!(TcpStream::connect(&a, at).is_err());
        // The server of the other stack fails as well, in its own thread.
        assert!(server.join().is_err());
    });
}

/// A TCP segment without data from a host that has no stack.
fn segment(
    (from, from_port): (u8, u16),
    (to, to_port): (u8, u16),
    control: TcpControl,
    sequence: i32,
    acknowledged: Option<i32>,
) -> Vec<u8> {
    segment_with((from, from_port), (to, to_port), control, sequence, acknowledged, &[])
}

fn segment_with(
    (from, from_port): (u8, u16),
    (to, to_port): (u8, u16),
    control: TcpControl,
    sequence: i32,
    acknowledged: Option<i32>,
    payload: &[u8],
) -> Vec<u8> {
    let address = |n| Ipv4Addr::new(10, 7, 0, n);
    let tcp = TcpRepr {
        src_port: from_port,
        dst_port: to_port,
        control,
        seq_number: TcpSeqNumber(sequence),
        ack_number: acknowledged.map(TcpSeqNumber),
        window_len: 1000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload,
    };
    let ip = Ipv4Repr {
        src_addr: address(from),
        dst_addr: address(to),
        next_header: IpProtocol::Tcp,
        payload_len: tcp.buffer_len(),
        hop_limit: 64,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress([2, 0, 0, 0, 0, from]),
        dst_addr: EthernetAddress([2, 0, 0, 0, 0, to]),
        ethertype: EthernetProtocol::Ipv4,
    };
    let mut bytes = vec![0; 14 + 20 + tcp.buffer_len()];
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
    let checksums = ChecksumCapabilities::default();
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[14..]), &checksums);
    let (from, to) = (IpAddress::Ipv4(address(from)), IpAddress::Ipv4(address(to)));
    tcp.emit(&mut TcpPacket::new_unchecked(&mut bytes[34..]), &from, &to, &checksums);
    bytes
}

fn send(session: &mut Session, bytes: &[u8]) {
    let frames = session.frames();
    let mut slot = frames.transmit().unwrap();
    slot.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
    slot.send(bytes.len()).unwrap();
    frames.flush().unwrap();
}

/// Waits for a segment to `port` and returns its control bits and sequence number.
fn answer(session: &mut Session, port: u16) -> (TcpControl, i32) {
    let tcp = answer_whole(session, port);
    let control = match (tcp.syn(), tcp.rst()) {
        (true, false) => TcpControl::Syn,
        (false, true) => TcpControl::Rst,
        _ => TcpControl::None,
    };
    (control, tcp.seq_number().0)
}

/// Waits for a segment to `port`.
fn answer_whole(session: &mut Session, port: u16) -> TcpPacket<Vec<u8>> {
    let frames = session.frames();
    loop {
        if frames.receive().unwrap() == 0 {
            frames.wait(None, &[]).unwrap();
        }
        while let Some(frame) = frames.next() {
            let bytes = frame.as_slice().unwrap();
            if bytes.len() < 54 || bytes[12..14] != [8, 0] || bytes[23] != 6 {
                continue;
            }
            let tcp = TcpPacket::new_checked(bytes[34..].to_vec()).unwrap();
            if tcp.dst_port() == port {
                return tcp;
            }
        }
    }
}

#[test]
fn a_listener_survives_resets_and_half_open_connections() {
    within(60, "the listener", || {
        let mut fake = Fake::new();
        let (server, client, mut stranger) = (fake.attach(), fake.attach(), fake.attach());
        let _running = fake.run();
        let small = StackOptions { backlog: 4, ..options() };
        let server = Stack::over(server, small).unwrap();
        let client = Stack::over(client, options()).unwrap();
        let listener = TcpListener::bind(&server, (Ipv4Addr::UNSPECIFIED, 80)).unwrap();
        let accepting = thread::spawn(move || listener.accept().map(|(_, peer)| peer));
        let mut opened = HashMap::new();
        for port in 1000..1004 {
            arp(&mut stranger);
            send(&mut stranger, &segment((3, port), (1, 80), TcpControl::Syn, 100, None));
            let (control, sequence) = answer(&mut stranger, port);
            assert_eq!(control, TcpControl::Syn);
            opened.insert(port, sequence + 1);
        }
        // Four are half open, so there is room for no more.
        send(&mut stranger, &segment((3, 2000), (1, 80), TcpControl::Syn, 100, None));
        assert_eq!(answer(&mut stranger, 2000).0, TcpControl::Rst);
        for port in 1000..1004 {
            let reset = segment((3, port), (1, 80), TcpControl::Rst, 101, Some(opened[&port]));
            send(&mut stranger, &reset);
        }
        // A hundred times a handshake that ends in a reset.
        for port in 3000..3100 {
            send(&mut stranger, &segment((3, port), (1, 80), TcpControl::Syn, 100, None));
            let (control, sequence) = answer(&mut stranger, port);
            assert_eq!(control, TcpControl::Syn, "port {port}");
            let reset = TcpControl::Rst;
            send(&mut stranger, &segment((3, port), (1, 80), reset, 101, Some(sequence + 1)));
        }
        let stream = TcpStream::connect(&client, (address(&server), 80)).unwrap();
        assert_eq!(accepting.join().unwrap().unwrap(), stream.local_addr().unwrap());
    });
}

#[test]
fn a_port_in_time_wait_can_be_used_again() {
    within(60, "the second connection", || {
        let mut fake = Fake::new();
        let (server, mut stranger) = (fake.attach(), fake.attach());
        let _running = fake.run();
        let server = Stack::over(server, options()).unwrap();
        let listener = TcpListener::bind(&server, (Ipv4Addr::UNSPECIFIED, 80)).unwrap();
        arp_from(&mut stranger, 2);
        let (here, there) = ((2, 4000), (1, 80));
        send(&mut stranger, &segment(here, there, TcpControl::Syn, 100, None));
        let (_, first) = answer(&mut stranger, 4000);
        send(&mut stranger, &segment(here, there, TcpControl::None, 101, Some(first + 1)));
        drop(listener.accept().unwrap());
        // Its FIN, acknowledged by a FIN: the server is in TIME-WAIT.
        answer(&mut stranger, 4000);
        send(&mut stranger, &segment(here, there, TcpControl::Fin, 101, Some(first + 2)));
        let (control, last) = answer(&mut stranger, 4000);
        assert_eq!((control, last), (TcpControl::None, first + 2));
        send(&mut stranger, &segment(here, there, TcpControl::Syn, 7000, None));
        let (control, second) = answer(&mut stranger, 4000);
        assert_eq!(control, TcpControl::Syn);
        send(&mut stranger, &segment(here, there, TcpControl::None, 7001, Some(second + 1)));
        listener.accept().unwrap();
    });
}

#[test]
fn what_a_segment_acknowledges_counts_though_there_is_no_room_for_its_data() {
    within(60, "the last write", || {
        let mut fake = Fake::new();
        let (server, mut stranger) = (fake.attach(), fake.attach());
        let _running = fake.run();
        let small = StackOptions { receive_buffer: 2000, send_buffer: 1000, ..options() };
        let server = Stack::over(server, small).unwrap();
        let listener = TcpListener::bind(&server, (Ipv4Addr::UNSPECIFIED, 80)).unwrap();
        arp_from(&mut stranger, 2);
        let (here, there) = ((2, 4000), (1, 80));
        send(&mut stranger, &segment(here, there, TcpControl::Syn, 100, None));
        let first = answer(&mut stranger, 4000).1 + 1;
        send(&mut stranger, &segment(here, there, TcpControl::None, 101, Some(first)));
        let (mut stream, _) = listener.accept().unwrap();
        // The server does not read, so that its buffer is full after this.
        let data = |sequence, acknowledged, length| {
            let bytes = vec![7; length];
            let none = TcpControl::None;
            segment_with(here, there, none, sequence, Some(acknowledged), &bytes)
        };
        for at in [101, 1101] {
            send(&mut stranger, &data(at, first, 1000));
        }
        while answer_whole(&mut stranger, 4000).window_len() != 0 {}
        // It sends, though, until its other buffer is full: then it waits for acknowledgements.
        stream.set_nodelay(true).unwrap();
        for round in 0..5 {
            let sent = first + round * 1000;
            stream.write_all(&[8; 1000]).unwrap();
            while answer(&mut stranger, 4000).1 < sent {}
            // This comes from beyond the edge, as if that had moved back by three bytes.
            send(&mut stranger, &data(2104, sent + 1000, 10));
        }
        // What lay in the buffer is still all that came, and the window opens again.
        let mut bytes = [0; 2000];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 2000]);
        send(&mut stranger, &data(2101, first + 5000, 3));
        stream.read_exact(&mut bytes[..3]).unwrap();
    });
}

/// Tells everybody where 10.7.0.3 is.
fn arp(session: &mut Session) {
    arp_from(session, 3);
}

fn arp_from(session: &mut Session, number: u8) {
    let mut bytes = vec![0; 42];
    bytes[..6].fill(0xff);
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, number]);
    bytes[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    bytes[22..28].copy_from_slice(&[2, 0, 0, 0, 0, number]);
    bytes[28..32].copy_from_slice(&[10, 7, 0, number]);
    bytes[38..42].copy_from_slice(&[10, 7, 0, 1]);
    send(session, &bytes);
}

#[test]
fn errors_of_attaching_a_stack_keep_their_kind() {
    let mut options = options();
    options.session.socket = "/nonexistent".into();
    let error: io::Error = Stack::attach(options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
