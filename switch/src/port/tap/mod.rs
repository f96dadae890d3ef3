//! A TAP device: a network interface of the kernel whose wire is this process. And a macvtap, which is read and
//! written in the same way and leads to the network instead.
//!
//! ```text
//!   kernel's stack <-> tapN <-> /dev/net/tun <-> switch
//!   network <-> eth0 <-> macvtap <-> its device <-> switch
//! ```
//!
//! - The host stack's way in and out, and the simplest port there is: one system call a frame, which
//!   the kernel's interface leaves no choice about.
//! - A TAP device goes when the port does. A macvtap is somebody else's to keep; its device does not tell
//!   when it is gone, so it is asked now and then.
//! - With a [`Header`] in front of each frame the kernel may leave checksums to us, and hand over TCP segments
//!   joined into one long frame, if slots hold such. In the other direction it always takes both.

mod node;
mod sys;
pub mod vnet;

use super::{Burst, Port, PortCounters, PortInfo};
use crate::classify::Mac;
use crate::time::Time;
use rustix::io::Errno;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use usnet_shmring::pool::{Frame, MIN_FRAME, Pool};

/// What the kernel may leave to us of a frame that it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Header {
    /// Nothing: frames are as on the wire.
    None,
    /// Checksums.
    #[default]
    Checksums,
    /// Checksums, and cutting what is longer than the MTU into segments.
    Segments,
}

/// What to open.
#[derive(Clone, Debug)]
pub struct TapSpec {
    /// Name of the device; `%d` in it is replaced by a number.
    pub name: String,
    /// Its link address, as the kernel shall have it.
    pub mac: Mac,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// What may be left to do of frames.
    pub header: Header,
}

/// How often a macvtap is asked whether it is still there.
const LOOK: Duration = Duration::from_millis(50);

/// A port over a TAP or macvtap device.
#[derive(Debug)]
pub struct Tap {
    info: PortInfo,
    device: OwnedFd,
    header: Header,
    counters: PortCounters,
    /// When to look whether the link is gone, of a device that does not tell.
    next_look: Option<Time>,
}

impl Tap {
    /// Makes the device and sets its link address and MTU. It is down until somebody brings it up.
    /// Needs `/dev/net/tun` and `CAP_NET_ADMIN` in the user namespace that owns the network
    /// namespace.
    ///
    /// # Errors
    /// What the kernel refused; the caller names the device.
    pub fn open(spec: &TapSpec) -> io::Result<Self> {
        let (device, name) = sys::open(&spec.name, spec.header, false)?;
        sys::configure(&name, spec.mac, spec.mtu)?;
        Ok(Self::over(device, name, spec))
    }

