//! The rings that compete over one hop: ours, a bare one without any check, and two well-known ones.

use crate::hop::{BURST, CELLS, Receiver, Sender};
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use usnet_shmring::descriptor::RawDescriptor;
use usnet_shmring::queues::{ClientQueues, DaemonQueues, MappedConsumer, MappedProducer};
use usnet_shmring::region::{Region, RegionError, Writer};

const CAPACITY: u32 = 1024;
const WHOLE: u32 = 32;
const _: () = assert!(CAPACITY as usize == CELLS && WHOLE as usize == BURST);

/// A client's tx ring: the client's end and the daemon's.
///
/// # Errors
/// Of making the regions.
pub fn usnet() -> Result<(MappedProducer, MappedConsumer), RegionError> {
    let (inbound, inbound_fd) = Region::create(Writer::Daemon, 1, CAPACITY, 2048)?;
    let (outbound, outbound_fd) = Region::create(Writer::Client, 1, CAPACITY, 2048)?;
    let map = |fd: &std::os::fd::OwnedFd, writer, size| {
        Region::map(std::os::fd::AsFd::as_fd(fd), writer, size)
    };
    let client_in = map(&inbound_fd, Writer::Daemon, inbound.size())?;
    let client_out = map(&outbound_fd, Writer::Client, outbound.size())?;
    let too_small = || RegionError::Unexpected { what: "size", found: 0, expected: 1 };
    let daemon = DaemonQueues::new(&inbound, &outbound, CAPACITY, 0).ok_or_else(too_small)?;
    let client = ClientQueues::new(&client_in, &client_out, CAPACITY, 0).ok_or_else(too_small)?;
    Ok((client.tx, daemon.tx))
}

impl Sender for MappedProducer {
    #[inline]
    fn has_room(&mut self) -> bool {
        self.room() >= WHOLE || self.refresh().is_ok_and(|room| room >= WHOLE)
    }

    #[inline]
    fn send(&mut self, burst: &[u64; BURST]) {
        self.push_burst(&burst.map(RawDescriptor));
        self.publish();
    }
}

impl Receiver for MappedConsumer {
    #[inline]
    fn receive(&mut self, into: &mut [u64; BURST]) -> usize {
        // A fault would end the session; here it ends the frames.
        if self.available() == 0 && !matches!(self.refresh(), Ok(1..)) {
            return 0;
        }
        let mut burst = [RawDescriptor::default(); BURST];
        let count = self.pop_burst(&mut burst);
        *into = burst.map(|raw| raw.0);
        count
    }

    #[inline]
    fn release(&mut self) {
        MappedConsumer::release(self);
    }
}

impl Sender for rtrb::Producer<u64> {
    #[inline]
    fn has_room(&mut self) -> bool {
        self.write_chunk_uninit(BURST).is_ok()
    }

    #[inline]
    fn send(&mut self, burst: &[u64; BURST]) {
        let _ = self.push_entire_slice(burst);
    }
}

impl Receiver for Keep<rtrb::Consumer<u64>> {
    #[inline]
    fn receive(&mut self, into: &mut [u64; BURST]) -> usize {
        // Not committed yet: the payload is read first.
        self.taken = 0;
        let count = self.ring.slots().min(BURST);
        let Ok(chunk) = self.ring.read_chunk(count) else { return 0 };
        let (first, second) = chunk.as_slices();
        for (place, value) in into.iter_mut().zip(first.iter().chain(second)) {
            *place = *value;
        }
        self.taken = count;
        count
    }

    #[inline]
    fn release(&mut self) {
        if let Ok(chunk) = self.ring.read_chunk(self.taken) {
            chunk.commit_all();
        }
    }
}

/// A consumer and what it took without committing.
#[derive(Debug)]
pub struct Keep<C> {
    ring: C,
    taken: usize,
}

/// The ring of the crate rtrb, used in bursts.
#[must_use]
pub fn rtrb() -> (rtrb::Producer<u64>, Keep<rtrb::Consumer<u64>>) {
    let (producer, ring) = rtrb::RingBuffer::new(CELLS);
    (producer, Keep { ring, taken: 0 })
}

/// The queue of the crate crossbeam-queue, which has no bursts and any number of users.
#[must_use]
pub fn array_queue() -> (Arc<ArrayQueue<u64>>, Arc<ArrayQueue<u64>>) {
    let queue = Arc::new(ArrayQueue::new(CELLS));
    (Arc::clone(&queue), queue)
}

impl Sender for Arc<ArrayQueue<u64>> {
    const KEEPS_SLOTS: bool = false;

