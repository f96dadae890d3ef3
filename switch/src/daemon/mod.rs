//! The daemon: threads around the core.
//!
//! ```text
//!   control thread  sessions, rules, policy   --commands-->  worker threads  each Switch::step
//!         |  ^                                <--events----
//!         v  |    orders, notices                    ^
//!   keeper thread   opens again what has failed -----+ ports
//! ```

mod auto;
mod bump;
mod event;
mod gateway;
pub mod interface;
mod keeper;
mod macvtap;
pub mod netmap;
mod notify;
mod record;
mod rss;
mod serving;
mod signal;
mod vlan;
mod worker;
mod workers;
mod xdp;

pub use auto::{Choice, PassedOver};
pub use event::{EventSink, EventSource, event_channel};
pub use keeper::{Fresh, KeeperLink, Notice, Order};
pub use notify::Notify;
use record::Record;
pub use record::{RecordError, Records, Restored};
pub use rss::{Outcome, Rss};
pub use serving::Serving;
pub use signal::Signals;
pub use worker::{IdlePolicy, Worker};
pub use workers::Workers;

use crate::config::{self, Config, ConfigError, Network};
use crate::control::kernel_ports::KernelPorts;
use crate::control::memory::Memory;
use crate::control::server::{Server, ServerError, SharedInterface, StopHandle};
use crate::port::netmap::Kernel;
use crate::session::InterfaceId;
use crate::steer::EXACT_FLOWS;
use crate::steer::book::{Book, WorkerId};
use crate::switch::{InterfaceSpec, Switch, SwitchError};
use interface::{OpenError, Opened};
use keeper::{Keeper, Kept};
use netmap::Cards;
use rustix::event::EventfdFlags;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use thiserror::Error;
use usnet_shmring::pool::Pool;
use vlan::Trunk;

/// An interface that is ready to be served.
#[derive(Debug)]
pub struct ReadyInterface {
    /// What the configuration says of it.
    pub configured: config::Interface,
    /// Addresses that host and clients share.
    pub networks: Vec<Network>,
    /// Routers.
    pub gateways: Vec<IpAddr>,
    /// Its ports, for the switch of each worker.
    pub specs: Vec<InterfaceSpec>,
    /// Puts the interface back as it was found when it is dropped, after the ports.
    pub changes: Changes,
}

/// What an open interface has changed in the system; put back when this is dropped.
#[derive(Debug)]
pub struct Changes {
    /// First, so that the record goes when all is put back.
    kept: interface::Kept,
    _records: Vec<Record>,
}

impl Changes {
    /// Lets the kernel hear for itself again: before the ports close, so that nothing is for nobody meanwhile.
    fn let_kernel_hear(&mut self) {
        self.kept.let_kernel_hear();
    }
}

/// All memory of the daemon, made before its interfaces are opened: a port may put it to use.
#[derive(Debug)]
pub struct Prepared {
    memory: Memory,
    /// By worker.
    pools: Vec<Pool>,
    cards: Cards,
    records: Records,
}

impl Prepared {
    /// Makes the memory that a configuration asks for. `netmap` is asked for ports of that kind, if it
    /// names any.
    ///
    /// # Errors
    /// [`DaemonError::Server`]: no memory.
    pub fn new(config: &Config, netmap: Arc<dyn Kernel>) -> Result<Self, DaemonError> {
        let prepared = auto::prepared_for(config, netmap.as_ref());
        let (memory, pools, cards) =
            Cards::prepare(&prepared, netmap).map_err(ServerError::from)?;
        let records = Records::at(config.control.state_dir.clone());
        Ok(Self { memory, pools, cards, records })
    }
}

impl ReadyInterface {
    /// Opens every interface that the configuration names. Before that, what a process has left that
    /// was killed is put back.
    ///
    /// # Errors
    /// [`DaemonError::Open`], [`DaemonError::Record`]; those that were open by then are put back.
    pub fn open_all(config: &Config, prepared: &mut Prepared) -> Result<Vec<Self>, DaemonError> {
        let mut wires = interface::Wires::new(&config.interfaces, config.worker.count)?;
        let Prepared { cards, records, .. } = prepared;
        records.restore().log();
        let mut all: Vec<Self> = Vec::with_capacity(config.interfaces.len());
        for configured in &config.interfaces {
            let record = records.begin(configured)?;
            let of = configured.vlan.as_ref().map(|vlan| vlan.of.as_str());
            let trunk = all.iter().find(|open| of == Some(&open.configured.name));
            let trunk = trunk.and_then(|open| Trunk::of(&open.specs));
            let workers = config.worker.count;
            let Opened { specs, addresses, kept } =
                interface::open_any(configured, trunk, workers, &mut wires, cards)?;
            let gateways = gateway::of(configured);
            let (configured, changes) = (configured.clone(), Changes { kept, _records: record });
            all.push(Self { configured, networks: addresses, gateways, specs, changes });
        }
        Ok(all)
    }
}

/// Why the daemon cannot start or go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The configuration does not fit the interfaces.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An interface cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What an interface is like cannot be recorded.
    #[error("cannot record what an interface is like before it is changed; see control.state_dir")]
    Record(#[from] RecordError),
    /// The control plane failed.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The switch does not take an interface.
    #[error("cannot serve interface {name}")]
    Interface {
        /// Its name.
        name: String,
        /// What the switch says.
        source: SwitchError,
    },
    /// A thread or a descriptor could not be had.
    #[error("cannot start {what}")]
    Start {
        /// What.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The control thread panicked.
    #[error("the control thread has panicked; this is a bug")]
    Panicked,
}

impl DaemonError {
    /// Whether the configuration has to be changed.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Config(_))
    }

    /// Whether it is the daemon's own fault.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        matches!(self, Self::Panicked | Self::Server(ServerError::WorkerGone))
    }
}

