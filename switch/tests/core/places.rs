//! Interfaces that come and go: what is left of one that went, and what the next of its number knows.

use super::support::frames::{inward, outward};
use super::support::port::Script;
use super::support::rig::Fate::{Client, Dropped, Host, Wire};
use super::support::rig::{Attach, Mode, Options, Rig, mac};
use usnet_switch::session::InterfaceId;
use usnet_switch::switch::{Behind, InterfaceSpec, SwitchError};
use usnet_switch::verdict::DropReason;

fn question(port: u16) -> Vec<u8> {
    inward("10.0.0.9", "10.0.0.1").udp(9, port)
}

/// Two interfaces, a client at each; the second's wire takes nothing more.
fn world() -> Rig {
    let mut rig = Rig::with(Options { interfaces: 2, ..Options::default() });
    rig.attach(&Attach { id: 1, mode: Mode::Shared, ..Attach::default() });
    rig.attach(&Attach { id: 2, interface: 1, mode: Mode::Group(3), ..Attach::default() });
    rig.listen(1, "10.0.0.1", 17, 7);
    rig
}

#[test]
fn what_an_interface_that_goes_has_held_is_free_and_its_sessions_have_ended() {
    let mut rig = world();
    let free = rig.check().slots.free;
    // Lent to its client, and waiting for its wire.
    rig.wires[1].lock().room = Some(0);
    let mut answer = outward("10.0.0.1", "10.0.0.9").udp(7, 9);
    answer[6..12].copy_from_slice(&mac(1).0);
    rig.client(2).send(&answer);
    let mut arp = question(9);
    arp[..6].copy_from_slice(&[0xff; 6]);
    rig.wires[1].lock().incoming.extend((0..3).map(|_| arp.clone()));
    rig.run();
    assert_eq!(rig.check().waiting, 1);
    rig.switch.remove_interface(InterfaceId(1)).unwrap();
    rig.take_events();
    let ended: Vec<u16> = rig.ended().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ended, [2]);
    let seen = rig.check();
    assert_eq!((seen.waiting, seen.interfaces.len()), (0, 1));
    assert_eq!(seen.slots.free, free, "all slots are back");
    assert!(matches!(
        rig.switch.remove_interface(InterfaceId(1)),
        Err(SwitchError::NoInterface(InterfaceId(1)))
    ));
    let attach = Attach { id: 2, interface: 1, ..Attach::default() };
    assert!(matches!(rig.try_attach(&attach), Err(SwitchError::NoInterface(_))));
    // The other one has noticed nothing.
    let _ = rig.drain();
    assert_eq!(rig.arrives(&question(7)), [Client(1)]);
    assert_eq!(rig.sends(1, &outward("10.0.0.1", "10.0.0.9").udp(7, 9)), [Wire]);
}

#[test]
fn the_next_interface_of_a_number_knows_nothing_of_the_one_before() {
    let mut rig = Rig::with(Options::default());
    rig.attach_plain(1);
    rig.listen(1, "10.0.0.1", 17, 7);
    assert_eq!(rig.arrives(&question(7)), [Client(1)]);
    assert_eq!(rig.sends(1, &outward("10.0.0.1", "10.0.0.9").udp(40_000, 9)), [Wire]);
    rig.switch.remove_interface(InterfaceId(0)).unwrap();
    rig.take_events();
    let ((wire, outside), (host, kernel)) =
        (Script::new("wire0", mac(0)), Script::new("host0", mac(0)));
    let spec = || InterfaceSpec {
        mac: mac(0),
        mtu: 1500,
        addresses: vec!["10.0.0.1".parse().unwrap()],
        wire: Script::new("other", mac(0)).0,
        host: None,
        behind: Behind::Kernel,
        cut_through: true,
        kernel_hears: Vec::new(),
        unmatched: usnet_switch::config::Unmatched::Drop,
    };
    let added = rig.switch.add_interface(InterfaceSpec { wire, host: Some(host), ..spec() });
    assert_eq!(added.unwrap(), InterfaceId(0), "the lowest number that is free");
    assert!(matches!(
        rig.switch.add_interface_at(InterfaceId(0), spec()),
        Err(SwitchError::InterfaceNumber(InterfaceId(0)))
    ));
    (rig.wires[0], rig.hosts[0]) = (outside, Some(kernel));
    // A claim, and a flow that was learned and just remembered.
    assert_eq!(rig.arrives(&question(7)), [Host]);
    assert_eq!(rig.arrives(&question(40_000)), [Host]);
    let seen = rig.check();
    assert_eq!((seen.interfaces[0].flows, seen.interfaces[0].clients), (0, 0));
    rig.attach_plain(1);
    assert_eq!(rig.arrives(&question(7)), [Host], "its rules went with it");
    assert_eq!(rig.dropped(DropReason::SessionEnded), 0);
    assert_ne!(rig.arrives(&question(7)), [Dropped(DropReason::NoReceiver)]);
}
