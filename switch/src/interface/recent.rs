//! What was decided a moment ago about frames like this one.
//!
//! ```text
//!   head --mask--> key: link and network addresses, protocol, ports, and where it came from
//!                   |
//!                   +--hash--> one entry: the same key, of this generation? --> the same way
//! ```
//!
//! Judging a frame takes hundreds of instructions, and most frames are of flows that were judged a
//! moment ago. Invariants:
//!
//! - A memory, never an authority: what is found here is what the long way would say. Only decisions
//!   that follow from the key and the rules alone are entered, each with the [generation] of the rules
//!   that it was made under; after any change of the rules it is not found any more.
//! - Only of [`Plain`](crate::classify::Plain) frames. What may differ between frames of one flow and
//!   makes a frame malformed (its lengths) is not in the key and is checked for every frame.
//! - A fixed number of entries, one place for each key. The hash is seeded; whoever collides all the
//!   same makes frames take the long way, which is bounded.
//!
//! [generation]: crate::steer::Table::generation

use super::stations::Side;
use crate::steer::FlowIndex;
use core::fmt;
use usnet_shmring::ledger::SessionId;

/// Entries: 128 KiB in all, to stay in the second-level cache.
const ENTRIES: usize = 1024;

/// Where a frame goes that may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To an attached client.
    Client(SessionId),
    /// To the kernel's stack.
    Host,
    /// To the network.
    Wire,
    /// To the wire and to everyone here who may care, or the switch answers.
    Group,
    /// To servers of DHCP, after a look at the whole message.
    Dhcp,
}

/// Where a frame came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin(u16);

impl Origin {
    /// The network.
    pub(crate) const WIRE: Self = Self(u16::MAX);
    /// The network behind a bump.
    const BEHIND: Self = Self(u16::MAX - 1);

    /// The network on a side.
    #[inline(always)]
    pub(crate) const fn network(side: Side) -> Self {
        match side {
            Side::Wire => Self::WIRE,
            Side::Behind => Self::BEHIND,
        }
    }

    /// A client.
    #[inline(always)]
    pub(crate) const fn client(SessionId(number): SessionId) -> Self {
        Self(number)
    }
}

/// All of a plain frame's head that decides where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    words: [u64; 8],
    origin: Origin,
}

/// Bytes of an Ethernet header.
const LINK: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Which bytes of an untagged IPv4 frame belong to the key: all but the type of service, the total
/// length, the identification, "don't fragment", the time to live and the checksum.
const IPV4: [u64; 5] =
    mask([(0, 15, 0xff), (20, 21, 0xbf), (21, 22, 0xff), (23, 24, 0xff), (26, 38, 0xff)]);
/// The same of IPv6: all but the traffic class, the flow label, the payload length and the hop limit.
const IPV6: [u64; 7] =
    mask([(0, 14, 0xff), (14, 15, 0xf0), (20, 21, 0xff), (22, 56, 0xff), (0, 0, 0)]);

/// Words with `bits` in each byte of the ranges.
const fn mask<const WORDS: usize>(ranges: [(usize, usize, u8); 5]) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    let mut word = 0;
    while word < WORDS {
        let mut bytes = [0; 8];
        let mut range = 0;
        while range < ranges.len() {
            let (first, end, bits) = ranges[range];
            let mut byte = 0;
            while byte < 8 {
                let at = word * 8 + byte;
                if at >= first && at < end {
                    bytes[byte] = bits;
                }
                byte += 1;
            }
            range += 1;
        }
        words[word] = u64::from_ne_bytes(bytes);
        word += 1;
    }
    words
}

impl Key {
    /// The key of a frame of `length` bytes that begins with `head`, if its lengths are those of a
    /// plain frame. Whether it is one, the key does not say: that is known of the frame that was
    /// entered with the same key.
    #[inline(always)]
    pub(crate) fn of(head: &[u8], length: usize, origin: Origin) -> Option<Self> {
        let words = match head.get(12..LINK)? {
            [0x08, 0x00] => ipv4(head, length)?,
            [0x86, 0xdd] => ipv6(head, length)?,
            _ => return None,
        };
        Some(Self { words, origin })
    }

