//! All interleavings of publish, release, sleep and wake, over the code that ships: loom stands in
//! for the shared memory alone.
//!
//! The model is shown to be able to fail: the same tests with one rule of the memory broken must
//! find the loss (`should_panic`). Taking `M::fence()` out of `SleepFlag::raise` or of
//! `PeerSleepFlag::must_wake` alone makes `a_wake_up_is_never_lost` fail with a deadlock; a relaxed
//! store in `Producer::publish` or `Consumer::release` makes `messages_arrive_in_order...` fail.

#![cfg(not(miri))]

use core::marker::PhantomData;
use core::sync::atomic::Ordering;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
use loom::sync::{Arc, Notify};
use loom::thread;
use usnet_shmring::descriptor::{Fault, RawDescriptor, RingName};
use usnet_shmring::ring::{Consumer, PeerSleepFlag, Producer, SleepFlag};
use usnet_shmring::words::{LoadCells, LoadWord, Memory, StoreCells, StoreWord};

/// How a memory keeps the rules of [`Memory`].
trait Rules {
    const FENCE: bool = true;
    const ORDERED: bool = true;

    fn order(order: Ordering) -> Ordering {
        if Self::ORDERED { order } else { Ordering::Relaxed }
    }
}

#[derive(Debug)]
struct Kept;
impl Rules for Kept {}

#[derive(Debug)]
struct NoFence;
impl Rules for NoFence {
    const FENCE: bool = false;
}

#[derive(Debug)]
struct NoOrder;
impl Rules for NoOrder {
    const ORDERED: bool = false;
}

const CAPACITY: u32 = 2;

#[derive(Debug)]
struct Shared<R>(PhantomData<R>);

#[derive(Debug)]
struct SharedWord<R>(Arc<AtomicU32>, PhantomData<R>);

impl<R> SharedWord<R> {
    fn new() -> Self {
        Self(Arc::new(AtomicU32::new(0)), PhantomData)
    }

    fn again(&self) -> Self {
        Self(Arc::clone(&self.0), PhantomData)
    }
}

impl<R: Rules> LoadWord for SharedWord<R> {
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(R::order(order))
    }
}

impl<R: Rules> StoreWord for SharedWord<R> {
    fn store(&self, value: u32, order: Ordering) {
        self.0.store(value, R::order(order));
    }
}

#[derive(Debug)]
struct SharedCells(Arc<[AtomicU64; CAPACITY as usize]>);

impl LoadCells for SharedCells {
    fn capacity(&self) -> u32 {
        CAPACITY
    }

    fn load(&self, position: u32) -> u64 {
        self.0[(position % CAPACITY) as usize].load(Ordering::Relaxed)
    }
}

impl StoreCells for SharedCells {
    fn capacity(&self) -> u32 {
        CAPACITY
    }

    fn store(&self, position: u32, value: u64) {
        self.0[(position % CAPACITY) as usize].store(value, Ordering::Relaxed);
    }
}

impl<R: Rules> Memory for Shared<R> {
    type OwnWord = SharedWord<R>;
    type PeerWord = SharedWord<R>;
    type OwnCells = SharedCells;
    type PeerCells = SharedCells;

    fn fence() {
        if R::FENCE {
            fence(Ordering::SeqCst);
        }
    }
}

struct Ring<R: Rules> {
    producer: Producer<Shared<R>>,
    consumer: Consumer<Shared<R>>,
    produced: SharedWord<R>,
    consumed: SharedWord<R>,
    cells: SharedCells,
}

fn ring<R: Rules>() -> Ring<R> {
    let (produced, consumed) = (SharedWord::new(), SharedWord::new());
    let cells = SharedCells(Arc::new(core::array::from_fn(|_| AtomicU64::new(0))));
    let again = || SharedCells(Arc::clone(&cells.0));
    // One message before the wrap, two after it.
    let at = u32::MAX;
    Ring {
        producer: Producer::new(RingName::Tx, again(), produced.again(), consumed.again())
            .starting_at(at),
        consumer: Consumer::new(RingName::Tx, again(), produced.again(), consumed.again())
            .starting_at(at),
        produced,
        consumed,
        cells,
    }
}

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Slots behind the descriptors: loom reports any access that the rings do not order.
type Slots = Arc<[UnsafeCell<u64>; CAPACITY as usize]>;

fn three_messages<R: Rules + 'static>() {
    let Ring { mut producer, mut consumer, .. } = ring::<R>();
    let slots: Slots = Arc::new(core::array::from_fn(|_| UnsafeCell::new(0)));
    let theirs = Arc::clone(&slots);
    let sender = thread::spawn(move || {
        for message in 1..=3 {
            while producer.room() == 0 {
                if producer.refresh() == Ok(0) {
                    thread::yield_now();
                }
            }
            let slot = message % CAPACITY;
            theirs[slot as usize].with_mut(|at| store(at, message.into()));
            producer.push(RawDescriptor::new(slot, 0, 60)).unwrap();
            assert!(producer.publish());
        }
    });
    for message in 1..=3u32 {
        while consumer.available() == 0 {
            if consumer.refresh() == Ok(0) {
                thread::yield_now();
            }
        }
        let slot = consumer.pop().unwrap().slot();
        assert_eq!(slot, message % CAPACITY);
        let bytes = slots[slot as usize].with(load);
        assert_eq!(bytes, message.into(), "the frame of another message");
        assert!(consumer.release());
    }
    sender.join().unwrap();
}

