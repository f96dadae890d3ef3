//! By which queue of an interface a flow arrives: the indirection table of its card (RSS).
//!
//! ```text
//!   frame --> hash of addresses and ports --> hash mod entries --> entry: a queue
//! ```
//!
//! - Asked and changed by ethtool netlink (linux/ethtool_netlink.h; changed since Linux 6.17), or by SIOCETHTOOL where
//!   the kernel does not know the message. It answers alike if it does not and if the driver cannot, so the older
//!   way has the last word.
//! - A table that somebody has set is in the way of fewer queues than it names: the kernel refuses them. So a table is
//!   given up before queues are given back, and what was before is put back after that.

use super::error::{KernelNote, NetError};
use super::generic::{Family, attributes};
use super::link::name_bytes;
use super::netlink::{Attributes, Failure, Message, NLM_F_ACK};
use super::sys;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io;

/// The name of ethtool's family.
const FAMILY: &str = "ethtool";
const ETHTOOL_MSG_RSS_GET: u8 = 38;
const ETHTOOL_MSG_RSS_SET: u8 = 48;
const ETHTOOL_A_RSS_HEADER: u16 = 1;
const ETHTOOL_A_RSS_INDIR: u16 = 4;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;

const READ: &str = "read by which queues flows arrive at";
const CHANGE: &str = "change by which queues flows arrive at";

/// An indirection table: the queue of each hash value, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indirection(Vec<u32>);

impl Indirection {
    /// A table with these entries; `None` without any.
    #[must_use]
    pub fn new(entries: Vec<u32>) -> Option<Self> {
        (!entries.is_empty()).then_some(Self(entries))
    }

    /// The table of an interface of the calling thread's network namespace; `None` if its driver has none.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn of(name: &str) -> Result<Option<Self>, NetError> {
        let by_netlink = by_netlink(name, READ, |family| {
            let mut found = Ok(None);
            let ask = about(family, ETHTOOL_MSG_RSS_GET, name);
            family.socket.query(ask, NLM_F_ACK, |_, body| {
                found = attributes(body).ok_or(Failure::Malformed).and_then(parse);
            })?;
            found
        });
        match by_netlink? {
            Some(table) => Ok(table),
            None => Self::by_ioctl(name),
        }
    }

    fn by_ioctl(name: &str) -> Result<Option<Self>, NetError> {
        let (socket, request_name) = (socket(name, READ)?, name_bytes(name)?);
        match sys::indirection(&socket, request_name) {
            Ok(entries) => Ok(Self::new(entries)),
            Err(error) if is_unknown(&error) => Ok(None),
            Err(error) => Err(refused(name, READ, error)),
        }
    }

    /// Gives an interface this table.
    ///
    /// # Errors
    /// There is no such interface, it cannot have this one, or the privilege is missing.
    pub fn set(&self, name: &str) -> Result<(), NetError> {
        change(name, &self.0)
    }

    /// Gives an interface back to its driver's own choice. What that is the kernel decides: all queues in turn.
    ///
    /// # Errors
    /// As [`Indirection::set`].
    pub fn reset(name: &str) -> Result<(), NetError> {
        change(name, &[])
    }

    /// Leaves the choice to the driver if an interface has another table than this, so that queues can be given back.
    /// Returns whether it has.
    ///
    /// # Errors
    /// As [`Indirection::set`].
    pub fn make_way(&self, name: &str) -> Result<bool, NetError> {
        let is_other = self.is_not_that_of(name)?;
        if is_other {
            Self::reset(name)?;
        }
        Ok(is_other)
    }

    /// Gives an interface this table if it has another one. Returns whether it had.
    ///
    /// # Errors
    /// As [`Indirection::set`].
    pub fn put_back(&self, name: &str) -> Result<bool, NetError> {
        let is_other = self.is_not_that_of(name)?;
        if is_other {
            self.set(name)?;
        }
        Ok(is_other)
    }

    fn is_not_that_of(&self, name: &str) -> Result<bool, NetError> {
        Ok(Self::of(name)?.is_some_and(|now| now != *self))
    }

    /// The queue of each hash value.
    #[must_use]
    pub fn entries(&self) -> &[u32] {
        &self.0
    }
}

