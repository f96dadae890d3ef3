//! Pieces in any order, with overlaps, heads that are too short and identifiers of others, against a model that
//! knows one sentence: a datagram is whose its first piece is.

use crate::support::frames::*;
use crate::support::rig::{Options, Rig};
use core::time::Duration;
use proptest::prelude::*;
use std::collections::HashMap;

const US: &str = "10.0.0.1";
const REMOTES: [&str; 3] = ["10.0.0.9", "10.0.0.8", "192.0.2.7"];
/// Of client 1, of client 2, and of the host.
const PORTS: [u16; 3] = [7, 8, 9];
/// Places for pieces that wait (`switch/src/interface/early.rs`).
const PLACES: u64 = 128;

/// What arrives, from which of the remote ends and with which identifier.
#[derive(Clone, Copy, Debug)]
enum What {
    /// The first piece, to one of the ports.
    First(usize),
    /// A first piece that does not reach as far as the ports do, and so names none.
    Tiny,
    /// A later piece, perhaps over the bytes of others.
    Later { offset: u16, more: bool },
    /// Nothing, for so many milliseconds.
    Pause(u64),
}

fn arrival() -> impl Strategy<Value = (usize, u16, What)> {
    let what = prop_oneof![
        3 => (0..PORTS.len()).prop_map(What::First),
        1 => Just(What::Tiny),
        6 => (1..8_u16, any::<bool>()).prop_map(|(at, more)| What::Later { offset: at * 8, more }),
        1 => (1..700_u64).prop_map(What::Pause),
    ];
    (0..REMOTES.len(), 1..3_u16, what)
}

fn rig() -> Rig {
    let mut rig = Rig::with(Options::default());
    for (id, port) in [(1, PORTS[0]), (2, PORTS[1])] {
        rig.attach_plain(id);
        rig.listen(id, US, UDP, port);
    }
    rig
}

/// The remote end and the identifier that a frame names.
fn key(frame: &[u8]) -> (usize, u16) {
    let source = std::net::Ipv4Addr::from(<[u8; 4]>::try_from(&frame[26..30]).unwrap());
    let remote = REMOTES.iter().position(|remote| *remote == source.to_string()).unwrap();
    (remote, u16::from_be_bytes([frame[18], frame[19]]))
}

/// Whether it begins with its datagram's head.
fn is_first(frame: &[u8]) -> bool {
    u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff == 0
}

proptest! {
    /// A client gets pieces of a datagram only if it owns the first one that came, and all of them that come after
    /// that; what waits is bounded, and no frame is lost without being counted.
    #[test]
    fn no_order_of_pieces_shows_a_client_anothers_datagram(
        arrivals in prop::collection::vec(arrival(), 1..120),
    ) {
        let mut rig = rig();
        // Whose a datagram is, and whether that is settled for a client.
        let mut owners: HashMap<(usize, u16), usize> = HashMap::new();
        for (remote, id, what) in arrivals {
            let to = inward(REMOTES[remote], US);
            let frame = match what {
                What::First(port) => to.first(id).udp(9, PORTS[port]),
                What::Tiny => to.first(id).ip(UDP, &[0; 4]),
                What::Later { offset, more } => {
                    From { piece: Some(Piece { id, offset, more }), ..to }.rest(UDP)
                }
                What::Pause(time) => {
                    rig.now = rig.now + Duration::from_millis(time);
                    continue;
                }
            };
            if let What::First(port) = what {
                owners.entry((remote, id)).or_insert(port);
            }
            let (_, out) = rig.fates(|rig| rig.wires[0].lock().incoming.push_back(frame.clone()));
            for (client, came) in &out.clients {
                let owner = owners.get(&key(came)).copied();
                prop_assert_eq!(owner, Some(usize::from(*client) - 1), "{:?}", came);
                if is_first(came) {
                    let port = u16::from_be_bytes([came[36], came[37]]);
                    prop_assert_eq!(port, PORTS[usize::from(*client) - 1]);
                }
            }
            if let (What::Later { .. }, Some(&owner)) = (what, owners.get(&(remote, id)))
                && owner < 2
            {
                let got = out.clients.iter().any(|(c, came)| usize::from(*c) == owner + 1 && *came == frame);
                prop_assert!(got, "what comes after the first piece is its owner's at once");
            }
            prop_assert!(rig.check().waiting <= PLACES);
        }
    }

    /// However the pieces of a datagram are shuffled, they reach its owner once each, and nobody else.
    #[test]
    fn all_pieces_reach_the_owner_in_whatever_order_they_come(
        order in Just([0_u16, 1, 2, 3]).prop_shuffle(),
        count in 2..5_usize,
        owner in 0..2_usize,
        remote in 0..REMOTES.len(),
    ) {
        let mut rig = rig();
        let to = inward(REMOTES[remote], US);
        let pieces: Vec<Vec<u8>> = order
            .into_iter()
            .filter(|n| usize::from(*n) < count)
            .map(|n| match n {
                0 => to.first(5).udp(9, PORTS[owner]),
                n => {
                    let more = usize::from(n) + 1 < count;
                    From { piece: Some(Piece { id: 5, offset: n * 16, more }), ..to }.rest(UDP)
                }
            })
            .collect();
        let mut came = Vec::new();
        for piece in &pieces {
            came.extend(rig.fates(|rig| rig.wires[0].lock().incoming.push_back(piece.clone())).1.clients);
        }
        prop_assert!(came.iter().all(|(client, _)| usize::from(*client) == owner + 1));
        let mut frames: Vec<_> = came.into_iter().map(|(_, frame)| frame).collect();
        let mut sent = pieces;
        frames.sort();
        sent.sort();
        prop_assert_eq!(frames, sent);
    }
}
