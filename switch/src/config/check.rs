//! From what was written to what runs: the one way.

use super::raw::{
    Account, Backend, Cpus, HostEndpoint, MacvtapKind, RawBehind, RawBusyPoll, RawConfig,
    RawControl, RawHost, RawInterface, RawMemory, RawMetrics, RawPolicy, RawQuota, RawWorker, Ring,
    Rss, Sharing, Take, Unmatched,
};
use super::{
    Behind, Config, Control, HostSource, Interface, Memory, MetricsAt, Network, Policy, Problem,
    Protocols, Quota, Services, Subject, Worker, account, host_ports, prefixes,
};
use crate::classify::Mac;
use crate::port::af_xdp::BusyPoll;
use crate::session::May;
use core::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use usnet_shmring::arena::{SEGMENT_SLOTS, SlotSize};
use usnet_shmring::descriptor::MAX_SLOTS;
use usnet_shmring::ledger::SessionId;
use usnet_shmring::ring::{MAX_CAPACITY, is_capacity};

/// What is wrong so far.
#[derive(Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, key: impl Display, value: impl Display, allowed: impl Display) {
        let problem = Problem {
            key: key.to_string(),
            value: value.to_string(),
            allowed: allowed.to_string(),
        };
        self.0.push(problem);
    }

    pub(super) fn range(&mut self, key: impl Display, value: u32, least: u32, most: u32) -> u32 {
        if !(least..=most).contains(&value) {
            self.add(key, value, format_args!("must be from {least} to {most}"));
        }
        value
    }

    /// Reads each text of a list; those that are refused are reported and left out.
    fn list<T: core::str::FromStr>(
        &mut self,
        key: &str,
        texts: &[String],
        allowed: &str,
    ) -> Vec<T> {
        let mut list = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            match text.parse() {
                Ok(value) => list.push(value),
                Err(_) => self.add(format_args!("{key}[{index}]"), quoted(text), allowed),
            }
        }
        list
    }

    pub(super) fn services(&mut self, key: &str, texts: &[String]) -> Services {
        Services::parse(texts).unwrap_or_else(|(index, refused)| {
            let text = texts.get(index).map_or("", String::as_str);
            self.add(format_args!("{key}[{index}]"), quoted(text), refused);
            Services::default()
        })
    }

    fn host_ports(
        &mut self,
        key: &str,
        texts: &[String],
        take: Take,
    ) -> (Services, Vec<HostSource>) {
        let (all, some) = host_ports::parse(texts).unwrap_or_else(|(index, must)| {
            let text = texts.get(index).map_or("", String::as_str);
            self.add(format_args!("{key}[{index}]"), quoted(text), must);
            Default::default()
        });
        if take == Take::Firewall && !some.is_empty() {
            let allowed = "cannot name a remote end with take = \"firewall\"";
            self.add(key, format_args!("{texts:?}"), allowed);
        }
        (all, some)
    }

    fn protocols(&mut self, key: &str, texts: &[String]) -> Protocols {
        Protocols::parse(texts).unwrap_or_else(|(index, refused)| {
            let text = texts.get(index).map_or("", String::as_str);
            self.add(format_args!("{key}[{index}]"), quoted(text), refused);
            Protocols::default()
        })
    }

    pub(super) fn account(
        &mut self,
        key: &str,
        account: &Account,
        find: fn(&Account) -> Option<u32>,
        kind: &str,
    ) -> u32 {
        find(account).unwrap_or_else(|| {
            let name = match account {
                Account::Name(name) => quoted(name),
                Account::Number(number) => number.to_string(),
            };
            self.add(key, name, format_args!("must be the number or the name of a {kind}"));
            u32::MAX
        })
    }
}

pub(super) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// Checks a configuration. All problems are found in one pass.
pub(super) fn check(file: &Path, mut raw: RawConfig) -> Result<Config, Vec<Problem>> {
    let mut problems = Problems::default();
    // Destructured, so that a new table cannot be forgotten.
    let RawConfig { control, memory, worker, metrics, interface, policy, client } = &mut raw;
    let control = check_control(control, &mut problems);
    let memory = check_memory(memory, &mut problems);
    let worker = check_worker(worker, &mut problems);
    let metrics = check_metrics(metrics, &mut problems);
    let interfaces = check_interfaces(interface, &memory, &mut problems);
    let mut policies = Vec::with_capacity(policy.len() + 2);
    for (index, raw) in policy.iter_mut().enumerate() {
        let key = format!("policy[{index}]");
        policies.push(check_policy(&key, raw, &interfaces, &memory, &mut problems));
    }
    policies.extend(built_in());
    let clients = super::client::check(client, &interfaces, &mut problems);
    if problems.0.is_empty() {
        let file = file.to_owned();
        Ok(Config { file, control, memory, worker, metrics, interfaces, policies, clients, raw })
    } else {
        Err(problems.0)
    }
}

