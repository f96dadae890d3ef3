//! The port: one worker's queues of an interface, behind the program that all workers' have in front of
//! them.
//!
//! ```text
//!   receive   rx ring: [slot with a frame] --> switch      pool: [free slot] --> fill ring
//!   transmit  switch: [slot with a frame] --> tx ring      completion ring --> pool
//! ```
//!
//! - No frame is copied here, but for one to be sent that lies outside of the UMEM. In copy mode the
//!   kernel copies, between its own buffer and the slot.
//! - Of what a client of a trust group sends, only the head is copied where the driver uses the slots itself: it
//!   was judged, and the rest leaves from the client's slot, as a second piece.
//! - Where the driver uses the slots itself, the queues are bound at the first look, when they have been given slots.
//! - A received frame is handed on only if a free slot takes its place, so the number of slots that the
//!   kernel has to receive into never shrinks.
//! - All is sent by the first of its queues, so that no frame overtakes another.
//! - Of what the program lets pass, what the kernel and the switch both need (ARP, neighbour discovery) comes
//!   by a packet socket beside the queues, too.

use super::bpf::{ClaimMap, Hook, Link, SocketMap, VlanMap};
use super::open::AfXdpSpec;
use super::queue::{Binding, Joining, Kick, Queue, wait_for_release};
use super::receive::receive_from;
use super::rings::inconsistent;
use super::umem::{Purpose, Umem};
use crate::net::guard::Pass;
use crate::port::{Burst, Port, PortCounters, PortInfo};
use crate::steer::ClaimedPorts;
use crate::time::Time;
use core::ops::Range;
use core::time::Duration;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use usnet_shmring::pool::{Frame, MIN_FRAME, Pool};

/// How frames reach the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    pub(super) hook: Hook,
    /// Whether the driver uses the slots itself.
    pub(super) zero_copy: bool,
    /// Whether it is polled.
    pub(super) is_polled: bool,
    /// Whether the rest of what clients send leaves from their own slots.
    pub(super) splits: bool,
}

impl Mode {
    const fn text(self) -> &'static str {
        match (self.hook, self.zero_copy, self.is_polled) {
            (Hook::Driver, true, false) if self.splits => {
                "driver, zero-copy, also of clients' slots"
            }
            (Hook::Driver, true, true) if self.splits => {
                "driver, zero-copy, also of clients' slots, busy polling"
            }
            (Hook::Driver, true, false) => "driver, zero-copy",
            (Hook::Driver, false, false) => "driver, copy",
            (Hook::Generic, _, false) => "generic, copy",
            (Hook::Driver, true, true) => "driver, zero-copy, busy polling",
            (Hook::Driver, false, true) => "driver, copy, busy polling",
            (Hook::Generic, _, true) => "generic, copy, busy polling",
        }
    }
}

/// How often an idle port asks whether its interface is still there.
const ERROR_INTERVAL: Duration = Duration::from_millis(10);
/// How soon frames that the kernel had no room for are offered again.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// A port over XDP sockets.
#[derive(Debug)]
pub struct AfXdp {
    info: PortInfo,
    index: u32,
    pub(super) mode: Mode,
    unfinished: bool,
    pub(super) umem: Umem,
    pub(super) queues: Vec<Queue>,
    /// Queues that are bound when there are slots for them.
    pub(super) unbound: Vec<Binding>,
    /// Receive queue that is looked at first.
    turn: usize,
    beside: Option<Box<dyn Port>>,
    /// What the kernel goes on to hear by itself and the switch hears, too.
    passing: Vec<Pass>,
    /// From beside, not looked at yet.
    heard: Burst,
    /// Of these, the kernel's alone.
    passed_by: PortCounters,
    /// All descriptors, where there are several.
    epoll: Option<OwnedFd>,
    /// Since when frames wait in the tx ring, and whether that is for the link.
    waiting: Option<(Time, Kick)>,
    last_error_check: Time,
    counters: PortCounters,
    /// What the program finds sockets in, as long as those of this port's queues are not in it.
    pub(super) unnamed: Option<Arc<SocketMap>>,
    /// Which ports the program leaves to the switch; one for all workers.
    pub(super) claimed: Option<Arc<ClaimMap>>,
    /// Of which VLANs the program leaves nothing to the kernel; one for all workers.
    pub(super) vlans: Option<Arc<VlanMap>>,
    /// The programs' places, taken off the interface before the last worker's queues are closed. Those of a
    /// queue that is closed are the kernel's.
    pub(super) links: Option<Arc<Vec<Link>>>,
}

