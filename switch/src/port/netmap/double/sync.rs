//! NIOCTXSYNC and NIOCRXSYNC: all rings of one direction that a device has bound.
//!
//! A ring with bad positions is passed over, and the call succeeds all the same.

use super::adapter::{Adapter, Bound, Kind};
use super::machine::Machine;
use super::media::Bell;
use super::transfer::{
    arrive, arrive_from_host, give_to_peer, nic_of, post, post_frames, send, send_to_host,
    send_to_peer,
};
use super::vale;
use crate::port::netmap::kernel::Direction;
use rustix::io::Errno;
use std::io;

impl Machine {
    pub(super) fn sync(
        &mut self,
        bound: &Bound,
        direction: Direction,
        bell: &Bell,
    ) -> io::Result<()> {
        let adapter = self.at(bound.adapter)?;
        if adapter.is_gone {
            return Err(Errno::IO.into());
        }
        let marks = self.marks(bound.adapter);
        let adapter = self.at(bound.adapter)?;
        let (peer, is_vale) = (adapter.peer(), matches!(adapter.kind, Kind::Vale { .. }));
        match direction {
            Direction::Transmit if is_vale => {
                let Self { adapters, bridges, .. } = self;
                vale::transmit(adapters, bound.adapter, &bound.transmit, bridges);
            }
            Direction::Transmit => {
                if let Some(peer) = peer {
                    let pair = self.adapters.get_disjoint_mut([bound.adapter, peer]);
                    if let Ok([Some(this), Some(peer)]) = pair {
                        transmit_to_peer(this, peer, bound);
                    }
                }
                transmit(self.at(bound.adapter)?, bound);
            }
            Direction::Receive => {
                if let Some(peer) = peer {
                    let pair = self.adapters.get_disjoint_mut([bound.adapter, peer]);
                    if let Ok([Some(this), Some(peer)]) = pair {
                        receive_from_peer(this, peer, bound);
                    }
                }
                let adapter = self.at(bound.adapter)?;
                receive(adapter, bound);
                let bound = adapter.receive.get(bound.receive.clone()).unwrap_or_default();
                bell.set(bound.iter().any(|ring| ring.has_unseen()));
            }
        }
        if let Some(marks) = marks {
            self.tell_monitors(bound.adapter, &marks);
        }
        Ok(())
    }
}

/// Rings that lead to the wire or the host.
fn transmit(adapter: &mut Adapter, bound: &Bound) {
    let is_paired = adapter.peer().is_some();
    let Adapter { kind, transmit, counts, view: Some(view), .. } = adapter else { return };
    let Some(nic) = nic_of(kind) else { return };
    for (id, kring) in transmit.iter_mut().enumerate().filter(|(id, _)| bound.transmit.contains(id))
    {
        let is_host = id >= counts.tx;
        let Some(ring) = kring.view(view).filter(|_| is_host || !is_paired) else { continue };
        kring.begin(&ring, view);
        if !kring.is_good {
            continue;
        }
        if is_host {
            send_to_host(nic, kring, &ring, view);
        } else {
            // Nothing is shown of a sync that the driver gave up.
            if !post_frames(nic, kring, &ring, view) {
                continue;
            }
            send(nic, kring, view);
        }
        kring.finish(&ring);
    }
}

/// Rings that the wire, the host or a switch fills.
fn receive(adapter: &mut Adapter, bound: &Bound) {
    let is_paired = adapter.peer().is_some();
    let is_open = adapter.transmits();
    let Adapter { kind, receive, counts, view: Some(view), bells, .. } = adapter else { return };
    let is_ours = |id: &usize| bound.receive.contains(id) && (!is_paired || *id >= counts.rx);
    let needs_flag = nic_of(kind).is_some_and(|nic| nic.needs_flag);
    for (id, kring) in receive.iter_mut().enumerate().filter(|(id, _)| is_ours(id)) {
        let Some(ring) = kring.view(view) else { continue };
        kring.begin(&ring, view);
        if kring.is_good {
            post(kring, &ring, needs_flag && id < counts.rx, view);
        }
    }
    if let Some(nic) = nic_of(kind)
        && let Some((of_card, of_host)) = receive.split_at_mut_checked(counts.rx)
    {
        let before = nic.counters;
        if bound.receive.start < counts.rx && !is_paired {
            arrive(nic, of_card, view);
        }
        if bound.receive.end > counts.rx && is_open {
            arrive_from_host(nic, of_host, view);
        }
        if bells.len() > 1 && nic.counters != before {
            // Some of it may be for another device's rings.
            for bell in bells {
                bell.set(true);
            }
        }
    }
    for (_, kring) in receive.iter_mut().enumerate().filter(|(id, _)| is_ours(id)) {
        if let Some(ring) = kring.view(view) {
            kring.finish(&ring);
        }
    }
}

fn transmit_to_peer(this: &mut Adapter, peer: &mut Adapter, bound: &Bound) {
    let Some(view) = &this.view else { return };
    let mut has_sent = false;
    let rings = this.transmit.iter_mut().take(this.counts.tx).zip(&mut peer.receive);
    for (_, (kring, other)) in rings.enumerate().filter(|(id, _)| bound.transmit.contains(id)) {
        let (Some(ring), Some(theirs)) = (kring.view(view), other.view(view)) else { continue };
        kring.begin(&ring, view);
        if kring.is_good {
            has_sent |= send_to_peer(kring, &ring, other, &theirs);
            kring.finish(&ring);
        }
    }
    for bell in peer.bells.iter().filter(|_| has_sent) {
        bell.set(true);
    }
}

fn receive_from_peer(this: &mut Adapter, peer: &mut Adapter, bound: &Bound) {
    let Some(view) = &this.view else { return };
    let rings = this.receive.iter_mut().take(this.counts.rx).zip(&mut peer.transmit);
    for (_, (kring, other)) in rings.enumerate().filter(|(id, _)| bound.receive.contains(id)) {
        let (Some(ring), Some(theirs)) = (kring.view(view), other.view(view)) else { continue };
        kring.begin(&ring, view);
        if kring.is_good {
            give_to_peer(kring, &ring, other, &theirs);
            kring.finish(&ring);
        }
    }
}
