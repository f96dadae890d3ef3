//! Other ports in the place of those of an interface, while its sessions and rules stay.
//!
//! ```text
//!   port fails -> Closed in its place, Event::PortGone
//!   retire_ports:  the interface's other port is closed too      whoever opens them has free hands
//!   replace_ports: new ports, perhaps another link address       frames move again
//! ```
//!
//! - What waits for a port that is retired is dropped and counted; what a port's rings held is free
//!   before `retire_ports` returns.
//! - Counters of a place go on from where the port before left them: all only grow.

use super::{InterfaceSpec, Switch, SwitchError};
use crate::deliver::Deliver;
use crate::interface::{Outlet, Recent};
use crate::port::lane::Lane;
use crate::port::netmap::Netmap;
use crate::port::{Burst, Exchange, Port, PortCounters, PortInfo};
use crate::session::InterfaceId;
use crate::steer::ClaimedPorts;
use crate::time::Time;
use crate::verdict::DropReason;
use core::ops::Range;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use usnet_shmring::pool::Pool;

impl Switch {
    /// Closes the ports of an interface of which one has failed, so that they can be opened anew, or in
    /// any case: one of another worker has. Returns whether one had failed here; else, and if not in any
    /// case, nothing is done.
    ///
    /// # Errors
    /// [`SwitchError::NoInterface`]
    pub fn retire_ports(
        &mut self,
        interface: InterfaceId,
        in_any_case: bool,
    ) -> Result<bool, SwitchError> {
        let Self { interfaces, deliver, .. } = self;
        let place = interfaces.get_mut(interface)?;
        let mut outlets: Vec<_> = std::iter::once(&mut place.wire).chain(&mut place.host).collect();
        let has_failed = outlets.iter().any(|outlet| outlet.gone);
        for outlet in
            outlets.iter_mut().filter(|outlet| (has_failed || in_any_case) && !outlet.gone)
        {
            outlet.gone = true;
            empty(outlet, deliver);
            outlet.close(&mut deliver.pool);
        }
        if has_failed || in_any_case {
            place.early.give_up_all(deliver);
        }
        Ok(has_failed)
    }

    /// Puts the ports of `spec` in the place of those of an interface. Its link address and MTU are
    /// the interface's from now on; its addresses stay what they are.
    ///
    /// # Errors
    /// [`SwitchError::NoInterface`]
    pub fn replace_ports(
        &mut self,
        interface: InterfaceId,
        spec: InterfaceSpec,
    ) -> Result<(), SwitchError> {
        let Self { interfaces, deliver, seed, .. } = self;
        let place = interfaces.get_mut(interface)?;
        // Addresses, and what lies behind, are configured and so the same.
        let InterfaceSpec { mac, mtu, wire, host, kernel_hears, cut_through, unmatched, .. } = spec;
        let claimed = wire.claimed_ports();
        install(&mut place.wire, wire, deliver);
        for id in place.lanes.ids() {
            place.wire.port.serve_vlan(id, true);
        }
        if let Some(ports) = claimed {
            place.table.set_claimed(ports);
        }
        match (&mut place.host, host) {
            (Some(outlet), Some(port)) => install(outlet, port, deliver),
            // Its rules were made without a host.
            (None, Some(mut port)) => port.close(&mut deliver.pool),
            (_, None) => {}
        }
        (place.mac, place.frame_limit) = (mac, usize::from(mtu) + 14);
        (place.kernel_hears, place.cut_through) = (kernel_hears, cut_through);
        place.unmatched = unmatched;
        // What was decided for the address before does not hold for this one.
        place.recent = Recent::new(seed.wrapping_add(u64::from(interface.0)).rotate_left(32));
        Ok(())
    }

    /// Descriptors of one interface, of those that [`descriptors`](Self::descriptors) has.
    pub fn descriptors_of(&self, interface: InterfaceId) -> impl Iterator<Item = BorrowedFd<'_>> {
        let place = self.interfaces.get(interface);
        let outlets = place.into_iter().flat_map(|i| std::iter::once(&i.wire).chain(&i.host));
        outlets.filter(|outlet| !outlet.gone).filter_map(|outlet| outlet.port.descriptor())
    }
}

/// Drops what waits for a port.
fn empty(outlet: &mut Outlet, deliver: &mut Deliver) {
    let count = outlet.out.clear(&mut deliver.pool);
    deliver.totals.dropped.add(DropReason::NoReceiver, count as u64);
}

fn install(outlet: &mut Outlet, port: Box<dyn Port>, deliver: &mut Deliver) {
    empty(outlet, deliver);
    let before = outlet.port.counters();
    outlet.port.close(&mut deliver.pool);
    outlet.put(Box::new(Successor { port, before }), &mut deliver.pool);
    (outlet.gone, outlet.failed) = (false, None);
}

/// A port that goes on counting where another ended.
#[derive(Debug)]
struct Successor {
    port: Box<dyn Port>,
    /// What all ports before it had counted.
    before: PortCounters,
}

impl Port for Successor {
    fn info(&self) -> &PortInfo {
        self.port.info()
    }

    fn receive(&mut self, now: Time, pool: &mut Pool, into: &mut Burst) -> io::Result<usize> {
        self.port.receive(now, pool, into)
    }

    fn transmit(&mut self, now: Time, pool: &mut Pool, from: &mut Burst) -> io::Result<usize> {
        self.port.transmit(now, pool, from)
    }

    fn counters(&self) -> PortCounters {
        let mut all = self.before;
        all += self.port.counters();
        all
    }

    fn mode(&self) -> Option<&'static str> {
        self.port.mode()
    }

    fn claimed_ports(&self) -> Option<Arc<dyn ClaimedPorts>> {
        self.port.claimed_ports()
    }

    fn netmap(&mut self) -> Option<&mut Netmap> {
        self.port.netmap()
    }

    fn as_netmap(&self) -> Option<&Netmap> {
        self.port.as_netmap()
    }

    fn lane(&mut self) -> Option<&mut Lane> {
        self.port.lane()
    }

    fn serve_vlan(&mut self, id: u16, is_served: bool) {
        self.port.serve_vlan(id, is_served);
    }

    fn tails(&self) -> Range<u32> {
        self.port.tails()
    }

    fn exchange(&self) -> Option<Exchange> {
        self.port.exchange()
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.port.descriptor()
    }

    fn next_event(&self) -> Option<Time> {
        self.port.next_event()
    }

    fn close(&mut self, pool: &mut Pool) {
        self.port.close(pool);
    }
}
