//! `usnetd demo`: real processes share an interface and one address with the real kernel stack, and
//! everybody can watch.

mod checks;
mod client;
mod old_client;
mod page;
mod probe;
mod sharing;
mod status;
mod topology;
mod transport;

pub(crate) use client::{ClientArgs, run as run_client};
pub(crate) use probe::{ProbeArgs, run as run_probe};

use crate::report::Report;
use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use topology::{Carrier, Topology};
use usnet_switch::daemon::Signals;
use usnet_switch::port::netmap::is_native_veth;

/// The arguments of the demo.
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
    /// Bytes to move through one TCP connection.
    #[arg(long, value_name = "BYTES", default_value_t = 1_000_000_000)]
    bytes: u64,
    /// Measure only what the kernel's stack notices when usnetd comes and goes, and fail if a goal is missed.
    #[arg(long, conflicts_with = "wire")]
    sharing: bool,
    /// Use a wire in memory, without namespaces and without the kernel's stack.
    #[arg(long)]
    wire: bool,
    /// Share the interface over XDP sockets, or not at all; needs root.
    #[arg(long, conflicts_with = "wire")]
    af_xdp: bool,
    /// Share the interface over packet sockets, though XDP sockets can be had.
    #[arg(long, conflicts_with_all = ["wire", "af_xdp", "netmap"])]
    af_packet: bool,
    /// Share the interface through a macvtap over it; needs root.
    #[arg(long, conflicts_with_all = ["wire", "af_xdp", "netmap", "af_packet"])]
    macvtap: bool,
    /// Share the interface over netmap; needs the kernel module, and root.
    #[arg(long, conflicts_with_all = ["wire", "af_xdp"])]
    netmap: bool,
    /// Use netmap, over a double of it in user space.
    #[cfg(feature = "netmap-double")]
    #[arg(long, conflicts_with_all = ["wire", "netmap", "af_xdp"])]
    netmap_double: bool,
}

impl DemoArgs {
    fn carrier(&self) -> Carrier {
        #[cfg(feature = "netmap-double")]
        if self.netmap_double {
            return Carrier::NetmapDouble;
        }
        match (self.wire, self.netmap, self.af_xdp) {
            (true, ..) => Carrier::Wire,
            (_, true, _) => Carrier::Netmap,
            (.., true) => Carrier::Xdp,
            _ if self.macvtap => Carrier::Macvtap,
            // XDP programs are root's.
            _ if rustix::process::geteuid().is_root() && !self.af_packet => Carrier::Best,
            _ => Carrier::Veth,
        }
    }
}

/// Exit code of a program that a signal has ended, by the shell's custom: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// On a signal removes the demo's files and ends the process; its children and their namespaces go
/// with it.
fn clean_up_when_interrupted(signals: Signals, directory: PathBuf) {
    std::thread::spawn(move || {
        let descriptor = signals.as_fd();
        while signals.next().is_none() {
            let _ = poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], None);
        }
        let _ = std::fs::remove_dir_all(directory);
        std::process::exit(INTERRUPTED);
    });
}

/// Runs the demo. Call it while the process has one thread. Exit code 0 only if everything held.
pub(crate) fn run(args: &DemoArgs) -> ExitCode {
    let started = Instant::now();
    let signals = match Signals::collect(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP]) {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("usnetd demo: cannot watch for signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    if args.netmap && is_native_veth(Some("veth")) {
        eprintln!(
            "usnetd demo: veth has netmap's own driver, through which no kernel at the other end is \
             heard; write 2 to /sys/module/netmap/parameters/admode for the demo"
        );
        return ExitCode::FAILURE;
    }
    let (mut topology, why) = match Topology::build(args.carrier()) {
        Ok(built) => built,
        Err(error) => {
            eprintln!("usnetd demo: cannot set the demo up: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Its threads begin here: before, the process had to have one.
    clean_up_when_interrupted(signals, topology.directory().to_owned());
    let mut report = Report::new(topology.backend(), false);
    match &why {
        Some(why) => report.progress(&format!("over a wire in memory, since: {why}")),
        None => {
            let port = topology.backend();
            report.progress(&format!("two hosts in namespaces of their own, over {port}"));
        }
    }
    let result = match args.sharing {
        true => sharing::run(&mut topology, &mut report, true),
        false => checks::run(&mut topology, &mut report, args.bytes),
    };
    if let Err(error) = result {
        report.add("the demo runs to its end", false, None, "", &error.to_string());
    }
    let directory = topology.directory().to_owned();
    topology.backend().clone_into(&mut report.backend);
    drop(topology);
    report.add("nothing is left behind", !directory.exists(), None, "", "");
    report.progress(&format!("done after {:.1} s", started.elapsed().as_secs_f64()));
    if args.json {
        report.print_json();
    } else {
        report.print_table();
    }
    if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
