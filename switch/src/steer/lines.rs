//! A table of fixed size that costs a lookup two cache lines, whatever it holds.
//!
//! ```text
//!   hash(seed, key) -> bucket A | bucket B      a line each: 8 tags, 8 numbers
//!                        |
//!                        +-- the tag fits --> line: key (5 words), value (2 words), link
//! ```
//!
//! - A lookup compares at most sixteen tags, and reads a line only where one fits: once in some four thousand
//!   lookups in vain.
//! - The hash is seeded, so that a remote peer cannot choose keys that collide. Buckets have twice as many places as
//!   there are lines; who finds both of its buckets full is refused, and nothing has changed.
//! - Lines are handed out from the lowest, so a table of few entries is small in every cache. Memory that was never
//!   used is never touched, so a large table costs nothing to make.

use core::hash::{BuildHasher, Hasher};
use foldhash::fast::FixedState;

/// What an entry is found by.
pub(super) type Key = [u64; 5];
/// What is kept for it.
pub(super) type Value = [u64; 2];

/// Words in a cache line.
const WORDS: usize = 8;
/// Places in a bucket.
const PLACES: usize = 8;
/// With so many free places or fewer, a bucket leaves what it can to the other.
const SPARE: usize = 2;
/// Where a bucket's numbers begin, two in a word, behind the tags, four in a word.
const NUMBERS: usize = 2;
/// The link of a line that is in use; of another, the next free one's number and 1, or 0.
const IN_USE: u64 = u64::MAX;

/// So many words of 64 bytes each, none of which crosses a cache line.
struct Lines {
    words: Box<[u64]>,
    /// Words before the first line.
    skip: usize,
}

impl Lines {
    fn new(count: usize) -> Self {
        // Zeroed by the kernel, page by page as they are used.
        let words = vec![0_u64; (count + 1) * WORDS].into_boxed_slice();
        let skip = words.as_ptr().align_offset(WORDS * size_of::<u64>()).min(WORDS);
        Self { words, skip }
    }

    #[inline(always)]
    fn get(&self, at: usize) -> Option<&[u64; WORDS]> {
        self.words.get(self.skip + at * WORDS..)?.first_chunk()
    }

    #[inline(always)]
    fn get_mut(&mut self, at: usize) -> Option<&mut [u64; WORDS]> {
        self.words.get_mut(self.skip + at * WORDS..)?.first_chunk_mut()
    }
}

/// Where an entry lies; true until the entry is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineIndex(u32);

/// Both buckets are full, or all lines are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// What a hash says of a key.
#[derive(Clone, Copy)]
struct Hashed {
    buckets: [usize; 2],
    /// Never 0, which stands for a free place.
    tag: u16,
}

/// The table.
pub(super) struct LineTable {
    buckets: Lines,
    lines: Lines,
    hash: FixedState,
    /// Number of buckets, a power of two, less 1.
    mask: usize,
    /// Lines that there are.
    capacity: u32,
    /// Lines that were ever used.
    touched: u32,
    /// The first free line of these, and 1; or 0.
    free: u64,
    len: usize,
}

impl core::fmt::Debug for LineTable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("LineTable")
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

/// A word's four tags that may be this one: the top bit of each. The lowest is right; one above may be wrong.
#[inline(always)]
const fn fits(tags: u64, tag: u16) -> u64 {
    const ONES: u64 = 0x0001_0001_0001_0001;
    let differ = tags ^ (ONES * tag as u64);
    differ.wrapping_sub(ONES) & !differ & (ONES << 15)
}

/// Places of a bucket, as bits: of place n below 4 bit 16n + 15, of place n + 4 bit 16n + 7.
#[derive(Clone, Copy)]
struct Places(u64);

impl Places {
    /// Those whose tag may be this one.
    #[inline(always)]
    const fn of(bucket: &[u64; WORDS], tag: u16) -> Self {
        Self(fits(bucket[0], tag) | fits(bucket[1], tag) >> 8)
    }
}

