//! Pieces of datagrams that arrive before the first piece, which alone names a port.

use crate::support::frames::*;
use crate::support::rig::Fate::{Client, Dropped, Host, Wire};
use crate::support::rig::{Fate, Options, Rig};
use core::time::Duration;
use usnet_shmring::ledger::SessionId;
use usnet_switch::time::Time;
use usnet_switch::verdict::DropReason::{NoReceiver, PieceAlone, PiecesFull};

const FAMILIES: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.9"), ("fd00::1", "fd00::9")];
const SECOND: Duration = Duration::from_secs(1);

/// Client 1 holds port 7, client 2 port 8, both of both addresses.
fn rig(options: Options) -> Rig {
    let mut rig = Rig::with(options);
    for (id, port) in [(1, 7), (2, 8)] {
        rig.attach_plain(id);
        rig.listen(id, "10.0.0.1", UDP, port);
        rig.listen(id, "fd00::1", UDP, port);
    }
    rig
}

/// What ends when time goes by.
#[track_caller]
fn after(rig: &mut Rig, time: Duration) -> Vec<Fate> {
    rig.fates(|rig| rig.now = rig.now + time).0
}

/// A piece at this place of a datagram.
fn piece(to: &From, id: u16, offset: u16, more: bool) -> Vec<u8> {
    From { piece: Some(Piece { id, offset, more }), ..*to }.rest(UDP)
}

#[test]
fn pieces_that_come_before_the_first_follow_it_whatever_their_order() {
    for (us, them) in FAMILIES {
        let mut rig = rig(Options::default());
        let to = inward(them, us);
        let late = [piece(&to, 1, 80, false), piece(&to, 1, 48, true), piece(&to, 1, 64, true)];
        for frame in &late {
            assert_eq!(rig.arrives(frame), [], "it waits");
        }
        let first = to.first(1).udp(9, 7);
        let (fates, out) = rig.fates(|rig| rig.wires[0].lock().incoming.push_back(first.clone()));
        assert_eq!(fates, [Client(1); 4]);
        let came: Vec<_> = out.clients.into_iter().map(|(_, frame)| frame).collect();
        assert_eq!(came, [&[first][..], &late].concat(), "unchanged, the first before the others");
        assert_eq!(rig.arrives(&piece(&to, 1, 96, false)), [Client(1)], "and at once from now on");
    }
}

#[test]
fn an_early_piece_is_for_nobody_but_the_owner_of_the_first() {
    for (us, them) in FAMILIES {
        let mut rig = rig(Options::default());
        let to = inward(them, us);
        for (id, port, owner) in [(1, 7, Client(1)), (2, 8, Client(2)), (3, 9, Host)] {
            assert_eq!(rig.arrives(&to.later(id).rest(UDP)), []);
            assert_eq!(rig.arrives(&to.first(id).udp(9, port)), [owner, owner]);
        }
        // Somebody else's datagram, and somebody else's number.
        assert_eq!(rig.arrives(&to.later(4).rest(UDP)), []);
        let other = inward(if us.contains(':') { "fd00::8" } else { "10.0.0.8" }, us);
        assert_eq!(rig.arrives(&other.first(4).udp(9, 8)), [Client(2)]);
        assert_eq!(rig.arrives(&to.first(5).udp(9, 8)), [Client(2)]);
        // A second first piece that names another port gets neither what waits nor what follows.
        assert_eq!(rig.arrives(&to.first(4).udp(9, 7)), [Client(1), Client(1)]);
        assert_eq!(rig.arrives(&to.first(4).udp(9, 8)), [Dropped(NoReceiver)]);
        assert_eq!(rig.arrives(&to.later(4).rest(UDP)), [Client(1)]);
    }
}

#[test]
fn a_piece_whose_first_does_not_come_is_the_kernels_or_dropped_and_never_a_clients() {
    for (us, them) in FAMILIES {
        let to = inward(them, us);
        let mut shared = rig(Options::default());
        assert_eq!(shared.arrives(&to.later(1).rest(UDP)), []);
        assert_eq!(after(&mut shared, SECOND - Duration::from_nanos(1)), []);
        assert_eq!(after(&mut shared, Duration::from_nanos(1)), [Host], "which may have the first");
        let mut alone = rig(Options { host: false, ..Options::default() });
        assert_eq!(alone.arrives(&to.later(1).rest(UDP)), []);
        assert_eq!(after(&mut alone, SECOND), [Dropped(PieceAlone)]);
        assert_eq!(alone.arrives(&to.first(1).udp(9, 7)), [Client(1)], "too late for the other");
    }
    let mut rig = rig(Options::default());
    rig.attach_owner(3, "10.0.0.50");
    let to = inward("10.0.0.9", "10.0.0.50");
    assert_eq!(rig.arrives(&to.later(1).rest(UDP)), []);
    assert_eq!(after(&mut rig, SECOND), [Dropped(PieceAlone)], "though the address is a client's");
}

