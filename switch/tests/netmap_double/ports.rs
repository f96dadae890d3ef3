//! What ports there are, and how they open, close and fail.

use super::*;
use std::os::unix::net::UnixDatagram;
use usnet_switch::port::netmap::double::FdMedium;

#[test]
fn pipes_hand_over_slots_unchecked_and_share_a_region_of_their_own() {
    let double = Double::new().unwrap();
    let (a, b) = (open(&double, "x{1", mode::ALL_NIC), open(&double, "x}1", mode::ALL_NIC));
    assert_eq!(a.body.memory_id, b.body.memory_id);
    assert_ne!(a.body.memory_id, 1);
    assert_eq!((a.body.host_tx_rings, a.word(a.body.offset + 36)), (0, 1), "told and tabled");
    assert_eq!(a.entry(1), 0, "the host ring cannot be bound");
    let (tx, rx) = (a.ring(0), b.ring(2));
    let (own, ..) = a.slot(tx, 0);
    assert_eq!(b.slot(rx, 0).0, own, "one buffer in both ends' slots");
    assert!(!b.is_ready());
    a.set_slot(tx, 0, 99_999_999, 5000, BUF_CHANGED);
    a.put(tx, 1, &frame(3), 0);
    a.advance(tx, 2);
    a.sync(Direction::Transmit);
    assert!(b.is_ready());
    b.sync(Direction::Receive);
    assert_eq!(b.slot(rx, 0), (99_999_999, 5000, BUF_CHANGED));
    assert_eq!(b.frame(rx, 1), frame(3));
    // Given back with the right buffer, flagged: the peer hears of it.
    b.set_slot(rx, 0, own, 60, BUF_CHANGED);
    b.advance(rx, 2);
    b.sync(Direction::Receive);
    assert_eq!(a.slot(tx, 0), (own, 60, BUF_CHANGED));
    a.sync(Direction::Transmit);
    assert_eq!(a.positions(tx), (2, 2, 1));
    let id = a.body.memory_id;
    drop((a, b));
    assert_eq!((double.leaks(id), double.double_frees(id)), (0, 0));
}

#[test]
fn frames_sent_before_the_other_end_was_opened_wake_it() {
    let double = Double::new().unwrap();
    let a = open(&double, "x{1", mode::ALL_NIC);
    a.put(a.ring(0), 0, &frame(1), 0);
    a.advance(a.ring(0), 1);
    a.sync(Direction::Transmit);
    let b = open(&double, "x}1", mode::ALL_NIC);
    assert!(b.is_ready());
    b.sync(Direction::Receive);
    assert_eq!(b.frame(b.ring(2), 0), frame(1));
}

#[test]
fn a_pipe_closed_with_frames_in_it_frees_each_buffer_once() {
    let double = Double::new().unwrap();
    let (a, b) = (open(&double, "x{1", mode::ALL_NIC), open(&double, "x}1", mode::ALL_NIC));
    a.advance(a.ring(0), 20);
    a.sync(Direction::Transmit);
    b.sync(Direction::Receive);
    b.advance(b.ring(2), 5);
    b.sync(Direction::Receive);
    let id = a.body.memory_id;
    drop((a, b));
    assert_eq!((double.leaks(id), double.double_frees(id)), (0, 0));
}

#[test]
fn a_native_veth_is_a_pipe_and_hides_the_peers_kernel() {
    let double = Double::new().unwrap();
    let ((one, mut first), (two, mut second)) = (queue_pair(8).unwrap(), queue_pair(8).unwrap());
    double
        .add_veth(VethSpec {
            names: ["v0".into(), "v1".into()],
            rings: 2,
            slots: 64,
            hosts: [Some(Box::new(one)), Some(Box::new(two))],
            mtu: 1500,
        })
        .unwrap();
    assert!(first.send(&frame(1)));
    double.pump();
    assert_eq!(next(&mut second), Some(frame(1)));
    let a = open(&double, "v0", mode::NIC_SW);
    assert!(second.send(&frame(2)));
    double.pump();
    a.sync(Direction::Receive);
    assert_eq!(a.positions(a.ring(3)), (0, 0, 0), "what the peer's kernel sends never arrives");
    assert_eq!(double.nic_counters("v1").unwrap().lost, 1);
    let b = open(&double, "v1", mode::ALL_NIC);
    a.put(a.ring(1), 0, &frame(3), 0);
    a.advance(a.ring(1), 1);
    a.sync(Direction::Transmit);
    b.sync(Direction::Receive);
    assert_eq!(b.frame(b.ring(4), 0), frame(3));
    drop((a, b));
    assert_eq!((double.leaks(1), double.double_frees(1)), (0, 0));
    assert!(first.send(&frame(4)));
    double.pump();
    assert_eq!(next(&mut second), Some(frame(4)));
}

