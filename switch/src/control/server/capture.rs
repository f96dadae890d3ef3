//! Captures: who may, of what, and how many at a time.

use super::super::session::Input;
use super::Server;
use super::attach::{Rejection, internal};
use crate::capture::{Capturing, Filter, LONGEST, Point, Subject, start};
use crate::session::InterfaceId;
use serde::Deserialize;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use usnet_shmring::control::{Ask, Message, RefusalCode, TEXT_BYTES, Text};
use usnet_shmring::ledger::SessionId;

/// Captures at a time: each costs a thread and a megabyte.
const MOST: usize = 8;

/// What is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    interface: Option<String>,
    client: Option<u16>,
    snaplen: Option<u32>,
    count: Option<u64>,
    #[serde(default)]
    filter: String,
}

impl Server {
    /// Begins a capture; gives the end of the pipe from which it is read.
    pub(super) fn capture(&mut self, key: u64, ask: &Ask) -> Result<OwnedFd, Rejection> {
        if !self.may_look(key)? {
            let text = "only root and the daemon's own user may capture".to_owned();
            return Err((RefusalCode::NotPermitted, text));
        }
        let wish: Wish = serde_json::from_str(ask.text().unwrap_or("")).map_err(|e| {
            (RefusalCode::Protocol, format!("what to capture is not understood: {e}"))
        })?;
        let filter = Filter::parse(&wish.filter).map_err(|e| (RefusalCode::NotFound, e))?;
        let (subject, points) = self.subject(&wish)?;
        self.captures.retain(|over| !over.load(Ordering::Relaxed));
        if self.captures.len() >= MOST {
            let text = format!("{MOST} captures are running, which is the most");
            return Err((RefusalCode::Exhausted, text));
        }
        let longest = u32::try_from(LONGEST).unwrap_or(u32::MAX);
        let snaplen = wish.snaplen.filter(|n| *n > 0).unwrap_or(longest).min(longest);
        let (capturing, capture) = Capturing::new(subject, filter, snaplen as usize);
        self.captures.push(capturing.over());
        let pipe = start(capturing, points, snaplen, wish.count.unwrap_or(u64::MAX))
            .map_err(|e| internal("a capture cannot be started", e))?;
        self.workers
            .look_at_each(move |switch, _| switch.capture(capture.clone()))
            .ok_or_else(|| internal("a worker does not answer", "it is gone"))?;
        tracing::info!(?subject, filter = wish.filter, "a capture begins");
        Ok(pipe)
    }

    /// What is captured, and what its points are called.
    fn subject(&self, wish: &Wish) -> Result<(Subject, Vec<Point>), Rejection> {
        let point =
            |name: String, description: &str| Point { name, description: description.into() };
        match (&wish.interface, wish.client) {
            (Some(name), None) => {
                let index = self.find_interface(name)?;
                let interface = self.interfaces.get(&index).map(|interface| interface.id);
                let InterfaceId(number) = interface.unwrap_or(InterfaceId(0));
                let points = vec![
                    point(name.clone(), "the interface's port to the network"),
                    point(format!("{name}:host"), "the interface's port to the host"),
                    point(format!("{name}:dropped"), "what was dropped of what it received"),
                ];
                Ok((Subject::Interface(number), points))
            }
            (None, Some(number)) => {
                let id = SessionId(number);
                let name = super::report::client_name(self, id).ok_or_else(|| {
                    (RefusalCode::NotFound, format!("no client has session {number}"))
                })?;
                let points = vec![
                    point(
                        format!("client{number}"),
                        &format!("the rings of client {number}, {name}"),
                    ),
                    point(format!("client{number}:dropped"), "what was dropped from it, or for it"),
                ];
                Ok((Subject::Client(id), points))
            }
            _ => {
                let text = "name either an interface or a client to capture".to_owned();
                Err((RefusalCode::Protocol, text))
            }
        }
    }

    /// Answers with the end of a pipe.
    pub(super) fn hand_pipe(&mut self, key: u64, request: u32, pipe: &OwnedFd) {
        let mut text = Text { used: 2, more: 0, bytes: [0; TEXT_BYTES] };
        text.bytes.iter_mut().zip(b"{}").for_each(|(to, from)| *to = *from);
        let Some(connection) = self.connections.get(&key) else { return };
        if connection.send(request, &Message::Text(text), &[pipe.as_fd()]).is_err() {
            self.apply(key, Input::Lost);
        }
    }
}
