//! The thread that opens an interface again whose port has failed, or that has become another.
//!
//! ```text
//!   worker --PortGone--> control thread --order--> keeper: retire -> put back -> look -> open -> replace
//!   kernel --notice of a change (netlink)--------> keeper: look
//!                        control thread <--notice--  waits, and for what; open again; link up, down
//! ```
//!
//! - Neither the worker nor the control thread waits for an interface: sessions come and go meanwhile.
//! - An interface is opened again as it was opened first: offloads, queueing discipline, host endpoint
//!   and guard with it, also if only one of its ports had failed.
//! - It looks when the kernel says that an interface or an address has changed, and once a second in case
//!   that was lost. A look changes nothing; what opening changes is tried less and less often.
//! - An interface whose MTU or link address was changed while it was open is opened again: rings and slots were
//!   chosen for what it was.
//! - The log has a line for each change, none for each attempt.

mod change;
mod vlans;

pub use change::Fresh;

use super::Changes;
use super::event::{EventSink, EventSource, event_channel};
use super::gateway;
use super::interface::{self, Opened, Wires};
use super::netmap::Cards;
use super::record::Records;
use super::serving::Serving;
use super::vlan::Trunk;
use super::workers::AllPorts;
use crate::classify::Mac;
use crate::config::{Interface, Network};
use crate::net::{Link, Netlink, Watch};
use crate::session::InterfaceId;
use crate::switch::InterfaceSpec;
use core::error::Error;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often it is looked whether an interface is there again if the kernel says nothing.
const LOOK: Duration = Duration::from_secs(1);
/// The same where nothing says when something changes.
const LOOK_BLINDLY: Duration = Duration::from_millis(100);
/// How soon a change is looked at: the next ones of the same cause are seen, too.
const SOON: Duration = Duration::from_millis(2);
/// After how long it is tried again to open one that is there; doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The longest that becomes.
const LAST_RETRY: Duration = Duration::from_secs(5);
/// A port that lived so long has not failed for the same reason as the one before.
const STABLE: Duration = Duration::from_secs(10);
/// How long the control thread waits until the kernel hears again.
const HEARING: Duration = Duration::from_secs(2);

/// What the control thread must know.
#[derive(Debug)]
pub enum Notice {
    /// What became of [`Order::Open`]: all are open, or none is, and why.
    Opened(Result<Vec<Fresh>, String>),
    /// An interface is gone, and the system as it was before it came.
    Removed(InterfaceId),
    /// An interface cannot be opened again yet.
    Waits {
        /// Which.
        interface: InterfaceId,
        /// Why not.
        why: String,
    },
    /// An interface is opened again although none of its ports had failed.
    Retired {
        /// Which.
        interface: InterfaceId,
        /// Why.
        why: String,
    },
    /// An interface is open again, and frames move.
    Reopened {
        /// Which.
        interface: InterfaceId,
        /// Its link address now.
        mac: Mac,
        /// Its MTU now.
        mtu: u16,
        /// The kernel's routers there, if it has any.
        gateways: Vec<IpAddr>,
        /// How it is served now.
        serving: Serving,
    },
}

/// What the control thread wants.
#[derive(Debug)]
pub enum Order {
    /// A port of this interface has failed.
    Failed(InterfaceId),
    /// Interfaces are to be opened under these numbers, all or none. [`Notice::Opened`] follows.
    Open(Vec<(InterfaceId, Interface)>),
    /// The workers have got these, or else will not: then what was changed for them is put back.
    Serve(Vec<InterfaceId>, bool),
    /// An interface is no more to be served, and has no sessions. [`Notice::Removed`] follows.
    Remove(InterfaceId),
    /// All ports are about to be closed: the kernel must hear for itself before. Answers when it does.
    Stopping(Sender<()>),
}

/// The control thread's ends.
#[derive(Debug)]
pub struct KeeperLink {
    /// What is to be done. Dropping it ends the keeper.
    pub orders: EventSink<Order>,
    /// What became of it.
    pub notices: EventSource<Notice>,
}

