//! Two honest halves of a ring against an oracle whose counts are 64 bits wide and never wrap.

use super::Bytes;
use crate::descriptor::{RawDescriptor, RingName};
use crate::layout::Word;
use crate::region::{Mapped, Region};
use crate::ring::{Consumer, Full, Producer};
use crate::words::Memory;
use std::collections::VecDeque;
use std::sync::Arc;

/// One call on one of the halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A burst of this many.
    PushBurst(u16),
    /// One descriptor.
    Push,
    /// The producer shows what it wrote.
    Publish,
    /// The producer looks how far the consumer is.
    ProducerRefresh,
    /// Room in the caller's slice for this many.
    PopBurst(u16),
    /// One descriptor.
    Pop,
    /// The consumer gives cells back.
    Release,
    /// The consumer looks how far the producer is.
    ConsumerRefresh,
}

impl Op {
    /// Every byte is an operation: the kind in the low three bits, a count of 0..=31 above.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        let count = (byte >> 3) as u16;
        match byte & 7 {
            0 => Self::PushBurst(count),
            1 => Self::Push,
            2 => Self::Publish,
            3 => Self::ProducerRefresh,
            4 => Self::PopBurst(count),
            5 => Self::Pop,
            6 => Self::Release,
            _ => Self::ConsumerRefresh,
        }
    }
}

/// What the halves should do, in counts since the start.
#[derive(Debug, Default)]
struct Oracle {
    capacity: u64,
    written: u64,
    published: u64,
    /// `published` as the consumer last saw it.
    shown: u64,
    popped: u64,
    released: u64,
    /// `released` as the producer last saw it.
    returned: u64,
    /// Written and not yet popped.
    held: VecDeque<RawDescriptor>,
}

impl Oracle {
    fn room(&self) -> u64 {
        self.capacity - (self.written - self.returned)
    }

    fn available(&self) -> u64 {
        self.shown - self.popped
    }

    fn push(&mut self, descriptor: RawDescriptor) {
        self.held.push_back(descriptor);
        self.written += 1;
    }

    fn pop(&mut self) -> Option<RawDescriptor> {
        if self.available() == 0 {
            return None;
        }
        self.popped += 1;
        self.held.pop_front()
    }
}

/// What is pushed as number `index`: no two are equal, and all bits are used.
fn descriptor(index: u64) -> RawDescriptor {
    RawDescriptor((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Runs `ops` on both halves of one ring and on the oracle.
///
/// # Panics
/// Where they disagree.
pub fn run<M: Memory>(
    mut producer: Producer<M>,
    mut consumer: Consumer<M>,
    ops: impl IntoIterator<Item = Op>,
) {
    let capacity = u64::from(producer.capacity());
    assert_eq!(producer.capacity(), consumer.capacity());
    let mut oracle = Oracle { capacity, ..Oracle::default() };
    for op in ops {
        match op {
            Op::PushBurst(count) => {
                let fits = usize::from(count).min(usize::try_from(oracle.room()).unwrap_or(0));
                let first = oracle.written;
                let burst: Vec<_> = (first..).take(count.into()).map(descriptor).collect();
                burst.iter().take(fits).for_each(|d| oracle.push(*d));
                assert_eq!(producer.push_burst(&burst), fits, "{op:?}");
            }
            Op::Push => {
                let descriptor = descriptor(oracle.written);
                let pushed = producer.push(descriptor);
                if oracle.room() == 0 {
                    assert_eq!(pushed, Err(Full(descriptor)));
                } else {
                    assert_eq!(pushed, Ok(()));
                    oracle.push(descriptor);
                }
            }
            Op::Publish => {
                assert_eq!(producer.publish(), oracle.written != oracle.published);
                oracle.published = oracle.written;
            }
            Op::ProducerRefresh => {
                oracle.returned = oracle.released;
                assert_eq!(producer.refresh().map(u64::from), Ok(oracle.room()));
            }
            Op::PopBurst(count) => {
                // What no burst may touch beyond its count.
                let mark = RawDescriptor(u64::MAX);
                let mut into = vec![mark; count.into()];
                let got = consumer.pop_burst(&mut into);
                let expected: Vec<_> = (0..count).map_while(|_| oracle.pop()).collect();
                assert_eq!(into.get(..got), Some(&expected[..]), "{op:?}");
                assert!(into.iter().skip(got).all(|d| *d == mark), "wrote beyond its count");
            }
            Op::Pop => assert_eq!(consumer.pop(), oracle.pop()),
            Op::Release => {
                assert_eq!(consumer.release(), oracle.popped != oracle.released);
                oracle.released = oracle.popped;
            }
            Op::ConsumerRefresh => {
                oracle.shown = oracle.published;
                assert_eq!(consumer.refresh().map(u64::from), Ok(oracle.available()));
            }
        }
        // Nobody learns of the other side but by a refresh.
        assert_eq!(u64::from(producer.room()), oracle.room(), "room after {op:?}");
        assert_eq!(u64::from(consumer.available()), oracle.available(), "available after {op:?}");
        assert_eq!(u64::from(producer.unpublished()), oracle.written - oracle.published);
        assert_eq!(u64::from(producer.in_flight()), oracle.published - oracle.returned);
    }
}

/// Both halves of the rx ring of an unmapped region, at `position`.
///
/// # Panics
/// If `capacity` is none.
#[must_use]
pub fn halves(capacity: u32, position: u32) -> (Producer<Mapped>, Consumer<Mapped>) {
    let (inbound, outbound) = (Region::heap(1, capacity), Region::heap(1, capacity));
    let (producer, consumer) = halves_over(&inbound, &outbound, capacity).expect("a capacity");
    (producer.starting_at(position), consumer.starting_at(position))
}

fn halves_over(
    inbound: &Arc<Region>,
    outbound: &Arc<Region>,
    capacity: u32,
) -> Option<(Producer<Mapped>, Consumer<Mapped>)> {
    let (produced, consumed) = (Word::FirstProduced, Word::FirstConsumed);
    let producer = Producer::new(
        RingName::Rx,
        inbound.own_cells(capacity, 0, 0)?,
        inbound.own_word(capacity, 0, produced)?,
        outbound.peer_word(capacity, 0, consumed)?,
    );
    let consumer = Consumer::new(
        RingName::Rx,
        inbound.peer_cells(capacity, 0, 0)?,
        inbound.peer_word(capacity, 0, produced)?,
        outbound.own_word(capacity, 0, consumed)?,
    );
    Some((producer, consumer))
}

/// Decodes and runs: one byte for the capacity (2, 4, 8 or 16), four for the first position, then an
/// operation a byte.
///
/// # Panics
/// Where code and oracle disagree.
pub fn run_bytes(data: &[u8]) {
    let mut bytes = Bytes(data);
    let (capacity, position) = (2 << (bytes.byte() & 3), bytes.word());
    let (producer, consumer) = halves(capacity, position);
    run(producer, consumer, bytes.0.iter().map(|b| Op::from_byte(*b)));
}
