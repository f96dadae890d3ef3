//! Rules that speak of the remote end, for the few ports that have any.
//!
//! ```text
//!   dense map: "look again" --> record of the port: who listens plainly, which shapes there are
//!                                |
//!                                +--> one probe a shape, the strongest first: (port, masked remote end) --> whose
//! ```
//!
//! - A shape is a priority, a length of prefix, and whether a remote port is named. A table has at most
//!   [`SHAPES`], so a look costs at most so many probes and one, each of at most eight entries.
//! - At most [`SOURCE_RULES`] rules, a rule for each port; what does not fit is refused.
//! - Seeded; a remote end cannot choose addresses that collide.

use super::scope::{Prefix, Scope, masked};
use crate::classify::{Address, Protocol};
use crate::verdict::{Receiver, ReceiverCode};
use core::hash::{BuildHasher, Hasher};
use foldhash::fast::FixedState;

/// Kinds of remote ends that rules of one interface can speak of at one time.
pub const SHAPES: usize = 16;
/// Rules with a remote end, a priority or a group, of one interface, each port counted.
pub const SOURCE_RULES: usize = 65_536;
const WAYS: usize = 4;

/// Whose frames are: one receiver's, or those of a group that is numbered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    One(Receiver),
    Group(u16),
}

/// A port of an address that is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) address: Address,
    pub(super) protocol: Protocol,
    /// 0 where the protocol has none.
    pub(super) port: u16,
}

/// What is asked first comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    priority: u8,
    bits: u8,
    has_port: bool,
}

impl Shape {
    fn of(scope: &Scope) -> Self {
        let bits = scope.remote.bits();
        Self { priority: scope.priority, bits, has_port: scope.remote_port != 0 }
    }

    /// More is stronger.
    fn strength(self) -> (u8, u8, bool) {
        (self.priority, self.bits, self.has_port)
    }
}

/// The number of the shape that stands for a port's record.
const RECORD: u8 = u8::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    port: Port,
    remote: Address,
    remote_port: u16,
    shape: u8,
}

#[derive(Clone, Copy, Debug)]
enum Value {
    /// Of a port: who listens without regard to the remote end, its rules, and the shapes of these and perhaps
    /// of some that are gone.
    Record {
        plain: ReceiverCode,
        rules: u32,
        shapes: u16,
    },
    Rule(Target),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Key,
    value: Value,
}

/// No room for another rule or shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// The rules.
pub(super) struct Sources {
    /// Made with the first rule.
    buckets: Box<[[Option<Entry>; WAYS]]>,
    hash: FixedState,
    /// By number, each with how many rules have it.
    shapes: [Option<(Shape, u32)>; SHAPES],
    /// Numbers of shapes, the strongest first.
    order: Vec<u8>,
    rules: usize,
}

