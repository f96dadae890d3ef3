//! Opens an interface that is a bump in the wire: two ports, both on networks, and no kernel.
//!
//! ```text
//!   network --- eth1 --> switch --> eth2 --- network behind
//!                          |
//!                          +--> clients
//! ```
//!
//! - Both interfaces hear frames for all link addresses as long as they are open.
//! - The kernel of this machine hears nothing on either, so that it answers for nobody: over netmap the
//!   host rings stay closed, over packet sockets a guard lets nothing pass.
//! - Shared addresses, and their link address, are those of a host behind; the link's own are not taken
//!   for that.

use super::interface::{
    Kept, OpenError, Opened, Queue, boxed, net_error, open_sockets, opened, port_error, usable_link,
};
use super::netmap::Cards;
use crate::config::{self, Backend, Interface};
use crate::net::{Link, Netlink, Scope};
use crate::port::Port;
use crate::switch::{Behind, InterfaceSpec};

/// Opens both interfaces.
///
/// # Errors
/// [`OpenError`]; what was changed by then is put back.
pub(super) fn open(
    interface: &Interface,
    behind: &config::Behind,
    workers: usize,
    cards: &Cards,
) -> Result<Opened, OpenError> {
    let mut netlink = Netlink::open().map_err(net_error(&interface.name))?;
    let (link, mtu) = usable_link(&mut netlink, &interface.name)?;
    let (other, behind_mtu) = usable_link(&mut netlink, &behind.interface)?;
    if mtu != behind_mtu {
        let (name, behind) = (interface.name.clone(), behind.interface.clone());
        return Err(OpenError::Mtu { name, mtu, behind, behind_mtu });
    }
    for link in [&link, &other] {
        warn_of_addresses(&mut netlink, link)?;
    }
    let (mut kept, mut kept_behind) = (Kept::of(&link), Kept::of(&other));
    let open = |backend, link, kept| open_network(interface, backend, link, workers, kept, cards);
    let wires = open(interface.port, &link, &mut kept)?;
    let hosts = open(behind.port, &other, &mut kept_behind)?;
    let queues: Vec<Queue> =
        wires.into_iter().zip(hosts).map(|(wire, host)| Queue { wire, host: Some(host) }).collect();
    kept.and(kept_behind);
    let mac = interface.mac.unwrap_or(link.mac);
    let addresses = interface.addresses.clone();
    let Opened { specs, addresses, .. } = opened(interface, mac, mtu, addresses, queues, &[]);
    let specs =
        specs.into_iter().map(|spec| InterfaceSpec { behind: Behind::Network, ..spec }).collect();
    Ok(Opened { specs, addresses, kept })
}

/// Whether both interfaces can be opened again: nothing is changed by the look.
///
/// # Errors
/// [`OpenError`]: what is missing.
pub(super) fn can_return(
    interface: &Interface,
    behind: &config::Behind,
    cards: &Cards,
) -> Result<(), OpenError> {
    let mut netlink = Netlink::open().map_err(net_error(&interface.name))?;
    let sides = [(&interface.name, interface.port), (&behind.interface, behind.port)];
    for (name, port) in sides {
        usable_link(&mut netlink, name)?;
        if port == Backend::Netmap {
            cards.look_at(name)?;
        }
    }
    Ok(())
}

/// One side, for each worker.
fn open_network(
    interface: &Interface,
    backend: Backend,
    link: &Link,
    workers: usize,
    kept: &mut Kept,
    cards: &Cards,
) -> Result<Vec<Box<dyn Port>>, OpenError> {
    let name = link.name.as_str();
    if backend == Backend::Netmap {
        let ports = cards.open_card(link, kept, workers, interface.zero_copy_transmit)?;
        kept.hear_all(link).map_err(|e| port_error(name, "a packet socket", e))?;
        return Ok(boxed(ports));
    }
    kept.turn_off_joining(name).map_err(net_error(name))?;
    let sockets = open_sockets(name, link, interface.ring, true, workers)?;
    kept.guard(name, &[]).map_err(net_error(name))?;
    Ok(boxed(sockets))
}

/// The kernel may have addresses here, and is not reached at them any more.
fn warn_of_addresses(netlink: &mut Netlink, link: &Link) -> Result<(), OpenError> {
    let all = netlink.addresses(&link.name).map_err(net_error(&link.name))?;
    for address in all.iter().filter(|address| address.scope == Scope::Global) {
        tracing::warn!(
            interface = link.name,
            address = %address.ip,
            "the kernel is not reached at this address while the interface is a side of a bump"
        );
    }
    Ok(())
}
