//! Serves a page over a TCP/IP stack of its own, on the address of the shared interface.
//!
//!     cargo run --release --example http -- --port 8080
//!     curl http://ADDRESS:8080/ ; curl http://ADDRESS:8080/bytes/1000000000 >/dev/null

use clap::Parser;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use usnet::services::http::{self, HttpOptions};
use usnet::{Stack, StackOptions};

#[derive(Parser)]
#[command(about = "Serve a page through usnetd: / is the page, /bytes/N are N bytes")]
struct Args {
    /// TCP port; 0 takes any.
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// File to serve instead of the built-in page.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Media type of the page.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Stop after so many requests.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// The daemon's socket [default: $USNETD_SOCKET or /run/usnetd/control.sock].
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("http: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> io::Result<()> {
    let mut options = HttpOptions { port: args.port, requests: args.count, ..Default::default() };
    if let Some(path) = args.page {
        options.page = std::fs::read(&path).map_err(|e| {
            io::Error::new(e.kind(), format!("cannot read {}: {e}", path.display()))
        })?;
    }
    options.content_type = args.content_type.unwrap_or(options.content_type);
    let mut attach = StackOptions::named("http");
    attach.session.socket = args.socket.unwrap_or(attach.session.socket);
    let stack = Stack::attach(attach)?;
    let grant = *stack.grant();
    let counts = http::serve(&stack, &options, |at| {
        for address in grant.addresses() {
            println!("serving http://{}/", std::net::SocketAddr::new(address, at.port()));
        }
    })?;
    println!(
        "{} connections, {} requests, {} bytes sent, {} bytes received",
        counts.connections, counts.requests, counts.sent, counts.received
    );
    Ok(())
}
