//! Interfaces, addresses, offloads, settings and the kernel guard, on real kernels of namespaces.

mod isolated;

use isolated::{address, isolated, isolated_as, skip, two_hosts};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;
use usnet_switch::classify::Mac;
use usnet_switch::net::guard::{Guard, Pass};
use usnet_switch::net::namespace::{self, Namespace};
use usnet_switch::net::offload::{Offload, Offloads};
use usnet_switch::net::sysctl::Setting;
use usnet_switch::net::{KeptQdisc, Netlink, XdpFeatures};

const NOBODY: u32 = 65534;

#[test]
fn a_veth_pair_is_made_configured_and_removed() {
    isolated("a_veth_pair_is_made_configured_and_removed", || {
        let mut net = Netlink::open().unwrap();
        net.add_veth("sv0", "pv0", None).unwrap();
        assert!(net.add_veth("sv0", "pv1", None).unwrap_err().is_exists());
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        net.set_mac("sv0", mac).unwrap();
        net.set_mtu("sv0", 1400).unwrap();
        net.set_up("sv0").unwrap();
        let link = net.link("sv0").unwrap();
        assert_eq!((link.mac, link.mtu, link.kind.as_deref()), (mac, 1400, Some("veth")));
        assert!(link.is_up() && link.is_ethernet && !link.is_running(), "its peer is down");
        net.set_up("pv0").unwrap();
        assert!(net.link("sv0").unwrap().is_running());
        net.set_down("sv0").unwrap();
        assert!(!net.link("sv0").unwrap().is_up());
        net.delete_link("pv0").unwrap();
        assert!(net.link("sv0").is_err(), "both ends go together");
        let error = net.set_mtu("lo", 1).err().map(|e| e.to_string());
        assert!(error.is_none_or(|text| text.starts_with("cannot set the MTU of lo")));
    });
}

#[test]
fn a_refusal_names_the_operation_the_interface_and_the_reason() {
    isolated("a_refusal_names_the_operation_the_interface_and_the_reason", || {
        let mut net = Netlink::open().unwrap();
        net.add_veth("sv0", "pv0", None).unwrap();
        let error = net.set_mac("sv0", Mac::BROADCAST).unwrap_err();
        assert!(error.to_string().starts_with("cannot set the Ethernet address of sv0"), "{error}");
        assert_eq!(error.errno(), Some(99), "EADDRNOTAVAIL");
    });
}

#[test]
fn addresses_and_routes_come_and_go() {
    isolated("addresses_and_routes_come_and_go", || {
        let _peer = two_hosts();
        let mut net = Netlink::open().unwrap();
        let (v4, v6) = (address("10.9.0.1/24"), address("fd09::1/64"));
        let found = net.addresses("sv0").unwrap();
        assert!(found.contains(&v4) && found.contains(&v6), "{found:?}");
        let far: IpAddr = "192.0.2.1".parse().unwrap();
        let gateway: IpAddr = "10.9.0.2".parse().unwrap();
        let far_is_reachable = || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(SocketAddr::new(far, 9)).is_ok()
        };
        assert!(!far_is_reachable());
        net.add_route(far, 32, Some(gateway), "sv0").unwrap();
        assert!(far_is_reachable());
        net.remove_route(far, 32, Some(gateway), "sv0").unwrap();
        assert!(!far_is_reachable());
        net.add_default_route(gateway, "sv0").unwrap();
        net.add_default_route("fd09::2".parse().unwrap(), "sv0").unwrap();
        assert!(far_is_reachable());
        net.remove_address("sv0", v4).unwrap();
        net.remove_address("sv0", v6).unwrap();
        let found = net.addresses("sv0").unwrap();
        assert!(!found.contains(&v4) && !found.contains(&v6), "{found:?}");
    });
}

#[test]
fn offloads_are_switched_off_and_restored() {
    isolated("offloads_are_switched_off_and_restored", || {
        let _peer = two_hosts();
        let offloads = Offloads::of("sv0").unwrap();
        let state = || Offload::ALL.map(|offload| offloads.get(offload).unwrap());
        let before = state();
        assert_eq!(offloads.get(Offload::TransmitChecksum).unwrap(), Some(true));
        assert_eq!(offloads.get(Offload::TcpSegmentation).unwrap(), Some(true));
        let saved = offloads.disable().unwrap();
        assert_eq!(offloads.get(Offload::TransmitChecksum).unwrap(), Some(false));
        assert_eq!(offloads.get(Offload::TcpSegmentation).unwrap(), Some(false));
        offloads.restore(&saved).unwrap();
        assert_eq!(state(), before);
        let error = Offloads::of("absent").unwrap().disable().unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
    });
}

