//! What the demo and the self-test tell: progress while it runs, a table or JSON at the end.

use serde::Serialize;
use std::io::{IsTerminal, Write};

/// One thing that was tried.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Check {
    /// What was tried.
    pub(crate) name: String,
    /// Whether it held.
    pub(crate) ok: bool,
    /// What was measured, if anything was.
    pub(crate) value: Option<f64>,
    /// Its unit, or empty.
    pub(crate) unit: String,
    /// What to add for people.
    #[serde(skip)]
    pub(crate) note: String,
}

/// Everything that was tried.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether all held.
    pub(crate) ok: bool,
    /// What carried the frames.
    pub(crate) backend: String,
    /// In the order in which they were tried.
    pub(crate) checks: Vec<Check>,
    #[serde(skip)]
    quiet: bool,
}

impl Report {
    /// An empty report; `quiet` prints no progress.
    pub(crate) fn new(backend: &str, quiet: bool) -> Self {
        Self { ok: true, backend: backend.to_owned(), checks: Vec::new(), quiet }
    }

    /// Says what is being done now. On standard error, so that the result stays clean.
    pub(crate) fn progress(&self, what: &str) {
        if !self.quiet {
            let mut out = std::io::stderr().lock();
            let _ = writeln!(out, "  ... {what}");
        }
    }

    /// Adds one thing that was tried.
    pub(crate) fn add(&mut self, name: &str, ok: bool, value: Option<f64>, unit: &str, note: &str) {
        self.ok &= ok;
        if !ok {
            self.progress(&format!("FAILED: {name} {note}"));
        }
        self.checks.push(Check {
            name: name.to_owned(),
            ok,
            value: value.filter(|v| v.is_finite()),
            unit: unit.to_owned(),
            note: note.to_owned(),
        });
    }

    /// The report as one JSON document.
    pub(crate) fn print_json(&self) {
        println!("{}", serde_json::to_string_pretty(self).unwrap_or_default());
    }

    /// The report as a table.
    pub(crate) fn print_table(&self) {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let width = self.checks.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
        println!("\n{:width$}  {:6}  {:>12} {:6}", "what was tried", "result", "value", "unit");
        println!("{}", "-".repeat(width + 30));
        for check in &self.checks {
            let (mark, on) = if check.ok { ("ok", "\x1b[32m") } else { ("FAILED", "\x1b[31m") };
            let (on, off) = if colour { (on, "\x1b[0m") } else { ("", "") };
            let value = check.value.map(number).unwrap_or_default();
            let line = format!(
                "{:width$}  {on}{mark:6}{off}  {value:>12} {:6}  {}",
                check.name, check.unit, check.note
            );
            println!("{}", line.trim_end());
        }
        let held = self.checks.iter().filter(|c| c.ok).count();
        println!("\n{held} of {} held, over {}", self.checks.len(), self.backend);
    }
}

/// A number with as many places as help.
fn number(value: f64) -> String {
    if value.fract() == 0.0 || value >= 1000.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}
