//! What clients of a trust group send, from their own slots: the head that was judged from a slot of the daemon, the
//! rest as a second piece. The kernel of a veth copies both; which bytes it takes from where is the same.

use crate::isolated::two_hosts;
use crate::support::frames::{From, UDP, outward};
use crate::support::rig::{Attach, Mode, Options, Rig};
use crate::{mac_of, spec, with_xdp};
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};
use usnet_shmring::descriptor::RawDescriptor;
use usnet_switch::net::namespace::Namespace;
use usnet_switch::net::{InterfaceAddress, Netlink};
use usnet_switch::port::af_xdp::{AfXdp, AfXdpSpec};

/// Payload of a frame that fills the MTU.
const FULL: usize = 1472;
/// Shorter frames are copied (`SPLIT_FROM`).
const LONG: usize = 512;

/// A switch over one end of a veth, with client 3, who may send from port 3.
fn rig(as_zero_copy: bool, mode: Mode) -> Rig {
    let mut rig =
        Rig::in_memory(Options { host: false, ..Options::default() }, true, |place, _| {
            let groups = vec![Arc::clone(place.clients.segment())];
            let spec = AfXdpSpec { groups, as_zero_copy, ..spec("sv0") };
            (Box::new(AfXdp::open(&spec, &place.port).unwrap()), None)
        });
    rig.attach(&Attach { id: 3, mode, ..Attach::default() });
    rig.listen(3, "10.0.0.1", UDP, 3);
    rig
}

/// The other end's socket, and frames to it.
fn outside() -> (Namespace, UdpSocket, From) {
    let peer = two_hosts();
    let socket = peer.run(|| {
        let address = InterfaceAddress::new("10.0.0.9".parse().unwrap(), 24);
        Netlink::open().unwrap().add_address("pv0", address).unwrap();
        UdpSocket::bind("10.0.0.9:7000").unwrap()
    });
    let socket = socket.unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20).unwrap();
    let to = outward("10.0.0.1", "10.0.0.9").to_link(mac_of(&peer, "pv0"));
    (peer, socket, to)
}

fn text(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 7 + number) % 251).unwrap()).collect()
}

/// A datagram whose IP header a kernel believes.
fn datagram(to: &From, text: &[u8]) -> Vec<u8> {
    let mut frame = to.udp_with(3, 7000, text);
    let words = frame[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum = words.sum::<u32>();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The next datagram that arrives while the switch runs: its ring has not room for all.
fn hear(rig: &mut Rig, socket: &UdpSocket, into: &mut [u8]) -> usize {
    socket.set_nonblocking(true).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        rig.now = rig.now + Duration::from_millis(2);
        rig.run();
        match socket.recv(into) {
            Ok(length) => return length,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    }
}

/// Runs the switch until all of the client's slots are back.
fn until_all_are_back(rig: &mut Rig) {
    let end = Instant::now() + Duration::from_secs(20);
    while rig.check().slots.taken > 0 {
        assert!(Instant::now() < end, "{:?}", rig.check().slots);
        rig.now = rig.now + Duration::from_millis(2);
        rig.run();
    }
}

#[test]
fn long_frames_of_a_group_leave_in_two_pieces_as_they_were_given() {
    with_xdp(name!("long_frames_of_a_group_leave_in_two_pieces_as_they_were_given"), || {
        let (_peer, socket, to) = outside();
        let mut rig = rig(true, Mode::Group(1));
        // Below and above what is split, at all places in a slot.
        let (mut long, mut bytes) = (0, [0; 2048]);
        for number in 0..400 {
            let length = if number % 3 == 0 { 18 + number % 400 } else { FULL - number % 300 };
            let text = text(number, length);
            let frame = datagram(&to, &text);
            long += u64::from(frame.len() >= LONG);
            let client = rig.client(3);
            let slot = client.free.pop().unwrap();
            let offset = u16::try_from(number * 13 % 500).unwrap();
            client.transmit.write(slot, offset, &frame);
            client.send_raw(RawDescriptor::new(slot, offset, u16::try_from(frame.len()).unwrap()));
            let received = hear(&mut rig, &socket, &mut bytes);
            assert!(bytes[..received] == text[..], "frame {number}, {length} bytes, at {offset}");
            until_all_are_back(&mut rig);
            let _ = rig.client(3).collect();
        }
        let counters = rig.check().interfaces[0].wire.counters;
        assert_eq!((counters.split, counters.transmit_errors), (long, 0));
        assert_eq!(rig.switch.close().audit().0.taken, 0);
    });
}

#[test]
fn a_full_burst_of_split_frames_arrives_and_its_slots_come_back_once_each() {
    with_xdp(
        name!("a_full_burst_of_split_frames_arrives_and_its_slots_come_back_once_each"),
        || {
            let (_peer, socket, to) = outside();
            let mut rig = rig(true, Mode::Group(1));
            let mut bytes = [0; 2048];
            for lap in 0..20 {
                let mut slots: Vec<u32> = (0..60)
                    .map(|n| rig.client(3).send(&datagram(&to, &text(lap * 60 + n, FULL))))
                    .collect();
                for number in 0..60 {
                    let received = hear(&mut rig, &socket, &mut bytes);
                    assert!(bytes[..received] == text(lap * 60 + number, FULL)[..]);
                }
                until_all_are_back(&mut rig);
                let mut back: Vec<u32> = rig.client(3).collect().into_iter().collect();
                back.sort_unstable();
                slots.sort_unstable();
                assert_eq!(back, slots);
            }
            assert_eq!(rig.check().interfaces[0].wire.counters.split, 20 * 60);
        },
    );
}

#[test]
fn where_the_kernel_copies_all_is_sent_from_the_daemons_slots() {
    with_xdp(name!("where_the_kernel_copies_all_is_sent_from_the_daemons_slots"), || {
        let (_peer, socket, to) = outside();
        let mut bytes = [0; 2048];
        let mut rig = rig(false, Mode::Group(1));
        rig.client(3).send(&datagram(&to, &text(1, FULL)));
        let received = hear(&mut rig, &socket, &mut bytes);
        assert!(bytes[..received] == text(1, FULL)[..]);
        let counters = rig.check().interfaces[0].wire.counters;
        assert_eq!((counters.split, counters.transmitted), (0, 1));
    });
}
