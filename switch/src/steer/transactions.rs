//! Who waits for which answers of DHCP: several parties behind one link address, told apart by what they asked.
//!
//! ```text
//!   request of a client, or of the kernel --ask--> Transactions, in a Roll for all workers
//!   answer --owner--> who asked, however many servers answer and however often
//! ```
//!
//! - At most [`PER_PARTY`] at a time of each client and of the kernel, in places of its own: nobody uses up another's.
//! - One that was not asked again for [`LIFE`] has ended. Who has no place left gives up its oldest, but none that is
//!   younger than [`REST`]: so the list changes seldom, however many requests a client sends.
//! - Who asked first has a transaction. A number that another uses is refused.

use super::roll::{Roll, Shared};
use crate::classify::{Address, Mac};
use crate::time::Time;
use crate::verdict::Receiver;
use core::time::Duration;
use std::sync::Arc;
use usnet_shmring::ledger::SessionId;

/// Transactions of one party.
pub(crate) const PER_PARTY: usize = 4;
/// How long answers are waited for. Whoever asks again does so within 64 seconds (RFC 2131, 4.1), with DHCPv6 within
/// 120 as a rule, and each time the wait begins anew.
pub(crate) const LIFE: Duration = Duration::from_secs(150);
/// How long a transaction keeps its place at least.
pub(crate) const REST: Duration = Duration::from_secs(1);

/// What an answer repeats of its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    /// DHCPv4: the transaction's number, and for which link address.
    V4 {
        /// `xid`.
        number: u32,
        /// `chaddr`.
        client: Mac,
    },
    /// DHCPv6: the transaction's number, and where the question came from, to which the answer goes.
    V6 {
        /// `transaction-id`, 24 bits.
        number: u32,
        /// The source of the question.
        client: Address,
    },
}

/// A question that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transaction {
    asked: Asked,
    of: Receiver,
    /// When it was last asked.
    since: Time,
}

/// Why a question may not be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAsked {
    /// Another party uses this number.
    Taken,
    /// The party has asked too many others within a moment.
    TooMany,
}

/// All transactions, sorted by what was asked.
#[derive(Debug, Default)]
pub(crate) struct Transactions(Roll<Transaction>);

impl Transactions {
    pub(super) fn share(&mut self, shared: Arc<Shared<Transaction>>) {
        self.0.share(shared);
    }

    /// Makes room for what so many clients and the kernel may ask, so that nothing is allocated later.
    pub(crate) fn expect(&mut self, clients: usize) {
        self.0.expect((clients + 1) * PER_PARTY);
    }

    #[inline]
    pub(super) fn look(&mut self) {
        self.0.look();
    }

    fn place(all: &[Transaction], asked: &Asked) -> Result<usize, usize> {
        all.binary_search_by(|one| one.asked.cmp(asked))
    }

    fn get(&self, asked: &Asked, now: Time) -> Option<&Transaction> {
        let all = self.0.entries();
        let one = all.get(Self::place(all, asked).ok()?)?;
        (now.since(one.since) < LIFE).then_some(one)
    }

    /// Who waits for the answers.
    pub(crate) fn owner(&self, asked: &Asked, now: Time) -> Option<Receiver> {
        Some(self.get(asked, now)?.of)
    }

    /// A party asks, before the question leaves.
    pub(crate) fn ask(&mut self, asked: Asked, of: Receiver, now: Time) -> Result<(), NotAsked> {
        match self.get(&asked, now) {
            Some(one) if one.of != of => return Err(NotAsked::Taken),
            // Asked again a moment later: as good as now.
            Some(one) if now.since(one.since) < REST => return Ok(()),
            _ => {}
        }
        let mut entered = Ok(());
        self.0.change(|all| {
            entered = Self::enter(all, Transaction { asked, of, since: now });
            entered.is_ok()
        });
        entered
    }

