//! Peers that lie, stall, flood or vanish. Whatever they do, others are served and nothing is left.

use crate::daemon::{Daemon, until};
use crate::peer::{Client, Peer, TCP, UDP, claim, wish};
use bytemuck::Zeroable;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::os::fd::AsFd;
use usnet_shmring::control::{
    Ask, Channel, ChannelError, Claim, Message, Query, QueryKind, RefusalCode, Rule, TEXT_BYTES,
    Text,
};
use usnet_shmring::descriptor::RawDescriptor;

/// Others are served as ever.
fn is_served(daemon: &Daemon) {
    let mut client = Client::attach(&daemon.socket(), "other");
    client.peer.claim(claim(TCP, 0, 1)).unwrap();
}

fn text() -> Message {
    Message::Text(Text { used: 0, more: 0, bytes: [0; TEXT_BYTES] })
}

fn all_messages() -> Vec<Message> {
    let claimed = claim(TCP, 8000, 1);
    vec![
        Message::Attach(wish("w")),
        Message::Claim(claimed),
        Message::Release(claimed),
        Message::ClaimRule(Rule::zeroed()),
        Message::ReleaseRule(Rule::zeroed()),
        Message::RuleClaimed(Rule::zeroed()),
        Message::Query(Query { what: 1, which: 0 }),
        Message::Ask(Ask::new(QueryKind::Explain, "w0").unwrap()),
        Message::Detach,
        Message::Attached(Zeroable::zeroed()),
        Message::Claimed(claimed),
        text(),
        Message::Detached,
        Message::refused(RefusalCode::Protocol, "x"),
    ]
}

#[test]
fn a_message_in_the_wrong_state_ends_the_connection() {
    let daemon = Daemon::start("");
    let is_refusal = |message: &Message| matches!(message, Message::Refused(r) if r.code == RefusalCode::Protocol as u32);
    for message in all_messages() {
        if !matches!(message, Message::Attach(_) | Message::Query(_) | Message::Ask(_)) {
            let mut peer = Peer::connect(&daemon.socket());
            peer.send(&message).unwrap();
            let said = peer.until_hung_up();
            assert!(matches!(&said[..], [only] if is_refusal(only)), "{message:?}: {said:?}");
        }
        let legal = matches!(
            message,
            Message::Claim(_)
                | Message::Release(_)
                | Message::ClaimRule(_)
                | Message::ReleaseRule(_)
                | Message::Query(_)
                | Message::Ask(_)
                | Message::Detach
        );
        if !legal {
            let mut client = Client::attach(&daemon.socket(), "c");
            client.peer.send(&message).unwrap();
            let said = client.peer.until_hung_up();
            assert!(matches!(&said[..], [only] if is_refusal(only)), "{message:?}: {said:?}");
        }
    }
    daemon.is_clean();
}

#[test]
fn what_is_no_message_ends_the_connection() {
    let daemon = Daemon::start("");
    let header = |kind: u32, length: u32, reserved: u32| {
        [kind, length, 7, reserved].map(u32::to_ne_bytes).concat()
    };
    let datagrams = [
        vec![0],
        vec![0xff; 15],
        vec![0xff; 16],
        vec![0; 9000],
        header(5, 0, 1),
        header(1, 64, 0),
        header(4, 8, 0),
        [header(5, 0, 0), vec![0]].concat(),
        header(77, 0, 0),
    ];
    for attached in [false, true] {
        for datagram in &datagrams {
            let channel = if attached {
                Client::attach(&daemon.socket(), "c").peer.channel
            } else {
                Peer::connect(&daemon.socket()).channel
            };
            rustix::net::send(&channel, datagram, SendFlags::NOSIGNAL).unwrap();
            let end =
                until("the daemon to hang up", || match channel.receive(RecvFlags::DONTWAIT) {
                    Err(error) if error.is_would_block() => None,
                    Ok(_) => None,
                    Err(error) => Some(error),
                });
            assert!(matches!(end, ChannelError::Closed), "{datagram:?}: {end:?}");
        }
    }
    daemon.is_clean();
}

