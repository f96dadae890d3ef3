//! On which side of a bump a link address was last heard.
//!
//! ```text
//!   source of a frame --hash--> one word: address, side       what a client sends to that address
//!                                                             leaves there; on both sides if unknown
//! ```
//!
//! - A hint, and nothing that a client's rights depend on: as with any bridge, a station that sends from
//!   another's address draws what clients send there, until the other is heard again.
//! - A fixed number of words, one place for each address, by a seeded hash. Whoever collides makes frames
//!   leave on both sides.

use crate::classify::Mac;

/// Words: 8 KiB in all.
const ENTRIES: usize = 1024;

/// A side of a bump, by its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The network that the interface's wire port leads to.
    Wire,
    /// The one behind the host port.
    Behind,
}

/// Where link addresses are.
#[derive(Debug)]
pub(crate) struct Stations {
    /// The address in the upper 48 bits, the side plus 1 in the lower.
    words: Box<[u64; ENTRIES]>,
    seed: u64,
}

#[inline]
fn number(Mac([a, b, c, d, e, f]): Mac) -> u64 {
    u64::from_be_bytes([a, b, c, d, e, f, 0, 0])
}

impl Stations {
    pub(crate) fn new(seed: u64) -> Self {
        Self { words: Box::new([0; ENTRIES]), seed }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a part of a hash")]
    fn place(&self, number: u64) -> usize {
        let product = u128::from(number ^ self.seed) * 0x9e37_79b9_7f4a_7c15;
        ((product >> 64) as usize ^ product as usize) & (ENTRIES - 1)
    }

    /// A frame from `mac` came in at `side`.
    #[inline]
    pub(super) fn heard(&mut self, mac: Mac, side: Side) {
        let number = number(mac);
        let place = self.place(number);
        // Masked: it lies in the array.
        self.words[place] = number | (side as u64 + 1);
    }

    /// Where `mac` was last heard; `None` if it was not, or was forgotten for another.
    pub(super) fn side_of(&self, mac: Mac) -> Option<Side> {
        let number = number(mac);
        match self.words[self.place(number)] ^ number {
            1 => Some(Side::Wire),
            2 => Some(Side::Behind),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_station_is_where_it_was_last_heard() {
        let mut stations = Stations::new(7);
        let [a, b] = [1, 2].map(|n| Mac([2, 0, 0, 0, 0, n]));
        assert_eq!(stations.side_of(a), None);
        // An empty place says nothing of the address of zeros either.
        assert_eq!(stations.side_of(Mac::default()), None);
        stations.heard(a, Side::Wire);
        stations.heard(b, Side::Behind);
        assert_eq!(
            (stations.side_of(a), stations.side_of(b)),
            (Some(Side::Wire), Some(Side::Behind))
        );
        stations.heard(a, Side::Behind);
        assert_eq!(stations.side_of(a), Some(Side::Behind));
    }

    #[test]
    fn any_number_of_stations_takes_no_more_room_and_none_is_taken_for_another() {
        let mut stations = Stations::new(7);
        let mac = |n: u16| Mac([2, 0, 0, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
        for n in 0..10_000 {
            stations.heard(mac(n), if n % 2 == 0 { Side::Wire } else { Side::Behind });
        }
        let known = (0..10_000).filter_map(|n| Some((n, stations.side_of(mac(n))?)));
        let known: Vec<_> = known.collect();
        assert!(known.len() > ENTRIES / 2 && known.len() <= ENTRIES, "{}", known.len());
        for (n, side) in known {
            assert_eq!(side, if n % 2 == 0 { Side::Wire } else { Side::Behind }, "station {n}");
        }
    }
}