/// Compares the addresses of policies with those that the interfaces have.
pub(super) fn check_addresses(policies: &[Policy], known: &[(&str, &[Network])]) -> Vec<Problem> {
    let mut problems = Problems::default();
    for (place, policy) in policies.iter().enumerate() {
        let covered = || {
            let covered = known.iter().filter(|(name, _)| policy.covers(name));
            covered.flat_map(|(_, networks)| networks.iter().copied())
        };
        for (index, address) in policy.addresses.iter().flatten().enumerate() {
            if !covered().any(|network| network.address() == *address) {
                let key = format_args!("policy[{place}].addresses[{index}]");
                problems.add(key, address, "must be an address of an interface that it covers");
            }
        }
        for (index, address) in policy.own_addresses.iter().enumerate() {
            let key = format_args!("policy[{place}].own_addresses[{index}]");
            if !covered().any(|network| network.contains(*address)) {
                let allowed = "must lie in a network of an interface that it covers";
                problems.add(key, address, allowed);
            } else if covered().any(|network| network.address() == *address) {
                let allowed = "must not be an address that the interface has for all";
                problems.add(key, address, allowed);
            }
        }
        prefixes::check_addresses(place, policy, covered, &mut problems);
    }
    problems.0
}

/// Root and the daemon's own user, so that whoever runs the daemon is never locked out.
fn built_in() -> impl Iterator<Item = Policy> {
    let own = rustix::process::geteuid().as_raw();
    let users = if own == 0 { vec![0] } else { vec![0, own] };
    users.into_iter().map(|uid| Policy {
        subject: Subject::User(uid),
        interfaces: Vec::new(),
        mode: Sharing::Isolated,
        group: None,
        addresses: None,
        own_addresses: Vec::new(),
        own_prefixes: Vec::new(),
        groups: all_groups().to_vec(),
        may: May::default(),
        services: Services::any(),
        protocols: Protocols::any(),
        quota: Quota {
            sessions: SessionId::LIMIT.into(),
            ports: 1 << 20,
            ring_capacity: MAX_CAPACITY,
            slots: MAX_SLOTS,
            flows: 1 << 14,
        },
    })
}

fn check_control(raw: &RawControl, problems: &mut Problems) -> Control {
    let RawControl { socket, mode, group, state_dir, compat, compat_socket } = raw;
    for (key, path) in [("control.socket", socket), ("control.compat_socket", compat_socket)] {
        if !path.is_absolute() || path.as_os_str().len() > 107 {
            let allowed = "must be an absolute path of at most 107 bytes";
            problems.add(key, quoted(&path.to_string_lossy()), allowed);
        }
    }
    if let Some(other) = compat.as_ref().filter(|form| *form != "usnetd-0.1") {
        problems.add("control.compat", quoted(other), "must be \"usnetd-0.1\", or not be given");
    }
    if compat.is_some() && compat_socket == socket {
        let value = quoted(&compat_socket.to_string_lossy());
        problems.add("control.compat_socket", value, "must be another one than control.socket");
    }
    let bits = u32::from_str_radix(mode, 8).ok().filter(|bits| *bits <= 0o777);
    if bits.is_none() {
        problems.add("control.mode", quoted(mode), "must be octal permission bits, as \"0660\"");
    }
    let group =
        group.as_ref().map(|g| problems.account("control.group", g, account::group, "group"));
    if let Some(directory) = state_dir.as_ref().filter(|directory| !directory.is_absolute()) {
        let value = quoted(&directory.to_string_lossy());
        problems.add("control.state_dir", value, "must be an absolute path");
    }
    let compat = compat.is_some().then(|| compat_socket.clone());
    let (socket, state_dir) = (socket.clone(), state_dir.clone());
    Control { socket, mode: bits.unwrap_or(0), group, state_dir, compat }
}

