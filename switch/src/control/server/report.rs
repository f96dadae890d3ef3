//! Answers to queries, as JSON. Keys never change their meaning; they are what scripts rely on.

use super::Server;
use super::ports::{self, SupplyReport};
use crate::classify::Protocol;
use crate::config::{Backend, HostEndpoint, Sharing, protocol_name};
use crate::control::registry::{Holder, Rule};
use crate::control::session::State;
use crate::daemon::{Choice, Rss};
use crate::snapshot::{InterfaceSnapshot, SessionSnapshot, SlotCount, Snapshot};
use crate::steer::{PrefixRule, Scope};
use serde::Serialize;
use std::net::IpAddr;
use usnet_shmring::layout::VERSION;
use usnet_shmring::ledger::SessionId;

pub(super) fn to_json(report: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(report)
}

#[derive(Serialize)]
pub(super) struct Status<'a> {
    version: &'static str,
    protocol: u32,
    pid: u32,
    uptime_s: u64,
    socket: String,
    workers: usize,
    busy_poll: bool,
    slot_size: u32,
    slots: SlotCount,
    sessions: usize,
    interfaces: Vec<InterfaceStatus<'a>>,
}

#[derive(Serialize)]
struct VlanReport<'a> {
    of: &'a str,
    id: u16,
}

#[derive(Serialize)]
struct InterfaceStatus<'a> {
    ifname: &'a str,
    mtu: u16,
    port: Option<Backend>,
    /// If the port was to be chosen: which was, and why none that is better.
    chosen: Option<&'a Choice>,
    /// How flows come to its queues, over XDP sockets.
    rss: Option<&'a Rss>,
    host_endpoint: Option<HostEndpoint>,
    /// The VLAN that it is, and of which interface.
    vlan: Option<VlanReport<'a>>,
    /// The interface that the other side of a bump has.
    behind: Option<&'a str>,
    addresses: Vec<String>,
    gateways: &'a [IpAddr],
    #[serde(flatten)]
    supply: Option<SupplyReport<'a>>,
    #[serde(flatten)]
    seen: Option<&'a InterfaceSnapshot>,
}

/// The daemon and its interfaces.
pub(super) fn status<'a>(server: &'a Server, snapshot: &'a Snapshot) -> Status<'a> {
    let interfaces = server.served().map(|(index, interface)| {
        let configured = server.config.interfaces.iter().find(|c| c.name == interface.name);
        let serving = &interface.serving;
        InterfaceStatus {
            ifname: &interface.name,
            mtu: interface.mtu,
            port: serving.choice.as_ref().map(|c| c.port).or(configured.map(|c| c.port)),
            chosen: serving.choice.as_ref(),
            rss: serving.rss.as_ref(),
            host_endpoint: configured.map(|c| c.host),
            vlan: configured
                .and_then(|c| c.vlan.as_ref())
                .map(|vlan| VlanReport { of: &vlan.of, id: vlan.id }),
            behind: configured.and_then(|c| Some(c.behind.as_ref()?.interface.as_str())),
            addresses: interface.networks.iter().map(ToString::to_string).collect(),
            gateways: &interface.gateways,
            supply: ports::report(server, index),
            seen: snapshot.interfaces.iter().find(|seen| seen.id == interface.id.0),
        }
    });
    Status {
        version: env!("CARGO_PKG_VERSION"),
        protocol: VERSION,
        pid: std::process::id(),
        uptime_s: server.started.elapsed().as_secs(),
        socket: server.config.control.socket.display().to_string(),
        workers: server.workers.count(),
        busy_poll: server.config.worker.busy_poll,
        slot_size: server.memory.slot_size().bytes(),
        slots: snapshot.slots,
        sessions: snapshot.sessions.len(),
        interfaces: interfaces.collect(),
    }
}

#[derive(Serialize)]
pub(super) struct Client<'a> {
    id: u16,
    name: &'a str,
    pid: i32,
    uid: u32,
    gid: u32,
    ifname: &'a str,
    mode: Sharing,
    group: Option<&'a str>,
    state: &'static str,
    age_s: u64,
    addresses: Vec<IpAddr>,
    claims: Vec<ClaimReport>,
    ring_capacity: u32,
    transmit_slots: u32,
    receive_slots: u32,
    rx_in_flight: Option<u32>,
    counters: Option<&'a crate::stats::SessionCounters>,
}

#[derive(Serialize)]
struct ClaimReport {
    protocol: String,
    address: Option<IpAddr>,
    first_port: u16,
    last_port: u16,
    #[serde(flatten)]
    scope: ScopeReport,
}

