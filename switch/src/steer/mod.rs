//! Stage 2 of a frame's way: who receives a flow on this interface.
//!
//! ```text
//!   exact flow -> listener (address, protocol, port; or protocol alone) -> address -> prefix -> interface default -> nobody
//!                    |
//!                    +-- a port with rules for some remote ends: the strongest of these, then the plain one
//! ```
//!
//! - One table an interface: no rule of one reaches into another.
//! - The common frame costs a look at the local addresses and one load from a dense port map. Only ports that
//!   have rules for some remote ends are looked at again (`sources.rs`), with a bounded number of probes.
//!   Nothing that a remote peer sends makes a lookup slower.
//! - A change acts on the next frame. Who remembers an answer remembers the [generation] of the table
//!   too, and asks again when it is another.
//!
//! [generation]: Table::generation

pub mod book;
mod claimed;
mod exact;
mod fragment;
mod groups;
mod lines;
mod locals;
mod look;
mod ports;
mod prefixes;
mod roll;
mod rules;
mod scope;
mod shared;
mod sources;
mod spread;
mod stage;
mod supplicant;
mod transactions;

pub use claimed::{CLAIMED_BYTES, CLAIMED_PROTOCOLS, ClaimedPorts, PROTOCOL_BYTES};
pub(crate) use exact::FlowIndex;
pub use exact::{ExactTable, Refusal};
pub use fragment::{DatagramKey, Found, FragmentTable};
pub(crate) use look::{FlowSeen, Look};
pub use prefixes::{LENGTHS, PER_PREFIX, PREFIX_RULES, PrefixRule};
pub(crate) use rules::Held;
pub use rules::{Rule, RuleRefusal};
pub use scope::{Prefix, Scope};
pub use sources::{SHAPES, SOURCE_RULES};
pub use spread::MEMBERS;
pub use stage::{Stage, TcpFlags};
pub(crate) use transactions::{Asked, NotAsked};

use crate::classify::{Address, Flow, Protocol};
use crate::config::Services;
use crate::time::Time;
use crate::verdict::{Receiver, ReceiverCode};
use book::{Book, WorkerId};
use claimed::Claims;
use groups::Groups;
use locals::{Local, Locals};
use prefixes::Prefixes;
use shared::Shared;
use sources::Sources;
use spread::Spread;
use std::sync::Arc;
use supplicant::Supplicant;
use transactions::Transactions;
use usnet_shmring::ledger::SessionId;

/// Learned and exact flows of one interface.
pub const EXACT_FLOWS: usize = 16_384;

/// Protocols with a dense port map.
const MAPPED: [Protocol; 5] =
    [Protocol::TCP, Protocol::UDP, Protocol::UDP_LITE, Protocol::SCTP, Protocol::DCCP];

/// By protocol number, the index of its map; past the maps where it has none.
#[expect(clippy::cast_possible_truncation, reason = "there are five")]
static MAP_INDEX: [u8; 256] = {
    let mut indexes = [MAPPED.len() as u8; 256];
    let mut index = 0;
    while index < MAPPED.len() {
        indexes[MAPPED[index].0 as usize] = index as u8;
        index += 1;
    }
    indexes
};

/// The index of a protocol's map; past the maps if it has none.
#[inline(always)]
fn map_index(protocol: Protocol) -> usize {
    // A `u8` always lies in an array of 256.
    MAP_INDEX[usize::from(protocol.0)].into()
}

/// All rules of one interface.
#[derive(Debug)]
pub struct Table {
    locals: Locals,
    /// Claims of whole prefixes.
    prefixes: Prefixes,
    /// Rules that speak of the remote end.
    sources: Sources,
    /// Clients that hold the same, by number.
    spreads: Vec<Option<Spread>>,
    exact: ExactTable,
    fragments: FragmentTable<Option<Receiver>>,
    default: Option<Receiver>,
    /// What is told of every claim and every learned flow.
    claims: Option<Claims>,
    /// Grows with every change of a rule, from 1.
    changes: u64,
    /// What the other workers of the interface learn, if there are any.
    shared: Option<Shared>,
    /// Which clients have joined which groups.
    pub(crate) groups: Groups,
    /// Who waits for which answers of DHCP.
    pub(crate) transactions: Transactions,
    /// Which client speaks EAPOL.
    pub(crate) supplicant: Supplicant,
    /// From which ports that nobody holds flows may be learned; `None`: from any.
    flow_ports: Option<Services>,
}

/// What an answer rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The rules.
    Rules,
    /// An exact flow.
    Flow(FlowIndex),
    /// A flow that another worker has learned, and for which there is no room here.
    Book,
}

impl Table {
    /// A table without addresses. `default` gets what is for no local address.
    #[must_use]
    pub fn new(default: Option<Receiver>, seed: u64) -> Self {
        Self {
            locals: Locals::new(seed.rotate_left(8)),
            prefixes: Prefixes::new(seed.rotate_left(40)),
            sources: Sources::new(seed.rotate_left(24)),
            spreads: Vec::new(),
            exact: ExactTable::new(EXACT_FLOWS, seed),
            fragments: FragmentTable::new(seed ^ 0x9e37_79b9_7f4a_7c15),
            default,
            claims: None,
            changes: 1,
            shared: None,
            groups: Groups::default(),
            transactions: Transactions::default(),
            supplicant: Supplicant::default(),
            flow_ports: None,
        }
    }

