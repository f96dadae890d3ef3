//! A peer that stores every value into every word it can reach gets no further than a fault.
//!
//! Under Miri: `cargo +nightly miri test -p usnet-shmring` runs these with fewer cases, without the
//! ones over real mappings.

use core::sync::atomic::Ordering;
use proptest::prelude::*;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use usnet_shmring::descriptor::{Fault, MAX_SLOTS, RawDescriptor, RingName};
use usnet_shmring::layout::Word;
use usnet_shmring::ledger::SessionId;
use usnet_shmring::model::hostile::{Pen, Stage, run_bytes};
use usnet_shmring::model::world::{Backing, DaemonHalf, World};
use usnet_shmring::pool::{MIN_FRAME, Returned};
use usnet_shmring::region::{Mapped, Region};
use usnet_shmring::ring::{Consumer, Producer};
use usnet_shmring::words::StoreWord;

/// Distances that a lying word is stored at: all small ones both ways, and each bit with its
/// neighbours.
fn distances() -> impl Iterator<Item = u32> {
    let (reach, first) = if cfg!(miri) { (4, 31) } else { (256, 8) };
    let bits = (first..32).flat_map(|bit| [(1u32 << bit) - 1, 1 << bit, (1 << bit) + 1]);
    (0..=reach).chain((1..=reach).map(|d| 0u32.wrapping_sub(d))).chain(bits)
}

/// Positions that a ring starts from: every one around the wrap.
fn bases() -> impl Iterator<Item = u32> {
    let around: u32 = if cfg!(miri) { 2 } else { 20 };
    (0..2 * around).map(move |n| n.wrapping_sub(around))
}

const CAPACITIES: &[u32] = if cfg!(miri) { &[2] } else { &[2, 4, 8] };

#[test]
fn a_consumer_believes_a_position_exactly_if_an_honest_producer_could_store_it() {
    for &capacity in CAPACITIES {
        let (inbound, outbound) = (Region::heap(1, capacity), Region::heap(1, capacity));
        let word = Word::FirstProduced;
        let produced = outbound.own_word(capacity, 0, word).unwrap();
        for base in bases() {
            // Cells shown, taken, and given back so far.
            for (shown, taken, released) in triples(capacity) {
                for distance in distances() {
                    let mut consumer = Consumer::<Mapped>::new(
                        RingName::Tx,
                        outbound.peer_cells(capacity, 0, 0).unwrap(),
                        outbound.peer_word(capacity, 0, word).unwrap(),
                        inbound.own_word(capacity, 0, Word::FirstConsumed).unwrap(),
                    )
                    .starting_at(base);
                    produced.store(base.wrapping_add(shown), Ordering::Release);
                    assert_eq!(consumer.refresh(), Ok(shown));
                    for step in 1..=taken {
                        consumer.pop().unwrap();
                        if step == released {
                            consumer.release();
                        }
                    }
                    produced.store(base.wrapping_add(distance), Ordering::Release);
                    // Honest: not behind what was shown, not more than a ring ahead of what was
                    // given back.
                    let honest = (shown..=released + capacity).contains(&distance);
                    let refreshed = consumer.refresh();
                    if honest {
                        assert_eq!(refreshed, Ok(distance - taken));
                    } else {
                        let claimed = distance.wrapping_sub(released);
                        let expected = if claimed > capacity {
                            Fault::Overrun { ring: RingName::Tx, claimed, capacity }
                        } else {
                            let moved = distance.wrapping_sub(shown);
                            let most = capacity - (shown - released);
                            Fault::Position { ring: RingName::Tx, moved, most }
                        };
                        assert_eq!(refreshed, Err(expected));
                        // A lie changes nothing: what was shown before can still be taken.
                        assert_eq!(consumer.available(), shown - taken);
                        let mut into = [RawDescriptor::default(); 16];
                        assert_eq!(consumer.pop_burst(&mut into), (shown - taken) as usize);
                    }
                }
            }
        }
    }
}

