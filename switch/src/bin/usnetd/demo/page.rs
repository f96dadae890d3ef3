//! Bytes that both ends know: the page and the bulk pattern.

/// Bytes of the page.
pub(super) const PAGE_SIZE: usize = 32_000;

/// The page: text that no other server would send.
pub(super) fn page() -> Vec<u8> {
    let mut text = String::from("<!doctype html><title>usnet</title><pre>\n");
    let mut line = 0;
    while text.len() < PAGE_SIZE {
        line += 1;
        text.push_str(&format!(
            "line {line}: served by a userspace stack beside the kernel's own\n"
        ));
    }
    text.truncate(PAGE_SIZE);
    text.into_bytes()
}

/// Length after which the pattern repeats; a prime, so that no buffer's size hides a shift.
const PERIOD: u64 = 65_521;

/// The byte at `at` of the pattern.
#[expect(clippy::cast_possible_truncation, reason = "the low byte is meant")]
const fn byte_at(at: u64) -> u8 {
    let n = at % PERIOD;
    (n ^ (n >> 8).wrapping_mul(31)) as u8
}

/// Fills `into` with the pattern from `from` on.
pub(super) fn fill_pattern(from: u64, into: &mut [u8]) {
    for (at, byte) in (from..).zip(into) {
        *byte = byte_at(at);
    }
}

/// One period of the pattern, twice, so that any window of a period can be cut from it.
pub(super) fn periods() -> Vec<u8> {
    let mut bytes = vec![0; 2 * usize::try_from(PERIOD).unwrap_or(0)];
    fill_pattern(0, &mut bytes);
    bytes
}

/// The bytes of the pattern from `from` on, at most one period of them.
pub(super) fn window(periods: &[u8], from: u64) -> &[u8] {
    let start = usize::try_from(from % PERIOD).unwrap_or(0);
    periods.get(start..start + periods.len() / 2).unwrap_or_default()
}

/// Whether `came` is the pattern from `from` on.
pub(super) fn pattern_matches(from: u64, came: &[u8]) -> bool {
    use std::sync::OnceLock;
    static PERIODS: OnceLock<Vec<u8>> = OnceLock::new();
    let periods = PERIODS.get_or_init(periods);
    let mut at = from;
    let mut rest = came;
    while !rest.is_empty() {
        let expected = window(periods, at);
        let count = rest.len().min(expected.len());
        if rest.get(..count) != expected.get(..count) {
            return false;
        }
        at += count as u64;
        rest = rest.get(count..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_or_changed_stream_does_not_match() {
        let mut stream = vec![0; 300_000];
        fill_pattern(1_000, &mut stream);
        assert!(pattern_matches(1_000, &stream));
        assert!(!pattern_matches(1_001, &stream));
        stream[200_000] ^= 1;
        assert!(!pattern_matches(1_000, &stream));
    }
}
