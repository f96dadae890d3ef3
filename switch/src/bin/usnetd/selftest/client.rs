//! A client's part of the self-test: frames in slots that a client writes, sent from there.

use super::exchange::Source;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use usnet_shmring::descriptor::RawDescriptor;
use usnet_shmring::ledger::SessionId;
use usnet_shmring::pool::{Frame, HomeKind, Pool};
use usnet_switch::control::memory::{Memory, Shape};

/// The group that it belongs to.
pub(super) const GROUP: &str = "selftest";
/// Slots that it sends from: fewer than frames fit into a card's ring, so that each comes back often.
const SLOTS: u32 = 64;
/// Bytes of a frame that the daemon copies.
const HEAD: u16 = 192;
const SESSION: SessionId = SessionId(0);

/// A client of mode `shared`, without rings.
#[derive(Debug)]
pub(super) struct Client {
    /// Its slots, as a client has them.
    memory: OwnedFd,
    first: u32,
    slot_size: u32,
    free: Vec<u32>,
}

impl Client {
    /// Attaches it to the pool.
    pub(super) fn attach(memory: &mut Memory, pool: &mut Pool) -> io::Result<Self> {
        let slot_size = memory.slot_size().bytes();
        let shape =
            Shape { pairs: 1, ring_capacity: SLOTS, transmit_slots: SLOTS, receive_slots: 0 };
        let (parts, _) = memory.build(shape, Some(GROUP)).map_err(io::Error::other)?;
        let part = parts.into_iter().next().ok_or(io::ErrorKind::OutOfMemory)?;
        let segment = part.transmit.segment();
        let (first, count) = (part.transmit.first(), part.transmit.count());
        let memory = segment.as_fd().try_clone_to_owned()?;
        let begin = segment.first();
        pool.add_home(HomeKind::Transmit(SESSION), part.transmit).map_err(io::Error::other)?;
        pool.allow_tails();
        Ok(Self { memory, first: begin, slot_size, free: (first..first + count).collect() })
    }

    /// Whether all of its slots are back.
    pub(super) fn has_all(&mut self, pool: &mut Pool) -> bool {
        self.take_back(pool);
        self.free.len() == SLOTS as usize
    }

    fn take_back(&mut self, pool: &mut Pool) {
        while let Some((_, raw)) = pool.take_released() {
            self.free.push(raw.slot());
        }
    }
}

impl Source for Client {
    fn make(
        &mut self,
        pool: &mut Pool,
        length: u16,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> io::Result<Option<Frame>> {
        self.take_back(pool);
        // The oldest first, so that all are used.
        if self.free.is_empty() {
            return Ok(None);
        }
        let slot = self.free.remove(0);
        let mut bytes = vec![0; length.into()];
        fill(&mut bytes);
        let at = u64::from(slot - self.first) * u64::from(self.slot_size);
        rustix::io::pwrite(&self.memory, &bytes, at)?;
        let raw = RawDescriptor::new(slot, 0, length);
        let frame = pool.accept(SESSION, raw).map_err(io::Error::other)?;
        let head = bytes.get(..64).unwrap_or_default();
        match pool.join(head, frame, HEAD) {
            Ok(frame) => Ok(Some(frame)),
            Err(frame) => {
                let back = pool.complete(frame);
                self.free.extend(back.map(|(_, raw)| raw.slot()));
                Ok(None)
            }
        }
    }
}