fn check_metrics(raw: &RawMetrics, problems: &mut Problems) -> Option<MetricsAt> {
    let listen = raw.listen.as_ref()?;
    let path = listen.strip_prefix("unix:").map(Path::new);
    let at = match (path, listen.parse::<SocketAddr>()) {
        (Some(path), _) if path.is_absolute() && path.as_os_str().len() <= 107 => {
            Some(MetricsAt::Unix(path.to_owned()))
        }
        (None, Ok(address)) if address.ip().is_loopback() => Some(MetricsAt::Tcp(address)),
        _ => None,
    };
    if at.is_none() {
        let allowed = "must be \"unix:\" and an absolute path of at most 107 bytes, or a loopback address with \
                       a port, as \"127.0.0.1:9464\"";
        problems.add("metrics.listen", quoted(listen), allowed);
    }
    at
}

fn check_memory(raw: &RawMemory, problems: &mut Problems) -> Memory {
    let RawMemory { slot_size, port_slots, group_slots, arena_slots, huge_pages } = raw;
    let size = SlotSize::new(*slot_size);
    if size.is_none() {
        let allowed = "must be 2048, 4096, 8192, 16384, 32768 or 65536";
        problems.add("memory.slot_size", slot_size, allowed);
    }
    let arena_slots =
        problems.range("memory.arena_slots", *arena_slots, 4 * SEGMENT_SLOTS, MAX_SLOTS);
    let most = arena_slots.clamp(4 * SEGMENT_SLOTS, MAX_SLOTS) / 2;
    Memory {
        slot_size: size.unwrap_or(SlotSize::DEFAULT),
        port_slots: problems.range("memory.port_slots", *port_slots, SEGMENT_SLOTS, most),
        group_slots: problems.range("memory.group_slots", *group_slots, SEGMENT_SLOTS, most),
        arena_slots,
        huge_pages: *huge_pages,
    }
}

fn check_worker(raw: &RawWorker, problems: &mut Problems) -> Worker {
    let RawWorker { count, busy_poll, spin_us, cpu } = raw;
    let count = problems.range("worker.count", *count, 1, crate::steer::book::WORKERS);
    let spin = problems.range("worker.spin_us", *spin_us, 0, 1_000_000);
    let cpus = match cpu {
        None => Vec::new(),
        Some(Cpus::One(cpu)) => vec![*cpu],
        Some(Cpus::Each(cpus)) => cpus.clone(),
    };
    for cpu in &cpus {
        problems.range("worker.cpu", (*cpu).into(), 0, 1023);
    }
    let count = count as usize;
    if !cpus.is_empty() && cpus.len() != count {
        let allowed = format!("must name a processor for each of {count} workers");
        problems.add("worker.cpu", format_args!("{cpus:?}"), allowed);
    }
    Worker { count, busy_poll: *busy_poll, spin: Duration::from_micros(spin.into()), cpus }
}

fn check_interfaces(
    raw: &mut [RawInterface],
    memory: &Memory,
    problems: &mut Problems,
) -> Vec<Interface> {
    if raw.is_empty() {
        problems.add("interface", "[]", "at least one [[interface]] is needed");
    }
    let mut interfaces: Vec<Interface> = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter_mut().enumerate() {
        let key = format!("interface[{index}]");
        let interface = check_interface(&key, raw, memory, problems);
        let mut named: Vec<&str> = interfaces.iter().flat_map(names).collect();
        for (key, name) in ["name", "host.interface"].iter().zip(names(&interface)) {
            if named.contains(&name) {
                let key = format_args!("interface[{index}].{key}");
                problems.add(key, quoted(name), "each interface may be named once");
            }
            named.push(name);
        }
        interfaces.push(interface);
    }
    super::vlan::check_all(&mut interfaces, problems);
    interfaces
}

/// Most addresses whose ports the kernel's firewall tells apart.
const FIREWALL_ADDRESSES: usize = 16;
const ADDRESS: &str = "must be an address, as \"10.0.0.1\" or \"2001:db8::1\"";
const NETWORK: &str = "must be an address with a prefix length, as \"10.0.0.1/24\"";