/// A running daemon: the control thread, the workers, and the thread that opens ports. Dropping it stops
/// them.
#[derive(Debug)]
pub struct Daemon {
    stop: StopHandle,
    finished: OwnedFd,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
}

/// A number that nobody can guess.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// What the workers write of an interface's flows, if there are several.
fn book(workers: usize) -> Option<Arc<Book>> {
    (workers > 1).then(|| Arc::new(Book::new(2 * EXACT_FLOWS, seed())))
}

/// Adds to each worker's switch its part of an interface; with several, they learn together.
fn add_interface(
    switches: &mut [Switch],
    specs: Vec<InterfaceSpec>,
) -> Result<Option<InterfaceId>, SwitchError> {
    let book = book(switches.len());
    let mut added = None;
    for (number, (switch, spec)) in (0..).zip(switches.iter_mut().zip(specs)) {
        let id = switch.add_interface(spec)?;
        if let Some((book, worker)) = book.clone().zip(WorkerId::new(number)) {
            switch.share_flows(id, book, worker)?;
        }
        added = Some(id);
    }
    Ok(added)
}

/// Rings when the control thread is over, however it ends.
struct Finished(OwnedFd);

impl Drop for Finished {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl Daemon {
    /// Starts to serve `interfaces` under `config`. When this returns, clients can connect.
    ///
    /// # Errors
    /// [`DaemonError`]; the interfaces are put back.
    pub fn start(
        config: Config,
        prepared: Prepared,
        interfaces: Vec<ReadyInterface>,
    ) -> Result<Self, DaemonError> {
        let known: Vec<_> = interfaces
            .iter()
            .map(|i| (i.configured.name.as_str(), i.networks.as_slice()))
            .collect();
        config.check_addresses(&known)?;
        let start = |what| move |source| DaemonError::Start { what, source };
        let Prepared { memory, pools, cards, records } = prepared;
        let mut switches: Vec<Switch> = pools.into_iter().map(|p| Switch::new(p, seed())).collect();
        let mut kept: Vec<Kept> = Vec::with_capacity(interfaces.len());
        let mut shared = Vec::with_capacity(interfaces.len());
        let mut kernel_ports = KernelPorts::default();
        for interface in interfaces {
            let ReadyInterface { configured, networks, gateways, specs, changes } = interface;
            let name = configured.name.clone();
            let refused = |source| DaemonError::Interface { name: name.clone(), source };
            let serving = changes.kept.serving().clone();
            let described = SharedInterface::new(
                InterfaceId(0),
                name.clone(),
                &specs,
                networks.clone(),
                (gateways, serving),
            );
            let Some(interface) = described else { continue };
            let Some(trunk) = Trunk::of(&specs) else { continue };
            let Some(id) = add_interface(&mut switches, specs).map_err(refused)? else { continue };
            if let Some(vlan) = &configured.vlan
                && let Some(of) = kept.iter().find(|kept| kept.configured.name == vlan.of)
            {
                for switch in &mut switches {
                    switch.set_vlan(id, of.id, vlan.id).map_err(refused)?;
                }
            }
            let index = usize::from(id.0);
            kernel_ports.add(index, &configured, &networks);
            if let Some(ports) = kernel_ports.flow_ports(index) {
                for switch in &mut switches {
                    switch.set_flow_ports(id, ports.clone()).map_err(refused)?;
                }
            }
            kept.push(Kept { id, configured, networks, trunk, changes: Some(changes) });
            shared.push(SharedInterface { id, ..interface });
        }
        let settings = &config.worker;
        let idle = |number: usize| IdlePolicy {
            spin: (!settings.busy_poll).then_some(settings.spin),
            cpu: settings.cpus.get(number).copied().map(usize::from),
        };
        let each = switches.into_iter().enumerate().map(|(number, s)| (s, idle(number)));
        let workers = Workers::start(each).map_err(start("the worker threads"))?;
        let stop = StopHandle::new().map_err(start("the control thread"))?;
        let (keeper, link) = Keeper::start(kept, cards, records, workers.port_commands())
            .map_err(start("the thread that opens ports"))?;
        let server =
            Server::new(config, shared, workers, link, memory, kernel_ports, stop.clone())?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let finished = rustix::event::eventfd(0, flags)
            .map_err(io::Error::from)
            .map_err(start("the control thread"))?;
        let rings = Finished(finished.try_clone().map_err(start("the control thread"))?);
        // In this order they are dropped, too: the server stops the worker, so the ports have closed
        // before the keeper puts anything back.
        let running = (server, keeper);
        let thread = std::thread::Builder::new()
            .name("usnetd-control".into())
            .spawn(move || {
                let _rings = rings;
                let (server, _keeper) = running;
                server.run()
            })
            .map_err(start("the control thread"))?;
        Ok(Self { stop, finished, thread: Some(thread) })
    }

    /// Asks for a graceful stop: every client is told, every port closed, every interface put back.
    pub fn request_stop(&self) {
        self.stop.stop();
    }

    /// Readable when the daemon has stopped.
    #[must_use]
    pub fn finished(&self) -> BorrowedFd<'_> {
        self.finished.as_fd()
    }

    /// Waits until the daemon has stopped.
    ///
    /// # Errors
    /// [`DaemonError`] if it did not stop because it was asked to.
    pub fn wait(mut self) -> Result<(), DaemonError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), DaemonError> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => Ok(result?),
            Some(Err(_)) => Err(DaemonError::Panicked),
            None => Ok(()),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.stop();
        if let Err(error) = self.join() {
            tracing::error!(%error, "the daemon did not stop as it should");
        }
    }
}
