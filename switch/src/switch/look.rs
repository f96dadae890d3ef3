//! Looking in: counters, who would get a frame, which flows are known, and copies for those who capture.

use super::Switch;
use super::places::show;
use crate::capture::Capture;
use crate::explain::{Explained, Question};
use crate::session::InterfaceId;
use crate::snapshot::{InterfaceSnapshot, SessionSnapshot, SlotCount, Snapshot};
use crate::steer::FlowSeen;
use crate::time::Time;

impl Switch {
    /// Copies frames for a capture from now on, until nobody reads it any more.
    pub(crate) fn capture(&mut self, capture: Capture) {
        self.deliver.tap.get_or_insert_default().add(capture);
        for (id, interface) in self.interfaces.iter_mut() {
            show(id, interface);
        }
    }

    /// Who would get this frame if it arrived on the interface's wire, and why; the tables stay as they are.
    pub(crate) fn explain(
        &mut self,
        interface: InterfaceId,
        question: &Question,
        now: Time,
    ) -> Option<Explained> {
        Some(self.interfaces.get_mut(interface).ok()?.explain(question, now))
    }

    /// At most `most` of the flows that the interface knows, and how many those are.
    pub(crate) fn flows_seen(
        &self,
        interface: InterfaceId,
        most: usize,
        now: Time,
    ) -> (Vec<FlowSeen>, usize) {
        let table = self.interfaces.get(interface).map(|i| &i.table);
        table.map_or_else(Default::default, |t| (t.flows_seen(most, now), t.flows()))
    }

    /// All counters, at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let (audit, slots) = self.deliver.pool.audit();
        let totals = self.deliver.totals;
        let waiting: usize = self
            .interfaces
            .iter()
            .map(|(_, i)| {
                i.wire.out.len() + i.host.as_ref().map_or(0, |h| h.out.len()) + i.early.len()
            })
            .sum();
        Snapshot {
            totals,
            waiting: waiting as u64,
            frames_conserved: totals.unaccounted() == waiting as i128,
            slots: SlotCount {
                free: audit.free,
                daemon: audit.daemon,
                taken: audit.taken,
                lent: audit.lent,
                shared: audit.shared,
                total: slots,
            },
            slots_conserved: audit.total() == slots,
            interfaces: self
                .interfaces
                .iter()
                .map(|(id, i)| InterfaceSnapshot::of(id, i))
                .collect(),
            sessions: self.deliver.sessions().map(SessionSnapshot::of).collect(),
            workers: Vec::new(),
        }
    }
}