#[test]
fn switch_ports_learn_where_addresses_are() {
    let double = Double::new().unwrap();
    let ports = ["vale0:a", "vale0:b", "vale0:c"].map(|name| open(&double, name, mode::ALL_NIC));
    let [a, b, c] = &ports;
    assert_ne!(a.body.memory_id, b.body.memory_id);
    let to = |to: u8, from: u8| [vec![to; 6], vec![from; 6], vec![0; 48]].concat();
    a.put(a.ring(0), 0, &to(2, 1), 0);
    a.advance(a.ring(0), 1);
    a.sync(Direction::Transmit);
    b.put(b.ring(0), 0, &to(1, 2), 0);
    b.advance(b.ring(0), 1);
    b.sync(Direction::Transmit);
    for port in &ports {
        port.sync(Direction::Receive);
    }
    assert_eq!(a.frame(a.ring(2), 0), to(1, 2));
    assert_eq!(b.positions(b.ring(2)).2, 1, "flooded");
    assert_eq!(c.positions(c.ring(2)).2, 1, "flooded, and not the answer");
}

#[test]
fn opening_cuts_the_kernels_path_and_closing_restores_it() {
    let (double, mut far, mut stack) = machine(|_| ());
    let both_ways = |far: &mut QueueMedium, stack: &mut QueueMedium| {
        assert!(far.send(&frame(1)) && stack.send(&frame(2)));
        double.pump();
        (next(stack), next(far))
    };
    let through = (Some(frame(1)), Some(frame(2)));
    assert_eq!(both_ways(&mut far, &mut stack), through);
    let port = open(&double, "eth0", mode::ALL_NIC);
    assert!(double.is_open("eth0"));
    assert_eq!(both_ways(&mut far, &mut stack), (None, None));
    port.sync(Direction::Receive);
    assert_eq!(port.frame(port.ring(2), 0), frame(1));
    drop(port);
    assert_eq!(both_ways(&mut far, &mut stack), through);
    assert_eq!((double.leaks(1), double.double_frees(1)), (0, 0));
}

#[test]
fn host_rings_fill_only_while_the_card_is_open() {
    let (double, mut far, mut stack) = machine(|_| ());
    let host = open(&double, "eth0", mode::SW);
    let (tx, rx) = (host.ring(1), host.ring(3));
    assert!(stack.send(&frame(1)));
    host.sync(Direction::Receive);
    assert_eq!(host.positions(rx), (0, 0, 0));
    double.pump();
    assert_eq!(next(&mut far), Some(frame(1)), "the kernel's path goes on");

    let card = open(&double, "eth0", mode::ALL_NIC);
    assert!(stack.send(&frame(2)));
    assert!(host.is_ready());
    host.sync(Direction::Receive);
    assert_eq!((host.positions(rx), host.frame(rx, 0)), ((0, 0, 1), frame(2)));
    host.put(tx, 0, &frame(3), 0);
    host.put(tx, 1, &frame(4)[..13], 0);
    host.advance(tx, 2);
    host.sync(Direction::Transmit);
    assert_eq!(host.positions(tx), (2, 2, 1), "complete at once");
    assert_eq!((next(&mut stack), next(&mut stack)), (Some(frame(3)), None), "13 bytes are lost");
    drop(card);
}

