//! The table of exact flows: rules for one remote end, and flows learned from what clients send.
//!
//! ```text
//!   hash(seed, flow) -> bucket A | bucket B = A ^ hash(tag)      4 entries each
//! ```
//!
//! - Fixed size, made once. A lookup compares at most eight entries, whatever the table holds.
//! - The hash is seeded, so a remote peer cannot choose colliding flows. A full pair of buckets
//!   gives up its oldest learned entry, if that one is idle; rules are never given up.

use super::stage::{Stage, TcpFlags};
use crate::classify::Flow;
use crate::time::Time;
use crate::verdict::{Receiver, ReceiverCode};
use core::hash::{BuildHasher, Hasher};
use foldhash::fast::FixedState;

const WAYS: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Entry {
    flow: Flow,
    receiver: ReceiverCode,
    tag: u16,
    stage: Stage,
    /// `None` for rules, which do not age.
    used: Option<Time>,
}

/// Where an entry lies; true until the table changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowIndex(u32);

/// Why a flow was not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another receiver has this very flow.
    Taken(Receiver),
    /// Both buckets are full of entries that are in use.
    Full,
}

/// The table.
pub struct ExactTable {
    buckets: Box<[[Option<Entry>; WAYS]]>,
    state: FixedState,
    len: usize,
    /// Grows with every flow that comes or goes.
    changes: u64,
}

impl core::fmt::Debug for ExactTable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ExactTable")
            .field("len", &self.len)
            .field("capacity", &self.capacity())
            .finish()
    }
}

impl ExactTable {
    /// Room for at least `flows` flows, rounded up to a power of two.
    #[must_use]
    pub fn new(flows: usize, seed: u64) -> Self {
        let buckets = flows.div_ceil(WAYS).next_power_of_two().max(2);
        Self {
            buckets: vec![[None; WAYS]; buckets].into_boxed_slice(),
            state: FixedState::with_seed(seed),
            len: 0,
            changes: 0,
        }
    }

