//! Files in, settings or complaints out.

use super::*;
use crate::classify::Protocol;
use proptest::prelude::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("t.toml"), text)
}

const ONE: &str = "[[interface]]\nname = \"eth1\"\n";

/// The complaint about `text`, which must hold each of `parts`.
fn complaint(text: &str, parts: &[&str]) {
    let error = parse(text).expect_err(text).to_string();
    for part in parts {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[test]
fn one_interface_by_name_is_enough() {
    let config = parse(ONE).unwrap();
    assert_eq!(config.control.socket, Path::new(DEFAULT_SOCKET));
    assert_eq!((config.control.mode, config.control.group), (0o660, None));
    assert_eq!(config.memory.slot_size.bytes(), 2048);
    let [interface] = config.interfaces.as_slice() else { panic!() };
    assert_eq!((interface.port, interface.host), (Backend::AfPacket, HostEndpoint::Auto));
}

#[test]
fn another_interface_may_be_behind_with_a_port_of_its_own() {
    let bump = |host| format!("{ONE}mac = \"02:00:00:00:00:09\"\nhost = {host}\n");
    let config = parse(&bump("{ interface = \"eth2\" }")).unwrap();
    let [interface] = config.interfaces.as_slice() else { panic!() };
    let behind = |port| Some(Behind { interface: "eth2".into(), port });
    assert_eq!(
        (interface.host, &interface.behind),
        (HostEndpoint::None, &behind(Backend::AfPacket))
    );
    assert_eq!(interface.mac, Some(Mac([2, 0, 0, 0, 0, 9])), "of who is behind");
    let config = parse(&bump("{ interface = \"eth2\", port = \"netmap\" }")).unwrap();
    assert_eq!(config.interfaces[0].behind, behind(Backend::Netmap));
}

#[test]
fn without_policies_only_root_and_the_own_user_may_attach() {
    let config = parse(ONE).unwrap();
    let own = rustix::process::geteuid().as_raw();
    for (uid, may) in [(0, true), (own, true), (own + 1, false), (65_534, false)] {
        let peer = Peer { uid, ..Peer::default() };
        assert_eq!(matching(&config.policies, &peer, "eth1").is_some(), may, "{uid}");
    }
}

#[test]
fn the_first_policy_that_fits_decides() {
    let text = "[[policy]]\nuid = 7\ninterfaces = [\"eth1\"]\nports = [\"tcp/80\"]\n\
                [[policy]]\ngid = 9\nmode = \"shared\"\ngroup = \"fast\"\n\
                [[policy]]\nany = true\nquota = { sessions = 1 }\n";
    let config = parse(&format!("{ONE}[[interface]]\nname = \"eth2\"\n{text}")).unwrap();
    let find = |uid, groups: &[u32], interface| {
        let peer = Peer { uid, groups: groups.to_vec(), ..Peer::default() };
        matching(&config.policies, &peer, interface).map(|(index, _)| index)
    };
    assert_eq!(find(7, &[9], "eth1"), Some(0));
    assert_eq!(find(7, &[9], "eth2"), Some(1));
    assert_eq!(find(8, &[], "eth2"), Some(2));
    assert!(config.policies[0].services.contains(Protocol::TCP, 80, 1));
    assert!(!config.policies[0].services.contains(Protocol::UDP, 80, 1));
    assert_eq!(config.policies[2].quota.sessions, 1);
}

#[test]
fn every_complaint_names_file_key_value_and_what_is_allowed() {
    complaint("", &["t.toml", "interface", "at least one"]);
    complaint("[memroy]\n", &["t.toml:1", "memroy", "expected one of", "`memory`"]);
    complaint("[worker]\nspin_us = -1\n", &["t.toml:2", "-1", "u32", "spin_us"]);
    complaint("[[interface]]\nname = \"a\"\nport = \"dpdk\"\n", &["t.toml:3", "dpdk", "af_packet"]);
    let key = |table: &str, parts: &[&str]| complaint(&format!("{ONE}{table}"), parts);
    key("[memory]\nslot_size = 3000", &["memory.slot_size = 3000", "2048, 4096"]);
    key("[memory]\nport_slots = 1", &["memory.port_slots = 1", "from 1024 to"]);
    key("[control]\nmode = \"999\"", &["control.mode = \"999\"", "octal"]);
    key("[control]\nsocket = \"here\"", &["control.socket = \"here\"", "absolute"]);
    key("[control]\ngroup = \"no such\"", &["control.group = \"no such\"", "group"]);
    key("[[interface]]\nname = \"eth1\"", &["interface[1].name = \"eth1\"", "once"]);
    key("[[interface]]\nname = \"a b\"", &["interface[1].name = \"a b\"", "without space"]);
    key("[[interface]]\nname = \"w\"\nport = \"wire\"", &["interface[1].addresses", "given"]);
    key(
        "[[interface]]\nname = \"w\"\nport = \"wire\"\naddresses = [\"10.0.0.1\", \"224.0.0.1/4\"]",
        &["interface[1].addresses[0] = \"10.0.0.1\"", "prefix length"],
    );
    key(
        "[[interface]]\nname = \"w\"\nport = \"tap\"\nhost = \"veth\"",
        &["interface[1].host = \"veth\"", "must be \"none\""],
    );
    key(
        "[[interface]]\nname = \"w\"\nport = \"tap\"\nnetwork = \"n\"",
        &["interface[1].network = \"n\"", "only with port \"wire\""],
    );
    key(
        "[[interface]]\nname = \"w\"\nport = \"tap\"\nmac = \"01:00:00:00:00:01\"\nmtu = 9000",
        &[
            "interface[1].mac = \"01:",
            "unicast",
            "interface[1].mtu = 9000: must be from 576 to 2026",
        ],
    );
    key("host = \"tab\"", &["t.toml:3", "tab", "\"tap\"", "{ interface = \"NAME\" }"]);
    key("host = { interface = \"eth1\" }", &["interface[0].host.interface = \"eth1\"", "once"]);
    key("host = { interface = \"a b\" }", &["interface[0].host.interface = \"a b\"", "space"]);
    key(
        "host = { interface = \"eth2\" }\n[[interface]]\nname = \"eth2\"",
        &["interface[1].name = \"eth2\"", "once"],
    );
    key(
        "host = { interface = \"eth2\", port = \"tap\" }",
        &["interface[0].host = { interface = \"eth2\"", "both sides"],
    );
    key(
        "port = \"wire\"\naddresses = [\"10.0.0.1/24\"]\nhost = { interface = \"eth2\" }",
        &["interface[0].host", "both sides"],
    );
    for bump in [
        "port = \"af_xdp\"\ntake = \"all\"\nhost = { interface = \"eth2\" }",
        "port = \"af_xdp\"\nhost = { interface = \"eth2\", port = \"netmap\" }",
        "host = { interface = \"eth2\", port = \"af_xdp\" }",
    ] {
        key(bump, &["interface[0].host = { interface = \"eth2\"", "XDP", "port \"af_packet\" or"]);
    }
    key(
        "macvtap = \"bridge\"",
        &["interface[0].macvtap = \"bridge\"", "only with port \"macvtap\""],
    );
    let bridge = "port = \"macvtap\"\nmacvtap = \"bridge\"\n";
    key(bridge, &["interface[0].addresses = []", "addresses of its own"]);
    let bridge = format!("{bridge}addresses = [\"10.0.0.9/24\"]\n");
    key(&format!("{bridge}host = \"tap\""), &["interface[0].host = \"tap\"", "bridge"]);
    key(
        "port = \"macvtap\"\nmac = \"02:00:00:00:00:01\"",
        &["interface[0].mac", "a bridged macvtap"],
    );
    parse(&format!("{ONE}{bridge}mac = \"02:00:00:00:00:01\"\n")).unwrap();
    parse(&format!("{ONE}port = \"macvtap\"\nhost = \"veth\"\n")).unwrap();
    let wall = "port = \"af_xdp\"\ntake = \"firewall\"\n";
    key(&format!("{wall}host = \"tap\""), &["interface[0].host = \"tap\"", "reaches it directly"]);
    let many: Vec<String> = (1..=17).map(|n| format!("\"10.0.0.{n}/24\"")).collect();
    key(
        &format!("{wall}addresses = [{}]", many.join(",")),
        &["interface[0].addresses", "at most 16"],
    );
    key(&format!("{wall}on_unmatched = \"reset\""), &["interface[0].on_unmatched", "firewall"]);
    key("on_unmatched = \"reset\"", &["interface[0].on_unmatched = \"reset\"", "\"none\""]);
    key("port = \"af_xdp\"\nhost_ping = true", &["interface[0].host_ping = true", "\"firewall\""]);
    key("take = \"firewall\"", &["interface[0].take = \"firewall\"", "only with port \"af_xdp\""]);
    let auto = "port = \"auto\"\ntake = \"firewall\"";
    key(auto, &["interface[0].take = \"firewall\"", "only with port \"af_xdp\""]);
    key("busy_poll = {}", &["interface[0].busy_poll = { us = 20, budget = 64 }", "\"af_xdp\""]);
    let polled = "port = \"af_xdp\"\nbusy_poll = { us = 0, budget = 2000 }";
    key(polled, &["busy_poll.us = 0: must be from 1", "busy_poll.budget = 2000: must be"]);
    key("take = \"all\"", &["interface[0].take = \"all\"", "only with port \"af_xdp\""]);
    key("rss = \"leave\"", &["interface[0].rss = \"leave\"", "only with port \"af_xdp\""]);
    parse(&format!("{ONE}port = \"auto\"\nrss = \"leave\"\n")).unwrap();
    key("[[policy]]\nuid = 1\nany = true", &["policy[0] = { uid, any }", "exactly one"]);
    key("[[policy]]\n", &["policy[0] = {  }", "exactly one"]);
    key("[[policy]]\nany = true\nmode = \"shared\"", &["policy[0].group", "is needed"]);
    key("[[policy]]\nany = true\ngroup = \"g\"", &["policy[0].group = \"g\"", "only for mode"]);
    key("[[policy]]\nuid = \"no such\"", &["policy[0].uid = \"no such\"", "a user"]);
    key("[[policy]]\nuid = [1]", &["t.toml:4", "a number or a name", "uid = [1]"]);
    key(
        "[[policy]]\nany = true\ninterfaces = [\"eth9\"]\nports = [\"tcp/0\"]",
        &["policy[0].interfaces[0] = \"eth9\"", "[[interface]]", "policy[0].ports[0] = \"tcp/0\""],
    );
    key(
        "[[policy]]\nany = true\nquota = { ring_capacity = 1000, sessions = 0 }",
        &["policy[0].quota.ring_capacity = 1000", "power of two", "policy[0].quota.sessions = 0"],
    );
    key(
        "[[policy]]\nany = true\nown_addresses = [\"224.0.0.1\"]",
        &["policy[0].own_addresses[0] = 224.0.0.1", "unicast"],
    );
    for wrong in [
        "10.1.0.1",
        "10.0.0.0/7",
        "224.0.0.0/8",
        "ff15::/16",
        "127.0.0.0/8",
        "::/64",
        "10.1.0.0/33",
    ] {
        key(
            &format!("[[policy]]\nany = true\nown_prefixes = [\"{wrong}\"]"),
            &[&format!("policy[0].own_prefixes[0] = \"{wrong}\""), "with one prefix"],
        );
    }
    key(
        "[[policy]]\nany = true\nown_prefixes = [\"10.1.2.0/24\", \"10.1.0.0/16\"]",
        &["policy[0].own_prefixes[1] = \"10.1.0.0/16\"", "must not overlap 10.1.2.0/24"],
    );
    for wrong in ["10.0.0.1", "224.0.0.0/3", "ff00::/7", "fe80::1", "224.0.0.1/33", "all"] {
        key(
            &format!("[[policy]]\nany = true\ngroups = [\"any\", \"{wrong}\"]"),
            &[&format!("policy[0].groups[1] = \"{wrong}\""), "a group"],
        );
    }
}

#[test]
fn addresses_of_policies_must_be_those_of_their_interfaces() {
    let policy = "[[policy]]\nany = true\naddresses = [\"10.0.0.1\"]\n\
                  own_addresses = [\"10.0.0.7\", \"10.0.1.7\", \"10.0.0.2\"]\n\
                  own_prefixes = [\"10.0.0.128/25\", \"10.1.0.0/16\", \"10.0.0.0/28\"]\n";
    let config = parse(&format!("{ONE}{policy}")).unwrap();
    let networks = ["10.0.0.2/24".parse().unwrap()];
    let error = config.check_addresses(&[("eth1", &networks)]).unwrap_err().to_string();
    let lines: Vec<_> = error.lines().collect();
    assert!(lines[0].contains("policy[0].addresses[0] = 10.0.0.1: must be an address"), "{error}");
    assert!(lines[1].contains("policy[0].own_addresses[1] = 10.0.1.7: must lie"), "{error}");
    assert!(lines[2].contains("policy[0].own_addresses[2] = 10.0.0.2: must not"), "{error}");
    let contains = "policy[0].own_prefixes[2] = 10.0.0.0/28: must not contain 10.0.0.2";
    assert!(lines[3].contains(contains), "{error}");
    assert_eq!(lines.len(), 4);
}

#[test]
fn all_problems_of_a_file_are_told_at_once() {
    let Err(ConfigError::Invalid { problems, .. }) =
        parse("[memory]\nslot_size = 1\n[worker]\nspin_us = 9999999\n")
    else {
        panic!()
    };
    let keys: Vec<_> = problems.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(keys, ["memory.slot_size", "worker.spin_us", "interface"]);
}

#[test]
fn the_effective_settings_are_a_file_that_gives_the_same() {
    let full = "[control]\nsocket = \"/tmp/s\"\nmode = \"0600\"\ngroup = 0\n\
                [worker]\ncpu = 1\nbusy_poll = true\n\
                [[interface]]\nname = \"w0\"\nport = \"wire\"\naddresses = [\"10.0.0.1/24\"]\n\
                gateways = [\"10.0.0.254\"]\nhost_ports = [\"tcp/22\"]\nmtu = 1400\non_unmatched = \"unreachable\"\n\
                mac = \"02:00:00:00:00:01\"\n\
                [[policy]]\ngid = \"root\"\nmode = \"shared\"\ngroup = \"g\"\n\
                own_addresses = [\"10.0.0.7\"]\naddresses = []\nown_prefixes = [\"10.1.0.0/24\", \"2001:db8::/32\"]\n\
                groups = [\"224.0.0.251\", \"ff15::/16\", \"any\"]\ndhcp = true\neapol = true\n";
    let bump = &format!("{ONE}host = {{ interface = \"eth2\" }}\nhost_ports = [\"tcp/22\"]\n");
    for text in [ONE, full, bump] {
        let config = parse(text).unwrap();
        let again = toml::to_string_pretty(config.effective()).unwrap();
        assert_eq!(parse(&again).unwrap(), config, "{again}");
    }
}

#[test]
fn the_example_in_the_documentation_is_accepted() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/usnetd.toml");
    let text = std::fs::read_to_string(path).unwrap();
    parse(&text).unwrap();
    // What is commented out with `#key` is accepted too; explanations begin with `# `.
    let uncommented: Vec<_> = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest,
            _ => line,
        })
        .collect();
    let config = parse(&uncommented.join("\n")).unwrap();
    assert!(config.interfaces.len() > 1 && config.policies.len() > 2);
}

