//! Sends back what it receives, UDP and TCP on one port.
//!
//!     cargo run --release --example echo -- --port 7

use clap::Parser;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use usnet::services::echo::{self, EchoOptions};
use usnet::{Stack, StackOptions};

#[derive(Parser)]
#[command(about = "Echo UDP and TCP through usnetd")]
struct Args {
    /// Port, for both protocols; 0 takes any.
    #[arg(long, default_value_t = 7)]
    port: u16,
    /// UDP alone.
    #[arg(long, conflicts_with = "tcp")]
    udp: bool,
    /// TCP alone.
    #[arg(long)]
    tcp: bool,
    /// The daemon's socket [default: $USNETD_SOCKET or /run/usnetd/control.sock].
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> io::Result<()> {
    let options = EchoOptions { port: args.port, udp: !args.tcp, tcp: !args.udp };
    let mut attach = StackOptions::named("echo");
    attach.session.socket = args.socket.unwrap_or(attach.session.socket);
    let stack = Stack::attach(attach)?;
    let grant = *stack.grant();
    echo::serve(&stack, &options, |serving| {
        let ports = [("udp", serving.udp), ("tcp", serving.tcp)];
        for (protocol, port) in ports.iter().filter_map(|(name, port)| Some((name, (*port)?))) {
            for address in grant.addresses() {
                println!("echoing {protocol} {}", std::net::SocketAddr::new(address, port));
            }
        }
    })
}
