//! How long learned flows are kept: by how far they have come, read from the frames that pass.

use crate::support::frames::*;
use crate::support::rig::Fate::{Client, Dropped, Wire};
use crate::support::rig::{Attach, Rig};
use core::time::Duration;
use usnet_switch::verdict::DropReason::TableFull;

const FIN: u8 = 0x11;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;

/// Of IPv4 without options.
fn flagged(mut frame: Vec<u8>, flags: u8) -> Vec<u8> {
    frame[47] = flags;
    frame
}

fn sent(port: u16, flags: u8) -> Vec<u8> {
    flagged(outward("10.0.0.1", "10.0.0.9").tcp(port, 80), flags)
}

fn answer(port: u16, flags: u8) -> Vec<u8> {
    flagged(inward("10.0.0.9", "10.0.0.1").tcp(80, port), flags)
}

/// A client that may have one flow.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.attach(&Attach { id: 1, quota: 1, ..Attach::default() });
    rig
}

#[test]
fn a_connection_keeps_its_place_until_it_has_ended_and_been_quiet() {
    for last in [FIN, RST] {
        let mut rig = rig();
        assert_eq!(rig.sends(1, &sent(5000, SYN)), [Wire]);
        assert_eq!(rig.arrives(&answer(5000, SYN | ACK)), [Client(1)]);
        for _ in 0..3 {
            // The second and third are remembered.
            assert_eq!(rig.sends(1, &sent(5000, ACK)), [Wire]);
            assert_eq!(rig.arrives(&answer(5000, ACK)), [Client(1)]);
        }
        rig.now = rig.now + Duration::from_secs(3600);
        assert_eq!(rig.sends(1, &sent(5001, SYN)), [Dropped(TableFull)], "it may go on");
        assert_eq!(rig.arrives(&answer(5000, last)), [Client(1)]);
        rig.now = rig.now + Duration::from_secs(59);
        assert_eq!(rig.sends(1, &sent(5001, SYN)), [Dropped(TableFull)], "it has just ended");
        rig.now = rig.now + Duration::from_secs(2);
        assert_eq!(rig.sends(1, &sent(5001, SYN)), [Wire], "{last:#x}");
    }
}

#[test]
fn a_connection_that_nobody_answers_gives_its_place_up_soon() {
    let mut rig = rig();
    assert_eq!(rig.sends(1, &sent(5000, SYN)), [Wire]);
    rig.now = rig.now + Duration::from_secs(59);
    assert_eq!(rig.sends(1, &sent(5001, SYN)), [Dropped(TableFull)]);
    rig.now = rig.now + Duration::from_secs(2);
    assert_eq!(rig.sends(1, &sent(5001, SYN)), [Wire]);
}

#[test]
fn every_frame_of_a_flow_keeps_it_fresh_also_what_is_remembered() {
    let mut rig = rig();
    let ask = outward("10.0.0.1", "10.0.0.9").udp(5000, 53);
    let reply = inward("10.0.0.9", "10.0.0.1").udp(53, 5000);
    assert_eq!(rig.sends(1, &ask), [Wire]);
    for _ in 0..5 {
        rig.now = rig.now + Duration::from_secs(100);
        assert_eq!(rig.arrives(&reply), [Client(1)]);
    }
    rig.now = rig.now + Duration::from_secs(100);
    let other = outward("10.0.0.1", "10.0.0.9").udp(5001, 53);
    assert_eq!(rig.sends(1, &other), [Dropped(TableFull)]);
    rig.now = rig.now + Duration::from_secs(21);
    assert_eq!(rig.sends(1, &other), [Wire]);
}

#[test]
fn an_end_that_was_forged_does_not_end_a_flow() {
    let mut rig = rig();
    assert_eq!(rig.sends(1, &sent(5000, SYN)), [Wire]);
    assert_eq!(rig.sends(1, &sent(5000, ACK)), [Wire]);
    assert_eq!(rig.arrives(&answer(5000, RST)), [Client(1)]);
    for _ in 0..10 {
        rig.now = rig.now + Duration::from_secs(50);
        assert_eq!(rig.arrives(&answer(5000, ACK)), [Client(1)]);
        assert_eq!(rig.sends(1, &sent(5001, SYN)), [Dropped(TableFull)], "it is in use");
    }
}
