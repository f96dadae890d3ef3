//! The thread that opens an interface again whose port has failed.
//!
//! ```text
//!   worker --PortGone--> control thread --order--> keeper: retire -> put back -> look -> open -> replace
//!                        control thread <--notice--  waits, and for what; open again
//! ```
//!
//! - Neither the worker nor the control thread waits for an interface: sessions come and go meanwhile.
//! - An interface is opened again as it was opened first: offloads, queueing discipline, host endpoint
//!   and guard with it, also if only one of its ports had failed.
//! - A look changes nothing and is repeated soon; what opening changes is tried less and less often.
//! - The log has a line for each change, none for each attempt.

use super::event::{EventSink, EventSource, event_channel};
use super::interface::{self, OpenError, Opened, Wires};
use super::netmap::Cards;
use super::workers::AllPorts;
use super::{Restore, gateway};
use crate::classify::Mac;
use crate::config::{Interface, Network};
use crate::net::Netlink;
use crate::session::InterfaceId;
use core::error::Error;
use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often it is looked whether an interface is there again.
const LOOK: Duration = Duration::from_millis(100);
/// After how long it is tried again to open one that is there; doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The longest that becomes.
const LAST_RETRY: Duration = Duration::from_secs(5);
/// A port that lived so long has not failed for the same reason as the one before.
const STABLE: Duration = Duration::from_secs(10);
/// How long the link of an interface that was opened is watched: cards reset theirs.
const WATCH: Duration = Duration::from_secs(30);

/// What the control thread must know.
#[derive(Clone, Debug)]
pub enum Notice {
    /// An interface cannot be opened again yet.
    Waits {
        /// Which.
        interface: InterfaceId,
        /// Why not.
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
    },
}

/// The control thread's ends.
#[derive(Debug)]
pub struct KeeperLink {
    /// Interfaces of which a port has failed. Dropping it ends the keeper.
    pub orders: Sender<InterfaceId>,
    /// What became of them.
    pub notices: EventSource<Notice>,
}

/// One interface in the keeper's care.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) id: InterfaceId,
    pub(super) configured: Interface,
    /// Addresses that it must have to be the same.
    pub(super) networks: Vec<Network>,
    /// What is put back when it is closed.
    pub(super) restore: Option<Box<dyn Restore>>,
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
        ports: AllPorts,
    ) -> io::Result<(Self, KeeperLink)> {
        let (orders, inbox) = channel();
        let (sink, notices) = event_channel()?;
        let places = interfaces.into_iter().map(Place::new).collect();
        let state = State { places, cards, ports, inbox, notices: sink };
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
    /// Open; its link is watched since then, and whether it was seen to be down.
    Open { since: Instant, watch: Option<bool> },
    /// A port has failed.
    Gone { since: Instant, why: Option<String>, next_open: Instant },
}

#[derive(Debug)]
struct Place {
    kept: Kept,
    stage: Stage,
    /// When to see to it; `None` while nothing is to be done.
    due: Option<Instant>,
    /// How long to wait after the next failure to open it.
    retry: Duration,
}

impl Place {
    fn new(kept: Kept) -> Self {
        let now = Instant::now();
        let has_link = kept.configured.port.has_link();
        Self {
            stage: Stage::Open { since: now, watch: has_link.then_some(false) },
            due: has_link.then_some(now),
            retry: FIRST_RETRY,
            kept,
        }
    }
}

struct State {
    places: Vec<Place>,
    cards: Cards,
    ports: AllPorts,
    inbox: Receiver<InterfaceId>,
    notices: EventSink<Notice>,
}