    #[inline]
    fn has_room(&mut self) -> bool {
        CELLS - self.len() >= BURST
    }

    #[inline]
    fn send(&mut self, burst: &[u64; BURST]) {
        for descriptor in burst {
            let _ = self.push(*descriptor);
        }
    }
}

impl Receiver for Arc<ArrayQueue<u64>> {
    #[inline]
    fn receive(&mut self, into: &mut [u64; BURST]) -> usize {
        let mut count = 0;
        for (place, value) in into.iter_mut().zip(std::iter::from_fn(|| self.pop())) {
            *place = value;
            count += 1;
        }
        count
    }
}

/// Cells and positions that believe everything.
#[derive(Debug)]
pub struct BareRing {
    produced: CachePadded<AtomicU32>,
    consumed: CachePadded<AtomicU32>,
    cells: CachePadded<[AtomicU64; CELLS]>,
}

/// One end of a [`BareRing`].
#[derive(Debug)]
pub struct Bare {
    ring: Arc<BareRing>,
    own: u32,
    peer: u32,
}

/// A ring without any check: what the machine allows.
#[must_use]
pub fn bare() -> (Bare, Bare) {
    let ring = Arc::new(BareRing {
        produced: CachePadded::new(AtomicU32::new(0)),
        consumed: CachePadded::new(AtomicU32::new(0)),
        cells: CachePadded::new([const { AtomicU64::new(0) }; CELLS]),
    });
    (Bare { ring: Arc::clone(&ring), own: 0, peer: 0 }, Bare { ring, own: 0, peer: 0 })
}

impl BareRing {
    #[inline(always)]
    fn cell(&self, position: u32) -> &AtomicU64 {
        // Always in bounds, which the compiler sees: a mask, no check.
        &self.cells[position as usize & (CELLS - 1)]
    }
}

impl Sender for Bare {
    #[inline]
    fn has_room(&mut self) -> bool {
        let end = self.own.wrapping_add(WHOLE);
        if end.wrapping_sub(self.peer) > CAPACITY {
            self.peer = self.ring.consumed.load(Ordering::Acquire);
        }
        end.wrapping_sub(self.peer) <= CAPACITY
    }

    #[inline]
    fn send(&mut self, burst: &[u64; BURST]) {
        for descriptor in burst {
            self.ring.cell(self.own).store(*descriptor, Ordering::Relaxed);
            self.own = self.own.wrapping_add(1);
        }
        self.ring.produced.store(self.own, Ordering::Release);
    }
}

impl Receiver for Bare {
    #[inline]
    fn receive(&mut self, into: &mut [u64; BURST]) -> usize {
        if self.peer == self.own {
            self.peer = self.ring.produced.load(Ordering::Acquire);
        }
        let count = (self.peer.wrapping_sub(self.own) as usize).min(BURST);
        for place in into.iter_mut().take(count) {
            *place = self.ring.cell(self.own).load(Ordering::Relaxed);
            self.own = self.own.wrapping_add(1);
        }
        count
    }

    #[inline]
    fn release(&mut self) {
        self.ring.consumed.store(self.own, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hop::{Limit, run};

    fn moves_in_order(mut sender: impl Sender, mut receiver: impl Receiver) {
        let (mut sent, mut seen) = (0u64, 0u64);
        let mut taken = [0; BURST];
        for _ in 0..100 {
            while sender.has_room() {
                let burst = core::array::from_fn(|_| {
                    sent += 1;
                    sent
                });
                sender.send(&burst);
            }
            loop {
                let count = receiver.receive(&mut taken);
                for value in &taken[..count] {
                    seen += 1;
                    assert_eq!(*value, seen);
                }
                receiver.release();
                if count == 0 {
                    break;
                }
            }
            assert_eq!(sent, seen);
        }
        assert_eq!(seen, 100 * CELLS as u64, "each time the whole ring was used");
    }

    #[test]
    fn every_ring_keeps_order_and_uses_all_its_cells() {
        let (sender, receiver) = usnet().unwrap();
        moves_in_order(sender, receiver);
        let (sender, receiver) = rtrb();
        moves_in_order(sender, receiver);
        let (sender, receiver) = array_queue();
        moves_in_order(sender, receiver);
        let (sender, receiver) = bare();
        moves_in_order(sender, receiver);
    }

    #[test]
    fn a_hop_between_threads_ends_at_its_limit() {
        let (sender, receiver) = usnet().unwrap();
        let moved = run(sender, receiver, 64, Limit::Frames(10_000)).unwrap();
        assert!(moved.frames >= 10_000);
    }
}
