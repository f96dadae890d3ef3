//! A client's part of the self-test: frames in slots that a client writes, sent from there.

use super::exchange::Source;
use bytemuck::Zeroable;
use std::io;
use usnet_shmring::control::Attached;
use usnet_shmring::layout::VERSION;
use usnet_shmring::ledger::SessionId;
use usnet_shmring::pool::{Frame, HomeKind, Pool};
use usnet_shmring::queues::DaemonQueues;
use usnet_shmring::view::View;
use usnet_switch::control::memory::{Memory, Shape};

/// The group that it belongs to.
pub(super) const GROUP: &str = "selftest";
/// Slots that it sends from: fewer than frames fit into a card's ring, so that each comes back often.
const SLOTS: u32 = 64;
/// Bytes of a frame that the daemon copies.
const HEAD: u16 = 192;
const SESSION: SessionId = SessionId(0);

/// A client of mode `shared`, and the daemon's side of its rings.
#[derive(Debug)]
pub(super) struct Client {
    view: View,
    queues: DaemonQueues,
}

impl Client {
    /// Attaches it to the pool.
    pub(super) fn attach(memory: &mut Memory, pool: &mut Pool) -> io::Result<Self> {
        let shape =
            Shape { pairs: 1, ring_capacity: SLOTS, transmit_slots: SLOTS, receive_slots: 0 };
        let (parts, share) = memory.build(shape, Some(GROUP)).map_err(io::Error::other)?;
        let part = parts.into_iter().next().ok_or(io::ErrorKind::OutOfMemory)?;
        let attached = Attached {
            version: VERSION,
            ring_capacity: SLOTS,
            slot_size: memory.slot_size().bytes(),
            inbound_size: share.inbound_size,
            outbound_size: share.outbound_size,
            segments: share.segments,
            pairs: 1,
            ..Attached::zeroed()
        };
        let descriptors = share
            .descriptors()
            .iter()
            .map(|fd| fd.try_clone_to_owned())
            .collect::<Result<_, _>>()?;
        let (mut views, _) = View::map(&attached, descriptors).map_err(io::Error::other)?;
        let view = views.pop().ok_or(io::ErrorKind::InvalidData)?;
        pool.add_home(HomeKind::Transmit(SESSION), part.transmit).map_err(io::Error::other)?;
        pool.allow_tails();
        Ok(Self { view, queues: part.queues })
    }

    /// Whether all of its slots are back.
    pub(super) fn has_all(&mut self, pool: &mut Pool) -> io::Result<bool> {
        self.take_back(pool)?;
        Ok(self.view.transmitter.free() == self.view.transmitter.slots())
    }

    fn take_back(&mut self, pool: &mut Pool) -> io::Result<()> {
        // A ring with a cell for each slot has room for all that are away, once it has been asked.
        self.queues.completion.refresh().map_err(io::Error::other)?;
        while let Some((_, raw)) = pool.take_released() {
            let _ = self.queues.completion.push(raw);
        }
        self.queues.completion.publish();
        self.view.transmitter.reclaim().map(drop).map_err(io::Error::other)
    }
}

impl Source for Client {
    fn make(
        &mut self,
        pool: &mut Pool,
        length: u16,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> io::Result<Option<Frame>> {
        self.take_back(pool)?;
        let transmitter = &mut self.view.transmitter;
        let Some(mut slot) = transmitter.next() else { return Ok(None) };
        let bytes = slot.as_mut_slice().get_mut(..length.into());
        let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
        fill(bytes);
        let mut head = [0; 64];
        for (to, from) in head.iter_mut().zip(bytes) {
            *to = *from;
        }
        slot.send(length.into()).map_err(io::Error::other)?;
        transmitter.publish();
        let tx = &mut self.queues.tx;
        tx.refresh().map_err(io::Error::other)?;
        let sent = tx.pop().ok_or(io::ErrorKind::InvalidData)?;
        tx.release();
        let frame = pool.accept(SESSION, sent).map_err(io::Error::other)?;
        match pool.join(&head, frame, HEAD) {
            Ok(frame) => Ok(Some(frame)),
            Err(frame) => {
                if let Some((_, raw)) = pool.complete(frame) {
                    let _ = self.queues.completion.push(raw);
                }
                Ok(None)
            }
        }
    }
}
