//! Frames from a port into a file that wireshark and its kin read.
//!
//! ```text
//!   port (netmap:eth0/r) --> a slot --> | header 24 | 16 + frame | 16 + frame | ...   pcap, nanoseconds
//! ```
//!
//! The port is only listened to. A frame's time is when its burst was taken; one that is longer than
//! a slot is not written, but counted by the port.

use crate::port::{Burst, Port};
use crate::time::Time;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};
use usnet_shmring::pool::Pool;

/// Begins a file whose times have nanoseconds, in this machine's order of bytes.
const MAGIC: u32 = 0xa1b2_3c4d;
/// Version 2.4 of the format.
const VERSION: [u16; 2] = [2, 4];
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u32 = 1;

/// Writes a capture.
#[derive(Debug)]
pub struct PcapWriter<W: Write> {
    into: W,
}

impl<W: Write> PcapWriter<W> {
    /// Begins a capture of frames of at most `longest` bytes.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn new(mut into: W, longest: u32) -> io::Result<Self> {
        into.write_all(&MAGIC.to_ne_bytes())?;
        for number in VERSION {
            into.write_all(&number.to_ne_bytes())?;
        }
        for word in [0, 0, longest, ETHERNET] {
            into.write_all(&word.to_ne_bytes())?;
        }
        Ok(Self { into })
    }

    /// Adds a frame that was seen at `at`, the time since 1970.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn frame(&mut self, at: Duration, bytes: &[u8]) -> io::Result<()> {
        // The format's seconds end in 2106.
        let seconds = u32::try_from(at.as_secs()).unwrap_or(u32::MAX);
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        for word in [seconds, at.subsec_nanos(), length, length] {
            self.into.write_all(&word.to_ne_bytes())?;
        }
        self.into.write_all(bytes)
    }

    /// Hands over what was not yet.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}

/// Writes at most a burst of what has arrived, and at most `most` frames; returns how many. Nothing
/// is left in the writer when nothing has arrived.
///
/// # Errors
/// The port is gone, or what cannot be written.
pub fn capture<W: Write>(
    port: &mut dyn Port,
    pool: &mut Pool,
    into: &mut PcapWriter<W>,
    most: u64,
) -> io::Result<u64> {
    let mut burst = Burst::new();
    let received = port.receive(Time(0), pool, &mut burst);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (mut count, mut result) = (0, Ok(()));
    while let Some(frame) = burst.pop() {
        if count < most && result.is_ok() {
            result = into.frame(now, pool.bytes(&frame));
            count += 1;
        }
        pool.free(frame);
    }
    result?;
    if received? == 0 {
        into.flush()?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_is_written_byte_for_byte_as_the_format_says() {
        let mut bytes = Vec::new();
        let mut writer = PcapWriter::new(&mut bytes, 2048).unwrap();
        writer.frame(Duration::new(7, 9), &[1, 2, 3]).unwrap();
        writer.flush().unwrap();
        if cfg!(target_endian = "little") {
            let head = [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0];
            assert_eq!(bytes[..20], head);
            assert_eq!(
                bytes[20..],
                [1, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3]
            );
        }
    }
}
