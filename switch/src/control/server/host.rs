//! What the kernel's stack has at the addresses of an interface, and what is kept from it.

use super::attach::{Rejection, internal};
use super::{Server, report};
use crate::classify::Protocol;
use crate::config::{HostEndpoint, protocol_name};
use crate::net::{KernelSocket, KernelSockets};
use core::ops::RangeInclusive;
use serde::Serialize;
use std::net::IpAddr;
use usnet_shmring::control::RefusalCode;

/// Sockets of one interface in an answer.
const SOCKETS: usize = 1024;

#[derive(Serialize)]
struct HostReport<'a> {
    ifname: &'a str,
    host_endpoint: Option<HostEndpoint>,
    /// Whether both stacks have the interface's addresses, so that what clients have is held against the kernel.
    is_shared: bool,
    /// What no client may claim.
    host_ports: Vec<PortsReport>,
    /// From where clients may send without a claim.
    flow_ports: Vec<PortsReport>,
    /// Held against the kernel, because clients have it, or will.
    held: Vec<PortsReport>,
    /// The kernel's sockets that hear what comes for an address of the interface.
    sockets: Vec<SocketReport>,
    /// Sockets that are left out.
    left_out: usize,
}

#[derive(Serialize)]
struct PortsReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    protocol: String,
    first_port: u16,
    last_port: u16,
    /// From which remote ends alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<String>,
}

impl PortsReport {
    fn of(protocol: Protocol, ports: &RangeInclusive<u16>) -> Self {
        let (first_port, last_port) = (*ports.start(), *ports.end());
        let protocol = protocol_name(protocol);
        Self { address: None, protocol, first_port, last_port, remote: None }
    }
}

#[derive(Serialize)]
struct SocketReport {
    protocol: String,
    local: String,
    remote: Option<String>,
    state: &'static str,
    uid: u32,
    pid: Option<u32>,
    program: Option<String>,
}

impl From<&KernelSocket> for SocketReport {
    fn from(socket: &KernelSocket) -> Self {
        let (pid, program) = socket.process.clone().unzip();
        Self {
            protocol: protocol_name(socket.protocol),
            local: socket.local.to_string(),
            remote: socket.remote.map(|remote| remote.to_string()),
            state: socket.state,
            uid: socket.uid,
            pid,
            program,
        }
    }
}

impl Server {
    /// What the kernel has beside the clients, of every interface.
    pub(super) fn host(&self, privileged: bool) -> Result<String, Rejection> {
        if !privileged {
            let text =
                "only root and the daemon's own user may see the kernel's sockets".to_owned();
            return Err((RefusalCode::NotPermitted, text));
        }
        // Without a way to the kernel it has nothing at an interface.
        let is_shared = |index: usize| self.kernel_ports.flow_ports(index).is_some();
        let shared = self.served().filter(|(index, _)| is_shared(*index));
        let addresses: Vec<IpAddr> =
            shared.flat_map(|(_, interface)| &interface.networks).map(|n| n.address()).collect();
        // Once for all of them: it takes the control thread's time.
        let seen = KernelSockets::look(&addresses);
        let all = self.served().map(|(index, interface)| {
            let configured = self.config.interfaces.iter().find(|c| c.name == interface.name);
            let addresses: Vec<IpAddr> = interface.networks.iter().map(|n| n.address()).collect();
            let is_shared = is_shared(index);
            let (sockets, left_out) =
                if is_shared { seen.at(&addresses, SOCKETS) } else { (Vec::new(), 0) };
            let all_remotes = configured.iter().flat_map(|c| c.host_ports.iter());
            let some_remotes = configured.iter().flat_map(|c| &c.host_sources);
            let host_ports = all_remotes
                .map(|(protocol, ports)| PortsReport::of(protocol, &ports))
                .chain(some_remotes.map(|source| PortsReport {
                    remote: Some(source.remote.to_string()),
                    ..PortsReport::of(source.protocol, &source.ports)
                }));
            let flow_ports = configured.iter().flat_map(|c| c.flow_ports.iter());
            let held = self.kernel_ports.held(index).map(|(address, protocol, ports)| {
                PortsReport { address: Some(address), ..PortsReport::of(protocol, &ports) }
            });
            HostReport {
                ifname: &interface.name,
                host_endpoint: configured.map(|c| c.host),
                is_shared,
                host_ports: host_ports.collect(),
                flow_ports: flow_ports.map(|(p, ports)| PortsReport::of(p, &ports)).collect(),
                held: held.collect(),
                sockets: sockets.into_iter().map(SocketReport::from).collect(),
                left_out,
            }
        });
        report::to_json(&all.collect::<Vec<_>>())
            .map_err(|error| internal("the answer cannot be written", error))
    }
}