    /// How many flows came and went.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Flows in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// All of them.
    pub(super) fn flows(&self) -> impl Iterator<Item = &Flow> + '_ {
        self.buckets.iter().flatten().flatten().map(|entry| &entry.flow)
    }

    /// Whether there are none; then a lookup costs one comparison.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Flows that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buckets.len() * WAYS
    }

    #[expect(clippy::cast_possible_truncation, reason = "parts of a hash")]
    fn place(&self, flow: &Flow) -> ([usize; 2], u16) {
        let mut hasher = self.state.build_hasher();
        hasher.write_u128(u128::from_ne_bytes(flow.source.0));
        hasher.write_u128(u128::from_ne_bytes(flow.destination.0));
        hasher.write_u64(
            u64::from(flow.source_port)
                | u64::from(flow.destination_port) << 16
                | u64::from(flow.protocol.0) << 32
                | u64::from(flow.ports_known) << 40,
        );
        let hash = hasher.finish();
        let tag = (hash >> 48) as u16;
        let mask = self.buckets.len() - 1;
        let first = hash as usize & mask;
        // An odd multiple of the tag: the second bucket differs, and either leads to the other.
        let second = (first ^ ((usize::from(tag) | 1).wrapping_mul(0x5bd1_e995))) & mask;
        ([first, second], tag)
    }

    /// Who receives this flow. Marks a learned flow as used now.
    #[inline]
    pub fn get(&mut self, flow: &Flow, now: Time) -> Option<Receiver> {
        Some(self.find(flow, now)?.0)
    }

    /// Who receives this flow, and where its entry is. Marks a learned flow as used now.
    #[inline]
    pub(crate) fn find(&mut self, flow: &Flow, now: Time) -> Option<(Receiver, FlowIndex)> {
        if self.len == 0 {
            return None;
        }
        let (buckets, tag) = self.place(flow);
        for bucket in buckets {
            for (way, place) in self.buckets.get_mut(bucket)?.iter_mut().enumerate() {
                if let Some(entry) = place
                    && entry.tag == tag
                    && entry.flow == *flow
                {
                    if let Some(used) = &mut entry.used {
                        *used = now;
                    }
                    let index = u32::try_from(bucket * WAYS + way).ok()?;
                    return Some((entry.receiver.receiver()?, FlowIndex(index)));
                }
            }
        }
        None
    }

    /// Who receives this flow, and when it was last used if it was learned; the entry stays as it is.
    pub(super) fn peek(&self, flow: &Flow) -> Option<(Receiver, Option<Time>)> {
        let (buckets, _) = self.place(flow);
        let places = buckets.into_iter().filter_map(|bucket| self.buckets.get(bucket)).flatten();
        let entry = places.flatten().find(|entry| entry.flow == *flow)?;
        Some((entry.receiver.receiver()?, entry.used))
    }

    /// All of them, whose they are, and when they were last used if they were learned.
    pub(super) fn entries(
        &self,
    ) -> impl Iterator<Item = (&Flow, Receiver, Option<(Time, Stage)>)> + '_ {
        let entries = self.buckets.iter().flatten().flatten();
        entries.filter_map(|entry| {
            let used = entry.used.map(|used| (used, entry.stage));
            Some((&entry.flow, entry.receiver.receiver()?, used))
        })
    }

    /// Marks a learned flow as used now, as finding it would, by a frame with these flags.
    #[inline]
    pub(crate) fn touch(&mut self, FlowIndex(index): FlowIndex, flags: TcpFlags, now: Time) {
        let (bucket, way) = (index as usize / WAYS, index as usize % WAYS);
        if let Some(Some(entry)) = self.buckets.get_mut(bucket).and_then(|b| b.get_mut(way))
            && let Some(used) = &mut entry.used
        {
            *used = now;
            entry.stage = entry.stage.after(flags);
        }
    }

    /// Enters a flow. A `learned` one ages; an old idle one makes room for it. Entering what the
    /// same receiver has already only marks it as used. Returns the learned flow that was given up,
    /// and whose it was.
    ///
    /// # Errors
    /// [`Refusal`], and the table is as before.
    pub fn insert(
        &mut self,
        flow: Flow,
        receiver: Receiver,
        learned: bool,
        now: Time,
    ) -> Result<Option<(Flow, Receiver)>, Refusal> {
        if let Some(present) = self.get(&flow, now) {
            if present != receiver {
                return Err(Refusal::Taken(present));
            }
            if !learned {
                self.make_rule(&flow);
            }
            return Ok(None);
        }
        let (buckets, tag) = self.place(&flow);
        let entry = Entry {
            flow,
            receiver: ReceiverCode::of(Some(receiver)),
            tag,
            stage: Stage::first(&flow),
            used: learned.then_some(now),
        };
        let mut oldest: Option<(Time, usize, usize)> = None;
        for bucket in buckets {
            for (way, place) in self.buckets.get_mut(bucket).into_iter().flatten().enumerate() {
                match place {
                    None => {
                        *place = Some(entry);
                        self.len += 1;
                        self.changes += 1;
                        return Ok(None);
                    }
                    Some(Entry { used: Some(used), stage, .. })
                        if now.since(*used) >= stage.time()
                            && oldest.is_none_or(|(t, ..)| *used < t) =>
                    {
                        oldest = Some((*used, bucket, way));
                    }
                    Some(_) => {}
                }
            }
        }
        let (_, bucket, way) = oldest.ok_or(Refusal::Full)?;
        let place =
            self.buckets.get_mut(bucket).and_then(|b| b.get_mut(way)).ok_or(Refusal::Full)?;
        self.changes += 1;
        Ok(place.replace(entry).and_then(|e| Some((e.flow, e.receiver.receiver()?))))
    }

    /// A flow that was learned does not age any more.
    fn make_rule(&mut self, flow: &Flow) {
        let (buckets, _) = self.place(flow);
        for bucket in buckets {
            for entry in self.buckets.get_mut(bucket).into_iter().flatten().flatten() {
                if entry.flow == *flow {
                    entry.used = None;
                }
            }
        }
    }

    /// Gives a learned flow of `receiver` up if it is idle. Returns whether the receiver does not
    /// have it as a learned flow now, perhaps since long.
    pub fn retire(&mut self, flow: &Flow, receiver: Receiver, now: Time) -> bool {
        let (buckets, _) = self.place(flow);
        for bucket in buckets {
            for place in self.buckets.get_mut(bucket).into_iter().flatten() {
                let Some(entry) = place else { continue };
                if entry.flow != *flow || entry.receiver != ReceiverCode::of(Some(receiver)) {
                    continue;
                }
                let Some(used) = entry.used else { return true };
                if now.since(used) < entry.stage.time() {
                    return false;
                }
                *place = None;
                self.len -= 1;
                self.changes += 1;
                return true;
            }
        }
        true
    }

    /// Removes every flow of `receiver` and returns how many there were.
    pub fn forget(&mut self, receiver: Receiver) -> usize {
        if self.len == 0 {
            return 0;
        }
        let gone = ReceiverCode::of(Some(receiver));
        let before = self.len;
        for place in self.buckets.iter_mut().flatten() {
            if place.is_some_and(|e| e.receiver == gone) {
                *place = None;
                self.len -= 1;
            }
        }
        self.changes += 1;
        before - self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{Address, Protocol};
    use usnet_shmring::ledger::SessionId;

    #[test]
    fn a_connection_is_kept_for_longer_than_one_that_opens_or_has_ended() {
        let connection = |n: u32| Flow { protocol: Protocol::TCP, ..flow(n) };
        let mut table = ExactTable::new(64, 1);
        let stages = [(1, 0x02), (2, 0x10), (3, 0x11)];
        for (n, flags) in stages {
            table.insert(connection(n), client(1), true, Time(0)).unwrap();
            let (_, index) = table.find(&connection(n), Time(0)).unwrap();
            table.touch(index, TcpFlags(flags), Time(0));
        }
        let short = Time(0) + Stage::Closing.time();
        assert!(!table.retire(&connection(2), client(1), short), "it goes on");
        assert!(table.retire(&connection(1), client(1), short), "nothing came of it");
        assert!(table.retire(&connection(3), client(1), short), "it has ended");
        let long = Time(0) + Stage::Established.time();
        assert!(!table.retire(&connection(2), client(1), Time(long.0 - 1)));
        assert!(table.retire(&connection(2), client(1), long));
        table.insert(flow(4), client(1), true, Time(0)).unwrap();
        assert!(!table.retire(&flow(4), client(1), short), "datagrams");
        assert!(table.retire(&flow(4), client(1), Time(0) + Stage::Datagrams.time()));
    }

    fn flow(n: u32) -> Flow {
        Flow {
            source: Address::v4(n.to_be_bytes()),
            destination: Address::v4([10, 0, 0, 1]),
            protocol: Protocol::UDP,
            source_port: 9,
            destination_port: 7,
            ports_known: true,
        }
    }

    fn client(n: u16) -> Receiver {
        Receiver::Client(SessionId(n))
    }

    #[test]
    fn a_flow_belongs_to_its_first_owner() {
        let mut table = ExactTable::new(64, 1);
        assert_eq!(table.insert(flow(1), client(1), true, Time(0)), Ok(None));
        assert_eq!(table.insert(flow(1), client(2), true, Time(0)), Err(Refusal::Taken(client(1))));
        assert_eq!(table.get(&flow(1), Time(0)), Some(client(1)));
        assert_eq!(table.get(&flow(2), Time(0)), None);
    }

    #[test]
    fn forgetting_a_receiver_leaves_the_others() {
        let mut table = ExactTable::new(1024, 1);
        for n in 0..400 {
            let _ = table.insert(flow(n), client((n % 2) as u16), true, Time(0));
        }
        let len = table.len();
        let gone = table.forget(client(0));
        assert_eq!(table.len(), len - gone);
        assert!((0..400).all(|n| table.get(&flow(n), Time(0)).is_none_or(|r| r == client(1))));
    }

    #[test]
    fn a_full_table_gives_up_idle_flows_and_never_rules() {
        let mut table = ExactTable::new(8, 1);
        let rule = flow(1_000_000);
        table.insert(rule, client(9), false, Time(0)).unwrap();
        for n in 0..1000 {
            let _ = table.insert(flow(n), client(1), true, Time(0));
        }
        assert!(table.len() <= table.capacity());
        assert!(matches!(
            (0..1000).find_map(|n| table.insert(flow(5000 + n), client(2), true, Time(1)).err()),
            Some(Refusal::Full)
        ));
        let later = Time(0) + Stage::Datagrams.time();
        let entered = (0..1000).filter(|n| {
            matches!(table.insert(flow(9000 + n), client(2), true, later), Ok(Some(_)))
        });
        assert!(entered.count() > 0, "idle flows make room");
        assert_eq!(table.get(&rule, later), Some(client(9)));
    }
}