#[test]
fn pieces_do_not_wait_where_no_client_can_be_meant() {
    let mut rig = Rig::new();
    let to = inward("10.0.0.9", "10.0.0.1");
    assert_eq!(rig.arrives(&to.later(1).rest(UDP)), [Host], "there is no client");
    rig.attach_plain(1);
    let elsewhere = inward("10.0.0.9", "10.0.0.77");
    assert_eq!(rig.arrives(&elsewhere.later(1).rest(UDP)), [Host], "at no address of ours");
    let broadcast = inward("10.0.0.9", "10.0.0.255").to_link(BROADCAST);
    assert_eq!(rig.arrives(&broadcast.later(1).rest(UDP)), [Host]);
    assert_eq!(rig.switch.next_event(), None);
}

#[test]
fn one_remote_end_pushes_out_its_own_pieces_alone() {
    for (us, them, flooder, same) in [
        ("10.0.0.1", "10.0.0.9", "10.0.0.66", "10.0.0.66"),
        ("fd00::1", "fd00::9", "fd00:6::1", "fd00:6::ffff:2"),
    ] {
        let mut rig = rig(Options { host: false, ..Options::default() });
        assert_eq!(rig.arrives(&inward(them, us).later(1).rest(UDP)), []);
        for id in 0..48 {
            let from = if id % 2 == 0 { flooder } else { same };
            assert_eq!(rig.arrives(&inward(from, us).later(id).rest(UDP)), [], "{id}");
        }
        for id in 48..400 {
            let flood = inward(same, us).later(id).rest(UDP);
            assert_eq!(rig.arrives(&flood), [Dropped(PiecesFull)], "{id}");
        }
        assert_eq!(rig.check().waiting, 49);
        assert_eq!(rig.arrives(&inward(them, us).first(1).udp(9, 7)), [Client(1); 2]);
    }
}

#[test]
fn all_remote_ends_together_fill_128_places_and_the_oldest_piece_gives_way() {
    let mut rig = rig(Options { host: false, ..Options::default() });
    let from = |n: u16| inward(&format!("10.0.{}.{}", 100 + n / 200, 1 + n % 200), "10.0.0.1");
    for n in 0..128 {
        assert_eq!(rig.arrives(&from(n).later(n).rest(UDP)), [], "{n}");
    }
    for n in 128..600 {
        assert_eq!(rig.arrives(&from(n).later(n).rest(UDP)), [Dropped(PiecesFull)], "{n}");
    }
    assert_eq!(rig.check().waiting, 128);
    assert_eq!(rig.arrives(&from(0).first(0).udp(9, 7)), [Client(1)], "its later piece is gone");
    assert_eq!(rig.arrives(&from(599).first(599).udp(9, 7)), [Client(1); 2]);
    assert_eq!(after(&mut rig, SECOND), [Dropped(PieceAlone); 127]);
}

#[test]
fn pieces_of_a_client_that_has_left_are_not_shown_to_the_next() {
    let mut rig = rig(Options::default());
    let to = inward("10.0.0.9", "10.0.0.1");
    assert_eq!(rig.arrives(&to.first(1).udp(9, 7)), [Client(1)]);
    rig.switch.detach(SessionId(1));
    rig.take_events();
    rig.attach_plain(1);
    assert_eq!(rig.arrives(&to.later(1).rest(UDP)), []);
    assert_eq!(after(&mut rig, SECOND), [Host]);
}

#[test]
fn no_slot_is_lost_when_a_port_goes_while_pieces_wait() {
    let mut rig = rig(Options { interfaces: 2, ..Options::default() });
    let to = inward("10.0.0.9", "10.0.0.1");
    for id in 0..5 {
        assert_eq!(rig.arrives(&to.later(id).rest(UDP)), []);
    }
    rig.wires[0].lock().breaks_receiving = true;
    rig.wires[0].lock().incoming.push_back(to.later(5).rest(UDP));
    rig.run();
    let snapshot = rig.check();
    assert_eq!((snapshot.waiting, snapshot.slots.daemon), (0, 0));
    assert_eq!(snapshot.totals.dropped.get(PieceAlone), 6);
}

#[test]
fn the_switch_says_when_a_piece_has_waited_long_enough() {
    let mut rig = rig(Options::default());
    assert_eq!(rig.switch.next_event(), None);
    rig.now = Time(5_000);
    assert_eq!(rig.arrives(&inward("10.0.0.9", "10.0.0.1").later(1).rest(UDP)), []);
    assert_eq!(rig.switch.next_event(), Some(Time(5_000) + SECOND));
    assert_eq!(after(&mut rig, SECOND), [Host]);
    assert_eq!(rig.switch.next_event(), None);
}

#[test]
fn pieces_of_what_is_always_the_kernels_reach_it_at_once() {
    let mut rig = rig(Options::default());
    let to = inward("10.0.0.9", "10.0.0.1");
    assert_eq!(rig.arrives(&to.first(1).udp(67, 68)), [Host], "DHCP");
    assert_eq!(rig.arrives(&to.later(1).rest(UDP)), [Host]);
    assert_eq!(
        rig.arrives(&to.first(2).unreachable(&[0x45; 16])),
        [Host],
        "an error without quote"
    );
    assert_eq!(rig.arrives(&to.later(2).rest(ICMP)), [Host]);
}

#[test]
fn a_client_sends_its_own_first_piece_first() {
    let mut rig = rig(Options::default());
    let from = outward("10.0.0.1", "10.0.0.9");
    assert_eq!(rig.sends(1, &from.first(1).udp(7, 9)), [Wire]);
    assert_eq!(rig.sends(1, &from.later(1).rest(UDP)), [Wire]);
}
