//! Operation languages and their oracles: what the property tests, the fuzz targets and the replay
//! of their corpora have in common. Not part of any program.
//!
//! ```text
//!   bytes --decode--> operations --> shipped code ---+
//!                         |                          +--> must agree after every operation
//!                         +--------> oracle ---------+
//! ```
//!
//! - [`ring`]: two honest halves of a ring against counts that never wrap.
//! - [`hostile`]: a daemon half against a peer that stores anything anywhere it can.
//! - [`ledger`]: a pool with several sessions against a map of slots.
//!
//! Every `run` panics where code and oracle disagree, and never for any other input.

pub mod hostile;
pub mod ledger;
pub mod ring;
pub mod world;

/// Takes numbers off the front of a fuzzer's bytes; zeros when they are used up.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// The next four bytes, little-endian.
    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// The next eight bytes, little-endian.
    pub fn long(&mut self) -> u64 {
        u64::from(self.word()) | u64::from(self.word()) << 32
    }
}
