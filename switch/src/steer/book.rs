//! What the workers of one interface have learned, for all of them: written when a flow is learned,
//! read when a worker meets a flow that it does not know.
//!
//! ```text
//!   worker 0: ExactTable --learn--> Book <--does not know a flow-- worker 1: ExactTable
//!                                    |
//!                                    +-- generation, looked at once a burst
//! ```
//!
//! - Fixed size, made once. A look compares at most eight entries, takes no lock and writes nothing; a
//!   worker that found a flow keeps it in its own table and does not ask again.
//! - Writers, one at a time by a lock, are those who learn or give up a flow, which is rare.
//! - An entry is seen whole or not at all: its state is taken back before its words change and stored
//!   after them, and a reader that finds another state after the words than before passes over it.
//! - An entry belongs to the workers that learned it, and goes with the last of them.
//! - A flow is in the book before the frame that taught it leaves. A reader sees the book as of the
//!   generation that it names: no newer entry, so that one burst is judged by one state of the rules.

use super::groups::Member;
use super::roll::Shared;
use super::supplicant::Supplicant;
use super::transactions::Transaction;
use crate::classify::Flow;
use crate::verdict::{Receiver, ReceiverCode};
use core::hash::{BuildHasher, Hasher};
use core::sync::atomic::{AtomicU64, Ordering, fence};
use crossbeam_utils::CachePadded;
use foldhash::fast::FixedState;
use std::sync::{Arc, Mutex, PoisonError};

const WAYS: usize = 4;
/// Words of a flow: two addresses, and one for protocol and ports.
const WORDS: usize = 5;

/// Workers that one book can have.
pub const WORKERS: u32 = 16;

/// A worker's number, from 0 and below [`WORKERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerId(u32);

impl WorkerId {
    /// `None` from [`WORKERS`] on.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        (number < WORKERS).then_some(Self(number))
    }

    fn bit(self) -> u64 {
        1 << self.0
    }
}

/// When a flow came and whose it is: generation (32 bits) | receiver (16) | workers (16). With no
/// worker, the entry is free.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State(u64);

impl State {
    const FREE: Self = Self(0);

    fn of(generation: u32, receiver: ReceiverCode, workers: u64) -> Self {
        Self(u64::from(generation) << 32 | u64::from(receiver.bits()) << 16 | workers)
    }

    fn workers(self) -> u64 {
        self.0 & 0xffff
    }

    #[expect(clippy::cast_possible_truncation, reason = "parts of a word")]
    fn receiver(self) -> ReceiverCode {
        ReceiverCode::from_bits((self.0 >> 16) as u16)
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn is_free(self) -> bool {
        self.workers() == 0
    }
}

/// One flow, in words.
type Words = [u64; WORDS];

#[derive(Debug, Default)]
struct Entry {
    state: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl Entry {
    fn state(&self) -> State {
        State(self.state.load(Ordering::Acquire))
    }

    /// Whose flow it is, if it is this one.
    fn read(&self, flow: &Words) -> Option<State> {
        // Pairs with the release in `write`: the words that follow are of this state or newer.
        let state = self.state();
        if state.is_free() || !self.is(flow) {
            return None;
        }
        // Pairs with the fence in `write`: whoever saw a newer word sees here that the state it
        // belonged to is gone.
        fence(Ordering::Acquire);
        (self.state.load(Ordering::Relaxed) == state.0).then_some(state)
    }

    fn is(&self, flow: &Words) -> bool {
        self.words.iter().zip(flow).all(|(word, own)| word.load(Ordering::Relaxed) == *own)
    }

    /// Under the lock.
    fn write(&self, flow: &Words, state: State) {
        self.state.store(State::FREE.0, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, own) in self.words.iter().zip(flow) {
            word.store(*own, Ordering::Relaxed);
        }
        self.state.store(state.0, Ordering::Release);
    }
}

/// Why a flow was not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotEntered {
    /// Another receiver has this very flow, learned by another worker.
    Taken(Receiver),
    /// Both buckets are full.
    Full,
}

/// The book of one interface.
pub struct Book {
    buckets: Box<[[Entry; WAYS]]>,
    hash: FixedState,
    /// Grows with every flow that comes, from 1; its low half is what entries carry.
    generation: CachePadded<AtomicU64>,
    writer: CachePadded<Mutex<()>>,
    members: Arc<Shared<Member>>,
    transactions: Arc<Shared<Transaction>>,
    supplicant: Supplicant,
}

impl core::fmt::Debug for Book {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Book").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

impl Book {
    /// Room for about `flows` flows, keyed by `seed`.
    #[must_use]
    pub fn new(flows: usize, seed: u64) -> Self {
        let buckets = flows.div_ceil(WAYS).next_power_of_two().max(2);
        Self {
            buckets: (0..buckets).map(|_| Default::default()).collect(),
            hash: FixedState::with_seed(seed),
            generation: CachePadded::new(AtomicU64::new(1)),
            writer: CachePadded::new(Mutex::new(())),
            members: Arc::default(),
            transactions: Arc::default(),
            supplicant: Supplicant::default(),
        }
    }