    /// Flows are learned only from these ports, or from addresses that are a client's alone, from now on:
    /// any other could be one that the kernel uses.
    pub fn set_flow_ports(&mut self, ports: Services) {
        self.flow_ports = Some(ports);
    }

    /// Whether flows may be learned from this port of an address that others share.
    pub(crate) fn may_teach(&self, protocol: Protocol, port: u16) -> bool {
        self.flow_ports.as_ref().is_none_or(|ports| ports.contains(protocol, port, 1))
    }

    /// Learns together with the other workers of the interface from now on.
    pub fn share(&mut self, book: Arc<Book>, worker: WorkerId) {
        self.groups.share(book.members());
        self.transactions.share(book.transactions());
        self.supplicant = book.supplicant();
        self.shared = Some(Shared::new(book, worker));
    }

    /// Looks what the other workers have learned: once a burst, after its frames have arrived.
    #[inline]
    pub(crate) fn look_around(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.look();
            self.groups.look();
            self.transactions.look();
        }
    }

    /// What others have learned for this session is for it here, too, until it is
    /// [forgotten](Self::forget).
    pub(crate) fn admit(&mut self, session: SessionId) {
        if let Some(shared) = &mut self.shared {
            shared.admit(session, true);
        }
    }

    /// While this number stays, the same question has the same answer, but for fragments and for flows
    /// that expire. Never 0.
    #[inline]
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.changes + self.exact.changes() + self.shared.as_ref().map_or(0, Shared::generation)
    }

    /// Keeps count of all ports that may be a client's at an address that is not a client's alone.
    pub fn set_claimed(&mut self, ports: Arc<dyn ClaimedPorts>) {
        self.claims = Some(Claims::new(ports));
        self.tell_all();
    }

    /// Counts exactly what is in the table.
    fn tell_all(&mut self) {
        let Self { claims: Some(claims), locals, exact, .. } = self else { return };
        let shared = locals.iter().filter(|local| local.shared.is_some());
        let listeners = shared.flat_map(|local| {
            let maps = local.ports.iter().enumerate();
            maps.filter_map(|(index, map)| Some((index, map.as_ref()?)))
                .flat_map(|(index, map)| map.used().map(move |port| (index, port)))
        });
        let is_shared = |address| locals.get(address).is_some_and(|l| l.shared.is_some());
        let flows = exact
            .flows()
            .map(|f| (map_index(f.protocol), f))
            .filter(|(index, f)| *index < MAPPED.len() && is_shared(f.destination))
            .map(|(index, f)| (index, f.destination_port));
        claims.replace(listeners.chain(flows));
    }

    /// Counts a flow's port. Flows of protocols without ports have none.
    fn tell(&mut self, flow: &Flow) {
        let index = map_index(flow.protocol);
        if index < MAPPED.len()
            && self.claims.is_some()
            && self.local(flow.destination).is_some_and(|local| local.shared.is_some())
            && let Some(claims) = &mut self.claims
        {
            claims.add(index, core::iter::once(flow.destination_port));
        }
    }

    /// Serves an address; what no listener claims goes to `default`.
    pub fn add_address(&mut self, address: Address, default: Option<Receiver>) {
        self.changes += 1;
        if let Some(local) = self.locals.make(address) {
            local.shared = Some(default);
        }
    }

    /// Gives an address to one receiver alone, until it is [forgotten](Self::forget). Returns false
    /// if another has it.
    pub fn own_address(&mut self, address: Address, owner: Receiver) -> bool {
        self.changes += 1;
        match self.locals.make(address) {
            Some(local) if local.owner.is_none_or(|other| other == owner) => {
                local.owner = Some(owner);
                true
            }
            _ => false,
        }
    }

    /// Whose address this is alone.
    #[must_use]
    pub fn owner(&self, address: Address) -> Option<Receiver> {
        self.local(address)?.owner
    }

    /// Whether the interface serves this address, by itself or as one of a prefix that a client has.
    #[inline]
    #[must_use]
    pub fn is_local(&self, address: Address) -> bool {
        self.locals.get(address).is_some() || self.is_in_prefix(address)
    }

    /// Who gets what no listener claims at this address.
    #[must_use]
    pub fn address_default(&self, address: Address) -> Option<Receiver> {
        match self.local(address) {
            Some(local) => local.default(),
            None => self.prefix_owner(address),
        }
    }

    #[inline]
    fn local(&self, address: Address) -> Option<&Local> {
        self.locals.get(address)
    }

    /// Enters an exact rule.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn add_exact(&mut self, flow: Flow, to: Receiver, now: Time) -> Result<(), Refusal> {
        self.tell(&flow);
        self.exact.insert(flow, to, false, now).map(drop)
    }

    /// Learns that answers of `flow` (as they will arrive) belong to `to`. Returns whose older flow
    /// was given up for it.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn learn(
        &mut self,
        flow: Flow,
        to: Receiver,
        now: Time,
    ) -> Result<Option<Receiver>, Refusal> {
        self.tell(&flow);
        if let Some(shared) = &self.shared {
            shared.enter(&flow, to)?;
        }
        let entered = self.exact.insert(flow, to, true, now);
        if let Some(shared) = &self.shared {
            match &entered {
                Ok(Some((older, of))) => shared.give_up(older, *of),
                Ok(None) => {}
                Err(_) => shared.give_up(&flow, to),
            }
        }
        Ok(entered?.map(|(_, receiver)| receiver))
    }

    /// Who has this exact flow, and where.
    #[inline]
    pub(crate) fn exact(&mut self, flow: &Flow, now: Time) -> Option<(Receiver, FlowIndex)> {
        match self.find_exact(flow, now)? {
            (receiver, Some(index)) => Some((receiver, index)),
            (_, None) => None,
        }
    }

    /// Who has this exact flow, and where, unless there was no room for what another worker learned.
    #[inline]
    fn find_exact(&mut self, flow: &Flow, now: Time) -> Option<(Receiver, Option<FlowIndex>)> {
        if let Some((receiver, index)) = self.exact.find(flow, now) {
            return Some((receiver, Some(index)));
        }
        if self.shared.is_none() { None } else { self.adopt(flow, now) }
    }

    /// Takes over what another worker has learned of this flow.
    #[inline(never)]
    fn adopt(&mut self, flow: &Flow, now: Time) -> Option<(Receiver, Option<FlowIndex>)> {
        let receiver = self.shared.as_ref()?.get(flow)?;
        // Here it outlives the other's table.
        self.tell(flow);
        let shared = self.shared.as_ref()?;
        if let Ok(Some((older, of))) = self.exact.insert(*flow, receiver, true, now) {
            shared.give_up(&older, of);
        }
        Some((receiver, self.exact.find(flow, now).map(|(_, index)| index)))
    }

    /// Marks an exact flow as used, as finding it would. To be asked only in the generation in which
    /// it was found.
    #[inline]
    pub(crate) fn touch(&mut self, flow: FlowIndex, flags: TcpFlags, now: Time) {
        self.exact.touch(flow, flags, now);
    }

    /// A number that tells addresses apart, and that nobody outside can foresee.
    pub(crate) fn scatter(&self, address: Address) -> usize {
        self.exact.scatter(address)
    }

    /// Learned and exact flows in the table.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.exact.len()
    }

    /// Who receives a flow that arrives, without regard to fragments.
    #[inline]
    pub fn lookup(&mut self, flow: &Flow, now: Time) -> Option<Receiver> {
        self.lookup_flow(flow, now).0
    }

    /// As [`lookup`](Self::lookup), and what said so.
    #[inline]
    pub(crate) fn lookup_flow(&mut self, flow: &Flow, now: Time) -> (Option<Receiver>, Source) {
        if let Some((receiver, index)) = self.find_exact(flow, now) {
            return (Some(receiver), index.map_or(Source::Book, Source::Flow));
        }
        let Some(local) = self.local(flow.destination) else {
            return (self.beyond(flow), Source::Rules);
        };
        let code = local.code(flow);
        let listener = match code.receiver() {
            None if code == ReceiverCode::SOURCES => self.look_again(flow),
            listener => listener,
        };
        (listener.or_else(|| local.default()), Source::Rules)
    }

    /// Who gets what is for this address and matches no rule.
    #[must_use]
    pub fn fallback(&self, destination: Address) -> Option<Receiver> {
        match self.local(destination) {
            Some(local) => local.default(),
            None => self.prefix_owner(destination).or(self.default),
        }
    }

    /// Gives an idle learned flow of `receiver` up; as [`ExactTable::retire`].
    pub fn retire(&mut self, flow: &Flow, receiver: Receiver, now: Time) -> bool {
        let retired = self.exact.retire(flow, receiver, now);
        if retired && let Some(shared) = &self.shared {
            shared.give_up(flow, receiver);
        }
        retired
    }

    /// Tells the other workers that a session which ends has learned these flows.
    pub(crate) fn give_up<'a>(
        &mut self,
        flows: impl IntoIterator<Item = &'a Flow>,
        session: SessionId,
    ) {
        if let Some(shared) = &self.shared {
            flows.into_iter().for_each(|flow| shared.give_up(flow, Receiver::Client(session)));
        }
    }

    /// Removes every rule and learned flow of a receiver.
    pub fn forget(&mut self, receiver: Receiver) {
        self.changes += 1;
        if let (Some(shared), Receiver::Client(session)) = (&mut self.shared, receiver) {
            shared.admit(session, false);
        }
        if let Receiver::Client(session) = receiver {
            self.groups.forget(session);
            self.transactions.forget(session);
            self.supplicant.forget(session);
        }
        self.forget_rules(receiver);
        self.exact.forget(receiver);
        self.fragments.forget(|bound| bound == Some(receiver));
        self.locals.forget(receiver);
        self.prefixes.forget(receiver);
        self.tell_all();
    }
}