fn check_interface(
    key: &str,
    raw: &mut RawInterface,
    memory: &Memory,
    problems: &mut Problems,
) -> Interface {
    let RawInterface {
        cut_through,
        zero_copy_transmit,
        name,
        port,
        vlan,
        ring,
        take,
        rss,
        macvtap,
        busy_poll,
        host,
        addresses,
        gateways,
        host_ports,
        flow_ports,
        host_ping,
        on_unmatched,
        network,
        mac,
        mtu,
    } = raw;
    check_name(format_args!("{key}.name"), name, problems);
    let vlan = super::vlan::check(key, vlan.as_ref(), port, host, problems);
    let port = port.get_or_insert_default();
    let is_vlan = *port == Backend::Vlan;
    let has_own_address = *macvtap == Some(MacvtapKind::Bridge);
    let by_device =
        !matches!(port, Backend::Netmap | Backend::Tap | Backend::Wire) && !has_own_address;
    let is_auto = *port == Backend::Auto;
    let has_kernel = port.has_link();
    let is_firewall = *take == Take::Firewall;
    // Behind its firewall the kernel hears by itself, or not at all.
    if *host == RawHost::default() && (!has_kernel || has_own_address || is_firewall) {
        *host = RawHost::Kernel(HostEndpoint::None);
    }
    let (host, behind) = match host {
        RawHost::Kernel(endpoint) => (*endpoint, None),
        RawHost::Network(raw) => {
            (HostEndpoint::None, Some(check_behind(key, raw, *port, problems)))
        }
    };
    let is_alone = host == HostEndpoint::None;
    let is_device = matches!(host, HostEndpoint::Tap | HostEndpoint::Veth);
    if !by_device && is_device {
        let value = quoted(if host == HostEndpoint::Tap { "tap" } else { "veth" });
        let allowed = "must be \"none\" or \"auto\": only ports \"af_packet\", \"af_xdp\" and \"macvtap\" (but \
             for bridge) reach the kernel by a device";
        problems.add(format_args!("{key}.host"), value, allowed);
    }
    if is_firewall && is_device {
        let value = quoted(if host == HostEndpoint::Tap { "tap" } else { "veth" });
        let allowed = "must be \"none\" or \"auto\" with take = \"firewall\": what is the kernel's reaches it \
             directly";
        problems.add(format_args!("{key}.host"), value, allowed);
    }
    if *host_ping && !is_firewall {
        let allowed = "belongs to the kernel's firewall, so only with take = \"firewall\"";
        problems.add(format_args!("{key}.host_ping"), "true", allowed);
    }
    if *on_unmatched != Unmatched::Drop && (!is_alone || behind.is_some() || is_firewall) {
        let allowed = "is for interfaces with host = \"none\" and without take = \"firewall\": elsewhere the switch does not get \
                       what no client has claimed, or another does";
        problems.add(format_args!("{key}.on_unmatched"), quoted(on_unmatched.name()), allowed);
    }
    let has_socket =
        [Some(*port), behind.as_ref().map(|b| b.port)].contains(&Some(Backend::AfPacket));
    if !has_socket && !is_auto && *ring != Ring::default() {
        let allowed = "belongs to a packet socket, so only with port \"af_packet\"";
        problems.add(format_args!("{key}.ring"), quoted("v3"), allowed);
    }
    if *port != Backend::Netmap && !is_auto && !*cut_through {
        let allowed = "is of frames in netmap's memory, so only with port \"netmap\"";
        problems.add(format_args!("{key}.cut_through"), "false", allowed);
    }
    let sends_in_place = matches!(port, Backend::Netmap | Backend::AfXdp) || is_auto;
    if !sends_in_place && !*zero_copy_transmit {
        let allowed = "is of slots in a card's rings, so only with port \"netmap\" or \"af_xdp\"";
        problems.add(format_args!("{key}.zero_copy_transmit"), "false", allowed);
    }
    // Where another back end serves there is no firewall.
    let may_take = *port == Backend::AfXdp || (is_auto && !is_firewall);
    if !may_take && *take != Take::default() {
        let allowed = "belongs to XDP sockets, so only with port \"af_xdp\"";
        let value = quoted(if is_firewall { "firewall" } else { "all" });
        problems.add(format_args!("{key}.take"), value, allowed);
    }
    if !matches!(port, Backend::AfXdp | Backend::Auto) && *rss != Rss::default() {
        let allowed = "is of the queues of XDP sockets, so only with port \"af_xdp\"";
        problems.add(format_args!("{key}.rss"), quoted("leave"), allowed);
    }
    if *port != Backend::Macvtap && macvtap.is_some() {
        let value = if has_own_address { "bridge" } else { "passthru" };
        let allowed = "says what a macvtap takes, so only with port \"macvtap\"";
        problems.add(format_args!("{key}.macvtap"), quoted(value), allowed);
    }
    let busy_poll = busy_poll.map(|raw| check_busy_poll(key, raw, *port, problems));
    let list_key = format!("{key}.addresses");
    let addresses: Vec<Network> = problems.list(&list_key, addresses, NETWORK);
    for (index, network) in addresses.iter().enumerate() {
        if !is_unicast(network.address()) {
            let allowed = "must be a unicast address";
            problems.add(format_args!("{list_key}[{index}]"), network, allowed);
        }
    }
    if has_own_address && addresses.is_empty() {
        let allowed =
            "must be given: a bridged macvtap has addresses of its own beside the kernel's";
        problems.add(&list_key, "[]", allowed);
    }
    if is_firewall && addresses.len() > FIREWALL_ADDRESSES {
        let allowed = "must be at most 16 with take = \"firewall\"";
        problems.add(&list_key, format_args!("[{} addresses]", addresses.len()), allowed);
    }
    if let Some(network) = network
        && *port != Backend::Wire
    {
        let allowed = "names the wire that interfaces share, so only with port \"wire\"";
        problems.add(format_args!("{key}.network"), quoted(network), allowed);
    }
    if matches!(port, Backend::Wire | Backend::Vlan) && addresses.is_empty() {
        let what = if is_vlan { "VLAN" } else { "wire" };
        let allowed = format_args!("must be given: a {what} has no addresses of its own");
        problems.add(&list_key, "[]", allowed);
    }
    let list_key = format!("{key}.gateways");
    let gateways: Vec<IpAddr> = problems.list(&list_key, gateways, ADDRESS);
    if gateways.iter().filter(|g| g.is_ipv4()).count() > 1
        || gateways.iter().filter(|g| g.is_ipv6()).count() > 1
    {
        problems.add(&list_key, format_args!("{gateways:?}"), "at most one of each family");
    }
    let own_link = !has_kernel;
    let mac = mac.as_ref().and_then(|text| {
        let is_free = (own_link && !is_vlan) || behind.is_some() || has_own_address;
        let mac = parse_mac(text).filter(|mac| is_free && !mac.is_group());
        if mac.is_none() {
            let allowed = "must be six hexadecimal bytes with colons, of a unicast address, and only \
                           with port \"wire\" or \"tap\", a bridged macvtap, or in front of another interface";
            problems.add(format_args!("{key}.mac"), quoted(text), allowed);
        }
        mac
    });
    if let Some(mtu) = *mtu {
        let most = memory.slot_size.bytes().min(65_535) - 22;
        if own_link {
            problems.range(format_args!("{key}.mtu"), mtu.into(), 576, most);
        } else {
            let allowed = "is the link's own with ports \"af_packet\", \"af_xdp\", \"macvtap\" and \"netmap\"; set it there";
            problems.add(format_args!("{key}.mtu"), mtu, allowed);
        }
    }
    let (all_host_ports, host_sources) =
        problems.host_ports(&format!("{key}.host_ports"), host_ports, *take);
    Interface {
        name: name.clone(),
        port: *port,
        vlan,
        ring: *ring,
        take: *take,
        rss: *rss,
        macvtap: *macvtap,
        busy_poll,
        host,
        behind,
        cut_through: *cut_through,
        zero_copy_transmit: *zero_copy_transmit,
        addresses,
        gateways,
        host_ports: all_host_ports,
        host_sources,
        flow_ports: {
            let is_shared = (has_kernel || is_vlan) && !is_alone;
            check_flow_ports(key, flow_ports, is_shared, problems)
        },
        host_ping: *host_ping,
        on_unmatched: *on_unmatched,
        network: network.clone(),
        mac,
        mtu: *mtu,
    }
}