/// `a >= b >= c` for each `a` up to the capacity.
fn triples(capacity: u32) -> impl Iterator<Item = (u32, u32, u32)> {
    let below = |most: u32| 0..=most;
    below(capacity).flat_map(move |a| below(a).flat_map(move |b| below(b).map(move |c| (a, b, c))))
}

#[test]
fn a_producer_believes_a_position_exactly_if_an_honest_consumer_could_store_it() {
    for &capacity in CAPACITIES {
        let (inbound, outbound) = (Region::heap(1, capacity), Region::heap(1, capacity));
        let word = Word::FirstConsumed;
        let consumed = outbound.own_word(capacity, 0, word).unwrap();
        for base in bases() {
            // Cells written, published, and seen to be consumed so far.
            for (written, published, seen) in triples(capacity) {
                for distance in distances() {
                    let mut producer = Producer::<Mapped>::new(
                        RingName::Rx,
                        inbound.own_cells(capacity, 0, 0).unwrap(),
                        inbound.own_word(capacity, 0, Word::FirstProduced).unwrap(),
                        outbound.peer_word(capacity, 0, word).unwrap(),
                    )
                    .starting_at(base);
                    for step in 1..=written {
                        producer.push(RawDescriptor::default()).unwrap();
                        if step == published {
                            producer.publish();
                        }
                    }
                    consumed.store(base.wrapping_add(seen), Ordering::Release);
                    assert_eq!(producer.refresh(), Ok(capacity - (written - seen)));
                    consumed.store(base.wrapping_add(distance), Ordering::Release);
                    let honest = (seen..=published).contains(&distance);
                    let refreshed = producer.refresh();
                    if honest {
                        assert_eq!(refreshed, Ok(capacity - (written - distance)));
                    } else {
                        let (moved, most) = (distance.wrapping_sub(seen), published - seen);
                        let expected = Fault::Position { ring: RingName::Rx, moved, most };
                        assert_eq!(refreshed, Err(expected));
                        assert_eq!(producer.room(), capacity - (written - seen));
                    }
                }
            }
        }
    }
}

const CAPACITY: u32 = 8;
const A: SessionId = SessionId(0);
const B: SessionId = SessionId(4095);

/// Two sessions with slots in every state, and what the numbers of those slots are.
struct Scene {
    world: World,
    a: DaemonHalf,
    b: DaemonHalf,
    /// A's and B's transmit slots at rest.
    at_rest: [u32; 2],
    /// A's transmit slot, passed to B; B's, passed to A.
    passed: [u32; 2],
    /// A's transmit slot in the daemon's hands.
    taken: u32,
    /// Receive slots, lent to A and to B.
    lent: [u32; 2],
    /// Port slot, lent to A.
    shared: u32,
    /// Port slots, free and held by the daemon.
    daemon: [u32; 2],
}

impl Scene {
    fn new() -> Self {
        let mut world = World::new(Backing::Heap, CAPACITY, 4);
        let client_end = world.client_segment.first() + world.client_segment.count();
        let (a, _) = world.attach(A);
        let (b, _) = world.attach(B);
        let [at, bt] = [client_end - CAPACITY, client_end - 2 * CAPACITY];
        let (port, pool) = (world.pool.port_home(), &mut world.pool);
        let good = |slot| RawDescriptor::new(slot, 0, 60);
        let to_b = pool.accept(A, good(at + 1)).unwrap();
        pool.pass(to_b, B).unwrap();
        let to_a = pool.accept(B, good(bt + 1)).unwrap();
        pool.pass(to_a, A).unwrap();
        let _ = pool.accept(A, good(at + 2)).unwrap();
        let mut lend = |home, to| {
            let frame = pool.alloc_from(home).unwrap();
            pool.lend(frame, to).unwrap().slot()
        };
        let lent = [lend(a.receive, A), lend(b.receive, B)];
        let shared = lend(port, A);
        let held = world.pool.alloc().unwrap().slot();
        let (at_rest, passed) = ([at, bt], [at + 1, bt + 1]);
        let daemon = [3, held];
        assert!(shared != 3 && held != 3, "the last port slot is free");
        Self { world, a, b, at_rest, passed, taken: at + 2, lent, shared, daemon }
    }

