//! What usnetd adds to a ping that the kernel's stack answers on an interface that both share.
//!
//! ```text
//!   ping :outside cl0 ------------- sv0 -- usnetd, polling, on processor 0 -- kernel :inside
//!        on processor 1
//! ```

use crate::goodput::{INSIDE, Served, Veth, failed};
use crate::pin;
use std::process::Command;
use std::time::Duration;

/// Between two pings.
const EVERY: Duration = Duration::from_millis(1);

/// The median round trip, in microseconds, through this port of usnetd; `None` through the kernel alone. It serves only
/// while it is measured: one that polls has a processor to itself.
///
/// # Errors
/// The privilege or `ping` is missing, or a ping was lost.
pub fn median(port: Option<&str>, time: Duration) -> Result<f64, String> {
    let veth = Veth::new(true)?;
    let text = |port| {
        format!("[worker]\nbusy_poll = true\ncpu = 0\n[[interface]]\nname = \"sv0\"\n{port}\n")
    };
    let _served = port.map(|port| Served::start(&veth.inside, &text(port))).transpose()?;
    let count = (time.as_secs_f64() / EVERY.as_secs_f64()).max(20.0).ceil();
    let every = EVERY.as_secs_f64().to_string();
    let wait = (time + Duration::from_secs(10)).as_secs().to_string();
    let ping = || {
        pin::pin_or_warn(1, "ping");
        // The first finds the neighbours; it is not counted.
        Command::new("ping").args(["-n", "-c", "1", "-w", "10", INSIDE]).output()?;
        let count = count.to_string();
        Command::new("ping").args(["-n", "-c", &count, "-i", &every, "-w", &wait, INSIDE]).output()
    };
    let output =
        veth.outside.run(ping).map_err(failed("enter a namespace"))?.map_err(failed("run ping"))?;
    let words = String::from_utf8_lossy(&output.stdout);
    let mut times: Vec<f64> = words.lines().filter_map(milliseconds).collect();
    // Some are late where the machine has other work; a lost one is a failure.
    if !output.status.success() || !words.contains(" 0% packet loss") || times.is_empty() {
        return Err(format!(
            "pings were lost:\n{words}{}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).map(|median| median * 1e3).ok_or_else(|| words.into_owned())
}

/// `... time=0.024 ms`
fn milliseconds(line: &str) -> Option<f64> {
    line.split_once("time=")?.1.split(' ').next()?.parse().ok()
}
