//! Pieces of datagrams that came before the first piece, which alone says whose they are.
//!
//! ```text
//!   later piece, first not seen --> store --the first comes--> after it, to whoever it was for
//!                                     |
//!                                     +--a second, or no room--> the host, if the address is its; or dropped
//! ```
//!
//! - A piece is never shown to a client before a first piece has named that client.
//! - At most [`LIMIT`] pieces wait, and at most [`PER_REMOTE`] of one remote end, whose own oldest makes room: so
//!   it pushes out nobody else's. Where all places are taken the oldest of all gives way, so that who
//!   floods them from many addresses must outrun the datagrams that he wants to harm.
//! - A piece that waits is a slot that the daemon holds. Nothing is allocated for it. While none waits, a frame
//!   costs one comparison, and only if it is of a kind that is not common.

use super::Interface;
use super::from_wire::{has_tag, without_tags};
use super::stations::Side;
use crate::classify::{Address, Classified, Fragment, IpPacket, Payload};
use crate::deliver::Deliver;
use crate::steer::DatagramKey;
use crate::time::Time;
use crate::verdict::{DropReason, Receiver};
use core::time::Duration;
use usnet_shmring::pool::{Frame, Pool};

/// Pieces that wait at one time, on one interface of one worker.
pub(crate) const LIMIT: usize = 128;
/// Of those, pieces of one remote end: a datagram of 64 KiB in packets of 1,500 bytes has 45.
pub(crate) const PER_REMOTE: usize = 48;
/// How long a piece waits. Pieces that take different ways arrive within milliseconds of each other.
pub(crate) const WAIT: Duration = Duration::from_secs(1);

/// A piece that waits.
#[derive(Debug)]
struct Piece {
    frame: Frame,
    key: DatagramKey,
    /// Whoever sent it; of IPv6 the network alone, of which a host may use every address.
    remote: Address,
    from: Side,
    since: Time,
}

/// The pieces that wait, oldest first.
#[derive(Debug)]
pub(crate) struct Early(Vec<Piece>);

impl Early {
    pub(crate) fn new() -> Self {
        Self(Vec::with_capacity(LIMIT))
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// When the oldest has waited long enough.
    pub(crate) fn due(&self) -> Option<Time> {
        self.0.first().map(|piece| piece.since + WAIT)
    }

    /// Frees what waits, uncounted; returns how many.
    pub(crate) fn clear(&mut self, pool: &mut Pool) -> usize {
        let count = self.0.len();
        self.0.drain(..).for_each(|piece| pool.free(piece.frame));
        count
    }

    /// Drops what waits, counted: the ports are gone that it came from and would go to.
    pub(crate) fn give_up_all(&mut self, deliver: &mut Deliver) {
        let count = self.clear(&mut deliver.pool);
        deliver.totals.dropped.add(DropReason::PieceAlone, count as u64);
    }

    /// Puts a piece in; returns the one that has to go for it.
    fn put(&mut self, piece: Piece) -> Option<Piece> {
        let of_remote = || self.0.iter().filter(|other| other.remote == piece.remote).count();
        let victim = if of_remote() >= PER_REMOTE {
            self.0.iter().position(|other| other.remote == piece.remote)
        } else {
            (self.0.len() >= LIMIT).then_some(0)
        };
        let victim = victim.map(|index| self.0.remove(index));
        self.0.push(piece);
        victim
    }

    /// Takes the oldest of a datagram out.
    fn take(&mut self, key: &DatagramKey) -> Option<Piece> {
        let index = self.0.iter().position(|piece| piece.key == *key)?;
        Some(self.0.remove(index))
    }

    /// Takes one out that has waited long enough.
    fn take_old(&mut self, now: Time) -> Option<Piece> {
        let is_old = self.0.first().is_some_and(|piece| now.since(piece.since) >= WAIT);
        is_old.then(|| self.0.remove(0))
    }
}

/// Whom a piece counts for.
fn remote_of(key: &DatagramKey) -> Address {
    if key.source.v4_part().is_some() {
        return key.source;
    }
    let [network @ .., _, _, _, _, _, _, _, _] = key.source.0;
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(network).for_each(|(to, byte)| *to = byte);
    Address(bytes)
}

impl Interface {
    /// Keeps a piece until the first of its datagram comes.
    #[cold]
    pub(super) fn keep(
        &mut self,
        deliver: &mut Deliver,
        frame: Frame,
        key: DatagramKey,
        from: Side,
        now: Time,
    ) {
        let piece = Piece { frame, key, remote: remote_of(&key), from, since: now };
        if let Some(other) = self.early.put(piece) {
            self.give_up(deliver, other, DropReason::PiecesFull, now);
        }
    }

    /// Has the pieces that came before this frame follow it, if it is the first of a datagram and has
    /// just been steered.
    #[inline]
    pub(super) fn let_follow(&mut self, deliver: &mut Deliver, seen: &Classified, now: Time) {
        if !self.early.is_empty() {
            self.let_all_follow(deliver, seen, now);
        }
    }

    #[cold]
    fn let_all_follow(&mut self, deliver: &mut Deliver, seen: &Classified, now: Time) {
        let Payload::Ip(packet @ IpPacket { fragment: Fragment::First { id }, .. }) = &seen.payload
        else {
            return;
        };
        let key = DatagramKey::of(packet, *id);
        let Some(owner) = self.table.datagram(&key, now) else { return };
        while let Some(piece) = self.early.take(&key) {
            self.hand_on(deliver, piece, owner, DropReason::NoReceiver, now);
        }
    }

    /// Gives up pieces whose first did not come; returns how many.
    #[cold]
    pub(crate) fn give_up_old(&mut self, deliver: &mut Deliver, now: Time) -> usize {
        let mut count = 0;
        while let Some(piece) = self.early.take_old(now) {
            self.give_up(deliver, piece, DropReason::PieceAlone, now);
            count += 1;
        }
        count
    }

    /// A piece whose first did not come is no client's. The host asks for what it misses, if it has the
    /// first.
    fn give_up(&mut self, deliver: &mut Deliver, piece: Piece, reason: DropReason, now: Time) {
        let default = self.table.fallback(piece.key.destination);
        let host = default.filter(|receiver| *receiver == Receiver::Host);
        self.hand_on(deliver, piece, host, reason, now);
    }

    fn hand_on(
        &mut self,
        deliver: &mut Deliver,
        piece: Piece,
        to: Option<Receiver>,
        reason: DropReason,
        now: Time,
    ) {
        let Piece { mut frame, from, .. } = piece;
        match to {
            Some(Receiver::Client(id)) => {
                // A priority tag, which another network would have seen.
                if has_tag(deliver.pool.bytes(&frame))
                    && without_tags(deliver, &mut frame).is_none()
                {
                    return deliver.drop_frame(frame, DropReason::Malformed);
                }
                deliver.to_client(frame, id);
            }
            Some(Receiver::Host) if self.bump.is_some() => {
                self.onwards(deliver, frame, from, now);
            }
            Some(Receiver::Host) => self.wire_to_host(deliver, frame, now),
            None => deliver.drop_frame(frame, reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::Protocol;

    #[test]
    fn a_remote_end_is_an_ipv4_address_or_an_ipv6_network_of_64_bits() {
        let of = |text: &str| {
            let source = text.parse::<std::net::IpAddr>().unwrap().into();
            let key = DatagramKey { source, destination: source, protocol: Protocol::UDP, id: 1 };
            remote_of(&key)
        };
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }
}