/// Sets entries; none stand for the driver's own choice.
fn change(name: &str, entries: &[u32]) -> Result<(), NetError> {
    let by_netlink =
        by_netlink(name, CHANGE, |family| family.socket.request(setting(family, name, entries)));
    match by_netlink? {
        Some(()) => {
            tracing::debug!(interface = name, "indirection table changed by netlink");
            Ok(())
        }
        None => change_by_ioctl(name, entries),
    }
}

fn change_by_ioctl(name: &str, entries: &[u32]) -> Result<(), NetError> {
    let (socket, request_name) = (socket(name, CHANGE)?, name_bytes(name)?);
    sys::set_indirection(&socket, request_name, entries).map_err(|e| refused(name, CHANGE, e))
}

/// The request that sets entries.
fn setting(family: &Family, name: &str, entries: &[u32]) -> Message {
    let bytes: &[u8] = bytemuck::cast_slice(entries);
    about(family, ETHTOOL_MSG_RSS_SET, name).attribute(ETHTOOL_A_RSS_INDIR, bytes)
}

/// Asks by ethtool netlink; `None` where the kernel, or the driver, does not know what is asked.
fn by_netlink<T>(
    name: &str,
    operation: &'static str,
    ask: impl FnOnce(&mut Family) -> Result<T, Failure>,
) -> Result<Option<T>, NetError> {
    // A name that the kernel would cut.
    name_bytes(name)?;
    let fail = |failure: Failure| failure.of(operation, name);
    let Some(mut family) = Family::open(FAMILY).map_err(fail)? else { return Ok(None) };
    match ask(&mut family) {
        Ok(answer) => Ok(Some(answer)),
        Err(Failure::Refused(error, _)) if is_unknown(&error) => Ok(None),
        Err(failure) => Err(fail(failure)),
    }
}

/// A request that names the interface.
fn about(family: &Family, command: u8, name: &str) -> Message {
    let header = |message: Message| message.text(ETHTOOL_A_HEADER_DEV_NAME, name);
    family.message(command).nested(ETHTOOL_A_RSS_HEADER, header)
}

/// The table in an answer; a driver that has only a hash key has none.
fn parse(attributes: Attributes<'_>) -> Result<Option<Indirection>, Failure> {
    let Some(bytes) = attributes.find(ETHTOOL_A_RSS_INDIR) else { return Ok(None) };
    let (entries, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Failure::Malformed);
    }
    Ok(Indirection::new(entries.iter().map(|entry| u32::from_ne_bytes(*entry)).collect()))
}

fn is_unknown(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EOPNOTSUPP)
}

fn refused(name: &str, operation: &'static str, source: io::Error) -> NetError {
    NetError::Refused { operation, object: name.into(), note: KernelNote::default(), source }
}

fn socket(name: &str, operation: &'static str) -> Result<std::os::fd::OwnedFd, NetError> {
    socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|error| refused(name, operation, error.into()))
}

/// The table that an interface had, put back when this is dropped.
#[derive(Debug)]
pub struct KeptIndirection {
    name: String,
    before: Indirection,
    is_forgotten: bool,
}

impl KeptIndirection {
    /// Remembers the table that an interface has.
    #[must_use]
    pub fn of(name: &str, before: Indirection) -> Self {
        Self { name: name.into(), before, is_forgotten: false }
    }

    /// Has the table make way if it is another one by now, so that queues can be given back. What was before is put back
    /// by the drop.
    pub fn make_way(&self) {
        if !self.is_forgotten
            && let Err(error) = self.before.make_way(&self.name)
        {
            self.warn(&error);
        }
    }

    /// Puts nothing back: the interface is gone.
    pub fn forget(&mut self) {
        self.is_forgotten = true;
    }

    fn warn(&self, error: &NetError) {
        tracing::warn!(name = self.name, %error, "the indirection table was not put back");
    }
}

