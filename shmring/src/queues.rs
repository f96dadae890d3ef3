//! A queue pair: the four rings between one session and one worker, from either side.
//!
//! ```text
//!              inbound region                outbound region
//!   daemon     rx, completion: Producer      tx, fill: Consumer
//!   client     rx, completion: Consumer      tx, fill: Producer
//! ```

use crate::descriptor::RingName;
use crate::layout::Word;
use crate::region::{Mapped, Region};
use crate::ring::{Consumer, PeerSleepFlag, Producer, SleepFlag};
use std::sync::Arc;

/// A ring's producer over mapped memory.
pub type MappedProducer = Producer<Mapped>;
/// A ring's consumer over mapped memory.
pub type MappedConsumer = Consumer<Mapped>;

/// The daemon's side of a queue pair.
#[derive(Debug)]
pub struct DaemonQueues {
    /// Frames to the client.
    pub rx: MappedProducer,
    /// Slots that the client gives back.
    pub fill: MappedConsumer,
    /// Frames from the client.
    pub tx: MappedConsumer,
    /// Sent slots given back to the client.
    pub completion: MappedProducer,
    /// Raised while the daemon sleeps.
    pub sleep: SleepFlag<Mapped>,
    /// Raised while the client sleeps.
    pub peer: PeerSleepFlag<Mapped>,
}

/// The client's side of a queue pair.
#[derive(Debug)]
pub struct ClientQueues {
    /// Frames from the daemon.
    pub rx: MappedConsumer,
    /// Slots given back to the daemon.
    pub fill: MappedProducer,
    /// Frames to the daemon.
    pub tx: MappedProducer,
    /// Sent slots that came back.
    pub completion: MappedConsumer,
    /// Raised while the client sleeps.
    pub sleep: SleepFlag<Mapped>,
    /// Raised while the daemon sleeps.
    pub peer: PeerSleepFlag<Mapped>,
}

struct Half {
    first: MappedProducer,
    second: MappedProducer,
    peer_first: MappedConsumer,
    peer_second: MappedConsumer,
    sleep: SleepFlag<Mapped>,
    peer: PeerSleepFlag<Mapped>,
}

/// One side's view: `own` is the region it writes, `peer` the other's. `names` are the rings of
/// `own`, then of `peer`.
fn half(
    own: &Arc<Region>,
    peer: &Arc<Region>,
    capacity: u32,
    pair: u32,
    names: [RingName; 4],
) -> Option<Half> {
    let producer = |ring, name, produced, consumed| {
        Some(Producer::new(
            name,
            own.own_cells(capacity, pair, ring)?,
            own.own_word(capacity, pair, produced)?,
            peer.peer_word(capacity, pair, consumed)?,
        ))
    };
    let consumer = |ring, name, produced, consumed| {
        Some(Consumer::new(
            name,
            peer.peer_cells(capacity, pair, ring)?,
            peer.peer_word(capacity, pair, produced)?,
            own.own_word(capacity, pair, consumed)?,
        ))
    };
    use Word::{FirstConsumed, FirstProduced, SecondConsumed, SecondProduced, Sleeps};
    Some(Half {
        first: producer(0, names[0], FirstProduced, FirstConsumed)?,
        second: producer(1, names[1], SecondProduced, SecondConsumed)?,
        peer_first: consumer(0, names[2], FirstProduced, FirstConsumed)?,
        peer_second: consumer(1, names[3], SecondProduced, SecondConsumed)?,
        sleep: SleepFlag::new(own.own_word(capacity, pair, Sleeps)?),
        peer: PeerSleepFlag::new(peer.peer_word(capacity, pair, Sleeps)?),
    })
}

impl DaemonQueues {
    /// Queue pair `pair` of two regions that the daemon mapped; `None` if the regions are smaller
    /// than `capacity` and `pair` ask for.
    #[must_use]
    pub fn new(
        inbound: &Arc<Region>,
        outbound: &Arc<Region>,
        capacity: u32,
        pair: u32,
    ) -> Option<Self> {
        let names = [RingName::Rx, RingName::Completion, RingName::Tx, RingName::Fill];
        let half = half(inbound, outbound, capacity, pair, names)?;
        Some(Self {
            rx: half.first,
            completion: half.second,
            tx: half.peer_first,
            fill: half.peer_second,
            sleep: half.sleep,
            peer: half.peer,
        })
    }
}

impl ClientQueues {
    /// Queue pair `pair` of two regions that the client mapped; `None` if the regions are smaller
    /// than `capacity` and `pair` ask for.
    #[must_use]
    pub fn new(
        inbound: &Arc<Region>,
        outbound: &Arc<Region>,
        capacity: u32,
        pair: u32,
    ) -> Option<Self> {
        let names = [RingName::Tx, RingName::Fill, RingName::Rx, RingName::Completion];
        let half = half(outbound, inbound, capacity, pair, names)?;
        Some(Self {
            tx: half.first,
            fill: half.second,
            rx: half.peer_first,
            completion: half.peer_second,
            sleep: half.sleep,
            peer: half.peer,
        })
    }
}
