//! The dense port map of one address and protocol: two loads answer who listens.
//!
//! ```text
//!   port 8080 = 0x1f90:  pages[0x1f] -> number of a page -> page[0x90] -> whose
//! ```
//!
//! - A page holds 256 ports. Ports of which nobody has any share the first, which stays empty; so an address with
//!   few ports takes few lines of a cache, and one with all of them 128 KiB.

use crate::verdict::{Receiver, ReceiverCode};

const PORTS: usize = 256;
type Page = [ReceiverCode; PORTS];
const EMPTY: Page = [ReceiverCode::NONE; PORTS];

/// Receivers by port number. It cannot be flooded or probed slowly.
pub(super) struct PortMap {
    /// By the upper half of a port number, which page has it.
    pages: [u16; 256],
    /// The empty one, and those in which somebody has a port.
    store: Vec<Page>,
}

/// The page and the place in it.
#[inline(always)]
fn split(port: u16) -> (usize, usize) {
    let [high, low] = port.to_be_bytes();
    (high.into(), low.into())
}

impl PortMap {
    pub(super) fn new() -> Self {
        Self { pages: [0; 256], store: vec![EMPTY] }
    }

    #[inline(always)]
    pub(super) fn get(&self, port: u16) -> ReceiverCode {
        let (page, place) = split(port);
        // A byte always lies in an array of 256.
        self.store.get(usize::from(self.pages[page])).map_or(ReceiverCode::NONE, |p| p[place])
    }

    /// The place of a port; `None` if that is nobody's and is to stay so.
    fn place(&mut self, port: u16, is_wanted: bool) -> Option<&mut ReceiverCode> {
        let (page, place) = split(port);
        if self.pages[page] == 0 {
            if !is_wanted {
                return None;
            }
            self.pages[page] = u16::try_from(self.store.len()).ok()?;
            self.store.push(EMPTY);
        }
        let page = self.store.get_mut(usize::from(self.pages[page]))?;
        Some(&mut page[place])
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
        for port in (first..=u16::MAX).take(count.into()) {
            match self.place(port, to.is_some()) {
                Some(place) if *place == ReceiverCode::SOURCES => again(port),
                Some(place) => *place = ReceiverCode::of(to),
                None => {}
            }
        }
    }

    /// Sets one port, whatever it was.
    pub(super) fn put(&mut self, port: u16, to: ReceiverCode) {
        if let Some(place) = self.place(port, to != ReceiverCode::NONE) {
            *place = to;
        }
    }

    /// Every port that somebody has.
    pub(super) fn used(&self) -> impl Iterator<Item = u16> + '_ {
        (0..=u16::MAX).filter(|port| self.get(*port) != ReceiverCode::NONE)
    }

    /// Removes every entry of `receiver`.
    pub(super) fn forget(&mut self, receiver: Receiver) {
        let gone = ReceiverCode::of(Some(receiver));
        for port in self.store.iter_mut().flatten().filter(|port| **port == gone) {
            *port = ReceiverCode::NONE;
        }
    }
}

impl core::fmt::Debug for PortMap {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PortMap").field("used", &self.used().count()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use usnet_shmring::ledger::SessionId;

    #[test]
    fn an_address_with_few_ports_takes_few_pages() {
        let client = Some(Receiver::Client(SessionId(3)));
        let mut map = PortMap::new();
        map.set(80, 1, client, |_| panic!("no rules for remote ends"));
        map.set(0, u16::MAX, None, |_| panic!("no rules for remote ends"));
        map.set(65_500, 100, client, |_| panic!("no rules for remote ends"));
        assert_eq!(map.store.len(), 3);
        assert_eq!(map.used().collect::<Vec<_>>(), (65_500..=u16::MAX).collect::<Vec<_>>());
        map.set(0, u16::MAX, client, |_| panic!("no rules for remote ends"));
        assert_eq!((map.store.len(), map.used().count()), (257, 65_536));
        map.forget(Receiver::Client(SessionId(3)));
        assert_eq!(map.used().count(), 0);
    }
}
