//! EAPOL: to the client that is the supplicant, else to the host.

use crate::support::frames::*;
use crate::support::rig::Fate::{Client, Consumed, Dropped, Host, Wire};
use crate::support::rig::{Attach, Options, Rig};
use usnet_shmring::ledger::SessionId;
use usnet_switch::classify::Mac;
use usnet_switch::session::May;
use usnet_switch::verdict::DropReason::{NotPermitted, SpoofedMac, ToSelf, Vlan};

const AUTHENTICATORS: Mac = Mac([0x01, 0x80, 0xc2, 0, 0, 0x03]);
const START: &[u8] = &[2, 1, 0, 0];
const LOGOFF: &[u8] = &[2, 2, 0, 0];
const KEY: &[u8] = &[2, 3, 0, 1, 2];
const ANNOUNCEMENT: &[u8] = &[3, 6, 0, 0];
const REQUEST: &[u8] = &[2, 0, 0, 5, 1, 9, 0, 5, 1];
const RESPONSE: &[u8] = &[2, 0, 0, 5, 2, 9, 0, 5, 1];

fn said(to: Mac, from: Mac, what: &[u8]) -> Vec<u8> {
    ethernet(to, from, 0x888e, &[what, &[0; 40]].concat())
}

fn attach(rig: &mut Rig, id: u16, eapol: bool) {
    let may = May { eapol, ..May::default() };
    rig.attach(&Attach { id, may, ..Attach::default() });
}

/// Clients 1 and 2 may speak, 3 may not.
fn rig() -> Rig {
    let mut rig = Rig::new();
    for (id, eapol) in [(1, true), (2, true), (3, false)] {
        attach(&mut rig, id, eapol);
    }
    rig
}

#[test]
fn the_first_client_that_speaks_is_the_supplicant_until_it_ends() {
    let mut rig = rig();
    let start = said(AUTHENTICATORS, OURS, START);
    let requests = [OURS, AUTHENTICATORS].map(|to| said(to, PEER, REQUEST));
    let arrive = |rig: &mut Rig, whose| {
        requests.iter().for_each(|request| assert_eq!(rig.arrives(request), [whose]));
    };
    arrive(&mut rig, Host);
    assert_eq!(rig.sends(1, &start), [Wire], "and no other client hears it");
    arrive(&mut rig, Client(1));
    for what in [START, RESPONSE, KEY, LOGOFF] {
        for to in [AUTHENTICATORS, PEER] {
            assert_eq!(rig.sends(2, &said(to, OURS, what)), [Dropped(NotPermitted)], "taken");
            assert_eq!(rig.sends(1, &said(to, OURS, what)), [Wire]);
        }
    }
    assert_eq!(rig.sends(1, &said(OURS, OURS, RESPONSE)), [Dropped(ToSelf)]);
    rig.switch.detach(SessionId(1));
    rig.run();
    arrive(&mut rig, Host);
    assert_eq!(rig.sends(2, &start), [Wire]);
    arrive(&mut rig, Client(2));
    // What the kernel says goes out all the same.
    assert_eq!(rig.host_sends(&start), [Wire]);
}

#[test]
fn what_no_supplicant_says_is_refused_and_makes_nobody_one() {
    let mut rig = rig();
    let refused = [
        ("by whom no policy lets", 3, said(AUTHENTICATORS, OURS, START), NotPermitted),
        ("an authenticator's request", 1, said(PEER, OURS, REQUEST), NotPermitted),
        ("another kind", 1, said(PEER, OURS, ANNOUNCEMENT), NotPermitted),
        ("to all", 1, said(BROADCAST, OURS, START), NotPermitted),
        ("to another group", 1, said(Mac([1, 0x80, 0xc2, 0, 0, 0]), OURS, START), NotPermitted),
        ("from another link address", 1, said(AUTHENTICATORS, PEER, START), SpoofedMac),
        ("tagged", 1, tagged(&said(AUTHENTICATORS, OURS, START), 7), Vlan),
        ("priority-tagged", 1, tagged(&said(AUTHENTICATORS, OURS, START), 0), NotPermitted),
        ("cut", 1, ethernet(PEER, OURS, 0x888e, &[2]), NotPermitted),
    ];
    for (what, id, frame, why) in refused {
        assert_eq!(rig.sends(id, &frame), [Dropped(why)], "{what}");
    }
    assert_eq!(rig.arrives(&said(OURS, PEER, REQUEST)), [Host]);
}

#[test]
fn what_the_kernel_has_heard_by_itself_it_does_not_get_again() {
    let mut rig = Rig::with(Options { host_sees_arp: true, ..Options::default() });
    attach(&mut rig, 1, true);
    let request = said(OURS, PEER, REQUEST);
    assert_eq!(rig.arrives(&request), [Consumed]);
    assert_eq!(rig.sends(1, &said(AUTHENTICATORS, OURS, START)), [Wire]);
    assert_eq!(rig.arrives(&request), [Client(1)]);
}
