//! Ports of an address that the kernel's stack shares with clients: never in use by both.
//!
//! ```text
//!   peer: pv0 ---- sv0 --> usnetd (threads of this process) --> session
//!                   \----> kernel's stack, and programs (this process)
//! ```

mod isolated;
mod served;

use isolated::{isolated, two_hosts};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_reuseaddr, set_socket_reuseport};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use rustix::process::{Resource, Rlimit, setrlimit};
use served::{Served, until};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use usnet::{Claim, RefusalCode, RequestError, RuleClaim, Session};
use usnet_switch::port::netmap::Module;

const TCP: u8 = 6;
const UDP: u8 = 17;
const INSIDE: &str = "10.9.0.1";
const INSIDE6: &str = "fd09::1";

fn serve(name: &str, interface: &str) -> Served {
    Served::start(name, interface, Arc::new(Module))
}

/// Why a claim of one port is refused, or nothing.
fn refusal(session: &mut Session, protocol: u8, port: u16) -> Option<(RefusalCode, String)> {
    match session.claim(Claim::port(protocol, port)) {
        Ok(claim) => {
            session.release(claim).unwrap();
            None
        }
        Err(RequestError::Refused { code, message }) => Some((code, message)),
        Err(error) => panic!("{error}"),
    }
}

/// A socket of a program that wants a port as much as can be.
fn try_bind(kind: SocketType, at: &str, how: fn(&OwnedFd)) -> Result<OwnedFd, Errno> {
    let at: SocketAddr = at.parse().unwrap();
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    how(&socket);
    bind(&socket, &at)?;
    Ok(socket)
}

const PLAINLY: fn(&OwnedFd) = |_| {};
const REUSING: fn(&OwnedFd) = |socket| {
    set_socket_reuseaddr(socket, true).unwrap();
    set_socket_reuseport(socket, true).unwrap();
};

#[test]
fn a_port_that_a_program_of_the_kernels_uses_is_refused_and_the_program_named() {
    let name = "a_port_that_a_program_of_the_kernels_uses_is_refused_and_the_program_named";
    isolated(name, || {
        let peer = two_hosts();
        let served = serve("used", "");
        let mut session = served.attach();
        let wait = || std::thread::sleep(Duration::from_millis(1050));
        let is_named = |session: &mut Session, protocol, port| {
            // Processes are searched once a second.
            wait();
            let (code, text) = refusal(session, protocol, port).expect("the kernel uses it");
            assert_eq!(code, RefusalCode::InUse, "{text}");
            let own = format!("process {} (", std::process::id());
            assert!(text.contains(&own) && text.contains(") of user 0, "), "{text}");
        };
        let addresses = ["0.0.0.0", "10.9.0.1", "[::]", "[::ffff:10.9.0.1]", "[fd09::1]"];
        let listeners: Vec<TcpListener> = (8000..)
            .zip(addresses)
            .map(|(port, at)| TcpListener::bind(format!("{at}:{port}")).unwrap())
            .collect();
        for port in 8000..8005 {
            is_named(&mut session, TCP, port);
            assert_eq!(refusal(&mut session, UDP, port), None, "another protocol");
        }
        let udp = UdpSocket::bind("[::]:8000").unwrap();
        is_named(&mut session, UDP, 8000);
        let there = peer.run(|| TcpListener::bind("10.9.0.2:7").unwrap()).unwrap();
        let elsewhere = TcpListener::bind("127.0.0.1:8100").unwrap();
        assert_eq!(refusal(&mut session, TCP, 8100), None, "not at the shared address");
        // A connection has a port, too, as long as it lives and for a minute more.
        let stream = TcpStream::connect("10.9.0.2:7").unwrap();
        let port = stream.local_addr().unwrap().port();
        is_named(&mut session, TCP, port);
        let (accepted, _) = there.accept().unwrap();
        drop(stream);
        drop(accepted);
        let (code, text) = refusal(&mut session, TCP, port).unwrap();
        assert_eq!(code, RefusalCode::InUse, "{text}");
        drop((listeners, udp, elsewhere));
        for port in 8000..8005 {
            assert_eq!(refusal(&mut session, TCP, port), None, "free again");
        }
        assert_eq!(refusal(&mut session, UDP, 8000), None);
    });
}

