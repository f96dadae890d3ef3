//! Sends numbered UDP frames as fast as they go, or at a rate. `sink` counts them.
//!
//!     cargo run --release --example gen -- --destination 10.0.0.2:9 --size 60 --seconds 5

use clap::Parser;
use std::error::Error;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use usnet::services::generate::{GenerateOptions, generate};
use usnet::{Options, Session};

#[derive(Parser)]
#[command(about = "Send numbered UDP frames through usnetd")]
struct Args {
    /// Address and UDP port to send to.
    #[arg(long, value_name = "IP:PORT")]
    destination: SocketAddrV4,
    /// Link address of the destination, instead of asking for it.
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    mac: Option<[u8; 6]>,
    /// Bytes of a frame, without its check sequence.
    #[arg(long, default_value_t = 60)]
    size: u16,
    /// Flows, each with a source port of its own.
    #[arg(long, default_value_t = 1)]
    flows: u16,
    /// Frames a second, instead of as many as possible.
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Stop after so many frames.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Stop after so many seconds.
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Never sleep.
    #[arg(long)]
    spin: bool,
    /// Print one JSON object at the end and nothing else.
    #[arg(long)]
    json: bool,
    /// The daemon's socket [default: $USNETD_SOCKET or /run/usnetd/control.sock].
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes
        .and_then(|b| b.try_into().ok())
        .ok_or_else(|| "expected six bytes: 02:00:00:00:00:01".into())
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = error.source().map(|s| format!(": {s}")).unwrap_or_default();
            eprintln!("gen: {error}{cause}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let mut attach = Options::named("gen");
    attach.socket = args.socket.unwrap_or(attach.socket);
    let mut session = Session::attach(attach)?;
    let options = GenerateOptions {
        destination: args.destination,
        mac: args.mac,
        size: args.size,
        flows: args.flows,
        rate: args.rate,
        count: args.count,
        time: args.seconds.map(Duration::try_from_secs_f64).transpose()?,
        spin: args.spin,
    };
    let rate = generate(&mut session, &options, |rate| {
        if !args.json {
            println!("sent {rate}");
        }
    })?;
    if args.json {
        println!(
            "{{\"frames\":{},\"bytes\":{},\"seconds\":{:.6},\"frames_per_second\":{:.1}}}",
            rate.frames,
            rate.bytes,
            rate.time.as_secs_f64(),
            rate.frames_per_second()
        );
    } else {
        println!("in all {} frames, {rate}", rate.frames);
    }
    session.detach()?;
    Ok(())
}
