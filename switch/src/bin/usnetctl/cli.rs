//! What can be typed.

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;
use std::time::Duration;
use usnet_switch::config::{DEFAULT_FILE, DEFAULT_SOCKET};

const HELP: &str = "\
Objects and verbs may be shortened as long as they stay unique: `usnetctl c l`.

Exit codes:
  0   done
  1   the daemon refused, or the job failed
  2   bad arguments
  3   the daemon cannot be reached
  4   not permitted

Environment:
  USNETD_SOCKET   the daemon's socket, if --socket is not given

Examples:
  usnetctl status                      what the daemon serves
  usnetctl client list                 who is attached
  usnetctl client show 3               everything about session 3
  usnetctl client detach 3             end session 3
  usnetctl explain eth0 tcp 192.0.2.7:5000 10.0.0.1:80
                                       who would get this frame, and why
  usnetctl capture -i eth0 -w - tcp port 443 | wireshark -k -i -
  usnetctl --watch=1 client list       the same again every second
  usnetctl -j events                   what happens, one JSON object a line
  usnetctl -j stats | jq .totals       counters, for scripts";

const CAPTURE: &str = "\
A filter is made of tcp, udp, sctp, icmp, icmp6, arp, ip, ip6, host ADDRESS, net ADDRESS/BITS, port PORT and portrange
FIRST-LAST, the latter four perhaps after src or dst, with not, and, or and parentheses; `and` binds before `or`.

An interface has three points in the file: NAME, NAME:host and NAME:dropped; a client two. A frame that was dropped
has the reason in its comment. Frames for which there was no room are missed, never delayed; how many is in the file.

Examples:
  usnetctl capture -i eth0 -w eth0.pcapng tcp port 443 and not host 192.0.2.7
  usnetctl capture -c 3 -w - | wireshark -k -i -
  usnetctl capture -i eth0 -s 128 -w - | tshark -r - -T fields -e frame.interface_name -e frame.comment";

const EXPLAIN: &str = "\
The daemon answers from the tables that steer frames. Nothing is sent, learned or kept fresh.

Examples:
  usnetctl explain eth0 tcp 192.0.2.7:5000 10.0.0.1:80
  usnetctl explain eth0 udp [2001:db8::7]:5000 [2001:db8::1]:53
  usnetctl -j explain eth0 icmp 192.0.2.7 10.0.0.1 | jq .verdict";

/// Looks at a running usnetd.
#[derive(Debug, Parser)]
#[command(name = "usnetctl", version, after_help = HELP, infer_subcommands = true)]
pub(crate) struct Cli {
    /// Print JSON
    #[arg(short, long, global = true)]
    json: bool,
    /// Print JSON for people; implies --json
    #[arg(short, long, global = true)]
    pretty: bool,
    /// Show it again and again, every so many seconds (2 if not said)
    #[arg(long, value_name = "SECONDS", global = true, num_args = 0..=1,
        default_missing_value = "2", require_equals = true, value_parser = seconds)]
    pub(crate) watch: Option<Duration>,
    /// The daemon's socket [default: $USNETD_SOCKET or /run/usnetd/control.sock]
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The daemon and its interfaces
    Status,
    /// The interfaces; `config apply` brings and takes them
    #[command(infer_subcommands = true)]
    Nic {
        #[command(subcommand)]
        verb: Option<NicVerb>,
    },
    /// Attached clients
    #[command(infer_subcommands = true, alias = "c")]
    Client {
        #[command(subcommand)]
        verb: Option<ClientVerb>,
    },
    /// Ports that are held
    #[command(infer_subcommands = true)]
    Rule {
        #[command(subcommand)]
        verb: Option<RuleVerb>,
    },
    /// Flows that the switch has learned from what clients send
    #[command(infer_subcommands = true)]
    Flow {
        #[command(subcommand)]
        verb: Option<FlowVerb>,
    },
    /// The kernel's stack beside the clients: its sockets, and the ports that are kept for it or from it
    Host,
    /// Copies of frames of an interface or a client, as pcapng
    #[command(after_help = CAPTURE)]
    Capture(CaptureArgs),
    /// What happens: clients and interfaces come and go, faults, refusals, ports that fail and come back
    Events {
        /// Begin with what the daemon still knows, not with what comes
        #[arg(short, long)]
        all: bool,
    },
    /// Counters of frames, drops and slots
    Stats,
    /// Who would get a frame that arrives, and why, step by step
    Explain(Explain),
    /// The daemon's configuration: check a file, compare it, put it into force
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Write the manual page
    #[command(hide = true)]
    Man,
    /// Write completions for a shell
    #[command(hide = true, name = "shell-completions")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Args, Debug)]
