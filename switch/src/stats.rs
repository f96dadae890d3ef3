//! Counters: every frame that enters is counted once more when it leaves, is dropped or is used up.
//!
//! ```text
//!   received + from_clients + generated = to_clients + to_ports + consumed + dropped + waiting
//! ```

use crate::verdict::DropReason;
use core::ops::AddAssign;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// Drops by reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drops([u64; DropReason::COUNT]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::COUNT])
    }
}

impl Drops {
    /// Counts `count` more frames.
    #[inline]
    pub fn add(&mut self, reason: DropReason, count: u64) {
        if let Some(counter) = self.0.get_mut(reason as usize) {
            *counter += count;
        }
    }

    /// Frames dropped for this reason.
    #[must_use]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or(0)
    }

    /// Frames dropped for any reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl AddAssign for Drops {
    fn add_assign(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }
}

impl Serialize for Drops {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for reason in DropReason::ALL {
            let count = self.get(*reason);
            if count > 0 {
                map.serialize_entry(reason.name(), &count)?;
            }
        }
        map.end()
    }
}

/// Frames of the whole switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Taken from ports.
    pub received: u64,
    /// Taken from clients.
    pub from_clients: u64,
    /// Made by the switch: answers, and copies for further receivers.
    pub generated: u64,
    /// Put on rx rings.
    pub to_clients: u64,
    /// Given to ports.
    pub to_ports: u64,
    /// Used up by the switch itself, which answered them.
    pub consumed: u64,
    /// Dropped, by reason.
    pub dropped: Drops,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        // Destructured, so that a new counter cannot be forgotten.
        let Self { received, from_clients, generated, to_clients, to_ports, consumed, dropped } =
            other;
        self.received += received;
        self.from_clients += from_clients;
        self.generated += generated;
        self.to_clients += to_clients;
        self.to_ports += to_ports;
        self.consumed += consumed;
        self.dropped += dropped;
    }
}

impl Totals {
    /// Frames that are neither out nor dropped: they wait for a port, or for the first piece
    /// of their datagram.
    #[must_use]
    pub fn unaccounted(&self) -> i128 {
        let entered = [self.received, self.from_clients, self.generated];
        let left = [self.to_clients, self.to_ports, self.consumed, self.dropped.total()];
        entered.iter().map(|n| i128::from(*n)).sum::<i128>()
            - left.iter().map(|n| i128::from(*n)).sum::<i128>()
    }
}

/// Frames of one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SessionCounters {
    /// Put on its rx ring.
    pub delivered: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Taken from its tx ring.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Wake-ups sent to it.
    pub wakeups: u64,
    /// Frames for it that were dropped, by reason.
    pub dropped_to: Drops,
    /// Frames from it that were dropped, by reason.
    pub dropped_from: Drops,
}

impl AddAssign for SessionCounters {
    fn add_assign(&mut self, other: Self) {
        let Self {
            delivered,
            delivered_bytes,
            sent,
            sent_bytes,
            wakeups,
            dropped_to,
            dropped_from,
        } = other;
        self.delivered += delivered;
        self.delivered_bytes += delivered_bytes;
        self.sent += sent;
        self.sent_bytes += sent_bytes;
        self.wakeups += wakeups;
        self.dropped_to += dropped_to;
        self.dropped_from += dropped_from;
    }
}