#[test]
fn a_network_contains_its_own_and_no_other() {
    let network: Network = "10.1.2.3/23".parse().unwrap();
    for (address, inside) in [("10.1.3.255", true), ("10.1.4.0", false), ("::1", false)] {
        assert_eq!(network.contains(address.parse().unwrap()), inside, "{address}");
    }
    assert!("0.0.0.0/0".parse::<Network>().unwrap().contains("1.2.3.4".parse().unwrap()));
    assert!("2001:db8::/64".parse::<Network>().unwrap().contains("2001:db8::9".parse().unwrap()));
    for wrong in ["10.0.0.1", "10.0.0.1/33", "::/129", "x/1", "10.0.0.1/-1"] {
        assert!(wrong.parse::<Network>().is_err(), "{wrong}");
    }
}

fn service() -> impl Strategy<Value = (&'static str, u16, u16)> {
    (prop::sample::select(vec!["tcp", "udp", "sctp"]), 1..=u16::MAX, 0..300_u16)
        .prop_map(|(name, first, more)| (name, first, first.saturating_add(more)))
}

proptest! {
    /// A set holds exactly the ports of its parts, however they overlap, and survives its own text.
    #[test]
    fn a_set_of_services_is_the_union_of_its_texts(
        parts in prop::collection::vec(service(), 0..8),
        probe in service(),
    ) {
        let texts: Vec<_> = parts.iter().map(|(n, a, b)| format!("{n}/{a}-{b}")).collect();
        let set = Services::parse(&texts).unwrap();
        let (name, first, last) = probe;
        let all = (first..=last).all(|port| {
            parts.iter().any(|(n, a, b)| *n == name && (*a..=*b).contains(&port))
        });
        let protocol = match name {
            "tcp" => Protocol::TCP,
            "udp" => Protocol::UDP,
            _ => Protocol::SCTP,
        };
        prop_assert_eq!(set.contains(protocol, first, last - first + 1), all);
        prop_assert_eq!(&Services::parse(&set.to_texts()).unwrap(), &set);
    }

    /// Whatever the text, there is an answer.
    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC*") {
        let _ = parse(&text);
        let _ = text.parse::<Services>();
        let _ = text.parse::<Network>();
    }
}

