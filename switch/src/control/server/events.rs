//! What has happened, for those who follow it: attach, detach, faults, refusals, ports.
//!
//! ```text
//!   control thread --tell--> | oldest ... newest |  <--"from number n"-- connections that wait
//!                            1024 are kept; older ones are lost, and how many is told
//! ```
//!
//! There is one queue for all readers: each says from which number on it wants to hear. One that reads slowly
//! costs nothing but its own loss. A connection that waits is not read from until it has its answer.

use super::super::session::State;
use super::attach::Rejection;
use super::connection::Connection;
use super::{HANDSHAKE, Server, report};
use rustix::event::epoll::EventFlags;
use serde::Serialize;
use std::collections::VecDeque;
use std::time::{Instant, SystemTime};
use usnet_shmring::ledger::SessionId;

/// Events that are kept.
const KEPT: usize = 1024;
/// Events in one answer.
const TOLD: usize = 128;

/// Something that has happened.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub(super) enum Told<'a> {
    Attached { client: u16, name: &'a str, pid: i32, uid: u32, ifname: &'a str },
    Detached { client: u16, name: &'a str, pid: i32, delivered: u64, sent: u64, away: u32 },
    Fault { client: u16, name: &'a str, pid: i32, fault: &'a str, recovered: u32, away: u32 },
    Refused { client: Option<u16>, pid: i32, uid: u32, what: &'a str, code: &'a str, text: &'a str },
    Configured { file: &'a str, changes: usize },
    PortFailed { ifname: &'a str, port: &'a str, error: &'a str },
    PortWaits { ifname: &'a str, why: &'a str },
    PortReopened { ifname: &'a str, mac: &'a str },
    InterfaceAdded { ifname: &'a str, mac: &'a str },
    InterfaceRemoved { ifname: &'a str, sessions: usize },
}

#[derive(Serialize)]
struct Entry<'a> {
    seq: u32,
    /// Milliseconds since 1970.
    time_ms: u64,
    #[serde(flatten)]
    told: &'a Told<'a>,
}

/// The last events.
#[derive(Debug)]
pub(super) struct Journal {
    /// As JSON, one document each; the last has the number before `next`.
    kept: VecDeque<String>,
    next: u32,
}

impl Default for Journal {
    fn default() -> Self {
        Self { kept: VecDeque::with_capacity(KEPT), next: 1 }
    }
}

impl Journal {
    /// Adds an event, for which an old one goes.
    pub(super) fn tell(&mut self, told: &Told<'_>) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let Ok(json) = serde_json::to_string(&Entry { seq: self.next, time_ms, told }) else {
            return;
        };
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(json);
        // In four billion events' time those who follow hear the kept ones again.
        self.next = self.next.checked_add(1).unwrap_or(1);
    }

    /// Whether there is something from this number on. 0 asks for the next number, which is there always.
    fn has(&self, from: u32) -> bool {
        from == 0 || from != self.next
    }

    /// What there is from this number on.
    fn from(&self, from: u32) -> String {
        let kept = u32::try_from(self.kept.len()).unwrap_or(0);
        let oldest = self.next.saturating_sub(kept);
        // Of an earlier daemon, if it has not come yet.
        let (first, lost) = match from {
            0 => (self.next, 0),
            from if from > self.next => (oldest, 0),
            from => (from.max(oldest), oldest.saturating_sub(from)),
        };
        let skipped = usize::try_from(first - oldest).unwrap_or(usize::MAX);
        let told: Vec<&str> =
            self.kept.iter().skip(skipped).take(TOLD).map(String::as_str).collect();
        let next = first.saturating_add(u32::try_from(told.len()).unwrap_or(0));
        format!("{{\"next\":{next},\"lost\":{lost},\"events\":[{}]}}", told.join(","))
    }
}

impl Server {
    /// Begins to wait for events from a number on.
    pub(super) fn follow(&mut self, key: u64, request: u32, from: u32) -> Result<(), Rejection> {
        self.may_look(key)?;
        let Some(connection) = self.connections.get_mut(&key) else { return Ok(()) };
        connection.follows = Some((request, from));
        connection.deadline = None;
        self.watch(key, EventFlags::RDHUP);
        self.tell_followers();
        Ok(())
    }

    /// Answers those who wait and for whom there is something.
    pub(super) fn tell_followers(&mut self) {
        let journal = &self.journal;
        let has = |c: &Connection| c.follows.is_some_and(|(_, from)| journal.has(from));
        let ready: Vec<u64> =
            self.connections.iter().filter(|(_, c)| has(c)).map(|(key, _)| *key).collect();
        for key in ready {
            let Some(connection) = self.connections.get_mut(&key) else { continue };
            let Some((request, from)) = connection.follows.take() else { continue };
            if connection.state == State::Connected {
                connection.deadline = Some(Instant::now() + HANDSHAKE);
            }
            let text = self.journal.from(from);
            self.send_text(key, request, text);
        }
    }

    /// Tells of a session that has begun.
    pub(super) fn tell_attached(&mut self, key: u64) {
        let Some(connection) = self.connections.get(&key) else { return };
        let Some(attachment) = &connection.attachment else { return };
        let ifname = self.interfaces.get(&attachment.interface).map_or("?", |i| &i.name);
        let (name, id, peer) = (&attachment.name, attachment.id.0, &connection.peer);
        self.journal.tell(&Told::Attached {
            client: id,
            name,
            pid: peer.pid,
            uid: peer.uid,
            ifname,
        });
    }

    /// Tells of a session that has ended.
    pub(super) fn tell_ended(
        &mut self,
        id: SessionId,
        fault: Option<&str>,
        (recovered, away): (u32, u32),
        (delivered, sent): (u64, u64),
    ) {
        let name = report::client_name(self, id).unwrap_or("?").to_owned();
        let key = self.sessions.get(&id);
        let pid = key.and_then(|key| self.connections.get(key)).map_or(0, |c| c.peer.pid);
        let (client, name) = (id.0, name.as_str());
        self.journal.tell(&match fault {
            Some(fault) => Told::Fault { client, name, pid, fault, recovered, away },
            None => Told::Detached { client, name, pid, delivered, sent, away },
        });
    }

    /// Tells of a request that was refused.
    pub(super) fn tell_refused(&mut self, key: u64, what: &str, (code, text): &Rejection) {
        let Some(connection) = self.connections.get(&key) else { return };
        let client = connection.attachment.as_ref().map(|a| a.id.0);
        let (pid, uid) = (connection.peer.pid, connection.peer.uid);
        let code = format!("{code:?}");
        self.journal.tell(&Told::Refused { client, pid, uid, what, code: &code, text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn tell(journal: &mut Journal, count: usize) {
        for _ in 0..count {
            journal.tell(&Told::PortWaits { ifname: "e", why: "\"so\"" });
        }
    }

    fn read(journal: &Journal, from: u32) -> (u64, u64, Vec<u64>) {
        let answer: Value = serde_json::from_str(&journal.from(from)).unwrap();
        let events = answer["events"].as_array().unwrap().iter();
        let numbers = events.map(|e| e["seq"].as_u64().unwrap()).collect();
        (answer["next"].as_u64().unwrap(), answer["lost"].as_u64().unwrap(), numbers)
    }

    #[test]
    fn who_reads_in_time_hears_everything_once_and_in_order() {
        let mut journal = Journal::default();
        assert!(journal.has(0) && !journal.has(1));
        assert_eq!(read(&journal, 0), (1, 0, vec![]));
        tell(&mut journal, 3);
        assert!(journal.has(1) && !journal.has(4));
        assert_eq!(read(&journal, 1), (4, 0, vec![1, 2, 3]));
        assert_eq!(read(&journal, 3), (4, 0, vec![3]));
        tell(&mut journal, TOLD);
        let (next, lost, numbers) = read(&journal, 4);
        assert_eq!((next, lost, numbers.len()), (4 + TOLD as u64, 0, TOLD));
    }

    #[test]
    fn who_reads_too_late_is_told_how_many_are_lost() {
        let mut journal = Journal::default();
        tell(&mut journal, KEPT + 10);
        assert_eq!(journal.kept.len(), KEPT);
        let (next, lost, numbers) = read(&journal, 3);
        assert_eq!((lost, numbers[0], numbers.len()), (8, 11, TOLD));
        assert_eq!(next, 11 + TOLD as u64);
        // A number of an earlier daemon: all that is kept.
        assert_eq!(read(&journal, 100_000).2[0], 11);
    }
}
