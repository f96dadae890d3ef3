//! DHCP of several parties: requests of clients and of the kernel, and whose the answers are.
//!
//! ```text
//!   client --vet--> copy --permitted?--> transactions --> wire, and the host, where a server may be
//!   kernel ----------------------------> transactions --> wire
//!   answer --> who asked, and nobody else; the host, if nobody is known to have asked
//! ```
//!
//! What a client asks no other client hears: it would learn the number that the answers carry.

use super::Interface;
use crate::classify::{Classified, IpPacket, Payload, classify};
use crate::deliver::{Deliver, Sent};
use crate::dhcp::{answered, permitted, question};
use crate::session::Session;
use crate::steer::NotAsked;
use crate::time::Time;
use crate::verdict::{DropReason, Receiver};
use usnet_shmring::pool::Frame;

impl Interface {
    /// Who has asked for this answer of a server, as far as is known.
    #[cold]
    pub(super) fn dhcp_asker(
        &self,
        packet: &IpPacket,
        bytes: &[u8],
        now: Time,
    ) -> Option<Receiver> {
        self.table.transactions.owner(&answered(packet, bytes)?, now)
    }

    /// The kernel asks. One that finds no place is not noted: its answers are the host's in any case.
    #[cold]
    pub(super) fn note_dhcp(&mut self, packet: &IpPacket, bytes: &[u8], now: Time) {
        if let Some(asked) = question(packet, bytes) {
            let _ = self.table.transactions.ask(asked, Receiver::Host, now);
        }
    }

    /// A client's question, whose type lies behind what was read of it: judged on a copy.
    #[cold]
    pub(super) fn dhcp_from_client(
        &mut self,
        deliver: &mut Deliver,
        from: &mut Session,
        sent: Sent<'_>,
        now: Time,
    ) {
        let Some(copy) = deliver.copy_sent(&sent) else {
            return deliver.drop_sent(from, sent.frame, DropReason::NoSlot);
        };
        let seen = match self.enter_dhcp(deliver, from, &copy, now) {
            Ok(seen) => seen,
            Err(reason) => {
                deliver.pool.free(copy);
                return deliver.drop_sent(from, sent.frame, reason);
            }
        };
        deliver.complete(from, sent.frame);
        if seen.destination == self.mac {
            return self.to_host(deliver, copy, now);
        }
        if seen.destination.is_group()
            && self.host.is_some()
            && let Some(second) = deliver.duplicate(&copy)
        {
            self.to_host(deliver, second, now);
        }
        self.wire.push(deliver, copy, now);
    }

    /// Enters what the copy of a client's frame asks, if the client may ask so.
    fn enter_dhcp(
        &mut self,
        deliver: &Deliver,
        from: &Session,
        copy: &Frame,
        now: Time,
    ) -> Result<Classified, DropReason> {
        let bytes = deliver.pool.bytes(copy);
        let seen = classify(bytes).map_err(|_| DropReason::Malformed)?;
        let Payload::Ip(packet) = &seen.payload else { return Err(DropReason::NotPermitted) };
        let is_one = copy.offload().segment().is_none();
        let asked = permitted(packet, bytes, self.mac, |address| from.owns(address));
        let asked = asked.filter(|_| is_one).ok_or(DropReason::NotPermitted)?;
        match self.table.transactions.ask(asked, Receiver::Client(from.id), now) {
            Ok(()) => Ok(seen),
            Err(NotAsked::Taken) => Err(DropReason::SpoofedPort),
            Err(NotAsked::TooMany) => Err(DropReason::TableFull),
        }
    }
}
