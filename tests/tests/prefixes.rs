//! Clients that have whole prefixes of addresses, reached by curl and ping from the other host.

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use usnet::device::Device;
use usnet::{Control, Options, PrefixClaim, RefusalCode, RequestError, Session};
use usnet_tests::lab::{INSIDE, OUTSIDE};
use usnet_tests::steps::run;
use usnet_tests::{Lab, is_installed};

const POLICY: &str =
    "[[policy]]\nany = true\nown_prefixes = [\"10.1.0.0/16\", \"2001:db8:1::/48\"]\n";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A client that answers pings, and HTTP with its name, at every address.
struct Host {
    control: Control,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    fn attach(lab: &Lab, name: &'static str) -> Self {
        let options = Options { socket: lab.socket(), ..Options::named(name) };
        let (grant, control, frames) = Session::attach(options).expect("a session").into_parts();
        let mut device = Device::new(frames, &grant);
        let link = HardwareAddress::Ethernet(EthernetAddress(grant.mac));
        let mut interface = Interface::new(Config::new(link), &mut device, Instant::now());
        interface.update_ip_addrs(|addresses| {
            // Neighbours are here, and what comes is for whatever address it is for.
            addresses.push(IpCidr::new(ip(INSIDE).into(), 24)).expect("room");
            addresses.push(IpCidr::new(ip("fd09::1").into(), 64)).expect("room");
        });
        interface.set_any_ip(true);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut sockets = SocketSet::new(Vec::new());
            for _ in 0..4 {
                let buffer = || tcp::SocketBuffer::new(vec![0; 4096]);
                sockets.add(tcp::Socket::new(buffer(), buffer()));
            }
            while !stopped.load(Ordering::Relaxed) {
                interface.poll(Instant::now(), &mut device, &mut sockets);
                for (_, socket) in sockets.iter_mut() {
                    let smoltcp::socket::Socket::Tcp(socket) = socket else { continue };
                    if !socket.is_open() {
                        socket.listen(80).expect("a port");
                    } else if socket.can_recv() {
                        socket.recv(|bytes| (bytes.len(), ())).expect("a request");
                        let answer = format!("HTTP/1.0 200 OK\r\n\r\n{name}\n");
                        socket.send_slice(answer.as_bytes()).expect("room");
                        socket.close();
                    }
                }
                if device.flush().is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        Self { control, stop, thread: Some(thread) }
    }

    fn claim(&self, address: &str, bits: u8) -> Result<(), RequestError> {
        self.control.claim_prefix(PrefixClaim::all(ip(address), bits))
    }

    /// Ends as a process that dies: nothing is given back.
    fn die(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it ends");
        }
    }
}

fn fetch(lab: &Lab, address: &str) -> String {
    let url = match ip(address) {
        IpAddr::V4(v4) => format!("http://{v4}/"),
        IpAddr::V6(v6) => format!("http://[{v6}]/"),
    };
    run(lab.outside("curl", &["-sS", "-g", "--max-time", "10", &url])).trim().to_owned()
}

fn owner(lab: &Lab, address: &str) -> String {
    let from = format!("{OUTSIDE}:9");
    let answer = lab.ask(&["explain", "sv0", "tcp", &from, &format!("{address}:80")]);
    answer["owners"][0]["name"].as_str().unwrap_or("nobody").to_owned()
}

#[test]
fn curl_and_ping_reach_every_address_of_a_clients_prefix_but_those_that_another_has() {
    if !is_installed("curl", "curl") || !is_installed("ping", "iputils-ping") {
        return;
    }
    let Some(lab) = Lab::with_usnetd(POLICY) else { return };
    // On the link, so that the other host asks who has each of them.
    run(lab.outside("ip", &["route", "add", "10.1.2.0/24", "dev", "cl0"]));
    run(lab.outside("ip", &["-6", "route", "add", "2001:db8:1::/64", "dev", "cl0"]));
    let (wide, narrow) = (Host::attach(&lab, "wide"), Host::attach(&lab, "narrow"));
    wide.claim("10.1.2.0", 24).expect("the prefix");
    wide.claim("2001:db8:1::", 64).expect("the prefix");
    narrow.claim("10.1.2.7", 32).expect("an address of it");
    for address in ["10.1.2.0", "10.1.2.6", "10.1.2.255", "2001:db8:1::1", "2001:db8:1::ffff:7"] {
        assert_eq!(fetch(&lab, address), "wide", "{address}");
        run(lab.outside("ping", &["-c", "1", "-W", "5", address]));
    }
    assert_eq!(fetch(&lab, "10.1.2.7"), "narrow");
    run(lab.outside("ping", &["-c", "1", "-W", "5", "10.1.2.7"]));
    // What others have is refused by name, and what policy does not give.
    let Err(RequestError::Refused { code, message }) = narrow.claim("10.1.2.0", 24) else {
        panic!("it was granted")
    };
    assert_eq!(code, RefusalCode::InUse);
    assert!(message.contains("10.1.2.0/24 is held by") && message.contains("(wide)"), "{message}");
    let Err(RequestError::Refused { code, message }) = narrow.claim("10.2.0.0", 24) else {
        panic!("it was granted")
    };
    assert_eq!(code, RefusalCode::NotPermitted);
    assert!(message.contains("10.1.0.0/16"), "what it might have: {message}");
    // Shown, and explained.
    let table = String::from_utf8(lab.ctl(&["rule", "list"]).stdout).expect("text");
    assert!(table.contains("10.1.2.0/24") && table.contains("2001:db8:1::/64"), "{table}");
    assert_eq!(
        (owner(&lab, "10.1.2.9"), owner(&lab, "10.1.2.7")),
        ("wide".into(), "narrow".into())
    );
    // The end of a client gives all back.
    narrow.die();
    assert_eq!(fetch(&lab, "10.1.2.7"), "wide");
    wide.die();
    assert_eq!(owner(&lab, "10.1.2.9"), "nobody");
    let table = String::from_utf8(lab.ctl(&["rule", "list"]).stdout).expect("text");
    assert!(!table.contains("10.1.2.") && !table.contains("2001:db8:1"), "{table}");
    lab.finish();
}