impl Iterator for Places {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(bit / 16 + if bit % 16 == 7 { 4 } else { 0 })
    }
}

/// Whether a line that is in use has this key.
#[inline(always)]
const fn is(line: &[u64; WORDS], key: &Key) -> bool {
    let [a, b, c, d, e, _, _, link] = *line;
    // Without a branch, and without a call that compares so few bytes.
    (a ^ key[0]) | (b ^ key[1]) | (c ^ key[2]) | (d ^ key[3]) | (e ^ key[4]) | (link ^ IN_USE) == 0
}

/// The number at a place of a bucket.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "half of a word")]
const fn number(bucket: &[u64; WORDS], place: usize) -> u32 {
    // A place is below 8, so this is one of the words 2 to 5.
    (bucket[NUMBERS + place / 2 % 4] >> (place % 2 * 32)) as u32
}

/// Writes a place of a bucket.
fn set_place(bucket: &mut [u64; WORDS], place: usize, tag: u16, number: u32) {
    let (word, shift) = (place / 4 % 2, place % 4 * 16);
    bucket[word] = bucket[word] & !(0xffff << shift) | u64::from(tag) << shift;
    let (word, shift) = (NUMBERS + place / 2 % 4, place % 2 * 32);
    bucket[word] = bucket[word] & !(0xffff_ffff << shift) | u64::from(number) << shift;
}

fn tag(bucket: &[u64; WORDS], place: usize) -> u16 {
    let [a, b, c, d] = bytemuck::cast::<u64, [u16; 4]>(bucket[place / 4 % 2].to_le());
    [a, b, c, d][place % 4]
}

impl LineTable {
    /// Room for `entries` of them, at least 8 and at most `u32::MAX / 2`.
    pub(super) fn new(entries: usize, seed: u64) -> Self {
        let entries = entries.clamp(8, u32::MAX as usize / 2);
        let buckets = (2 * entries).div_ceil(PLACES).next_power_of_two();
        Self {
            buckets: Lines::new(buckets),
            lines: Lines::new(entries),
            hash: FixedState::with_seed(seed),
            mask: buckets - 1,
            capacity: u32::try_from(entries).unwrap_or(u32::MAX / 2),
            touched: 0,
            free: 0,
            len: 0,
        }
    }