/// Most ports for flows without a claim: each costs a descriptor an address.
const MOST_FLOW_PORTS: usize = 4096;

fn check_flow_ports(
    key: &str,
    texts: &[String],
    is_shared: bool,
    problems: &mut Problems,
) -> Services {
    let key = format!("{key}.flow_ports");
    let ports = problems.services(&key, texts);
    if !texts.is_empty() && !is_shared {
        let allowed =
            "is for interfaces whose addresses the kernel shares; elsewhere any port may be used";
        problems.add(&key, format_args!("{texts:?}"), allowed);
    }
    if ports.iter().map(|(_, range)| range.len()).sum::<usize>() > MOST_FLOW_PORTS {
        let allowed = format_args!("must be {MOST_FLOW_PORTS} ports at most").to_string();
        problems.add(&key, format_args!("{texts:?}"), allowed);
    }
    ports
}

fn check_busy_poll(
    key: &str,
    raw: RawBusyPoll,
    port: Backend,
    problems: &mut Problems,
) -> BusyPoll {
    let RawBusyPoll { us, budget } = raw;
    if port != Backend::AfXdp {
        let value = format_args!("{{ us = {us}, budget = {budget} }}");
        let allowed = "is of the driver below XDP sockets, so only with port \"af_xdp\"";
        problems.add(format_args!("{key}.busy_poll"), value, allowed);
    }
    problems.range(format_args!("{key}.busy_poll.us"), us, 1, 10_000);
    problems.range(format_args!("{key}.busy_poll.budget"), budget.into(), 1, 1024);
    BusyPoll { microseconds: us, budget }
}

