//! Cut-through: frames that go from one port to the other without becoming slots.
//!
//! ```text
//!   ring slot --head, copied once--> where to? --the other port--> the two rings exchange buffers
//!                                        |
//!                                        +--anything else--> copied into a slot, the ordinary way
//! ```
//!
//! - Only between two ports over one region of netmap's own, which every program with a port of that
//!   region may write. A client never sees it: what is not for the other port is copied before it is read
//!   again, and decided anew from the copy.
//! - Where a frame goes is asked where every frame's way asks: [`Interface::way_from`],
//!   [`Interface::leaves`].
//! - A frame that finds others waiting for the other port, or its ring full, goes the ordinary way, so that
//!   none overtakes another and what is too much is counted as ever.

use super::Interface;
use super::outlet::Outlet;
use super::recent::Way;
use super::stations::Side;
use crate::classify::HEAD_LEN;
use crate::deliver::Deliver;
use crate::port::BURST;
use crate::port::netmap::Netmap;
use crate::time::Time;

impl Interface {
    /// Whether frames go from port to port where they lie.
    pub(crate) fn cuts(&self) -> bool {
        let host = self.host.as_ref().and_then(|host| host.port.as_netmap());
        let pair = self.wire.port.as_netmap().zip(host);
        self.cut_through && pair.is_some_and(|(wire, host)| wire.is_beside(host))
    }

    /// One burst from a port, cut through. `None` if that cannot be; else how many frames moved.
    pub(crate) fn receive_cut(
        &mut self,
        deliver: &mut Deliver,
        from_host: bool,
        head: &mut [u8; HEAD_LEN],
        now: Time,
    ) -> Option<usize> {
        let is_gone = self.other(!from_host).is_none_or(|outlet| outlet.gone);
        if is_gone || !self.cuts() {
            return None;
        }
        let mut count = 0;
        let mut result = Ok(());
        while count < BURST {
            let Some((from, _)) = self.rings(from_host) else { break };
            let seen = match from.glimpse(head, count == 0) {
                Ok(Some(seen)) => seen,
                Ok(None) => break,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            };
            if count == 0 {
                self.table.look_around();
            }
            count += 1;
            let known = head.get(..seen.length().min(HEAD_LEN)).unwrap_or_default();
            if seen.is_whole()
                && self.crosses(from_host, known, seen.length(), now)
                && self.is_clear(from_host)
                && let Some((from, to)) = self.rings(from_host)
            {
                match from.pass(&seen, to) {
                    Ok(true) => {
                        deliver.totals.received += 1;
                        deliver.totals.to_ports += 1;
                        if let Some(outlet) = self.other(from_host) {
                            outlet.unsent = true;
                        }
                        continue;
                    }
                    Ok(false) => {}
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            let Some((from, _)) = self.rings(from_host) else { break };
            if let Some(frame) = from.take_first(&seen, &mut deliver.pool) {
                deliver.totals.received += 1;
                if from_host {
                    self.from_host(deliver, frame, now);
                } else {
                    self.from_wire(deliver, frame, now);
                }
            }
        }
        if let Err(error) = result
            && let Some(outlet) = self.other(!from_host)
        {
            outlet.fail(error);
        }
        Some(count)
    }

    /// Whether a frame goes to the other port and nowhere else.
    #[inline]
    fn crosses(&mut self, from_host: bool, head: &[u8], length: usize, now: Time) -> bool {
        match (from_host, self.bump.is_some()) {
            (false, _) => {
                self.kernel_hears.is_empty()
                    && self.way_from(Side::Wire, head, length, now) == Some(Way::Host)
            }
            (true, true) => self.way_from(Side::Behind, head, length, now) == Some(Way::Host),
            (true, false) => self.leaves(head, length),
        }
    }

    /// The port that a frame did not come in on.
    fn other(&mut self, from_host: bool) -> Option<&mut Outlet> {
        if from_host { Some(&mut self.wire) } else { self.host.as_mut() }
    }

    /// Whether nothing waits for that.
    fn is_clear(&mut self, from_host: bool) -> bool {
        self.other(from_host).is_some_and(|outlet| !outlet.gone && outlet.out.is_empty())
    }

    /// Both ports, that which a frame came in on first, if both are over netmap.
    #[inline]
    fn rings(&mut self, from_host: bool) -> Option<(&mut Netmap, &mut Netmap)> {
        let (wire, host) = (self.wire.port.netmap()?, self.host.as_mut()?.port.netmap()?);
        Some(if from_host { (host, wire) } else { (wire, host) })
    }
}
