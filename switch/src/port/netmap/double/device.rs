//! The double of an open `/dev/netmap`.

use super::Shared;
use super::adapter::{Bound, Kind};
use super::machine::Machine;
use super::media::{Bell, Medium};
use super::nic::Link;
use super::register::Options;
use super::ring::Kring;
use crate::port::netmap::kernel::{Control, Device, Direction};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A device, and what it is bound to.
#[derive(Debug)]
pub(super) struct Open {
    machine: Arc<Shared>,
    bound: Mutex<Option<Bound>>,
    /// What its region is mapped from, once it has one that can be mapped.
    memory: OnceLock<OwnedFd>,
    /// Of the media and the bell.
    readiness: OwnedFd,
    /// Rung while frames wait in rings, before the port is bound, and when it is gone.
    bell: Arc<Bell>,
}

impl Open {
    pub(super) fn new(machine: Arc<Shared>) -> io::Result<Self> {
        let readiness = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = Arc::new(Bell::new()?);
        bell.set(true);
        epoll::add(&readiness, bell.as_fd(), EventData::new_u64(0), EventFlags::IN)?;
        let bound = Mutex::new(None);
        Ok(Self { machine, bound, memory: OnceLock::new(), readiness, bell })
    }

    /// Adds what the port's frames come from.
    fn watch(&self, machine: &mut Machine, bound: &Bound) {
        let Ok(adapter) = machine.at(bound.adapter) else { return };
        let of_card = adapter.counts.rx;
        let Kind::Nic(nic) = &adapter.kind else { return };
        let wire = match &nic.link {
            Link::Wire(wire) if bound.receive.start < of_card => Some(wire),
            _ => None,
        };
        let host = nic.host.as_ref().filter(|_| bound.receive.end > of_card);
        let has_rings = !bound.receive.is_empty();
        for medium in wire.into_iter().chain(host).filter(|_| has_rings) {
            if let Some(descriptor) = Medium::descriptor(medium.as_ref()) {
                // What cannot be slept on, such as a file, is always ready in its own way.
                let flags = EventFlags::IN;
                let _ = epoll::add(&self.readiness, descriptor, EventData::new_u64(1), flags);
            }
        }
    }
}

impl Device for Open {
    fn control(&self, name: &str, request: Control<'_>) -> io::Result<()> {
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        let mut machine = self.machine.lock();
        match request {
            Control::PortInfo(info) => machine.port_info(name, info),
            Control::PoolsInfo(info) => {
                *info = machine.pools_of(name, info.memory_id)?;
                Ok(())
            }
            Control::Register { .. } if bound.is_some() => Err(Errno::BUSY.into()),
            Control::Register { body, extmem, offsets } => {
                let options = Options { extmem, offsets };
                let new = machine.register(name, body, options, &self.bell)?;
                let file = machine.regions.get(&body.memory_id).and_then(|r| r.file.as_ref());
                match file.map(OwnedFd::try_clone).transpose() {
                    Ok(file) => {
                        if let Some(file) = file {
                            let _ = self.memory.set(file);
                        }
                    }
                    Err(error) => {
                        machine.unbind(&new, &self.bell);
                        return Err(error);
                    }
                }
                // A peer may have sent before this end was opened.
                let rings = machine.at(new.adapter)?.receive.get(new.receive.clone());
                self.bell.set(rings.unwrap_or_default().iter().any(Kring::has_unseen));
                self.watch(&mut machine, &new);
                *bound = Some(new);
                Ok(())
            }
        }
    }

    fn sync(&self, direction: Direction) -> io::Result<()> {
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bound) = &*bound else { return Err(Errno::NXIO.into()) };
        self.machine.lock().sync(bound, direction, &self.bell)
    }

    fn memory(&self) -> BorrowedFd<'_> {
        // The bell cannot be mapped either: memory of the caller is mapped already, and without a
        // port there is nothing to map.
        self.memory.get().map_or(self.bell.as_ref().as_fd(), AsFd::as_fd)
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.readiness.as_fd()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let bound = self.bound.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(bound) = bound {
            self.machine.lock().unbind(&bound, &self.bell);
        }
    }
}
