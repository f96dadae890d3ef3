//! Frames of VLANs between the interface whose port has them and those that they belong to.
//!
//! ```text
//!   eth0's port --receive--> eth0 --tag?--no--> eth0's clients, host
//!                                   |yes
//!                                   +--hand over--> eth0.42's clients, host
//!   eth0's port <--transmit-- eth0's outlet <--lift, tag on-- eth0.42's outlet <-- eth0.42's clients, host
//! ```
//!
//! - A frame is handed over, or lifted, in the step in which it came; it is counted as received and as sent once.
//! - What is sent is lifted as soon as its source has had its turn, so that no source finds the places of another's frames
//!   taken.

use super::{Switch, SwitchError, place};
use crate::capture::{Direction, Seen};
use crate::interface::{Vlan, put_on};
use crate::session::InterfaceId;
use crate::time::Time;
use crate::verdict::DropReason;

impl Switch {
    /// Has an interface whose port is a [`Lane`](crate::port::lane::Lane) be this VLAN of another one.
    ///
    /// # Errors
    /// [`SwitchError::NoInterface`]; [`SwitchError::NoVlan`]: the interface has another port, or what it is to be a VLAN of
    /// is one itself; [`SwitchError::VlanTaken`]: it is another's.
    pub fn set_vlan(
        &mut self,
        interface: InterfaceId,
        of: InterfaceId,
        id: u16,
    ) -> Result<(), SwitchError> {
        let is_lane = |it: &crate::interface::Interface| it.wire.is_lane();
        let vlan = self.interfaces.get_mut(interface)?;
        let can_be = is_lane(vlan) && vlan.vlan.is_none() && (1..=4094).contains(&id);
        let trunk = self.interfaces.get_mut(of)?;
        if !can_be || is_lane(trunk) || trunk.bump.is_some() {
            return Err(SwitchError::NoVlan { interface, id });
        }
        if !trunk.lanes.add(id, interface) {
            return Err(SwitchError::VlanTaken { of, id });
        }
        trunk.wire.port.serve_vlan(id, true);
        self.interfaces.get_mut(interface)?.vlan = Some(Vlan { of, id });
        Ok(())
    }

    /// An interface goes: it is no VLAN any more, and has none.
    pub(super) fn leave_lanes(&mut self, interface: InterfaceId) {
        if let Ok(it) = self.interfaces.get_mut(interface)
            && let Some(Vlan { of, id }) = it.vlan.take()
            && let Ok(trunk) = self.interfaces.get_mut(of)
        {
            trunk.lanes.remove(id);
            trunk.wire.port.serve_vlan(id, false);
        }
        for (_, other) in self.interfaces.iter_mut() {
            other.vlan = other.vlan.filter(|vlan| vlan.of != interface);
        }
        self.lanes.retain(|lane| *lane != usize::from(interface.0));
    }

    /// Hands over what an interface has received for its VLANs.
    pub(super) fn hand_over(&mut self, index: usize, now: Time) {
        let Self { interfaces, deliver, .. } = self;
        let mut before = None;
        while let Some((id, frame)) = interfaces.at(index).and_then(|trunk| trunk.lanes.next()) {
            let number = usize::from(id.0);
            let Some(interface) = interfaces.at(number) else {
                deliver.drop_frame(frame, DropReason::NoReceiver);
                continue;
            };
            if before.replace(id) != Some(id) {
                interface.table.look_around();
            }
            if let Some(tap) = &mut deliver.tap {
                let (bytes, length) = (deliver.pool.bytes(&frame), frame.len());
                tap.source = Some(place(number, false));
                let what = Seen { bytes, length, direction: Direction::In, dropped: None };
                tap.see(place(number, false), &what);
            }
            match interface.wire.port.lane() {
                Some(lane) => {
                    lane.received(frame.len());
                    interface.from_wire(deliver, frame, now);
                }
                // Closed until the other interface is open again.
                None => deliver.drop_frame(frame, DropReason::NoReceiver),
            }
        }
    }

    /// Gives what an interface has sent to the port of the one that it is a VLAN of, if it is one.
    #[inline]
    pub(super) fn lift(&mut self, index: usize, now: Time) {
        if self.interfaces.at(index).is_some_and(|interface| interface.wire.is_lane()) {
            self.lift_lane(index, now);
        }
    }

    /// The same for all that are VLANs.
    #[inline]
    pub(super) fn lift_all(&mut self, now: Time) {
        for at in 0..self.lanes.len() {
            if let Some(index) = self.lanes.get(at).copied() {
                self.lift(index, now);
            }
        }
    }

    #[inline(never)]
    fn lift_lane(&mut self, index: usize, now: Time) {
        let Self { interfaces, deliver, .. } = self;
        let Some(interface) = interfaces.at(index) else { return };
        interface.wire.flush(deliver, now);
        let vlan = interface.vlan;
        loop {
            let Some(lane) = interfaces.at(index).and_then(|it| it.wire.port.lane()) else {
                return;
            };
            let Some(mut frame) = lane.take() else { return };
            let Some(Vlan { of, id }) = vlan else {
                deliver.drop_frame(frame, DropReason::NoReceiver);
                continue;
            };
            if !put_on(&mut deliver.pool, &mut frame, id) {
                lane.refused(frame.len());
                deliver.drop_frame(frame, DropReason::TooLong);
                continue;
            }
            match interfaces.at(usize::from(of.0)) {
                Some(trunk) => trunk.wire.push(deliver, frame, now),
                None => deliver.drop_frame(frame, DropReason::NoReceiver),
            }
        }
    }
}
