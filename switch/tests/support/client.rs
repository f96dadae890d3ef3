//! A client in the test's own process: the other halves of its rings, and its slots through the
//! memfd, so that a test needs no `unsafe` and can write what a real client could.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use usnet_shmring::arena::SlotRange;
use usnet_shmring::descriptor::RawDescriptor;
use usnet_shmring::layout::Word;
use usnet_shmring::ledger::SessionId;
use usnet_shmring::queues::ClientQueues;
use usnet_shmring::region::Region;
use usnet_shmring::words::{StoreCells, StoreWord};

pub(crate) const SLOT: u64 = 2048;

/// A range of slots as a client sees it.
#[derive(Debug)]
pub(crate) struct Memory {
    fd: OwnedFd,
    pub(crate) first: u32,
    pub(crate) count: u32,
    offset: u64,
}

impl Memory {
    pub(crate) fn of(range: &SlotRange) -> Self {
        let fd = range.segment().as_fd().try_clone_to_owned().expect("a descriptor");
        Self { fd, first: range.first(), count: range.count(), offset: range.offset() }
    }

    /// The same slots through a descriptor of their own.
    pub(crate) fn again(&self) -> Self {
        let fd = self.fd.try_clone().expect("a descriptor");
        Self { fd, ..*self }
    }

    pub(crate) fn holds(&self, slot: u32) -> bool {
        slot >= self.first && slot - self.first < self.count
    }

    fn at(&self, slot: u32, offset: u16) -> u64 {
        self.offset + u64::from(slot - self.first) * SLOT + u64::from(offset)
    }

    pub(crate) fn read(&self, raw: RawDescriptor) -> Vec<u8> {
        let mut bytes = vec![0; raw.length().into()];
        let at = self.at(raw.slot(), raw.offset());
        assert_eq!(rustix::io::pread(&self.fd, &mut bytes, at), Ok(bytes.len()));
        bytes
    }

    pub(crate) fn write(&self, slot: u32, offset: u16, bytes: &[u8]) {
        let at = self.at(slot, offset);
        assert_eq!(rustix::io::pwrite(&self.fd, bytes, at), Ok(bytes.len()));
    }
}

/// An attached client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: SessionId,
    pub(crate) queues: ClientQueues,
    outbound: Arc<Region>,
    capacity: u32,
    pub(crate) transmit: Memory,
    /// Transmit slots at rest.
    pub(crate) free: Vec<u32>,
    /// Received and not yet given back, oldest first.
    pub(crate) held: Vec<RawDescriptor>,
    /// The client's end of its wake socket.
    pub(crate) wake: Option<OwnedFd>,
}

impl Client {
    pub(crate) fn new(
        id: SessionId,
        queues: ClientQueues,
        outbound: Arc<Region>,
        capacity: u32,
        transmit: Memory,
        wake: Option<OwnedFd>,
    ) -> Self {
        let free = (transmit.first..transmit.first + transmit.count).rev().collect();
        Self { id, queues, outbound, capacity, transmit, free, held: Vec::new(), wake }
    }

    /// Sends a frame from its next free slot and returns the slot; `None` if all are away or the
    /// ring is full.
    pub(crate) fn try_send(&mut self, frame: &[u8]) -> Option<u32> {
        if self.free.is_empty() {
            self.collect();
        }
        let _ = self.queues.tx.refresh();
        let slot = self.free.pop()?;
        let length = u16::try_from(frame.len()).expect("a frame");
        self.transmit.write(slot, 0, frame);
        if self.queues.tx.push(RawDescriptor::new(slot, 0, length)).is_err() {
            self.free.push(slot);
            return None;
        }
        self.queues.tx.publish();
        Some(slot)
    }

    pub(crate) fn send(&mut self, frame: &[u8]) -> u32 {
        self.try_send(frame).expect("a free slot")
    }

    /// Puts any descriptor on the tx ring.
    pub(crate) fn send_raw(&mut self, raw: RawDescriptor) {
        let _ = self.queues.tx.refresh();
        self.queues.tx.push(raw).expect("room");
        self.queues.tx.publish();
    }

    /// Puts any descriptor on the fill ring.
    pub(crate) fn return_raw(&mut self, raw: RawDescriptor) {
        let _ = self.queues.fill.refresh();
        self.queues.fill.push(raw).expect("room");
        self.queues.fill.publish();
    }

    /// Takes up to `most` descriptors from rx and keeps their slots.
    pub(crate) fn take(&mut self, most: usize) -> Vec<RawDescriptor> {
        self.queues.rx.refresh().expect("the switch tells the truth");
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(raw) = self.queues.rx.pop()
        {
            let again = self.held.iter().any(|held| held.slot() == raw.slot());
            assert!(!again, "slot {} is lent twice", raw.slot());
            self.held.push(raw);
            taken.push(raw);
        }
        self.queues.rx.release();
        taken
    }

    /// Gives the `most` oldest held slots back.
    pub(crate) fn give_back(&mut self, most: usize) {
        let _ = self.queues.fill.refresh();
        for _ in 0..most.min(self.held.len()) {
            if self.queues.fill.push(RawDescriptor::new(self.held[0].slot(), 0, 0)).is_err() {
                break;
            }
            self.held.remove(0);
        }
        self.queues.fill.publish();
    }

    /// Takes completed slots back and returns them.
    pub(crate) fn collect(&mut self) -> Vec<u32> {
        self.queues.completion.refresh().expect("the switch tells the truth");
        let mut back = Vec::new();
        while let Some(raw) = self.queues.completion.pop() {
            let slot = raw.slot();
            assert!(self.transmit.holds(slot), "slot {slot} is not this client's");
            assert!(!self.free.contains(&slot), "slot {slot} is completed twice");
            self.free.push(slot);
            back.push(slot);
        }
        self.queues.completion.release();
        back
    }

    /// Stores any value in any word that a client can write.
    pub(crate) fn store(&self, word: Word, value: u32) {
        let word = self.outbound.own_word(self.capacity, 0, word).expect("the client's region");
        word.store(value, Ordering::Release);
    }

    /// Stores any value in any cell that a client can write: ring 0 is tx, 1 is fill.
    pub(crate) fn store_cell(&self, ring: u32, position: u32, value: u64) {
        let cells = self.outbound.own_cells(self.capacity, 0, ring).expect("the client's region");
        cells.store(position, value);
    }

    /// Bytes that wait on the wake socket.
    pub(crate) fn wakeups(&self) -> usize {
        let mut bytes = [0; 64];
        let Some(socket) = &self.wake else { return 0 };
        let flags = rustix::net::RecvFlags::DONTWAIT;
        let mut count = 0;
        while let Ok((_, received)) = rustix::net::recv(socket, &mut bytes[..1], flags) {
            if received == 0 {
                break;
            }
            count += received;
        }
        count
    }
}