impl KeeperLink {
    /// Has the kernel hear for itself on every interface, and waits until it does.
    pub(crate) fn let_kernel_hear(&self) {
        let (done, wait) = channel();
        self.orders.send(Order::Stopping(done));
        let _ = wait.recv_timeout(HEARING);
    }
}

/// One interface in the keeper's care.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) id: InterfaceId,
    pub(super) configured: Interface,
    /// Addresses that it must have to be the same.
    pub(super) networks: Vec<Network>,
    /// What its VLANs have of it, as long as it is open.
    pub(super) trunk: Trunk,
    /// What is put back when it is closed.
    pub(super) changes: Option<Changes>,
}

/// The running thread. Dropping it waits until the thread is over and has put everything back; whoever
/// does so has dropped the [`KeeperLink`], or the wait has no end.
#[derive(Debug)]
pub(super) struct Keeper {
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// No descriptor, or no thread.
    pub(super) fn start(
        interfaces: Vec<Kept>,
        cards: Cards,
        records: Records,
        ports: AllPorts,
    ) -> io::Result<(Self, KeeperLink)> {
        let (orders, inbox) = event_channel()?;
        let (sink, notices) = event_channel()?;
        // Before the first look, so that no change falls between.
        let watch = Watch::open()
            .inspect_err(|error| tracing::info!(%error, "interfaces are looked at now and then"))
            .ok();
        let places = interfaces.into_iter().map(Place::new).collect();
        let state = State { places, cards, records, ports, inbox, watch, notices: sink };
        let thread = std::thread::Builder::new().name("usnetd-ports".into());
        let thread = Some(thread.spawn(move || state.run())?);
        Ok((Self { thread }, KeeperLink { orders, notices }))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that opens ports has panicked");
        }
    }
}

/// Where an interface stands.
#[derive(Debug)]
enum Stage {
    /// Open.
    Open { since: Instant },
    /// A port has failed, or was closed because the interface has become another.
    Gone { since: Instant, why: Option<String>, next_open: Instant },
}

/// One of the kernel's interfaces, as it was when it was last looked at.
#[derive(Debug)]
struct Seen {
    name: String,
    link: Option<Link>,
}

impl Seen {
    fn now(name: &str) -> Self {
        let link = Netlink::open().and_then(|mut netlink| netlink.link(name)).ok();
        Self { name: name.to_owned(), link }
    }
}

#[derive(Debug)]
struct Place {
    kept: Kept,
    stage: Stage,
    /// When to see to it; `None` where there is nothing to see.
    due: Option<Instant>,
    /// How long to wait after the next failure to open it.
    retry: Duration,
    /// The interface, and the one behind.
    seen: Vec<Seen>,
    /// It came when the daemon ran already.
    is_late: bool,
}

/// What the kernel's interfaces of a configured one are called.
fn links_of(configured: &Interface) -> impl Iterator<Item = &str> {
    let behind = configured.behind.as_ref().map(|behind| behind.interface.as_str());
    let all = core::iter::once(configured.name.as_str()).chain(behind);
    all.filter(|_| configured.port.has_link())
}

impl Place {
    fn new(kept: Kept) -> Self {
        let now = Instant::now();
        let mut place = Self {
            stage: Stage::Open { since: now },
            due: kept.configured.port.has_link().then_some(now),
            retry: FIRST_RETRY,
            seen: Vec::new(),
            is_late: false,
            kept,
        };
        place.look_at_all();
        place
    }

    /// Remembers how its interfaces are now, and says so where a link is down.
    fn look_at_all(&mut self) {
        self.seen = links_of(&self.kept.configured).map(Seen::now).collect();
        for Seen { name, link } in &self.seen {
            if link.as_ref().is_some_and(|link| !link.is_running()) {
                tracing::info!(
                    interface = name,
                    "its link is down; frames are lost until it is up"
                );
            }
        }
    }

