//! What the two clients of a path do: write frames and send them, take frames and read them.

use usnet_shmring::view::{BURST, Receiver, RxFrame, Transmitter, View};

/// Sends frames as fast as slots come back.
#[derive(Debug)]
pub struct Generator {
    view: View,
    frame: Vec<u8>,
    /// Frames sent so far.
    pub sent: u64,
}

impl Generator {
    /// Sends copies of `frame`, each with its number in the last eight bytes.
    #[must_use]
    pub fn new(view: View, frame: Vec<u8>) -> Self {
        Self { view, frame, sent: 0 }
    }

    /// Takes slots back and sends at most a burst. Returns how many were sent.
    ///
    /// # Errors
    /// The switch broke the protocol.
    #[inline]
    pub fn turn(&mut self) -> Result<usize, String> {
        let Self { view, frame, sent } = self;
        send(&mut view.transmitter, frame, sent, BURST)
    }

    /// Takes slots back and returns whether all are back.
    ///
    /// # Errors
    /// As [`turn`](Self::turn).
    pub fn is_done(&mut self) -> Result<bool, String> {
        let transmitter = &mut self.view.transmitter;
        transmitter.reclaim().map_err(|fault| fault.to_string())?;
        Ok(transmitter.free() == transmitter.slots())
    }
}

/// Sends at most `most` frames.
#[inline]
fn send(
    transmitter: &mut Transmitter,
    frame: &[u8],
    sent: &mut u64,
    most: usize,
) -> Result<usize, String> {
    transmitter.reclaim().map_err(|fault| fault.to_string())?;
    let mut count = 0;
    while count < most {
        let Some(mut slot) = transmitter.next() else { break };
        let Some((bytes, _)) = slot.as_mut_slice().split_at_mut_checked(frame.len()) else {
            return Err("the frame is longer than a slot".to_owned());
        };
        bytes.copy_from_slice(frame);
        if let Some(number) = bytes.last_chunk_mut::<8>() {
            *number = sent.to_le_bytes();
        }
        slot.send(frame.len()).map_err(|error| error.to_string())?;
        *sent += 1;
        count += 1;
    }
    transmitter.publish();
    Ok(count)
}

/// Takes frames and reads every byte of them.
#[derive(Debug)]
pub struct Sink {
    view: View,
    copy: Box<[u8; 2048]>,
    /// Frames read so far.
    pub received: u64,
    /// Of all words read; wrong only if a frame was.
    pub sum: u64,
}

impl Sink {
    /// Receives from `view`.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self { view, copy: Box::new([0; 2048]), received: 0, sum: 0 }
    }

    /// Takes and reads at most a burst, and gives its slots back. Returns how many there were.
    ///
    /// # Errors
    /// The switch broke the protocol.
    #[inline]
    pub fn turn(&mut self) -> Result<usize, String> {
        let Self { view, copy, received, sum } = self;
        let count = take(&mut view.receiver, |frame| {
            *sum = sum.wrapping_add(read(&frame, copy));
        })?;
        *received += count as u64;
        Ok(count)
    }
}

#[inline]
fn take(receiver: &mut Receiver, mut each: impl FnMut(RxFrame<'_>)) -> Result<usize, String> {
    if receiver.receive().map_err(|fault| fault.to_string())? == 0 {
        return Ok(0);
    }
    let mut count = 0;
    while let Some(frame) = receiver.next() {
        each(frame);
        count += 1;
    }
    receiver.give_back();
    Ok(count)
}

/// Reads every byte: in place where the slot may be looked at, else from a copy.
#[inline]
fn read(frame: &RxFrame<'_>, copy: &mut [u8; 2048]) -> u64 {
    match frame.as_slice() {
        Some(bytes) => add(bytes),
        None => {
            let count = frame.copy_to(copy);
            add(copy.get(..count).unwrap_or_default())
        }
    }
}

#[inline]
fn add(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().map(|word| u64::from_ne_bytes(*word)).fold(0, u64::wrapping_add)
}

/// A client that sends one frame and waits for one.
#[derive(Debug)]
pub struct Peer {
    view: View,
    frame: Vec<u8>,
    sent: u64,
}

impl Peer {
    /// Sends copies of `frame`.
    #[must_use]
    pub fn new(view: View, frame: Vec<u8>) -> Self {
        Self { view, frame, sent: 0 }
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// No slot was free, or the switch broke the protocol.
    #[inline]
    pub fn send(&mut self) -> Result<(), String> {
        let Self { view, frame, sent } = self;
        match send(&mut view.transmitter, frame, sent, 1)? {
            1 => Ok(()),
            _ => Err("no slot is free".to_owned()),
        }
    }

    /// Takes what is there and returns the last number among it.
    ///
    /// # Errors
    /// The switch broke the protocol.
    #[inline]
    pub fn poll(&mut self) -> Result<Option<u64>, String> {
        let mut last = None;
        take(&mut self.view.receiver, |frame| {
            let mut copy = [0; 64];
            let count = frame.copy_to(&mut copy);
            let number = copy.get(..count).and_then(<[u8]>::last_chunk::<8>);
            last = number.map(|number| u64::from_le_bytes(*number));
        })?;
        Ok(last)
    }

    /// Frames sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }
}
