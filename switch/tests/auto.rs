//! `port = "auto"`: the first back end that can serve an interface does, and the status says why not a better one.

mod isolated;
mod served;

use isolated::{isolated, isolated_as, skip, two_hosts};
use serde_json::Value;
use served::Served;
use std::sync::Arc;
use usnet_switch::port::netmap::Module;
use usnet_switch::port::netmap::double::{Double, NicSpec, queue_pair};

const NOBODY: u32 = 65534;

/// What serves `sv0`, and what was passed over, with why.
fn chosen(interface: &Value) -> (&str, Vec<(&str, &str)>) {
    assert_eq!(interface["port"], interface["chosen"]["port"], "{interface}");
    let passed = interface["chosen"]["passed_over"].as_array().unwrap();
    let each = passed.iter().map(|p| (p["port"].as_str().unwrap(), p["why"].as_str().unwrap()));
    (interface["port"].as_str().unwrap(), each.collect())
}

fn has_no_netmap(name: &str) -> bool {
    let has_none = !std::path::Path::new(usnet_switch::port::netmap::PATH).exists();
    if !has_none {
        eprintln!("{name}: this machine has netmap, which would be chosen");
    }
    has_none
}

#[test]
fn xdp_sockets_serve_where_there_is_no_netmap() {
    let name = "xdp_sockets_serve_where_there_is_no_netmap";
    if !rustix::process::geteuid().is_root() {
        return skip(name, "XDP programs can only be loaded as root");
    }
    isolated(name, || {
        if !has_no_netmap(name) {
            return;
        }
        let _peer = two_hosts();
        let served = Served::start("auto", "port = \"auto\"", Arc::new(Module));
        let interface = served.interface();
        let (port, passed) = chosen(&interface);
        assert_eq!(port, "af_xdp");
        let [(netmap, why), (zero_copy, _)] = passed[..] else { panic!("{passed:?}") };
        assert_eq!((netmap, zero_copy), ("netmap", "af_xdp, zero-copy"));
        assert!(why.contains("load the module netmap"), "{why}");
        let text = served.ctl(&["status"]);
        assert!(text.contains("sv0 is served by af_xdp\n  not by netmap: "), "{text}");
    });
}

#[test]
fn packet_sockets_serve_who_may_have_nothing_better() {
    let name = "packet_sockets_serve_who_may_have_nothing_better";
    let user = rustix::process::geteuid().is_root().then_some(NOBODY);
    isolated_as(user, name, || {
        if !has_no_netmap(name) {
            return;
        }
        let _peer = two_hosts();
        let served = Served::start("auto", "port = \"auto\"", Arc::new(Module));
        let interface = served.interface();
        let (port, passed) = chosen(&interface);
        assert_eq!(port, "af_packet", "{passed:?}");
        let names: Vec<_> = passed.iter().map(|(port, _)| *port).collect();
        assert_eq!(names, ["netmap", "af_xdp", "macvtap"]);
        assert!(passed.iter().all(|(_, why)| !why.is_empty()), "{passed:?}");
    });
}

#[test]
fn netmap_serves_where_it_knows_the_interface_and_may_have_its_host_rings() {
    let name = "netmap_serves_where_it_knows_the_interface_and_may_have_its_host_rings";
    isolated(name, || {
        let _peer = two_hosts();
        let double = Double::new().unwrap();
        let (_wire, end) = queue_pair(256).unwrap();
        double.add_nic(NicSpec::new("sv0", Box::new(end))).unwrap();
        let served = Served::start("auto", "port = \"auto\"", Arc::new(double.clone()));
        assert_eq!(chosen(&served.interface()), ("netmap", vec![]));
        drop(served);
        let text = "port = \"auto\"\nhost = \"veth\"";
        let served = Served::start("auto", text, Arc::new(double));
        let interface = served.interface();
        let (port, passed) = chosen(&interface);
        assert_ne!(port, "netmap");
        assert_eq!(passed[0].0, "netmap");
        assert!(passed[0].1.contains("host rings"), "{passed:?}");
    });
}

#[test]
fn what_is_wrong_with_the_interface_is_said_once() {
    isolated("what_is_wrong_with_the_interface_is_said_once", || {
        let _peer = two_hosts();
        usnet_switch::net::Netlink::open().unwrap().set_down("sv0").unwrap();
        let config = "[[interface]]\nname = \"sv0\"\nport = \"auto\"\n";
        let config =
            usnet_switch::config::Config::parse(std::path::Path::new("t.toml"), config).unwrap();
        let mut prepared = usnet_switch::daemon::Prepared::new(&config, Arc::new(Module)).unwrap();
        let error = usnet_switch::daemon::ReadyInterface::open_all(&config, &mut prepared);
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "interface sv0 is down; set it up first");
    });
}
