//! Which receiver the first fragment of a datagram went to, so that later ones follow.
//!
//! A small direct-mapped table with a seeded hash: a collision or an age of more than 30 seconds
//! loses the datagram, never sends a piece to another receiver. A datagram's receiver is bound once:
//! a second first fragment does not rebind it.

use super::Table;
use crate::classify::{Address, Fragment, IpPacket, Protocol};
use crate::time::Time;
use crate::verdict::Receiver;
use core::hash::{BuildHasher, Hasher};
use core::time::Duration;
use foldhash::fast::FixedState;

const PLACES: usize = 1024;
/// As long as receivers wait for the pieces of a datagram (RFC 8200, 4.5: 60 s; Linux: 30 s).
const LIFETIME: Duration = Duration::from_secs(30);

/// What tells the pieces of one datagram from all others (RFC 791, RFC 8200).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Protocol; of IPv6 always zero, since there a piece may name an extension header instead.
    pub protocol: Protocol,
    /// Identification.
    pub id: u32,
}

impl DatagramKey {
    /// The key of a piece with this identification.
    #[must_use]
    pub fn of(packet: &IpPacket, id: u32) -> Self {
        let flow = &packet.flow;
        let is_v4 = flow.source.to_ip().is_ipv4();
        let protocol = if is_v4 { flow.protocol } else { Protocol(0) };
        Self { source: flow.source, destination: flow.destination, protocol, id }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry<T> {
    key: DatagramKey,
    value: T,
    since: Time,
}

/// Datagrams seen lately, each with a value bound by its first fragment.
pub struct FragmentTable<T> {
    places: Box<[Option<Entry<T>>]>,
    state: FixedState,
}

impl<T> core::fmt::Debug for FragmentTable<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FragmentTable").field("places", &self.places.len()).finish_non_exhaustive()
    }
}

impl<T: Copy> FragmentTable<T> {
    /// An empty table.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let places = vec![None; PLACES].into_boxed_slice();
        Self { places, state: FixedState::with_seed(seed) }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a part of a hash")]
    fn place(&mut self, key: &DatagramKey) -> Option<&mut Option<Entry<T>>> {
        let mut hasher = self.state.build_hasher();
        hasher.write(&key.source.0);
        hasher.write(&key.destination.0);
        hasher.write_u64(u64::from(key.id) << 8 | u64::from(key.protocol.0));
        let hash = hasher.finish() as usize;
        self.places.get_mut(hash % PLACES)
    }

    /// Binds a datagram to `value` unless it is bound already; returns what it is bound to.
    pub fn bind(&mut self, key: DatagramKey, value: T, now: Time) -> T {
        let Some(place) = self.place(&key) else { return value };
        match place {
            Some(entry) if entry.key == key && now.since(entry.since) < LIFETIME => entry.value,
            _ => {
                *place = Some(Entry { key, value, since: now });
                value
            }
        }
    }

    /// What the datagram is bound to.
    pub fn get(&mut self, key: &DatagramKey, now: Time) -> Option<T> {
        match self.place(key)? {
            Some(entry) if entry.key == *key && now.since(entry.since) < LIFETIME => {
                Some(entry.value)
            }
            _ => None,
        }
    }

    /// Removes every datagram whose value satisfies `gone`.
    pub fn forget(&mut self, gone: impl Fn(T) -> bool) {
        for place in &mut self.places {
            if place.as_ref().is_some_and(|e| gone(e.value)) {
                *place = None;
            }
        }
    }
}

/// Who receives a packet, or what has to be known first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// This one, or nobody.
    Receiver(Option<Receiver>),
    /// Whoever gets the first fragment of this datagram.
    Early(DatagramKey),
}

impl Table {
    /// Who receives an IP packet that arrives: as [`lookup`](Self::lookup), and later fragments go
    /// where the first went. Whose a later fragment is whose first was not seen nobody knows.
    #[inline]
    pub fn receiver(&mut self, packet: &IpPacket, now: Time) -> Found {
        Found::Receiver(match packet.fragment {
            Fragment::Whole => self.lookup(&packet.flow, now),
            Fragment::First { .. } => {
                let receiver = self.lookup(&packet.flow, now);
                self.lead(packet, receiver, now)
            }
            Fragment::Later { id } => {
                let key = DatagramKey::of(packet, id);
                match self.datagram(&key, now) {
                    Some(bound) => bound,
                    None => return Found::Early(key),
                }
            }
        })
    }

    /// Whom the first fragment of a datagram was for, if it was seen.
    pub(crate) fn datagram(&mut self, key: &DatagramKey, now: Time) -> Option<Option<Receiver>> {
        self.fragments.get(key, now)
    }

    /// Who receives a packet that is for `receiver` by itself; if it is a first fragment, the later
    /// ones follow. Nobody, if the first fragment of the same datagram was another receiver's: that
    /// one must not see this, nor the other the rest.
    pub fn lead(
        &mut self,
        packet: &IpPacket,
        receiver: Option<Receiver>,
        now: Time,
    ) -> Option<Receiver> {
        let Fragment::First { id } = packet.fragment else { return receiver };
        let bound = self.fragments.bind(DatagramKey::of(packet, id), receiver, now);
        receiver.filter(|_| bound == receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u32) -> DatagramKey {
        DatagramKey {
            source: Address::v4([1, 2, 3, 4]),
            destination: Address::v4([10, 0, 0, 1]),
            protocol: Protocol::UDP,
            id,
        }
    }

    #[test]
    fn a_datagram_is_bound_once_until_it_is_too_old() {
        let mut table = FragmentTable::new(3);
        assert_eq!(table.bind(key(1), 'a', Time(0)), 'a');
        assert_eq!(table.bind(key(1), 'b', Time(1)), 'a');
        assert_eq!(table.get(&key(1), Time(2)), Some('a'));
        assert_eq!(table.get(&key(2), Time(2)), None);
        assert_eq!(table.get(&key(1), Time(0) + LIFETIME), None);
        table.forget(|v| v == 'a');
        assert_eq!(table.get(&key(1), Time(2)), None);
    }
}