#[test]
fn a_port_that_several_claims_share_is_the_kernels_when_the_last_is_given_back() {
    let name = "a_port_that_several_claims_share_is_the_kernels_when_the_last_is_given_back";
    isolated(name, || {
        let _peer = two_hosts();
        let served = serve("parts", "host_ports = [\"tcp/9022 from 10.9.0.128/25\"]\n");
        let mut sessions = [served.attach(), served.attach()];
        let is_held = |port| {
            let at = format!("10.9.0.1:{port}");
            let result = try_bind(SocketType::STREAM, &at, PLAINLY);
            matches!(result, Err(Errno::ADDRINUSE))
        };
        let networks = [("10.9.1.0", 24), ("10.9.2.0", 24)];
        let mut claims = Vec::new();
        for (session, (network, bits)) in sessions.iter_mut().zip(networks) {
            let remote = Some((network.parse().unwrap(), bits));
            let wish = RuleClaim { remote, count: 3, ..RuleClaim::port(TCP, 9000) };
            claims.push(session.claim_rule(wish).unwrap());
        }
        // One that holds more than the others do, beside them.
        let wide = sessions[0].claim(Claim { count: 8, ..Claim::port(TCP, 8998) }).unwrap();
        assert!((8998..9006).all(is_held));
        sessions[0].release_rule(claims[0]).unwrap();
        assert!((9000..9003).all(is_held), "the others have it still");
        sessions[0].release(wide).unwrap();
        assert!((9000..9003).all(is_held) && !is_held(8999) && !is_held(9004));
        sessions[1].release_rule(claims[1]).unwrap();
        assert!(!(8998..9006).any(is_held));
        // A group, of which one member is left.
        let group = RuleClaim { spread: true, ..RuleClaim::port(TCP, 9000) };
        for session in &mut sessions {
            session.claim_rule(group).unwrap();
        }
        let [one, mut other] = sessions;
        one.detach().unwrap();
        assert!(is_held(9000));
        // What the kernel keeps for a remote end is held from no program, though a client has it for the rest.
        other.claim(Claim { count: 4, ..Claim::port(TCP, 9020) }).unwrap();
        assert!(is_held(9021) && !is_held(9022) && is_held(9023));
        other.detach().unwrap();
        assert!(!is_held(9000) && !is_held(9023));
    });
}

#[test]
fn no_program_of_the_kernels_gets_a_port_that_a_client_holds() {
    let name = "no_program_of_the_kernels_gets_a_port_that_a_client_holds";
    isolated(name, || {
        let _peer = two_hosts();
        let served = serve("held", "");
        let mut session = served.attach();
        let claims = [TCP, UDP].map(|p| session.claim(Claim::port(p, 9000)).unwrap());
        let kinds = [SocketType::STREAM, SocketType::DGRAM];
        let places = ["0.0.0.0:9000", "10.9.0.1:9000", "[::]:9000", "[fd09::1]:9000"];
        let all = || {
            let each =
                |kind| places.map(|at| [PLAINLY, REUSING].map(|how| try_bind(kind, at, how)));
            kinds.map(each)
        };
        for result in all().as_flattened().as_flattened() {
            assert_eq!(result.as_ref().unwrap_err(), &Errno::ADDRINUSE);
        }
        // At another address it is the kernel's as before.
        for kind in kinds {
            try_bind(kind, "127.0.0.1:9000", PLAINLY).unwrap();
        }
        for claim in claims {
            session.release(claim).unwrap();
        }
        for kind in kinds {
            for at in places {
                try_bind(kind, at, PLAINLY).unwrap();
            }
        }
        // The end of a session frees them as well.
        session.claim(Claim::port(TCP, 9000)).unwrap();
        session.detach().unwrap();
        try_bind(SocketType::STREAM, "0.0.0.0:9000", PLAINLY).unwrap();
    });
}

#[test]
fn a_connection_of_the_kernels_never_gets_a_port_that_a_client_holds() {
    let name = "a_connection_of_the_kernels_never_gets_a_port_that_a_client_holds";
    isolated(name, || {
        let peer = two_hosts();
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40009").unwrap();
        let served = serve("chosen", "");
        let mut session = served.attach();
        let held = Claim { protocol: TCP, address: None, first_port: 40_000, count: 9 };
        session.claim(held).unwrap();
        session.claim(Claim { protocol: UDP, ..held }).unwrap();
        let listeners = peer
            .run(|| ["10.9.0.2:7", "10.9.0.2:8"].map(|at| TcpListener::bind(at).unwrap()))
            .unwrap();
        // connect() chooses for each peer anew, among all ports that nobody has bound: one serves both.
        let streams = ["10.9.0.2:7", "10.9.0.2:8"].map(|to| TcpStream::connect(to).unwrap());
        for stream in &streams {
            assert_eq!(stream.local_addr().unwrap().port(), 40_009);
        }
        drop(streams);
        let early = try_bind(SocketType::STREAM, "10.9.0.1:0", REUSING);
        assert!(early.is_err(), "the last one rests, and the others are a client's");
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_eq!(udp.local_addr().unwrap().port(), 40_009);
        // With the last one nothing is left for the kernel, rather than one that is a client's.
        drop(udp);
        session.claim(Claim { first_port: 40_009, count: 1, ..Claim::any(UDP, 1) }).unwrap();
        assert!(UdpSocket::bind("0.0.0.0:0").is_err());
        drop(listeners);
    });
}

