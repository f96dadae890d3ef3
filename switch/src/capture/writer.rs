//! The thread that writes a capture: records out of chunks, blocks into a pipe.

use super::{
    CHUNK, CHUNKS, Capture, Direction, Filter, LONGEST, Packet, PcapngWriter, Point, RECORD,
};
use super::{Subject, now};
use crate::verdict::DropReason;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often it is looked whether anybody still reads.
const LOOK: Duration = Duration::from_millis(100);

/// What the writing thread has of a capture. Dropping it ends the capture.
#[derive(Debug)]
pub(crate) struct Capturing {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    full: Receiver<Vec<u8>>,
    missed: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Capturing {
    /// Both ends of a capture; the workers' may be cloned, one for each.
    pub(crate) fn new(subject: Subject, filter: Filter, snaplen: usize) -> (Self, Capture) {
        let chunks = (0..CHUNKS).map(|_| Vec::with_capacity(CHUNK)).collect();
        let free = Arc::new(Mutex::new(chunks));
        let (sender, full) = sync_channel(CHUNKS);
        let (missed, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let capture = Capture {
            subject,
            filter: Arc::new(filter),
            snaplen: snaplen.min(LONGEST),
            chunk: None,
            free: Arc::clone(&free),
            full: sender,
            missed: Arc::clone(&missed),
            over: Arc::clone(&over),
        };
        (Self { free, full, missed, over }, capture)
    }

    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Says, from anywhere, whether it is over.
    pub(crate) fn over(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.over)
    }

    #[cfg(test)]
    pub(crate) fn full(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.full.try_iter()
    }

    pub(crate) fn give_back(&self, mut chunk: Vec<u8>) {
        chunk.clear();
        if let Ok(mut free) = self.free.lock() {
            free.push(chunk);
        }
    }
}

impl Drop for Capturing {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The daemon's end of a pipe: waits for the reader a little at a time, and gives up when nobody captures.
struct Pipe {
    end: OwnedFd,
}

impl Pipe {
    /// Whether somebody reads at the other end.
    fn is_read(&self) -> bool {
        let mut watched = [PollFd::new(&self.end, PollFlags::empty())];
        let _ = poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        !watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(&self.end, bytes) {
                // The reader's end is another description: it cannot make this one wait.
                Err(Errno::AGAIN) => {
                    let mut watched = [PollFd::new(&self.end, PollFlags::OUT)];
                    match poll(&mut watched, None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                }
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts to write what is captured, at most `most` frames, and gives the end to read from.
///
/// # Errors
/// No descriptors, or no thread.
pub(crate) fn start(
    capturing: Capturing,
    points: Vec<Point>,
    snaplen: u32,
    most: u64,
) -> io::Result<OwnedFd> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // Of this end alone.
    rustix::io::ioctl_fionbio(&write, true)?;
    let thread = std::thread::Builder::new().name("usnetd-capture".into());
    thread.spawn(move || match run(&capturing, &points, snaplen, most, Pipe { end: write }) {
        Ok(frames) => tracing::info!(frames, missed = capturing.missed(), "a capture has ended"),
        Err(error) => tracing::info!(%error, missed = capturing.missed(), "a capture has ended"),
    })?;
    Ok(read)
}

fn run(
    capturing: &Capturing,
    points: &[Point],
    snaplen: u32,
    most: u64,
    pipe: Pipe,
) -> io::Result<u64> {
    let watch = Pipe { end: pipe.end.try_clone()? };
    let application = concat!("usnetd ", env!("CARGO_PKG_VERSION"));
    let mut writer = PcapngWriter::new(BufWriter::new(pipe), application, points, snaplen)?;
    writer.flush()?;
    let (mut frames, mut told) = (0, 0);
    while frames < most && watch.is_read() {
        let chunk = match capturing.full.recv_timeout(LOOK) {
            Ok(chunk) => chunk,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let mut rest = chunk.as_slice();
        while frames < most
            && let Some((mut packet, reason, after)) = read_record(rest)
        {
            let missed = capturing.missed();
            packet.missed = missed - told;
            told = missed;
            let comment = reason.map(|reason| format!("dropped: {reason}"));
            packet.comment = comment.as_deref();
            writer.packet(&packet)?;
            frames += 1;
            rest = after;
        }
        writer.flush()?;
        capturing.give_back(chunk);
    }
    writer.end(now(), capturing.missed())?;
    Ok(frames)
}

/// The first record, why it was dropped if so, and what follows.
fn read_record(bytes: &[u8]) -> Option<(Packet<'_>, Option<&'static str>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<RECORD>()?;
    let (time, words) = head.split_first_chunk::<8>()?;
    let (length, words) = words.split_first_chunk::<4>()?;
    let (captured, words) = words.split_first_chunk::<4>()?;
    let [point, direction, reason, ..] = words else { return None };
    let captured = usize::try_from(u32::from_ne_bytes(*captured)).ok()?;
    let (frame, after) = rest.split_at_checked(captured)?;
    let packet = Packet {
        point: (*point).into(),
        time: u64::from_ne_bytes(*time),
        length: u32::from_ne_bytes(*length),
        direction: if *direction == Direction::Out as u8 { Direction::Out } else { Direction::In },
        missed: 0,
        comment: None,
        bytes: frame,
    };
    let reason = DropReason::ALL.get(usize::from(*reason)).map(|reason| reason.name());
    Some((packet, reason, after))
}
