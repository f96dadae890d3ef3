//! Asks usnetd for what it knows, as usnetctl does.

use rustix::net::SendFlags;
use serde_json::Value;
use std::io;
use std::path::Path;
use usnet_shmring::control::{Channel, Message, Query, QueryKind};

/// One question, one JSON document.
pub(super) fn query(socket: &Path, what: QueryKind) -> io::Result<Value> {
    let channel = Channel::connect(socket)?;
    rustix::net::sockopt::set_socket_timeout(
        &channel,
        rustix::net::sockopt::Timeout::Recv,
        Some(std::time::Duration::from_secs(2)),
    )?;
    let question = Message::Query(Query { what: what as u32, which: 0 });
    channel.send(1, &question, &[], SendFlags::empty()).map_err(io::Error::other)?;
    let mut text = Vec::new();
    loop {
        let (_, answer) =
            channel.receive(rustix::net::RecvFlags::empty()).map_err(io::Error::other)?;
        let Message::Text(piece) = answer else {
            return Err(io::Error::other(format!("usnetd answered {:?}", answer.kind())));
        };
        let used = piece.bytes.len().min(piece.used as usize);
        text.extend_from_slice(piece.bytes.get(..used).unwrap_or_default());
        if piece.more == 0 {
            return serde_json::from_slice(&text).map_err(io::Error::other);
        }
    }
}