#[test]
fn clients_that_are_known_have_a_user_a_place_and_ports_of_their_own() {
    let file = |clients: &str| {
        let text = format!(
            "[[interface]]\nname = \"eth0\"\nhost_ports = [\"tcp/22\"]\nflow_ports = [\"udp/99\"]\n{clients}"
        );
        Config::parse(Path::new("usnetd.toml"), &text).map_err(|error| error.to_string())
    };
    let client = |more: &str| format!("[[client]]\ninterface = \"eth0\"\n{more}\n");
    let web = client("name = \"web\"\nuid = 7\nports = [\"tcp/80-89\"]");
    let known = file(&web).unwrap();
    let one = &known.clients[0];
    assert_eq!((one.name.as_str(), one.uid, one.gid, one.address), ("web", 7, None, None));
    assert!(one.ports.contains(crate::classify::Protocol::TCP, 80, 10));
    let known = [("eth0", &[Network::new("10.0.0.1".parse().unwrap(), 24).unwrap()][..])];
    let elsewhere = client("name = \"a\"\nuid = 7\nports = [\"tcp/1\"]\naddress = \"10.0.0.2\"");
    let error = file(&elsewhere).unwrap().check_addresses(&known).unwrap_err().to_string();
    assert!(error.contains("client[0].address = 10.0.0.2: must be an address of its"), "{error}");
    for (more, says) in [
        ("name = \"a\"\nports = [\"tcp/1\"]", "missing field `uid`"),
        ("name = \"\"\nuid = 7\nports = [\"tcp/1\"]", "client[1].name"),
        ("name = \"web\"\nuid = 7\nports = [\"tcp/1\"]", "that no other client has"),
        ("name = \"a\"\nuid = 7\nports = []", "client[1].ports = : must be 1 to 1024"),
        ("name = \"a\"\nuid = 7\nports = [\"udp\"]", "must be 1 to 1024 ports"),
        (
            "name = \"a\"\nuid = 7\nports = [\"tcp/20-22\"]",
            "must not be those of the interface's host_ports",
        ),
        (
            "name = \"a\"\nuid = 7\nports = [\"udp/99\"]",
            "must not be those of the interface's flow_ports",
        ),
        ("name = \"a\"\nuid = 7\nports = [\"tcp/89\"]", "must not be those of client \"web\""),
        (
            "name = \"a\"\nuid = 7\nports = [\"tcp/1\"]\naddress = \"x\"",
            "client[1].address = \"x\"",
        ),
    ] {
        let error = file(&format!("{web}{}", client(more))).unwrap_err();
        assert!(error.contains(says), "{more}: {error}");
    }
}

