//! The table of exact flows: rules for one remote end, and flows learned from what clients send.
//!
//! - Fixed size, made once. A lookup costs two cache lines, whatever the table holds ([`LineTable`]).
//! - The hash is seeded, so a remote peer cannot choose colliding flows. A full pair of buckets
//!   gives up its oldest learned entry, if that one is idle; rules are never given up.

use super::lines::{LineIndex, LineTable, Value};
use super::stage::{Stage, TcpFlags};
use crate::classify::{Address, Flow};
use crate::time::Time;
use crate::verdict::{Receiver, ReceiverCode};

/// What is known of a flow, in words: when it was last used, and receiver (16 bits) | stage (8) | whether it is a
/// rule, which does not age (1).
#[derive(Clone, Copy, Debug)]
struct Entry {
    receiver: ReceiverCode,
    stage: Stage,
    /// `None` for rules.
    used: Option<Time>,
}

impl Entry {
    #[inline(always)]
    fn to_words(self) -> Value {
        let is_rule = self.used.is_none();
        let rest = u64::from(self.receiver.bits())
            | u64::from(self.stage as u8) << 16
            | u64::from(is_rule) << 24;
        [self.used.unwrap_or_default().0, rest]
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "parts of a word")]
    fn of([used, rest]: Value) -> Self {
        Self {
            receiver: ReceiverCode::from_bits(rest as u16),
            stage: Stage::from_bits((rest >> 16) as u8),
            used: (rest >> 24 & 1 == 0).then_some(Time(used)),
        }
    }

    /// Whether it may be given up for another.
    fn idle_since(&self, now: Time) -> Option<Time> {
        self.used.filter(|used| now.since(*used) >= self.stage.time())
    }
}

/// Where an entry lies; true until the table changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowIndex(LineIndex);

/// Why a flow was not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another receiver has this very flow.
    Taken(Receiver),
    /// There is no room, and what could make some is in use.
    Full,
}

/// The table.
#[derive(Debug)]
pub struct ExactTable {
    flows: LineTable,
    /// Grows with every flow that comes or goes.
    changes: u64,
}

impl ExactTable {
    /// Room for at least `flows` flows.
    #[must_use]
    pub fn new(flows: usize, seed: u64) -> Self {
        Self { flows: LineTable::new(flows, seed), changes: 0 }
    }

