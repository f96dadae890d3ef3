//! What a number was measured on. A number without its machine says nothing.

use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The machine, the compiler and the code.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Processor model.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Kernel release.
    pub kernel: String,
    /// Frequency governor, if the kernel tells.
    pub governor: Option<String>,
    /// Runnable processes over the last minute: above 0.3 before the run, others disturb it.
    pub load: f64,
    /// Compiler.
    pub rustc: String,
    /// Commit of the working tree, with `+` if it has changes; absent outside a checkout.
    pub commit: Option<String>,
}

impl Machine {
    /// Looks at this machine.
    #[must_use]
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let info = read("/proc/cpuinfo").unwrap_or_default();
        let cpu = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = read("/proc/loadavg")
            .and_then(|text| text.split_whitespace().next()?.parse().ok())
            .unwrap_or(f64::NAN);
        Self {
            cpu: cpu.map_or("unknown", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
                .map(|text| text.trim().to_owned()),
            load,
            rustc: say("rustc", &["--version"]).unwrap_or_else(|| "unknown".to_owned()),
            commit: commit(),
        }
    }
}

fn commit() -> Option<String> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).to_str()?;
    let hash = say("git", &["-C", home, "rev-parse", "--short=12", "HEAD"])?;
    let changed = say("git", &["-C", home, "status", "--porcelain", "-uno"])?;
    Some(if changed.is_empty() { hash } else { hash + "+" })
}

/// The first line that a program prints, if it succeeds.
fn say(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.lines().next().unwrap_or("").trim().to_owned())
}
