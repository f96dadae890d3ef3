//! What can be asked of `usnet-bench`.

pub(crate) mod latency;
pub(crate) mod ping;
pub(crate) mod ring;
pub(crate) mod steer;
pub(crate) mod switch;
pub(crate) mod tcp;
pub(crate) mod workers;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use usnet_bench::measure::Plan;
use usnet_bench::path::Task;

/// How fast usnet is, each part beside a yardstick from the same run.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// One hop between two processors: descriptors in bursts of 32, payload written and read.
    Ring(Common),
    /// Generator -> switch -> sink, 64 and 1,500 bytes: the switch on processor 0, both clients on
    /// processor 1.
    Switch {
        /// Generator and sink are processes of their own; otherwise one process plays both.
        #[arg(long)]
        processes: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Round trips of 64 bytes between two clients, through a switch that polls.
    Latency(Common),
    /// Who receives a flow, by number and kind of rules, clients and flows; each beside one of its kind.
    Steer {
        /// Measure only kinds that have this text in their name.
        #[arg(long, value_name = "TEXT", default_value = "")]
        only: String,
        #[command(flatten)]
        common: Common,
    },
    /// One worker and two, 64 and 1,500 bytes: each on a processor of its own with its clients' side.
    Workers(Common),
    /// What usnetd adds to a ping of the kernel's on a shared interface, when it polls. For root.
    Ping(Common),
    /// TCP goodput of clients, through packet and XDP sockets, a macvtap and a TAP device, beside the kernel's own
    /// over a veth. For root.
    Tcp {
        /// Measure only what has this text in its name.
        #[arg(long, value_name = "TEXT", default_value = "")]
        only: String,
        #[command(flatten)]
        common: Common,
    },
    /// One side of a measurement, started by the other.
    #[command(hide = true)]
    Client {
        #[arg(long)]
        task: Task,
        #[arg(long)]
        sessions: usize,
        #[arg(long)]
        size: usize,
        #[arg(long)]
        seconds: f64,
    },
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Common {
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a bar chart, an SVG, to this folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) plot: Option<PathBuf>,
    /// Seconds to measure each contender, in five rounds.
    #[arg(long, value_name = "N", default_value_t = 2.5)]
    pub(crate) seconds: f64,
    /// Say nothing while measuring.
    #[arg(long)]
    pub(crate) quiet: bool,
}

impl Common {
    pub(crate) fn plan(&self) -> Plan {
        Plan { progress: !self.quiet, ..Plan::seconds(self.seconds.clamp(0.01, 3600.0)) }
    }
}
