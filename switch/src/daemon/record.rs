//! What an interface was like before usnetd changed it, in a file: for the next start, if this process is
//! killed.
//!
//! ```text
//!   open:   look at the interface --> write the record --> change
//!   close:  put back ---------------------------------------------> remove the record
//!   killed: (nothing)      next start, or `usnetd restore`: put back, remove the record
//! ```
//!
//! - The record is on the disk before the first change: written beside, synced, renamed, the directory
//!   synced.
//! - It speaks of one interface: by number, name and link address, of one network namespace, since one boot. Any
//!   other is left alone. That of a process that lives is left alone, too.
//! - What cannot be read is reported and set aside under another name, never deleted.
//! - What the kernel undoes by itself when a process ends (guard, XDP program, promiscuous mode, TAP) is not in it.

use crate::classify::Mac;
use crate::config::{Backend, Interface, Rss};
use crate::net::namespace::Namespace;
use crate::net::offload::{Offload, Offloads};
use crate::net::{Channels, Indirection, Link, NetError, Netlink};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Of the form of the file; another one is not understood.
const FORM: u32 = 1;
/// How an unreadable record's name ends when it is set aside.
const SET_ASIDE: &str = "unreadable";

/// A record that could not be written, read or carried out.
#[derive(Debug, Error)]
#[error("cannot {what} {}", path.display())]
pub struct RecordError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecordError {
    let path = path.to_owned();
    move |source| RecordError { what, path, source }
}

/// A process that may have ended, and whose number may be another's by now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    pid: u32,
    /// When it was started, in the kernel's ticks since the boot.
    started: u64,
}

impl Owner {
    fn this() -> Self {
        let pid = std::process::id();
        Self { pid, started: started(pid).unwrap_or(0) }
    }

    fn lives(&self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

/// Field 22 of `/proc/PID/stat`; the name before it may hold anything, so it is counted from its end.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    after.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// An interface as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    form: u32,
    boot: String,
    namespace: u64,
    owner: Owner,
    name: String,
    index: u32,
    mac: [u8; 6],
    /// Those of the offloads that usnetd switches off that were on, in the order in which it does that.
    offloads: Vec<Offload>,
    /// The queueing discipline, where the back end may replace it.
    qdisc: Option<String>,
    /// Queues that receive, that send, and that do both, where the back end may ask for others.
    channels: Option<[u32; 3]>,
    /// The queue of each hash value, where the back end may change the table.
    indirection: Option<Vec<u32>>,
    /// Whether that is for usnetd to change; else asking for queues may have changed it.
    #[serde(default)]
    rss: Rss,
    /// The name of a veth that usnetd may make for the host, if there was no such interface.
    endpoint: Option<String>,
}

fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

impl Entry {
    fn of(
        link: &Link,
        (port, rss): (Backend, Rss),
        netlink: &mut Netlink,
    ) -> Result<Self, NetError> {
        let switched_off: &[Offload] = match port {
            Backend::Netmap | Backend::Auto => &Offload::ALL,
            _ => &[Offload::GenericReceive, Offload::LargeReceive, Offload::ReceiveVlan],
        };
        let offloads = Offloads::of(&link.name)?;
        let is_on = |offload: &&Offload| matches!(offloads.get(**offload), Ok(Some(true)));
        let endpoint = super::interface::endpoint_name(&link.name);
        Ok(Self {
            form: FORM,
            boot: boot(),
            namespace: Namespace::current()?.number(),
            owner: Owner::this(),
            name: link.name.clone(),
            index: link.index,
            mac: link.mac.0,
            offloads: switched_off.iter().filter(is_on).copied().collect(),
            qdisc: link.qdisc.clone().filter(|_| matches!(port, Backend::Netmap | Backend::Auto)),
            channels: Channels::of(&link.name)
                .ok()
                .filter(|_| matches!(port, Backend::AfXdp | Backend::Auto))
                .map(|c| [c.receive, c.transmit, c.combined]),
            indirection: Indirection::of(&link.name)
                .ok()
                .flatten()
                .filter(|_| matches!(port, Backend::AfXdp | Backend::Auto))
                .map(|table| table.entries().to_vec()),
            rss,
            endpoint: netlink.link(&endpoint).is_err().then_some(endpoint),
        })
    }

    /// Whether it speaks of what is there now.
    fn is_here(&self, netlink: &mut Netlink) -> bool {
        let link = netlink.link(&self.name);
        link.is_ok_and(|link| link.index == self.index && link.mac == Mac(self.mac))
    }

