//! Interfaces over XDP sockets.
//!
//! ```text
//!   eth0 --> XDP program --+--> XDP sockets --> switch --> host endpoint --> kernel
//!                          |                    ^
//!                          +--> kernel ---------+ packet socket: ARP, discovery, groups
//!   kernel ----------------------------------------------------------------> eth0
//! ```
//!
//! - With `take = "claimed"` the kernel gets its own frames directly, but those in doubt, which come by the
//!   switch and the host endpoint.
//! - With `take = "firewall"` only answers and what is for named ports reach the kernel, directly; there is no host
//!   endpoint, so what no client has ends in the switch.
//! - The kernel keeps its addresses and routes on the interface, as with a packet socket. The program is
//!   the guard: what it takes, the kernel does not hear. It goes with this process, however that ends.
//! - Offloads that would make frames other than they are on the wire are off meanwhile.

use super::interface::{
    Kept, OpenError, Opened, Queue, net_error, open_host, open_sockets, opened, shared_link,
};
use super::rss;
use crate::config::{Backend, HostEndpoint, Interface, Ring, Take};
use crate::net::guard::Pass;
use crate::net::offload::Offload;
use crate::net::{Channels, Netlink, XdpFeatures};
use crate::port::Port;
use crate::port::af_xdp::{AfXdp, AfXdpSpec, KernelPorts};
use std::io;
use std::sync::Arc;
use usnet_shmring::arena::Segment;

/// Most addresses that the program compares with.
const MOST_SHARED: usize = 16;
/// Most slots that a queue has for each direction.
const QUEUE_SLOTS: u32 = 2048;

fn port_error(name: &str, source: io::Error) -> OpenError {
    OpenError::Port { name: name.to_owned(), what: "XDP sockets", hint: "", source }
}

/// Opens an interface: its queues, a host endpoint unless the kernel is to be left out, and what the
/// kernel goes on to hear by itself.
pub(super) fn open(
    interface: &Interface,
    workers: usize,
    slots: Option<(&Arc<Segment>, u32)>,
    groups: &[Arc<Segment>],
) -> Result<Opened, OpenError> {
    let Some((segment, share)) = slots else {
        return Err(OpenError::Unsuitable {
            name: interface.name.clone(),
            problem: "has no slots to receive into",
        });
    };
    let name = interface.name.as_str();
    let (mut netlink, link, mtu, addresses) = shared_link(interface)?;
    let mut kept = Kept::of(&link);
    // Joined segments would not fit, and a program does not see a tag that a card has taken out.
    let offloads = [Offload::GenericReceive, Offload::LargeReceive, Offload::ReceiveVlan];
    kept.turn_off_offloads(name, &offloads).map_err(net_error(name))?;
    let host = match interface.host {
        HostEndpoint::None => None,
        _ => Some(open_host(&mut kept, &mut netlink, interface, &link, workers)?),
    };
    let firewall = (interface.take == Take::Firewall).then(|| KernelPorts {
        ports: interface.host_ports.iter().collect(),
        ping: interface.host_ping,
    });
    let is_many = addresses.len() > MOST_SHARED;
    if firewall.is_some() && is_many {
        return Err(OpenError::Unsuitable {
            name: interface.name.clone(),
            problem: "has more than 16 addresses, too many for take = \"firewall\"; name those that are \
                      shared by addresses = [...]",
        });
    }
    let passes: &[Pass] = match (&firewall, &host) {
        (Some(_), _) => &Pass::NEIGHBOURS,
        (None, Some(_)) => &Pass::ALL,
        (None, None) => &[],
    };
    let table = rss::Before::of(name);
    let queues = enough_queues(&mut kept, name, workers)?;
    let plan = table.spread(&mut kept, name, interface.rss, (queues, workers));
    let spec = AfXdpSpec {
        name: link.name.clone(),
        index: link.index,
        mac: link.mac,
        mtu,
        queues,
        frames: slots_of_a_queue(share, queues),
        passing: passes.to_vec(),
        shared: match interface.take {
            // Each costs the program some comparisons; with many the switch decides.
            Take::Claimed if host.is_none() || is_many => Vec::new(),
            Take::Claimed | Take::Firewall => {
                addresses.iter().map(|network| network.address()).collect()
            }
            Take::All => Vec::new(),
        },
        firewall,
        // What has a kind is made by software, and so is its other end.
        unfinished: link.kind.is_some(),
        generic: false,
        copy: false,
        busy_poll: interface.busy_poll,
        groups: if !groups.is_empty() && sends_from_several_slots(interface) {
            groups.to_vec()
        } else {
            Vec::new()
        },
        as_zero_copy: false,
    };
    let mut wires =
        AfXdp::open_group(&spec, segment, workers).map_err(|error| port_error(name, error))?;
    if !passes.is_empty() {
        // After the program, so that they hear nothing but what passes.
        let beside = open_sockets(name, &link, Ring::V2, false, workers)?;
        for (wire, beside) in wires.iter_mut().zip(beside) {
            // All of the kernel's own would pass there, too.
            beside.hear_little().map_err(|error| port_error(name, error))?;
            wire.set_beside(Box::new(beside)).map_err(|error| port_error(name, error))?;
        }
    }
    kept.tell_of(plan.outcome());
    let mode = wires.first().and_then(Port::mode).unwrap_or_default();
    tracing::info!(interface = name, mode, queues, slots = spec.frames, "XDP sockets open");
    let queues = Queue::pair(wires, host);
    let opened = opened(interface, link.mac, mtu, addresses, queues, passes);
    Ok(Opened { kept, ..opened })
}

