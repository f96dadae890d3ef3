//! One worker's view of the [`Book`]: as of a generation, and for the sessions that are here.

use super::book::{Book, NotEntered, WorkerId};
use super::exact::Refusal;
use crate::classify::Flow;
use crate::verdict::Receiver;
use std::sync::Arc;
use usnet_shmring::ledger::SessionId;

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    book: Arc<Book>,
    worker: WorkerId,
    /// Of the book, when it was last looked at.
    generation: u64,
    /// By session: whether it is attached here. One that ends is told to the workers one after the
    /// other, so the book may speak of sessions that are not.
    present: Box<[bool]>,
}

impl Shared {
    pub(super) fn new(book: Arc<Book>, worker: WorkerId) -> Self {
        let present = vec![false; SessionId::LIMIT.into()].into();
        let generation = book.generation();
        Self { book, worker, generation, present }
    }

    #[inline]
    pub(super) fn look(&mut self) {
        self.generation = self.book.generation();
    }

    #[inline]
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn admit(&mut self, session: SessionId, is_here: bool) {
        if let Some(place) = self.present.get_mut(usize::from(session.0)) {
            *place = is_here;
        }
    }

    pub(super) fn get(&self, flow: &Flow) -> Option<Receiver> {
        self.book.get(flow, self.generation).filter(|receiver| match receiver {
            Receiver::Client(id) => self.present.get(usize::from(id.0)) == Some(&true),
            Receiver::Host => true,
        })
    }

    pub(super) fn enter(&self, flow: &Flow, receiver: Receiver) -> Result<(), Refusal> {
        self.book.enter(flow, receiver, self.worker).map_err(|refused| match refused {
            NotEntered::Taken(other) => Refusal::Taken(other),
            NotEntered::Full => Refusal::Full,
        })
    }

    pub(super) fn give_up(&self, flow: &Flow, receiver: Receiver) {
        self.book.give_up(flow, receiver, self.worker);
    }
}