impl State {
    fn run(mut self) {
        loop {
            let due = self.places.iter().filter_map(|place| place.due).min();
            let order = match due {
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => self.inbox.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match order {
                Ok(id) => self.retire(id),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let Self { places, cards, ports, notices, .. } = &mut self;
            let now = Instant::now();
            for place in places.iter_mut().filter(|place| place.due.is_some_and(|due| due <= now)) {
                match place.stage {
                    Stage::Open { .. } => watch_link(place),
                    Stage::Gone { .. } => bring_back(place, cards, ports, notices),
                }
            }
        }
    }

    /// A port of this interface has failed: the other is closed, and all is put back.
    fn retire(&mut self, id: InterfaceId) {
        let Self { places, ports, .. } = self;
        let Some(place) = places.iter_mut().find(|place| place.kept.id == id) else { return };
        // Both ports of an interface fail, one after the other; what is said of the second may come
        // when the first has been seen to already, so the worker is asked.
        let (Some(Ok(true)), Stage::Open { since, .. }) = (ports.retire(id), &place.stage) else {
            return;
        };
        let now = Instant::now();
        // One that fails as soon as it is open is opened less and less often.
        let next_open = if since.elapsed() >= STABLE {
            place.retry = FIRST_RETRY;
            now
        } else {
            now + place.retry
        };
        // After the ports: the kernel's path is as it was before us.
        drop(place.kept.restore.take());
        place.stage = Stage::Gone { since: now, why: None, next_open };
        place.due = Some(now);
    }
}

/// Looks, and opens.
fn bring_back(place: &mut Place, cards: &Cards, ports: &AllPorts, notices: &EventSink<Notice>) {
    let Place { kept, stage: Stage::Gone { since, why, next_open }, due, retry } = place else {
        return;
    };
    let Kept { id, configured, networks, restore } = kept;
    let now = Instant::now();
    *due = Some(now + LOOK);
    let opened = match interface::can_return(configured, networks, cards) {
        Ok(()) if *next_open > now => return,
        Ok(()) => {
            let opened = interface::open(configured, ports.workers(), &mut Wires::default(), cards);
            *next_open = now + *retry;
            *retry = LAST_RETRY.min(*retry * 2);
            opened
        }
        Err(error) => Err(error),
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => {
            let text = chain(&error);
            if why.as_ref() != Some(&text) {
                tracing::info!(interface = configured.name, why = text, "not open again yet");
                notices.send(Notice::Waits { interface: *id, why: text.clone() });
                *why = Some(text);
            }
            return;
        }
    };
    let Opened { specs, kept: changed, .. } = opened;
    let Some((mac, mtu)) = specs.first().map(|spec| (spec.mac, spec.mtu)) else { return };
    match ports.replace(*id, specs) {
        Some(Ok(())) => {}
        // The daemon is about to stop.
        _ => return *due = None,
    }
    *restore = Some(Box::new(changed));
    let gone_ms = since.elapsed().as_millis();
    tracing::info!(interface = configured.name, gone_ms, "open again");
    let gateways = gateway::of(configured);
    notices.send(Notice::Reopened { interface: *id, mac, mtu, gateways });
    let has_link = configured.port.has_link();
    place.stage = Stage::Open { since: now, watch: has_link.then_some(false) };
    place.due = has_link.then_some(now);
}

/// Says when the link of an interface that was opened is down, and when it is up. Nothing waits for
/// it: what is sent until then is lost, as on any link that is down.
fn watch_link(place: &mut Place) {
    let Place { kept, stage: Stage::Open { since, watch: Some(was_down) }, due, .. } = place else {
        return place.due = None;
    };
    let (name, now) = (&kept.configured.name, Instant::now());
    let link = Netlink::open().and_then(|mut netlink| netlink.link(name));
    let Ok(link) = link else { return *due = None };
    let after_ms = since.elapsed().as_millis();
    *due = Some(now + LOOK);
    if link.is_running() {
        if *was_down {
            tracing::info!(interface = name, after_ms, "its link is up");
        }
        *due = None;
    } else if since.elapsed() > WATCH {
        tracing::warn!(interface = name, after_ms, "its link is still down");
        *due = None;
    } else if !*was_down {
        *was_down = true;
        tracing::info!(interface = name, "its link is down; frames are lost until it is up");
    }
}

/// An error and what caused it, on one line.
fn chain(error: &OpenError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