#[test]
fn claims_of_nonsense_are_refused_and_the_session_lives() {
    let daemon = Daemon::start("");
    let mut client = Client::attach(&daemon.socket(), "c");
    let zero = Claim::zeroed();
    let mut family = claim(TCP, 80, 1);
    family.address.family = 9;
    let mut prefix = claim(TCP, 80, 1);
    (prefix.address.family, prefix.address.prefix) = (4, 24);
    let mut foreign = claim(TCP, 80, 1);
    (foreign.address.family, foreign.address.bytes[0]) = (4, 99);
    let cases = [
        (zero, RefusalCode::NotPermitted),
        (claim(TCP, 80, 0), RefusalCode::Protocol),
        (claim(TCP, 1, 4097), RefusalCode::Protocol),
        (claim(TCP, 65_535, 2), RefusalCode::Protocol),
        (claim(TCP, 0, u16::MAX), RefusalCode::Protocol),
        (Claim { reserved: [0, 0, 1], ..claim(TCP, 80, 1) }, RefusalCode::Protocol),
        (family, RefusalCode::Protocol),
        (prefix, RefusalCode::Protocol),
        (foreign, RefusalCode::NotFound),
    ];
    for (wrong, code) in cases {
        assert_eq!(client.peer.claim(wrong).unwrap_err().0, code, "{wrong:?}");
        assert!(client.peer.release(wrong).is_err());
    }
    assert!(daemon.rules().is_empty());
    client.peer.claim(claim(TCP, 80, 4096)).unwrap();
}

#[test]
fn a_handshake_that_is_not_finished_is_given_up() {
    let daemon = Daemon::start("");
    let idle: Vec<Peer> = (0..100).map(|_| Peer::connect(&daemon.socket())).collect();
    let turned_away = idle.iter().filter(|peer| !peer.until_hung_up().is_empty()).count();
    assert_eq!(turned_away, 100 - 64, "only so many of one user may be unfinished");
    is_served(&daemon);
    daemon.is_clean();
}

#[test]
fn a_client_that_never_reads_its_answers_loses_its_session() {
    let daemon = Daemon::start("");
    let deaf = Client::attach(&daemon.socket(), "deaf");
    let granted = claim(UDP, 6000, 1);
    let lost = until("the daemon to give up", || {
        // Each is answered; nothing is read.
        let asked = deaf.peer.channel.send(1, &Message::Claim(granted), &[], SendFlags::DONTWAIT);
        match asked {
            Ok(()) => None,
            Err(error) if error.is_would_block() => {
                is_served(&daemon);
                None
            }
            Err(error) => Some(error),
        }
    });
    assert!(matches!(lost, ChannelError::Closed), "{lost:?}");
    deaf.peer.until_hung_up();
    is_served(&daemon);
    drop(deaf);
    daemon.is_clean();
}

#[test]
fn a_client_that_asks_much_and_reads_nothing_does_not_keep_others_waiting() {
    let daemon = Daemon::start("");
    // A long answer, so that it does not fit the socket at once.
    let crowd: Vec<Client> = (0..12)
        .map(|n| {
            let mut client = Client::attach(&daemon.socket(), &format!("crowd-{n}"));
            for _ in 0..100 {
                client.peer.claim(claim(TCP, 0, 1)).unwrap();
            }
            client
        })
        .collect();
    let mut greedy = Peer::connect(&daemon.socket());
    let query = Message::Query(Query { what: 3, which: 0 });
    while greedy.channel.send(1, &query, &[], SendFlags::DONTWAIT).is_ok() {}
    is_served(&daemon);
    // Nothing is read of it until it takes its answer, and not for ever.
    let end = until("the daemon to hang up", || {
        match greedy.channel.send(1, &query, &[], SendFlags::DONTWAIT) {
            Err(error) if error.is_would_block() => None,
            Ok(()) => None,
            Err(error) => Some(error),
        }
    });
    assert!(matches!(end, ChannelError::Closed), "{end:?}");
    // One that reads gets all of it, however long.
    greedy = Peer::connect(&daemon.socket());
    greedy.send(&query).unwrap();
    let mut pieces = 0;
    while let Message::Text(text) = greedy.receive().unwrap() {
        pieces += 1;
        if text.more == 0 {
            break;
        }
    }
    assert!(pieces > 50, "{pieces} pieces");
    drop(crowd);
    daemon.is_clean();
}

