//! Interfaces over a macvtap.
//!
//! ```text
//!   passthru    eth0 --> guard --> macvtap --> switch --> host endpoint --> kernel
//!                          |                                                  |
//!                          +--> kernel: ARP, discovery, groups                |
//!                 ^---------------------------------------------------------- +
//!   bridge      eth0 --+--> kernel: its link address
//!                      +--> macvtap: its own link address --> switch
//! ```
//!
//! - In passthru all that arrives for the interface's link address goes to the macvtap, but what the guard sends
//!   to a group ([`Guard::readdress`](crate::net::guard::Guard::readdress)): that both hear. The kernel sends on the
//!   interface itself, where its addresses, its neighbours and its routes stay.
//! - A macvtap of ours lies in a namespace that only this process keeps: it ends with it. One that exists already is
//!   taken as it is, with a link address of its own, and left.
//! - Nothing of the interface below is changed. Joined segments come as they are where slots hold them, else cut to
//!   the MTU by the kernel.

use super::interface::{
    Kept, OpenError, Opened, Queue, net_error, open_host, opened, port_error, shared_link,
};
use crate::classify::Mac;
use crate::config::{HostEndpoint, Interface, MacvtapKind};
use crate::net::guard::Pass;
use crate::net::macvtap::MacvtapLink;
use crate::net::{Link, MacvtapMode};
use crate::port::tap::{Header, Tap, TapSpec};
use usnet_shmring::arena::SlotSize;

/// What the kernel calls this kind of link.
const KIND: &str = "macvtap";
/// Bytes of a slot that holds every frame that the kernel joins.
const LONGEST: u32 = 65_536;

/// Opens an interface: a macvtap over it, or itself if it is one.
pub(super) fn open(
    interface: &Interface,
    workers: usize,
    slots: Option<SlotSize>,
) -> Result<Opened, OpenError> {
    let name = interface.name.as_str();
    let (mut netlink, link, mtu, addresses) = shared_link(interface)?;
    let mut kept = Kept::of(&link);
    // What arrives joined is as long as the kernel makes it, and cut by the kernel for shorter slots.
    let header = if slots == SlotSize::new(LONGEST) { Header::Segments } else { Header::Checksums };
    if link.kind.as_deref() == Some(KIND) {
        if interface.macvtap.is_some() {
            return Err(OpenError::Unsuitable {
                name: name.to_owned(),
                problem: "is a macvtap already and keeps its mode; leave `macvtap` out",
            });
        }
        let queues = Queue::pair(queues(interface, &link, header, workers)?, None);
        let opened = opened(interface, link.mac, mtu, addresses, queues, &[]);
        return Ok(Opened { kept, ..opened });
    }
    let mode = match interface.macvtap {
        Some(MacvtapKind::Bridge) => {
            MacvtapMode::Bridge(interface.mac.unwrap_or_else(|| beside(link.mac)))
        }
        Some(MacvtapKind::Passthru) | None => MacvtapMode::Passthru,
    };
    // All that takes time comes first: without a macvtap on top the kernel hears as ever.
    let host = match (mode, interface.host) {
        (MacvtapMode::Bridge(_), _) | (_, HostEndpoint::None) => None,
        _ => Some(open_host(&mut kept, &mut netlink, interface, &link, workers)?),
    };
    let passes: &[Pass] = if host.is_some() { &Pass::BESIDE_MACVTAP } else { &[] };
    if host.is_some() {
        kept.readdress(&link).map_err(net_error(name))?;
    }
    let mut made = MacvtapLink::make(&mut netlink, &link, mode).map_err(net_error(name))?;
    let upper = made.link().map_err(net_error(name))?;
    // What arrives waits in the device until the switch runs.
    let wires = queues(interface, &upper, header, workers)?;
    made.outlast();
    kept.keep_macvtap(made);
    let queues = Queue::pair(wires, host);
    let opened = opened(interface, upper.mac, mtu, addresses, queues, passes);
    Ok(Opened { kept, ..opened })
}

fn queues(
    interface: &Interface,
    link: &Link,
    header: Header,
    workers: usize,
) -> Result<Vec<Tap>, OpenError> {
    let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
    let spec = TapSpec { name: link.name.clone(), mac: link.mac, mtu, header };
    Tap::open_macvtap(&spec, &interface.name, workers)
        .map_err(|error| port_error(&interface.name, "the device of a macvtap", error))
}

/// A link address that is always the same beside that of an interface: administered locally, and another one.
fn beside(mac: Mac) -> Mac {
    let [first, rest @ ..] = mac.0;
    let [a, b, c, d, e] = rest;
    Mac([(first | 2) ^ 0x40, a, b, c, d, e])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_address_beside_another_is_a_different_one_of_this_host() {
        for first in (0..=255).step_by(2) {
            let mac = Mac([first, 1, 2, 3, 4, 5]);
            let own = beside(mac);
            assert!(own != mac && !own.is_group() && own.0[0] & 2 != 0, "{own}");
        }
    }
}
