//! Making a session: who, under which policy, of what, and every step back if one fails.

use super::super::memory::{ClientShare, MemoryError, Shape, WorkerShare};
use super::super::registry::{Addresses, Entry, Refusal};
use super::super::session::Input;
use super::connection::Attachment;
use super::{Server, SharedInterface};
use crate::config::{self, Policy, Sharing};
use crate::session::SessionSpec;
use core::fmt::Display;
use std::net::IpAddr;
use std::time::Instant;
use usnet_shmring::arena::ArenaError;
use usnet_shmring::control::{
    Address, Attach, Attached, Message, Mode, RefusalCode, features, name_from,
};
use usnet_shmring::layout::VERSION;
use usnet_shmring::ledger::SessionId;

/// A request that is not granted: code and words.
pub(super) type Rejection = (RefusalCode, String);

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        (refusal.code(), refusal.to_string())
    }
}

/// A failure of the daemon's own: the client learns that there was one, the log what it was.
pub(super) fn internal(what: &str, error: impl Display) -> Rejection {
    tracing::error!(%error, "{what}");
    (RefusalCode::Internal, format!("{what}: the daemon's log says why"))
}

impl From<MemoryError> for Rejection {
    fn from(error: MemoryError) -> Self {
        match &error {
            MemoryError::GroupFull { .. }
            | MemoryError::Slots(ArenaError::Exhausted { .. } | ArenaError::Segment { .. }) => {
                tracing::warn!(%error, "no memory for a session");
                (RefusalCode::Exhausted, error.to_string())
            }
            _ => internal("no memory for the session", &error),
        }
    }
}

/// A session that was made; its client does not know yet.
struct Made {
    attachment: Attachment,
    answer: Attached,
    share: ClientShare,
}

impl Server {
    /// Answers [`Message::Attach`].
    pub(super) fn attach(&mut self, key: u64, request: u32, wish: &Attach) {
        match self.make_session(key, wish) {
            Ok(made) => self.hand_over(key, request, made),
            Err((code, text)) => {
                let peer = self.connections.get(&key).map(|c| c.peer.clone()).unwrap_or_default();
                tracing::info!(pid = peer.pid, uid = peer.uid, ?code, text, "attach refused");
                self.send(key, request, &Message::refused(code, &text));
                self.tell_refused(key, "attach", &(code, text));
            }
        }
    }

    fn make_session(&mut self, key: u64, wish: &Attach) -> Result<Made, Rejection> {
        if wish.version != VERSION {
            let text = format!("this daemon speaks version {VERSION}, not {}", wish.version);
            return Err((RefusalCode::Version, text));
        }
        let index = self.find_interface(&name_from(&wish.interface))?;
        let id = self.free_number().ok_or_else(|| {
            (RefusalCode::Exhausted, "this daemon has no session left".to_owned())
        })?;
        let connection = self.connections.get(&key).ok_or(Refusal::NoSession)?;
        let peer = &connection.peer;
        let name = match name_from(&wish.name) {
            name if name.is_empty() => connection.process_name(),
            name => name,
        };
        let interface = self.interfaces.get(&index).ok_or(Refusal::NoSession)?;
        let (place, policy) = config::matching(&self.config.policies, peer, &interface.name)
            .ok_or_else(|| {
                let text = format!("no policy lets user {} attach to {}", peer.uid, interface.name);
                (RefusalCode::NotPermitted, text)
            })?;
        let shape = Shape::grant(wish, &policy.quota, policy.mode, self.pairs());
        let entry = entry(index, interface, (peer.uid, place), policy, &shape);
        let addresses = self.registry.enter(id, entry)?.clone();
        self.registry.introduce(id, &name, peer);
        let made = build(
            &mut self.memory,
            &mut self.workers,
            interface,
            policy,
            (wish, shape),
            id,
            &addresses,
        );
        if made.is_err() {
            self.registry.forget(id);
        }
        let (answer, share) = made?;
        self.sessions.insert(id, key);
        let group = policy.group.clone();
        let (mode, since) = (policy.mode, Instant::now());
        let attachment = Attachment { id, name, interface: index, mode, group, shape, since };
        Ok(Made { attachment, answer, share })
    }

    fn hand_over(&mut self, key: u64, request: u32, made: Made) {
        let Made { attachment, answer, share } = made;
        let Some(connection) = self.connections.get_mut(&key) else { return };
        tracing::info!(
            session = %attachment.id,
            name = attachment.name,
            pid = connection.peer.pid,
            uid = connection.peer.uid,
            mode = ?attachment.mode,
            "attached"
        );
        connection.attachment = Some(attachment);
        connection.deadline = None;
        let sent = connection.send(request, &Message::Attached(answer), &share.descriptors());
        self.tell_attached(key);
        self.apply(key, Input::Granted);
        if let Err(error) = sent {
            tracing::debug!(%error, "a client does not take its session");
            self.apply(key, Input::Lost);
        }
    }

    /// Queue pairs of every session.
    fn pairs(&self) -> u16 {
        u16::try_from(self.workers.count()).unwrap_or(u16::MAX)
    }