    /// Slots whose descriptors A may put on its tx ring.
    fn may_send(&self, slot: u32) -> bool {
        let home = self.at_rest[0]..self.at_rest[0] + CAPACITY;
        home.contains(&slot) && slot != self.passed[0] && slot != self.taken
    }

    /// Slots that A may put on its fill ring.
    fn may_return(&self, slot: u32) -> bool {
        [self.lent[0], self.shared, self.passed[1]].contains(&slot)
    }

    fn names(&self) -> Vec<u32> {
        let slots = self.world.pool.arena().slots();
        let [a, b] = self.at_rest;
        let mut names = vec![0, 1, 2, 3, 4, slots / 2 - 1, slots / 2, a - 1, b - 1];
        names.extend([a, a + 3, a + CAPACITY - 1, b, b + CAPACITY - 1, self.taken, self.shared]);
        names.extend([slots - 1, slots, slots + 1, MAX_SLOTS / 2, MAX_SLOTS - 1]);
        names.extend(self.lent.iter().chain(&self.passed).chain(&self.daemon));
        names
    }

    /// A sends `raw`; the answer must be what the rules say, and nothing may change by a refusal.
    fn send(&mut self, raw: RawDescriptor) {
        let before = self.world.pool.audit();
        let end = u32::from(raw.offset()) + u32::from(raw.length());
        let fits = raw.length() >= MIN_FRAME && end <= 2048;
        let good = self.may_send(raw.slot()) && raw.flags() == 0 && fits;
        match self.world.pool.accept(A, raw) {
            Ok(frame) => {
                assert!(good, "{raw:?} was accepted");
                assert_eq!(frame.len(), usize::from(raw.length()));
                let back = RawDescriptor::new(raw.slot(), 0, 0);
                assert_eq!(self.world.pool.complete(frame), Some((A, back)));
            }
            Err(fault) => assert!(!good, "{raw:?} was refused: {fault}"),
        }
        assert_eq!(self.world.pool.audit(), before);
        self.world.check();
    }

    /// A returns `raw`; as above. A slot that came back is lent again.
    fn give_back(&mut self, raw: RawDescriptor) {
        let before = self.world.pool.audit();
        let good = self.may_return(raw.slot()) && raw.flags() == 0;
        let pool = &mut self.world.pool;
        match pool.take_back(A, raw) {
            Ok(Returned::Free) => {
                assert!(good, "{raw:?} was taken back");
                let home =
                    if raw.slot() == self.shared { pool.port_home() } else { self.a.receive };
                let frame = pool.alloc_from(home).unwrap();
                assert_eq!(frame.slot(), raw.slot(), "the last slot freed comes first");
                pool.lend(frame, A).unwrap();
            }
            Ok(Returned::Completed(to, back)) => {
                assert!(good && raw.slot() == self.passed[1]);
                assert_eq!((to, back), (B, RawDescriptor::new(raw.slot(), 0, 0)));
                let frame = pool.accept(B, RawDescriptor::new(raw.slot(), 0, 60)).unwrap();
                pool.pass(frame, A).unwrap();
            }
            Ok(Returned::Shared) => panic!("{raw:?}: no slot is lent to several here"),
            Err(fault) => assert!(!good, "{raw:?} was refused: {fault}"),
        }
        assert_eq!(self.world.pool.audit(), before);
        self.world.check();
    }
}