impl core::fmt::Debug for Sources {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Sources").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Sources {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            buckets: Box::default(),
            hash: FixedState::with_seed(seed),
            shapes: [None; SHAPES],
            order: Vec::with_capacity(SHAPES),
            rules: 0,
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "parts of a hash")]
    fn places(&self, key: &Key) -> [usize; 2] {
        let mut hasher = self.hash.build_hasher();
        hasher.write_u128(u128::from_ne_bytes(key.port.address.0));
        hasher.write_u128(u128::from_ne_bytes(key.remote.0));
        hasher.write_u64(
            u64::from(key.port.port)
                | u64::from(key.remote_port) << 16
                | u64::from(key.port.protocol.0) << 32
                | u64::from(key.shape) << 40,
        );
        let hash = hasher.finish();
        let mask = self.buckets.len().wrapping_sub(1);
        [hash as usize & mask, (hash >> 32) as usize & mask]
    }

    #[inline]
    fn get(&self, key: &Key) -> Option<Value> {
        let places = self.places(key).into_iter().filter_map(|at| self.buckets.get(at));
        places.flatten().flatten().find(|entry| entry.key == *key).map(|entry| entry.value)
    }

    fn value_mut(&mut self, key: &Key) -> Option<&mut Value> {
        let [first, second] = self.places(key);
        let has =
            |bucket: &[Option<Entry>; WAYS]| bucket.iter().flatten().any(|entry| entry.key == *key);
        let at = if self.buckets.get(first).is_some_and(has) { first } else { second };
        let entries = self.buckets.get_mut(at)?.iter_mut().flatten();
        entries.filter(|entry| entry.key == *key).map(|entry| &mut entry.value).next()
    }

    fn put(&mut self, key: Key, value: Value) -> Result<(), Full> {
        if self.buckets.is_empty() {
            // Twice as many places as rules and records.
            let buckets = SOURCE_RULES * 4 / WAYS;
            self.buckets = vec![[None; WAYS]; buckets].into_boxed_slice();
        }
        let free = |bucket: &[Option<Entry>; WAYS]| bucket.iter().filter(|e| e.is_none()).count();
        let [first, second] = self.places(&key);
        let room = |at: usize| self.buckets.get(at).map_or(0, free);
        // The emptier of the two, so that both are hardly ever full.
        let at = if room(second) > room(first) { second } else { first };
        let place = self.buckets.get_mut(at).and_then(|b| b.iter_mut().find(|e| e.is_none()));
        *place.ok_or(Full)? = Some(Entry { key, value });
        Ok(())
    }

    fn take(&mut self, key: &Key) -> Option<Value> {
        for at in self.places(key) {
            for place in self.buckets.get_mut(at).into_iter().flatten() {
                if place.is_some_and(|entry| entry.key == *key) {
                    return place.take().map(|entry| entry.value);
                }
            }
        }
        None
    }

    fn record(port: Port) -> Key {
        Key { port, remote: Address([0; 16]), remote_port: 0, shape: RECORD }
    }

    fn number(&self, shape: Shape) -> Option<u8> {
        let is_it = |number: &&u8| {
            self.shapes.get(usize::from(**number)).copied().flatten().map(|s| s.0) == Some(shape)
        };
        self.order.iter().find(is_it).copied()
    }

    /// The key of a rule whose shape there is.
    fn rule(&self, port: Port, scope: &Scope) -> Option<Key> {
        let shape = self.number(Shape::of(scope))?;
        let remote = scope.remote.address();
        Some(Key { port, remote, remote_port: scope.remote_port, shape })
    }

    /// Whose a rule is.
    pub(super) fn target(&self, port: Port, scope: &Scope) -> Option<Target> {
        match self.get(&self.rule(port, scope)?)? {
            Value::Rule(target) => Some(target),
            Value::Record { .. } => None,
        }
    }

    /// Enters a rule that is not there, at a port where `plain` listens if it has had none. Returns whether this is
    /// its first.
    ///
    /// # Errors
    /// [`Full`], and nothing has changed.
    pub(super) fn add(
        &mut self,
        port: Port,
        scope: &Scope,
        target: Target,
        plain: ReceiverCode,
    ) -> Result<bool, Full> {
        if self.rules >= SOURCE_RULES {
            return Err(Full);
        }
        let shape = Shape::of(scope);
        let number = match self.number(shape) {
            Some(number) => number,
            None => {
                let free = self.shapes.iter().position(Option::is_none).ok_or(Full)?;
                u8::try_from(free).map_err(|_| Full)?
            }
        };
        let record = Self::record(port);
        let is_first = self.get(&record).is_none();
        if is_first {
            self.put(record, Value::Record { plain, rules: 0, shapes: 0 })?;
        }
        let remote = scope.remote.address();
        let key = Key { port, remote, remote_port: scope.remote_port, shape: number };
        if let Err(full) = self.put(key, Value::Rule(target)) {
            if is_first {
                self.take(&record);
            }
            return Err(full);
        }
        if let Some(Value::Record { rules, shapes, .. }) = self.value_mut(&record) {
            *rules += 1;
            *shapes |= 1 << number;
        }
        if let Some(place) = self.shapes.get_mut(usize::from(number)) {
            let (_, count) = place.get_or_insert((shape, 0));
            *count += 1;
            if *count == 1 {
                self.order.push(number);
                let strength = |n: &u8| {
                    self.shapes.get(usize::from(*n)).copied().flatten().map(|s| s.0.strength())
                };
                self.order.sort_by_key(|n| core::cmp::Reverse(strength(n)));
            }
        }
        self.rules += 1;
        Ok(is_first)
    }

    /// Takes a rule out. Returns who listens plainly if it was the port's last.
    pub(super) fn remove(&mut self, port: Port, scope: &Scope) -> Option<ReceiverCode> {
        let key = self.rule(port, scope)?;
        self.take(&key)?;
        self.rules -= 1;
        if let Some(place) = self.shapes.get_mut(usize::from(key.shape))
            && let Some((_, count)) = place
        {
            *count -= 1;
            if *count == 0 {
                *place = None;
                self.order.retain(|number| *number != key.shape);
            }
        }
        let record = Self::record(port);
        match self.value_mut(&record)? {
            Value::Record { plain, rules, .. } => {
                *rules -= 1;
                let (plain, is_last) = (*plain, *rules == 0);
                if is_last {
                    self.take(&record);
                }
                is_last.then_some(plain)
            }
            Value::Rule(_) => None,
        }
    }

    /// Sets who listens plainly at a port that has rules. False if it has none.
    pub(super) fn set_plain(&mut self, port: Port, to: ReceiverCode) -> bool {
        match self.value_mut(&Self::record(port)) {
            Some(Value::Record { plain, .. }) => {
                *plain = to;
                true
            }
            _ => false,
        }
    }

    /// Whose frames from this remote end are, at a port that has rules.
    pub(super) fn find(&self, port: Port, remote: Address, remote_port: u16) -> Option<Target> {
        let Some(Value::Record { plain, shapes, .. }) = self.get(&Self::record(port)) else {
            return None;
        };
        for number in &self.order {
            let Some((shape, _)) = self.shapes.get(usize::from(*number)).copied().flatten() else {
                continue;
            };
            if shapes >> number & 1 == 0 || (shape.has_port && remote_port == 0) {
                continue;
            }
            let remote = masked(remote, shape.bits);
            let remote_port = if shape.has_port { remote_port } else { 0 };
            let key = Key { port, remote, remote_port, shape: *number };
            if let Some(Value::Rule(target)) = self.get(&key) {
                return Some(target);
            }
        }
        plain.receiver().map(Target::One)
    }

    /// Rules of one target, or the plain listener: what has to be taken back when it goes.
    pub(super) fn of(&self, target: Target) -> Vec<(Port, Scope)> {
        let entries = self.buckets.iter().flatten().flatten();
        let rule = |entry: &Entry| {
            let (shape, _) = self.shapes.get(usize::from(entry.key.shape)).copied().flatten()?;
            let Value::Rule(whose) = entry.value else { return None };
            let remote = Prefix::from_parts(entry.key.remote, shape.bits);
            let (remote_port, priority) = (entry.key.remote_port, shape.priority);
            let scope = Scope { remote, remote_port, priority, spread: false };
            (whose == target).then_some((entry.key.port, scope))
        };
        entries.filter_map(rule).collect()
    }

    /// Takes a receiver's plain listeners away.
    pub(super) fn forget_plain(&mut self, gone: ReceiverCode) {
        for entry in self.buckets.iter_mut().flatten().flatten() {
            if let Value::Record { plain, .. } = &mut entry.value
                && *plain == gone
            {
                *plain = ReceiverCode::NONE;
            }
        }
    }

    /// Rules in the table.
    pub(super) fn len(&self) -> usize {
        self.rules
    }
}
