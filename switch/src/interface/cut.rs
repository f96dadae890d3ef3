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
use crate::deliver::Deliver;
use crate::port::netmap::{Glimpse, Glimpses, Netmap};
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
        glimpses: &mut Glimpses,
        now: Time,
    ) -> Option<usize> {
        let is_gone = self.other(!from_host).is_none_or(|outlet| outlet.gone);
        if is_gone || !self.cuts() {
            return None;
        }
        let (from, _) = self.rings(from_host)?;
        let count = match from.glimpse(glimpses) {
            Ok(count) => count,
            Err(error) => {
                self.fail_other(!from_host, error);
                return Some(0);
            }
        };
        if count == 0 {
            return Some(0);
        }
        self.table.look_around();
        // Frames that cross wait for the first that does not, or for the end.
        let mut run = 0..0;
        for index in 0..count {
            let Some((seen, head)) = glimpses.get(index) else { break };
            if seen.is_whole() && self.crosses(from_host, head, seen.length(), now) {
                run.end = index + 1;
                continue;
            }
            self.cross(deliver, from_host, glimpses.range(run), now);
            self.take(deliver, from_host, seen, now);
            run = index + 1..index + 1;
        }
        self.cross(deliver, from_host, glimpses.range(run), now);
        Some(count)
    }

    /// Passes frames that cross; those for which there is no room go the ordinary way.
    fn cross(&mut self, deliver: &mut Deliver, from_host: bool, run: &[Glimpse], now: Time) {
        if run.is_empty() {
            return;
        }
        let mut passed = 0;
        if self.is_clear(from_host)
            && let Some((from, to)) = self.rings(from_host)
        {
            match from.pass(run, to) {
                Ok(count) => passed = count,
                Err(error) => return self.fail_other(!from_host, error),
            }
            deliver.totals.received += passed as u64;
            deliver.totals.to_ports += passed as u64;
            if let Some(outlet) = self.other(from_host) {
                outlet.unsent |= passed > 0;
            }
        }
        for seen in run.iter().skip(passed) {
            self.take(deliver, from_host, seen, now);
        }
    }

    /// Copies a frame into a slot, and sends it the ordinary way.
    #[inline(never)]
    fn take(&mut self, deliver: &mut Deliver, from_host: bool, seen: &Glimpse, now: Time) {
        let Some((from, _)) = self.rings(from_host) else { return };
        if let Some(frame) = from.take_first(seen, &mut deliver.pool) {
            deliver.totals.received += 1;
            if from_host {
                self.from_host(deliver, frame, now);
            } else {
                self.from_trunk(deliver, frame, now);
            }
        }
    }

    /// A port's rings say what cannot be.
    #[cold]
    fn fail_other(&mut self, of_host: bool, error: std::io::Error) {
        if let Some(outlet) = self.other(of_host) {
            outlet.fail(error);
        }
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