pub(crate) struct CaptureArgs {
    /// Interface whose ports are captured
    #[arg(
        short,
        long,
        value_name = "NAME",
        required_unless_present = "client",
        conflicts_with = "client"
    )]
    pub(crate) interface: Option<String>,
    /// Client whose rings are captured: the number of its session
    #[arg(short, long, value_name = "ID")]
    pub(crate) client: Option<u16>,
    /// File to write; `-` is the standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) write: PathBuf,
    /// Bytes of each frame at most
    #[arg(short, long, value_name = "BYTES", default_value_t = 65_512)]
    pub(crate) snaplen: u32,
    /// Stop after so many frames
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Which frames; all if not given
    #[arg(value_name = "FILTER")]
    pub(crate) filter: Vec<String>,
}

#[derive(Args, Debug)]
#[command(after_help = EXPLAIN)]
pub(crate) struct Explain {
    /// Interface on whose wire it arrives
    pub(crate) interface: String,
    /// tcp, udp, icmp (an echo request) or echo-reply
    pub(crate) protocol: String,
    /// Where it comes from: ADDRESS:PORT, without port for icmp and echo-reply
    pub(crate) source: String,
    /// Where it goes to: ADDRESS:PORT, without port for icmp; ADDRESS:IDENTIFIER for echo-reply
    pub(crate) destination: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClientVerb {
    /// One line for each client
    #[command(visible_alias = "ls")]
    List,
    /// Everything about one client
    Show {
        /// Number of its session
        id: u32,
    },
    /// End a client's session
    Detach {
        /// Number of its session
        id: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RuleVerb {
    /// One line for each range of ports
    #[command(visible_aliases = ["ls", "show"])]
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NicVerb {
    /// One line for each interface
    #[command(visible_alias = "ls")]
    List,
    /// Everything about one interface
    Show {
        /// Its name
        name: String,
    },
}

/// Reads seconds, with a fraction if need be.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|s: &f64| (0.01..=86_400.0).contains(s));
    let seconds = seconds.ok_or("must be seconds from 0.01 to 86400")?;
    Ok(Duration::from_secs_f64(seconds))
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Say whether a file is right; asks no daemon
    Check(ConfigFile),
    /// What a file would change in the running daemon
    Diff(ConfigFile),
    /// Put a file into force, all of it or nothing: policies; what else it would change needs a restart, and is named
    Apply(ConfigFile),
}

#[derive(Args, Debug)]
pub(crate) struct ConfigFile {
    /// Configuration file
    #[arg(value_name = "FILE", default_value = DEFAULT_FILE)]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FlowVerb {
    /// One line for each flow
    #[command(visible_aliases = ["ls", "show"])]
    List {
        /// Flows at most
        #[arg(short, long, value_name = "N", default_value_t = 1000)]
        limit: u32,
    },
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Table,
    Json,
    PrettyJson,
}

impl Cli {
    pub(crate) fn format(&self) -> Format {
        match (self.pretty, self.json) {
            (true, _) => Format::PrettyJson,
            (false, true) => Format::Json,
            (false, false) => Format::Table,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        let named = || std::env::var_os("USNETD_SOCKET").filter(|path| !path.is_empty());
        let chosen = self.socket.clone().or_else(|| named().map(PathBuf::from));
        chosen.unwrap_or_else(|| DEFAULT_SOCKET.into())
    }
}
