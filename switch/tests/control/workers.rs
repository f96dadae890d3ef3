//! A daemon of several workers: every session has a queue pair with each, and they know the same.
//!
//! ```text
//!   client pair 0 <-> worker 0 <-> wire 0 <-> worker 0      what is sent on a pair stays with its worker
//!   client pair 1 <-> worker 1 <-> wire 1 <-> worker 1
//! ```

use crate::daemon::{Daemon, until};
use crate::peer::{Client, TCP, UDP, claim, wish};
use usnet_shmring::control::{Message, name_into};
use usnet_shmring::descriptor::RawDescriptor;
use usnet_shmring::layout::{CELLS, PAIRS, pair_size};

const WORKERS: usize = 3;

/// Three workers; `w0` and `w1` are two interfaces on one wire.
fn daemon() -> Daemon {
    Daemon::start(
        "network = \"lan\"\n[[interface]]\nname = \"w1\"\nport = \"wire\"\nnetwork = \"lan\"\n\
         mac = \"02:00:00:00:77:02\"\naddresses = [\"10.77.0.2/24\"]\n[worker]\ncount = 3\n",
    )
}

fn attach(daemon: &Daemon, name: &str, interface: &str) -> Client {
    let wish = usnet_shmring::control::Attach { interface: name_into(interface), ..wish(name) };
    crate::peer::Peer::connect(&daemon.socket()).attach(&wish).unwrap()
}

/// A datagram from one client's address and port to the other's.
fn datagram(from: &Client, source: u16, to: &Client, destination: u16) -> Vec<u8> {
    let mut frame = from.datagram(source, destination, b"over the wire");
    frame[..6].copy_from_slice(&to.attached.mac);
    frame[30..34].copy_from_slice(&to.attached.ipv4.bytes[..4]);
    frame
}

#[test]
fn a_session_has_a_queue_pair_with_every_worker_and_ends_with_all() {
    let daemon = daemon();
    let mut a = attach(&daemon, "a", "w0");
    let mut b = attach(&daemon, "b", "w0");
    assert_eq!((a.attached.pairs, 1 + a.others.len()), (3, WORKERS));
    a.peer.claim(claim(UDP, 5000, 1)).unwrap();
    b.peer.claim(claim(UDP, 6000, 1)).unwrap();
    for pair in 0..WORKERS {
        let frame = b.datagram(6000, 5000, &[u8::try_from(pair).unwrap(); 30]);
        b.transmit_on(pair, &frame);
        assert_eq!(until("the frame on the same pair", || a.poll_on(pair)), frame);
        let free = until("its slot on the same pair", || {
            let transmitter = &mut b.pair(pair).transmitter;
            transmitter.reclaim().unwrap();
            (transmitter.free() == transmitter.slots()).then_some(transmitter.free())
        });
        assert_eq!(free, 64);
    }
    let status = daemon.json(&["status"]);
    assert_eq!(status["workers"], 3);
    let stats = daemon.json(&["stats"]);
    let each: Vec<_> = stats["workers"].as_array().unwrap().iter().collect();
    assert!(each.len() == WORKERS && each.iter().all(|w| w["from_clients"] == 1), "{stats}");
    let clients = daemon.clients();
    assert_eq!((&clients[0]["counters"]["delivered"], clients.len()), (&3.into(), 2));
    drop((a, b));
    daemon.is_clean();
}

#[test]
fn what_one_worker_learned_holds_for_frames_that_arrive_at_another() {
    let daemon = daemon();
    let mut here = attach(&daemon, "here", "w0");
    let mut there = attach(&daemon, "there", "w1");
    there.peer.claim(claim(UDP, 9, 1)).unwrap();
    // From a port that nobody has claimed: the answer belongs to whoever asked.
    here.transmit_on(0, &datagram(&here, 40_000, &there, 9));
    until("the question", || there.poll_on(0));
    for pair in 0..WORKERS {
        let answer = datagram(&there, 9, &here, 40_000);
        there.transmit_on(pair, &answer);
        assert_eq!(until("the answer, wherever it arrives", || here.poll_on(pair)), answer);
    }
    // Another client cannot have the same flow by teaching it to another worker.
    let mut thief = attach(&daemon, "thief", "w0");
    thief.transmit_on(1, &datagram(&thief, 40_000, &there, 9));
    until("the thief's frame to be refused", || {
        let counters = &daemon.clients()[2]["counters"];
        (!counters["dropped_from"].as_object().unwrap().is_empty()).then_some(())
    });
    // Once it is gone with its session, nobody has it.
    drop(here);
    until("the first session to end", || (daemon.clients().len() == 2).then_some(()));
    thief.transmit_on(1, &datagram(&thief, 40_000, &there, 9));
    until("the thief's question", || there.poll_on(1));
    let answer = datagram(&there, 9, &thief, 40_000);
    there.transmit_on(2, &answer);
    assert_eq!(until("an answer for the new owner", || thief.poll_on(2)), answer);
    drop((there, thief));
    daemon.is_clean();
}

#[test]
fn a_fault_on_one_pair_ends_the_session_with_all_workers() {
    let daemon = daemon();
    let mut good = attach(&daemon, "good", "w0");
    let mut bad = attach(&daemon, "bad", "w0");
    bad.peer.claim(claim(TCP, 8000, 4)).unwrap();
    // A slot of the first pair, sent on the second.
    let pair = (PAIRS + pair_size(bad.attached.ring_capacity)) as u64;
    let forged = RawDescriptor::new(bad.attached.segments[0].first, 0, 60);
    rustix::io::pwrite(&bad.outbound, &forged.0.to_ne_bytes(), pair + CELLS as u64).unwrap();
    rustix::io::pwrite(&bad.outbound, &1u32.to_ne_bytes(), pair).unwrap();
    rustix::io::write(&bad.signals.kick, &1u64.to_ne_bytes()).unwrap();
    let said = bad.peer.until_hung_up();
    assert!(matches!(said[..], [Message::Detached]), "{said:?}");
    assert!(daemon.log().contains("client cut off"), "the log says so");
    until("the session to end", || (daemon.clients().len() == 1).then_some(()));
    good.peer.claim(claim(TCP, 8000, 4)).unwrap();
    for pair in 0..WORKERS {
        let frame = good.datagram(8000, 8000, b"to nobody");
        good.transmit_on(pair, &frame);
    }
    drop((good, bad));
    daemon.is_clean();
}

#[test]
fn sessions_that_come_and_go_leave_no_worker_with_a_trace() {
    let daemon = daemon();
    for round in 0..40u16 {
        let mut a = attach(&daemon, "a", "w0");
        let mut b = attach(&daemon, "b", "w1");
        b.peer.claim(claim(UDP, 9, 1)).unwrap();
        for pair in 0..WORKERS {
            let source = 20_000 + round * 8 + u16::try_from(pair).unwrap();
            let frame = datagram(&a, source, &b, 9);
            a.transmit_on(pair, &frame);
        }
        until("one of them", || b.poll_on(usize::from(round) % WORKERS));
    }
    daemon.is_clean();
    let status = daemon.json(&["status"]);
    assert!(status["interfaces"].as_array().unwrap().iter().all(|i| i["flows"] == 0), "{status}");
}