    /// Who has joined which groups.
    pub(super) fn members(&self) -> Arc<Shared<Member>> {
        Arc::clone(&self.members)
    }

    /// Who waits for which answers of DHCP.
    pub(super) fn transactions(&self) -> Arc<Shared<Transaction>> {
        Arc::clone(&self.transactions)
    }

    /// Which client speaks EAPOL.
    pub(super) fn supplicant(&self) -> Supplicant {
        self.supplicant.clone()
    }

    /// Which state of the book this is. Whoever asks after a frame has arrived sees all that was
    /// learned before it was sent.
    #[inline]
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    #[expect(clippy::cast_possible_truncation, reason = "parts of a hash")]
    fn places(&self, flow: &Words) -> impl Iterator<Item = &Entry> {
        let mut hasher = self.hash.build_hasher();
        flow.iter().for_each(|word| hasher.write_u64(*word));
        let hash = hasher.finish();
        let mask = self.buckets.len() - 1;
        let buckets = [hash as usize & mask, (hash >> 32) as usize & mask];
        buckets.into_iter().filter_map(|at| self.buckets.get(at)).flatten()
    }

    /// Who receives this flow, if that was learned up to `generation`.
    #[must_use]
    pub fn get(&self, flow: &Flow, generation: u64) -> Option<Receiver> {
        let words = flow.words();
        let state = self.places(&words).find_map(|entry| entry.read(&words))?;
        is_up_to(state.generation(), generation).then(|| state.receiver().receiver()).flatten()
    }

    /// Enters a flow that `worker` has learned for `receiver`. When this returns every worker that looks
    /// at the book finds it.
    ///
    /// # Errors
    /// [`NotEntered`], and the book is as before.
    pub fn enter(
        &self,
        flow: &Flow,
        receiver: Receiver,
        worker: WorkerId,
    ) -> Result<(), NotEntered> {
        let words = flow.words();
        let code = ReceiverCode::of(Some(receiver));
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = None;
        for entry in self.places(&words) {
            let state = entry.state();
            if state.is_free() {
                free = free.or(Some(entry));
            } else if entry.is(&words) {
                return match state.receiver().receiver() {
                    Some(other) if other != receiver => Err(NotEntered::Taken(other)),
                    _ => {
                        let workers = state.workers() | worker.bit();
                        let state = State::of(state.generation(), code, workers);
                        entry.state.store(state.0, Ordering::Release);
                        Ok(())
                    }
                };
            }
        }
        let entry = free.ok_or(NotEntered::Full)?;
        let generation = self.generation.load(Ordering::Relaxed) + 1;
        entry.write(&words, State::of(low(generation), code, worker.bit()));
        // After the entry: whoever sees this generation finds it.
        self.generation.store(generation, Ordering::Release);
        Ok(())
    }

    /// `worker` has given a flow of `receiver` up.
    pub fn give_up(&self, flow: &Flow, receiver: Receiver, worker: WorkerId) {
        let words = flow.words();
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in self.places(&words) {
            let state = entry.state();
            if !state.is_free() && entry.is(&words) && state.receiver().receiver() == Some(receiver)
            {
                let workers = state.workers() & !worker.bit();
                let state = match workers {
                    0 => State::FREE,
                    _ => State::of(state.generation(), state.receiver(), workers),
                };
                entry.state.store(state.0, Ordering::Release);
                return;
            }
        }
    }

