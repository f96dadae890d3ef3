//! Answers that come out of the workers' tables: who would get a frame, and why; which flows
//! they know.

use super::super::registry::{Holder, Registry};
use super::attach::{Rejection, internal};
use super::{Server, report};
use crate::classify::{Address, Flow};
use crate::config::protocol_name;
use crate::explain::{Carried, Explained, Outcome, Question};
use crate::steer::{FlowSeen, Stage};
use crate::verdict::Receiver;
use serde::Serialize;
use std::collections::BTreeMap;
use usnet_shmring::control::{Ask, QueryKind, RefusalCode};

/// Flows in an answer if no number is given.
const FLOWS: u32 = 1000;
/// Flows in the longest answer.
const MOST_FLOWS: u32 = 65_536;

/// Whose something is.
#[derive(Serialize)]
pub(super) struct Owner<'a> {
    /// `client` or `host`.
    kind: &'static str,
    client: Option<u16>,
    name: Option<&'a str>,
    pid: Option<i32>,
}

impl<'a> Owner<'a> {
    pub(super) fn of(server: &'a Server, receiver: Receiver) -> Self {
        let Receiver::Client(id) = receiver else {
            return Self { kind: "host", client: None, name: None, pid: None };
        };
        let key = server.sessions.get(&id);
        let connection = key.and_then(|key| server.connections.get(key));
        Self {
            kind: "client",
            client: Some(id.0),
            name: report::client_name(server, id),
            pid: connection.map(|connection| connection.peer.pid),
        }
    }
}

#[derive(Serialize)]
struct StepReport<'a> {
    step: &'static str,
    says: &'a str,
    owner: Option<Owner<'a>>,
}

#[derive(Serialize)]
struct ExplainReport<'a> {
    ifname: &'a str,
    protocol: &'static str,
    source: String,
    destination: String,
    steps: Vec<StepReport<'a>>,
    /// `client`, `host`, `group`, `answered`, `heard` or `drop`.
    verdict: &'static str,
    owners: Vec<Owner<'a>>,
    /// Why it is dropped, as in the counters.
    reason: Option<&'static str>,
}

#[derive(Serialize)]
struct FlowReport<'a> {
    ifname: &'a str,
    protocol: String,
    /// As frames of the flow arrive.
    source: String,
    destination: String,
    owner: Owner<'a>,
    learned: bool,
    /// Since when no frame of it was seen; nothing for rules.
    idle_s: Option<u64>,
    /// How far it has come: `opening`, `established`, `closing` of TCP, else `association`, `datagrams`, `echo`;
    /// nothing for rules.
    state: Option<&'static str>,
}

#[derive(Serialize)]
struct FlowsReport<'a> {
    flows: Vec<FlowReport<'a>>,
    left_out: usize,
}

/// What tells a flow from all others, in the order in which they are listed.
type FlowKey = (usize, u8, Address, u16, Address, u16);

fn flow_key(interface: usize, flow: &Flow) -> FlowKey {
    let Flow { source, destination, protocol, source_port, destination_port, .. } = *flow;
    (interface, protocol.0, destination, destination_port, source, source_port)
}

impl Server {
    /// Flows that the workers know, by interface, protocol and addresses; of one that several know, the latest
    /// use.
    pub(super) fn flows(&self, privileged: bool, which: u32) -> Result<String, Rejection> {
        if !privileged {
            let text = "only root and the daemon's own user may see flows".to_owned();
            return Err((RefusalCode::NotPermitted, text));
        }
        let wanted = if which == 0 { FLOWS } else { which.min(MOST_FLOWS) } as usize;
        let mut known: BTreeMap<FlowKey, FlowSeen> = BTreeMap::new();
        let mut more = 0;
        for (index, interface) in self.served() {
            let (id, most) = (interface.id, wanted.saturating_sub(known.len()));
            let each = self.workers.look_at_each(move |s, now| s.flows_seen(id, most, now));
            let each = each.ok_or_else(|| internal("a worker does not answer", "it is gone"))?;
            for (seen, all) in each {
                // With several workers, one that two have may be counted twice here.
                more += all.saturating_sub(seen.len());
                for flow in seen {
                    let place = known.entry(flow_key(index, &flow.flow)).or_insert(flow);
                    if flow.idle < place.idle {
                        (place.idle, place.stage) = (flow.idle, flow.stage);
                    }
                }
            }
        }
        let left_out = more + known.len().saturating_sub(wanted);
        let report = |(key, seen): (&FlowKey, &FlowSeen)| FlowReport {
            ifname: self.interfaces.get(&key.0).map_or("?", |interface| &interface.name),
            protocol: protocol_name(seen.flow.protocol),
            source: written(seen.flow.source, seen.flow.source_port, seen.flow.ports_known),
            destination: written(
                seen.flow.destination,
                seen.flow.destination_port,
                seen.flow.ports_known,
            ),
            owner: Owner::of(self, seen.receiver),
            learned: seen.idle.is_some(),
            idle_s: seen.idle.map(|idle| idle.as_secs()),
            state: seen.stage.map(Stage::name),
        };
        let flows = known.iter().take(wanted).map(report).collect();
        report::to_json(&FlowsReport { flows, left_out })
            .map_err(|e| internal("the answer cannot be written", e))
    }

