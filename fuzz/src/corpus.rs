//! Real frames: the 5,643 distinct Ethernet frames of tcpdump's test captures, many of them named
//! after the memory bug that they once triggered. Origin and notice: `corpus/README.md`.

/// A frame of a capture.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// What was captured of it, beginning with the destination address.
    pub bytes: &'static [u8],
    /// How long it was on the wire, in bytes; at least as long as `bytes`, which a capture may cut.
    pub wire_len: usize,
    /// The capture that it comes from.
    pub capture: &'static str,
}

static PCAP: &[u8] = include_bytes!("../corpus/tcpdump-ethernet.pcap");
static INDEX: &str = include_str!("../corpus/tcpdump-ethernet.index");

/// All frames, in the order of the file.
///
/// # Panics
///
/// If the file that was compiled in is no little-endian Ethernet capture.
pub fn ethernet() -> impl Iterator<Item = Frame> {
    let captures = INDEX.lines().map(|line| line.split_once(' ').expect("number and name").1);
    Pcap::open(PCAP).expect("an Ethernet capture").zip(captures).map(
        |((bytes, wire_len), capture)| Frame {
            bytes,
            wire_len: wire_len.max(bytes.len()),
            capture,
        },
    )
}

/// The records of a classic pcap file: what was captured, and the length on the wire.
///
/// ```text
///   24: magic 4 | version 4 | zone 4 | accuracy 4 | snap length 4 | link type 4
///   then, until the end: seconds 4 | fraction 4 | captured length 4 | wire length 4 | bytes
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Pcap<'a> {
    rest: &'a [u8],
}

impl<'a> Pcap<'a> {
    /// Opens a file's content; `None` unless it is a little-endian capture of Ethernet frames.
    #[must_use]
    pub fn open(file: &'a [u8]) -> Option<Self> {
        const MAGIC: u32 = 0xa1b2_c3d4;
        const ETHERNET: u32 = 1;
        let (header, rest) = file.split_first_chunk::<24>()?;
        (word(header, 0) == MAGIC && word(header, 20) == ETHERNET).then_some(Self { rest })
    }
}

impl<'a> Iterator for Pcap<'a> {
    type Item = (&'a [u8], usize);

    /// Ends at the end of the file and at a record that is not whole.
    fn next(&mut self) -> Option<Self::Item> {
        let (header, rest) = self.rest.split_first_chunk::<16>()?;
        let (bytes, rest) = rest.split_at_checked(word(header, 8) as usize)?;
        self.rest = rest;
        Some((bytes, word(header, 12) as usize))
    }
}

fn word(header: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}