    /// Entries in the table.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Entries that it has room for.
    pub(super) const fn capacity(&self) -> usize {
        self.capacity as usize
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "parts of a hash")]
    fn hashed(&self, key: &Key) -> Hashed {
        let mut hasher = self.hash.build_hasher();
        let [a, b, c, d, e] = *key;
        hasher.write_u128(u128::from(a) | u128::from(b) << 64);
        hasher.write_u128(u128::from(c) | u128::from(d) << 64);
        hasher.write_u64(e);
        let hash = hasher.finish();
        let buckets = [hash as usize & self.mask, (hash >> 32) as usize & self.mask];
        Hashed { buckets, tag: ((hash >> 48) as u16).max(1) }
    }

    /// A number that tells keys apart.
    pub(super) fn scatter(&self, key: &Key) -> usize {
        usize::from(self.hashed(key).tag)
    }

    /// Where a key's entry is: its line, its bucket, and the place in that.
    #[inline(always)]
    fn locate(&self, key: &Key) -> Option<(u32, usize, usize)> {
        let Hashed { buckets, tag } = self.hashed(key);
        for at in buckets {
            let bucket = self.buckets.get(at)?;
            for place in Places::of(bucket, tag) {
                let number = number(bucket, place);
                if is(self.lines.get(number as usize)?, key) {
                    return Some((number, at, place));
                }
            }
        }
        None
    }

    /// Where a key's entry is.
    #[inline(always)]
    pub(super) fn find(&self, key: &Key) -> Option<LineIndex> {
        self.locate(key).map(|(number, ..)| LineIndex(number))
    }

    /// The entry there.
    #[inline(always)]
    pub(super) fn get(&self, LineIndex(number): LineIndex) -> Option<(Key, Value)> {
        let [a, b, c, d, e, f, g, link] = *self.lines.get(number as usize)?;
        (link == IN_USE).then_some(([a, b, c, d, e], [f, g]))
    }

    /// What is kept there.
    #[inline(always)]
    pub(super) fn value_mut(&mut self, LineIndex(number): LineIndex) -> Option<&mut [u64]> {
        let line = self.lines.get_mut(number as usize)?;
        if line[7] == IN_USE { line.get_mut(5..7) } else { None }
    }

    /// Enters what is not there.
    pub(super) fn insert(&mut self, key: &Key, value: Value) -> Result<LineIndex, Full> {
        let Hashed { buckets, tag: own } = self.hashed(key);
        let free = |at: usize| {
            self.buckets.get(at).map_or(0, |b| (0..PLACES).filter(|p| tag(b, *p) == 0).count())
        };
        // The first while there is much room, so that most are found where they are sought first; then the emptier,
        // so that both are hardly ever full.
        let [first, second] = buckets;
        let at = if free(first) <= SPARE && free(second) > free(first) { second } else { first };
        let bucket = self.buckets.get(at).ok_or(Full)?;
        let place = (0..PLACES).find(|place| tag(bucket, *place) == 0).ok_or(Full)?;
        let number = self.take_line().ok_or(Full)?;
        let line = self.lines.get_mut(number as usize).ok_or(Full)?;
        let ([a, b, c, d, e], [f, g]) = (*key, value);
        *line = [a, b, c, d, e, f, g, IN_USE];
        set_place(self.buckets.get_mut(at).ok_or(Full)?, place, own, number);
        self.len += 1;
        Ok(LineIndex(number))
    }

    /// A line that is not in use.
    fn take_line(&mut self) -> Option<u32> {
        if let Some(number) = self.free.checked_sub(1) {
            let number = u32::try_from(number).ok()?;
            self.free = self.lines.get(number as usize)?[7];
            return Some(number);
        }
        (self.touched < self.capacity).then(|| {
            self.touched += 1;
            self.touched - 1
        })
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Value> {
        let (number, at, place) = self.locate(key)?;
        set_place(self.buckets.get_mut(at)?, place, 0, 0);
        let line = self.lines.get_mut(number as usize)?;
        let value = [line[5], line[6]];
        *line = [0, 0, 0, 0, 0, 0, 0, self.free];
        self.free = u64::from(number) + 1;
        self.len -= 1;
        Some(value)
    }

    /// The entries of a key's two buckets: one of them makes room for it when it goes.
    pub(super) fn near(&self, key: &Key) -> impl Iterator<Item = LineIndex> + '_ {
        let Hashed { buckets, .. } = self.hashed(key);
        let buckets = buckets.into_iter().filter_map(|at| self.buckets.get(at));
        buckets.flat_map(|bucket| {
            let used = (0..PLACES).filter(|place| tag(bucket, *place) != 0);
            used.map(|place| LineIndex(number(bucket, place)))
        })
    }

    /// All entries.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, Value)> + '_ {
        (0..self.touched).filter_map(|number| self.get(LineIndex(number)))
    }

    /// Takes out what is not to be kept.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(Value) -> bool) {
        for number in 0..self.touched {
            if let Some((key, value)) = self.get(LineIndex(number))
                && !keep(value)
            {
                self.remove(&key);
            }
        }
    }

    /// All that is kept, to be changed.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut [u64]> {
        let end = self.lines.skip + self.touched as usize * WORDS;
        let words = self.lines.words.get_mut(self.lines.skip..end).into_iter();
        let lines = words.flat_map(|words| words.chunks_exact_mut(WORDS));
        lines.filter(|line| line.get(7) == Some(&IN_USE)).filter_map(|line| line.get_mut(5..7))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn key(n: u64) -> Key {
        [n, 1, n / 3, 2, n ^ 7]
    }

    #[test]
    fn every_place_of_a_bucket_holds_its_own_tag_and_number() {
        let mut bucket = [0; WORDS];
        for round in 1..=2 {
            let own = |place: usize| {
                let place = u16::try_from(place).unwrap();
                (100 * round + place, u32::MAX - u32::from(place))
            };
            for place in 0..PLACES {
                let (tag, number) = own(place);
                set_place(&mut bucket, place, tag, number);
            }
            for place in 0..PLACES {
                assert_eq!((tag(&bucket, place), number(&bucket, place)), own(place));
                assert!(Places::of(&bucket, own(place).0).any(|found| found == place));
            }
            assert_eq!(Places::of(&bucket, 0xffff).count(), 0);
        }
    }

    #[test]
    fn a_tag_is_found_beside_any_other() {
        for tags in [[7, 7, 7, 7], [7, 6, 7, 8], [0x8007, 7, 0xffff, 7], [6, 7, 0, 7]] {
            let word = tags.iter().rev().fold(0, |word, tag: &u16| word << 16 | u64::from(*tag));
            let found: Vec<usize> = Places::of(&[word, 0, 0, 0, 0, 0, 0, 0], 7).collect();
            for (place, tag) in tags.iter().enumerate() {
                assert!(*tag != 7 || found.contains(&place), "{tags:?}: {found:?}");
            }
        }
    }

    #[test]
    fn a_table_agrees_with_a_map_whatever_comes_and_goes() {
        let mut table = LineTable::new(256, 3);
        let mut map: HashMap<u64, Value> = HashMap::new();
        let mut state = 1_u64;
        let (mut refused, mut entered) = (0, 0);
        for step in 0..40_000_u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let n = state >> 33 & 511;
            match map.contains_key(&n) {
                true if state >> 60 > 3 => assert_eq!(table.remove(&key(n)), map.remove(&n)),
                true => {
                    let at = table.find(&key(n)).unwrap();
                    table.value_mut(at).unwrap()[1] = step;
                    map.get_mut(&n).unwrap()[1] = step;
                    assert_eq!(table.get(at), Some((key(n), map[&n])));
                }
                false => match table.insert(&key(n), [n, step]) {
                    Ok(_) => {
                        entered += 1;
                        map.insert(n, [n, step]);
                    }
                    Err(Full) => {
                        refused += 1;
                        assert_eq!(table.find(&key(n)), None);
                    }
                },
            }
            assert_eq!(table.len(), map.len());
        }
        assert!(entered > 10_000 && refused > 0, "{entered} {refused}");
        let mut all: Vec<Key> = table.iter().map(|entry| entry.0).collect();
        all.sort_unstable();
        let mut known: Vec<Key> = map.keys().map(|n| key(*n)).collect();
        known.sort_unstable();
        assert_eq!(all, known);
        table.values_mut().for_each(|value| value[0] = 9);
        assert!(table.iter().all(|(_, value)| value[0] == 9));
    }

    #[test]
    fn all_lines_can_be_used_and_one_more_is_refused() {
        let mut table = LineTable::new(4096, 5);
        let entered = (0..4096).filter(|n| table.insert(&key(*n), [*n, 0]).is_ok()).count();
        assert_eq!((entered, table.len()), (4096, table.capacity()));
        assert_eq!(table.insert(&key(5000), [0; 2]), Err(Full));
        table.remove(&key(17)).unwrap();
        table.insert(&key(5000), [0; 2]).unwrap();
        assert!((0..4096).all(|n| table.find(&key(n)).is_some() == (n != 17)));
    }

    #[test]
    fn lines_begin_where_cache_lines_do() {
        for count in [1, 7, 100, 100_000] {
            let lines = Lines::new(count);
            assert_eq!(std::ptr::from_ref(lines.get(0).unwrap()) as usize % 64, 0);
            assert!(lines.get(count - 1).is_some());
        }
    }
}