/// The names of all interfaces of the system that this one takes.
fn names(interface: &Interface) -> impl Iterator<Item = &str> {
    let behind = interface.behind.as_ref().map(|behind| behind.interface.as_str());
    core::iter::once(interface.name.as_str()).chain(behind)
}

fn check_name(key: impl Display, name: &str, problems: &mut Problems) {
    let is_name_byte = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':';
    if name.is_empty() || name.len() > 15 || !name.bytes().all(is_name_byte) || name == ".." {
        let allowed = "must be 1 to 15 printable characters without space, `/` and `:`";
        problems.add(key, quoted(name), allowed);
    }
}

fn check_behind(
    key: &str,
    raw: &mut RawBehind,
    in_front: Backend,
    problems: &mut Problems,
) -> Behind {
    let RawBehind { interface, port } = raw;
    check_name(format_args!("{key}.host.interface"), interface, problems);
    let port = *port.get_or_insert(in_front);
    for port in [in_front, port] {
        if !matches!(port, Backend::AfPacket | Backend::Netmap) {
            let value = format_args!("{{ interface = {interface:?}, .. }}");
            let allowed = if port == Backend::AfXdp {
                "XDP sockets cannot be a side of a bump, since their program leaves frames to this machine's \
                 kernel; give both sides port \"af_packet\" or \"netmap\""
            } else {
                "both sides of a bump must have port \"af_packet\" or \"netmap\""
            };
            problems.add(format_args!("{key}.host"), value, allowed);
            break;
        }
    }
    Behind { interface: interface.clone(), port }
}

fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_multicast() || address.is_unspecified() || address.is_loopback() || broadcast)
}

fn parse_mac(text: &str) -> Option<Mac> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(Mac(bytes))
}