impl Drop for KeptIndirection {
    fn drop(&mut self) {
        if !self.is_forgotten
            && let Err(error) = self.before.put_back(&self.name)
        {
            self.warn(&error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::netlink::HEADER_LEN;
    use super::*;

    /// Bytes of `struct genlmsghdr`.
    const GENERIC_LEN: usize = 4;

    #[test]
    fn a_change_names_the_interface_and_carries_the_table_as_it_is() {
        let entries = [0_u32, 1, 0, 70_000];
        let bytes = setting(&Family::of_number(20), "eth0", &entries).finish(NLM_F_ACK, 7);
        assert_eq!(bytes[4..6], 20_u16.to_ne_bytes(), "the family is the kind of the message");
        assert_eq!(bytes[HEADER_LEN..][..2], [48, 1], "command and version");
        let attributes = Attributes(&bytes[HEADER_LEN + GENERIC_LEN..]);
        let header = Attributes(attributes.find(ETHTOOL_A_RSS_HEADER).unwrap());
        assert_eq!(header.find_text(ETHTOOL_A_HEADER_DEV_NAME).as_deref(), Some("eth0"));
        // A kernel that checks strictly refuses a nest without its mark.
        assert_eq!(bytes[HEADER_LEN + GENERIC_LEN + 2..][..2], 0x8001_u16.to_ne_bytes());
        let table = parse(attributes).unwrap().unwrap();
        assert_eq!(table.entries(), entries);
    }

    #[test]
    fn to_leave_the_choice_to_the_driver_is_a_table_without_entries() {
        let bytes = setting(&Family::of_number(20), "eth0", &[]).finish(0, 7);
        let attributes = Attributes(&bytes[HEADER_LEN + GENERIC_LEN..]);
        assert_eq!(attributes.find(ETHTOOL_A_RSS_INDIR), Some(&[][..]), "there, and empty");
        assert_eq!(parse(attributes).unwrap(), None);
    }

    #[test]
    fn an_answer_without_a_table_is_none_and_a_cut_one_is_not_understood() {
        let answer = |indirection: Option<&[u8]>| {
            let message = Family::of_number(20).message(38).u32(3, 1);
            let message = match indirection {
                Some(bytes) => message.attribute(ETHTOOL_A_RSS_INDIR, bytes),
                None => message,
            };
            let bytes = message.finish(0, 7);
            parse(Attributes(&bytes[HEADER_LEN + GENERIC_LEN..]))
        };
        assert_eq!(answer(None).unwrap(), None);
        assert_eq!(answer(Some(&[0; 8])).unwrap(), Indirection::new(vec![0, 0]));
        for len in [1, 2, 3, 5] {
            assert!(matches!(answer(Some(&vec![0; len])), Err(Failure::Malformed)), "{len}");
        }
    }

    /// For a machine with a card whose driver has a table: netlink and the older calls see the same, and each
    /// what the other has set.
    #[test]
    #[ignore = "needs a card with a table, named by USNET_TEST_CARD"]
    fn both_ways_read_and_change_the_same_table_of_a_card() {
        let Ok(name) = std::env::var("USNET_TEST_CARD") else { return };
        let before = Indirection::of(&name).unwrap().expect("a table");
        assert_eq!(Indirection::by_ioctl(&name).unwrap().as_ref(), Some(&before));
        let only = |queue| Indirection(vec![queue; before.entries().len()]);
        change_by_ioctl(&name, only(0).entries()).unwrap();
        assert_eq!(Indirection::of(&name).unwrap(), Some(only(0)));
        only(1).set(&name).unwrap();
        assert_eq!(Indirection::by_ioctl(&name).unwrap(), Some(only(1)));
        let refused = change_by_ioctl(&name, only(1000).entries()).unwrap_err();
        assert_eq!(refused.errno(), Some(libc::EINVAL), "{refused}");
        Indirection::reset(&name).unwrap();
        let by_netlink = Indirection::of(&name).unwrap();
        only(0).set(&name).unwrap();
        change_by_ioctl(&name, &[]).unwrap();
        assert_eq!(Indirection::by_ioctl(&name).unwrap(), by_netlink, "the driver's own choice");
        before.set(&name).unwrap();
    }
}
