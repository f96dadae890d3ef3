//! The addresses that an interface serves.
//!
//! - A few are compared one by one; of many, the place is found by a seeded hash, so that a frame costs the same
//!   however many there are.

use super::ports::PortMap;
use super::{MAPPED, map_index};
use crate::classify::{Address, Flow, Protocol};
use crate::verdict::{Receiver, ReceiverCode};
use foldhash::fast::FixedState;
use std::collections::HashMap;

/// So many are compared one by one.
const FEW: usize = 4;

/// By protocol, who has all of it.
pub(super) type Whole = Box<[ReceiverCode; 256]>;

/// One address that the interface serves.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) address: Address,
    /// Whose address it is alone; gets what no listener claims.
    pub(super) owner: Option<Receiver>,
    /// Who gets that while nobody owns the address. The outer `None`: then the address is not local.
    pub(super) shared: Option<Option<Receiver>>,
    pub(super) ports: [Option<PortMap>; MAPPED.len()],
    /// Of protocols without ports; made with the first rule.
    pub(super) whole: Option<Whole>,
}

impl Local {
    /// Who has the port that this flow arrives at, or its protocol if that has none.
    #[inline(always)]
    pub(super) fn code(&self, flow: &Flow) -> ReceiverCode {
        if flow.ports_known {
            self.listener(flow.protocol, flow.destination_port)
        } else {
            self.protocol(flow.protocol)
        }
    }

    /// Who listens on this port.
    #[inline(always)]
    pub(super) fn listener(&self, protocol: Protocol, port: u16) -> ReceiverCode {
        match self.ports.get(map_index(protocol)) {
            Some(Some(map)) => map.get(port),
            _ => ReceiverCode::NONE,
        }
    }

    /// Who has all of this protocol.
    #[inline]
    pub(super) fn protocol(&self, protocol: Protocol) -> ReceiverCode {
        // A `u8` always lies in an array of 256.
        self.whole.as_ref().map_or(ReceiverCode::NONE, |whole| whole[usize::from(protocol.0)])
    }

    #[inline]
    pub(super) fn default(&self) -> Option<Receiver> {
        self.owner.or(self.shared.flatten())
    }
}

/// All of them, in no order.
#[derive(Debug)]
pub(super) struct Locals {
    all: Vec<Local>,
    /// Where each lies; true if there are more than a few.
    places: HashMap<Address, usize, FixedState>,
}

impl Locals {
    pub(super) fn new(seed: u64) -> Self {
        let places = HashMap::with_hasher(FixedState::with_seed(seed));
        Self { all: Vec::new(), places }
    }

    #[inline]
    fn find(&self, address: Address) -> Option<usize> {
        if self.all.len() <= FEW {
            self.all.iter().position(|local| local.address == address)
        } else {
            self.places.get(&address).copied()
        }
    }

    #[inline]
    pub(super) fn get(&self, address: Address) -> Option<&Local> {
        self.all.get(self.find(address)?)
    }

    pub(super) fn get_mut(&mut self, address: Address) -> Option<&mut Local> {
        let place = self.find(address)?;
        self.all.get_mut(place)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Local> {
        self.all.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Local> {
        self.all.iter_mut()
    }

    /// The one of this address, made if there is none.
    pub(super) fn make(&mut self, address: Address) -> Option<&mut Local> {
        let place = match self.find(address) {
            Some(place) => place,
            None => {
                let ports = Default::default();
                self.all.push(Local { address, owner: None, shared: None, ports, whole: None });
                self.places.insert(address, self.all.len() - 1);
                self.all.len() - 1
            }
        };
        self.all.get_mut(place)
    }

    /// Removes a receiver from the addresses that it has alone, and those that are then nobody's.
    pub(super) fn forget(&mut self, receiver: Receiver) {
        let mut is_gone = false;
        self.all.retain_mut(|local| {
            local.owner = local.owner.filter(|owner| *owner != receiver);
            let stays = local.owner.is_some() || local.shared.is_some();
            is_gone |= !stays;
            stays
        });
        if is_gone {
            self.places.clear();
            let places = self.all.iter().enumerate().map(|(place, local)| (local.address, place));
            self.places.extend(places);
        }
    }
}
