//! Interfaces that come and go while the daemon runs.
//!
//! ```text
//!   Open  --> records, ports, one interface after the other --> Opened (all, or none and why)
//!             control thread: workers get their parts --------> Serve
//!   Remove -> the kernel hears for itself -> workers close the ports -> all is put back --> Removed
//! ```
//!
//! - What is opened and not yet served is looked after by nobody: it is put back by [`Order::Serve`](super::Order), which
//!   always follows.
//! - Orders and notices keep their order, so after [`Notice::Removed`] nothing is said of that number any more.

use super::vlans::open_trunk;
use super::{Kept, Notice, Place, State, chain};
use crate::config::{Backend, Interface, Network};
use crate::daemon::interface::{self, Opened, Wires};
use crate::daemon::serving::Serving;
use crate::daemon::vlan::Trunk;
use crate::daemon::{Changes, gateway};
use crate::session::InterfaceId;
use crate::switch::InterfaceSpec;
use std::net::IpAddr;
use std::time::Instant;

/// An interface that is open, and that no worker has yet.
#[derive(Debug)]
pub struct Fresh {
    /// Its number.
    pub id: InterfaceId,
    /// What the configuration says of it.
    pub configured: Interface,
    /// Addresses that host and clients share.
    pub networks: Vec<Network>,
    /// Routers.
    pub gateways: Vec<IpAddr>,
    /// Its ports, by worker.
    pub specs: Vec<InterfaceSpec>,
    /// How it is served.
    pub serving: Serving,
}

impl State {
    /// Opens all, or none: those that were open by then are put back.
    pub(super) fn open(
        &mut self,
        wanted: Vec<(InterfaceId, Interface)>,
    ) -> Result<Vec<Fresh>, String> {
        let those: Vec<Interface> = wanted.iter().map(|(_, i)| i.clone()).collect();
        let workers = self.ports.workers();
        let mut wires = Wires::new(&those, workers).map_err(|error| chain(&error))?;
        // Declared in this order, so that ports close before what was changed for them is put back.
        let mut places: Vec<Place> = Vec::new();
        let mut fresh = Vec::new();
        for (id, configured) in wanted {
            let may_keep = |c: &Interface| matches!(c.port, Backend::AfXdp | Backend::Auto);
            let late = self.places.iter().filter(|p| p.is_late).chain(&places);
            let keepers = late.filter(|p| may_keep(&p.kept.configured)).count();
            self.cards.count_keepers_since(keepers + usize::from(may_keep(&configured)));
            let record = self.records.begin(&configured).map_err(|error| chain(&error))?;
            let of = configured.vlan.as_ref().map(|vlan| vlan.of.as_str());
            let trunk =
                of.and_then(|of| open_trunk(&places, of).or_else(|| open_trunk(&self.places, of)));
            let opened = interface::open_any(&configured, trunk, workers, &mut wires, &self.cards);
            let Opened { specs, addresses, kept } = opened.map_err(|error| chain(&error))?;
            let trunk = Trunk::of(&specs).ok_or_else(|| "there is no worker".to_owned())?;
            let serving = kept.serving().clone();
            let changes = Some(Changes { kept, _records: record });
            let networks = addresses.clone();
            let kept = Kept { id, configured: configured.clone(), networks, trunk, changes };
            places.push(Place { is_late: true, due: None, ..Place::new(kept) });
            let gateways = gateway::of(&configured);
            let networks = addresses;
            fresh.push(Fresh { id, configured, networks, gateways, specs, serving });
        }
        self.places.append(&mut places);
        Ok(fresh)
    }

    /// The workers have what was opened, and it is looked after; or else it is put back.
    pub(super) fn settle(&mut self, those: &[InterfaceId], is_served: bool) {
        if !is_served {
            return self.places.retain(|place| !those.contains(&place.kept.id));
        }
        let now = Instant::now();
        for place in self.places.iter_mut().filter(|place| those.contains(&place.kept.id)) {
            place.due = place.kept.configured.port.has_link().then_some(now);
        }
    }

    /// Takes an interface away from the workers, and puts back what was changed for it.
    pub(super) fn remove(&mut self, id: InterfaceId) {
        let Some(index) = self.places.iter().position(|place| place.kept.id == id) else { return };
        let mut place = self.places.swap_remove(index);
        // Before the ports close: what arrives in between would be for nobody.
        if let Some(changes) = &mut place.kept.changes {
            changes.let_kernel_hear();
        }
        // A worker that is gone has closed its ports.
        let _ = self.ports.remove(id);
        let name = place.kept.configured.name.clone();
        drop(place);
        tracing::info!(interface = name, "removed");
        self.notices.send(Notice::Removed(id));
    }
}