/// Whether the interface's driver uses the slots of XDP sockets itself, takes frames of several pieces, and may: then
/// the rest of what clients of a trust group send leaves from their own slots.
pub(super) fn sends_from_several_slots(interface: &Interface) -> bool {
    if !interface.zero_copy_transmit || !matches!(interface.port, Backend::AfXdp | Backend::Auto) {
        return false;
    }
    let link = Netlink::open().and_then(|mut netlink| netlink.link(&interface.name));
    let features = link.and_then(|link| XdpFeatures::of(link.index)).ok().flatten();
    features.is_some_and(|features| features.zero_copy && features.pieces > 1)
}

/// How many queues the interface receives by: those that it has, or one for each worker where it can be
/// given these.
fn enough_queues(kept: &mut Kept, name: &str, workers: usize) -> Result<u32, OpenError> {
    let channels = Channels::of(name).map_err(net_error(name))?;
    let (has, wanted) = (channels.receiving(), u32::try_from(workers).unwrap_or(u32::MAX));
    if has >= wanted {
        return Ok(has);
    }
    match kept.change_channels(name, channels, channels.resized(wanted)) {
        Ok(()) => {
            tracing::info!(
                interface = name,
                queues = wanted,
                before = has,
                "queues for all workers"
            );
            Ok(wanted)
        }
        Err(error) => {
            tracing::info!(interface = name, %error, "no queue for each worker");
            Ok(has)
        }
    }
}

/// A power of two, so that all queues together have half of the slots at most: a quarter to receive
/// into, as much to be sent.
fn slots_of_a_queue(all: u32, queues: u32) -> u32 {
    let share = all / 4 / queues.max(1);
    let share = share.clamp(1, QUEUE_SLOTS);
    if share.is_power_of_two() { share } else { share.next_power_of_two() / 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_leave_slots_for_the_clients() {
        assert_eq!(slots_of_a_queue(8192, 1), 2048);
        assert_eq!(slots_of_a_queue(8191, 1), 1024);
        assert_eq!(slots_of_a_queue(8192, 16), 128);
        assert_eq!(slots_of_a_queue(1 << 20, 1), QUEUE_SLOTS);
    }
}
