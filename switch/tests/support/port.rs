//! A port that does what a test tells it.

use super::client::Memory;
use core::ops::Range;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use usnet_shmring::descriptor::RawDescriptor;
use usnet_shmring::pool::{Frame, Pool};
use usnet_switch::classify::Mac;
use usnet_switch::port::{Burst, Port, PortCounters, PortInfo};
use usnet_switch::time::Time;

/// What the port's medium holds, and how the port behaves.
#[derive(Debug, Default)]
pub(crate) struct Medium {
    /// Frames that will arrive.
    pub(crate) incoming: VecDeque<Vec<u8>>,
    /// Frames that were sent.
    pub(crate) outgoing: Vec<Vec<u8>>,
    /// Frames that `transmit` still takes; `None` for any number.
    pub(crate) room: Option<usize>,
    /// Frames longer than this are refused by the medium.
    pub(crate) limit: Option<usize>,
    /// Sent slots that the port keeps for a while, as a network card does.
    pub(crate) keeps: usize,
    /// `transmit` sends one frame and fails.
    pub(crate) breaks: bool,
    /// `receive` takes one frame and fails.
    pub(crate) breaks_receiving: bool,
    pub(crate) refused: u64,
    /// It sends the rest of frames from clients' slots: the daemon's slots and these.
    pub(crate) split: Option<[Memory; 2]>,
}

/// A test's hand on the medium.
#[derive(Clone, Debug)]
pub(crate) struct Hand(Arc<Mutex<Medium>>);

impl Hand {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Medium> {
        self.0.lock().expect("no test panics while it holds the medium")
    }
}

#[derive(Debug)]
pub(crate) struct Script {
    info: PortInfo,
    medium: Hand,
    kept: VecDeque<Frame>,
    counters: PortCounters,
}

impl Script {
    pub(crate) fn new(name: &str, mac: Mac) -> (Box<Self>, Hand) {
        let medium = Hand(Arc::default());
        let info = PortInfo { name: name.into(), backend: "script", mac, mtu: 1500 };
        let port = Self {
            info,
            medium: medium.clone(),
            kept: VecDeque::new(),
            counters: PortCounters::default(),
        };
        (Box::new(port), medium)
    }
}

impl Port for Script {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn receive(&mut self, _: Time, pool: &mut Pool, into: &mut Burst) -> io::Result<usize> {
        let mut medium = self.medium.lock();
        let mut count = 0;
        // A port with clients' slots asks the card for them, also if nothing more is sent.
        while medium.split.is_some() && self.kept.len() > medium.keeps {
            if let Some(frame) = self.kept.pop_front() {
                pool.free(frame);
            }
        }
        while into.room() > 0 && !medium.incoming.is_empty() {
            let Some(mut frame) = pool.alloc() else { break };
            let bytes = medium.incoming.pop_front().unwrap_or_default();
            if !pool.fill(&mut frame, &bytes) || into.push(frame).is_err() {
                panic!("a frame of {} bytes", bytes.len());
            }
            count += 1;
            self.counters.received += 1;
            if medium.breaks_receiving {
                return Err(io::ErrorKind::NotConnected.into());
            }
        }
        Ok(count)
    }

    fn transmit(&mut self, _: Time, pool: &mut Pool, from: &mut Burst) -> io::Result<usize> {
        let mut medium = self.medium.lock();
        let mut count = 0;
        while medium.room != Some(0) {
            let Some(frame) = from.pop() else { break };
            count += 1;
            medium.room = medium.room.map(|room| room - 1);
            self.counters.transmitted += 1;
            let tail = pool.tail(&frame);
            let length = frame.len() + tail.map_or(0, |tail| usize::from(tail.length));
            if medium.limit.is_some_and(|limit| length > limit) {
                medium.refused += 1;
                pool.free(frame);
            } else {
                let bytes = match (tail, &medium.split) {
                    (Some(tail), Some([daemon, clients])) => {
                        let length = u16::try_from(frame.len()).expect("a head");
                        let head = RawDescriptor::new(frame.slot(), frame.offset(), length);
                        let rest = RawDescriptor::new(tail.slot, tail.offset, tail.length);
                        [daemon.read(head), clients.read(rest)].concat()
                    }
                    (Some(_), None) => panic!("a frame in two slots for a port that takes none"),
                    (None, _) => pool.bytes(&frame).to_vec(),
                };
                medium.outgoing.push(bytes);
                self.kept.push_back(frame);
            }
            if medium.breaks {
                return Err(io::ErrorKind::NotConnected.into());
            }
        }
        while self.kept.len() > medium.keeps {
            if let Some(frame) = self.kept.pop_front() {
                pool.free(frame);
            }
        }
        Ok(count)
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn tails(&self) -> Range<u32> {
        let medium = self.medium.lock();
        medium.split.as_ref().map_or(0..0, |[_, c]| c.first..c.first + c.count)
    }

    fn close(&mut self, pool: &mut Pool) {
        for frame in self.kept.drain(..) {
            pool.free(frame);
        }
    }
}