impl AfXdp {
    /// A port without queues yet.
    pub(super) fn new(spec: &AfXdpSpec, umem: Umem) -> Self {
        Self {
            info: PortInfo {
                name: spec.name.clone(),
                backend: "af_xdp",
                mac: spec.mac,
                mtu: spec.mtu,
            },
            index: spec.index,
            mode: Mode {
                hook: Hook::Driver,
                zero_copy: false,
                is_polled: false,
                splits: !umem.tails().is_empty(),
            },
            unfinished: spec.unfinished,
            umem,
            queues: Vec::new(),
            unbound: Vec::new(),
            turn: 0,
            beside: None,
            passing: spec.passing.clone(),
            heard: Burst::new(),
            passed_by: PortCounters::default(),
            epoll: None,
            waiting: None,
            last_error_check: Time(0),
            counters: PortCounters::default(),
            unnamed: None,
            claimed: None,
            vlans: None,
            links: None,
        }
    }

    /// Adds a port that hears what the program lets pass.
    ///
    /// # Errors
    /// No descriptor is left to watch both.
    pub fn set_beside(&mut self, port: Box<dyn Port>) -> io::Result<()> {
        self.beside = Some(port);
        self.watch()
    }

    /// Takes what came in beside. The packet socket there hears all that the program lets pass: what is the
    /// kernel's alone must not reach it a second time by the switch.
    fn hear(&mut self, now: Time, pool: &mut Pool, into: &mut Burst) -> io::Result<usize> {
        let Self { beside: Some(beside), heard, passing, passed_by, .. } = self else {
            return Ok(0);
        };
        if heard.is_empty() {
            beside.receive(now, pool, heard)?;
        }
        let mut count = 0;
        while into.room() > 0
            && let Some(frame) = heard.pop()
        {
            let bytes = pool.bytes(&frame);
            if passing.iter().any(|pass| pass.covers(bytes)) {
                count += 1;
                if let Err(frame) = into.push(frame) {
                    pool.free(frame);
                }
            } else {
                passed_by.received += 1;
                passed_by.received_bytes += bytes.len() as u64;
                pool.free(frame);
            }
        }
        Ok(count)
    }

    /// Makes one descriptor of several.
    pub(super) fn watch(&mut self) -> io::Result<()> {
        let beside = self.beside.as_ref().and_then(|port| port.descriptor());
        if self.unbound.is_empty() && self.queues.len() + usize::from(beside.is_some()) < 2 {
            return Ok(());
        }
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for descriptor in self.queues.iter().map(AsFd::as_fd).chain(beside) {
            epoll::add(&epoll, descriptor, EventData::new_u64(0), EventFlags::IN)?;
        }
        self.epoll = Some(epoll);
        Ok(())
    }

    /// Closes its queues until there are slots to receive into. A driver that uses slots itself looks for them when a
    /// queue is bound, and some look never again if they find none.
    pub(super) fn bind_later(&mut self, bindings: Vec<Binding>) {
        self.queues.clear();
        for binding in &bindings {
            wait_for_release(self.index, binding.queue, &self.umem);
        }
        self.unbound = bindings;
    }

    /// Binds the queues whose slots had to be there first.
    #[cold]
    fn bind_now(&mut self, pool: &mut Pool) -> io::Result<()> {
        for binding in core::mem::take(&mut self.unbound) {
            let is_first = self.queues.is_empty();
            let mut queue = Queue::prepare(&self.umem, binding, is_first)?;
            queue.fill_up(&mut self.umem, pool)?;
            queue.fill.publish();
            queue.bind(binding, self.queues.first().map(AsFd::as_fd))?;
            if let Some(epoll) = &self.epoll {
                epoll::add(epoll, queue.as_fd(), EventData::new_u64(0), EventFlags::IN)?;
            }
            self.queues.push(queue);
        }
        Ok(())
    }