    /// Flows in the book.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buckets.iter().flatten().filter(|entry| !entry.state().is_free()).count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[expect(clippy::cast_possible_truncation, reason = "compared by distance")]
const fn low(generation: u64) -> u32 {
    generation as u32
}

/// Whether `of` is not newer than `up_to`, of which it is the low half of an earlier or a slightly
/// later one.
const fn is_up_to(of: u32, up_to: u64) -> bool {
    low(up_to).wrapping_sub(of) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{Address, Protocol};
    use std::sync::Arc;
    use usnet_shmring::ledger::SessionId;

    fn flow(n: u32) -> Flow {
        Flow {
            source: Address::v4(n.to_be_bytes()),
            destination: Address::v4([10, 0, 0, 1]),
            protocol: Protocol::UDP,
            source_port: 9,
            destination_port: 7,
            ports_known: true,
        }
    }

    fn client(n: u16) -> Receiver {
        Receiver::Client(SessionId(n))
    }

    const A: WorkerId = WorkerId(0);
    const B: WorkerId = WorkerId(15);

    #[test]
    fn a_flow_that_one_worker_learned_is_found_by_all_from_its_generation_on() {
        let book = Book::new(64, 1);
        let before = book.generation();
        book.enter(&flow(1), client(3), A).unwrap();
        assert_eq!(book.get(&flow(1), book.generation()), Some(client(3)));
        assert_eq!(book.get(&flow(1), before), None, "not in a burst that began before");
        assert_eq!(book.get(&flow(2), book.generation()), None);
    }

    #[test]
    fn a_flow_belongs_to_its_first_owner_until_all_who_learned_it_give_it_up() {
        let book = Book::new(64, 1);
        book.enter(&flow(1), client(3), A).unwrap();
        assert_eq!(book.enter(&flow(1), client(4), B), Err(NotEntered::Taken(client(3))));
        book.enter(&flow(1), client(3), B).unwrap();
        book.give_up(&flow(1), client(4), A);
        book.give_up(&flow(1), client(3), A);
        assert_eq!(book.get(&flow(1), book.generation()), Some(client(3)));
        book.give_up(&flow(1), client(3), B);
        assert_eq!(book.get(&flow(1), book.generation()), None);
        book.enter(&flow(1), client(4), B).unwrap();
        assert_eq!(book.len(), 1);
    }

    #[test]
    fn a_full_book_refuses_and_keeps_what_it_has() {
        let book = Book::new(8, 1);
        let entered: Vec<u32> =
            (0..1000).filter(|n| book.enter(&flow(*n), client(1), A).is_ok()).collect();
        assert!(!entered.is_empty() && entered.len() <= 8);
        assert_eq!(book.len(), entered.len());
        assert!(entered.iter().all(|n| book.get(&flow(*n), book.generation()).is_some()));
        assert_eq!(book.enter(&flow(2000), client(1), A), Err(NotEntered::Full));
    }

    #[test]
    fn generations_are_compared_beyond_the_wrap_of_their_low_half() {
        assert!(is_up_to(u32::MAX, 1 << 32) && is_up_to(0, 1 << 32));
        assert!(!is_up_to(1, 1 << 32) && !is_up_to(0, u64::from(u32::MAX)));
    }

    /// Two flows that come and go in the same few places, each always for its own client.
    #[test]
    fn a_reader_never_sees_the_receiver_of_another_flow() {
        let book = Arc::new(Book::new(8, 1));
        let rounds = if cfg!(miri) { 100 } else { 100_000 };
        std::thread::scope(|threads| {
            for worker in [A, B] {
                let book = Arc::clone(&book);
                threads.spawn(move || {
                    for round in 0..rounds {
                        let n = round % 40 + 40 * worker.0;
                        let receiver = client(u16::try_from(n).unwrap());
                        if book.enter(&flow(n), receiver, worker).is_ok() {
                            assert_eq!(book.get(&flow(n), book.generation()), Some(receiver));
                            book.give_up(&flow(n), receiver, worker);
                        }
                    }
                });
            }
            for _ in 0..2 {
                let book = Arc::clone(&book);
                threads.spawn(move || {
                    for round in 0..rounds {
                        let n = round % 640;
                        let found = book.get(&flow(n), book.generation());
                        assert!(found.is_none_or(|r| r == client(u16::try_from(n).unwrap())));
                    }
                });
            }
        });
        assert!(book.is_empty());
    }
}
