//! VLANs follow the interface that they are of: they go when it goes, and come back after it.

use super::{Notice, Place, Stage};
use crate::daemon::event::EventSink;
use crate::daemon::vlan::Trunk;
use crate::daemon::workers::AllPorts;

/// What the interface at this place, if it is a VLAN, has of the one that it is of, if that is open.
pub(super) fn trunk_of(places: &[Place], at: usize) -> Option<Trunk> {
    let of = &places.get(at)?.kept.configured.vlan.as_ref()?.of;
    open_trunk(places, of)
}

/// What VLANs have of the interface of this name, if it is open.
pub(super) fn open_trunk(places: &[Place], name: &str) -> Option<Trunk> {
    let place = places.iter().find(|place| place.kept.configured.name == name)?;
    matches!(place.stage, Stage::Open { .. }).then_some(place.kept.trunk)
}

/// Closes the VLANs of the interface at this place, which is closed.
pub(super) fn retire_those_of(
    places: &mut [Place],
    at: usize,
    ports: &AllPorts,
    notices: &EventSink<Notice>,
) {
    let Some(name) = places.get(at).map(|place| place.kept.configured.name.clone()) else { return };
    let is_of = |place: &&mut Place| {
        place.kept.configured.vlan.as_ref().is_some_and(|vlan| vlan.of == name)
    };
    for place in places.iter_mut().filter(is_of) {
        let why = format!("{name}, which it is a VLAN of, is gone");
        if place.retire(ports, Some(&why)) {
            notices.send(Notice::Retired { interface: place.kept.id, why });
        }
    }
}