    /// Answers a question in words.
    pub(super) fn ask(&mut self, key: u64, ask: &Ask) -> Result<String, Rejection> {
        let privileged = self.may_look(key)?;
        let protocol = |text: &str| (RefusalCode::Protocol, text.to_owned());
        let words = ask.text().ok_or_else(|| protocol("the words are not UTF-8, or too many"))?;
        match QueryKind::from_u32(ask.what) {
            Some(QueryKind::Explain) => self.explain(words),
            Some(QueryKind::DiffConfig) if !privileged => {
                let text = "only root and the daemon's own user may do this".to_owned();
                Err((RefusalCode::NotPermitted, text))
            }
            Some(QueryKind::DiffConfig) => self.diff_config(words),
            _ => Err((RefusalCode::Protocol, format!("no question has number {}", ask.what))),
        }
    }

    fn explain(&self, words: &str) -> Result<String, Rejection> {
        let question = Question::parse(words).map_err(|text| (RefusalCode::NotFound, text))?;
        let index = self.find_interface(&question.ifname)?;
        let id = self.interfaces.get(&index).map(|interface| interface.id);
        let asked = question.clone();
        let look = self.workers.look(move |switch, now| switch.explain(id?, &asked, now));
        let told =
            look.flatten().ok_or_else(|| internal("a worker does not answer", "it is gone"))?;
        let report = report_explained(self, &question, &told);
        report::to_json(&report).map_err(|e| internal("the answer cannot be written", e))
    }
}

fn written(address: Address, port: u16, has_port: bool) -> String {
    let ip = address.to_ip();
    if has_port { core::net::SocketAddr::new(ip, port).to_string() } else { ip.to_string() }
}

fn report_explained<'a>(
    server: &'a Server,
    question: &'a Question,
    told: &'a Explained,
) -> ExplainReport<'a> {
    let owner = |receiver: &Receiver| Owner::of(server, *receiver);
    let (verdict, receivers): (_, &[Receiver]) = match &told.outcome {
        Outcome::To(one @ Receiver::Client(_)) => ("client", core::slice::from_ref(one)),
        Outcome::To(one @ Receiver::Host) => ("host", core::slice::from_ref(one)),
        Outcome::ToMany(all) => ("group", all),
        Outcome::Answered => ("answered", &[]),
        Outcome::Heard => ("heard", &[]),
        Outcome::Dropped(_) => ("drop", &[]),
    };
    let mut steps: Vec<_> = told
        .steps
        .iter()
        .map(|step| StepReport {
            step: step.at,
            says: &step.says,
            owner: step.found.as_ref().map(owner),
        })
        .collect();
    if let Some(says) = reserved(&server.registry, question, told) {
        steps.push(StepReport { step: "configuration", says, owner: None });
    }
    let written = |end: core::net::SocketAddr| match question.carried {
        // Of a reply one end has an identifier.
        Carried::Icmp | Carried::EchoReply if end.port() == 0 => end.ip().to_string(),
        _ => end.to_string(),
    };
    ExplainReport {
        ifname: &question.ifname,
        protocol: question.carried.name(),
        source: written(question.source),
        destination: written(question.destination),
        steps,
        verdict,
        owners: receivers.iter().map(owner).collect(),
        reason: match told.outcome {
            Outcome::Dropped(reason) => Some(reason.name()),
            _ => None,
        },
    }
}

/// What the configuration says of a port that goes to the host, which the steering tables do not know.
fn reserved(registry: &Registry, question: &Question, told: &Explained) -> Option<&'static str> {
    if told.outcome != Outcome::To(Receiver::Host)
        || !matches!(question.carried, Carried::Tcp | Carried::Udp)
    {
        return None;
    }
    let (address, port) = (question.destination.ip(), question.destination.port());
    let source = question.source.ip().into();
    let is_it = |rule: &super::super::registry::Rule| {
        rule.address == address
            && rule.scope.remote.contains(source)
            && rule.protocol.0 == question.carried.number()
            && (rule.first..=rule.last).contains(&port)
    };
    match registry.rules().find(is_it)?.holder {
        Holder::Host => Some("host_ports: no client may claim this port"),
        Holder::Flows => Some("flow_ports: clients may send from this port, and get the answers"),
        Holder::Reserved(_) => Some("client: kept for one that has yet to come"),
        Holder::Session(_) => None,
    }
}
