//! `usnetd selftest netmap`: what the netmap module of this machine can do with an interface, seen.
//!
//! ```text
//!   region   the daemon's memory as netmap's
//!   pipe     one end --> the other, and back          no interface is touched
//!   vale     one port --> another
//!   card     our rings --> the wire                   while the kernel is cut off
//!   host     kernel --> host rings, host rings --> kernel
//!   names    one ring pair, exclusive rings, several host rings, a monitor
//!   after    the kernel's path is as it was
//! ```
//!
//! Frames have an EtherType for experiments; nothing answers them. The interface is in netmap mode for
//! some seconds, and what the kernel sends and receives meanwhile is lost.

mod client;
mod exchange;
mod names;

use crate::report::Report;
use clap::{Args, Subcommand};
use client::Client;
use exchange::{Load, exchange, exchange_of, settle};
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use usnet_shmring::arena::SlotSize;
use usnet_shmring::pool::Pool;
use usnet_switch::config;
use usnet_switch::control::memory::Memory;
use usnet_switch::net::offload::{KeptOffloads, Offload};
use usnet_switch::net::{KeptQdisc, Link, LinkState, Netlink};
use usnet_switch::port::af_packet::{AfPacket, AfPacketSpec, RingVersion};
use usnet_switch::port::netmap::abi::PortInfo;
use usnet_switch::port::netmap::{
    Bank, Control, Kernel, Netmap, NetmapSpec, PortName, Wish, is_native_veth,
};
use usnet_switch::port::{Burst, Port};
use usnet_switch::time::Time;

/// What is tested.
#[derive(Debug, Subcommand)]
pub(crate) enum SelfTest {
    /// The netmap module of this machine, with one of its interfaces
    Netmap(NetmapArgs),
}

