//! Who owns each slot: one private word a slot, changed in one place.
//!
//! ```text
//!                 alloc               lend                      return (fill)
//!      Free  ------------> Daemon ------------> Lent(session) ----------------> Free
//!        ^                   |                                                    (its home's list)
//!        +------- free ------+
//!                         accept (tx)         pass                return (fill)
//!      AtRest(session) --------------> Taken ------> Lent(another) -----------+
//!        ^                              |                                     |
//!        +-------------- complete ------+-------------------------------------+
//!                          join                  free, release_tail
//!      Daemon, Taken ---------------> Joined, Taken ----------------> Free or Daemon, AtRest
//!                      lend_to_all             return by the last, one after the other
//!      Daemon ----------------------> Shared(place) ----------------> Free
//! ```
//!
//! - Every slot is in one state; sum over states = slots, always ([`Audit`]).
//! - A state changes only by [`Ledger::change`], which names the state it expects. An edge that is
//!   not expected is refused, not repaired.
//! - A transmit slot at rest is not `Lent`: what a session may return on fill and what it may send
//!   are told apart by the state alone.

use crate::descriptor::MAX_SLOTS;
use core::fmt;

/// Number of an attached session in its worker, 0..4,096. Used again only after every slot of the
/// session came home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u16);

impl SessionId {
    /// Sessions that one worker can have.
    pub const LIMIT: u16 = 4096;
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who owns a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// No segment is mapped here.
    Unmapped,
    /// On its home's free list.
    Free,
    /// A daemon-written slot, held as a token by the daemon.
    Daemon,
    /// The same, with the beginning of a frame whose rest lies in a slot that is `Taken`.
    Joined,
    /// A client-written slot, held as a token by the daemon or lent on to another session.
    Taken,
    /// Lent to several sessions, which the pool's place of this number names; each returns it on its fill ring.
    Shared(u16),
    /// Lent to a session, which returns it on its fill ring.
    Lent(SessionId),
    /// A session's own transmit slot, which it may send.
    AtRest(SessionId),
}

/// The stored form: 16 bits, so that a whole entry is one 32-bit word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Code(u16);

impl Code {
    const LENT: u16 = 0x8000;
    const AT_REST: u16 = 0x4000;
    const SHARED: u16 = 0x2000;
    const PLACE: u16 = 0x1fff;
    const NUMBER: u16 = 0x3fff;

    #[inline]
    const fn of(owner: Owner) -> Self {
        match owner {
            Owner::Unmapped => Self(0),
            Owner::Free => Self(1),
            Owner::Daemon => Self(2),
            Owner::Taken => Self(3),
            Owner::Joined => Self(4),
            // A pool has no place beyond.
            Owner::Shared(place) => Self(Self::SHARED | place & Self::PLACE),
            Owner::Lent(session) => Self(Self::LENT | Self::number(session)),
            Owner::AtRest(session) => Self(Self::AT_REST | Self::number(session)),
        }
    }

    /// Beyond the limit numbers coincide, but never with another state.
    #[inline]
    const fn number(session: SessionId) -> u16 {
        if session.0 < Self::NUMBER { session.0 } else { Self::NUMBER }
    }

    const fn owner(self) -> Owner {
        match self.0 {
            1 => Owner::Free,
            2 => Owner::Daemon,
            3 => Owner::Taken,
            4 => Owner::Joined,
            lent @ Self::LENT.. => Owner::Lent(SessionId(lent & Self::NUMBER)),
            rest @ Self::AT_REST.. => Owner::AtRest(SessionId(rest & Self::NUMBER)),
            shared @ Self::SHARED.. => Owner::Shared(shared & Self::PLACE),
            _ => Owner::Unmapped,
        }
    }
}

const _: () = assert!(crate::pool::MOST_SHARED == Code::PLACE + 1);
const _: () = assert!(SessionId::LIMIT <= Code::NUMBER);

