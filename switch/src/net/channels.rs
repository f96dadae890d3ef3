//! How many queues an interface has (SIOCETHTOOL, linux/ethtool.h).

use super::error::{KernelNote, NetError};
use super::link::name_bytes;
use super::sys::{self, EthtoolChannels};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io;

const GET: u32 = 0x3c;
const SET: u32 = 0x3d;

/// Queues of an interface of the calling thread's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    /// That only receive.
    pub receive: u32,
    /// That only send.
    pub transmit: u32,
    /// That do both.
    pub combined: u32,
}

impl Channels {
    /// What an interface has. One that cannot say has one queue for both directions.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn of(name: &str) -> Result<Self, NetError> {
        let mut request = EthtoolChannels { command: GET, ..EthtoolChannels::default() };
        match run(name, &mut request) {
            Ok(()) => {
                let EthtoolChannels { rx, tx, combined, .. } = request;
                Ok(Self { receive: rx, transmit: tx, combined })
            }
            Err(NetError::Refused { source, .. })
                if source.raw_os_error() == Some(libc::EOPNOTSUPP) =>
            {
                Ok(Self { receive: 0, transmit: 0, combined: 1 })
            }
            Err(error) => Err(error),
        }
    }

    /// Gives an interface other queues.
    ///
    /// # Errors
    /// There is no such interface, it cannot have these, or the privilege is missing.
    pub fn set(self, name: &str) -> Result<(), NetError> {
        let mut request = EthtoolChannels { command: GET, ..EthtoolChannels::default() };
        run(name, &mut request)?;
        let Self { receive: rx, transmit: tx, combined } = self;
        run(name, &mut EthtoolChannels { command: SET, rx, tx, combined, ..request })
    }

    /// The same with `count` that receive and as many that send, of the kind that it has.
    #[must_use]
    pub const fn resized(self, count: u32) -> Self {
        if self.combined > 0 {
            Self { receive: 0, transmit: 0, combined: count }
        } else {
            Self { receive: count, transmit: count, combined: 0 }
        }
    }

    /// Queues that receive, at least one.
    #[must_use]
    pub fn receiving(self) -> u32 {
        self.receive.saturating_add(self.combined).max(1)
    }
}

/// The queues that an interface had, given back when this is dropped.
#[derive(Debug)]
pub struct KeptChannels {
    name: String,
    before: Channels,
    is_forgotten: bool,
}

impl KeptChannels {
    /// Gives an interface other queues, and remembers those that it has.
    ///
    /// # Errors
    /// As [`Channels::set`]; nothing is changed.
    pub fn change(name: &str, before: Channels, to: Channels) -> Result<Self, NetError> {
        to.set(name)?;
        Ok(Self { name: name.into(), before, is_forgotten: false })
    }

    /// Gives nothing back: the interface is gone.
    pub fn forget(&mut self) {
        self.is_forgotten = true;
    }
}

impl Drop for KeptChannels {
    fn drop(&mut self) {
        if !self.is_forgotten
            && let Err(error) = self.before.set(&self.name)
        {
            let (name, queues) = (&self.name, self.before);
            tracing::warn!(%name, ?queues, %error, "the queues were not given back");
        }
    }
}

fn run(name: &str, request: &mut EthtoolChannels) -> Result<(), NetError> {
    let request_name = name_bytes(name)?;
    let refused = |operation| {
        move |source: io::Error| NetError::Refused {
            operation,
            object: name.into(),
            note: KernelNote::default(),
            source,
        }
    };
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|error| refused("open a socket to configure")(error.into()))?;
    let operation =
        if request.command == SET { "change the queues of" } else { "count the queues of" };
    sys::ethtool(&socket, request_name, request).map_err(refused(operation))
}