#[test]
fn a_block_of_any_ports_is_free_in_both_stacks() {
    let name = "a_block_of_any_ports_is_free_in_both_stacks";
    isolated(name, || {
        let _peer = two_hosts();
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let above: u16 = range.split_whitespace().nth(1).unwrap().parse::<u16>().unwrap() + 1;
        let served = serve("any", "");
        let mut session = served.attach();
        let kernels = [above + 10, above + 20, above + 90];
        let sockets = kernels.map(|port| UdpSocket::bind((INSIDE6, port)).unwrap());
        let claim = session.claim(Claim::any(UDP, 64)).unwrap();
        assert_eq!((claim.first_port, claim.count), (above + 21, 64), "past those of the kernel");
        let tcp = session.claim(Claim::any(TCP, 64)).unwrap();
        assert_eq!(tcp.first_port, above + 85, "no port of TCP is in use");
        drop(sockets);
    });
}

#[test]
fn a_claim_for_which_descriptors_are_missing_is_refused_with_the_way_out() {
    let name = "a_claim_for_which_descriptors_are_missing_is_refused_with_the_way_out";
    isolated(name, || {
        let _peer = two_hosts();
        let served = serve("many", "");
        let mut session = served.attach();
        let most = Claim { protocol: TCP, address: None, first_port: 10_000, count: 4096 };
        setrlimit(Resource::Nofile, Rlimit { current: Some(512), maximum: Some(3000) }).unwrap();
        let Err(RequestError::Refused { code, message }) = session.claim(most) else { panic!() };
        assert_eq!(code, RefusalCode::Exhausted);
        assert!(message.contains("3000") && message.contains("LimitNOFILE"), "{message}");
        let all = (10_000..14_096).map(|port| TcpListener::bind((INSIDE, port)).map(drop));
        all.collect::<Result<(), _>>().expect("nothing stays of the refused claim");
        // The soft limit alone is no reason to refuse.
        let address = Some(INSIDE.parse::<IpAddr>().unwrap());
        session.claim(Claim { address, count: 2500, ..most }).unwrap();
        assert!(TcpListener::bind((INSIDE, 12_499)).is_err());
        assert!(TcpListener::bind((INSIDE, 12_500)).is_ok());
    });
}

#[test]
fn the_sockets_that_hold_ports_receive_nothing() {
    let name = "the_sockets_that_hold_ports_receive_nothing";
    isolated(name, || {
        let _peer = two_hosts();
        let served = serve("deaf", "");
        let mut session = served.attach();
        session.claim(Claim::port(UDP, 9000)).unwrap();
        for at in [INSIDE, INSIDE6] {
            let any = if at == INSIDE { "0.0.0.0:0" } else { "[::]:0" };
            let program = UdpSocket::bind(any).unwrap();
            for _ in 0..1000 {
                // By way of the loopback, so past the switch.
                program.send_to(&[0; 1000], (at, 9000)).unwrap();
            }
        }
        for table in ["udp", "udp6"] {
            let table = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap();
            let line = table.lines().find(|line| line.contains(":2328 ")).unwrap();
            let queue = line.split_whitespace().nth(4).unwrap();
            assert_eq!(queue, "00000000:00000000", "{line}");
        }
    });
}

/// A datagram of the session's from `port` to the peer's port 9.
fn datagram(session: &Session, to: [u8; 6], port: u16) -> Vec<u8> {
    let mut frame = [&to[..], &session.mac(), &[8, 0]].concat();
    let mut ip = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, UDP, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2];
    let sum: u32 = ip.chunks(2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend(port.to_be_bytes());
    frame.extend([0, 9, 0, 12, 0, 0]);
    frame.extend(*b"flow");
    frame
}