    /// Whether the two are equal, without a branch for each word.
    #[inline(always)]
    fn is(&self, other: &Self) -> bool {
        let words = self.words.iter().zip(&other.words);
        let difference = words.fold(0, |difference, (a, b)| difference | (a ^ b));
        difference == 0 && self.origin == other.origin
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "parts of a hash")]
    fn hash(&self, seed: u64) -> usize {
        let [_, _, c, d, e, f, g, h] = self.words;
        let product = u128::from(c ^ d ^ f.rotate_left(32) ^ seed)
            * u128::from(
                e ^ g.rotate_left(32) ^ h ^ seed.rotate_left(23) ^ u64::from(self.origin.0),
            );
        (product >> 64) as usize ^ product as usize
    }
}

#[inline(always)]
fn be16(bytes: [u8; 2]) -> usize {
    u16::from_be_bytes(bytes).into()
}

#[inline(always)]
fn ipv4(head: &[u8], length: usize) -> Option<[u64; 8]> {
    const HEADER: usize = 20;
    let first = head.first_chunk::<42>()?;
    let packet = be16([first[16], first[17]]);
    if packet > length.wrapping_sub(LINK) {
        return None;
    }
    let payload = packet.checked_sub(HEADER)?;
    let udp = be16([first[38], first[39]]);
    check(head, LINK + HEADER, first[23], udp, payload)?;
    let words = bytemuck::pod_read_unaligned::<[u64; 5]>(first.first_chunk::<40>()?);
    let mut key = [0; 8];
    for ((key, word), mask) in key.iter_mut().zip(words).zip(IPV4) {
        *key = word & mask;
    }
    Some(key)
}

#[inline(always)]
fn ipv6(head: &[u8], length: usize) -> Option<[u64; 8]> {
    const HEADER: usize = 40;
    let first = head.first_chunk::<62>()?;
    let payload = be16([first[18], first[19]]);
    if payload + HEADER > length.wrapping_sub(LINK) {
        return None;
    }
    let udp = be16([first[58], first[59]]);
    check(head, LINK + HEADER, first[20], udp, payload)?;
    let words = bytemuck::pod_read_unaligned::<[u64; 7]>(first.first_chunk::<56>()?);
    let mut key = [0; 8];
    for ((key, word), mask) in key.iter_mut().zip(words).zip(IPV6) {
        *key = word & mask;
    }
    // The destination port, beyond the last whole word.
    key[7] = be16([first[56], first[57]]) as u64;
    Some(key)
}

/// Checks the transport header at `at`, in a packet that has `payload` bytes from there: TCP's data
/// offset or `udp`, UDP's length.
#[inline(always)]
fn check(head: &[u8], at: usize, protocol: u8, udp: usize, payload: usize) -> Option<()> {
    let (used, least) = match protocol {
        UDP => (udp, 8),
        TCP => (usize::from(head.get(at..at + 20)?.get(12)? >> 4) << 2, 20),
        _ => return None,
    };
    (least <= used && used <= payload).then_some(())
}

/// A decision, and what has to be marked as used when it is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Where the frame goes; never to a group.
    pub(crate) way: Way,
    /// The learned flow that the decision rests on.
    pub(crate) flow: Option<FlowIndex>,
}

#[derive(Clone, Copy)]
#[repr(align(128))]
struct Entry {
    key: Key,
    /// Of the rules; those of a table begin with 1, so that 0 is never found.
    generation: u64,
    decision: Decision,
}

/// The memory.
pub(crate) struct Recent {
    entries: Box<[Entry; ENTRIES]>,
    seed: u64,
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").field("entries", &ENTRIES).finish_non_exhaustive()
    }
}

impl Recent {
    pub(crate) fn new(seed: u64) -> Self {
        let empty = Entry {
            key: Key { words: [0; 8], origin: Origin::WIRE },
            generation: 0,
            decision: Decision { way: Way::Group, flow: None },
        };
        let entries = vec![empty; ENTRIES].into_boxed_slice();
        Self { entries: entries.try_into().unwrap_or_else(|_| Box::new([empty; ENTRIES])), seed }
    }

    /// What was decided about frames of this key under these rules.
    #[inline(always)]
    pub(crate) fn get(&self, key: &Key, generation: u64) -> Option<Decision> {
        // Masked: it lies in the array.
        let entry = &self.entries[key.hash(self.seed) & (ENTRIES - 1)];
        (entry.generation == generation && entry.key.is(key)).then_some(entry.decision)
    }

