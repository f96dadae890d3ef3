//! Groups of clients that hold the same and take a part of the flows each.
//!
//! ```text
//!   hash(seed, flow) --> one of 4,096 parts --> the member whose hash with the part is highest
//! ```
//!
//! - A look is one hash and one load, whatever the number of members.
//! - When a member goes, its parts move and no others; one that comes takes its share of each of the others.
//! - All workers agree: the seed comes with the rule, and who has a part does not depend on who came first.

use super::scope::Scope;
use crate::classify::{Flow, Protocol};
use crate::verdict::{Receiver, ReceiverCode};
use core::hash::{BuildHasher, Hasher};
use foldhash::quality::FixedState;

/// Most members of one group.
pub const MEMBERS: usize = 64;
/// Groups of one interface.
pub(super) const GROUPS: usize = 256;
const PARTS: usize = 4096;

/// What the members hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) address: crate::classify::Address,
    pub(super) protocol: Protocol,
    pub(super) first: u16,
    pub(super) count: u16,
    pub(super) scope: Scope,
}

/// A group.
pub(super) struct Spread {
    pub(super) held: Held,
    members: Vec<Receiver>,
    parts: Box<[ReceiverCode; PARTS]>,
    hash: FixedState,
}

impl core::fmt::Debug for Spread {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { held, members, .. } = self;
        f.debug_struct("Spread")
            .field("held", held)
            .field("members", members)
            .finish_non_exhaustive()
    }
}

impl Spread {
    pub(super) fn new(held: Held, seed: u64) -> Self {
        let parts = vec![ReceiverCode::NONE; PARTS].into_boxed_slice();
        let parts = parts.try_into().unwrap_or_else(|_| Box::new([ReceiverCode::NONE; PARTS]));
        Self { held, members: Vec::new(), parts, hash: FixedState::with_seed(seed) }
    }

    pub(super) fn members(&self) -> &[Receiver] {
        &self.members
    }

    /// False if it is full.
    pub(super) fn join(&mut self, member: Receiver) -> bool {
        if self.members.contains(&member) {
            return true;
        }
        if self.members.len() >= MEMBERS {
            return false;
        }
        self.members.push(member);
        self.share_out();
        true
    }

    /// Returns whether nobody is left.
    pub(super) fn leave(&mut self, member: Receiver) -> bool {
        if self.members.contains(&member) {
            self.members.retain(|other| *other != member);
            self.share_out();
        }
        self.members.is_empty()
    }

    fn share_out(&mut self) {
        for (part, owner) in self.parts.iter_mut().enumerate() {
            let weight = |member: &Receiver| {
                let code = ReceiverCode::of(Some(*member)).bits();
                let mut hasher = self.hash.build_hasher();
                hasher.write_u64((part as u64) << 16 | u64::from(code));
                (hasher.finish(), code)
            };
            *owner = ReceiverCode::of(self.members.iter().copied().max_by_key(weight));
        }
    }

    /// Whose a flow is.
    #[expect(clippy::cast_possible_truncation, reason = "part of a hash")]
    pub(super) fn member(&self, flow: &Flow) -> Option<Receiver> {
        let mut hasher = self.hash.build_hasher();
        hasher.write_u128(u128::from_ne_bytes(flow.source.0));
        hasher.write_u128(u128::from_ne_bytes(flow.destination.0));
        hasher.write_u64(
            u64::from(flow.source_port)
                | u64::from(flow.destination_port) << 16
                | u64::from(flow.protocol.0) << 32,
        );
        let hash = hasher.finish();
        // Masked: it lies in the array.
        self.parts[(hash ^ hash >> 32) as usize & (PARTS - 1)].receiver()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::Address;
    use usnet_shmring::ledger::SessionId;

    const FLOWS: u32 = 40_000;

    fn flow(n: u32) -> Flow {
        let [_, a, b, c] = n.to_be_bytes();
        Flow {
            source: Address::v4([192, a, b, c]),
            destination: Address::v4([10, 0, 0, 1]),
            protocol: Protocol::TCP,
            source_port: 40_000,
            destination_port: 80,
            ports_known: true,
        }
    }

    fn group(members: impl IntoIterator<Item = u16>, seed: u64) -> Spread {
        let address = Address::v4([10, 0, 0, 1]);
        let (first, count, scope) = (80, 1, Scope::default());
        let held = Held { address, protocol: Protocol::TCP, first, count, scope };
        let mut group = Spread::new(held, seed);
        for member in members {
            assert!(group.join(Receiver::Client(SessionId(member))));
        }
        group
    }

    fn owners(group: &Spread) -> Vec<u16> {
        let owner = |n| match group.member(&flow(n)) {
            Some(Receiver::Client(SessionId(id))) => id,
            other => panic!("{other:?}"),
        };
        (0..FLOWS).map(owner).collect()
    }

    #[test]
    fn flows_are_spread_evenly_over_the_members() {
        for members in [1, 2, 3, 7, 16] {
            let owners = owners(&group(0..members, 1));
            let fair = FLOWS as usize / usize::from(members);
            for member in 0..members {
                let part = owners.iter().filter(|owner| **owner == member).count();
                assert!(
                    part > fair * 3 / 4 && part < fair * 5 / 4,
                    "{member} of {members}: {part}"
                );
            }
        }
    }

    #[test]
    fn only_the_flows_of_who_goes_and_of_who_comes_move() {
        let mut group = group(0..5, 7);
        let before = owners(&group);
        assert!(!group.leave(Receiver::Client(SessionId(2))));
        let without = owners(&group);
        for (old, new) in before.iter().zip(&without) {
            assert!(*new != 2 && (old == new || *old == 2));
        }
        assert!(group.join(Receiver::Client(SessionId(9))));
        let with = owners(&group);
        let moved = without.iter().zip(&with).filter(|(old, new)| old != new);
        assert!(moved.clone().all(|(_, new)| *new == 9));
        let count = moved.count();
        assert!(count > FLOWS as usize / 8 && count < FLOWS as usize / 3, "{count}");
    }

    #[test]
    fn who_has_a_flow_does_not_depend_on_who_came_first_but_on_the_seed() {
        let (a, b) = (group([1, 2, 3], 5), group([3, 1, 2], 5));
        assert_eq!(owners(&a), owners(&b));
        assert_ne!(owners(&a), owners(&group([1, 2, 3], 6)));
        assert!(group(0..3, 1).member(&flow(1)).is_some());
        let mut full = group((0..).take(MEMBERS), 1);
        assert!(!full.join(Receiver::Client(SessionId(1000))));
    }
}
