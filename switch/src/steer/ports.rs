//! The dense port map of one address and protocol: one load answers who listens.

use crate::verdict::{Receiver, ReceiverCode};

/// 65,536 receivers by port number. It cannot be flooded, probed slowly, or grow.
pub(super) struct PortMap {
    ports: Box<[ReceiverCode; 65_536]>,
}

impl PortMap {
    pub(super) fn new() -> Self {
        let ports = vec![ReceiverCode::NONE; 65_536].into_boxed_slice();
        Self { ports: ports.try_into().unwrap_or_else(|_| Box::new([ReceiverCode::NONE; 65_536])) }
    }

    #[inline]
    pub(super) fn get(&self, port: u16) -> ReceiverCode {
        // A `u16` always lies in an array of 65,536.
        self.ports[usize::from(port)]
    }

    /// Sets `count` ports from `first`; those beyond 65,535 do not exist. Those that have to be looked at again
    /// are told to `again` and stay so.
    pub(super) fn set(
        &mut self,
        first: u16,
        count: u16,
        to: Option<Receiver>,
        mut again: impl FnMut(u16),
    ) {
        let places = self.ports.iter_mut().skip(first.into()).take(count.into());
        for (place, port) in places.zip(first..=u16::MAX) {
            match *place {
                ReceiverCode::SOURCES => again(port),
                _ => *place = ReceiverCode::of(to),
            }
        }
    }

    /// Sets one port, whatever it was.
    pub(super) fn put(&mut self, port: u16, to: ReceiverCode) {
        self.ports[usize::from(port)] = to;
    }

    /// Every port that somebody has.
    pub(super) fn used(&self) -> impl Iterator<Item = u16> + '_ {
        (0..=u16::MAX)
            .zip(self.ports.iter())
            .filter(|(_, to)| **to != ReceiverCode::NONE)
            .map(|p| p.0)
    }

    /// Removes every entry of `receiver`.
    pub(super) fn forget(&mut self, receiver: Receiver) {
        let gone = ReceiverCode::of(Some(receiver));
        for port in self.ports.iter_mut().filter(|p| **p == gone) {
            *port = ReceiverCode::NONE;
        }
    }
}

impl core::fmt::Debug for PortMap {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let used = self.ports.iter().filter(|p| **p != ReceiverCode::NONE).count();
        f.debug_struct("PortMap").field("used", &used).finish()
    }
}
