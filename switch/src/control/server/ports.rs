//! Ports that fail and come back, as the control plane sees them.
//!
//! ```text
//!   worker: PortGone -> status says so, the keeper is told    keeper: open again -> status, MTU, routers
//! ```
//!
//! Sessions stay while their interface is away. If it comes back with another link address, they end:
//! their stacks send from the one that they were given when they attached.

use super::super::session::{Input, State};
use super::Server;
use super::events::Told;
use crate::config::Backend;
use crate::daemon::{Notice, Order};
use crate::net::Netlink;
use crate::session::InterfaceId;
use serde::Serialize;
use std::io;
use std::time::Instant;
use usnet_shmring::control::{Message, RefusalCode};

/// Whether an interface's ports are there.
#[derive(Debug, Default)]
pub(super) struct Supply {
    /// Since when not, and what its return waits for.
    gone: Option<(Instant, Option<String>)>,
    /// How often they came back.
    reopened: u32,
}

/// [`Supply`] in an answer.
#[derive(Serialize)]
pub(super) struct SupplyReport<'a> {
    /// `up`, or `gone`: a port has failed and frames do not move.
    state: &'static str,
    /// For how long it is gone.
    gone_s: Option<u64>,
    /// What it waits for.
    waits_for: Option<&'a str>,
    /// How often it was opened again.
    reopened: u32,
    /// `up` or `down`; nothing for an interface without a link.
    link: Option<&'static str>,
}

impl Server {
    /// A port of an interface has failed.
    pub(super) fn port_gone(&mut self, id: InterfaceId, name: &str, error: &io::Error) {
        tracing::error!(interface = id.0, port = name, %error, "port failed");
        let ifname = self.interfaces.get(&usize::from(id.0)).map_or("?", |i| &i.name);
        let words = error.to_string();
        self.journal.tell(&Told::PortFailed { ifname, port: name, error: &words });
        if let Some(supply) = self.supply.get_mut(&usize::from(id.0)) {
            supply.gone.get_or_insert((Instant::now(), None));
        }
        // Without a keeper nothing is opened again; it ends only with this thread.
        self.keeper.orders.send(Order::Failed(id));
    }

    /// What the keeper has to say.
    pub(super) fn take_notices(&mut self) {
        for notice in self.keeper.notices.take() {
            match notice {
                Notice::Opened(opened) => self.opened(opened),
                Notice::Removed(interface) => self.removed(interface),
                Notice::Waits { interface, why } => {
                    let ifname =
                        self.interfaces.get(&usize::from(interface.0)).map_or("?", |i| &i.name);
                    self.journal.tell(&Told::PortWaits { ifname, why: &why });
                    let supply = self.supply.get_mut(&usize::from(interface.0));
                    if let Some(Supply { gone: Some((_, waits_for)), .. }) = supply {
                        *waits_for = Some(why);
                    }
                }
                Notice::Retired { interface, why } => {
                    let ifname =
                        self.interfaces.get(&usize::from(interface.0)).map_or("?", |i| &i.name);
                    self.journal.tell(&Told::PortFailed { ifname, port: ifname, error: &why });
                    if let Some(supply) = self.supply.get_mut(&usize::from(interface.0)) {
                        supply.gone.get_or_insert((Instant::now(), Some(why)));
                    }
                }
                Notice::Reopened { interface, mac, mtu, gateways, serving } => {
                    let index = usize::from(interface.0);
                    if let Some(supply) = self.supply.get_mut(&index) {
                        supply.gone = None;
                        supply.reopened += 1;
                    }
                    let Some(shared) = self.interfaces.get_mut(&index) else { continue };
                    let address = mac.to_string();
                    let told = Told::PortReopened { ifname: &shared.name, mac: &address };
                    self.journal.tell(&told);
                    let has_moved = shared.mac != mac;
                    (shared.mac, shared.mtu, shared.serving) = (mac, mtu, serving);
                    if !gateways.is_empty() {
                        shared.gateways = gateways;
                    }
                    if has_moved {
                        self.end_sessions_of(index, "another link address", None);
                    }
                }
            }
        }
    }

    /// Ends all sessions of an interface; those who hear `words` are told why. Returns how many there were.
    pub(super) fn end_sessions_of(
        &mut self,
        interface: usize,
        why: &str,
        words: Option<&str>,
    ) -> usize {
        let is_here = |key: &u64| {
            self.connections.get(key).is_some_and(|connection| {
                let attachment = connection.attachment.as_ref();
                connection.state == State::Attached
                    && attachment.is_some_and(|attachment| attachment.interface == interface)
            })
        };
        let keys: Vec<u64> = self.sessions.values().copied().filter(is_here).collect();
        if !keys.is_empty() {
            let count = keys.len();
            tracing::warn!(interface, count, "{why}: its sessions end");
        }
        for key in &keys {
            if let Some((connection, words)) = self.connections.get(key).zip(words) {
                let _ = connection.send(0, &Message::refused(RefusalCode::NotFound, words), &[]);
            }
            self.apply(*key, Input::Order);
        }
        keys.len()
    }
}

/// How an interface's ports are now.
pub(super) fn report(server: &Server, index: usize) -> Option<SupplyReport<'_>> {
    let (supply, interface) = (server.supply.get(&index)?, server.interfaces.get(&index)?);
    let configured = server.config.interfaces.iter().find(|c| c.name == interface.name)?;
    let gone = supply.gone.as_ref();
    Some(SupplyReport {
        state: if gone.is_some() { "gone" } else { "up" },
        gone_s: gone.map(|(since, _)| since.elapsed().as_secs()),
        waits_for: gone.and_then(|(_, waits_for)| waits_for.as_deref()),
        reopened: supply.reopened,
        link: link_state(configured.port, &interface.name),
    })
}

/// The kernel is asked when somebody asks us: nothing has to be kept true meanwhile.
fn link_state(port: Backend, name: &str) -> Option<&'static str> {
    if !port.has_link() {
        return None;
    }
    let link = Netlink::open().and_then(|mut netlink| netlink.link(name)).ok()?;
    Some(if link.is_running() { "up" } else { "down" })
}
