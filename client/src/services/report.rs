//! Rates, for people and for scripts.

use std::fmt;
use std::time::Duration;

/// Frames in a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The time.
    pub time: Duration,
}

impl Rate {
    /// Frames a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate is no exact number")]
    pub fn frames_per_second(&self) -> f64 {
        self.frames as f64 / self.time.as_secs_f64().max(1e-9)
    }

    /// Bits a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate is no exact number")]
    pub fn bits_per_second(&self) -> f64 {
        8.0 * self.bytes as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (frames, bits) = (self.frames_per_second() / 1e6, self.bits_per_second() / 1e9);
        write!(f, "{frames:9.3} Mframe/s {bits:8.3} Gbit/s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_frames_by_time() {
        let rate = Rate { frames: 3_000_000, bytes: 180_000_000, time: Duration::from_secs(2) };
        assert_eq!(rate.to_string(), "    1.500 Mframe/s    0.720 Gbit/s");
        assert!(Rate::default().frames_per_second().is_finite());
    }
}