    /// The same with several queues, at least one, each a port of its own. The kernel keeps the frames
    /// of a flow on one of them: the one on which it last got frames of that flow.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_queues(spec: &TapSpec, count: usize) -> io::Result<Vec<Self>> {
        if count <= 1 {
            return Ok(vec![Self::open(spec)?]);
        }
        let (device, name) = sys::open(&spec.name, spec.header, true)?;
        sys::configure(&name, spec.mac, spec.mtu)?;
        let mut queues = vec![Self::over(device, name.clone(), spec)];
        for _ in 1..count {
            let (device, name) = sys::open(&name, spec.header, true)?;
            queues.push(Self::over(device, name, spec));
        }
        Ok(queues)
    }

    /// Ports over queues of a macvtap that there is, at least one: it has the name, the link address and the
    /// MTU of `spec`. `called` is what the ports are called. The kernel chooses a queue by a frame's flow.
    ///
    /// # Errors
    /// Its device cannot be found, or no node for it can be made; the text says what is missing.
    pub fn open_macvtap(spec: &TapSpec, called: &str, count: usize) -> io::Result<Vec<Self>> {
        let open = |_| {
            let device = node::open(&spec.name, spec.mac, spec.header)?;
            let mut queue = Self::over(device, called.to_owned(), spec);
            queue.info.backend = "macvtap";
            queue.next_look = Some(Time(0));
            Ok(queue)
        };
        (0..count.max(1)).map(open).collect()
    }

    fn over(device: OwnedFd, name: String, spec: &TapSpec) -> Self {
        let info = PortInfo { name, backend: "tap", mac: spec.mac, mtu: spec.mtu };
        let (header, counters) = (spec.header, PortCounters::default());
        Self { info, device, header, counters, next_look: None }
    }

    /// Fails if the link of a macvtap is gone.
    fn look(&mut self, now: Time) -> io::Result<()> {
        match &mut self.next_look {
            Some(next) if *next <= now => {
                *next = now + LOOK;
                sys::link_of(&self.device).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Name of the device, with the number that the kernel gave it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Reads one frame into `frame`; empty if it is of no use. `Ok(false)` if there is none.
    fn read(&mut self, pool: &mut Pool, frame: &mut Frame) -> io::Result<bool> {
        let slot = u16::try_from(pool.slot_size()).unwrap_or(u16::MAX);
        pool.set_window(frame, 0, slot);
        let mut header = [0; vnet::LENGTH];
        let into = pool.bytes_mut(frame);
        let read = if self.header == Header::None {
            rustix::io::read(&self.device, into)
        } else {
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(into)];
            rustix::io::readv(&self.device, &mut parts).map(|n| n.saturating_sub(vnet::LENGTH))
        };
        let length = match read {
            Ok(length) => length,
            // Down, or a frame that vanished: nothing now.
            Err(Errno::AGAIN | Errno::INTR | Errno::IO) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        // One that fills the slot may have been longer.
        let length = u16::try_from(length).ok().filter(|length| *length < slot).unwrap_or(0);
        pool.set_window(frame, 0, length);
        match vnet::read(&header, pool.bytes_mut(frame)) {
            Some(offload) => frame.set_offload(offload),
            None => drop(pool.set_window(frame, 0, 0)),
        }
        Ok(true)
    }

    /// Writes one frame; how much of it, or what the kernel said.
    fn write(&self, pool: &mut Pool, frame: &mut Frame) -> Result<usize, Errno> {
        let offload = frame.offload();
        let longest = usize::from(self.info.mtu) + 14 + 8;
        let fits = frame.len() <= longest || offload.segment().is_some();
        if !fits || frame.len() < usize::from(MIN_FRAME) {
            return Err(Errno::MSGSIZE);
        }
        if self.header == Header::None {
            return rustix::io::write(&self.device, pool.bytes(frame));
        }
        let bytes = pool.bytes_mut(frame);
        let (header, length) = vnet::write(offload, bytes).ok_or(Errno::INVAL)?;
        let bytes = bytes.get(..length).ok_or(Errno::INVAL)?;
        let parts = [IoSlice::new(&header), IoSlice::new(bytes)];
        rustix::io::writev(&self.device, &parts)
    }
}

impl Port for Tap {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn receive(&mut self, now: Time, pool: &mut Pool, into: &mut Burst) -> io::Result<usize> {
        let mut count = 0;
        while into.room() > 0 {
            let Some(mut frame) = pool.alloc() else {
                // The frame waits in the device's queue, which drops when it is full.
                break;
            };
            match self.read(pool, &mut frame) {
                Ok(true) if frame.len() >= usize::from(MIN_FRAME) => {}
                Ok(true) => {
                    self.counters.receive_errors += 1;
                    pool.free(frame);
                    continue;
                }
                Ok(false) => {
                    pool.free(frame);
                    break;
                }
                Err(error) => {
                    pool.free(frame);
                    return Err(error);
                }
            }
            self.counters.received += 1;
            self.counters.received_bytes += frame.len() as u64;
            match into.push(frame) {
                Ok(()) => count += 1,
                Err(frame) => pool.free(frame),
            }
        }
        if count == 0 {
            self.look(now)?;
        }
        Ok(count)
    }

    fn transmit(&mut self, _now: Time, pool: &mut Pool, from: &mut Burst) -> io::Result<usize> {
        let mut count = 0;
        while let Some(mut frame) = from.pop() {
            let written = self.write(pool, &mut frame);
            match written {
                Ok(_) => {
                    self.counters.transmitted += 1;
                    self.counters.transmitted_bytes += frame.len() as u64;
                }
                Err(Errno::AGAIN | Errno::NOBUFS) => {
                    from.put_back(frame);
                    break;
                }
                // Too long for the device, or the device is down.
                Err(Errno::MSGSIZE | Errno::INVAL | Errno::IO | Errno::INTR) => {
                    self.counters.transmit_errors += 1;
                }
                Err(errno) => {
                    from.put_back(frame);
                    return Err(errno.into());
                }
            }
            pool.free(frame);
            count += 1;
        }
        Ok(count)
    }

    fn takes_unfinished(&self) -> bool {
        self.header != Header::None
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.device.as_fd())
    }
}