    /// Remembers a decision about a plain frame; what was remembered in its place is forgotten.
    pub(crate) fn put(&mut self, key: Key, generation: u64, decision: Decision) {
        self.entries[key.hash(self.seed) & (ENTRIES - 1)] = Entry { key, generation, decision };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{Plain, classify_plain};
    use usnet_fuzz::frames::{over_ipv4, over_ipv6, tcp, udp};

    /// One frame of each kind, with room behind the packet and a payload that lengths can cut.
    fn frames() -> [Vec<u8>; 4] {
        let datagram = udp(40_000, 53, &[7; 40]);
        let mut segment = tcp(40_000, 443);
        segment.extend([7; 40]);
        [
            over_ipv4(UDP, &datagram),
            over_ipv4(TCP, &segment),
            over_ipv6(UDP, &datagram),
            over_ipv6(TCP, &segment),
        ]
    }

    fn key(frame: &[u8]) -> Option<Key> {
        Key::of(frame, frame.len(), Origin::WIRE)
    }

    /// What the key has to stand for: all of it but where the packet ends.
    fn meaning(frame: &[u8]) -> Option<Plain> {
        classify_plain(frame, frame.len()).map(|plain| Plain { end: 0, ..plain })
    }

    #[test]
    fn frames_with_the_key_of_a_plain_frame_are_plain_and_of_its_flow() {
        for frame in frames() {
            let (of_frame, flow) = (key(&frame), meaning(&frame));
            assert!(of_frame.is_some() && flow.is_some());
            let mut same = 0;
            for at in 0..frame.len() {
                for byte in 0..=255 {
                    let mut other = frame.clone();
                    other[at] = byte;
                    if key(&other) == of_frame {
                        assert_eq!(meaning(&other), flow, "byte {at} is {byte:#x}");
                        same += 1;
                    }
                }
            }
            assert!(same > 256 * 40, "{same} frames: the payload is no part of the key");
        }
    }

    #[test]
    fn every_plain_frame_has_a_key_and_frames_of_two_flows_have_two() {
        for frame in frames() {
            let flow = meaning(&frame);
            for at in 0..frame.len() {
                for byte in 0..=255 {
                    let mut other = frame.clone();
                    other[at] = byte;
                    if meaning(&other).is_some() {
                        let is_same = meaning(&other) == flow;
                        assert_eq!(key(&other) == key(&frame), is_same, "byte {at} is {byte:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_cut_frame_has_a_key_only_if_it_is_plain() {
        for frame in frames() {
            for length in 0..=frame.len() {
                for packet in [length, frame.len()] {
                    let head = &frame[..length];
                    let plain = classify_plain(head, packet).is_some();
                    let key = Key::of(head, packet, Origin::WIRE);
                    assert_eq!(key.is_some(), plain, "{length} of {packet} bytes");
                }
            }
        }
    }

    #[test]
    fn a_decision_is_found_under_its_key_and_generation_alone() {
        let mut recent = Recent::new(1);
        let [a, b, ..] = frames().map(|frame| key(&frame).unwrap());
        let decision = Decision { way: Way::Client(SessionId(3)), flow: None };
        assert_eq!(recent.get(&a, 1), None);
        recent.put(a, 1, decision);
        assert_eq!(recent.get(&a, 1), Some(decision));
        assert_eq!(recent.get(&a, 2), None);
        assert_eq!(recent.get(&b, 1), None);
        assert_eq!(recent.get(&Key { origin: Origin::client(SessionId(0)), ..a }, 1), None);
        let empty = Key { words: [0; 8], origin: Origin::WIRE };
        assert_eq!(Recent::new(1).get(&empty, 1), None);
    }

    #[test]
    fn many_flows_find_many_places() {
        let mut recent = Recent::new(0x1234_5678_9abc_def0);
        let decision = Decision { way: Way::Wire, flow: None };
        let keys: Vec<Key> = (0..512u16)
            .flat_map(|port| {
                [
                    over_ipv4(UDP, &udp(port + 1000, 9, &[])),
                    over_ipv6(UDP, &udp(9, port + 1000, &[])),
                ]
            })
            .map(|frame| key(&frame).unwrap())
            .collect();
        for key in &keys {
            recent.put(*key, 1, decision);
        }
        let found = keys.iter().filter(|key| recent.get(key, 1).is_some()).count();
        // Thrown at random, 1,024 keys keep 63 % of 1,024 places.
        assert!(found > ENTRIES / 2, "{found} of {}", keys.len());
    }
}