#[test]
fn errors_have_the_modules_numbers() {
    let (double, ..) = machine(|_| ());
    let refused = |name: &str, body: Register| register(&double, name, body).err().unwrap();
    let body = Register { mode: mode::ALL_NIC, ..Register::default() };
    assert_eq!(refused("eth9", body), Errno::NXIO);
    assert_eq!(refused("eth0", Register { mode: 0, ..body }), Errno::INVAL);
    assert_eq!(refused("eth0", Register { mode: 9, ..body }), Errno::INVAL);
    assert_eq!(refused("eth0", Register { mode: mode::ONE_NIC, ring_id: 1, ..body }), Errno::INVAL);
    assert_eq!(refused("x{1", Register { mode: mode::SW, ..body }), Errno::INVAL);
    assert_eq!(refused("eth0", Register { memory_id: 9, ..body }), Errno::INVAL);

    let device = double.open().unwrap();
    assert!(is_readable(device.readiness()), "in error before it is bound");
    assert_eq!(errno(&device.sync(Direction::Receive).unwrap_err()), Errno::NXIO);
    let exclusive = Register { flags: flag::EXCLUSIVE, ..body };
    let held = register(&double, "eth0", exclusive).unwrap();
    assert_eq!(refused("eth0", body), Errno::BUSY);
    let mut again = body;
    let request = Control::Register { body: &mut again, extmem: None, offsets: None };
    assert_eq!(errno(&held.device.control("eth0", request).unwrap_err()), Errno::BUSY);
    let host = open(&double, "eth0", mode::SW);
    drop(held);
    let plain = register(&double, "eth0", body).unwrap();
    assert_eq!(refused("eth0", exclusive), Errno::BUSY);
    drop((plain, host));

    double.set_mtu("eth0", 9000).unwrap();
    assert_eq!(refused("eth0", body), Errno::INVAL, "a frame would not fit a buffer");
    double.set_mtu("eth0", 1500).unwrap();
    let _open = open(&double, "eth0", mode::ALL_NIC);
    assert_eq!(double.set_mtu("eth0", 9000).map_err(|e| errno(&e)), Err(Errno::INVAL));

    let small = Pools { buffer_total: 300, ..Pools::default() };
    let double = Double::with(MachineSpec { pools: small, extmem: true }).unwrap();
    double.add_nic(NicSpec::new("eth0", Box::new(Generator::new(&[]).unwrap()))).unwrap();
    assert_eq!(register(&double, "eth0", body).err(), Some(Errno::NOMEM));
    let region = double.region(1).unwrap();
    assert_eq!((region.free_buffers, region.leaked_now, region.users), (298, 0, 0));
}

#[test]
fn a_removed_interface_is_an_error_at_the_next_sync() {
    let (double, ..) = machine(|_| ());
    let port = open(&double, "eth0", mode::ALL_NIC);
    double.remove("eth0").unwrap();
    assert!(port.is_ready());
    for direction in [Direction::Receive, Direction::Transmit] {
        assert_eq!(errno(&port.device.sync(direction).unwrap_err()), Errno::IO);
    }
    assert!(port.is_ready());
    assert_eq!(port.word(port.body.offset + 24), 1, "the memory stays");
    drop(port);
    assert_eq!((double.is_open("eth0"), double.region(1).unwrap().users), (false, 0));
}

#[test]
fn a_thread_pumps_frames_of_descriptors_until_it_is_dropped() {
    let double = Double::new().unwrap();
    let ((wire, far), (host, stack)) =
        (UnixDatagram::pair().unwrap(), UnixDatagram::pair().unwrap());
    let medium = |socket: UnixDatagram| Box::new(FdMedium::new(socket.into()).unwrap());
    double.add_nic(NicSpec::new("eth0", medium(wire)).with_host(medium(host))).unwrap();
    let pump = double.run().unwrap();
    // Only so that a failure ends.
    stack.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    far.send(&frame(1)).unwrap();
    let mut bytes = [0; 100];
    assert_eq!(stack.recv(&mut bytes).unwrap(), 60);
    drop(pump);
    far.send(&frame(2)).unwrap();
    let port = open(&double, "eth0", mode::ALL_NIC);
    assert!(port.is_ready());
    port.sync(Direction::Receive);
    assert_eq!(port.frame(port.ring(2), 0), frame(2));
}

#[test]
fn a_generator_fills_every_slot_and_swallows_what_is_sent() {
    let double = Double::new().unwrap();
    let generator = Generator::new(&frame(6)).unwrap();
    double.add_nic(NicSpec::new("eth0", Box::new(generator))).unwrap();
    let port = open(&double, "eth0", mode::ALL_NIC);
    port.sync(Direction::Receive);
    assert_eq!(port.positions(port.ring(2)), (0, 0, 255));
    assert_eq!(port.frame(port.ring(2), 254), frame(6));
    port.advance(port.ring(0), 255);
    port.sync(Direction::Transmit);
    assert_eq!(port.positions(port.ring(0)), (255, 255, 254));
    assert_eq!(double.nic_counters("eth0").unwrap().transmitted, 255);
}