    /// Has the first queue's frames sent.
    fn kick(&mut self, now: Time) -> io::Result<()> {
        let Some(queue) = self.queues.first_mut() else { return Ok(()) };
        self.waiting = match queue.kick()? {
            Kick::Done => None,
            wait => Some((now, wait)),
        };
        Ok(())
    }

    /// Whether the interface is still there; the kernel says so nowhere else to one that only receives.
    fn check_error(&mut self, now: Time) -> io::Result<()> {
        if now.since(self.last_error_check) < ERROR_INTERVAL {
            return Ok(());
        }
        self.last_error_check = now;
        self.queues.iter().try_for_each(Queue::error)
    }
}

impl Port for AfXdp {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn receive(&mut self, now: Time, pool: &mut Pool, into: &mut Burst) -> io::Result<usize> {
        if let Some((since, _)) = self.waiting
            && now.since(since) >= RETRY_INTERVAL
        {
            self.kick(now)?;
        }
        if !self.unbound.is_empty() {
            self.bind_now(pool)?;
        }
        if let Some(first) = self.queues.first_mut() {
            first.reclaim(&mut self.umem, pool)?;
        }
        let Self { queues, umem, counters, turn, unfinished, unnamed, .. } = self;
        let mut count = 0;
        let total = queues.len().max(1);
        for offset in 0..total {
            let Some(queue) = queues.get_mut((*turn + offset) % total) else { break };
            count += receive_from(queue, umem, counters, pool, into, *unfinished)?;
        }
        // Now that they have slots: what a socket has no slot for is lost to the kernel as well.
        if let Some(sockets) = unnamed.take() {
            queues.iter().try_for_each(|queue| sockets.set(queue.number(), queue.as_fd()))?;
        }
        *turn = (*turn + 1) % total;
        count += self.hear(now, pool, into)?;
        if count == 0 {
            self.check_error(now)?;
        }
        Ok(count)
    }

    fn transmit(&mut self, now: Time, pool: &mut Pool, from: &mut Burst) -> io::Result<usize> {
        let longest = (usize::from(self.info.mtu) + 22).min(self.umem.longest_frame() as usize);
        let splits = self.mode.splits;
        let Self { queues, umem, counters, .. } = self;
        let Some(queue) = queues.first_mut() else { return Ok(0) };
        if let Some((since, Kick::Down)) = self.waiting
            && now.since(since) < ERROR_INTERVAL
        {
            // As a card does whose cable is out.
            let count = from.clear(pool);
            counters.transmit_errors += count as u64;
            return Ok(count);
        }
        queue.reclaim(umem, pool)?;
        let mut room = queue.room()?;
        let mut count = 0;
        while room > 0
            && let Some(frame) = from.pop()
        {
            if splits && let Some(rest) = pool.tail(&frame) {
                let length = frame.len() + usize::from(rest.length);
                let pieces = umem.pieces_of_both(&frame, &rest);
                if pieces > room {
                    from.put_back(frame);
                    break;
                }
                count += 1;
                let both = if length > longest {
                    Err(frame)
                } else {
                    let head = u32::try_from(frame.len()).unwrap_or(0);
                    umem.give_both(frame, &rest, queue.number()).map(|places| (head, places))
                };
                match both {
                    Ok((head, (head_at, rest_at))) => {
                        if !queue.push(umem, head_at, head, true)
                            || !queue.push(umem, rest_at, rest.length.into(), false)
                        {
                            return Err(inconsistent("no room where there was some"));
                        }
                        counters.transmitted += 1;
                        counters.transmitted_bytes += length as u64;
                        counters.split += 1;
                        room -= pieces;
                    }
                    Err(frame) => {
                        counters.transmit_errors += 1;
                        pool.free(frame);
                    }
                }
                continue;
            }
            let length = frame.len();
            if length > longest || length < usize::from(MIN_FRAME) {
                counters.transmit_errors += 1;
                pool.free(frame);
                count += 1;
                continue;
            }
            let frame = match in_umem(umem, pool, frame) {
                Ok(frame) => frame,
                Err(frame) => {
                    from.put_back(frame);
                    break;
                }
            };
            let pieces = umem.pieces(&frame);
            if pieces > room {
                from.put_back(frame);
                break;
            }
            match umem.give(frame, Purpose::Transmit(queue.number())) {
                Ok(address) => {
                    if !queue.push(umem, address, u32::try_from(length).unwrap_or(0), false) {
                        return Err(inconsistent("no room where there was some"));
                    }
                }
                Err(frame) => {
                    pool.free(frame);
                    return Err(inconsistent("a slot that it should not have"));
                }
            }
            counters.transmitted += 1;
            counters.transmitted_bytes += length as u64;
            room -= pieces;
            count += 1;
        }
        if count > 0 || self.waiting.is_some() {
            self.kick(now)?;
        }
        Ok(count)
    }