#[derive(Clone, Copy)]
struct Entry {
    owner: Code,
    home: u16,
}

/// How many slots are in each state, over all homes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// On a free list.
    pub free: u32,
    /// Held by the daemon as a token.
    pub daemon: u32,
    /// Client-written slots held by the daemon.
    pub taken: u32,
    /// Held by sessions, their own transmit slots at rest among them.
    pub lent: u32,
    /// Each held by several sessions at once.
    pub shared: u32,
}

impl Audit {
    /// All slots that are in some state.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.free + self.daemon + self.taken + self.lent + self.shared
    }
}

/// The table. Private to one worker; no client can read or write it.
pub struct Ledger {
    entries: Box<[Entry]>,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("slots", &self.entries.len()).finish_non_exhaustive()
    }
}

/// The state found where another was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IllegalEdge(pub Owner);

impl Ledger {
    /// A ledger of `slots` unmapped slots.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        let entry = Entry { owner: Code::of(Owner::Unmapped), home: 0 };
        Self { entries: vec![entry; slots.min(MAX_SLOTS) as usize].into_boxed_slice() }
    }

    /// Slots in the table.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "at most 2^24 by construction")]
    pub fn slots(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Whether `owner` owns `slot`.
    #[inline]
    #[must_use]
    pub fn is(&self, slot: u32, owner: Owner) -> bool {
        self.entries.get(slot as usize).is_some_and(|e| e.owner == Code::of(owner))
    }

    /// Who owns `slot`; `Unmapped` if it does not exist.
    #[inline]
    #[must_use]
    pub fn owner(&self, slot: u32) -> Owner {
        self.entries.get(slot as usize).map_or(Owner::Unmapped, |e| e.owner.owner())
    }

    /// The home of `slot`, an index into the pool's homes.
    #[inline]
    #[must_use]
    pub fn home(&self, slot: u32) -> u16 {
        self.entries.get(slot as usize).map_or(u16::MAX, |e| e.home)
    }

    /// Changes the state of `slot` from `expected` to `to` and returns its home.
    ///
    /// # Errors
    /// [`IllegalEdge`] with the state found, and nothing is changed.
    #[inline]
    pub fn change(&mut self, slot: u32, expected: Owner, to: Owner) -> Result<u16, IllegalEdge> {
        let Some(entry) = self.entries.get_mut(slot as usize) else {
            return Err(IllegalEdge(Owner::Unmapped));
        };
        if entry.owner != Code::of(expected) {
            return Err(IllegalEdge(entry.owner.owner()));
        }
        entry.owner = Code::of(to);
        Ok(entry.home)
    }

    /// Enters or removes a whole home: sets state and home of `count` slots from `first`.
    pub fn set_range(&mut self, first: u32, count: u32, owner: Owner, home: u16) {
        let range = first as usize..(first as usize).saturating_add(count as usize);
        for entry in self.entries.get_mut(range).into_iter().flatten() {
            *entry = Entry { owner: Code::of(owner), home };
        }
    }

    /// All slots that `owner` owns.
    pub fn owned_by(&self, owner: Owner) -> impl Iterator<Item = u32> + '_ {
        let code = Code::of(owner);
        (0u32..)
            .zip(self.entries.iter())
            .filter(move |(_, e)| e.owner == code)
            .map(|(slot, _)| slot)
    }

    /// Counts all states.
    #[must_use]
    pub fn audit(&self) -> Audit {
        let mut audit = Audit::default();
        for entry in &self.entries {
            match entry.owner.owner() {
                Owner::Unmapped => {}
                Owner::Free => audit.free += 1,
                Owner::Daemon | Owner::Joined => audit.daemon += 1,
                Owner::Taken => audit.taken += 1,
                Owner::Shared(_) => audit.shared += 1,
                Owner::Lent(_) | Owner::AtRest(_) => audit.lent += 1,
            }
        }
        audit
    }
}