/// An interface and what `more` says of another that is a VLAN.
fn with_vlan(more: &str) -> String {
    format!("[[interface]]\nname = \"eth1.42\"\naddresses = [\"10.42.0.1/24\"]\n{more}\n{ONE}")
}

#[test]
fn a_vlan_is_opened_after_what_it_is_of_and_has_no_other_port() {
    let config = parse(&with_vlan("vlan = { of = \"eth1\", id = 42 }")).unwrap();
    let [parent, vlan] = config.interfaces.as_slice() else { panic!() };
    assert_eq!((parent.name.as_str(), &parent.vlan), ("eth1", &None));
    assert_eq!(vlan.vlan, Some(Vlan { of: "eth1".into(), id: 42 }));
    assert_eq!((vlan.port, vlan.host), (Backend::Vlan, HostEndpoint::None));
    let host = "vlan = { of = \"eth1\", id = 4094 }\nhost = \"tap\"\nflow_ports = [\"udp/1-9\"]\nmtu = 1400";
    let config = parse(&with_vlan(host)).unwrap();
    assert_eq!(
        (config.interfaces[1].host, config.interfaces[1].mtu),
        (HostEndpoint::Tap, Some(1400))
    );
    // What is in force is a configuration, and the same.
    let again = toml::to_string(config.effective()).unwrap();
    assert_eq!(parse(&again).unwrap().interfaces, config.interfaces);
}