#[test]
fn a_queueing_discipline_that_was_replaced_is_put_back() {
    isolated("a_queueing_discipline_that_was_replaced_is_put_back", || {
        let _peer = two_hosts();
        let link = || Netlink::open().unwrap().link("sv0").unwrap();
        let before = link();
        assert_eq!(before.qdisc.as_deref(), Some("noqueue"));
        let kept = KeptQdisc::of(&before);
        let tc = ["qdisc", "replace", "dev", "sv0", "root", "pfifo"];
        assert!(std::process::Command::new("tc").args(tc).status().unwrap().success());
        assert_eq!(link().qdisc.as_deref(), Some("pfifo"));
        drop(kept);
        assert_eq!(link().qdisc, before.qdisc);
        Netlink::open().unwrap().reset_qdisc("sv0").unwrap();
        let error = Netlink::open().unwrap().reset_qdisc("absent").unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
    });
}

#[test]
fn a_setting_goes_back_to_what_it_was() {
    isolated("a_setting_goes_back_to_what_it_was", || {
        let _peer = two_hosts();
        let setting = Setting::Ipv4ReversePath;
        let before = setting.read("sv0").unwrap();
        let other = (before + 1) % 3;
        let changed = setting.change("sv0", other).unwrap();
        assert_eq!((setting.read("sv0").unwrap(), changed.before()), (other, Some(before)));
        drop(changed);
        assert_eq!(setting.read("sv0").unwrap(), before);
        setting.change("sv0", other).unwrap().keep();
        assert_eq!(setting.read("sv0").unwrap(), other);
        let changed = Setting::Ipv6Disable.change("sv0", 1).unwrap();
        changed.restore().unwrap();
        assert_eq!(Setting::Ipv6Disable.read("sv0").unwrap(), 0);
    });
}

#[test]
fn two_namespaces_talk_over_their_veth_and_a_child_lives_where_it_was_put() {
    isolated("two_namespaces_talk_over_their_veth_and_a_child_lives_where_it_was_put", || {
        let peer = two_hosts();
        for ip in ["10.9.0.1", "fd09::1"] {
            let listener = TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
            let to = listener.local_addr().unwrap();
            let mut there = peer.run(|| TcpStream::connect(to).unwrap()).unwrap();
            let (mut here, _) = listener.accept().unwrap();
            there.write_all(b"over the veth").unwrap();
            let mut bytes = [0; 13];
            here.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"over the veth");
        }
        let mut command = Command::new("cat");
        command.arg("/proc/self/net/dev");
        peer.adopt(&mut command).unwrap();
        let interfaces = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(interfaces.contains("pv0") && !interfaces.contains("sv0"), "{interfaces}");
    });
}

#[test]
fn an_ordinary_user_gets_a_namespace_and_a_guard() {
    let name = "an_ordinary_user_gets_a_namespace_and_a_guard";
    let root = rustix::process::geteuid().is_root();
    isolated_as(root.then_some(NOBODY), name, || {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        assert_ne!(map.split_whitespace().nth(1), Some("0"), "mapped from root: {map}");
        guard_keeps_the_kernel_quiet();
    });
}

#[test]
fn the_guard_keeps_the_kernel_quiet_while_packet_sockets_hear() {
    let name = "the_guard_keeps_the_kernel_quiet_while_packet_sockets_hear";
    isolated(name, guard_keeps_the_kernel_quiet);
}

/// `ETH_P_ALL`: a packet socket for it hears before the guard, for anything else behind it.
const EVERYTHING: u16 = 3;

/// A packet socket for frames of one EtherType, on all interfaces of the namespace.
fn listen(ethertype: u16) -> OwnedFd {
    let raw = rustix::net::RawProtocol::new(u32::from(ethertype.to_be())).unwrap();
    let protocol = rustix::net::Protocol::from_raw(raw);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(protocol)).unwrap()
}

/// Counts the frames heard whose bytes contain `needle`.
fn heard(socket: &OwnedFd, needle: &[u8]) -> usize {
    let mut buffer = [0; 2048];
    let mut count = 0;
    while let Ok((_, len)) = rustix::net::recv(socket, &mut buffer, rustix::net::RecvFlags::empty())
    {
        count += usize::from(buffer[..len].windows(needle.len()).any(|w| w == needle));
    }
    count
}

/// Whether a datagram from the peer to the kernel's socket arrives.
fn arrives(peer: &Namespace, socket: &UdpSocket) -> bool {
    arrives_within(Duration::from_secs(20), peer, socket)
}

/// Whether one is kept away: if it came later than this, the test would miss it, not fail.
fn is_kept_away(peer: &Namespace, socket: &UdpSocket) -> bool {
    !arrives_within(Duration::from_millis(200), peer, socket)
}