fn say(session: &mut Session, bytes: &[u8]) {
    let frames = session.frames();
    let mut slot = frames.transmit().expect("a slot: few are on their way");
    slot.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
    slot.send(bytes.len()).unwrap();
    frames.flush().unwrap();
}

#[test]
fn flows_are_learned_only_from_ports_that_were_taken_from_the_kernel_for_that() {
    let name = "flows_are_learned_only_from_ports_that_were_taken_from_the_kernel_for_that";
    isolated(name, || {
        let peer = two_hosts();
        let busy = UdpSocket::bind("10.9.0.1:61003").unwrap();
        let served = serve("flows", "flow_ports = [\"udp/61000-61009\"]");
        let mut session = served.attach();
        let there = peer.run(|| UdpSocket::bind("10.9.0.2:9").unwrap()).unwrap();
        there.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mac = peer.run(|| usnet_switch::net::Netlink::open().unwrap().link("pv0").unwrap().mac);
        let mac = mac.unwrap().0;
        // 22 is nobody's at the moment, 61003 a program's, 61004 was taken for flows.
        for port in [22, 61_003, 61_004] {
            let frame = datagram(&session, mac, port);
            say(&mut session, &frame);
        }
        let mut bytes = [0; 16];
        let (length, from) = there.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..length], from.port()), (&b"flow"[..], 61_004));
        until("what was refused", || {
            let clients = served.json(&["client", "list"]);
            let dropped = &clients[0]["counters"]["dropped_from"]["spoofed_port"];
            (dropped.as_u64() == Some(2)).then_some(())
        });
        assert!(UdpSocket::bind("10.9.0.1:61004").is_err(), "the kernel cannot have it");
        assert!(UdpSocket::bind("10.9.0.1:61010").is_ok());
        let (code, text) = refusal(&mut session, UDP, 61_004).unwrap();
        assert_eq!(code, RefusalCode::InUse, "{text}");
        assert!(text.contains("flow_ports"), "{text}");
        let rules = served.json(&["rule", "list"]);
        assert!(rules.as_array().unwrap().iter().any(|r| r["holder"] == "flows"), "{rules}");
        drop(busy);
    });
}

#[test]
fn the_kernel_is_kept_from_ports_of_a_client_that_has_yet_to_come() {
    let name = "the_kernel_is_kept_from_ports_of_a_client_that_has_yet_to_come";
    isolated(name, || {
        let _peer = two_hosts();
        let before = TcpListener::bind("10.9.0.1:82").unwrap();
        let served = serve(
            "yet-to-come",
            "[[client]]\nname = \"test\"\nuid = 0\ninterface = \"sv0\"\nports = [\"tcp/80-84\"]\n\
             [[policy]]\nuid = 0\nports = [\"tcp/8000-8999\"]",
        );
        let is_kept = || {
            for at in ["10.9.0.1:80", "0.0.0.0:81", "[::]:83", "[fd09::1]:84"] {
                for how in [PLAINLY, REUSING] {
                    assert_eq!(
                        try_bind(SocketType::STREAM, at, how).unwrap_err(),
                        Errno::ADDRINUSE
                    );
                }
            }
        };
        is_kept();
        for _ in 0..3 {
            let mut session = served.attach();
            // Its policy has none of them.
            let (code, text) = refusal(&mut session, TCP, 85).unwrap();
            assert_eq!(code, RefusalCode::NotPermitted, "{text}");
            let claim = session.claim(Claim { count: 2, ..Claim::port(TCP, 80) }).unwrap();
            is_kept();
            session.claim(Claim { count: 2, ..Claim::port(TCP, 83) }).unwrap();
            let (code, text) =
                refusal(&mut session, TCP, 82).expect("a program of the kernel's has it");
            assert_eq!(code, RefusalCode::InUse, "{text}");
            session.release(claim).unwrap();
            is_kept();
            drop(session);
            until("the end", || (served.json(&["status"])["sessions"] == 0).then_some(()));
            is_kept();
        }
        // It had it before; from when it gives it back, the client has it.
        drop(before);
        let mut session = served.attach();
        session.claim(Claim { count: 5, ..Claim::port(TCP, 80) }).unwrap();
        drop(session);
        until("the end", || (served.json(&["status"])["sessions"] == 0).then_some(()));
        assert_eq!(
            try_bind(SocketType::STREAM, "10.9.0.1:82", PLAINLY).unwrap_err(),
            Errno::ADDRINUSE
        );
    });
}