#[test]
fn what_cannot_be_a_vlan_is_said_with_what_can() {
    let complain = |more: &str, parts: &[&str]| complaint(&with_vlan(more), parts);
    for id in [0, 4095, 65_535] {
        let more = format!("vlan = {{ of = \"eth1\", id = {id} }}");
        complain(
            &more,
            &[&format!("interface[0].vlan.id = {id}: must be from 1 to 4094"), "untagged"],
        );
    }
    complain("vlan = { of = \"eth1\", id = 65536 }", &["t.toml:4", "65536", "u16"]);
    complain("vlan = { of = \"eth1\" }", &["t.toml:4", "missing field `id`"]);
    complain(
        "vlan = { of = \"eth9\", id = 1 }",
        &["interface[0].vlan.of = \"eth9\"", "must be the name of an [[interface]]"],
    );
    complain(
        "vlan = { of = \"eth1.42\", id = 1 }",
        &["interface[0].vlan.of = \"eth1.42\"", "another [[interface]]"],
    );
    let vlan = "vlan = { of = \"eth1\", id = 42 }\n";
    let more = format!(
        "{vlan}[[interface]]\nname = \"b\"\naddresses = [\"10.0.0.1/8\"]\nvlan = {{ of = \"eth1.42\", id = 1 }}"
    );
    complain(&more, &["interface[1].vlan.of = \"eth1.42\": is a VLAN itself"]);
    let more = format!("{vlan}[[interface]]\nname = \"b\"\naddresses = [\"10.0.0.1/8\"]\n{vlan}");
    complain(&more, &["interface[1].vlan.id = 42", "once"]);
    let bump = format!("{}host = {{ interface = \"eth2\" }}\n", with_vlan(vlan));
    complaint(&bump, &["interface[0].vlan.of = \"eth1\"", "bump"]);
    let with = |more: &str, parts: &[&str]| complain(&format!("{vlan}{more}"), parts);
    with("port = \"af_xdp\"", &["interface[0].port = \"af_xdp\"", "must not be given"]);
    with("host = \"veth\"", &["interface[0].host = \"veth\"", "\"none\" or \"tap\""]);
    with("host = { interface = \"eth3\" }", &["interface[0].host = ", "both sides"]);
    with("take = \"all\"", &["interface[0].take = \"all\"", "XDP"]);
    with("mac = \"02:00:00:00:00:01\"", &["interface[0].mac = ", "only with port"]);
    with("mtu = 9000", &["interface[0].mtu = 9000", "2026"]);
    with("flow_ports = [\"udp/1\"]", &["interface[0].flow_ports", "kernel shares"]);
    complain("port = \"vlan\"", &["interface[0].port = \"vlan\"", "vlan = { of = \"NAME\""]);
    let bare = "[[interface]]\nname = \"v\"\nvlan = { of = \"eth1\", id = 42 }\n";
    complaint(&format!("{bare}{ONE}"), &["interface[0].addresses = []", "a VLAN has no addresses"]);
}