#[test]
fn messages_arrive_in_order_and_their_slots_with_them() {
    check(3, three_messages::<Kept>);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_acquire_and_release_the_model_sees_a_race() {
    check(3, three_messages::<NoOrder>);
}

/// The consumer announces sleep, looks again and only then sleeps; nobody else would wake it.
fn sleep_and_wake<R: Rules + 'static>() {
    let Ring { mut producer, mut consumer, .. } = ring::<R>();
    let flag = SharedWord::<R>::new();
    let (sleep, peer) =
        (SleepFlag::<Shared<R>>::new(flag.again()), PeerSleepFlag::<Shared<R>>::new(flag));
    let bell = Arc::new(Notify::new());
    let rung = Arc::clone(&bell);
    let sender = thread::spawn(move || {
        for message in 1..=2 {
            producer.push(RawDescriptor::new(message, 0, 60)).unwrap();
            producer.publish();
            if peer.must_wake() {
                rung.notify();
            }
        }
    });
    for message in 1..=2 {
        while consumer.refresh() == Ok(0) {
            sleep.raise();
            if consumer.refresh() == Ok(0) {
                bell.wait();
            }
            sleep.lower();
        }
        assert_eq!(consumer.pop().unwrap().slot(), message);
        consumer.release();
    }
    sender.join().unwrap();
}

#[test]
fn a_wake_up_is_never_lost() {
    check(4, sleep_and_wake::<Kept>);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_fences_the_model_loses_a_wake_up() {
    check(4, sleep_and_wake::<NoFence>);
}

/// Two rings, one flag: the sleeper must look at both after it raised the flag.
#[test]
fn a_sleeper_on_two_rings_is_woken_by_either() {
    check(3, || {
        let rings = [ring::<Kept>(), ring::<Kept>()];
        let flag = SharedWord::<Kept>::new();
        let sleep = SleepFlag::<Shared<Kept>>::new(flag.again());
        let bell = Arc::new(Notify::new());
        let [mut first, mut second] = rings.map(|Ring { mut producer, consumer, .. }| {
            let (bell, flag) = (Arc::clone(&bell), flag.again());
            let peer = PeerSleepFlag::<Shared<Kept>>::new(flag);
            thread::spawn(move || {
                producer.push(RawDescriptor::new(1, 0, 60)).unwrap();
                producer.publish();
                if peer.must_wake() {
                    bell.notify();
                }
            });
            consumer
        });
        let mut got = 0;
        let mut take = || {
            for consumer in [&mut first, &mut second] {
                consumer.refresh().unwrap();
                got += usize::from(consumer.pop().is_some());
                consumer.release();
            }
            got
        };
        while take() < 2 {
            sleep.raise();
            if take() < 2 {
                bell.wait();
            }
            sleep.lower();
        }
    });
}

#[test]
fn a_peer_that_stores_any_position_only_makes_faults() {
    const LIES: [u32; 3] = [u32::MAX.wrapping_add(CAPACITY + 1), 0, 0x8000_0000];
    check(3, || {
        let Ring { mut producer, mut consumer, produced, consumed, cells } = ring::<Kept>();
        let liar = thread::spawn(move || {
            for lie in LIES {
                produced.store(lie, Ordering::Release);
                cells.store(lie, u64::MAX);
                consumed.store(lie, Ordering::Relaxed);
            }
        });
        for _ in 0..2 {
            match consumer.refresh() {
                Ok(available) => {
                    assert!(available <= CAPACITY && available == consumer.available())
                }
                Err(Fault::Overrun { claimed, .. }) => assert!(claimed > CAPACITY),
                Err(Fault::Position { moved, most, .. }) => assert!(moved > most),
                Err(other) => panic!("{other}"),
            }
            let mut into = [RawDescriptor::default(); 4];
            assert!(consumer.pop_burst(&mut into) <= CAPACITY as usize);
            consumer.release();
            match producer.refresh() {
                Ok(room) => assert!(room <= CAPACITY),
                Err(fault) => assert!(matches!(fault, Fault::Position { .. })),
            }
            assert!(producer.push_burst(&into) <= CAPACITY as usize);
            producer.publish();
        }
        liar.join().unwrap();
    });
}

use cells::{load, store};

/// The only unsafe code of this test.
mod cells {
    #![expect(unsafe_code, reason = "loom hands out pointers, and reports any unordered access")]

    pub(crate) fn load(at: *const u64) -> u64 {
        // SAFETY: within `UnsafeCell::with`: the pointer is valid, and loom panics on a race.
        unsafe { *at }
    }

    pub(crate) fn store(at: *mut u64, value: u64) {
        // SAFETY: within `UnsafeCell::with_mut`: the pointer is valid, and loom panics on a race.
        unsafe { *at = value }
    }
}