    /// Looks at an open interface. Returns why it has to be opened again, if it has.
    fn look(&mut self) -> Option<String> {
        let mut why = None;
        for seen in &mut self.seen {
            let (name, now) = (&seen.name, Seen::now(&seen.name).link);
            // One that is gone fails by itself, with its port.
            let (Some(before), Some(now)) = (&seen.link, now) else { continue };
            if before.index != now.index {
                why = Some(format!("{name} is another interface"));
            } else if before.mtu != now.mtu {
                why = Some(format!("the MTU of {name} is {} now, not {}", now.mtu, before.mtu));
            } else if before.mac != now.mac {
                why = Some(format!("the link address of {name} is {} now", now.mac));
            }
            if before.is_running() != now.is_running() {
                if now.is_running() {
                    tracing::info!(interface = name, "its link is up");
                } else {
                    tracing::info!(
                        interface = name,
                        "its link is down; frames are lost until it is up"
                    );
                }
            }
            seen.link = Some(now);
        }
        why
    }

    /// Whether its port must have failed: an interface is gone, or set down, or another.
    fn retire(&mut self, ports: &AllPorts, why: Option<&str>) -> bool {
        let Stage::Open { since } = self.stage else { return false };
        if let Some(changes) = self.kept.changes.as_mut().filter(|_| why.is_some()) {
            changes.let_kernel_hear();
        }
        // Both ports of an interface fail, one after the other; what is said of the second may come
        // when the first has been seen to already, so the worker is asked.
        if !matches!(ports.retire(self.kept.id, why.is_some()), Some(Ok(true))) {
            return false;
        }
        let now = Instant::now();
        // One that fails as soon as it is open is opened less and less often.
        let next_open = if since.elapsed() >= STABLE || why.is_some() {
            self.retry = FIRST_RETRY;
            now
        } else {
            now + self.retry
        };
        // After the ports: the kernel's path is as it was before us.
        drop(self.kept.changes.take());
        self.stage = Stage::Gone { since: now, why: None, next_open };
        self.due = Some(now);
        true
    }
}

struct State {
    places: Vec<Place>,
    cards: Cards,
    records: Records,
    ports: AllPorts,
    inbox: EventSource<Order>,
    watch: Option<Watch>,
    notices: EventSink<Notice>,
}

impl State {
    fn run(mut self) {
        loop {
            self.wait();
            for order in self.inbox.take() {
                match order {
                    Order::Failed(id) => self.retire(id),
                    Order::Open(wanted) => {
                        let opened = self.open(wanted);
                        self.notices.send(Notice::Opened(opened));
                    }
                    Order::Serve(those, is_served) => self.settle(&those, is_served),
                    Order::Remove(id) => self.remove(id),
                    Order::Stopping(done) => {
                        let changes =
                            self.places.iter_mut().filter_map(|p| p.kept.changes.as_mut());
                        changes.for_each(Changes::let_kernel_hear);
                        // Whatever happens to an interface from here on, nobody opens it again.
                        self.places.iter_mut().for_each(|place| place.due = None);
                        self.watch = None;
                        let _ = done.send(());
                    }
                }
            }
            if self.inbox.is_closed() {
                return;
            }
            if self.watch.as_ref().is_some_and(Watch::take) {
                // Not at once: what follows from the same cause is looked at in the same turn.
                let soon = Instant::now() + SOON;
                self.places.iter_mut().for_each(|p| p.due = p.due.map(|due| due.min(soon)));
            }
            self.see_to_what_is_due();
        }
    }

    /// Waits for an order, a change, or the time of the next look.
    fn wait(&self) {
        let due = self.places.iter().filter_map(|place| place.due).min();
        let wait = due.map(|due| due.saturating_duration_since(Instant::now()));
        // A little more, so that it has passed when the wait is over.
        let wait = wait.and_then(|wait| Timespec::try_from(wait + Duration::from_micros(100)).ok());
        let mut watched = vec![PollFd::from_borrowed_fd(self.inbox.as_fd(), PollFlags::IN)];
        let watch = self.watch.as_ref().map(|w| PollFd::from_borrowed_fd(w.as_fd(), PollFlags::IN));
        watched.extend(watch);
        let _ = poll(&mut watched, wait.as_ref());
    }

