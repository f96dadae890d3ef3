//! Rules that speak of the remote end, for the few ports that have any.
//!
//! ```text
//!   dense map: "look again" --> record of the port: who listens plainly, which shapes there are
//!                                |
//!                                +--> one probe a shape, the strongest first: (port, masked remote end) --> whose
//! ```
//!
//! - A shape is a priority, a length of prefix, and whether a remote port is named. A table has at most
//!   [`SHAPES`], so a look costs at most so many probes and one, each of two cache lines.
//! - At most [`SOURCE_RULES`] rules, a rule for each port; what does not fit is refused.
//! - Seeded; a remote end cannot choose addresses that collide.

pub(super) use super::lines::Full;
use super::lines::{self, LineTable};
use super::scope::{Prefix, Scope, masked};
use crate::classify::{Address, Protocol};
use crate::verdict::{Receiver, ReceiverCode};

/// Kinds of remote ends that rules of one interface can speak of at one time.
pub const SHAPES: usize = 16;
/// Rules with a remote end, a priority or a group, of one interface, each port counted.
pub const SOURCE_RULES: usize = 65_536;
/// Rules, and a record for each port that has any.
const ENTRIES: usize = 2 * SOURCE_RULES;

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

impl Key {
    #[inline(always)]
    fn to_words(self) -> lines::Key {
        let [a, b] = self.port.address.words();
        let [c, d] = self.remote.words();
        let rest = u64::from(self.port.port)
            | u64::from(self.remote_port) << 16
            | u64::from(self.port.protocol.0) << 32
            | u64::from(self.shape) << 40;
        [a, b, c, d, rest]
    }

    #[expect(clippy::cast_possible_truncation, reason = "parts of a word")]
    fn of([a, b, c, d, rest]: lines::Key) -> Self {
        let address = Address::from_words([a, b]);
        let protocol = Protocol((rest >> 32) as u8);
        Self {
            port: Port { address, protocol, port: rest as u16 },
            remote: Address::from_words([c, d]),
            remote_port: (rest >> 16) as u16,
            shape: (rest >> 40) as u8,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// What the second word of a value says of the first.
const RECORD_OF: u64 = 0;
const RULE_OF_ONE: u64 = 1;
const RULE_OF_GROUP: u64 = 2;

impl Value {
    #[inline(always)]
    fn to_words(self) -> lines::Value {
        match self {
            Self::Record { plain, rules, shapes } => {
                let words = u64::from(plain.bits()) | u64::from(shapes) << 16;
                [words | u64::from(rules) << 32, RECORD_OF]
            }
            Self::Rule(Target::One(receiver)) => {
                [ReceiverCode::of(Some(receiver)).bits().into(), RULE_OF_ONE]
            }
            Self::Rule(Target::Group(number)) => [number.into(), RULE_OF_GROUP],
        }
    }

    /// `None` of what no value was turned into.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "parts of a word")]
    fn of([word, kind]: lines::Value) -> Option<Self> {
        Some(match kind {
            RECORD_OF => Self::Record {
                plain: ReceiverCode::from_bits(word as u16),
                rules: (word >> 32) as u32,
                shapes: (word >> 16) as u16,
            },
            RULE_OF_ONE => {
                Self::Rule(Target::One(ReceiverCode::from_bits(word as u16).receiver()?))
            }
            _ => Self::Rule(Target::Group(word as u16)),
        })
    }
}

/// The rules.
pub(super) struct Sources {
    /// Made with the first rule.
    entries: Option<LineTable>,
    seed: u64,
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
            entries: None,
            seed,
            shapes: [None; SHAPES],
            order: Vec::with_capacity(SHAPES),
            rules: 0,
        }
    }

    #[inline(always)]
    fn get(&self, key: &Key) -> Option<Value> {
        let entries = self.entries.as_ref()?;
        Value::of(entries.get(entries.find(&key.to_words())?)?.1)
    }

    /// Changes what is kept. What it was.
    fn change(&mut self, key: &Key, to: impl FnOnce(Value) -> Value) -> Option<Value> {
        let entries = self.entries.as_mut()?;
        let at = entries.find(&key.to_words())?;
        let value = entries.value_mut(at)?;
        let before = Value::of(*value.first_chunk()?)?;
        value.copy_from_slice(&to(before).to_words());
        Some(before)
    }

    fn put(&mut self, key: Key, value: Value) -> Result<(), Full> {
        let entries = self.entries.get_or_insert_with(|| LineTable::new(ENTRIES, self.seed));
        entries.insert(&key.to_words(), value.to_words()).map(drop)
    }

    fn take(&mut self, key: &Key) -> Option<Value> {
        Value::of(self.entries.as_mut()?.remove(&key.to_words())?)
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
        self.change(&record, |value| match value {
            Value::Record { plain, rules, shapes } => {
                Value::Record { plain, rules: rules + 1, shapes: shapes | 1 << number }
            }
            rule @ Value::Rule(_) => rule,
        });
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
        let fewer = |value| match value {
            Value::Record { plain, rules, shapes } => {
                Value::Record { plain, rules: rules.saturating_sub(1), shapes }
            }
            rule @ Value::Rule(_) => rule,
        };
        match self.change(&record, fewer)? {
            Value::Record { plain, rules: ..=1, .. } => {
                self.take(&record);
                Some(plain)
            }
            _ => None,
        }
    }

    /// Sets who listens plainly at a port that has rules. False if it has none.
    pub(super) fn set_plain(&mut self, port: Port, to: ReceiverCode) -> bool {
        let heard = |value| match value {
            Value::Record { rules, shapes, .. } => Value::Record { plain: to, rules, shapes },
            rule @ Value::Rule(_) => rule,
        };
        self.change(&Self::record(port), heard).is_some()
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
        let rule = |(key, value)| {
            let Some(Value::Rule(whose)) = Value::of(value) else { return None };
            let Key { port, remote, remote_port, shape } = Key::of(key);
            let (shape, _) = self.shapes.get(usize::from(shape)).copied().flatten()?;
            let remote = Prefix::from_parts(remote, shape.bits);
            let scope = Scope { remote, remote_port, priority: shape.priority, spread: false };
            (whose == target).then_some((port, scope))
        };
        self.entries.iter().flat_map(LineTable::iter).filter_map(rule).collect()
    }

    /// Takes a receiver's plain listeners away.
    pub(super) fn forget_plain(&mut self, gone: ReceiverCode) {
        for words in self.entries.iter_mut().flat_map(LineTable::values_mut) {
            if let Some(Value::Record { plain, rules, shapes }) =
                words.first_chunk().copied().and_then(Value::of)
                && plain == gone
            {
                let nobodys = Value::Record { plain: ReceiverCode::NONE, rules, shapes };
                words.copy_from_slice(&nobodys.to_words());
            }
        }
    }

    /// Rules in the table.
    pub(super) fn len(&self) -> usize {
        self.rules
    }
}
