//! The kernel's own stack behind a shared interface: all that it receives comes through the host
//! endpoint, all that it sends leaves by the interface itself.
//!
//! ```text
//!   peer: pv0 ---- sv0 --> packet socket --> [this test] --> u-sv0: kernel with 10.9.0.1, fd09::1
//!                   ^                                                   |
//!                   +---------------------------------------------------+
//! ```

mod isolated;

use isolated::{isolated, isolated_as, skip, two_hosts};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::pool::Pool;
use usnet_shmring::region::Writer;
use usnet_switch::config::Config;
use usnet_switch::daemon::interface::{self, Opened, Wires};
use usnet_switch::daemon::netmap::Cards;
use usnet_switch::net::Netlink;
use usnet_switch::net::namespace::{self, Namespace};
use usnet_switch::net::offload::{Offload, Offloads};
use usnet_switch::net::sysctl::Setting;
use usnet_switch::switch::Switch;
use usnet_switch::time::Time;

const PATIENCE: Duration = Duration::from_secs(20);

/// An open interface, and the pool of its ports.
struct Shared {
    opened: Opened,
    pool: Option<Pool>,
}

fn open(port: &str, host: &str) -> Shared {
    let mut text = format!("[[interface]]\nname = \"sv0\"\nport = \"{port}\"\nhost = \"{host}\"\n");
    if port == "af_xdp" {
        // So that all comes by the endpoint.
        text += "take = \"all\"\n";
    }
    let config = Config::parse(Path::new("test.toml"), &text).unwrap();
    let mut wires = Wires::new(&config.interfaces, 1).unwrap();
    let arena = Arena::reserve(2048, SlotSize::DEFAULT).unwrap();
    let range = arena.add_segment("test", Writer::Daemon, 2048, false).map(SlotRange::whole);
    let range = range.unwrap();
    let segment = Arc::clone(range.segment());
    let cards = Cards::over(segment);
    let opened = interface::open(&config.interfaces[0], 1, &mut wires, &cards).unwrap();
    Shared { opened, pool: Some(Pool::new(range).unwrap()) }
}

/// Carries what arrives on the interface to the kernel: a switch without clients. Returns how many frames.
fn carry(shared: &mut Shared, until: &AtomicBool) -> u64 {
    let Shared { opened: Opened { specs, .. }, pool } = shared;
    let (Some(spec), Some(pool)) = (specs.pop(), pool.take()) else {
        panic!("one worker, one part")
    };
    let mut switch = Switch::new(pool, 1);
    switch.add_interface(spec).unwrap();
    let start = Instant::now();
    while !until.load(Ordering::Relaxed) {
        let now = Time(u64::try_from(start.elapsed().as_nanos()).unwrap());
        if switch.step(now) == 0 {
            thread::sleep(Duration::from_micros(100));
        }
    }
    let snapshot = switch.snapshot();
    assert!(snapshot.frames_conserved && snapshot.slots_conserved, "{snapshot:#?}");
    let (audit, slots) = switch.close().audit();
    assert_eq!(audit.free, slots, "{audit:?}");
    snapshot.totals.to_ports
}

/// The next connection; fails if none comes.
fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                return stream;
            }
            Err(error) if start.elapsed() > PATIENCE => panic!("no connection: {error}"),
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Stops the carrier, also when a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A listener of this kernel is reached from the peer: `total` bytes come back.
fn fetch(peer: &Namespace, ip: &str, total: usize) -> usize {
    let listener = TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
    let to = listener.local_addr().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = accept(&listener);
            stream.read_exact(&mut [0]).unwrap();
            stream.write_all(&vec![0x5a; total]).unwrap();
        });
        peer.run(|| {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"?").unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            assert!(bytes.iter().all(|&b| b == 0x5a));
            bytes.len()
        })
        .unwrap()
    })
}

/// The peer sends much to a listener of this kernel, with its checksums left to "hardware".
fn upload(peer: &Namespace, ip: &str, total: usize) -> usize {
    let listener = TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
    let to = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let received = scope.spawn(|| {
            let mut stream = accept(&listener);
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes.len()
        });
        peer.run(|| {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&vec![0x5a; total]).unwrap();
        })
        .unwrap();
        received.join().unwrap()
    })
}

/// The kernel as the client: it asks a datagram service of the peer.
fn ask(peer: &Namespace, from: &str, at: &str) -> Vec<u8> {
    let server = peer.run(|| UdpSocket::bind((at.parse::<IpAddr>().unwrap(), 0)).unwrap()).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = UdpSocket::bind((from.parse::<IpAddr>().unwrap(), 0)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"question", server.local_addr().unwrap()).unwrap();
    let mut bytes = [0; 64];
    let (len, to) = server.recv_from(&mut bytes).unwrap();
    server.send_to(&bytes[..len], to).unwrap();
    let len = client.recv(&mut bytes).unwrap();
    bytes[..len].to_vec()
}

