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
//! - The kernel keeps its addresses and routes on the interface, as with a packet socket. The program is
//!   the guard: what it takes, the kernel does not hear. It goes with this process, however that ends.
//! - Offloads that would make frames other than they are on the wire are off meanwhile.

use super::interface::{
    Kept, OpenError, Opened, Queue, net_error, open_host, open_sockets, opened, shared_link,
};
use crate::config::{HostEndpoint, Interface, Ring, Take};
use crate::net::Channels;
use crate::net::guard::Pass;
use crate::net::offload::Offload;
use crate::port::Port;
use crate::port::af_xdp::{AfXdp, AfXdpSpec};
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
    slots: Option<&Arc<Segment>>,
) -> Result<Opened, OpenError> {
    let (1, Some(segment)) = (workers, slots) else {
        return Err(OpenError::Unsuitable {
            name: interface.name.clone(),
            problem: "has XDP sockets for one worker only; set worker.count to 1, or take port = \
                      \"af_packet\"",
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
        _ => Some(open_host(&mut kept, &mut netlink, interface, &link, 1)?),
    };
    let passes: &[Pass] = if host.is_some() { &Pass::ALL } else { &[] };
    let queues = Channels::of(name).map_err(net_error(name))?.receiving();
    let spec = AfXdpSpec {
        name: link.name.clone(),
        index: link.index,
        mac: link.mac,
        mtu,
        queues,
        frames: slots_of_a_queue(segment.count(), queues),
        passing: passes.to_vec(),
        shared: match interface.take {
            // Each costs the program some comparisons; with many the switch decides.
            Take::Claimed if host.is_some() && addresses.len() <= MOST_SHARED => {
                addresses.iter().map(|network| network.address()).collect()
            }
            Take::Claimed | Take::All => Vec::new(),
        },
        // What has a kind is made by software, and so is its other end.
        unfinished: link.kind.is_some(),
        generic: false,
        copy: false,
    };
    let mut wire = AfXdp::open(&spec, segment).map_err(|error| port_error(name, error))?;
    if host.is_some() {
        // After the program, so that it hears nothing but what passes.
        for beside in open_sockets(name, &link, Ring::V2, false, 1)? {
            wire.set_beside(Box::new(beside)).map_err(|error| port_error(name, error))?;
        }
    }
    let mode = wire.mode().unwrap_or_default();
    tracing::info!(interface = name, mode, queues, slots = spec.frames, "XDP sockets open");
    let queues = Queue::pair(vec![wire], host);
    let opened = opened(interface, link.mac, mtu, addresses, queues, passes);
    Ok(Opened { kept, ..opened })
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
    use crate::config::Config;
    use std::path::Path;
    use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
    use usnet_shmring::region::Writer;

    #[test]
    fn several_workers_are_refused_with_the_way_out() {
        let text = "[[interface]]\nname = \"none0\"\nport = \"af_xdp\"\n";
        let config = Config::parse(Path::new("t.toml"), text).unwrap();
        let arena = Arena::reserve(64, SlotSize::DEFAULT).unwrap();
        let range = SlotRange::whole(arena.add_segment("test", Writer::Daemon, 64, false).unwrap());
        let refused =
            open(&config.interfaces[0], 2, Some(range.segment())).unwrap_err().to_string();
        assert!(refused.contains("set worker.count to 1"), "{refused}");
    }

    #[test]
    fn queues_leave_slots_for_the_clients() {
        assert_eq!(slots_of_a_queue(8192, 1), 2048);
        assert_eq!(slots_of_a_queue(8191, 1), 1024);
        assert_eq!(slots_of_a_queue(8192, 16), 128);
        assert_eq!(slots_of_a_queue(1 << 20, 1), QUEUE_SLOTS);
    }
}