fn arrives_within(time: Duration, peer: &Namespace, socket: &UdpSocket) -> bool {
    let to = socket.local_addr().unwrap();
    socket.set_read_timeout(Some(time)).unwrap();
    peer.run(|| {
        let ip: IpAddr = if to.is_ipv4() { "10.9.0.2" } else { "fd09::2" }.parse().unwrap();
        UdpSocket::bind((ip, 0)).unwrap().send_to(b"to the kernel", to).unwrap();
    })
    .unwrap();
    socket.recv(&mut [0; 64]).is_ok()
}

fn guard_keeps_the_kernel_quiet() {
    let peer = two_hosts();
    let sockets = ["10.9.0.1", "fd09::1"]
        .map(|ip| UdpSocket::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap());
    assert!(sockets.iter().all(|socket| arrives(&peer, socket)), "before");

    let guard = Guard::install("sv0", &Pass::NEIGHBOURS).unwrap();
    let packets = listen(EVERYTHING);
    // The neighbour tables are forgotten with the addresses, so ARP and discovery must pass too.
    peer.run(|| {
        let mut net = Netlink::open().unwrap();
        net.set_down("pv0").unwrap();
        net.set_up("pv0").unwrap();
        net.add_address("pv0", address("fd09::2/64")).unwrap();
    })
    .unwrap();
    assert!(sockets.iter().all(|socket| is_kept_away(&peer, socket)), "guarded");
    assert!(heard(&packets, b"to the kernel") >= 2, "a packet socket hears before the guard");
    let again = Guard::install("sv0", &Pass::NEIGHBOURS).unwrap_err();
    assert!(again.to_string().contains("sv0"), "{again}");

    guard.remove().unwrap();
    assert!(sockets.iter().all(|socket| arrives(&peer, socket)), "after");
    drop(Guard::install("sv0", &Pass::NEIGHBOURS).unwrap());
    assert!(sockets.iter().all(|socket| arrives(&peer, socket)), "after a drop");
}

/// The child of the next test: guards `sv0` and waits to be killed.
const HOLDER: &str = "USNET_TEST_HOLDS_GUARD";

#[test]
fn a_guard_ends_with_its_process_by_sigkill() {
    let name = "a_guard_ends_with_its_process_by_sigkill";
    if std::env::var_os(HOLDER).is_some() {
        let _guard = Guard::install("sv0", &Pass::NEIGHBOURS).unwrap();
        println!("GUARDED");
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    isolated(name, || {
        let peer = two_hosts();
        let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
        assert!(arrives(&peer, &socket), "before");
        let mut command = Command::new("/proc/self/exe");
        command.args(["--exact", name, "--nocapture"]).env(HOLDER, "1").stdout(Stdio::piped());
        namespace::die_with_parent(&mut command);
        let mut holder = command.spawn().unwrap();
        let mut output = String::new();
        let mut stdout = holder.stdout.take().unwrap();
        while !output.contains("GUARDED") {
            let mut bytes = [0; 256];
            let len = stdout.read(&mut bytes).unwrap();
            assert_ne!(len, 0, "the holder ended: {output}");
            output.push_str(&String::from_utf8_lossy(&bytes[..len]));
        }
        assert!(is_kept_away(&peer, &socket), "guarded");
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert!(arrives(&peer, &socket), "after the kill");
    });
}

#[test]
fn no_guard_without_the_privilege() {
    let name = "no_guard_without_the_privilege";
    if rustix::process::geteuid().is_root() {
        return skip_unless_child(name);
    }
    let error = Guard::install("lo", &Pass::NEIGHBOURS).unwrap_err();
    assert!(error.is_permission(), "{error}");
}

/// Runs a test of a user without privileges as `nobody`.
fn skip_unless_child(name: &str) {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", name]).uid(NOBODY).gid(NOBODY).current_dir("/");
    match command.output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) => skip(name, &error.to_string()),
    }
}

#[test]
fn what_a_veth_can_do_with_xdp_sockets_is_known() {
    isolated("what_a_veth_can_do_with_xdp_sockets_is_known", || {
        let mut net = Netlink::open().unwrap();
        net.add_veth("sv0", "pv0", None).unwrap();
        let index = net.link("sv0").unwrap().index;
        match XdpFeatures::of(index).unwrap() {
            // Its driver runs programs, and leaves the slots to the kernel.
            Some(features) => {
                let expected = XdpFeatures { programs: true, zero_copy: false, pieces: 1 };
                assert_eq!(features, expected);
            }
            None => eprintln!("this kernel does not say (Linux 6.3)"),
        }
        net.delete_link("sv0").unwrap();
        let error = XdpFeatures::of(index).unwrap_err();
        assert!(error.to_string().contains(&format!("link {index}")), "{error}");
    });
}
