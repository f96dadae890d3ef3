//! `usnetd capture`: what passes a netmap port, into a file.

use clap::Args;
use std::error::Error;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::pool::Pool;
use usnet_shmring::region::Writer;
use usnet_switch::capture::{PcapWriter, capture};
use usnet_switch::classify::Mac;
use usnet_switch::daemon::Signals;
use usnet_switch::port::Port;
use usnet_switch::port::netmap::abi::flag;
use usnet_switch::port::netmap::{Kernel, Netmap, NetmapSpec, PortName};

/// The arguments of `usnetd capture`.
#[derive(Args, Clone, Debug)]
pub(crate) struct CaptureArgs {
    /// What is heard: `netmap:eth0/r` what it receives, `/t` what it sends, `/rt` both
    #[arg(short, long, value_name = "PORT")]
    port: PortName,
    /// File to write, in the form of pcap; `-` is the standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// Stop after so many frames
    #[arg(short, long, value_name = "N")]
    count: Option<u64>,
    /// Stop after so many seconds
    #[arg(short, long, value_name = "N")]
    seconds: Option<u64>,
}

/// Slots for frames on their way, and their size: a jumbo frame's.
const SLOTS: u32 = 512;
const SLOT: u32 = 16_384;
/// The longest sleep: a belt against a wake-up that never came.
const SLEEP: Duration = Duration::from_secs(1);

/// Writes frames until enough are written, time is up, a signal comes, or the port is gone.
pub(crate) fn run(args: &CaptureArgs, kernel: &Arc<dyn Kernel>) -> Result<(), Box<dyn Error>> {
    if !args.port.is_monitor() {
        let text = "opening it would take the frames away from the kernel; add `/r`, `/t` or `/rt` \
                    to hear what passes";
        return Err(format!("{} is no monitor: {text}", args.port).into());
    }
    let signals = Signals::collect(&[libc::SIGINT, libc::SIGTERM])?;
    let arena = Arena::reserve(SLOTS, SlotSize::new(SLOT).unwrap_or(SlotSize::DEFAULT))?;
    let segment = arena.add_segment("usnet-capture", Writer::Daemon, SLOTS, false)?;
    let mut pool = Pool::new(SlotRange::whole(segment))?;
    let spec = NetmapSpec { name: args.port.clone(), mac: Mac::default(), mtu: 1500 };
    let mut port = Netmap::open(kernel.as_ref(), &spec, None).map_err(|error| {
        let way_out = match error.kind() {
            io::ErrorKind::OutOfMemory if args.port.flags & flag::ZCOPY_MON != 0 => {
                "; its region has no buffers to exchange, leave `z` out"
            }
            io::ErrorKind::NotFound => "; load the module netmap, as root",
            _ => "",
        };
        format!("{}: {error}{way_out}", args.port)
    })?;
    let into: Box<dyn Write> = if args.write.as_os_str() == "-" {
        Box::new(io::stdout())
    } else {
        Box::new(File::create(&args.write)?)
    };
    let mut writer = PcapWriter::new(BufWriter::new(into), SLOT)?;
    writer.flush()?;
    let end = args.seconds.and_then(|n| Instant::now().checked_add(Duration::from_secs(n)));
    let left_of_time = || end.map_or(SLEEP, |end| end.saturating_duration_since(Instant::now()));
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 && !left_of_time().is_zero() && signals.next().is_none() {
        let written = capture(&mut port, &mut pool, &mut writer, left)?;
        left -= written;
        if written == 0 {
            wait(&port, &signals, left_of_time().min(SLEEP))?;
        }
    }
    writer.flush()?;
    let counters = port.counters();
    eprintln!("{} frames, {} could not be read", counters.received, counters.receive_errors);
    Ok(())
}

fn wait(port: &Netmap, signals: &Signals, longest: Duration) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let descriptors = port.descriptor().into_iter().chain([signals.as_fd()]);
    let mut watched: Vec<_> =
        descriptors.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    let longest = Timespec::try_from(longest).map_err(io::Error::other)?;
    match poll(&mut watched, Some(&longest)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
