//! A program of the kernel's and a client that ask a real DHCP server through one interface.

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::dhcpv4::{Event, RetryConfig, Socket};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};
use std::fs;
use usnet::device::Device;
use usnet::{Options, Session};
use usnet_tests::lab::{INSIDE, OUTSIDE, number};
use usnet_tests::steps::{run, spawn};
use usnet_tests::{Lab, is_installed};

const POLICY: &str = "[[policy]]\nany = true\ndhcp = true\n";
const PATIENCE: Duration = Duration::from_secs(40);
/// Of a lease, in seconds.
const LEASE: u32 = 10;

/// A client with nothing but smoltcp's DHCP.
struct Asker {
    device: Device,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    mac: [u8; 6],
}

impl Asker {
    fn attach(lab: &Lab) -> Self {
        let options = Options { socket: lab.socket(), ..Options::named("asker") };
        let (grant, _control, frames) = Session::attach(options).expect("a session").into_parts();
        let mut device = Device::new(frames, &grant);
        let link = HardwareAddress::Ethernet(EthernetAddress(grant.mac));
        let interface = Interface::new(Config::new(link), &mut device, Instant::now());
        let mut socket = Socket::new();
        let mut retry = RetryConfig::default();
        retry.discover_timeout = Duration::from_secs(2);
        retry.min_renew_timeout = Duration::from_secs(1);
        socket.set_retry_config(retry);
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(socket);
        Self { device, interface, sockets, socket, mac: grant.mac }
    }

    /// Works until `is_enough` says so of what was learned.
    fn work(
        &mut self,
        what: &str,
        mut is_enough: impl FnMut(&mut Interface, &mut Socket<'_>) -> bool,
    ) {
        let start = Instant::now();
        loop {
            assert!(Instant::now() < start + PATIENCE, "{what}: no answer");
            self.interface.poll(Instant::now(), &mut self.device, &mut self.sockets);
            self.device.flush().expect("the session lives");
            if is_enough(&mut self.interface, self.sockets.get_mut(self.socket)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Waits for a lease, and returns the address.
    fn lease(&mut self, what: &str) -> String {
        let mut leased = None;
        self.work(what, |interface, socket| {
            let Some(Event::Configured(config)) = socket.poll() else { return false };
            leased = Some(config.address.address().to_string());
            interface.update_ip_addrs(|addresses| {
                addresses.clear();
                addresses.push(IpCidr::Ipv4(config.address)).expect("room for one");
            });
            true
        });
        leased.expect("a lease")
    }
}

/// Of all frames that `id`'s session got.
fn received(lab: &Lab) -> u64 {
    number(&lab.stats()["sessions"], "delivered")
}

#[test]
fn kernel_and_client_each_get_a_lease_and_renew_it() {
    if !is_installed("busybox", "busybox") || !is_installed("ip", "iproute2") {
        return;
    }
    for port in ["af_packet", "af_xdp", "macvtap"] {
        let Some(lab) = Lab::with_usnetd(&format!("port = {port:?}\n{POLICY}")) else { return };
        let mut asker = Asker::attach(&lab);
        let file = |name: &str| lab.directory().join(name).display().to_string();
        // Behind one link address there is one lease, and it is for the address that is shared.
        let mac = usnet_switch::classify::Mac(asker.mac);
        let config = format!(
            "start 10.9.0.100\nend 10.9.0.110\ninterface cl0\nlease_file {}\npidfile {}\n\
             static_lease {mac} {INSIDE}\noption subnet 255.255.255.0\noption lease {LEASE}\n\
             min_lease 5\n",
            file("leases"),
            file("udhcpd.pid"),
        );
        fs::write(file("udhcpd.conf"), config).expect("the server's configuration");
        fs::write(file("leases"), []).expect("a file for leases");
        let _server = spawn(lab.outside("busybox", &["udhcpd", "-f", &file("udhcpd.conf")]));
        let script =
            format!("#!/bin/sh\n[ \"$1\" != bound ] || echo \"$ip\" > {}\n", file("bound"));
        fs::write(file("script"), script).expect("a script");
        run(lab.inside("chmod", &["+x", &file("script")]));
        let script = file("script");
        let ask = ["udhcpc", "-i", "sv0", "-f", "-n", "-q", "-t", "20", "-T", "1", "-s", &script];

        std::thread::scope(|threads| {
            let kernel = threads.spawn(|| run(lab.inside("busybox", &ask)));
            assert_eq!(asker.lease(port), INSIDE, "{port}");
            kernel.join().expect("a lease for the kernel");
        });
        let bound = fs::read_to_string(file("bound")).expect("the kernel's lease");
        assert_eq!(bound.trim(), INSIDE, "{port}");

        // Half of the lease later the client asks that server alone, from the address that is leased.
        let before = received(&lab);
        let mut expires = None;
        asker.work(port, |_, socket| {
            let now = socket.poll().is_some();
            let _ = expires.get_or_insert(Instant::now() + Duration::from_secs(u64::from(LEASE)));
            assert!(!now, "{port}: the lease was lost or is another");
            expires.is_some_and(|expires| Instant::now() > expires + Duration::from_secs(2))
        });
        assert!(received(&lab) > before, "{port}: renewed by {OUTSIDE}");
        lab.finish();
    }
}
