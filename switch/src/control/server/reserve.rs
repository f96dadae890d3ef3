//! Ports that are kept for clients that have yet to come: as the configuration says, wherever interfaces are.

use super::SharedInterface;
use crate::config::ClientConfig;
use crate::control::kernel_ports::KernelPorts;
use crate::control::registry::{Registry, Reserved};

/// Puts all of them into force, and nothing else any more: with the registry, and with the kernel.
pub(super) fn set_reserved<'a>(
    registry: &mut Registry,
    kernel_ports: &mut KernelPorts,
    clients: &[ClientConfig],
    interfaces: impl Iterator<Item = &'a SharedInterface> + Clone,
) {
    let reserved = |client: &ClientConfig| {
        let interface = interfaces.clone().find(|i| i.name == client.interface)?;
        let all = interface.networks.iter().map(|network| network.address());
        Some(Reserved {
            name: client.name.clone(),
            uid: client.uid,
            gid: client.gid,
            interface: interface.index(),
            addresses: all.filter(|address| client.covers(*address)).collect(),
            ports: client.ports.clone(),
        })
    };
    let all: Vec<Reserved> = clients.iter().filter_map(reserved).collect();
    let mut ports = Vec::new();
    for one in &all {
        for address in &one.addresses {
            for (protocol, range) in one.ports.iter() {
                ports.extend(range.map(|port| (one.interface, *address, protocol, port)));
            }
        }
    }
    kernel_ports.keep(ports);
    registry.set_reserved(all);
}