fn check_policy(
    key: &str,
    raw: &mut RawPolicy,
    interfaces: &[Interface],
    memory: &Memory,
    problems: &mut Problems,
) -> Policy {
    let RawPolicy {
        uid,
        gid,
        any,
        interfaces: names,
        mode,
        group,
        addresses,
        own_addresses,
        own_prefixes,
        groups,
        dhcp,
        eapol,
        ports,
        protocols,
        quota,
    } = raw;
    let subject = match (&uid, &gid, *any) {
        (Some(uid), None, false) => {
            Subject::User(problems.account(&format!("{key}.uid"), uid, account::user, "user"))
        }
        (None, Some(gid), false) => {
            Subject::Group(problems.account(&format!("{key}.gid"), gid, account::group, "group"))
        }
        (None, None, true) => Subject::Any,
        _ => {
            let given = [("uid", uid.is_some()), ("gid", gid.is_some()), ("any", *any)];
            let given: Vec<_> = given.iter().filter(|(_, given)| *given).map(|g| g.0).collect();
            let allowed = "must say whom it speaks of by exactly one of uid, gid, any = true";
            problems.add(key, format_args!("{{ {} }}", given.join(", ")), allowed);
            Subject::User(u32::MAX)
        }
    };
    for (index, name) in names.iter().enumerate() {
        if !interfaces.iter().any(|i| i.name == *name) {
            let allowed = "must be the name of an [[interface]]";
            problems.add(format_args!("{key}.interfaces[{index}]"), quoted(name), allowed);
        }
    }
    match (*mode, &group) {
        (Sharing::Shared, None) => {
            let allowed = "a name is needed with mode \"shared\"";
            problems.add(format_args!("{key}.group"), "(none)", allowed);
        }
        (Sharing::Isolated, Some(name)) => {
            let allowed = "is only for mode \"shared\"";
            problems.add(format_args!("{key}.group"), quoted(name), allowed);
        }
        _ => {}
    }
    let list_key = format!("{key}.own_addresses");
    let own: Vec<IpAddr> = problems.list(&list_key, own_addresses, ADDRESS);
    for (index, address) in own.iter().enumerate() {
        let taken = interfaces.iter().flat_map(|i| &i.addresses).any(|n| n.address() == *address);
        if !is_unicast(*address) || taken {
            let allowed = "must be a unicast address that no interface has for all";
            problems.add(format_args!("{list_key}[{index}]"), address, allowed);
        }
    }
    Policy {
        subject,
        interfaces: names.clone(),
        mode: *mode,
        group: group.clone(),
        addresses: addresses
            .as_ref()
            .map(|texts| problems.list(&format!("{key}.addresses"), texts, ADDRESS)),
        own_addresses: own,
        own_prefixes: prefixes::check(&format!("{key}.own_prefixes"), own_prefixes, problems),
        groups: check_groups(&format!("{key}.groups"), groups, problems),
        may: May { dhcp: *dhcp, eapol: *eapol },
        services: match ports {
            None => {
                let services = Services::unprivileged();
                *ports = Some(services.to_texts());
                services
            }
            Some(texts) => problems.services(&format!("{key}.ports"), texts),
        },
        protocols: problems.protocols(&format!("{key}.protocols"), protocols),
        quota: check_quota(&format!("{key}.quota"), quota, memory, problems),
    }
}

/// Every group of both families.
fn all_groups() -> [Network; 2] {
    let groups = [
        (Ipv4Addr::new(224, 0, 0, 0).into(), 4),
        (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
    ];
    groups.map(|(address, prefix)| Network::new(address, prefix).unwrap_or(Network::host(address)))
}

fn check_groups(key: &str, texts: &[String], problems: &mut Problems) -> Vec<Network> {
    let mut groups = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        if text == "any" {
            groups.extend(all_groups());
            continue;
        }
        let network = text.parse().or_else(|_| text.parse().map(Network::host));
        let is_of_groups = |network: &Network| {
            all_groups()
                .iter()
                .any(|all| all.contains(network.address()) && network.prefix() >= all.prefix())
        };
        match network.ok().filter(is_of_groups) {
            Some(network) => groups.push(network),
            None => problems.add(
                format_args!("{key}[{index}]"),
                quoted(text),
                "must be \"any\", a group, or groups with one prefix, as \"239.1.0.0/16\" or \"ff15::/16\"",
            ),
        }
    }
    groups
}

fn check_quota(key: &str, raw: &RawQuota, memory: &Memory, problems: &mut Problems) -> Quota {
    let RawQuota { sessions, ports, ring_capacity, slots, flows } = raw;
    if !is_capacity(*ring_capacity) {
        let allowed = format!("must be a power of two from 2 to {MAX_CAPACITY}");
        problems.add(format_args!("{key}.ring_capacity"), ring_capacity, allowed);
    }
    let limit = SessionId::LIMIT.into();
    Quota {
        sessions: problems.range(format_args!("{key}.sessions"), *sessions, 1, limit),
        ports: problems.range(format_args!("{key}.ports"), *ports, 0, 1 << 20),
        ring_capacity: *ring_capacity,
        slots: problems.range(
            format_args!("{key}.slots"),
            *slots,
            2,
            memory.arena_slots.max(SEGMENT_SLOTS),
        ),
        flows: problems.range(format_args!("{key}.flows"), *flows, 0, 1 << 14),
    }
}
