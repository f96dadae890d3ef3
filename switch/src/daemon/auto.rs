//! Which back end serves an interface whose configuration leaves the choice: the first that can.
//!
//! ```text
//!   netmap --no--> XDP sockets, without a copy --no--> with one --no--> macvtap --no--> packet sockets
//! ```
//!
//! - A back end can serve an interface if it opens it. One that cannot has put back what it had changed by then, and
//!   is passed over; the log and the status say why.
//! - It is chosen anew when the interface is opened again.

use super::interface::{self, OpenError, Opened, Wires, shared_link};
use super::keeper::chain;
use super::netmap::Cards;
use crate::config::{Backend, Config, HostEndpoint, Interface};
use crate::port::netmap::abi::PortInfo;
use crate::port::netmap::{Control, Device, Kernel};
use serde::Serialize;

/// The order, best first. A macvtap comes before packet sockets since it needs no guard.
const ORDER: [Backend; 4] = [Backend::Netmap, Backend::AfXdp, Backend::Macvtap, Backend::AfPacket];
/// What is said of XDP sockets that copy.
const ZERO_COPY: &str = "af_xdp, zero-copy";

/// What serves an interface that was to be served by the best.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// The back end.
    pub port: Backend,
    /// Better ones, and why not these.
    pub passed_over: Vec<PassedOver>,
}

/// A back end that was not chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// Which.
    pub port: String,
    /// Why not.
    pub why: String,
}

/// The configuration as if netmap had been asked for wherever it may be chosen: memory that it can use must
/// be made before.
pub(super) fn prepared_for(config: &Config, kernel: &dyn Kernel) -> Config {
    let mut config = config.clone();
    for interface in config.interfaces.iter_mut().filter(|i| i.port == Backend::Auto) {
        let knows = |device: Box<dyn Device>| {
            device.control(&interface.name, Control::PortInfo(&mut PortInfo::default()))
        };
        if why_not_netmap(interface).is_none() && kernel.open().and_then(knows).is_ok() {
            interface.port = Backend::Netmap;
        }
    }
    config
}

/// Opens an interface over the first back end that can.
///
/// # Errors
/// [`OpenError`]: what is wrong with the interface, or why each of them cannot.
pub(super) fn open(
    interface: &Interface,
    workers: usize,
    cards: &Cards,
) -> Result<Opened, OpenError> {
    // What is wrong with the interface itself is wrong for all.
    shared_link(interface)?;
    let mut passed_over = Vec::new();
    for port in ORDER {
        let candidate = Interface { port, ..interface.clone() };
        match attempt(&candidate, workers, cards) {
            Ok(mut opened) => {
                if port == Backend::AfXdp && !is_zero_copy(&opened) {
                    let why = "the driver of the interface does not offer it".to_owned();
                    passed_over.push(PassedOver { port: ZERO_COPY.to_owned(), why });
                }
                let choice = Choice { port, passed_over };
                log(&interface.name, &choice);
                opened.kept.choose(choice);
                return Ok(opened);
            }
            Err(why) => passed_over.push(PassedOver { port: port.name().to_owned(), why }),
        }
    }
    let why = passed_over.iter().map(|p| format!("{}: {}", p.port, p.why)).collect::<Vec<_>>();
    Err(OpenError::NoPort { name: interface.name.clone(), why: why.join("; ") })
}

fn attempt(candidate: &Interface, workers: usize, cards: &Cards) -> Result<Opened, String> {
    if candidate.port == Backend::Netmap {
        why_not_netmap(candidate).map_or(Ok(()), |why| Err(why.to_owned()))?;
        // Before anything is changed for it.
        cards.look_at(&candidate.name).map_err(|error| chain(&error))?;
    }
    let opened = interface::open(candidate, workers, &mut Wires::default(), cards);
    opened.map_err(|error| chain(&error))
}

/// What of its configuration netmap cannot do.
fn why_not_netmap(interface: &Interface) -> Option<&'static str> {
    matches!(interface.host, HostEndpoint::Tap | HostEndpoint::Veth)
        .then_some("the kernel's stack is to be reached by a device, and netmap has host rings")
}

fn is_zero_copy(opened: &Opened) -> bool {
    let mode = opened.specs.first().and_then(|spec| spec.wire.mode());
    mode.is_some_and(|mode| mode.contains("zero-copy"))
}

fn log(interface: &str, choice: &Choice) {
    let not: Vec<_> =
        choice.passed_over.iter().map(|p| format!("{} ({})", p.port, p.why)).collect();
    tracing::info!(
        interface,
        port = choice.port.name(),
        passed_over = not.join(", "),
        "port chosen"
    );
}
