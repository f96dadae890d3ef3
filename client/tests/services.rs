//! What the examples do, over the switch in miniature.

mod common;

use common::{Fake, Running, within};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use usnet::net::{TcpStream, UdpSocket};
use usnet::services::echo::{self, EchoOptions, Serving};
use usnet::services::generate::{GenerateError, GenerateOptions, generate};
use usnet::services::http::{self, HttpCounts, HttpOptions};
use usnet::services::sink::{SinkOptions, sink};
use usnet::{Stack, StackOptions};

fn two_stacks() -> (Stack, Stack, Running) {
    let mut fake = Fake::new();
    let (a, b) = (fake.attach(), fake.attach());
    let running = fake.run();
    let stack = |session| {
        let linger = Duration::from_secs(2);
        Stack::over(session, StackOptions { linger, ..StackOptions::default() }).unwrap()
    };
    (stack(a), stack(b), running)
}

fn address(stack: &Stack) -> IpAddr {
    IpAddr::V4(stack.grant().ipv4.unwrap().address)
}

fn ask(stack: &Stack, at: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(stack, at).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

fn body(answer: &[u8]) -> &[u8] {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    &answer[end + 4..]
}

#[test]
fn http_serves_pages_and_bytes_and_counts_them() {
    within(60, "the requests", || {
        let (a, b, _running) = two_stacks();
        let at = SocketAddr::new(address(&b), 80);
        let options =
            HttpOptions { page: b"a page".into(), requests: Some(6), ..Default::default() };
        let (sender, ready) = mpsc::channel();
        let server = thread::spawn(move || {
            http::serve(&b, &options, |at| sender.send(at.port()).unwrap()).unwrap()
        });
        assert_eq!(ready.recv().unwrap(), 80);
        let close = "HTTP/1.1\r\nConnection: close\r\n";
        let page = ask(&a, at, format!("GET / {close}\r\n").as_bytes());
        assert!(page.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert_eq!(body(&page), b"a page");
        assert_eq!(body(&ask(&a, at, format!("HEAD / {close}\r\n").as_bytes())), b"");
        let missing = ask(&a, at, format!("GET /x {close}\r\n").as_bytes());
        assert!(missing.starts_with(b"HTTP/1.1 404 "));
        let bytes = ask(&a, at, format!("GET /bytes/1000003 {close}\r\n").as_bytes());
        let expected: Vec<u8> = (0..=250).cycle().take(1_000_003).collect();
        assert!(body(&bytes) == expected);
        let mut post = format!("POST / {close}Content-Length: 300000\r\n\r\n").into_bytes();
        post.extend(&expected[..300_000]);
        assert_eq!(body(&ask(&a, at, &post)), b"300000\n");
        // One that says nothing more does not keep the server from stopping.
        let mut idle = TcpStream::connect(&a, at).unwrap();
        // One without `close`: its request is the last one of the server.
        let kept = ask(&a, at, b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(body(&kept), b"a page");
        let counts = server.join().unwrap();
        assert_eq!(idle.read(&mut [0; 8]).unwrap(), 0);
        let expected =
            HttpCounts { connections: 7, requests: 6, sent: counts.sent, received: 300_000 };
        assert_eq!(counts, expected);
    });
}

#[test]
fn echo_serves_both_protocols_on_one_port() {
    within(60, "the echo", || {
        let (a, b, _running) = two_stacks();
        let at = SocketAddr::new(address(&b), 7);
        let (sender, ready) = mpsc::channel();
        // It serves until the process ends.
        thread::spawn(move || {
            let options = EchoOptions { port: 7, udp: true, tcp: true };
            echo::serve(&b, &options, |serving| sender.send(serving).unwrap())
        });
        assert_eq!(ready.recv().unwrap(), Serving { udp: Some(7), tcp: Some(7) });
        let socket = UdpSocket::bind(&a, ("0.0.0.0", 0)).unwrap();
        socket.send_to(b"datagram", at).unwrap();
        let mut buffer = [0; 20];
        assert_eq!(socket.recv_from(&mut buffer).unwrap(), (8, at));
        assert_eq!(&buffer[..8], b"datagram");
        let mut stream = TcpStream::connect(&a, at).unwrap();
        stream.write_all(b"stream").unwrap();
        stream.read_exact(&mut buffer[..6]).unwrap();
        assert_eq!(&buffer[..6], b"stream");
    });
}

#[test]
fn every_generated_frame_is_counted_in_order() {
    within(60, "the frames", || {
        let mut fake = Fake::new();
        let (mut from, mut to) = (fake.attach(), fake.attach());
        let _running = fake.run();
        // Fewer than the receiver has slots, so none is lost whoever is slow.
        const FRAMES: u64 = 1000;
        let destination = SocketAddrV4::new(to.grant().ipv4.unwrap().address, 9);
        let mac = Some(to.mac());
        let (sender, ready) = mpsc::channel();
        let counting = thread::spawn(move || {
            let options = SinkOptions {
                port: 9,
                count: Some(FRAMES),
                time: None,
                silence: None,
                spin: false,
            };
            sink(&mut to, &options, || sender.send(()).unwrap(), |_, _, _| {}).unwrap()
        });
        ready.recv().unwrap();
        let mut options = GenerateOptions {
            destination,
            mac,
            size: 100,
            flows: 5,
            rate: None,
            count: Some(FRAMES),
            time: None,
            spin: false,
        };
        let sent = generate(&mut from, &options, |_| {}).unwrap();
        assert_eq!((sent.frames, sent.bytes), (FRAMES, 100 * FRAMES));
        let counted = counting.join().unwrap();
        assert_eq!((counted.rate.frames, counted.rate.bytes), (FRAMES, 100 * FRAMES));
        assert_eq!((counted.lost, counted.late, counted.flows), (0, 0, 5));
        options.size = 1515;
        let error = generate(&mut from, &options, |_| {}).unwrap_err();
        assert!(matches!(error, GenerateError::Size { most: 1514, .. }), "{error}");
    });
}

#[test]
fn a_generator_finds_the_link_address_and_keeps_its_rate() {
    within(60, "the frames", || {
        let mut fake = Fake::new();
        let (mut from, to) = (fake.attach(), fake.attach());
        let _running = fake.run();
        let to = Stack::over(to, StackOptions::default()).unwrap();
        let socket = UdpSocket::bind(&to, ("0.0.0.0", 9)).unwrap();
        let options = GenerateOptions {
            destination: SocketAddrV4::new(to.grant().ipv4.unwrap().address, 9),
            mac: None,
            size: 60,
            flows: 1,
            rate: Some(200.0),
            count: Some(20),
            time: None,
            spin: false,
        };
        let rate = generate(&mut from, &options, |_| {}).unwrap();
        // Frame n leaves at n/200 seconds or later.
        assert!(rate.time >= Duration::from_millis(95), "{rate:?}");
        for _ in 0..20 {
            assert_eq!(socket.recv_from(&mut [0; 100]).unwrap().0, 18);
        }
        let nobody = GenerateOptions { destination: "10.7.0.99:9".parse().unwrap(), ..options };
        let error = generate(&mut from, &nobody, |_| {}).unwrap_err();
        assert!(matches!(error, GenerateError::NoAnswer(_)), "{error}");
    });
}