    /// How many flows came and went.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Flows in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// All of them.
    pub(super) fn flows(&self) -> impl Iterator<Item = Flow> + '_ {
        self.flows.iter().map(|(key, _)| Flow::from_words(key))
    }

    /// Whether there are none; then a lookup costs one comparison.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flows that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.flows.capacity()
    }

    /// A number that tells addresses apart, by the table's own hash.
    pub(super) fn scatter(&self, address: Address) -> usize {
        let [a, b] = address.words();
        self.flows.scatter(&[a, b, 0, 0, 0])
    }

    /// Who receives this flow. Marks a learned flow as used now.
    #[inline]
    pub fn get(&mut self, flow: &Flow, now: Time) -> Option<Receiver> {
        Some(self.find(flow, now)?.0)
    }

    /// Who receives this flow, and where its entry is. Marks a learned flow as used now.
    #[inline]
    pub(crate) fn find(&mut self, flow: &Flow, now: Time) -> Option<(Receiver, FlowIndex)> {
        if self.is_empty() {
            return None;
        }
        let at = self.flows.find(&flow.words())?;
        let receiver = self.mark(at, now)?.receiver.receiver()?;
        Some((receiver, FlowIndex(at)))
    }

    /// Marks a learned flow as used now. What was known of it.
    #[inline(always)]
    fn mark(&mut self, at: LineIndex, now: Time) -> Option<Entry> {
        let [used, rest] = self.flows.value_mut(at)? else { return None };
        let entry = Entry::of([*used, *rest]);
        if entry.used.is_some() {
            *used = now.0;
        }
        Some(entry)
    }

    fn entry(&self, flow: &Flow) -> Option<Entry> {
        let (_, value) = self.flows.get(self.flows.find(&flow.words())?)?;
        Some(Entry::of(value))
    }

    /// Who receives this flow, and when it was last used if it was learned; the entry stays as it is.
    pub(super) fn peek(&self, flow: &Flow) -> Option<(Receiver, Option<Time>)> {
        let entry = self.entry(flow)?;
        Some((entry.receiver.receiver()?, entry.used))
    }

    /// All of them, whose they are, and when they were last used if they were learned.
    pub(super) fn entries(
        &self,
    ) -> impl Iterator<Item = (Flow, Receiver, Option<(Time, Stage)>)> + '_ {
        self.flows.iter().filter_map(|(key, value)| {
            let entry = Entry::of(value);
            let used = entry.used.map(|used| (used, entry.stage));
            Some((Flow::from_words(key), entry.receiver.receiver()?, used))
        })
    }

    /// Marks a learned flow as used now, as finding it would, by a frame with these flags.
    #[inline]
    pub(crate) fn touch(&mut self, FlowIndex(at): FlowIndex, flags: TcpFlags, now: Time) {
        if let Some([used, rest]) = self.flows.value_mut(at) {
            let entry = Entry::of([*used, *rest]);
            if entry.used.is_some() {
                let stage = entry.stage.after(flags);
                [*used, *rest] = Entry { stage, used: Some(now), ..entry }.to_words();
            }
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
        let key = flow.words();
        let code = ReceiverCode::of(Some(receiver));
        let used = learned.then_some(now);
        if let Some(at) = self.flows.find(&key)
            && let Some(present) = self.mark(at, now)
        {
            match present.receiver.receiver() {
                Some(other) if other != receiver => return Err(Refusal::Taken(other)),
                _ if learned => {}
                _ => {
                    if let Some(value) = self.flows.value_mut(at) {
                        value.copy_from_slice(&Entry { used: None, ..present }.to_words());
                    }
                }
            }
            return Ok(None);
        }
        let value = Entry { receiver: code, stage: Stage::first(&flow), used }.to_words();
        if self.flows.insert(&key, value).is_ok() {
            self.changes += 1;
            return Ok(None);
        }
        let near = self.flows.near(&key).filter_map(|at| self.flows.get(at));
        let idle = near.filter_map(|(key, value)| Some((Entry::of(value).idle_since(now)?, key)));
        let (_, oldest) = idle.min_by_key(|(used, _)| *used).ok_or(Refusal::Full)?;
        self.changes += 1;
        let given_up = self.flows.remove(&oldest).map(Entry::of);
        self.flows.insert(&key, value).map_err(|_| Refusal::Full)?;
        Ok(given_up.and_then(|e| Some((Flow::from_words(oldest), e.receiver.receiver()?))))
    }

    /// Gives a learned flow of `receiver` up if it is idle. Returns whether the receiver does not
    /// have it as a learned flow now, perhaps since long.
    pub fn retire(&mut self, flow: &Flow, receiver: Receiver, now: Time) -> bool {
        match self.entry(flow) {
            Some(entry)
                if entry.receiver == ReceiverCode::of(Some(receiver)) && entry.used.is_some() =>
            {
                let is_idle = entry.idle_since(now).is_some();
                if is_idle && self.flows.remove(&flow.words()).is_some() {
                    self.changes += 1;
                }
                is_idle
            }
            _ => true,
        }
    }

    /// Removes every flow of `receiver` and returns how many there were.
    pub fn forget(&mut self, receiver: Receiver) -> usize {
        if self.is_empty() {
            return 0;
        }
        let gone = ReceiverCode::of(Some(receiver));
        let before = self.len();
        self.flows.retain(|value| Entry::of(value).receiver != gone);
        self.changes += 1;
        before - self.len()
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
