//! Interfaces come and go while frames of the others move.
//!
//! ```text
//!   number   0      1      2            remove_interface(1): its sessions end, its ports close
//!          [eth0] [    ] [eth2]         add_interface_at(1): a new one, if the number was given to nobody meanwhile
//! ```
//!
//! - An interface has its number as long as it is there; what is asked about a number that nobody has is refused.
//! - What waited for a port of an interface that goes is dropped and counted: every sum stays right.

use super::{Behind, InterfaceSpec, Switch, SwitchError};
use crate::interface::{ECHOES, Early, Interface, Lanes, Outlet, Recent, Stations};
use crate::session::InterfaceId;
use crate::steer::{FragmentTable, Table};
use crate::switch::place;
use crate::verdict::Receiver;
use std::collections::VecDeque;
use usnet_shmring::ledger::SessionId;

/// The interfaces of a switch, by number.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<Option<Interface>>);

impl Places {
    /// Numbers in use are below this.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    #[inline]
    pub(super) fn at(&mut self, index: usize) -> Option<&mut Interface> {
        self.0.get_mut(index)?.as_mut()
    }

    pub(super) fn get(&self, id: InterfaceId) -> Option<&Interface> {
        self.0.get(usize::from(id.0))?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: InterfaceId) -> Result<&mut Interface, SwitchError> {
        self.at(usize::from(id.0)).ok_or(SwitchError::NoInterface(id))
    }

    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = (InterfaceId, &Interface)> {
        numbers().zip(&self.0).filter_map(|(id, place)| Some((id, place.as_ref()?)))
    }

    #[inline]
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (InterfaceId, &mut Interface)> {
        numbers().zip(&mut self.0).filter_map(|(id, place)| Some((id, place.as_mut()?)))
    }
}

/// All numbers, in order.
fn numbers() -> impl Iterator<Item = InterfaceId> {
    (0..=u8::MAX).map(InterfaceId)
}

impl Switch {
    /// Adds an interface; it gets the lowest number that is free.
    ///
    /// # Errors
    /// [`SwitchError::TooManyInterfaces`]
    pub fn add_interface(&mut self, spec: InterfaceSpec) -> Result<InterfaceId, SwitchError> {
        let free = numbers().find(|id| self.interfaces.get(*id).is_none());
        let id = free.ok_or(SwitchError::TooManyInterfaces)?;
        self.add_interface_at(id, spec)?;
        Ok(id)
    }

    /// Adds an interface under this number.
    ///
    /// # Errors
    /// [`SwitchError::InterfaceNumber`]: another one has it.
    pub fn add_interface_at(
        &mut self,
        id: InterfaceId,
        spec: InterfaceSpec,
    ) -> Result<(), SwitchError> {
        let number = usize::from(id.0);
        while self.interfaces.len() <= number {
            self.interfaces.0.push(None);
        }
        let Some(free @ None) = self.interfaces.0.get_mut(number) else {
            return Err(SwitchError::InterfaceNumber(id));
        };
        let seed = self.seed.wrapping_add(u64::from(id.0));
        let default = spec.host.is_some().then_some(Receiver::Host);
        let mut table = Table::new(default, seed);
        for address in spec.addresses {
            table.add_address(address.into(), default);
        }
        if let Some(ports) = spec.wire.claimed_ports() {
            table.set_claimed(ports);
        }
        let pool = &mut self.deliver.pool;
        let mut interface = Interface {
            mac: spec.mac,
            frame_limit: usize::from(spec.mtu) + 14,
            table,
            sent_fragments: FragmentTable::new(!seed),
            early: Early::new(),
            echoes: VecDeque::with_capacity(ECHOES),
            recent: Recent::new(seed.rotate_left(32)),
            wire: Outlet::new(spec.wire, pool),
            host: spec.host.map(|port| Outlet::new(port, pool)),
            kernel_hears: spec.kernel_hears,
            unmatched: spec.unmatched,
            answers: crate::refusal::Bucket::default(),
            cut_through: spec.cut_through,
            bump: (spec.behind == Behind::Network).then(|| Stations::new(seed.rotate_left(16))),
            vlan: None,
            lanes: Lanes::default(),
            clients: Vec::new(),
        };
        if interface.wire.is_lane() {
            self.lanes.push(number);
        }
        if self.deliver.tap.is_some() {
            show(id, &mut interface);
        }
        *free = Some(interface);
        Ok(())
    }

    /// Ends all sessions of an interface, closes its ports and forgets it with all its rules; its number is free.
    ///
    /// # Errors
    /// [`SwitchError::NoInterface`]
    pub fn remove_interface(&mut self, id: InterfaceId) -> Result<(), SwitchError> {
        let clients: Vec<SessionId> = self.interfaces.get_mut(id)?.clients.clone();
        for client in clients {
            self.detach(client);
        }
        self.retire_ports(id, true)?;
        self.leave_lanes(id);
        if let Some(tap) = &mut self.deliver.tap {
            tap.forget_interface(id.0);
        }
        if let Some(place) = self.interfaces.0.get_mut(usize::from(id.0)) {
            *place = None;
        }
        Ok(())
    }
}

/// Makes an interface's ports known to those who capture.
pub(super) fn show(id: InterfaceId, interface: &mut Interface) {
    let index = usize::from(id.0);
    interface.wire.place = Some(place(index, false));
    if let Some(host) = &mut interface.host {
        host.place = Some(place(index, true));
    }
}
