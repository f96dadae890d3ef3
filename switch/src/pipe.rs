//! A port as a client's way in: for programs that speak to a port of netmap, and know nothing of usnet.
//!
//! ```text
//!   unmodified program -- port (netmap:x{1, vale0:a) -- bridge -- session -- usnetd
//! ```
//!
//! - The bridge is a client like any other: what the program sends is vetted, and it receives what the
//!   session has claimed. It trusts neither side.
//! - Frames are copied once each way. What finds no slot waits; what finds no room at the port is the
//!   port's to refuse.

use crate::port::{Burst, Port};
use crate::time::Time;
use core::time::Duration;
use std::io;
use std::os::fd::BorrowedFd;
use thiserror::Error;
use usnet::error::FrameError;
use usnet::raw::Frames;
use usnet_shmring::pool::Pool;

/// Why a bridge has ended.
#[derive(Debug, Error)]
pub enum BridgeError {
    /// The daemon has ended the session.
    #[error("the session has ended")]
    Session(#[from] FrameError),
    /// The port is gone.
    #[error("the port is gone")]
    Port(#[from] io::Error),
}

/// A session and a port, joined.
#[derive(Debug)]
pub struct Bridge {
    frames: Frames,
    port: Box<dyn Port>,
    pool: Pool,
    /// From the port, for the session.
    up: Burst,
    /// From the session, for the port.
    down: Burst,
}

impl Bridge {
    /// Joins a session and a port whose frames lie in slots of `pool`.
    #[must_use]
    pub fn new(frames: Frames, port: Box<dyn Port>, pool: Pool) -> Self {
        Self { frames, port, pool, up: Burst::new(), down: Burst::new() }
    }

    /// Moves at most a burst each way and returns how many frames moved.
    ///
    /// # Errors
    /// [`BridgeError`]
    pub fn turn(&mut self, now: Time) -> Result<usize, BridgeError> {
        let Self { frames, port, pool, up, down } = self;
        let mut moved = port.receive(now, pool, up)?;
        while let Some(frame) = up.pop() {
            let bytes = pool.bytes(&frame);
            let Some(mut slot) = frames.transmit() else {
                up.put_back(frame);
                break;
            };
            let place = slot.as_mut_slice().get_mut(..bytes.len());
            // Longer than a slot: nobody will take it.
            if let Some(place) = place {
                place.copy_from_slice(bytes);
                let _ = slot.send(bytes.len());
            }
            pool.free(frame);
        }
        if frames.receive()? > 0 {
            while down.room() > 0
                && let Some(mut slot) = pool.alloc()
            {
                let Some(frame) = frames.next() else {
                    pool.free(slot);
                    break;
                };
                let length = u16::try_from(frame.len()).unwrap_or(0);
                if pool.set_window(&mut slot, 0, length) {
                    frame.copy_to(pool.bytes_mut(&mut slot));
                }
                if let Err(slot) = down.push(slot) {
                    pool.free(slot);
                }
            }
        }
        if !down.is_empty() {
            moved += port.transmit(now, pool, down)?;
        }
        frames.flush()?;
        Ok(moved)
    }

    /// Sleeps until there may be something to move, or `also` is readable, at most for `timeout`.
    ///
    /// # Errors
    /// [`BridgeError::Session`]
    pub fn wait(
        &mut self,
        timeout: Duration,
        also: Option<BorrowedFd<'_>>,
    ) -> Result<(), BridgeError> {
        let others: Vec<_> = self.port.descriptor().into_iter().chain(also).collect();
        // What the port has no room for is offered again soon.
        let retry = Duration::from_millis(1);
        let timeout = if self.down.is_empty() { timeout } else { timeout.min(retry) };
        Ok(self.frames.wait(Some(timeout), &others)?)
    }
}
