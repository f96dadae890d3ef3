//! An interface that is a VLAN of another.

use super::frames::ip;
use super::port::{Hand, Script};
use super::rig::{Rig, mac};
use usnet_switch::config::Unmatched;
use usnet_switch::port::Port;
use usnet_switch::port::lane::Lane;
use usnet_switch::session::InterfaceId;
use usnet_switch::switch::{Behind, InterfaceSpec};

/// An interface with the link address of interface 0.
pub(crate) fn spec(
    addresses: &[&str],
    wire: Box<dyn Port>,
    host: Option<Box<dyn Port>>,
) -> InterfaceSpec {
    InterfaceSpec {
        mac: mac(0),
        mtu: 1500,
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        wire,
        host,
        behind: Behind::Kernel,
        cut_through: true,
        kernel_hears: Vec::new(),
        unmatched: Unmatched::Drop,
    }
}

/// A port without a medium, for a VLAN of interface 0.
pub(crate) fn lane() -> Box<dyn Port> {
    Box::new(Lane::new("lane".into(), mac(0), 1500))
}

impl Rig {
    /// Adds an interface that is this VLAN of interface 0, and returns its host's end if it has one.
    pub(crate) fn add_vlan(
        &mut self,
        number: u8,
        id: u16,
        addresses: &[&str],
        has_host: bool,
    ) -> Option<Hand> {
        let (host, hand) = Script::new(&format!("host{number}"), mac(0));
        let host = has_host.then_some(host as Box<dyn Port>);
        let added =
            self.switch.add_interface_at(InterfaceId(number), spec(addresses, lane(), host));
        added.expect("the number is free");
        let made = self.switch.set_vlan(InterfaceId(number), InterfaceId(0), id);
        made.expect("it can be one");
        let hand = has_host.then_some(hand);
        self.hosts.push(hand.clone());
        hand
    }
}
