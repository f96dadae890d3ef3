//! Counts the frames of `gen`: how many, how many were lost, how many came late.
//!
//!     cargo run --release --example sink -- --port 9 --silence 1

use clap::Parser;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use usnet::services::sink::{SinkOptions, sink};
use usnet::{Options, Session};

#[derive(Parser)]
#[command(about = "Count the frames of gen")]
struct Args {
    /// UDP port to receive on.
    #[arg(long, default_value_t = 9)]
    port: u16,
    /// Stop after so many frames.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Stop so many seconds after the first frame.
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Stop when so many seconds pass without a frame.
    #[arg(long, value_name = "S")]
    silence: Option<f64>,
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

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = error.source().map(|s| format!(": {s}")).unwrap_or_default();
            eprintln!("sink: {error}{cause}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let mut attach = Options::named("sink");
    attach.socket = args.socket.unwrap_or(attach.socket);
    let mut session = Session::attach(attach)?;
    let options = SinkOptions {
        port: args.port,
        count: args.count,
        time: args.seconds.map(Duration::try_from_secs_f64).transpose()?,
        silence: args.silence.map(Duration::try_from_secs_f64).transpose()?,
        spin: args.spin,
    };
    let ready = || {
        if !args.json {
            println!("counting on port {}", args.port);
        }
    };
    let counted = sink(&mut session, &options, ready, |rate, lost, late| {
        if !args.json {
            println!("received {rate}  lost {lost}  late {late}");
        }
    })?;
    let rate = counted.rate;
    if args.json {
        println!(
            "{{\"frames\":{},\"bytes\":{},\"seconds\":{:.6},\"frames_per_second\":{:.1},\
             \"lost\":{},\"late\":{},\"flows\":{},\"others\":{}}}",
            rate.frames,
            rate.bytes,
            rate.time.as_secs_f64(),
            rate.frames_per_second(),
            counted.lost,
            counted.late,
            counted.flows,
            counted.others
        );
    } else {
        println!(
            "in all {} frames, {rate}; lost {}, late {}, flows {}, others {}",
            rate.frames, counted.lost, counted.late, counted.flows, counted.others
        );
    }
    session.detach()?;
    Ok(())
}