    pub(super) fn find_interface(&self, name: &str) -> Result<usize, Rejection> {
        let names = || {
            let names: Vec<_> = self.served().map(|(_, i)| i.name.as_str()).collect();
            names.join(", ")
        };
        let mut all = self.served();
        if name.is_empty() {
            return match (all.next(), all.next()) {
                (Some((only, _)), None) => Ok(only),
                _ => {
                    let text = format!("name an interface; there are: {}", names());
                    Err((RefusalCode::NotFound, text))
                }
            };
        }
        all.find(|(_, i)| i.name == name).map(|(index, _)| index).ok_or_else(|| {
            let text = format!("no interface is named {name:?}; there are: {}", names());
            (RefusalCode::NotFound, text)
        })
    }

    /// A number that no session has. Goes round, so that a number rests before it is used again.
    fn free_number(&mut self) -> Option<SessionId> {
        let limit = SessionId::LIMIT;
        let id = (0..limit)
            .map(|ahead| SessionId(self.next_session.wrapping_add(ahead) % limit))
            .find(|id| !self.sessions.contains_key(id))?;
        self.next_session = (id.0 + 1) % limit;
        Some(id)
    }
}

fn entry(
    index: usize,
    interface: &SharedInterface,
    account: (u32, usize),
    policy: &Policy,
    shape: &Shape,
) -> Entry {
    let all = interface.networks.iter().map(|network| network.address());
    let shared = match &policy.addresses {
        None => all.collect(),
        Some(some) => all.filter(|address| some.contains(address)).collect(),
    };
    let is_here = |own: &&IpAddr| interface.networks.iter().any(|network| network.contains(**own));
    let own = policy.own_addresses.iter().filter(is_here);
    Entry {
        interface: index,
        account,
        shared,
        own_pool: own.copied().collect(),
        own_prefixes: policy.own_prefixes.clone(),
        services: policy.services.clone(),
        protocols: policy.protocols.clone(),
        quota: policy.quota,
        slots: shape.cost(),
    }
}

/// Makes the memory, has the worker take its part, and says what goes to the client.
fn build(
    memory: &mut super::Memory,
    workers: &mut super::Workers,
    interface: &SharedInterface,
    policy: &Policy,
    (wish, shape): (&Attach, Shape),
    id: SessionId,
    addresses: &Addresses,
) -> Result<(Attached, ClientShare), Rejection> {
    let (parts, share) = memory.build(shape, policy.group.as_deref())?;
    // Elsewhere a worker would do, for all clients, what each of them can do itself.
    let here = if interface.unfinished { features::UNFINISHED } else { 0 };
    let features = wish.features & (here | features::RULES);
    let part = |own: WorkerShare| {
        let spec = SessionSpec {
            id,
            interface: interface.id,
            queues: own.queues,
            transmit: own.transmit,
            receive: own.receive,
            group: own.group,
            addresses: addresses.iter().collect(),
            exclusive: addresses.own.clone(),
            wake: Some(own.wake),
            flow_quota: policy.quota.flows,
            groups: policy.groups.clone(),
            may: policy.may,
            offload: features & features::UNFINISHED != 0,
        };
        (spec, own.kick)
    };
    workers
        .attach(parts.into_iter().map(part).collect())
        .map_err(|e| internal("a worker refuses the session", e))?;
    let mode = match policy.mode {
        Sharing::Isolated => Mode::Isolated,
        Sharing::Shared => Mode::Shared,
    };
    let of_family = |is_family: fn(&IpAddr) -> bool| {
        let address = addresses.iter().find(is_family)?;
        Some(with_prefix(interface, address))
    };
    let gateway = |is_family: fn(&IpAddr) -> bool| {
        let router = interface.gateways.iter().copied().find(is_family)?;
        Some(with_prefix(interface, router))
    };
    let answer = Attached {
        version: VERSION,
        session: id.0.into(),
        mode: mode as u32,
        ring_capacity: shape.ring_capacity,
        slot_size: memory.slot_size().bytes(),
        mtu: interface.mtu.into(),
        inbound_size: share.inbound_size,
        outbound_size: share.outbound_size,
        mac: interface.mac.0,
        pairs: shape.pairs,
        ipv4: of_family(IpAddr::is_ipv4).unwrap_or_default(),
        ipv6: of_family(IpAddr::is_ipv6).unwrap_or_default(),
        gateway4: gateway(IpAddr::is_ipv4).unwrap_or_default(),
        gateway6: gateway(IpAddr::is_ipv6).unwrap_or_default(),
        segments: share.segments,
        features,
        reserved: 0,
    };
    Ok((answer, share))
}

/// An address with the prefix of the network that it lies in, or alone.
fn with_prefix(interface: &SharedInterface, address: IpAddr) -> Address {
    let networks = interface.networks.iter().filter(|network| network.contains(address));
    let prefix = networks.map(|network| network.prefix()).max();
    Address::new(address, prefix.unwrap_or(if address.is_ipv4() { 32 } else { 128 }))
}
