//! Rows beside their yardsticks: as a table for people, as JSON for programs.

use crate::machine::Machine;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One measurement beside what it is compared with, both from one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Unit of both values.
    pub unit: String,
    /// What it is compared with.
    pub yardstick: String,
    /// The yardstick's value.
    pub yardstick_value: f64,
    /// `value / yardstick_value`. For rates more is better, for times less.
    pub ratio: f64,
}

impl Row {
    /// A row whose ratio follows from its values.
    #[must_use]
    pub fn new(name: &str, value: f64, unit: &str, yardstick: &str, yardstick_value: f64) -> Self {
        Self {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            yardstick: yardstick.to_owned(),
            yardstick_value,
            ratio: value / yardstick_value,
        }
    }
}

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Where it was measured.
    pub machine: Machine,
    /// What was measured.
    pub rows: Vec<Row>,
}

/// At most four digits that matter.
fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cpu, cores, kernel, governor, load, rustc, commit } = &self.machine;
        writeln!(f, "{cpu}, {cores} cores, Linux {kernel}, {rustc}")?;
        let governor = governor.as_deref().unwrap_or("unknown");
        let commit = commit.as_deref().unwrap_or("unknown");
        writeln!(f, "governor {governor}, load before {load:.2}, commit {commit}")?;
        let head = ["what", "value", "unit", "yardstick", "its value", "ratio"].map(str::to_owned);
        let rows = self.rows.iter().map(|row| {
            [
                row.name.clone(),
                digits(row.value),
                row.unit.clone(),
                row.yardstick.clone(),
                digits(row.yardstick_value),
                format!("{:.2}", row.ratio),
            ]
        });
        let lines: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
        let mut widths = [0; 6];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let [name_w, value_w, unit_w, yard_w, yard_value_w, ratio_w] = widths;
        for [name, value, unit, yard, yard_value, ratio] in &lines {
            write!(f, "\n{name:name_w$}  {value:>value_w$}  {unit:unit_w$}")?;
            write!(f, "  {yard:yard_w$}  {yard_value:>yard_value_w$}  {ratio:>ratio_w$}")?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_the_same_after_json() {
        let machine = Machine::look();
        let rows = vec![Row::new("a", 3.0, "M/s", "b", 2.0)];
        let json = serde_json::to_string(&Report { machine, rows }).unwrap();
        let back: Report = serde_json::from_str(&json).unwrap();
        assert_eq!(back.rows[0].ratio, 1.5);
        assert!(json.contains(r#""yardstick_value":2.0"#), "{json}");
    }

    #[test]
    fn columns_are_aligned() {
        let machine = Machine::look();
        let rows = vec![
            Row::new("short", 3.0, "M/s", "b", 2.0),
            Row::new("a longer name", 12345.6, "M/s", "yardstick", 2.0),
        ];
        let text = Report { machine, rows }.to_string();
        let widths: Vec<usize> = text.lines().skip(3).map(|line| line.chars().count()).collect();
        assert!(widths.len() == 3 && widths.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
    }
}
