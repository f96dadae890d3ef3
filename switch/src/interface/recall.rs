//! Using what was decided a moment ago; see [`recent`](super::recent).

use super::Interface;
use super::recent::{Decision, Key, Way};
use crate::steer::{FlowIndex, Source, TcpFlags};
use crate::time::Time;

/// What a decision rests on beside the frame's head.
pub(super) enum Basis {
    /// The rules alone.
    Rules,
    /// A learned flow, which is marked as used by every frame.
    Flow(FlowIndex),
    /// Something that the next frame will find otherwise.
    Moment,
}

impl Basis {
    pub(super) fn of(source: Source) -> Self {
        match source {
            Source::Rules => Self::Rules,
            Source::Flow(flow) => Self::Flow(flow),
            Source::Book => Self::Moment,
        }
    }

    /// What a decision rests on that follows from two.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Rules, one) | (one, Self::Rules) => one,
            _ => Self::Moment,
        }
    }
}

/// When assertions look at learned flows, so that it is not they who keep them fresh.
pub(super) const LONG_AGO: Time = Time(0);

impl Interface {
    /// What was decided a moment ago about frames of this key.
    #[inline(always)]
    pub(super) fn remembered(&self, key: Option<Key>) -> Option<Decision> {
        self.recent.get(&key?, self.table.generation())
    }

    /// Decides the same again, of a frame that begins with `head`.
    #[inline(always)]
    pub(super) fn again(&mut self, decision: Decision, head: &[u8], now: Time) -> Way {
        if let Some(flow) = decision.flow {
            self.table.touch(flow, TcpFlags::of(head), now);
        }
        decision.way
    }

    /// Marks the flow that a decision about a plain frame rests on, as deciding the same again would.
    #[inline]
    pub(super) fn mark(&mut self, basis: &Basis, head: &[u8], now: Time) {
        if let Basis::Flow(flow) = basis {
            self.table.touch(*flow, TcpFlags::of(head), now);
        }
    }

    /// Remembers a decision about a plain frame, if it will be the same for the next one.
    pub(super) fn remember(&mut self, key: Option<Key>, way: Way, basis: &Basis) {
        let flow = match basis {
            Basis::Rules => None,
            Basis::Flow(flow) => Some(*flow),
            Basis::Moment => return,
        };
        if let Some(key) = key.filter(|_| !matches!(way, Way::Group | Way::Dhcp)) {
            self.recent.put(key, self.table.generation(), Decision { way, flow });
        }
    }
}
