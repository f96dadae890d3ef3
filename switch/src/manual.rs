//! Manual pages and shell completions, from the same definition as the command line itself.

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use std::io::{self, Write};

/// Writes the manual page (section 8) of a command to standard output, each subcommand as a section
/// of its own.
///
/// # Errors
/// Standard output does not take it.
pub fn write_man(command: &Command) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut command = command.clone();
    command.build();
    let man = Man::new(command.clone()).section("8");
    man.render(&mut out)?;
    for inner in visible(&command) {
        write_section(&mut out, inner, inner.get_name())?;
    }
    out.flush()
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help")
}

fn write_section(out: &mut impl Write, command: &Command, path: &str) -> io::Result<()> {
    writeln!(out, ".SH \"{}\"", path.to_uppercase())?;
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    writeln!(out, "{about}")?;
    let man = Man::new(command.clone());
    for argument in command.get_arguments().filter(|a| !a.is_hide_set()) {
        let is_common = matches!(argument.get_id().as_str(), "help" | "version");
        if !is_common {
            man.render_options_section(out)?;
            break;
        }
    }
    if command.get_after_help().or_else(|| command.get_after_long_help()).is_some() {
        man.render_extra_section(out)?;
    }
    for inner in visible(command) {
        write_section(out, inner, &format!("{path} {}", inner.get_name()))?;
    }
    Ok(())
}

/// Writes completions for `shell` to standard output.
pub fn write_completions(command: &mut Command, shell: Shell) {
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, command, name, &mut io::stdout());
}
