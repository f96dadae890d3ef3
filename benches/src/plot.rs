//! A bar for every row and one for its yardstick, as a plain SVG.

use crate::report::{Report, Row};
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 300.0;
const BAR: f64 = 16.0;
const STEP: f64 = 52.0;
const TOP: f64 = 64.0;

/// Writes `DIR/NAME.svg` and returns its path.
///
/// # Errors
/// Of writing.
pub fn write(report: &Report, directory: &Path, name: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let path = directory.join(format!("{name}.svg"));
    fs::write(&path, svg(report, name))?;
    Ok(path)
}

/// The picture. Bars of one unit share a scale.
#[must_use]
pub fn svg(report: &Report, title: &str) -> String {
    let rows = &report.rows;
    #[expect(clippy::cast_precision_loss, reason = "a number of rows")]
    let height = TOP + STEP * rows.len() as f64 + 16.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut out, 12.0, 22.0, "start", &format!("usnet-bench {title}"));
    let machine = &report.machine;
    let commit = machine.commit.as_deref().unwrap_or("unknown");
    let where_ = format!("{}, Linux {}, commit {commit}", machine.cpu, machine.kernel);
    text(&mut out, 12.0, 40.0, "start", &where_);
    for (index, row) in (0u32..).zip(rows) {
        let y = TOP + STEP * f64::from(index);
        let most = largest(rows, &row.unit);
        bar(&mut out, y, row.value / most, "#2b6cb0", &row.name, row.value, &row.unit);
        let y = y + BAR + 4.0;
        let share = row.yardstick_value / most;
        bar(&mut out, y, share, "#a0aec0", &row.yardstick, row.yardstick_value, &row.unit);
    }
    out.push_str("</svg>\n");
    out
}

fn largest(rows: &[Row], unit: &str) -> f64 {
    let values = rows.iter().filter(|row| row.unit == unit);
    values.flat_map(|row| [row.value, row.yardstick_value]).fold(f64::MIN_POSITIVE, f64::max)
}

fn bar(out: &mut String, y: f64, share: f64, fill: &str, name: &str, value: f64, unit: &str) {
    let width = (WIDTH - LEFT - 130.0) * share.clamp(0.0, 1.0);
    let _ = writeln!(
        out,
        "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{fill}\"/>"
    );
    text(out, LEFT - 8.0, y + 12.0, "end", name);
    text(out, LEFT + width + 6.0, y + 12.0, "start", &format!("{value:.1} {unit}"));
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    #[test]
    fn the_longest_bar_is_the_largest_value_and_names_are_escaped() {
        let rows = vec![Row::new("a<b", 1.0, "M/s", "c", 4.0)];
        let svg = svg(&Report { machine: Machine::look(), rows }, "ring");
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b"), "{svg}");
        let full = WIDTH - LEFT - 130.0;
        assert!(svg.contains(&format!("width=\"{:.1}\"", full / 4.0)), "{svg}");
        assert!(svg.contains(&format!("width=\"{full:.1}\"")), "{svg}");
    }
}
