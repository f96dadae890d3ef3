//! `usnetd.toml`: what was written becomes what runs, through one check.
//!
//! ```text
//!   file ── toml ──► RawConfig (as written) ── check ──► Config (every value in range, names resolved)
//!                        ▲                                  │
//!                        └──────── effective settings ──────┘   `usnetd check FILE` prints these
//! ```
//!
//! - A [`Config`] is only made by [`Config::load`] or [`Config::parse`]; whoever holds one need not
//!   look at a range again.
//! - All problems of a file are reported together. Each names file, key, value, and what is allowed.
//! - The effective settings are a configuration file themselves and give the same [`Config`].

mod account;
mod check;
mod client;
mod difference;
mod error;
mod host_ports;
mod network;
mod policy;
mod prefixes;
mod protocols;
mod raw;
mod service;
mod vlan;

pub use client::ClientConfig;
pub use difference::Difference;
pub use error::{ConfigError, Problem};
pub use host_ports::HostSource;
pub use network::Network;
pub use policy::{Peer, Policy, Quota, Subject, matching};
pub use protocols::{NoProtocol, Protocols};
pub use raw::{Backend, HostEndpoint, MacvtapKind, RawConfig, Ring, Rss, Sharing, Take, Unmatched};
pub use service::{Refused, Services};
pub(crate) use service::{protocol_name, protocol_number};
pub use vlan::Vlan;

use crate::classify::Mac;
use crate::port::af_xdp::BusyPoll;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use usnet_shmring::arena::SlotSize;

/// Where the daemon looks without `--config`.
pub const DEFAULT_FILE: &str = "/etc/usnetd/usnetd.toml";
/// Where programs of usnetd 0.1 look for it.
pub const DEFAULT_COMPAT_SOCKET: &str = "/run/usnetd.socket";
/// Where the control socket is if nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/usnetd/control.sock";

/// Where root's daemon records what interfaces were like if nothing else is said.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/usnetd";

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it was read from, for messages.
    pub file: PathBuf,
    /// The control socket.
    pub control: Control,
    /// Slots.
    pub memory: Memory,
    /// The worker threads.
    pub worker: Worker,
    /// Where counters are served, if they are.
    pub metrics: Option<MetricsAt>,
    /// Interfaces, at least one, with different names; VLANs come after what they are VLANs of.
    pub interfaces: Vec<Interface>,
    /// Who may attach; the first that fits decides. Ends with root and the daemon's own user.
    pub policies: Vec<Policy>,
    /// Clients that are known before they attach, with different names.
    pub clients: Vec<ClientConfig>,
    raw: RawConfig,
}

/// The control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Its path, at most 107 bytes.
    pub socket: PathBuf,
    /// Its permission bits, 0..=0o777.
    pub mode: u32,
    /// Group that it is given to.
    pub group: Option<u32>,
    /// Where it is recorded what interfaces were like; `None` where nothing was said.
    pub state_dir: Option<PathBuf>,
    /// The socket for programs of usnetd 0.1, if there is to be one.
    pub compat: Option<PathBuf>,
}

/// Where counters are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsAt {
    /// A UNIX socket, with the mode and the group of the control socket.
    Unix(PathBuf),
    /// TCP on a loopback address.
    Tcp(SocketAddr),
}

/// Slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of each.
    pub slot_size: SlotSize,
    /// Slots for frames of the ports.
    pub port_slots: u32,
    /// Transmit slots that the sessions of one trust group have together.
    pub group_slots: u32,
    /// Slots that all segments may have together.
    pub arena_slots: u32,
    /// Whether to ask for 2 MiB pages.
    pub huge_pages: bool,
}

/// The worker threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// How many there are, at least one.
    pub count: usize,
    /// Never sleep.
    pub busy_poll: bool,
    /// How long to look for work before sleeping.
    pub spin: Duration,
    /// Processors to stay on, by worker; none given: left to the scheduler.
    pub cpus: Vec<u16>,
}

/// One shared interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, 1..=15 bytes.
    pub name: String,
    /// How frames are read and written.
    pub port: Backend,
    /// With port `vlan`: which, and of which interface.
    pub vlan: Option<Vlan>,
    /// Form of the rings of a packet socket.
    pub ring: Ring,
    /// Which frames XDP sockets take from the kernel.
    pub take: Take,
    /// What becomes of the table by which a card sends flows to its queues.
    pub rss: Rss,
    /// What a macvtap that is made takes; none given: all.
    pub macvtap: Option<MacvtapKind>,
    /// How the driver is polled instead of waiting for its interrupts, if it is.
    pub busy_poll: Option<BusyPoll>,
    /// How the kernel's own stack stays connected; not at all if another network is behind.
    pub host: HostEndpoint,
    /// The network that this interface is a bump in front of.
    pub behind: Option<Behind>,
    /// Whether frames may go between its two ports where they lie, in netmap's own memory.
    pub cut_through: bool,
    /// Whether what `shared` clients send may leave from their own slots, all but a vetted head.
    pub zero_copy_transmit: bool,
    /// Addresses shared by host and clients; empty means those of the link.
    pub addresses: Vec<Network>,
    /// Routers, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// Ports that stay with the kernel's stack.
    pub host_ports: Services,
    /// Ports that stay with it for some remote ends, and may be claimed for others.
    pub host_sources: Vec<HostSource>,
    /// Ports from which clients may have flows without a claim, where the kernel shares the addresses.
    pub flow_ports: Services,
    /// Whether the kernel's stack answers pings behind its firewall.
    pub host_ping: bool,
    /// What whoever sends to a port that nobody has hears, where the kernel does not say it.
    pub on_unmatched: Unmatched,
    /// The wire that this interface is an end of, with port `wire`; interfaces that name the same
    /// one are joined. None: a wire of its own.
    pub network: Option<String>,
    /// Link address of an interface that has none of its own.
    pub mac: Option<Mac>,
    /// Largest IP packet of an interface that has none of its own.
    pub mtu: Option<u16>,
}

/// The network behind a bump in the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The interface that leads there, 1..=15 bytes; no other interface has it.
    pub interface: String,
    /// How its frames are read and written.
    pub port: Backend,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ConfigError::Read { file: file.to_owned(), source })?;
        Self::parse(file, &text)
    }

    /// Checks the text of a file; `file` is for messages only.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let raw = toml::from_str(text).map_err(|e| ConfigError::syntax(file, text, &e))?;
        check::check(file, raw)
            .map_err(|problems| ConfigError::Invalid { file: file.to_owned(), problems })
    }

    /// Checks what could not be checked before the interfaces' addresses were known: every address
    /// that a policy names must belong to an interface that it covers.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`]
    pub fn check_addresses(&self, known: &[(&str, &[Network])]) -> Result<(), ConfigError> {
        let mut problems = check::check_addresses(&self.policies, known);
        problems.extend(client::check_addresses(&self.clients, known));
        if problems.is_empty() {
            return Ok(());
        }
        Err(ConfigError::Invalid { file: self.file.clone(), problems })
    }

    /// What runs, in the form of a file: defaults filled in.
    #[must_use]
    pub fn effective(&self) -> &RawConfig {
        &self.raw
    }
}

#[cfg(test)]
mod tests;
