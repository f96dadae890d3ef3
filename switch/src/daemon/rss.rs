//! Has a card send every worker the same share of its flows.
//!
//! ```text
//!   frame --> hash --> indirection table --> queue q --> worker q mod workers
//! ```
//!
//! - A table that gives every worker as many hash values as the others, within one, is left, whoever made it; so is any
//!   with `rss = "leave"`, and what a driver does not let change. Else the queues get hash values in turn: all of them, or as
//!   many as come to the same number for each worker.
//! - Of what the hash is made is left. A card that hashes datagrams by ports may send a datagram's pieces, of which the first
//!   alone has ports, to two queues; and which client a datagram is for is known to the worker that saw its first piece.
//! - The table is put back with the interface's other settings ([`Kept`]), after SIGKILL from the record.

use super::interface::Kept;
use super::keeper::chain;
use crate::config;
use crate::net::{Indirection, KeptIndirection, NetError};
use serde::Serialize;

/// How flows come to the queues of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rss {
    /// What became of the table.
    pub table: Outcome,
    /// Why, unless it is as it should be.
    pub why: Option<String>,
    /// How many hash values lead to each queue, from the first on; nothing without a table.
    pub shares: Vec<u32>,
}

/// What became of an indirection table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was set for the workers, until the interface is closed.
    Set,
    /// Every worker had the same share, and it was left.
    Even,
    /// It is not even, and was left nevertheless.
    Left,
    /// There is none.
    None,
}

/// The table of an interface that is about to be changed, kept to be put back.
#[derive(Debug)]
pub(super) struct Before {
    /// What keeps it from being looked at, as text: then it is not touched either.
    found: Result<Option<Indirection>, String>,
}

impl Before {
    /// Looks at the table before the number of queues is changed, which may change it as well.
    pub(super) fn of(name: &str) -> Self {
        Self { found: Indirection::of(name).map_err(|error| chain(&error)) }
    }

    /// Spreads the flows of an interface with so many queues over its workers, until `kept` is dropped.
    pub(super) fn spread(
        self,
        kept: &mut Kept,
        name: &str,
        wish: config::Rss,
        (queues, workers): (u32, usize),
    ) -> Plan {
        let (state, why) = match self.found {
            Err(why) => (Outcome::None, Some(why)),
            Ok(None) => {
                (Outcome::None, Some("the driver of the interface has no table".to_owned()))
            }
            Ok(Some(before)) => {
                let workers = u32::try_from(workers).unwrap_or(u32::MAX);
                // Asking for queues may have changed it as well.
                if wish == config::Rss::Workers || kept.has_changed_channels() {
                    kept.keep_indirection(KeptIndirection::of(name, before));
                }
                settle(name, wish, queues, workers)
            }
        };
        match state {
            Outcome::None => tracing::debug!(interface = name, why, "no indirection table"),
            Outcome::Left => tracing::info!(interface = name, why, "flows are not spread evenly"),
            Outcome::Set => {
                tracing::info!(interface = name, queues, "flows spread over all workers")
            }
            Outcome::Even => {}
        }
        Plan { name: name.to_owned(), state, why }
    }
}

/// What was done to a table, before it is seen what came of it.
#[derive(Debug)]
pub(super) struct Plan {
    name: String,
    state: Outcome,
    why: Option<String>,
}

impl Plan {
    /// The table in force now that the interface is open: a driver may have started again meanwhile.
    pub(super) fn outcome(self) -> Rss {
        let shares = match self.state {
            Outcome::None => Vec::new(),
            _ => table(&self.name).map(|table| shares(table.entries())).unwrap_or_default(),
        };
        Rss { table: self.state, why: self.why, shares }
    }
}

/// The table of an interface that had one.
fn table(name: &str) -> Result<Indirection, NetError> {
    let operation = "read by which queues flows arrive at";
    Indirection::of(name)?.ok_or_else(|| NetError::Answer { operation, object: name.to_owned() })
}

/// Sets the table if the one that is in force is not even.
fn settle(name: &str, wish: config::Rss, queues: u32, workers: u32) -> (Outcome, Option<String>) {
    // With other queues than before it may be another one.
    let now = match table(name) {
        Ok(now) => now,
        Err(error) => return (Outcome::Left, Some(chain(&error))),
    };
    let Some(wanted) = even(now.entries(), queues, workers).and_then(Indirection::new) else {
        return (Outcome::Even, None);
    };
    if wish == config::Rss::Leave {
        return (Outcome::Left, Some("the configuration says so".to_owned()));
    }
    match wanted.set(name) {
        Ok(()) => (Outcome::Set, None),
        Err(error) => (Outcome::Left, Some(chain(&error))),
    }
}

