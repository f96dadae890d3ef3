//! Which local ports are whose, within this process and towards the daemon.
//!
//! ```text
//!   bind(80)   ---> claim of one port, released when its last user is gone
//!   connect()  ---> one port of a block of 64 that was claimed once for the protocol
//! ```
//!
//! A [`Lease`] is held by every socket that uses the port, by connections that outlive their listener,
//! and by those that are still closing. What leases leave behind when they are dropped is settled with
//! the daemon later, since they may be dropped where nobody may wait for it.

use crate::control::{Claim, Control, RuleClaim};
use crate::error::RequestError;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use usnet_shmring::control::RefusalCode;

/// Ephemeral ports claimed at once: as many as one word of bits.
const BLOCK: u16 = 64;

/// What a lease was taken from.
#[derive(Clone, Copy, Debug)]
enum Source {
    Claim(Claim),
    Rule(RuleClaim),
    Block,
}

/// The right to one local port.
#[derive(Debug)]
pub(crate) struct Lease {
    protocol: u8,
    port: u16,
    source: Source,
    returned: Arc<Mutex<Vec<(u8, u16, Source)>>>,
}

impl Lease {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut returned = self.returned.lock().unwrap_or_else(PoisonError::into_inner);
        returned.push((self.protocol, self.port, self.source));
    }
}

#[derive(Debug)]
struct Block {
    protocol: u8,
    first: u16,
    /// 1..=64.
    count: u16,
    /// Bit n: port `first + n` is leased.
    leased: u64,
    /// Where to look first, so that a port rests for as long as possible.
    next: u16,
}

impl Block {
    fn take(&mut self) -> Option<u16> {
        let free = |n: &u16| self.leased & 1 << n == 0;
        let turn = (0..self.count).map(|n| (self.next + n) % self.count).find(free)?;
        self.leased |= 1 << turn;
        self.next = (turn + 1) % self.count;
        Some(self.first + turn)
    }

    fn give(&mut self, port: u16) {
        self.leased &= !(1u64 << port.wrapping_sub(self.first).min(63));
    }

    fn has(&self, protocol: u8, port: u16) -> bool {
        self.protocol == protocol && port.wrapping_sub(self.first) < self.count
    }
}

#[derive(Debug, Default)]
struct State {
    blocks: Vec<Block>,
    exact: HashMap<(u8, u16), Weak<Lease>>,
}

/// All ports of a stack.
#[derive(Debug)]
pub(crate) struct Ports {
    control: Control,
    state: Mutex<State>,
    returned: Arc<Mutex<Vec<(u8, u16, Source)>>>,
}

impl Ports {
    pub(crate) fn new(control: Control) -> Self {
        Self { control, state: Mutex::default(), returned: Arc::default() }
    }

    fn lease(&self, protocol: u8, port: u16, source: Source) -> Arc<Lease> {
        Arc::new(Lease { protocol, port, source, returned: Arc::clone(&self.returned) })
    }

    /// The lease of a certain port, shared with those in this stack who have it already.
    pub(crate) fn exact(
        &self,
        protocol: u8,
        address: Option<IpAddr>,
        port: u16,
    ) -> io::Result<Arc<Lease>> {
        let mut state = self.settled();
        if let Some(lease) = state.exact.get(&(protocol, port)).and_then(Weak::upgrade) {
            return Ok(lease);
        }
        let granted =
            self.control.claim(Claim { protocol, address, first_port: port, count: 1 })?;
        let lease = self.lease(protocol, port, Source::Claim(granted));
        state.exact.insert((protocol, port), Arc::downgrade(&lease));
        Ok(lease)
    }

    /// As [`exact`](Self::exact), together with other sessions that do the same.
    pub(crate) fn spread(
        &self,
        protocol: u8,
        address: Option<IpAddr>,
        port: u16,
    ) -> io::Result<Arc<Lease>> {
        let mut state = self.settled();
        if let Some(lease) = state.exact.get(&(protocol, port)).and_then(Weak::upgrade) {
            return match lease.source {
                Source::Rule(rule) if rule.spread => Ok(lease),
                _ => Err(io::ErrorKind::AddrInUse.into()),
            };
        }
        let wish = RuleClaim { address, spread: true, ..RuleClaim::port(protocol, port) };
        let granted = self.control.claim_rule(wish)?;
        let lease = self.lease(protocol, port, Source::Rule(granted));
        state.exact.insert((protocol, port), Arc::downgrade(&lease));
        Ok(lease)
    }

    /// Any free port.
    pub(crate) fn ephemeral(&self, protocol: u8) -> io::Result<Arc<Lease>> {
        let mut state = self.settled();
        let mut blocks = state.blocks.iter_mut().filter(|b| b.protocol == protocol);
        if let Some(port) = blocks.find_map(Block::take) {
            return Ok(self.lease(protocol, port, Source::Block));
        }
        let mut count = BLOCK;
        let granted = loop {
            match self.control.claim(Claim::any(protocol, count)) {
                // A quota may have room for fewer.
                Err(RequestError::Refused { code: RefusalCode::Exhausted, .. }) if count > 1 => {
                    count /= 2;
                }
                other => break other?,
            }
        };
        let (first, count) = (granted.first_port, granted.count.clamp(1, BLOCK));
        let mut block = Block { protocol, first, count, leased: 0, next: 0 };
        let port = block.take().ok_or(io::ErrorKind::AddrInUse)?;
        state.blocks.push(block);
        Ok(self.lease(protocol, port, Source::Block))
    }

    /// Settles with the daemon what dropped leases left behind. Waits for it.
    pub(crate) fn settle(&self) {
        drop(self.settled());
    }

    /// Whether there is something to settle.
    pub(crate) fn unsettled(&self) -> bool {
        !self.returned.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn settled(&self) -> std::sync::MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let returned =
            std::mem::take(&mut *self.returned.lock().unwrap_or_else(PoisonError::into_inner));
        for (protocol, port, source) in returned {
            match source {
                Source::Block => {
                    let block = state.blocks.iter_mut().find(|b| b.has(protocol, port));
                    block.into_iter().for_each(|b| b.give(port));
                }
                // If the session has ended, the daemon has taken it back already.
                Source::Claim(claim) => {
                    state.exact.remove(&(protocol, port));
                    let _ = self.control.release(claim);
                }
                Source::Rule(rule) => {
                    state.exact.remove(&(protocol, port));
                    let _ = self.control.release_rule(rule);
                }
            }
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_hands_out_each_port_once_and_the_longest_rested_first() {
        let mut block = Block { protocol: 6, first: 65_472, count: 64, leased: 0, next: 0 };
        let ports: Vec<_> = std::iter::from_fn(|| block.take()).collect();
        assert_eq!(ports, (65_472..=65_535).collect::<Vec<u16>>());
        block.give(65_500);
        block.give(65_535);
        assert_eq!(block.take(), Some(65_500));
        block.give(65_500);
        assert_eq!(block.take(), Some(65_535));
        assert!(block.has(6, 65_535) && !block.has(6, 65_471) && !block.has(17, 65_500));
    }
}