    fn counters(&self) -> PortCounters {
        let mut counters = self.counters;
        for statistics in self.queues.iter().filter_map(Queue::statistics) {
            counters.missed += statistics.rx_dropped + statistics.rx_ring_full.unwrap_or(0);
        }
        if let Some(beside) = &self.beside {
            let beside = beside.counters();
            counters.received += beside.received - self.passed_by.received;
            counters.received_bytes += beside.received_bytes - self.passed_by.received_bytes;
            counters.missed += beside.missed;
            counters.receive_errors += beside.receive_errors;
            counters.no_slot += beside.no_slot;
        }
        counters
    }

    fn mode(&self) -> Option<&'static str> {
        Some(self.mode.text())
    }

    fn claimed_ports(&self) -> Option<Arc<dyn ClaimedPorts>> {
        Some(Arc::clone(self.claimed.as_ref()?) as Arc<dyn ClaimedPorts>)
    }

    fn serve_vlan(&mut self, id: u16, is_served: bool) {
        if let Some(vlans) = &self.vlans {
            vlans.set(id, is_served);
        }
    }

    fn tails(&self) -> Range<u32> {
        self.umem.tails()
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.epoll {
            Some(epoll) => Some(epoll.as_fd()),
            None => self.queues.first().map(AsFd::as_fd),
        }
    }

    fn next_event(&self) -> Option<Time> {
        self.waiting.map(|(since, _)| since + RETRY_INTERVAL)
    }

    fn close(&mut self, pool: &mut Pool) {
        self.links = None;
        self.epoll = None;
        // What was counted outlives the sockets.
        self.counters = self.counters();
        self.heard.clear(pool);
        if let Some(mut beside) = self.beside.take() {
            beside.close(pool);
        }
        for queue in &mut self.queues {
            if let Joining::Begun(frame) = core::mem::take(&mut queue.joining) {
                pool.free(frame);
            }
        }
        let queues: Vec<u32> = self.queues.drain(..).map(|queue| queue.number()).collect();
        // A driver that uses the slots does so until the kernel has taken them from it, which is after
        // the socket has closed.
        let released = !self.mode.zero_copy
            || queues.iter().all(|queue| wait_for_release(self.index, *queue, &self.umem));
        if released {
            self.umem.take_all(pool);
        } else {
            let interface = &self.info.name;
            tracing::error!(interface, "the driver has not let go of its slots; they stay unused");
        }
    }
}

/// A frame with its bytes in the UMEM: itself, or a copy. It comes back if there is no slot for that.
#[inline]
fn in_umem(umem: &Umem, pool: &mut Pool, frame: Frame) -> Result<Frame, Frame> {
    if umem.contains(&frame) {
        return Ok(frame);
    }
    let Some(mut copy) = pool.alloc() else { return Err(frame) };
    if !umem.contains(&copy) || !pool.copy(&frame, &mut copy) {
        pool.free(copy);
        return Err(frame);
    }
    pool.free(frame);
    Ok(copy)
}