    /// Puts back what is otherwise; nothing if the interface is another one. Returns how much that was.
    fn put_back(&self) -> Result<usize, NetError> {
        let mut netlink = Netlink::open()?;
        let mut changes = 0;
        if let Some(endpoint) = &self.endpoint
            && let Ok(link) = netlink.link(endpoint)
            && link.kind.as_deref() == Some("veth")
            && link.mac == Mac(self.mac)
        {
            netlink.delete_link(endpoint)?;
            changes += 1;
        }
        if !self.is_here(&mut netlink) {
            return Ok(changes);
        }
        let offloads = Offloads::of(&self.name)?;
        // Backwards: segmentation needs checksums and scatter-gather.
        for offload in self.offloads.iter().rev() {
            if offloads.get(*offload)? == Some(false) {
                offloads.set(*offload, true)?;
                changes += 1;
            }
        }
        let mut channels = None;
        if let Some([receive, transmit, combined]) = self.channels {
            let before = Channels { receive, transmit, combined };
            channels = (Channels::of(&self.name)? != before).then_some(before);
        }
        let is_in_question = channels.is_some() || self.rss == Rss::Workers;
        let table = self.indirection.clone().filter(|_| is_in_question).and_then(Indirection::new);
        let has_other_table = match &table {
            Some(table) => table.make_way(&self.name)?,
            None => false,
        };
        if let Some(before) = channels {
            before.set(&self.name)?;
            changes += 1;
        }
        if let Some(table) = &table {
            let was_put_back = table.put_back(&self.name)?;
            changes += usize::from(has_other_table || was_put_back);
        }
        if self.qdisc.is_some() && netlink.link(&self.name)?.qdisc != self.qdisc {
            netlink.reset_qdisc(&self.name)?;
            changes += 1;
        }
        Ok(changes)
    }
}

/// The directory of the records; none where nothing is to be recorded.
#[derive(Clone, Debug, Default)]
pub struct Records {
    directory: Option<PathBuf>,
}

/// What became of the records that were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Interfaces on which something was put back, and how much.
    pub interfaces: Vec<(String, usize)>,
    /// Records of processes that live.
    pub in_use: usize,
    /// Records that could not be read, by their new names, and those that could not be carried out.
    pub troubles: Vec<String>,
}

impl Restored {
    /// Says it in the log.
    pub(super) fn log(&self) {
        for (interface, changes) in &self.interfaces {
            tracing::warn!(interface, changes, "put back what a killed process had changed");
        }
        for trouble in &self.troubles {
            tracing::error!(trouble, "a record of how an interface was");
        }
    }
}

impl Records {
    /// Records in this directory, which is made when the first is written.
    #[must_use]
    pub fn at(directory: Option<PathBuf>) -> Self {
        Self { directory }
    }

    /// Puts back what processes have left that did not end as they should, on the interfaces of the
    /// calling thread's network namespace.
    #[must_use]
    pub fn restore(&self) -> Restored {
        let mut restored = Restored::default();
        let Some(directory) = &self.directory else { return restored };
        let Ok(entries) = fs::read_dir(directory) else { return restored };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let here = Namespace::current().map(|namespace| namespace.number()).ok();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "json")) {
            match read(path) {
                Err(error) => restored.troubles.push(set_aside(path, &error)),
                Ok(entry) if entry.boot != boot() => remove(path),
                Ok(entry) if Some(entry.namespace) != here => {}
                Ok(entry) if entry.owner.lives() => restored.in_use += 1,
                Ok(entry) => match entry.put_back() {
                    Ok(changes) => {
                        remove(path);
                        restored.interfaces.push((entry.name, changes));
                    }
                    Err(error) => {
                        let path = path.display();
                        restored.troubles.push(format!("{path} is kept: {error}"));
                    }
                },
            }
        }
        restored
    }

    /// Records how the interfaces of a configured one are now, before anything is changed.
    ///
    /// # Errors
    /// [`RecordError`]: then nothing may be changed. An interface that cannot be looked at has no record:
    /// opening it says why.
    pub(super) fn begin(&self, interface: &Interface) -> Result<Vec<Record>, RecordError> {
        let Some(directory) = &self.directory else { return Ok(Vec::new()) };
        let behind = interface.behind.as_ref().map(|behind| (&behind.interface, behind.port));
        let names = core::iter::once((&interface.name, interface.port)).chain(behind);
        let mut records = Vec::new();
        for (name, port) in names.filter(|(_, port)| port.has_link()) {
            let look = || -> Result<Entry, NetError> {
                let mut netlink = Netlink::open()?;
                let link = netlink.link(name)?;
                Entry::of(&link, (port, interface.rss), &mut netlink)
            };
            if let Ok(entry) = look() {
                records.push(Record::write(directory, entry)?);
            }
        }
        Ok(records)
    }
}

/// A record on the disk, for as long as the interface is open. Dropping it puts back what is still otherwise, and
/// removes it.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    entry: Entry,
}

impl Record {
    fn write(directory: &Path, entry: Entry) -> Result<Self, RecordError> {
        let make = "make the directory";
        fs::create_dir_all(directory).map_err(failed(make, directory))?;
        let name = format!("{}-{}-{}.json", entry.name, entry.index, entry.namespace);
        let path = directory.join(name);
        let beside = path.with_extension("new");
        let text = serde_json::to_vec_pretty(&entry).map_err(io::Error::from);
        let write = |text: Vec<u8>| -> io::Result<()> {
            let mut file = File::create(&beside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            sync(directory)
        };
        text.and_then(write).map_err(failed("write the record", &path))?;
        Ok(Self { path, entry })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        match self.entry.put_back() {
            Ok(_) => remove(&self.path),
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(%error, %path, "not all was put back; the record is kept");
            }
        }
    }
}

fn read(path: &Path) -> io::Result<Entry> {
    let entry: Entry = serde_json::from_slice(&fs::read(path)?)?;
    if entry.form == FORM { Ok(entry) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn set_aside(path: &Path, error: &io::Error) -> String {
    let aside = path.with_extension(SET_ASIDE);
    let (from, to) = (path.display(), aside.display());
    match fs::rename(path, &aside) {
        Ok(()) => format!("{from} cannot be read and is {to} now: {error}"),
        Err(other) => format!("{from} cannot be read: {error}; nor moved: {other}"),
    }
}

fn remove(path: &Path) {
    let removed = fs::remove_file(path).and_then(|()| path.parent().map_or(Ok(()), sync));
    if let Err(error) = removed {
        tracing::warn!(%error, path = %path.display(), "a record was not removed");
    }
}

/// Makes what happened to the names of a directory last.
fn sync(directory: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    Ok(rustix::fs::fsync(directory)?)
}
