//! Segmentation and checksum offload of an interface (SIOCETHTOOL, linux/ethtool.h).
//!
//! A frame that a packet socket hands over must be as on the wire. With segmentation offload the
//! kernel shows it 64 kB ones, and a veth passes frames on whose checksum the network card was
//! meant to finish. Switch them off at *both* ends of a veth: each end decides what it sends.

use super::error::{KernelNote, NetError};
use super::link::name_bytes;
use super::sys;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;

/// One thing that an interface may do in the kernel's stead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offload {
    /// Check the checksums of received packets.
    ReceiveChecksum,
    /// Fill in the checksums of sent packets.
    TransmitChecksum,
    /// Gather sent packets from several pieces of memory.
    ScatterGather,
    /// Cut large TCP segments when they are sent.
    TcpSegmentation,
    /// The same in software, for all protocols.
    GenericSegmentation,
    /// Join received TCP segments in software.
    GenericReceive,
    /// Join received TCP segments in hardware.
    LargeReceive,
    /// Take the VLAN tags out of received frames.
    ReceiveVlan,
}

impl Offload {
    /// All but those of VLANs. Checksums come last: the kernel switches segmentation off with them.
    pub const ALL: [Self; 7] = [
        Self::GenericReceive,
        Self::LargeReceive,
        Self::TcpSegmentation,
        Self::GenericSegmentation,
        Self::ScatterGather,
        Self::ReceiveChecksum,
        Self::TransmitChecksum,
    ];

    /// `ETHTOOL_G*`, and `ETHTOOL_S*`; the flag where the command is about a word of flags.
    const fn commands(self) -> (u32, u32, Option<u32>) {
        match self {
            Self::ReceiveChecksum => (0x14, 0x15, None),
            Self::TransmitChecksum => (0x16, 0x17, None),
            Self::ScatterGather => (0x18, 0x19, None),
            Self::TcpSegmentation => (0x1e, 0x1f, None),
            Self::GenericSegmentation => (0x23, 0x24, None),
            Self::LargeReceive => (0x25, 0x26, Some(1 << 15)),
            Self::GenericReceive => (0x2b, 0x2c, None),
            Self::ReceiveVlan => (0x25, 0x26, Some(1 << 8)),
        }
    }
}

/// The offloads of an interface, open for changes.
#[derive(Debug)]
pub struct Offloads {
    socket: OwnedFd,
    name: String,
    request_name: [u8; sys::NAME_LEN],
}

impl Offloads {
    /// For the interface of this name in the calling thread's network namespace.
    ///
    /// # Errors
    /// The name is bad, or no socket can be had.
    pub fn of(name: &str) -> Result<Self, NetError> {
        let request_name = name_bytes(name)?;
        let socket =
            socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                .map_err(|error| refused("open a socket to configure", name, error.into()))?;
        Ok(Self { socket, name: name.into(), request_name })
    }

    /// Whether one is on; `None` where the interface does not know it.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn get(&self, offload: Offload) -> Result<Option<bool>, NetError> {
        let (get, _, flag) = offload.commands();
        match sys::ethtool_value(&self.socket, self.request_name, get, 0) {
            Ok(value) => Ok(Some(value & flag.unwrap_or(u32::MAX) != 0)),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
            Err(error) => Err(refused("read the offloads of", &self.name, error)),
        }
    }

    /// Switches one on or off.
    ///
    /// # Errors
    /// The interface cannot, there is none, or the privilege is missing.
    pub fn set(&self, offload: Offload, on: bool) -> Result<(), NetError> {
        let (get, set, flag) = offload.commands();
        let change = |data| {
            sys::ethtool_value(&self.socket, self.request_name, set, data)
                .map_err(|error| refused("change the offloads of", &self.name, error))
        };
        let data = match flag {
            None => u32::from(on),
            Some(flag) => {
                let all = sys::ethtool_value(&self.socket, self.request_name, get, 0)
                    .map_err(|error| refused("read the offloads of", &self.name, error))?;
                if on { all | flag } else { all & !flag }
            }
        };
        change(data).map(drop)
    }

    /// Switches off all that are on and can be, and returns what makes it undone.
    ///
    /// # Errors
    /// There is no such interface, or the privilege is missing. What was changed is changed back.
    pub fn disable(&self) -> Result<SavedOffloads, NetError> {
        let mut saved = SavedOffloads { were_on: Vec::new() };
        for offload in Offload::ALL {
            let result = match self.get(offload) {
                Ok(Some(true)) => self.set(offload, false),
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => saved.were_on.push(offload),
                // Fixed on by the driver.
                Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => {
                    let _ = self.restore(&saved);
                    return Err(error);
                }
            }
        }
        Ok(saved)
    }

    /// Switches on again what [`Offloads::disable`] switched off.
    ///
    /// # Errors
    /// The first that failed; the others are tried nevertheless.
    pub fn restore(&self, saved: &SavedOffloads) -> Result<(), NetError> {
        let mut result = Ok(());
        // Backwards: segmentation needs checksums and scatter-gather.
        for &offload in saved.were_on.iter().rev() {
            let one = self.set(offload, true);
            result = result.and(one);
        }
        result
    }
}

/// The offloads that were on before [`Offloads::disable`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedOffloads {
    were_on: Vec<Offload>,
}

impl SavedOffloads {
    /// Which they were, in the order in which they were switched off.
    #[must_use]
    pub fn were_on(&self) -> &[Offload] {
        &self.were_on
    }
}

/// Offloads that are off while this lives, and on again after it.
#[derive(Debug)]
pub struct KeptOffloads {
    offloads: Offloads,
    saved: SavedOffloads,
}

impl KeptOffloads {
    /// Switches off those of `which` that are on. One that cannot be is left, and the log says so.
    ///
    /// # Errors
    /// The name is bad, or no socket can be had.
    pub fn switch_off(name: &str, which: &[Offload]) -> Result<Self, NetError> {
        let offloads = Offloads::of(name)?;
        let mut saved = SavedOffloads::default();
        for offload in which {
            if let Ok(Some(true)) = offloads.get(*offload) {
                match offloads.set(*offload, false) {
                    Ok(()) => saved.were_on.push(*offload),
                    Err(error) => {
                        tracing::warn!(%error, ?offload, "frames may come joined or unfinished");
                    }
                }
            }
        }
        Ok(Self { offloads, saved })
    }

    /// Puts nothing back: the interface is gone.
    pub fn forget(&mut self) {
        self.saved.were_on.clear();
    }
}

impl Drop for KeptOffloads {
    fn drop(&mut self) {
        if let Err(error) = self.offloads.restore(&self.saved) {
            tracing::warn!(%error, "an offload was not restored");
        }
    }
}

fn refused(operation: &'static str, name: &str, source: io::Error) -> NetError {
    NetError::Refused { operation, object: name.into(), note: KernelNote::default(), source }
}