fn the_kernel_goes_on_serving(port: &str, host: &str, reverse_path: i32) {
    for scope in ["all", "default"] {
        Setting::Ipv4ReversePath.change(scope, reverse_path).unwrap().keep();
    }
    let peer = two_hosts();
    let no_segmentation = || {
        for offload in [Offload::TcpSegmentation, Offload::GenericSegmentation] {
            Offloads::of("pv0").unwrap().set(offload, false).unwrap();
        }
        assert_eq!(
            Offloads::of("pv0").unwrap().get(Offload::TransmitChecksum).unwrap(),
            Some(true)
        );
    };
    peer.run(no_segmentation).unwrap();
    let mut shared = open(port, host);
    let stop = AtomicBool::new(false);
    let carried = thread::scope(|scope| {
        let carrier = scope.spawn(|| carry(&mut shared, &stop));
        let stop = Stop(&stop);
        for (here, there) in [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")] {
            assert_eq!(fetch(&peer, here, 1 << 20), 1 << 20, "{here}");
            assert_eq!(upload(&peer, here, 1 << 20), 1 << 20, "{here}");
            assert_eq!(ask(&peer, here, there), b"question", "{here}");
        }
        drop(stop);
        carrier.join().unwrap()
    });
    assert!(carried > 1000, "only {carried} frames came by way of the endpoint");
    drop(shared);
    assert_eq!(fetch(&peer, "10.9.0.1", 1000), 1000, "as before");
    let links = Netlink::open().unwrap().links().unwrap();
    let left: Vec<_> = links.iter().map(|link| link.name.as_str()).filter(|n| *n != "lo").collect();
    assert_eq!(left, ["sv0"]);
    assert_eq!(Setting::Ipv4ReversePath.read("all").unwrap(), reverse_path);
}

fn tun_is_missing(name: &str) -> bool {
    let open = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    if let Err(error) = &open {
        skip(name, &format!("cannot open /dev/net/tun: {error} (run as root, modprobe tun)"));
    }
    open.is_err()
}

/// XDP programs and nodes of devices are root's, also in a network namespace of somebody else.
fn port_is_missing(port: &str, name: &str) -> bool {
    let is_missing = ["af_xdp", "macvtap"].contains(&port) && !rustix::process::geteuid().is_root();
    if is_missing {
        skip(name, &format!("{port} is for root only"));
    }
    is_missing
}

macro_rules! endpoint_tests {
    ($($name:ident: $port:literal, $host:literal, $reverse_path:literal;)*) => {$(
        #[test]
        fn $name() {
            let name = stringify!($name);
            if $host == "tap" && tun_is_missing(name) {
                return;
            }
            if port_is_missing($port, name) {
                return;
            }
            isolated(name, || the_kernel_goes_on_serving($port, $host, $reverse_path));
        }
    )*};
}

endpoint_tests! {
    the_kernel_goes_on_serving_behind_a_tap: "af_packet", "tap", 0;
    the_kernel_goes_on_serving_behind_a_tap_with_strict_reverse_paths: "af_packet", "tap", 1;
    the_kernel_goes_on_serving_behind_a_tap_with_loose_reverse_paths: "af_packet", "tap", 2;
    the_kernel_goes_on_serving_behind_a_veth: "af_packet", "veth", 0;
    the_kernel_goes_on_serving_behind_a_veth_with_strict_reverse_paths: "af_packet", "veth", 1;
    the_kernel_goes_on_serving_behind_a_veth_with_loose_reverse_paths: "af_packet", "veth", 2;
    the_kernel_goes_on_serving_behind_xdp_and_a_tap: "af_xdp", "tap", 0;
    the_kernel_goes_on_serving_behind_xdp_and_a_veth: "af_xdp", "veth", 1;
    the_kernel_goes_on_serving_behind_a_macvtap_and_a_tap: "macvtap", "tap", 0;
    the_kernel_goes_on_serving_behind_a_macvtap_and_a_veth: "macvtap", "veth", 1;
}

#[test]
fn an_ordinary_user_shares_an_interface_with_the_kernel() {
    let name = "an_ordinary_user_shares_an_interface_with_the_kernel";
    let nobody = rustix::process::geteuid().is_root().then_some(65534);
    isolated_as(nobody, name, || the_kernel_goes_on_serving("af_packet", "auto", 1));
}

/// Set in the child of the next test, to the kinds of port and of endpoint that it holds.
const HOLDER: &str = "USNET_TEST_HOLDS_ENDPOINT";

#[test]
fn nothing_is_left_of_a_shared_interface_after_sigkill() {
    let name = "nothing_is_left_of_a_shared_interface_after_sigkill";
    if let Ok(kinds) = std::env::var(HOLDER) {
        let (port, host) = kinds.split_once(' ').unwrap();
        let _shared = open(port, host);
        println!("SHARED");
        thread::sleep(Duration::from_secs(60));
        return;
    }
    let mut kinds = vec!["af_packet veth"];
    if !tun_is_missing(name) {
        kinds.push("af_packet tap");
    }
    for port in ["af_xdp", "macvtap"] {
        if !port_is_missing(port, name) {
            kinds.push(if port == "macvtap" { "macvtap veth" } else { "af_xdp veth" });
        }
    }
    isolated(name, || {
        let peer = two_hosts();
        for host in &kinds {
            let mut command = Command::new("/proc/self/exe");
            command.args(["--exact", name, "--nocapture"]).env(HOLDER, host).stdout(Stdio::piped());
            namespace::die_with_parent(&mut command);
            let mut holder = command.spawn().unwrap();
            let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
            assert!(lines.any(|line| line.unwrap().contains("SHARED")), "{host}");
            let links = || {
                let links = Netlink::open().unwrap().links().unwrap();
                links.into_iter().map(|link| link.name).filter(|n| n != "lo").collect::<Vec<_>>()
            };
            assert_eq!(links().len(), 2, "{host}: {:?}", links());
            holder.kill().unwrap();
            holder.wait().unwrap();
            // The kernel takes a namespace apart in its own time.
            let start = Instant::now();
            while links() != ["sv0"] {
                assert!(start.elapsed() < PATIENCE, "{host}: {:?}", links());
                thread::sleep(Duration::from_millis(10));
            }
            assert_eq!(fetch(&peer, "10.9.0.1", 1000), 1000, "{host}: the kernel hears again");
        }
    });
}
