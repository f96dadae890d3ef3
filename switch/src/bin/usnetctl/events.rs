//! What happens, as it happens.

use crate::cli::Format;
use crate::print;
use crate::talk::TalkError;
use serde_json::Value;
use std::path::Path;
use usnet_shmring::control::{ChannelError, QueryKind};
use usnet_switch::ask::{AskError, Daemon};

/// Prints events until nobody reads them, or the daemon ends.
pub(crate) fn follow(
    mut daemon: Daemon,
    socket: &Path,
    all: bool,
    format: Format,
) -> Result<(), TalkError> {
    daemon.wait_for_ever()?;
    let mut next = u64::from(all);
    loop {
        let from = u32::try_from(next).unwrap_or(0);
        let (_, answer) = match daemon.query(QueryKind::Events, from) {
            // The daemon does not wait long for one whose own reader is slow.
            Err(AskError::Channel(ChannelError::Closed)) => {
                daemon = Daemon::connect(socket)?;
                daemon.wait_for_ever()?;
                daemon.query(QueryKind::Events, from)?
            }
            other => other?,
        };
        next = answer["next"].as_u64().unwrap_or(0);
        let mut text = String::new();
        if let Some(lost @ 1..) = answer["lost"].as_u64() {
            text.push_str(&match format {
                Format::Table => format!("{lost} events are lost: they were not read in time\n"),
                _ => format!("{{\"event\":\"lost\",\"count\":{lost}}}\n"),
            });
        }
        for event in answer["events"].as_array().into_iter().flatten() {
            text.push_str(&match format {
                Format::Table => line(event),
                Format::Json => format!("{event}\n"),
                Format::PrettyJson => format!("{event:#}\n"),
            });
        }
        if !print(&text)? {
            return Ok(());
        }
    }
}

/// `2026-11-25T09:00:00Z attached client=3 name=web ...`
fn line(event: &Value) -> String {
    let time = event["time_ms"].as_u64().map_or_else(|| "-".to_owned(), utc);
    let mut text = format!("{time} {}", event["event"].as_str().unwrap_or("-"));
    for (key, value) in event.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "seq" | "time_ms" | "event") {
            text.push_str(&format!(" {key}={value}"));
        }
    }
    text.push('\n');
    text
}

/// A time in milliseconds since 1970, in the form of RFC 3339.
fn utc(ms: u64) -> String {
    let (seconds, ms) = (ms / 1000, ms % 1000);
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |y: u64| (y.is_multiple_of(4) && !y.is_multiple_of(100)) || y.is_multiple_of(400);
    let mut year = 1970;
    while year < 9999 && days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_007, "2000-02-29T00:00:00.007Z"),
            (1_709_251_199_000, "2024-02-29T23:59:59.000Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(utc(ms), text);
        }
    }
}