#[test]
fn descriptors_that_a_client_sends_reach_nobody() {
    let daemon = Daemon::start("");
    let peer = Peer::connect(&daemon.socket());
    let client = Client::attach(&daemon.socket(), "c");
    let before = daemon.descriptors();
    let file = std::fs::File::open("/dev/null").unwrap();
    let eight = [file.as_fd(); 8];
    let query = Message::Query(Query { what: 1, which: 0 });
    for channel in [&peer.channel, &client.peer.channel] {
        for _ in 0..20 {
            match channel.send(1, &query, &eight, SendFlags::DONTWAIT) {
                // Linux 6.16 refuses them at the sender.
                Err(ChannelError::System { source, .. }) => {
                    assert_eq!(source.raw_os_error(), Some(Errno::PERM.raw_os_error()));
                }
                Ok(()) => drop(channel.receive(RecvFlags::empty()).unwrap()),
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    is_served(&daemon);
    until("descriptors to be as before", || (daemon.descriptors() <= before).then_some(()));
}

#[test]
fn a_client_that_breaks_the_rings_is_cut_off_alone() {
    let daemon = Daemon::start("");
    let mut good = Client::attach(&daemon.socket(), "good");
    good.peer.claim(claim(UDP, 5000, 1)).unwrap();
    let mut bad = Client::attach(&daemon.socket(), "bad");
    bad.peer.claim(claim(UDP, 6000, 10)).unwrap();
    // Its own region is its own to write: a descriptor of a slot that it does not hold.
    let cells = usnet_shmring::layout::PAIRS + usnet_shmring::layout::CELLS;
    let forged = RawDescriptor::new(0, 0, 60);
    rustix::io::pwrite(&bad.outbound, &forged.0.to_ne_bytes(), cells as u64).unwrap();
    rustix::io::pwrite(&bad.outbound, &1u32.to_ne_bytes(), usnet_shmring::layout::PAIRS as u64)
        .unwrap();
    rustix::io::write(&bad.signals.kick, &1u64.to_ne_bytes()).unwrap();
    let said = bad.peer.until_hung_up();
    assert!(matches!(said[..], [Message::Detached]), "{said:?}");
    assert_eq!(daemon.clients().len(), 1);
    assert!(daemon.log().contains("client cut off"), "the log says so");
    good.peer.claim(claim(UDP, 6000, 10)).unwrap();
    drop((good, bad));
    daemon.is_clean();
}

#[test]
fn any_messages_in_any_order_leave_nothing_behind() {
    let daemon = Daemon::start("");
    let messages = all_messages();
    // A fixed sequence; xorshift64 (Marsaglia 2003).
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for _ in 0..300 {
        let channel = Channel::connect(&daemon.socket()).unwrap();
        for _ in 0..next(8) {
            // Mostly what an honest client says.
            let message = messages[if next(4) > 0 { next(5) } else { next(10) }];
            if channel.send(1, &message, &[], SendFlags::DONTWAIT).is_err() {
                break;
            }
        }
        if next(2) == 0 {
            let mut descriptors = Vec::new();
            let _ = channel.receive_with_descriptors(&mut descriptors);
        }
    }
    is_served(&daemon);
    daemon.is_clean();
}
