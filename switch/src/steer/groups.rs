//! Which clients have joined which groups.
//!
//! ```text
//!   report of a client --join, leave--> Groups, in a Roll for all workers
//!   question of a router --ask--------> what nobody reports again in time is left
//! ```
//!
//! - At most [`PER_CLIENT`] groups of one client. What ends a client ends what it has joined.
//! - A group is left by a leave, or when a router has asked for it and the client has not said for [`WAIT`] that it
//!   still wants it. Where no router asks, a group stays: there hosts report once and never again.
//! - A report that changes nothing takes no lock, nor does any other frame.

use super::roll::{Roll, Shared};
use crate::classify::Address;
use crate::time::Time;
use core::time::Duration;
use std::sync::Arc;
use usnet_shmring::ledger::SessionId;

/// Groups that one client may have joined.
pub(crate) const PER_CLIENT: usize = 16;
/// How long a router believes in a member that does not answer: two questions, 125 seconds apart, and ten seconds for
/// the answer (RFC 3376, 8.4; RFC 3810, 9.4).
pub(crate) const WAIT: Duration = Duration::from_secs(260);

/// One client in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    group: Address,
    session: SessionId,
    /// When it is left, if a router has asked and there was no answer yet.
    ends: Option<Time>,
}

/// More groups than a client may have joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// The members, sorted by group and session.
#[derive(Debug, Default)]
pub(crate) struct Groups(Roll<Member>);

impl Groups {
    /// Uses a roll together with others from now on.
    pub(super) fn share(&mut self, shared: Arc<Shared<Member>>) {
        self.0.share(shared);
    }

    /// Makes room for what so many clients may join, so that nothing is allocated later.
    pub(crate) fn expect(&mut self, clients: usize) {
        self.0.expect(clients * PER_CLIENT);
    }

    /// Takes over what other workers have changed.
    #[inline]
    pub(super) fn look(&mut self) {
        self.0.look();
    }

    fn place(members: &[Member], group: Address, session: SessionId) -> Result<usize, usize> {
        members.binary_search_by(|m| (m.group, m.session.0).cmp(&(group, session.0)))
    }

    fn get(&self, group: Address, session: SessionId) -> Option<&Member> {
        let members = self.0.entries();
        members.get(Self::place(members, group, session).ok()?)
    }

    /// A client joins these groups, or says that it still wants them: all, or none if they are too many.
    pub(crate) fn join(
        &mut self,
        groups: impl Iterator<Item = Address> + Clone,
        session: SessionId,
        now: Time,
    ) -> Result<(), TooMany> {
        let is_new = |group: &Address| self.get(*group, session).is_none_or(|m| m.ends.is_some());
        if !groups.clone().any(|group| is_new(&group)) {
            return Ok(());
        }
        let mut fits = true;
        self.0.change(|members| {
            members.retain(|m| m.session != session || m.ends.is_none_or(|ends| ends > now));
            let has = members.iter().filter(|m| m.session == session).count();
            let is_new = |group: &Address| Self::place(members, *group, session).is_err();
            fits = has + groups.clone().filter(is_new).count() <= PER_CLIENT;
            for group in groups.filter(|_| fits) {
                let member = Member { group, session, ends: None };
                match Self::place(members, group, session) {
                    Ok(at) => members.get_mut(at).into_iter().for_each(|m| *m = member),
                    Err(at) => members.insert(at, member),
                }
            }
            true
        });
        if fits { Ok(()) } else { Err(TooMany) }
    }

    /// A client leaves a group.
    pub(crate) fn leave(&mut self, group: Address, session: SessionId) {
        if self.get(group, session).is_some() {
            self.0.change(|members| {
                Self::place(members, group, session).map(|at| members.remove(at)).is_ok()
            });
        }
    }

    /// A router asks who wants a group, or any of a family.
    pub(crate) fn ask(&mut self, group: Option<Address>, is_v4: bool, now: Time) {
        let is_meant = |m: &Member| {
            let is_family = m.group.v4_part().is_some() == is_v4;
            m.ends.is_none() && is_family && group.is_none_or(|group| m.group == group)
        };
        if self.0.entries().iter().any(is_meant) {
            self.0.change(|members| {
                members.iter_mut().filter(|m| is_meant(m)).for_each(|m| m.ends = Some(now + WAIT));
                true
            });
        }
    }

    /// Whether a client has joined a group.
    pub(crate) fn has(&self, group: Address, session: SessionId, now: Time) -> bool {
        self.get(group, session).is_some_and(|m| m.ends.is_none_or(|ends| ends > now))
    }

    /// Whether a client has joined any.
    pub(crate) fn has_any(&self, session: SessionId) -> bool {
        self.0.entries().iter().any(|m| m.session == session)
    }

    /// How many groups are joined, by whomever.
    pub(crate) fn len(&self) -> usize {
        self.0.entries().len()
    }

    /// A client is gone.
    pub(super) fn forget(&mut self, session: SessionId) {
        self.look();
        if self.has_any(session) {
            self.0.change(|members| {
                members.retain(|m| m.session != session);
                true
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);

    fn group(last: u8) -> Address {
        Address::v4([239, 0, 0, last])
    }

    #[test]
    fn what_one_worker_learns_of_a_group_the_others_know_when_they_look() {
        let roll = Arc::new(Shared::default());
        let [mut one, mut two] = [(); 2].map(|()| Groups::default());
        one.share(Arc::clone(&roll));
        two.share(roll);
        one.join([group(1), group(2)].into_iter(), A, Time(0)).unwrap();
        assert!(one.has(group(1), A, Time(0)) && !two.has(group(1), A, Time(0)));
        two.look();
        assert!(two.has(group(1), A, Time(0)) && !two.has(group(1), B, Time(0)));
        two.leave(group(1), A);
        one.look();
        assert!(!one.has(group(1), A, Time(0)) && one.has(group(2), A, Time(0)));
        // Each of them is told of the end.
        two.forget(A);
        one.forget(A);
        assert_eq!((one.len(), two.len()), (0, 0));
    }

    #[test]
    fn too_many_groups_are_refused_as_a_whole_and_those_that_have_ended_make_room() {
        let mut groups = Groups::default();
        groups.expect(2);
        let room = groups.0.capacity();
        groups.join((0..15).map(group), A, Time(0)).unwrap();
        assert_eq!(groups.join([group(15), group(16)].into_iter(), A, Time(0)), Err(TooMany));
        assert!(!groups.has(group(15), A, Time(0)));
        groups.join((3..16).map(group), A, Time(0)).unwrap();
        groups.join((0..16).map(group), B, Time(0)).unwrap();
        groups.ask(Some(group(0)), true, Time(0));
        let late = Time(0) + WAIT;
        groups.join([group(99)].into_iter(), A, late).unwrap();
        assert!(groups.has(group(0), B, Time(0)) && !groups.has(group(0), B, late));
        assert_eq!((groups.len(), groups.0.capacity()), (32, room), "nothing was allocated");
    }
}
