//! The process between one program and usnetd: it has the program's user, one session, and nothing else.
//!
//! ```text
//!   gateway --words--> helper: claims, frames --> usnetd        one word at a time, answered in order
//!           <-answer--         |
//!   program <----datagrams-----+
//! ```

use super::message::Wish;
use crate::classify::Mac;
use crate::pipe::{Bridge, BridgeError};
use crate::port::datagram::Datagrams;
use crate::time::Time;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use thiserror::Error;
use usnet::{AttachError, Claim, Control, Options, RuleClaim, Session};
use usnet_shmring::arena::{Arena, ArenaError, SlotRange, SlotSize};
use usnet_shmring::pool::{HomeError, Pool};
use usnet_shmring::region::Writer;

/// Slots for frames on their way, and their size.
const SLOTS: u32 = 256;
/// Looks for frames before it sleeps.
const LOOKS: u32 = 200;
/// Bytes of the longest word.
const LONGEST: usize = 512;

/// What the gateway has its helper do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Word {
    /// To claim.
    Claim(Wish),
    /// To give back.
    Release(Wish),
}

/// What comes back, for each word and once for the session itself: first a yes or no, then why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) granted: bool,
    pub(super) why: String,
}

/// Why a helper has ended.
#[derive(Debug, Error)]
pub enum HelperError {
    /// No session.
    #[error("cannot attach: {0}")]
    Attach(#[from] AttachError),
    /// No memory for frames.
    #[error("no memory for frames")]
    Memory(#[from] ArenaError),
    /// The pool refuses its own slots.
    #[error("no pool of frames")]
    Pool(#[from] HomeError),
    /// The session or the program has ended.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// The gateway cannot be talked to.
    #[error("the gateway is gone: {0}")]
    Gateway(#[from] io::Error),
}

/// Attaches to `interface`, says whether that was granted, and serves until the gateway or the session
/// ends. `gateway` is a socket of packets, `program` the end of the datagrams that is ours.
///
/// # Errors
/// [`HelperError`]
pub fn run(
    gateway: &OwnedFd,
    program: OwnedFd,
    usnetd: &Path,
    interface: &str,
    name: &str,
) -> Result<(), HelperError> {
    let options = Options {
        socket: usnetd.to_owned(),
        interface: interface.to_owned(),
        ..Options::named(name)
    };
    let session = match Session::attach(options) {
        Ok(session) => session,
        Err(error) => {
            say(gateway, Err(&error))?;
            return Err(error.into());
        }
    };
    let mtu = u16::try_from(session.mtu()).unwrap_or(1500);
    let slot = SlotSize::new(u32::from(mtu).saturating_add(64).next_power_of_two().max(2048));
    let arena = Arena::reserve(SLOTS, slot.unwrap_or(SlotSize::DEFAULT))?;
    let pool = Pool::new(SlotRange::whole(arena.add_segment(
        "usnet-compat",
        Writer::Daemon,
        SLOTS,
        false,
    )?))?;
    let port = Box::new(Datagrams::over(program, name, Mac(session.mac()), mtu));
    let (_grant, control, frames) = session.into_parts();
    let mut bridge = Bridge::new(frames, port, pool);
    say(gateway, Ok::<(), &str>(()))?;
    let begin = Instant::now();
    let (mut idle, mut turns) = (0, 0u32);
    loop {
        turns = turns.wrapping_add(1);
        let now = Time(u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let moved = bridge.turn(now)?;
        if moved > 0 {
            idle = 0;
        } else if idle < LOOKS {
            idle += 1;
        } else {
            if !listen(gateway, &control)? {
                return Ok(());
            }
            bridge.wait(Duration::from_secs(1), Some(gateway.as_fd()))?;
        }
        // Under traffic as well, now and then.
        if turns.is_multiple_of(64) && !listen(gateway, &control)? {
            return Ok(());
        }
    }
}

/// Does what the gateway has said. False when there is no gateway any more.
fn listen(gateway: &OwnedFd, control: &Control) -> io::Result<bool> {
    let mut buffer = [0; LONGEST];
    loop {
        let length = match recv(gateway, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Ok(false),
            Ok((length, _)) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        };
        let word = buffer.get(..length).and_then(|json| serde_json::from_slice(json).ok());
        let done = match word {
            Some(Word::Claim(wish)) => match claim(wish) {
                Ok(plain) => control.claim(plain).map(drop),
                Err(rule) => control.claim_rule(rule).map(drop),
            },
            Some(Word::Release(wish)) => match claim(wish) {
                Ok(plain) => control.release(plain),
                Err(rule) => control.release_rule(rule),
            },
            None => return Ok(false),
        };
        say(gateway, done)?;
    }
}

/// A plain claim, or one for the other side that the wish names.
fn claim(wish: Wish) -> Result<Claim, RuleClaim> {
    let Wish { protocol, address, port, remote, remote_port } = wish;
    if remote.is_none() && remote_port == 0 {
        return Ok(Claim { protocol, address, first_port: port, count: 1 });
    }
    let remote = remote.map(|ip| (ip, if ip.is_ipv4() { 32 } else { 128 }));
    Err(RuleClaim { address, remote, remote_port, ..RuleClaim::port(protocol, port) })
}

fn say<E: std::fmt::Display>(gateway: &OwnedFd, done: Result<(), E>) -> io::Result<()> {
    let why = done.as_ref().err().map(ToString::to_string).unwrap_or_default();
    let reply = Reply { granted: done.is_ok(), why };
    let json = serde_json::to_vec(&reply).map_err(io::Error::other)?;
    send(gateway, &json, SendFlags::NOSIGNAL)?;
    Ok(())
}
