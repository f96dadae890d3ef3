//! The flows that were learned for one session, and how many there may be.
//!
//! ```text
//!   own    what it began itself                                  at most its quota
//!   kept   answers to what others began, at ports of a group     as many; the last quarter for remote
//!                                                                addresses that have less than a sixteenth
//! ```
//!
//! - What remote ends can bring about takes nothing from what the client begins itself, and no remote address
//!   takes all from the others.
//! - Oldest first: at a limit a few are looked at, and one that is idle is given up.

use crate::classify::{Address, Flow};
use crate::steer::{EXACT_FLOWS, Table};
use crate::time::Time;
use crate::verdict::Receiver;
use std::collections::VecDeque;
use usnet_shmring::ledger::SessionId;

/// Flows that are looked at when there is no room for another.
const LOOKS: usize = 8;
/// Parts of remote addresses that are counted together; a power of two.
const PARTS: usize = 256;

/// Why a flow is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The session began it, from a port that nobody holds.
    Begun,
    /// A remote end began it, at a port that the session has with others.
    Answered,
}

/// See the module. There is room for all that the session may begin from the start, for the others from their first on.
#[derive(Debug)]
pub(crate) struct Learned {
    own: VecDeque<Flow>,
    kept: VecDeque<Flow>,
    /// Kept flows by part of remote addresses. Empty until there are some.
    remotes: Box<[u16]>,
    quota: usize,
}

impl Learned {
    /// At most `quota` flows that the session began, and as many that others did.
    pub(crate) fn new(quota: usize) -> Self {
        let quota = quota.min(EXACT_FLOWS);
        Self {
            own: VecDeque::with_capacity(quota),
            kept: VecDeque::new(),
            remotes: Box::default(),
            quota,
        }
    }

    /// The session may have to keep what others begin, from now on: it is one of a group.
    #[cold]
    fn expect_kept(&mut self) {
        self.kept = VecDeque::with_capacity(self.quota);
        self.remotes = vec![0; PARTS].into_boxed_slice();
    }

    fn remotes_place(&mut self, table: &Table, remote: Address) -> Option<&mut u16> {
        self.remotes.get_mut(table.scatter(remote) % PARTS)
    }

    /// Whether one more that this remote end has begun is within the limits.
    fn may_keep(&mut self, table: &Table, remote: Address) -> bool {
        let (kept, quota) = (self.kept.len(), self.quota);
        let has = self.remotes_place(table, remote).map_or(0, |count| usize::from(*count));
        kept < quota / 4 * 3 || (kept < quota && has < quota / 16)
    }

    /// Whether one more flow may be learned for `id`. At the limit it looks at the oldest few, and gives up one that
    /// is idle or not its own any more.
    pub(crate) fn has_room(
        &mut self,
        table: &mut Table,
        id: SessionId,
        flow: &Flow,
        why: Why,
        now: Time,
    ) -> bool {
        let receiver = Receiver::Client(id);
        match why {
            Why::Begun => {
                self.own.len() < self.quota || retire(&mut self.own, table, receiver, now).is_some()
            }
            Why::Answered => {
                if self.remotes.is_empty() {
                    self.expect_kept();
                }
                if !self.may_keep(table, flow.source)
                    && let Some(gone) = retire(&mut self.kept, table, receiver, now)
                    && let Some(count) = self.remotes_place(table, gone.source)
                {
                    *count = count.saturating_sub(1);
                }
                self.may_keep(table, flow.source)
            }
        }
    }

    /// Notes a flow for which there [is room](Self::has_room).
    pub(crate) fn note(&mut self, table: &Table, flow: Flow, why: Why) {
        match why {
            Why::Begun => self.own.push_back(flow),
            Why::Answered => {
                if let Some(count) = self.remotes_place(table, flow.source) {
                    *count = count.saturating_add(1);
                }
                self.kept.push_back(flow);
            }
        }
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.own.iter().chain(&self.kept)
    }
}

/// Gives up one of the oldest few that is idle.
fn retire(
    flows: &mut VecDeque<Flow>,
    table: &mut Table,
    receiver: Receiver,
    now: Time,
) -> Option<Flow> {
    for _ in 0..LOOKS.min(flows.len()) {
        let oldest = flows.pop_front()?;
        if table.retire(&oldest, receiver, now) {
            return Some(oldest);
        }
        flows.push_back(oldest);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::Protocol;
    use crate::steer::Stage;

    const ID: SessionId = SessionId(3);

    fn flow(remote: u32, port: u16) -> Flow {
        Flow {
            source: Address::v4(remote.to_be_bytes()),
            destination: Address::v4([10, 0, 0, 1]),
            protocol: Protocol::UDP,
            source_port: port,
            destination_port: 7,
            ports_known: true,
        }
    }

    /// Learns it if there is room.
    fn learn(learned: &mut Learned, table: &mut Table, flow: Flow, why: Why, now: Time) -> bool {
        let has_room = learned.has_room(table, ID, &flow, why, now);
        if has_room {
            table.learn(flow, Receiver::Client(ID), now).unwrap();
            learned.note(table, flow, why);
        }
        has_room
    }

    #[test]
    fn one_remote_end_takes_nothing_from_the_last_quarter_and_all_take_nothing_from_the_client() {
        let (mut learned, mut table) = (Learned::new(1024), Table::new(None, 1));
        let mut answer = |remote, port, now| {
            learn(&mut learned, &mut table, flow(remote, port), Why::Answered, Time(now))
        };
        let of_one = (1..=1000).filter(|port| answer(9, *port, 0)).count();
        assert_eq!(of_one, 768);
        let of_another = (1..=1000).filter(|port| answer(10, *port, 0)).count();
        assert_eq!(of_another, 64);
        let of_all = (11..2000).filter(|remote| answer(*remote, 5, 0)).count();
        assert_eq!(of_one + of_another + of_all, 1024);
        assert!(!answer(9, 5000, 0));
        let later = (Time(0) + Stage::Datagrams.time()).0;
        assert!(answer(7777, 5, later), "an idle one makes room");
        // What the client begins itself has its whole quota.
        let begun = (1..=1024)
            .filter(|port| learn(&mut learned, &mut table, flow(5, *port), Why::Begun, Time(0)));
        assert_eq!(begun.count(), 1024);
        assert!(!learn(&mut learned, &mut table, flow(6, 1), Why::Begun, Time(0)));
        assert_eq!(learned.iter().count(), 2 * 1024);
    }
}
