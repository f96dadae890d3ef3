//! Repeats contenders in turn, so that a disturbed second hurts all of them alike, and says what it
//! does meanwhile.

use std::io::{IsTerminal, Write};
use std::time::Duration;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rounds; each runs every contender once. The median of all rounds counts.
    pub rounds: usize,
    /// Time of one contender in one round.
    pub each: Duration,
    /// Whether to tell on standard error what runs.
    pub progress: bool,
}

impl Plan {
    /// Five rounds that together take about `seconds` for each contender.
    #[must_use]
    pub fn seconds(seconds: f64) -> Self {
        let each = Duration::try_from_secs_f64(seconds / 5.0).unwrap_or(Duration::from_secs(1));
        Self { rounds: 5, each, progress: true }
    }
}

/// What one contender reached in all rounds, sorted.
#[derive(Clone, Debug)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// The middle value; not a number if there is none.
    #[must_use]
    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        self.0.get(middle).copied().unwrap_or(f64::NAN)
    }

    /// The best rate.
    #[must_use]
    pub fn most(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }
}

/// A contender: its name, and what it reaches in a given time.
pub type Contender<'a> = (&'a str, Box<dyn FnMut(Duration) -> Result<f64, String> + 'a>);

/// Runs all contenders in turn, `plan.rounds` times, and returns what each reached.
///
/// # Errors
/// The first that a contender gives.
pub fn compare(
    contenders: &mut [Contender<'_>],
    unit: &str,
    plan: Plan,
) -> Result<Vec<Samples>, String> {
    let mut all = vec![Samples(Vec::new()); contenders.len()];
    for round in 1..=plan.rounds {
        for ((name, run), samples) in contenders.iter_mut().zip(&mut all) {
            tell(plan, &format!("round {round} of {}: {name} ...", plan.rounds), false);
            let value = run(plan.each).map_err(|error| format!("{name}: {error}"))?;
            tell(
                plan,
                &format!("round {round} of {}: {name}: {value:.2} {unit}", plan.rounds),
                true,
            );
            samples.0.push(value);
        }
    }
    for samples in &mut all {
        samples.0.sort_by(f64::total_cmp);
    }
    Ok(all)
}

/// Writes a line over the last one that was not `done`; on a file, whole lines only.
fn tell(plan: Plan, what: &str, done: bool) {
    let mut out = std::io::stderr().lock();
    if !plan.progress {
        return;
    }
    let _ = match (out.is_terminal(), done) {
        (true, false) => write!(out, "\r\x1b[K{what}"),
        (true, true) => writeln!(out, "\r\x1b[K{what}"),
        (false, true) => writeln!(out, "{what}"),
        (false, false) => Ok(()),
    };
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_one_disturbed_round() {
        let mut values = [9.0, 1.0, 10.0, 11.0, 10.0].into_iter();
        let plan = Plan { rounds: 5, each: Duration::ZERO, progress: false };
        let mut contenders: [Contender<'_>; 1] =
            [("a", Box::new(move |_| Ok(values.next().unwrap())))];
        let samples = compare(&mut contenders, "x", plan).unwrap();
        assert_eq!((samples[0].median(), samples[0].most()), (10.0, 11.0));
    }

    #[test]
    fn a_failing_contender_is_named() {
        let plan = Plan { rounds: 1, each: Duration::ZERO, progress: false };
        let mut contenders: [Contender<'_>; 1] = [("b", Box::new(|_| Err("no".to_owned())))];
        assert_eq!(compare(&mut contenders, "x", plan).unwrap_err(), "b: no");
    }
}