/// As many entries that give every worker the same share of the queues; `None` if `entries` do. Queue q belongs to worker
/// q mod workers, and nobody serves one from `queues` on.
fn even(entries: &[u32], queues: u32, workers: u32) -> Option<Vec<u32>> {
    let used = queues.checked_sub(queues.checked_rem(workers)?).filter(|used| *used > 0)?;
    let mut counts = vec![0_u32; usize::try_from(workers).ok()?];
    let mut are_served = true;
    for entry in entries {
        are_served &= *entry < queues;
        let worker = usize::try_from(entry % workers).ok()?;
        counts.iter_mut().skip(worker).take(1).for_each(|count| *count += 1);
    }
    let (least, most) = (counts.iter().min()?, counts.iter().max()?);
    if are_served && most - least <= 1 {
        return None;
    }
    Some((0..used).cycle().take(entries.len()).collect())
}

/// How many entries lead to each queue.
fn shares(entries: &[u32]) -> Vec<u32> {
    let last = entries.iter().max().map_or(0, |last| last.saturating_add(1));
    (0..last).map(|queue| count(entries, queue)).collect()
}

fn count(entries: &[u32], queue: u32) -> u32 {
    entries.iter().fold(0, |sum, entry| sum + u32::from(*entry == queue))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries of each worker.
    fn workers_shares(entries: &[u32], workers: u32) -> Vec<u32> {
        let of: Vec<u32> = entries.iter().map(|queue| queue % workers).collect();
        (0..workers).map(|worker| count(&of, worker)).collect()
    }

    #[test]
    fn a_table_that_gives_each_worker_the_same_share_is_left_whatever_it_is() {
        let blocks: Vec<u32> = (0..128).map(|entry| entry / 64).collect();
        let turns: Vec<u32> = (0..128).map(|entry| entry % 8).collect();
        let own: Vec<u32> = (0..128).map(|entry| 2 + entry % 2).collect();
        for (entries, queues, workers) in
            [(&blocks, 2, 2), (&blocks, 2, 1), (&turns, 8, 2), (&turns, 8, 4), (&own, 8, 2)]
        {
            assert_eq!(even(entries, queues, workers), None, "{queues} queues, {workers} workers");
        }
        assert_eq!(even(&[0, 1, 2, 0], 3, 3), None, "one more than the others is all there can be");
        assert_eq!(even(&[0, 1], 4, 4), None, "fewer hash values than workers");
    }

    #[test]
    fn every_other_table_is_replaced_by_one_that_gives_each_worker_the_same_share() {
        for workers in 1..=16 {
            for queues in workers..40 {
                for len in [64, 100, 128, 512] {
                    let lopsided = vec![queues - 1; len];
                    let Some(table) = even(&lopsided, queues, workers) else {
                        assert_eq!(workers, 1, "{queues} queues, {workers} workers");
                        continue;
                    };
                    assert_eq!(table.len(), len);
                    assert!(table.iter().all(|queue| *queue < queues), "a queue that is not there");
                    let shares = workers_shares(&table, workers);
                    let (least, most) =
                        (shares.iter().min().unwrap(), shares.iter().max().unwrap());
                    assert!(most - least <= 1, "{queues} queues, {workers} workers: {shares:?}");
                    assert_eq!(even(&table, queues, workers), None, "and is left from then on");
                }
            }
        }
    }

    #[test]
    fn a_table_that_leads_to_a_queue_which_nobody_serves_is_replaced() {
        let turns: Vec<u32> = (0..128).map(|entry| entry % 4).collect();
        let table = even(&turns, 2, 2).unwrap();
        assert_eq!(shares(&table), [64, 64]);
        assert_eq!(even(&turns, 1, 1).map(|table| shares(&table)), Some(vec![128]));
    }

    #[test]
    fn without_a_queue_for_each_worker_nothing_is_changed() {
        assert_eq!(even(&[0; 128], 1, 2), None);
        assert_eq!(even(&[0; 128], 0, 1), None);
        assert_eq!(even(&[0; 128], 4, 0), None);
    }

    #[test]
    fn shares_are_counted_by_queue() {
        assert_eq!(shares(&[0, 0, 3, 1]), [2, 1, 0, 1]);
        assert_eq!(shares(&[]), [0; 0]);
    }
}
