//! UNIX datagram sockets between two processors: what the kernel offers for the same exchange.

use crate::pin::pin_or_warn;
use crate::pingpong::histogram;
use crate::rig::say;
use hdrhistogram::Histogram;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// Sends 64 bytes there and back for `time` and returns the histogram of round trips in nanoseconds.
///
/// # Errors
/// Of the sockets, in words.
pub fn run(time: Duration) -> Result<Histogram<u64>, String> {
    let (here, there) = UnixDatagram::pair().map_err(say("make sockets"))?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            pin_or_warn(0, "datagram answerer");
            let mut bytes = [0; 64];
            // An empty datagram ends it.
            while let Ok(1..) = there.recv(&mut bytes) {
                if there.send(&bytes).is_err() {
                    break;
                }
            }
        });
        let asker = scope.spawn(move || {
            pin_or_warn(1, "datagram asker");
            let (mut histogram, mut bytes) = (histogram(), [7; 64]);
            let begin = Instant::now();
            while begin.elapsed() < time {
                let start = Instant::now();
                here.send(&bytes).map_err(say("send"))?;
                here.recv(&mut bytes).map_err(say("receive"))?;
                let taken = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                histogram.saturating_record(taken);
            }
            here.send(&[]).map_err(say("end"))?;
            Ok(histogram)
        });
        asker.join().unwrap_or_else(|_| Err("the asker failed".to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_back() {
        assert!(!run(Duration::from_millis(20)).unwrap().is_empty());
    }
}
