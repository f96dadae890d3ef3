//! `usnetd pipe`: a program that speaks netmap, and nothing else, as a client of usnetd.

use clap::Args;
use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use usnet::{Claim, Options, Session};
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::pool::Pool;
use usnet_shmring::region::Writer;
use usnet_switch::classify::Mac;
use usnet_switch::config::Services;
use usnet_switch::pipe::Bridge;
use usnet_switch::port::Port;
use usnet_switch::port::netmap::{Module, Netmap, NetmapSpec, PortName};
use usnet_switch::time::Time;

/// The arguments of `usnetd pipe`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PipeArgs {
    /// Our end, as `netmap:x{1` or `vale0:a`; the program opens the other, as `netmap:x}1` or `vale0:b`
    #[arg(short, long, value_name = "PORT")]
    port: PortName,
    /// What the program may use, as `udp/9000` or `tcp/8000-8099`; several times
    #[arg(short, long, value_name = "PROTOCOL/PORTS", required = true)]
    claim: Vec<String>,
    /// Interface of usnetd; not needed if it has only one
    #[arg(short, long, value_name = "IF", default_value = "")]
    interface: String,
    /// usnetd's socket [default: $USNETD_SOCKET or /run/usnetd/control.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Slots for frames on their way.
const SLOTS: u32 = 1024;
/// Looks for frames before it sleeps.
const LOOKS: u32 = 1000;

/// Attaches, claims, and moves frames until a signal or usnetd ends it.
pub(crate) fn run(args: &PipeArgs) -> Result<(), Box<dyn Error>> {
    let services = Services::parse(&args.claim)
        .map_err(|(index, _)| format!("`{}` is no service, as udp/9000", args.claim[index]))?;
    let mut options = Options::named(&args.port.to_string());
    options.interface.clone_from(&args.interface);
    if let Some(socket) = &args.socket {
        options.socket.clone_from(socket);
    }
    let mut session = Session::attach(options)?;
    for (protocol, ports) in services.iter() {
        let count = ports.end() - ports.start() + 1;
        let (protocol, first_port) = (protocol.0, *ports.start());
        session.claim(Claim { protocol, address: None, first_port, count })?;
    }
    let arena = Arena::reserve(SLOTS, SlotSize::DEFAULT)?;
    let segment = arena.add_segment("usnet-pipe", Writer::Daemon, SLOTS, false)?;
    let pool = Pool::new(SlotRange::whole(segment))?;
    let mtu = u16::try_from(session.mtu()).unwrap_or(1500);
    let spec = NetmapSpec { name: args.port.clone(), mac: Mac(session.mac()), mtu };
    let port: Box<dyn Port> = Box::new(Netmap::open(&Module, &spec, None)?);
    let addresses: Vec<String> = session.addresses().map(|a| a.to_string()).collect();
    eprintln!("the program's link address is {}, its addresses {}", spec.mac, addresses.join(", "));
    let (_grant, _control, frames) = session.into_parts();
    let mut bridge = Bridge::new(frames, port, pool);
    let begin = Instant::now();
    let mut idle = 0;
    loop {
        let now = Time(u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX));
        if bridge.turn(now)? > 0 {
            idle = 0;
        } else if idle < LOOKS {
            idle += 1;
        } else {
            bridge.wait(Duration::from_secs(1), None)?;
        }
    }
}
