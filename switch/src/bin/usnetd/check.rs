//! `usnetd check`: what a configuration amounts to.

use crate::cli::Check;
use crate::failure::Failure;
use std::io::{self, Write};
use usnet_switch::config::Config;

pub(crate) fn check(args: &Check) -> Result<(), Failure> {
    let config = Config::load(&args.file)?;
    let text = if args.json {
        serde_json::to_string_pretty(config.effective()).map_err(io::Error::from)
    } else {
        toml::to_string_pretty(config.effective()).map_err(io::Error::other)
    };
    text.and_then(|text| writeln!(io::stdout(), "{}", text.trim_end())).map_err(Failure::io)
}
