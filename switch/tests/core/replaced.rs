//! Other ports in the place of those that failed: what goes on, what comes back, what does not.

use super::support::frames::{inward, outward};
use super::support::port::{Hand, Script};
use super::support::rig::Fate::{Client, Dropped, Wire};
use super::support::rig::{Options, Rig, mac};
use usnet_switch::classify::Mac;
use usnet_switch::session::InterfaceId;
use usnet_switch::switch::{Event, InterfaceSpec};
use usnet_switch::verdict::DropReason;

const IT: InterfaceId = InterfaceId(0);

fn spec(link: Mac) -> (InterfaceSpec, [Hand; 2]) {
    let ((wire, outside), (host, kernel)) =
        (Script::new("wire0", link), Script::new("host0", link));
    let spec = InterfaceSpec {
        mac: link,
        mtu: 1500,
        addresses: Vec::new(),
        wire,
        host: Some(host),
        behind: usnet_switch::switch::Behind::Kernel,
        cut_through: true,
        kernel_hears: Vec::new(),
        unmatched: usnet_switch::config::Unmatched::Drop,
    };
    (spec, [outside, kernel])
}

fn question() -> Vec<u8> {
    inward("10.0.0.9", "10.0.0.1").udp(9, 7)
}

fn answer() -> Vec<u8> {
    outward("10.0.0.1", "10.0.0.9").udp(7, 9)
}

/// A client that holds a port, whose frames have passed both ways, and a wire that has failed since.
fn failed() -> Rig {
    let mut rig = Rig::with(Options::default());
    rig.attach_plain(1);
    rig.listen(1, "10.0.0.1", 17, 7);
    assert_eq!(rig.sends(1, &answer()), [Wire]);
    rig.wires[0].lock().breaks_receiving = true;
    assert_eq!(rig.arrives(&question()), [Client(1)]);
    assert!(rig.events.iter().any(|event| matches!(event, Event::PortGone { .. })));
    rig
}

fn replace(rig: &mut Rig, link: Mac) {
    let (spec, [outside, kernel]) = spec(link);
    rig.switch.replace_ports(IT, spec).unwrap();
    (rig.wires[0], rig.hosts[0]) = (outside, Some(kernel));
}

#[test]
fn a_session_goes_on_over_the_ports_that_take_over() {
    let mut rig = failed();
    assert_eq!(rig.sends(1, &answer()), [Dropped(DropReason::NoReceiver)]);
    assert!(rig.switch.retire_ports(IT, false).unwrap());
    assert_eq!(rig.switch.descriptors_of(IT).count(), 0);
    replace(&mut rig, mac(0));
    assert_eq!(rig.arrives(&question()), [Client(1)]);
    assert_eq!(rig.sends(1, &answer()), [Wire]);
    let seen = rig.check();
    let wire = &seen.interfaces[0].wire;
    assert!(!wire.gone && seen.interfaces[0].host.as_ref().is_some_and(|host| !host.gone));
    assert_eq!((wire.counters.received, wire.counters.transmitted), (2, 2), "counted on");
}

#[test]
fn ports_of_which_none_has_failed_are_left_alone() {
    let mut rig = failed();
    replace(&mut rig, mac(0));
    // What is said of the second port that failed may come late.
    assert!(!rig.switch.retire_ports(IT, false).unwrap());
    assert_eq!(rig.arrives(&question()), [Client(1)]);
    assert!(rig.switch.retire_ports(InterfaceId(1), false).is_err());
}

#[test]
fn slots_that_wait_for_a_port_or_lie_in_it_are_free_when_it_is_retired() {
    let mut rig = Rig::with(Options::default());
    rig.attach_plain(1);
    let free = rig.check().slots.free;
    // The host port has no room, and the wire port fails meanwhile.
    rig.hosts[0].as_ref().unwrap().lock().room = Some(0);
    rig.wires[0].lock().incoming.extend((0..5).map(|n| inward("10.0.0.9", "10.0.0.1").udp(9, n)));
    rig.run();
    assert_eq!(rig.check().waiting, 5);
    rig.wires[0].lock().breaks_receiving = true;
    rig.wires[0].lock().incoming.push_back(question());
    rig.run();
    assert!(rig.switch.retire_ports(IT, false).unwrap());
    let seen = rig.check();
    assert_eq!((seen.waiting, seen.slots.free), (0, free));
    assert_eq!(rig.dropped(DropReason::NoReceiver), 6);
}

#[test]
fn another_link_address_holds_from_the_first_frame_on() {
    let mut rig = failed();
    replace(&mut rig, Mac([2, 0, 0, 0, 7, 7]));
    // Both were let pass a moment ago, and would be remembered.
    assert_eq!(rig.sends(1, &answer()), [Dropped(DropReason::SpoofedMac)]);
    assert_ne!(rig.arrives(&question()), [Client(1)], "not for this address any more");
    let mut moved = question();
    moved[..6].copy_from_slice(&[2, 0, 0, 0, 7, 7]);
    assert_eq!(rig.arrives(&moved), [Client(1)]);
}