#[test]
fn every_class_of_descriptor_is_taken_exactly_if_the_rules_allow_it() {
    let mut scene = Scene::new();
    let few = cfg!(miri);
    let offsets: &[u16] =
        if few { &[0, 2035] } else { &[0, 1, 13, 14, 1024, 2033, 2034, 2035, 2047, 2048, 4095] };
    let lengths: &[u16] = if few {
        &[13, 14]
    } else {
        &[0, 1, 13, 14, 15, 60, 1024, 1514, 2034, 2047, 2048, 2049, 4096, 0x7fff, 0x8000, 0xffff]
    };
    let flags: &[u64] = if few { &[0, 1] } else { &[0, 1, 2, 0x400, 0x800, 0xfff] };
    for slot in scene.names() {
        for &offset in offsets {
            for &length in lengths {
                for flags in flags {
                    let raw = RawDescriptor::new(slot, offset, length).0 | flags << 52;
                    scene.send(RawDescriptor(raw));
                    scene.give_back(RawDescriptor(raw));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 5000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_64_bits_are_taken_exactly_if_the_rules_allow_it(words in any::<[u64; 16]>(), near in any::<u8>()) {
        thread_local! {
            static SCENE: core::cell::RefCell<Scene> = core::cell::RefCell::new(Scene::new());
        }
        SCENE.with_borrow_mut(|scene| {
            let names = scene.names();
            for word in words {
                // Once as it is, once with a slot and a length that often exist.
                let slot = u64::from(names[usize::from(near) % names.len()]);
                let likely = word & 0x7f0_003f_ff00_0000 & !(0xfff << 52) | slot;
                for raw in [word, likely].map(RawDescriptor) {
                    scene.send(raw);
                    scene.give_back(raw);
                }
            }
        });
    }
}

#[test]
fn a_slot_returned_twice_is_a_fault() {
    let mut scene = Scene::new();
    let raw = RawDescriptor::new(scene.lent[0], 0, 0);
    assert_eq!(scene.world.pool.take_back(A, raw), Ok(Returned::Free));
    let fault = Fault::NotHeld { ring: RingName::Fill, slot: raw.slot() };
    assert_eq!(scene.world.pool.take_back(A, raw), Err(fault));
}

#[test]
fn a_slot_held_by_another_session_cannot_be_returned_or_sent() {
    let mut scene = Scene::new();
    for slot in [scene.lent[1], scene.at_rest[1], scene.passed[0]] {
        let raw = RawDescriptor::new(slot, 0, 60);
        let fault = |ring| Fault::NotHeld { ring, slot };
        assert_eq!(scene.world.pool.take_back(A, raw), Err(fault(RingName::Fill)));
        assert_eq!(scene.world.pool.accept(A, raw), Err(fault(RingName::Tx)));
    }
}

#[test]
fn an_own_transmit_slot_on_the_fill_ring_is_a_fault() {
    let mut scene = Scene::new();
    for slot in [scene.at_rest[0], scene.passed[0], scene.taken] {
        let raw = RawDescriptor::new(slot, 0, 60);
        let fault = Fault::NotHeld { ring: RingName::Fill, slot };
        assert_eq!(scene.world.pool.take_back(A, raw), Err(fault));
    }
}

#[test]
fn a_receive_slot_on_the_tx_ring_is_a_fault() {
    let mut scene = Scene::new();
    for slot in [scene.lent[0], scene.shared, scene.passed[1]] {
        let raw = RawDescriptor::new(slot, 0, 60);
        let fault = Fault::NotHeld { ring: RingName::Tx, slot };
        assert_eq!(scene.world.pool.accept(A, raw), Err(fault));
    }
}

#[test]
fn the_head_that_leaves_is_the_head_that_was_checked() {
    let mut scene = Scene::new();
    let (slot, pool) = (scene.at_rest[0], &mut scene.world.pool);
    let segment = Arc::clone(&scene.world.client_segment);
    let start = (slot - segment.first()) as usize * 2048 + 3;
    let write = |byte| (0..200).for_each(|at| segment.scribble(start + at, byte));
    write(1);
    let frame = pool.accept(A, RawDescriptor::new(slot, 3, 200)).unwrap();
    let mut head = [0; 64];
    assert!(pool.snapshot(&frame, 0, &mut head) == 64 && head == [1; 64]);
    // The client writes after the check and before the copy.
    write(2);
    let mut copy = pool.alloc().unwrap();
    assert!(pool.copy_vetted(&head, &frame, &mut copy));
    let (first, rest) = pool.bytes(&copy).split_at(64);
    assert!(first == [1; 64] && rest == [2; 136], "what was not checked has left");
    // A later part is read anew, and never beyond the frame.
    assert!(
        pool.snapshot(&frame, 190, &mut head) == 10 && head[..11] == [&[2; 10][..], &[1]].concat()
    );
    assert_eq!(pool.snapshot(&frame, 200, &mut head), 0);
    let longer = [0; 201];
    assert!(!pool.copy_vetted(&longer, &frame, &mut copy), "a head longer than its frame");
    pool.free(copy);
    assert!(pool.complete(frame).is_some());
}

#[test]
fn a_transmit_slot_sent_again_before_its_completion_is_a_fault() {
    let mut scene = Scene::new();
    let raw = RawDescriptor::new(scene.at_rest[0], 0, 60);
    let frame = scene.world.pool.accept(A, raw).unwrap();
    let fault = Fault::NotHeld { ring: RingName::Tx, slot: raw.slot() };
    assert_eq!(scene.world.pool.accept(A, raw), Err(fault));
    assert_eq!(scene.world.pool.away(scene.a.transmit), 3, "a refusal changed the count");
    assert!(scene.world.pool.complete(frame).is_some());
    assert_eq!(scene.world.pool.away(scene.b.transmit), 1);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 2000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_peer_that_stores_anything_is_detached_and_nobody_notices(
        bytes in prop::collection::vec(any::<u8>(), 0..if cfg!(miri) { 40 } else { 600 })
    ) {
        run_bytes(&bytes);
    }
}

/// A small generator: the race, not the numbers, is what is tried.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Stores into all that the pen reaches: lies that an honest peer could tell, and others.
fn scribble(pen: &Pen, random: &mut Random) {
    for _ in 0..if cfg!(miri) { 4 } else { 64 } {
        let bits = random.next();
        let [kind, which, at, value, ..] = bits.to_le_bytes();
        let far = kind > 250;
        match kind & 3 {
            0 if far => pen.store(which, (bits >> 32) as u32),
            0 => pen.store_near(which, (value % 12).into()),
            1 if far => pen.cell(which, at.into(), random.next()),
            1 => {
                let raw = RawDescriptor::new(pen.landmark(at), value.into(), 14 + u16::from(at));
                pen.cell(which, value.into(), raw.0);
            }
            _ => pen.payload(u16::from_le_bytes([at, value]), which),
        }
    }
}

/// The daemon half against a thread that scribbles; a fault ends the session and a new one begins.
fn race(backing: Backing, turns: u32) {
    let mut stage = Stage::new(backing, CAPACITY);
    let pen = |stage: &Stage| Arc::clone(&stage.hostile.as_ref().unwrap().1);
    let (current, done) = (Mutex::new(pen(&stage)), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(0x2545_f491_4f6c_dd1d);
            while !done.load(Ordering::Relaxed) {
                let pen = Arc::clone(&current.lock().unwrap());
                scribble(&pen, &mut random);
                if cfg!(miri) {
                    std::thread::yield_now();
                }
            }
        });
        // Also when an assertion fails: otherwise the scope would wait for ever.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&done);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for turn in 0..turns {
            // The thread may not get a processor of its own; then this one lies between turns.
            if turn % 4 == 0 {
                scribble(&pen(&stage), &mut random);
            }
            if stage.turn((turn % 9) as usize).is_some() {
                stage.attach();
                *current.lock().unwrap() = pen(&stage);
            }
            if turn % 64 == 0 {
                stage.neighbour_is_served();
            }
        }
        println!("{} faults in {turns} turns", stage.faults);
    });
    let (half, _) = stage.hostile.take().unwrap();
    stage.world.end(half);
    stage.neighbour_is_served();
}

#[test]
fn a_peer_that_scribbles_at_full_speed_is_only_ever_detached() {
    race(Backing::Heap, if cfg!(miri) { 12 } else { 200_000 });
}

#[test]
#[cfg_attr(miri, ignore = "maps memfds")]
fn a_peer_that_scribbles_over_sealed_regions_is_only_ever_detached() {
    race(Backing::Mapped, 20_000);
}
