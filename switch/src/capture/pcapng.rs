//! pcapng, as far as a capture needs it (draft-ietf-opsawg-pcapng).
//!
//! ```text
//!   section header | interface description, one a point | enhanced packet ... | interface statistics
//! ```

use std::io::{self, Write};

/// `LINKTYPE_ETHERNET`.
const ETHERNET: u16 = 1;

/// Which way a frame goes, as whoever has the point sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// It received the frame.
    In = 1,
    /// It sent the frame.
    Out = 2,
}

/// Where frames are seen: an interface in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// `if_name`
    pub name: String,
    /// `if_description`
    pub description: String,
}

/// One frame.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Number of its point.
    pub point: u32,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Bytes of the whole frame.
    pub length: u32,
    /// Which way it goes.
    pub direction: Direction,
    /// Frames that were missed since the one before.
    pub missed: u64,
    /// `opt_comment`
    pub comment: Option<&'a str>,
    /// The beginning of the frame.
    pub bytes: &'a [u8],
}

/// Writes a section.
#[derive(Debug)]
pub struct PcapngWriter<W: Write> {
    into: W,
}

/// An option: code, length, value, padded to four bytes.
fn option(into: &mut Vec<u8>, code: u16, value: &[u8]) {
    let length = value.len().min(1024);
    into.extend(code.to_ne_bytes());
    into.extend(u16::try_from(length).unwrap_or(0).to_ne_bytes());
    into.extend(value.get(..length).unwrap_or_default());
    pad(into);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

impl<W: Write> PcapngWriter<W> {
    /// Begins a section of these points.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn new(into: W, application: &str, points: &[Point], snaplen: u32) -> io::Result<Self> {
        let mut writer = Self { into };
        let mut body = Vec::new();
        // The magic number says in which order bytes are; version 1.0; length not known.
        body.extend(0x1a2b_3c4d_u32.to_ne_bytes());
        body.extend([1u16.to_ne_bytes(), 0u16.to_ne_bytes()].concat());
        body.extend(u64::MAX.to_ne_bytes());
        option(&mut body, 4, application.as_bytes());
        option(&mut body, 0, &[]);
        writer.block(0x0a0d_0d0a, &body)?;
        for point in points {
            let mut body = Vec::new();
            body.extend([ETHERNET.to_ne_bytes(), [0; 2]].concat());
            body.extend(snaplen.to_ne_bytes());
            option(&mut body, 2, point.name.as_bytes());
            option(&mut body, 3, point.description.as_bytes());
            // Times are in nanoseconds.
            option(&mut body, 9, &[9]);
            option(&mut body, 0, &[]);
            writer.block(1, &body)?;
        }
        Ok(writer)
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let mut body = Vec::with_capacity(packet.bytes.len() + 96);
        let (high, low) = (packet.time >> 32, packet.time & u64::from(u32::MAX));
        let captured = u32::try_from(packet.bytes.len()).map_err(io::Error::other)?;
        body.extend(packet.point.to_ne_bytes());
        for word in [high, low] {
            body.extend(u32::try_from(word).unwrap_or(0).to_ne_bytes());
        }
        body.extend(captured.to_ne_bytes());
        body.extend(packet.length.max(captured).to_ne_bytes());
        body.extend(packet.bytes);
        pad(&mut body);
        if let Some(comment) = packet.comment {
            option(&mut body, 1, comment.as_bytes());
        }
        option(&mut body, 2, &u32::from(packet.direction as u8).to_ne_bytes());
        if packet.missed > 0 {
            option(&mut body, 4, &packet.missed.to_ne_bytes());
        }
        option(&mut body, 0, &[]);
        self.block(6, &body)
    }

    /// Ends the section: how many frames were missed in all.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn end(&mut self, time: u64, missed: u64) -> io::Result<()> {
        let mut body = Vec::new();
        body.extend(0u32.to_ne_bytes());
        for word in [time >> 32, time & u64::from(u32::MAX)] {
            body.extend(u32::try_from(word).unwrap_or(0).to_ne_bytes());
        }
        // isb_osdrop: dropped by the operating system, or whoever stands in its place.
        option(&mut body, 7, &missed.to_ne_bytes());
        option(&mut body, 0, &[]);
        self.block(5, &body)?;
        self.flush()
    }

    /// Hands over what was not yet.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len() + 12).map_err(io::Error::other)?.to_ne_bytes();
        self.into.write_all(&kind.to_ne_bytes())?;
        self.into.write_all(&length)?;
        self.into.write_all(body)?;
        self.into.write_all(&length)
    }
}
