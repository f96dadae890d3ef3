//! What a client asks for once it is connected: claims, releases, queries.

use super::super::registry::{Grant, Wish};
use super::super::session::{Action, Input, State};
use super::attach::{Rejection, internal};
use super::connection::Attachment;
use super::{Server, report};
use crate::classify::Protocol;
use crate::session::InterfaceId;
use crate::snapshot::Snapshot;
use crate::steer::Scope;
use crate::switch::SwitchError;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use usnet_shmring::control::{Address, Claim, Kind, Message, Query, QueryKind, RefusalCode};
use usnet_shmring::ledger::SessionId;

/// How old the counters may be that a user without privileges gets: taking them costs the worker
/// time in which it moves no frame.
const SNAPSHOT_AGE: Duration = Duration::from_millis(100);

impl Server {
    /// A message arrived: does what it asks for, if it is legal now.
    pub(super) fn receive(&mut self, key: u64, request: u32, message: &Message) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let kind = message.kind();
        if kind == Kind::Detach && connection.state == State::Attached {
            connection.detach_request = request;
        }
        let action = connection.state.on(Input::Message(kind)).1;
        match (action, message) {
            (Action::Attach, Message::Attach(wish)) => self.attach(key, request, wish),
            (Action::Answer, Message::Claim(claim)) => {
                let answer = self.claim(key, claim);
                self.answer_claim(key, request, answer);
            }
            (Action::Answer, Message::Release(claim)) => {
                let answer = self.release(key, claim);
                self.answer_claim(key, request, answer);
            }
            (Action::Answer, Message::ClaimRule(rule)) => {
                let answer = self.claim_rule(key, rule);
                self.answer_rule(key, request, answer);
            }
            (Action::Answer, Message::ReleaseRule(rule)) => {
                let answer = self.release_rule(key, rule);
                self.answer_rule(key, request, answer);
            }
            (Action::Answer, Message::Query(query)) if query.what == QueryKind::Events as u32 => {
                if let Err((code, text)) = self.follow(key, request, query.which) {
                    self.send(key, request, &Message::refused(code, &text));
                }
            }
            (Action::Answer, Message::Query(query)) => match self.query(key, *query) {
                Ok(text) => self.send_text(key, request, text),
                Err((code, text)) => self.send(key, request, &Message::refused(code, &text)),
            },
            (Action::Answer, Message::Ask(ask)) if ask.what == QueryKind::Capture as u32 => {
                match self.capture(key, ask) {
                    Ok(pipe) => self.hand_pipe(key, request, &pipe),
                    Err((code, text)) => self.send(key, request, &Message::refused(code, &text)),
                }
            }
            (Action::Answer, Message::Ask(ask)) if ask.what == QueryKind::ApplyConfig as u32 => {
                match self.apply_config(key, request, ask) {
                    Ok(Some(text)) => self.send_text(key, request, text),
                    // Answered when interfaces have come or gone.
                    Ok(None) => {}
                    Err((code, text)) => self.send(key, request, &Message::refused(code, &text)),
                }
            }
            (Action::Answer, Message::Ask(ask)) => match self.ask(key, ask) {
                Ok(text) => self.send_text(key, request, text),
                Err((code, text)) => self.send(key, request, &Message::refused(code, &text)),
            },
            _ => self.apply(key, Input::Message(kind)),
        }
    }

    fn answer_claim(&mut self, key: u64, request: u32, answer: Result<Claim, Rejection>) {
        let message = match answer {
            Ok(claim) => Message::Claimed(claim),
            Err(refusal) => {
                self.tell_refused(key, "claim", &refusal);
                Message::refused(refusal.0, &refusal.1)
            }
        };
        self.send(key, request, &message);
    }

    pub(super) fn session_of(&self, key: u64) -> Result<(SessionId, InterfaceId), Rejection> {
        let missing = || (RefusalCode::NotFound, "there is no such session".to_owned());
        let attachment = self.connections.get(&key).and_then(|c| c.attachment.as_ref());
        let Attachment { id, interface, .. } = attachment.ok_or_else(missing)?;
        let interface = self.interfaces.get(interface).ok_or_else(missing)?;
        Ok((*id, interface.id))
    }

    fn claim(&mut self, key: u64, claim: &Claim) -> Result<Claim, Rejection> {
        let (id, interface) = self.session_of(key)?;
        let grant = self.grant(id, interface, wish(claim)?)?;
        Ok(answer(claim, &grant))
    }

    /// Gets what is wished from everyone who has a say, and puts it into force.
    pub(super) fn grant(
        &mut self,
        id: SessionId,
        interface: InterfaceId,
        wish: Wish,
    ) -> Result<Grant, Rejection> {
        let own = self.registry.addresses(id).map_or_else(Vec::new, |a| a.own.clone());
        let Self { registry, kernel_ports, .. } = self;
        let mut take =
            |index, grant: &Grant| kernel_ports.take(index, grant, &own, wish.first != 0);
        let grant = registry.claim_if(id, wish, &mut take)?;
        if let Err(error) = self.enforce(interface, &grant, id) {
            let _ = self.lift(interface, &grant, id);
            let _ = self.registry.release(id, grant.wish);
            self.kernel_ports.give_back(usize::from(interface.0), &grant);
            return Err(match error {
                // It ended at this moment; the client is about to be told.
                SwitchError::SessionNumber(_) | SwitchError::NoSession(_) => {
                    (RefusalCode::NotFound, "the session has ended".to_owned())
                }
                error @ SwitchError::RulesFull => (RefusalCode::Exhausted, error.to_string()),
                error => internal("the worker refuses the claim", error),
            });
        }
        tracing::debug!(session = %id, claim = %grant.wish, "claimed");
        Ok(grant)
    }

    /// Takes a grant back from everyone.
    pub(super) fn give_back(
        &mut self,
        id: SessionId,
        interface: InterfaceId,
        wish: Wish,
    ) -> Result<(), Rejection> {
        let grant = self.registry.release(id, wish)?;
        self.lift(interface, &grant, id)
            .map_err(|e| internal("the worker refuses the release", e))?;
        // Last, so that no frame of a program of the kernel's is still a client's.
        self.kernel_ports.give_back(usize::from(interface.0), &grant);
        tracing::debug!(session = %id, claim = %grant.wish, "released");
        Ok(())
    }

    fn release(&mut self, key: u64, claim: &Claim) -> Result<Claim, Rejection> {
        let (id, interface) = self.session_of(key)?;
        self.give_back(id, interface, wish(claim)?)?;
        Ok(*claim)
    }

    // ---- queries ----

    /// Whether who asks may see and do everything; a refusal if not even look.
    pub(super) fn may_look(&self, key: u64) -> Result<bool, Rejection> {
        let peer = self.connections.get(&key).map(|c| c.peer.clone()).unwrap_or_default();
        let own = rustix::process::geteuid().as_raw();
        let privileged = peer.uid == 0 || peer.uid == own;
        if !privileged && !self.config.policies.iter().any(|p| p.subject.includes(&peer)) {
            let text = format!("no policy lets user {} look at this daemon", peer.uid);
            return Err((RefusalCode::NotPermitted, text));
        }
        Ok(privileged)
    }

    fn query(&mut self, key: u64, query: Query) -> Result<String, Rejection> {
        let privileged = self.may_look(key)?;
        let Some(kind) = QueryKind::from_u32(query.what) else {
            let text = format!("no query has number {}", query.what);
            return Err((RefusalCode::Protocol, text));
        };
        let json = match kind {
            QueryKind::DetachClient if !privileged => {
                let text = "only root and the daemon's own user may end sessions".to_owned();
                return Err((RefusalCode::NotPermitted, text));
            }
            QueryKind::DetachClient => return self.order_end(query.which),
            QueryKind::Explain
            | QueryKind::Events
            | QueryKind::Capture
            | QueryKind::DiffConfig
            | QueryKind::ApplyConfig => {
                return Err((RefusalCode::Protocol, "this query is asked in words".to_owned()));
            }
            QueryKind::Flows => return self.flows(privileged, query.which),
            QueryKind::Host => return self.host(privileged),
            QueryKind::Rules => report::to_json(&report::rules(self)),
            QueryKind::Status | QueryKind::Clients | QueryKind::Stats => {
                let snapshot = self.counters(privileged)?;
                match kind {
                    QueryKind::Status => report::to_json(&report::status(self, &snapshot)),
                    QueryKind::Clients => report::to_json(&report::clients(self, &snapshot)),
                    _ => report::to_json(&snapshot),
                }
            }
        };
        json.map_err(|e| internal("the answer cannot be written", e))
    }

    fn counters(&mut self, fresh: bool) -> Result<Snapshot, Rejection> {
        match &self.snapshot {
            Some((taken, snapshot)) if !fresh && taken.elapsed() < SNAPSHOT_AGE => {
                Ok(snapshot.clone())
            }
            _ => {
                let snapshot = self
                    .workers
                    .snapshot()
                    .ok_or_else(|| internal("a worker does not answer", "it is gone"))?;
                self.snapshot = Some((Instant::now(), snapshot.clone()));
                Ok(snapshot)
            }
        }
    }

    /// Ends another session. It has ended when this returns; its slots may still come home.
    fn order_end(&mut self, which: u32) -> Result<String, Rejection> {
        let attached =
            |key: &u64| self.connections.get(key).is_some_and(|c| c.state == State::Attached);
        let id = u16::try_from(which).ok().map(SessionId);
        let key = id.and_then(|id| self.sessions.get(&id)).copied().filter(attached);
        let Some(key) = key else {
            return Err((RefusalCode::NotFound, format!("no client has session {which}")));
        };
        tracing::info!(session = which, "detached by order");
        self.apply(key, Input::Order);
        // Commands are carried out in turn: when this one is answered, that one is done and what it
        // caused has been reported.
        let _ = self.workers.snapshot();
        self.take_events();
        Ok(format!("{{\"detached\":{which}}}"))
    }
}

/// The local address of a claim; `None` for all of the session's.
pub(super) fn local_address(address: &Address) -> Result<Option<IpAddr>, ()> {
    let is_full = |bits| address.prefix == bits || address.prefix == 0;
    match (address.family, address.ip()) {
        (0, _) if *address == Address::default() => Ok(None),
        (4, Some(ip)) if is_full(32) => Ok(Some(ip)),
        (6, Some(ip)) if is_full(128) => Ok(Some(ip)),
        _ => Err(()),
    }
}

/// The wish in a claim.
fn wish(claim: &Claim) -> Result<Wish, Rejection> {
    let Claim { address, first_port, count, protocol, reserved } = *claim;
    match local_address(&address) {
        Ok(address) if reserved == [0; 3] => {
            let (protocol, scope) = (Protocol(protocol), Scope::default());
            Ok(Wish { address, protocol, first: first_port, count, scope })
        }
        _ => Err((RefusalCode::Protocol, "the claim is malformed".to_owned())),
    }
}

/// The claim as it was granted.
fn answer(claim: &Claim, grant: &Grant) -> Claim {
    Claim { first_port: grant.wish.first, ..*claim }
}