    fn see_to_what_is_due(&mut self) {
        let Self { places, cards, records, ports, notices, watch, .. } = self;
        let next_look = if watch.is_some() { LOOK } else { LOOK_BLINDLY };
        let now = Instant::now();
        for at in 0..places.len() {
            let trunk = vlans::trunk_of(places, at);
            let Some(place) = places.get_mut(at) else { break };
            if place.due.is_none_or(|due| due > now) {
                continue;
            }
            place.due = Some(now + next_look);
            if let Stage::Open { .. } = place.stage {
                let Some(why) = place.look() else { continue };
                let name = &place.kept.configured.name;
                tracing::info!(interface = name, why, "it is opened again");
                if place.retire(ports, Some(&why)) {
                    notices.send(Notice::Retired { interface: place.kept.id, why });
                    vlans::retire_those_of(places, at, ports, notices);
                }
            }
            let Some(place) = places.get_mut(at) else { break };
            bring_back(place, trunk, (cards, records), ports, notices);
        }
    }

    /// A port of this interface has failed: the other is closed, and all is put back.
    fn retire(&mut self, id: InterfaceId) {
        let Some(at) = self.places.iter().position(|place| place.kept.id == id) else { return };
        let Self { places, ports, notices, .. } = self;
        if places.get_mut(at).is_some_and(|place| place.retire(ports, None)) {
            vlans::retire_those_of(places, at, ports, notices);
        }
    }
}

/// Looks, and opens.
fn bring_back(
    place: &mut Place,
    trunk: Option<Trunk>,
    (cards, records): (&Cards, &Records),
    ports: &AllPorts,
    notices: &EventSink<Notice>,
) {
    let Place { kept, stage: Stage::Gone { since, why, next_open }, due, retry, .. } = place else {
        return;
    };
    let Kept { id, configured, networks, trunk: own, changes } = kept;
    let now = Instant::now();
    let opened = match interface::can_return(configured, networks, trunk, cards) {
        Ok(()) if *next_open > now => return *due = Some(*next_open),
        Ok(()) => {
            let opened = open_again(configured, trunk, ports.workers(), cards, records);
            *next_open = now + *retry;
            *due = Some(*next_open);
            *retry = LAST_RETRY.min(*retry * 2);
            opened
        }
        Err(error) => Err(chain(&error)),
    };
    let (specs, changed) = match opened {
        Ok(opened) => opened,
        Err(text) => {
            if why.as_ref() != Some(&text) {
                tracing::info!(interface = configured.name, why = text, "not open again yet");
                notices.send(Notice::Waits { interface: *id, why: text.clone() });
                *why = Some(text);
            }
            return;
        }
    };
    let Some((mac, mtu)) = specs.first().map(|spec| (spec.mac, spec.mtu)) else { return };
    match ports.replace(*id, specs) {
        Some(Ok(())) => {}
        // The daemon is about to stop.
        _ => return *due = None,
    }
    *own = Trunk { mac, mtu };
    let serving = changed.kept.serving().clone();
    *changes = Some(changed);
    let gone_ms = since.elapsed().as_millis();
    tracing::info!(interface = configured.name, gone_ms, "open again");
    let gateways = gateway::of(configured);
    notices.send(Notice::Reopened { interface: *id, mac, mtu, gateways, serving });
    place.stage = Stage::Open { since: now };
    place.due = Some(now + SOON);
    place.look_at_all();
}

/// Opens an interface as at the start, with a record of how it is now.
fn open_again(
    configured: &Interface,
    trunk: Option<Trunk>,
    workers: usize,
    cards: &Cards,
    records: &Records,
) -> Result<(Vec<InterfaceSpec>, Changes), String> {
    let record = records.begin(configured).map_err(|error| chain(&error))?;
    let opened = interface::open_any(configured, trunk, workers, &mut Wires::default(), cards);
    let Opened { specs, kept, .. } = opened.map_err(|error| chain(&error))?;
    Ok((specs, Changes { kept, _records: record }))
}

/// An error and what caused it, on one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