/// For which remote ends, and with whom; left out where it says nothing.
#[derive(Serialize)]
struct ScopeReport {
    /// An address, or a network.
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    /// Whether others may have the same, each with a part of the flows.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    spread: bool,
}

impl ScopeReport {
    fn of(scope: &Scope) -> Self {
        Self {
            remote: scope.remote.to_network().map(|_| scope.remote.to_string()),
            remote_port: (scope.remote_port != 0).then_some(scope.remote_port),
            priority: (scope.priority != 0).then_some(scope.priority),
            spread: scope.spread,
        }
    }
}

/// Every session, by number.
pub(super) fn clients<'a>(server: &'a Server, snapshot: &'a Snapshot) -> Vec<Client<'a>> {
    let client = |(id, key): (&SessionId, &u64)| {
        let connection = server.connections.get(key)?;
        let attachment = connection.attachment.as_ref()?;
        let seen: Option<&SessionSnapshot> = snapshot.sessions.iter().find(|s| s.id == id.0);
        let claims = server.registry.grants(*id).map(|grant| ClaimReport {
            protocol: protocol_name(grant.wish.protocol),
            address: grant.wish.address,
            first_port: grant.wish.first,
            last_port: grant.wish.last(),
            scope: ScopeReport::of(&grant.wish.scope),
        });
        let addresses = server.registry.addresses(*id);
        Some(Client {
            id: id.0,
            name: &attachment.name,
            pid: connection.peer.pid,
            uid: connection.peer.uid,
            gid: connection.peer.gid,
            ifname: server.interfaces.get(&attachment.interface).map_or("?", |i| &i.name),
            mode: attachment.mode,
            group: attachment.group.as_deref(),
            state: if connection.state == State::Attached { "attached" } else { "ending" },
            age_s: attachment.since.elapsed().as_secs(),
            addresses: addresses.map(|a| a.iter().collect()).unwrap_or_default(),
            claims: claims.collect(),
            ring_capacity: attachment.shape.ring_capacity,
            transmit_slots: attachment.shape.transmit_slots,
            receive_slots: attachment.shape.receive_slots,
            rx_in_flight: seen.map(|s| s.rx_in_flight),
            counters: seen.map(|s| &s.counters),
        })
    };
    server.sessions.iter().filter_map(client).collect()
}

#[derive(Serialize)]
pub(super) struct RuleReport<'a> {
    ifname: &'a str,
    /// An address, or all with a prefix.
    address: String,
    /// `any`: all of them, of a prefix.
    protocol: String,
    first_port: u16,
    last_port: u16,
    #[serde(flatten)]
    scope: ScopeReport,
    /// `host`, `client`, `flows`: ports from which clients may have flows without a claim; or `reserved` for a client
    /// that has yet to come, by its name.
    holder: &'static str,
    client: Option<u16>,
    name: Option<&'a str>,
}

/// What a client calls itself.
pub(super) fn client_name(server: &Server, id: SessionId) -> Option<&str> {
    let key = server.sessions.get(&id)?;
    Some(server.connections.get(key)?.attachment.as_ref()?.name.as_str())
}

/// Every range in force, by interface, address, protocol and port; then the prefixes.
pub(super) fn rules(server: &Server) -> Vec<RuleReport<'_>> {
    let name = |id: SessionId| client_name(server, id);
    let ifname = |index: &usize| server.interfaces.get(index).map_or("?", |i| i.name.as_str());
    let report = |rule: Rule| {
        let (holder, client, name) = match rule.holder {
            Holder::Host => ("host", None, None),
            Holder::Flows => ("flows", None, None),
            Holder::Reserved(number) => ("reserved", None, server.registry.reserved_for(number)),
            Holder::Session(id) => ("client", Some(id.0), name(id)),
        };
        RuleReport {
            ifname: ifname(&rule.interface),
            address: rule.address.to_string(),
            protocol: protocol_name(rule.protocol),
            first_port: rule.first,
            last_port: rule.last,
            scope: ScopeReport::of(&rule.scope),
            holder,
            client,
            name,
        }
    };
    let prefix = |(interface, rule, id): (usize, PrefixRule, SessionId)| RuleReport {
        ifname: ifname(&interface),
        address: rule.prefix.to_string(),
        protocol: rule.protocol.map_or("any".to_owned(), protocol_name),
        first_port: 0,
        last_port: if rule.protocol.is_none_or(Protocol::has_ports) { u16::MAX } else { 0 },
        scope: ScopeReport::of(&Scope::default()),
        holder: "client",
        client: Some(id.0),
        name: name(id),
    };
    server.registry.rules().map(report).chain(server.registry.prefixes().map(prefix)).collect()
}