/// The arguments of `selftest netmap`.
#[derive(Args, Clone, Debug)]
pub(crate) struct NetmapArgs {
    /// Interface to open; what it carries is lost for some seconds
    #[arg(short, long, value_name = "IF")]
    interface: String,
    /// The other end of its cable, if that is an interface here: frames are counted there
    #[arg(short, long, value_name = "IF")]
    peer: Option<String>,
    /// Frames in each exchange
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    frames: u64,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// Everything that the steps share.
struct Bench {
    kernel: Arc<dyn Kernel>,
    pool: Pool,
    memory: Memory,
    bank: Option<Arc<Bank>>,
    frames: u64,
}

/// Frames of a modest size, one after the other.
const SIZE: usize = 128;
/// How long a card may take until its link is up again after a change of mode.
const LINK_PATIENCE: Duration = Duration::from_secs(10);

/// Runs all steps. Exit code 0 only if everything held.
pub(crate) fn run(args: &NetmapArgs, kernel: Arc<dyn Kernel>) -> ExitCode {
    let mut report = Report::new("netmap", false);
    if let Err(error) = steps(args, kernel, &mut report) {
        report.add("the test runs to its end", false, None, "", &error.to_string());
    }
    if args.json {
        report.print_json();
    } else {
        report.print_table();
    }
    if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn steps(args: &NetmapArgs, kernel: Arc<dyn Kernel>, report: &mut Report) -> io::Result<()> {
    let interface = args.interface.as_str();
    let mut info = PortInfo::default();
    let asked =
        kernel.open().and_then(|device| device.control(interface, Control::PortInfo(&mut info)));
    if let Err(error) = asked {
        let way_out = match error.kind() {
            io::ErrorKind::NotFound => "; load the module netmap, as root",
            io::ErrorKind::PermissionDenied => "; run as root",
            _ => "",
        };
        report.add("netmap knows the interface", false, None, "", &format!("{error}{way_out}"));
        return Ok(());
    }
    let rings = format!(
        "{} transmit and {} receive rings of {} and {} slots",
        info.tx_rings, info.rx_rings, info.tx_slots, info.rx_slots
    );
    report.add("netmap knows the interface", true, None, "", &rings);

    let mut bench = prepare(kernel, interface, &info, args.frames)?;
    region(&mut bench, &info, report);
    report.progress("pipes and VALE");
    pipe(&mut bench, interface, report)?;
    vale(&mut bench, report)?;
    many_opens(&mut bench, interface, report)?;
    report.progress("the card; its link may need some seconds");
    card(&mut bench, args, report)
}

fn prepare(
    kernel: Arc<dyn Kernel>,
    interface: &str,
    info: &PortInfo,
    frames: u64,
) -> io::Result<Bench> {
    // What its rings need, and those of the host rings that are tried beyond the usual pair.
    let more = info.tx_slots.max(info.rx_slots) * 2 * u32::from(names::HOST_RINGS);
    let held = info.ring_buffers() + more;
    let port_slots = (held + 4096).next_power_of_two();
    let config = config::Memory {
        slot_size: SlotSize::DEFAULT,
        port_slots,
        group_slots: 1024,
        arena_slots: port_slots + 8192,
        huge_pages: true,
    };
    // A client's slots lie among the card's buffers where the card can send from there.
    let can_split = kernel.sends_from_several_slots(interface);
    let groups: &[&str] = if can_split.is_ok() { &[client::GROUP] } else { &[] };
    let ((mut memory, mut pools), objects) =
        Memory::with_objects(&config, 1, groups).map_err(io::Error::other)?;
    let segments = memory.lasting_groups();
    let (port, pool) = (memory.port(), &mut pools);
    let bank = Bank::with_groups(kernel.as_ref(), &objects, &segments, port, pool, held);
    memory.zero_free_slots_of_groups();
    let bank = match bank {
        Ok(bank) => Some(bank),
        Err(error) => {
            eprintln!("  ... external memory is refused: {error}");
            None
        }
    };
    let pool = pools.pop().ok_or(io::ErrorKind::OutOfMemory)?;
    Ok(Bench { kernel, pool, memory, bank, frames })
}

/// Whether the daemon's memory is netmap's. If not, all else still has to work, by copying.
fn region(bench: &mut Bench, info: &PortInfo, report: &mut Report) {
    let huge = if bench.memory.port().is_huge() { "huge pages" } else { "ordinary pages" };
    let note = match &bench.bank {
        Some(bank) => format!("region {}, on {huge}: buffers are swapped", bank.memory_id()),
        None => format!(
            "not here ({huge}; 2 MiB pages and a module built with extmem are needed): frames are \
             copied, region {}",
            info.memory_id
        ),
    };
    report.add("memory of the daemon's own or of netmap", true, None, "", &note);
}

impl Bench {
    fn open(&self, name: PortName, mtu: u16) -> io::Result<Netmap> {
        let (spec, bank) = self.spec(name, mtu);
        let wish = match self.kernel.sends_from_several_slots(&spec.name.port) {
            Ok(()) => Wish::Split,
            Err(why) => Wish::Copy(why),
        };
        Netmap::open_wishing(self.kernel.as_ref(), &spec, bank, wish)
    }

    fn both(&self, name: &str, mtu: u16) -> io::Result<(Netmap, Netmap)> {
        let (spec, bank) = self.spec(PortName::both(name), mtu);
        Netmap::open_both(self.kernel.as_ref(), &spec, bank)
    }

    fn spec(&self, name: PortName, mtu: u16) -> (NetmapSpec, Option<&Arc<Bank>>) {
        let mac = usnet_switch::classify::Mac([2, 0x75, 0x73, 0x6e, 0, 1]);
        let kind = link(name.port.as_str()).ok().and_then(|link| link.kind);
        let bank = self.bank.as_ref().filter(|_| !is_native_veth(kind.as_deref()));
        (NetmapSpec { name, mac, mtu }, bank)
    }

    fn parse(&self, text: &str, mtu: u16) -> io::Result<Netmap> {
        self.open(text.parse().map_err(io::Error::other)?, mtu)
    }

    /// The other end of the cable: the kernel's, or, of a veth whose native driver carries frames from
    /// ring to ring and nowhere else, another port of netmap.
    fn far_end(&self, peer: &str, mtu: u16) -> io::Result<Box<dyn Port>> {
        let link = link(peer)?;
        Ok(if is_native_veth(link.kind.as_deref()) {
            Box::new(self.open(PortName::nic(peer), mtu)?)
        } else {
            Box::new(socket(&link)?)
        })
    }

    /// Frames from one port to the other, as a line of the report.
    fn try_path(
        &mut self,
        what: &str,
        from: &mut dyn Port,
        to: &mut dyn Port,
        window: u64,
        report: &mut Report,
    ) -> io::Result<()> {
        let load = Load {
            first: 0,
            frames: self.frames,
            size: SIZE,
            window,
            patience: Duration::from_secs(3),
        };
        let outcome = exchange(from, to, &mut self.pool, load)?;
        let note = match (outcome.is_whole(), outcome.late) {
            (true, 0) => String::new(),
            (true, late) => format!("{late} overtaken by later ones"),
            _ => {
                format!("{} sent, {} came, {} wrong", outcome.sent, outcome.received, outcome.wrong)
            }
        };
        report.add(what, outcome.is_whole(), Some(outcome.rate()), "M/s", &note);
        Ok(())
    }

    /// As [`Bench::try_path`], once the path carries frames.
    fn try_settled_path(
        &mut self,
        what: &str,
        from: &mut dyn Port,
        to: &mut dyn Port,
        report: &mut Report,
    ) -> io::Result<()> {
        if !settle(from, to, &mut self.pool, SIZE, LINK_PATIENCE)? {
            let note = format!("nothing came in {} s", LINK_PATIENCE.as_secs());
            report.add(what, false, None, "", &note);
            return Ok(());
        }
        self.try_path(what, from, to, 64, report)
    }

    fn close(&mut self, port: Netmap) {
        let mut port = port;
        port.close(&mut self.pool);
    }
}

fn pipe(bench: &mut Bench, interface: &str, report: &mut Report) -> io::Result<()> {
    let mut a = bench.parse(&format!("netmap:{interface}{{usnet"), 1500)?;
    let mut b = bench.parse(&format!("netmap:{interface}}}usnet"), 1500)?;
    bench.try_path("pipe, one way", &mut a, &mut b, 512, report)?;
    bench.try_path("pipe, the other way", &mut b, &mut a, 512, report)?;
    bench.close(a);
    bench.close(b);
    Ok(())
}

fn vale(bench: &mut Bench, report: &mut Report) -> io::Result<()> {
    let (a, b) = match (bench.parse("valeusn:a", 1500), bench.parse("valeusn:b", 1500)) {
        (Ok(a), Ok(b)) => (a, b),
        (a, b) => {
            let error = a.err().or(b.err()).map(|e| e.to_string()).unwrap_or_default();
            report.add("VALE, port to port", true, None, "", &format!("not built in: {error}"));
            return Ok(());
        }
    };
    let (mut a, mut b) = (a, b);
    bench.try_path("VALE, port to port", &mut a, &mut b, 512, report)?;
    bench.close(a);
    bench.close(b);
    Ok(())
}

/// Opening and closing must not use up buffers.
fn many_opens(bench: &mut Bench, interface: &str, report: &mut Report) -> io::Result<()> {
    const TIMES: u32 = 200;
    let kept = bench.bank.as_ref().map(|bank| bank.kept());
    let begin = Instant::now();
    for _ in 0..TIMES {
        let port = bench.parse(&format!("netmap:{interface}{{usnet"), 1500)?;
        bench.close(port);
    }
    let same = kept == bench.bank.as_ref().map(|bank| bank.kept());
    let each = begin.elapsed().as_secs_f64() * 1e3 / f64::from(TIMES);
    report.add("opened and closed 200 times, no buffer lost", same, Some(each), "ms", "each");
    Ok(())
}

fn link(name: &str) -> io::Result<Link> {
    Netlink::open().and_then(|mut netlink| netlink.link(name)).map_err(io::Error::other)
}

fn socket(link: &Link) -> io::Result<AfPacket> {
    AfPacket::open(&AfPacketSpec {
        name: link.name.clone(),
        index: link.index,
        mac: link.mac,
        mtu: u16::try_from(link.mtu).unwrap_or(1500),
        ring: RingVersion::V2,
        frames: 1024,
        promiscuous: true,
        bypass_qdisc: false,
    })
}

/// Waits until the link is up again after a change of mode.
fn wait_for_link(name: &str) -> io::Result<bool> {
    let end = Instant::now() + LINK_PATIENCE;
    loop {
        if matches!(link(name)?.state, LinkState::Up | LinkState::Unknown) {
            return Ok(true);
        }
        if Instant::now() > end {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The card's rings and the host's on one descriptor, as two ports.
fn one_descriptor(
    bench: &mut Bench,
    name: &str,
    mtu: u16,
    kernel: &mut AfPacket,
    report: &mut Report,
) -> io::Result<()> {
    let (nic, mut host) = bench.both(name, mtu)?;
    wait_for_link(name)?;
    bench.try_path("the same on one descriptor, to the rings", kernel, &mut host, 64, report)?;
    bench.try_path("and to the kernel", &mut host, kernel, 64, report)?;
    bench.close(nic);
    bench.close(host);
    Ok(())
}

/// Frames whose rest is sent from a client's slots.
fn from_client(
    bench: &mut Bench,
    nic: &mut Netmap,
    there: &mut dyn Port,
    mtu: u16,
    report: &mut Report,
) -> io::Result<()> {
    let what = "card to the other end, from a client's slots";
    if !nic.splits() {
        let why = nic.exchange().map_or("", |exchange| exchange.why_sends);
        report.add(what, true, None, "", &format!("not here: {why}"));
        return Ok(());
    }
    let mut client = Client::attach(&mut bench.memory, &mut bench.pool)?;
    let load = Load {
        first: 1 << 42,
        frames: bench.frames,
        size: usize::from(mtu) + 14,
        window: 64,
        patience: Duration::from_secs(3),
    };
    let outcome = exchange_of(&mut client, nic, there, &mut bench.pool, load)?;
    // The last ones come back when the card is asked once more.
    let end = Instant::now() + Duration::from_secs(1);
    while !client.has_all(&mut bench.pool)? && Instant::now() < end {
        nic.transmit(Time(0), &mut bench.pool, &mut Burst::new())?;
    }
    let is_whole = outcome.is_whole() && outcome.sent == bench.frames;
    let has_all = client.has_all(&mut bench.pool)?;
    let note = match (is_whole, has_all) {
        (true, true) => format!("{} bytes each", load.size),
        (true, false) => "not all of its slots came back".to_owned(),
        _ => format!("{} sent, {} came, {} wrong", outcome.sent, outcome.received, outcome.wrong),
    };
    report.add(what, is_whole && has_all, Some(outcome.rate()), "M/s", &note);
    Ok(())
}

fn card(bench: &mut Bench, args: &NetmapArgs, report: &mut Report) -> io::Result<()> {
    let name = args.interface.as_str();
    let before = link(name)?;
    let mtu = u16::try_from(before.mtu).unwrap_or(u16::MAX);
    let offloads = KeptOffloads::switch_off(name, &Offload::ALL).map_err(io::Error::other)?;
    let plain = (offloads, KeptQdisc::of(&before));
    let mut nic = bench.open(PortName::nic(name), mtu)?;
    let mut host = bench.open(PortName::host(name), mtu)?;
    let note = format!(
        "{} transmit and {} receive rings, buffers are {}",
        nic.rings().0,
        nic.rings().1,
        if nic.swaps() { "swapped" } else { "copied" }
    );
    report.add("the card and its host rings open", true, None, "", &note);
    report.add("its link is up", wait_for_link(name)?, None, "", "");

    let here = &mut socket(&before)?;
    bench.try_settled_path("kernel to host rings", here, &mut host, report)?;
    bench.try_path("host rings to kernel", &mut host, here, 64, report)?;
    if let Some(peer) = &args.peer {
        let mut there = bench.far_end(peer, mtu)?;
        bench.try_settled_path("card to the other end", &mut nic, there.as_mut(), report)?;
        from_client(bench, &mut nic, there.as_mut(), mtu, report)?;
        // Cards may hand out what was in their buffers before in the first lap of a ring (netmap's
        // driver for e1000 does so with one of them).
        let first = Load {
            first: 1 << 40,
            frames: 2048,
            size: SIZE,
            window: 64,
            patience: Duration::from_secs(1),
        };
        exchange(there.as_mut(), &mut nic, &mut bench.pool, first)?;
        bench.try_path("the other end to card", there.as_mut(), &mut nic, 64, report)?;
        there.close(&mut bench.pool);
    }
    let held = bench.bank.as_ref().filter(|_| nic.swaps()).map(|bank| bank.kept());
    bench.close(nic);
    bench.close(host);
    one_descriptor(bench, name, mtu, here, report)?;
    names::names(bench, args, mtu, here, report)?;
    drop(plain);
    let came_back = wait_for_link(name)?;
    let after = link(name)?;
    let facts = |link: &Link| (link.is_up(), link.mtu, link.mac, link.qdisc.clone());
    let same = came_back && facts(&after) == facts(&before);
    let note = format!("{:?}, {:?} before", facts(&after), facts(&before));
    let note = if same { "" } else { &note };
    report.add("the interface is as it was", same, None, "", note);
    if let Some(peer) = &args.peer {
        let (here, there) = (&mut socket(&after)?, &mut socket(&link(peer)?)?);
        bench.try_settled_path("the kernel's own path, after", there, here, report)?;
    }
    if let (Some(held), Some(bank)) = (held, &bench.bank) {
        report.add("every buffer of its rings came back", bank.kept() > held, None, "", "");
    }
    let (audit, slots) = bench.pool.audit();
    report.add("no slot was lost", audit.total() == slots, Some(slots.into()), "slots", "");
    Ok(())
}
