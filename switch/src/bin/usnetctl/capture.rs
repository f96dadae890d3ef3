//! From the daemon's pipe into a file, or another pipe.

use crate::cli::CaptureArgs;
use crate::talk::TalkError;
use serde_json::json;
use std::fs::File;
use std::io::{self, Read, Write};
use usnet_shmring::control::QueryKind;
use usnet_switch::ask::Daemon;

/// Writes what is captured until the capture ends, or nobody reads it.
pub(crate) fn run(daemon: &mut Daemon, args: &CaptureArgs) -> Result<(), TalkError> {
    let mut wish = json!({ "snaplen": args.snaplen, "filter": args.filter.join(" ") });
    for (key, value) in [
        ("interface", args.interface.as_ref().map(|name| json!(name))),
        ("client", args.client.map(|id| json!(id))),
        ("count", args.count.map(|count| json!(count))),
    ] {
        if let Some(value) = value {
            wish[key] = value;
        }
    }
    // A file that cannot be written is found before anything is captured.
    let mut into: Box<dyn Write> = if args.write.as_os_str() == "-" {
        Box::new(io::stdout())
    } else {
        let file = File::create(&args.write);
        Box::new(file.map_err(|source| TalkError::File { path: args.write.clone(), source })?)
    };
    let pipe = daemon.ask_for_pipe(QueryKind::Capture, &wish.to_string())?;
    eprintln!("usnetctl: capturing; end it with Ctrl-C");
    let mut pipe = File::from(pipe);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = pipe.read(&mut buffer).map_err(TalkError::Output)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        match into.write_all(bytes).and_then(|()| into.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.map_err(TalkError::Output)?,
        }
    }
}
