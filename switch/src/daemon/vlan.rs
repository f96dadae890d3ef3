//! Interfaces that are a VLAN of another one: no port of their own, and the kernel's part by a TAP device.
//!
//! ```text
//!   eth0's port --> switch --tag off--> eth0.42 --> clients; TAP device `eth0.42` --> kernel
//!               <--        <--tag on--          <--
//! ```
//!
//! - The TAP device has the interface's addresses, and is all that the kernel has of the VLAN: it hears and sends there
//!   alone, so there is no guard. It goes with this process.
//! - Link address and MTU are those of the interface that it is a VLAN of, as that is now. It is open only as long as that
//!   is.

use super::interface::{OpenError, Opened, Queue, boxed, net_error, opened, port_error};
use crate::classify::Mac;
use crate::config::{HostEndpoint, Interface};
use crate::net::sysctl::{Changed, Setting};
use crate::net::{InterfaceAddress, NetError, Netlink};
use crate::port::lane::Lane;
use crate::port::tap::{Header, Tap, TapSpec};
use crate::switch::InterfaceSpec;

/// What a VLAN has of the interface that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trunk {
    pub(super) mac: Mac,
    pub(super) mtu: u16,
}

impl Trunk {
    /// An open interface, by the parts of its workers.
    pub(super) fn of(specs: &[InterfaceSpec]) -> Option<Self> {
        specs.first().map(|spec| Self { mac: spec.mac, mtu: spec.mtu })
    }
}

/// Whether the interface that a VLAN is of is there.
///
/// # Errors
/// [`OpenError::Unsuitable`]: it is not.
pub(super) fn can_open(interface: &Interface, trunk: Option<Trunk>) -> Result<Trunk, OpenError> {
    trunk.ok_or_else(|| OpenError::Unsuitable {
        name: interface.name.clone(),
        problem: "waits for the interface that it is a VLAN of",
    })
}

/// Opens an interface for `workers` workers.
///
/// # Errors
/// [`OpenError`]; what was made by then is gone.
pub(super) fn open(
    interface: &Interface,
    trunk: Option<Trunk>,
    workers: usize,
) -> Result<Opened, OpenError> {
    let Trunk { mac, mtu: most } = can_open(interface, trunk)?;
    let unsuitable = |problem| OpenError::Unsuitable { name: interface.name.clone(), problem };
    let mtu = interface.mtu.unwrap_or(most);
    if mtu > most {
        return Err(unsuitable(
            "has a larger MTU than the interface that it is a VLAN of; lower it, or raise that one's",
        ));
    }
    let hosts = match interface.host {
        HostEndpoint::None => None,
        _ => Some(boxed(open_taps(interface, mac, mtu, workers)?)),
    };
    let lanes = (0..workers).map(|_| Lane::new(interface.name.clone(), mac, mtu)).collect();
    let queues = Queue::pair(lanes, hosts);
    Ok(opened(interface, mac, mtu, interface.addresses.clone(), queues, &[]))
}

/// The kernel's part: a device with the interface's name and addresses.
fn open_taps(
    interface: &Interface,
    mac: Mac,
    mtu: u16,
    workers: usize,
) -> Result<Vec<Tap>, OpenError> {
    let name = interface.name.as_str();
    let mut netlink = Netlink::open().map_err(net_error(name))?;
    match netlink.link(name) {
        Err(NetError::NoInterface { .. }) => {}
        Ok(_) => {
            return Err(OpenError::Unsuitable {
                name: name.to_owned(),
                problem: "is an interface of the kernel's already; delete it there, or give this one another name",
            });
        }
        Err(error) => return Err(net_error(name)(error)),
    }
    let spec = TapSpec { name: name.to_owned(), mac, mtu, header: Header::Checksums };
    let taps = Tap::open_queues(&spec, workers).map_err(|e| port_error(name, "a TAP device", e))?;
    // Nobody answers there for an address but we ourselves.
    let _ = Setting::Ipv6DuplicateDetection.change(name, 0).map(Changed::keep);
    for network in &interface.addresses {
        let address = InterfaceAddress::new(network.address(), network.prefix());
        netlink.add_address(name, address).map_err(net_error(name))?;
    }
    netlink.set_up(name).map_err(net_error(name))?;
    Ok(taps)
}