    /// Under the lock.
    fn enter(all: &mut Vec<Transaction>, new: Transaction) -> Result<(), NotAsked> {
        if let Ok(at) = Self::place(all, &new.asked)
            && let Some(old) = all.get_mut(at)
        {
            if old.of == new.of {
                old.since = new.since;
                return Ok(());
            }
            if new.since.since(old.since) < LIFE {
                return Err(NotAsked::Taken);
            }
            all.remove(at);
        }
        let own = || all.iter().enumerate().filter(|(_, one)| one.of == new.of);
        if own().count() >= PER_PARTY {
            let oldest = own().min_by_key(|(_, one)| one.since);
            match oldest.filter(|(_, one)| new.since.since(one.since) >= REST) {
                Some((at, _)) => drop(all.remove(at)),
                None => return Err(NotAsked::TooMany),
            }
        }
        if let Err(at) = Self::place(all, &new.asked) {
            all.insert(at, new);
        }
        Ok(())
    }

    /// A client is gone.
    pub(super) fn forget(&mut self, session: SessionId) {
        let is_its = |one: &Transaction| one.of == Receiver::Client(session);
        self.look();
        if self.0.entries().iter().any(is_its) {
            self.0.change(|all| {
                all.retain(|one| !is_its(one));
                true
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Receiver = Receiver::Client(SessionId(1));
    const B: Receiver = Receiver::Client(SessionId(2));

    fn v4(number: u32) -> Asked {
        Asked::V4 { number, client: Mac([2, 0, 0, 0, 0, 1]) }
    }

    #[test]
    fn what_one_worker_hears_asked_the_others_know_when_they_look() {
        let shared = Arc::new(Shared::default());
        let [mut one, mut two] = [(); 2].map(|()| Transactions::default());
        one.share(Arc::clone(&shared));
        two.share(shared);
        one.ask(v4(7), A, Time(0)).unwrap();
        assert_eq!((one.owner(&v4(7), Time(0)), two.owner(&v4(7), Time(0))), (Some(A), None));
        // Also who has not looked yet takes no number that another has.
        assert_eq!(two.ask(v4(7), B, Time(0)), Err(NotAsked::Taken));
        assert_eq!(two.owner(&v4(7), Time(0)), Some(A));
        two.forget(SessionId(1));
        one.look();
        assert_eq!((one.owner(&v4(7), Time(0)), one.0.entries().len()), (None, 0));
    }

    #[test]
    fn a_transaction_ends_when_it_was_not_asked_again() {
        let mut all = Transactions::default();
        all.ask(v4(7), A, Time(0)).unwrap();
        let later = Time(0) + LIFE / 2;
        all.ask(v4(7), A, later).unwrap();
        assert_eq!(all.owner(&v4(7), Time(0) + LIFE), Some(A));
        assert_eq!(all.ask(v4(7), B, Time(0) + LIFE), Err(NotAsked::Taken));
        assert_eq!(all.owner(&v4(7), later + LIFE), None);
        all.ask(v4(7), B, later + LIFE).unwrap();
        assert_eq!((all.owner(&v4(7), later + LIFE), all.0.entries().len()), (Some(B), 1));
    }

    #[test]
    fn who_asks_much_gives_up_its_own_oldest_and_that_not_at_once() {
        let mut all = Transactions::default();
        all.expect(2);
        let room = all.0.capacity();
        all.ask(v4(100), B, Time(0)).unwrap();
        (0..4).for_each(|n| all.ask(v4(n), A, Time(n.into())).unwrap());
        let mut at = Time(1);
        for n in 4..200 {
            assert_eq!(all.ask(v4(1000 + n), A, at), Err(NotAsked::TooMany));
            at = at + REST + Duration::from_nanos(10);
            all.ask(v4(1000 + n), A, at).unwrap();
            (0..3).for_each(|more| all.ask(v4(9000 + 4 * n + more), A, at).unwrap());
        }
        assert_eq!(all.owner(&v4(0), at), None);
        assert!(all.0.entries().iter().any(|one| one.of == B), "nobody else's");
        assert_eq!(
            (all.0.entries().len(), all.0.capacity()),
            (PER_PARTY + 1, room),
            "nothing was allocated"
        );
    }
}
