//! `usnetd restore`: what the next start would do first, where there is to be none.

use crate::cli::Restore;
use crate::failure::Failure;
use std::io::{self, Write};
use usnet_switch::daemon::{Records, Restored};

pub(crate) fn run(args: &Restore) -> Result<(), Failure> {
    let records = Records::at(Some(args.state_dir.clone()));
    let Restored { interfaces, in_use, troubles } = records.restore();
    let mut lines: Vec<String> = interfaces
        .iter()
        .map(|(name, changes)| match changes {
            0 => format!("{name}: was as it should be"),
            1 => format!("{name}: 1 setting put back"),
            more => format!("{name}: {more} settings put back"),
        })
        .collect();
    if in_use > 0 {
        lines.push(format!("{in_use} records are of a usnetd that runs"));
    }
    if lines.is_empty() && troubles.is_empty() {
        lines.push(format!("nothing to put back in {}", args.state_dir.display()));
    }
    for line in lines {
        writeln!(io::stdout(), "{line}").map_err(Failure::io)?;
    }
    if troubles.is_empty() {
        return Ok(());
    }
    Err(Failure::io(io::Error::other(troubles.join("\n"))))
}
