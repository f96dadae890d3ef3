//! Memory as a client will find it.

use super::*;
use bytemuck::Zeroable;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use usnet_shmring::control::Attached;
use usnet_shmring::layout::VERSION;
use usnet_shmring::view::View;

fn memory() -> Memory {
    let config = config::Memory {
        slot_size: SlotSize::DEFAULT,
        port_slots: 1024,
        group_slots: 1024,
        arena_slots: 16 * SEGMENT_SLOTS,
        huge_pages: false,
    };
    Memory::new(&config, 1).unwrap().0
}

fn shape(transmit_slots: u32, receive_slots: u32) -> Shape {
    Shape { pairs: 1, ring_capacity: 512, transmit_slots, receive_slots }
}

/// The part of the only worker.
fn only(parts: Vec<WorkerShare>) -> WorkerShare {
    <[WorkerShare; 1]>::try_from(parts).unwrap().into_iter().next().unwrap()
}

/// Maps the client's part as a client does.
fn views(memory: &Memory, share: &ClientShare, pairs: u16) -> Vec<View> {
    let mut attached = Attached::zeroed();
    attached.version = VERSION;
    attached.ring_capacity = 512;
    attached.slot_size = memory.slot_size().bytes();
    (attached.inbound_size, attached.outbound_size) = (share.inbound_size, share.outbound_size);
    (attached.segments, attached.pairs) = (share.segments, pairs);
    let copies = share.descriptors().iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
    View::map(&attached, copies).unwrap().0
}

#[test]
fn a_wish_is_cut_to_the_quota_and_to_powers_of_two() {
    let quota = Quota { sessions: 1, ports: 1, ring_capacity: 2048, slots: 1, flows: 1 };
    let wish = |ring_capacity, transmit_slots, receive_slots| Attach {
        ring_capacity,
        transmit_slots,
        receive_slots,
        ..Attach::zeroed()
    };
    let grant = |ring, transmit, receive, mode| {
        let shape = Shape::grant(&wish(ring, transmit, receive), &quota, mode, 1);
        (shape.ring_capacity, shape.transmit_slots, shape.receive_slots)
    };
    assert_eq!(grant(0, 0, 0, Sharing::Isolated), (1024, 1024, 1024));
    assert_eq!(grant(u32::MAX, u32::MAX, u32::MAX, Sharing::Isolated), (2048, 2048, 2048));
    assert_eq!(grant(1000, 600, 7, Sharing::Isolated), (512, 512, 7));
    assert_eq!(grant(1, 1, 1, Sharing::Shared), (2, 1, 0));
    assert_eq!(Shape::grant(&wish(0, 0, 0), &quota, Sharing::Isolated, 1).cost(), 2048);
    assert_eq!(Shape::grant(&wish(0, 9, 0), &quota, Sharing::Shared, 1).cost(), 9);
}

#[test]
fn a_client_can_map_what_an_isolated_session_is_made_of() {
    let mut memory = memory();
    let (worker, client) = memory.build(shape(100, 200), None).unwrap();
    let worker = only(worker);
    assert_eq!((worker.transmit.count(), worker.receive.as_ref().unwrap().count()), (100, 200));
    assert_eq!(worker.group, None);
    assert_eq!(client.descriptors().len(), 6);
    let access: Vec<_> = client.segments.iter().map(|s| (s.access, s.count)).collect();
    assert_eq!(access, [(1, 100), (2, 200), (0, 0), (0, 0)]);
    views(&memory, &client, 1);
}

#[test]
fn each_worker_gets_its_share_of_the_slots_and_the_client_a_view_of_each_pair() {
    let mut memory = memory();
    let shape = Shape { pairs: 3, ..shape(100, 200) };
    assert_eq!(shape.cost(), 2 * SEGMENT_SLOTS);
    let (mut workers, client) = memory.build(shape, None).unwrap();
    let ranges = |of: fn(&WorkerShare) -> &SlotRange| -> Vec<(u32, u32)> {
        let first = of(&workers[0]).first();
        workers.iter().map(|w| (of(w).first() - first, of(w).count())).collect()
    };
    assert_eq!(ranges(|w| &w.transmit), [(0, 100), (100, 100), (200, 100)]);
    assert_eq!(ranges(|w| w.receive.as_ref().unwrap()), [(0, 200), (200, 200), (400, 200)]);
    let access: Vec<_> = client.segments.iter().map(|s| (s.access, s.count)).collect();
    assert_eq!(access, [(1, 300), (2, 600), (0, 0), (0, 0)]);
    assert_eq!(client.descriptors().len(), 6, "as many as with one worker");
    let views = views(&memory, &client, 3);
    assert!(views.iter().all(|view| view.transmitter.slots() == 100));
    // What is sent on a pair arrives at that pair's worker, in a slot of its share, and nowhere else.
    for (index, mut view) in views.into_iter().enumerate() {
        view.transmitter.next().unwrap().send(60).unwrap();
        view.transmitter.publish();
        for (other, worker) in workers.iter_mut().enumerate() {
            let waiting = worker.queues.tx.refresh().unwrap();
            assert_eq!(waiting, u32::from(other == index), "{index} {other}");
        }
        let sent = workers[index].queues.tx.pop().unwrap().slot();
        let share = &workers[index].transmit;
        assert!((share.first()..share.first() + share.count()).contains(&sent));
    }
}

#[test]
fn members_of_a_group_share_one_segment_and_the_ports_slots() {
    let mut memory = memory();
    let (a, a_client) = memory.build(shape(500, 0), Some("g")).unwrap();
    let a = only(a);
    let (b, b_client) = memory.build(shape(500, 0), Some("g")).unwrap();
    let b = only(b);
    let (c, _) = memory.build(shape(500, 0), Some("other")).unwrap();
    let c = only(c);
    assert!(Arc::ptr_eq(a.transmit.segment(), b.transmit.segment()));
    assert_eq!((a.group, b.group, c.group), (Some(GroupId(0)), Some(GroupId(0)), Some(GroupId(1))));
    assert_eq!(b_client.segments[0].offset, 500 * 2048);
    assert_eq!(b_client.descriptors().len(), 6, "own and group slots lie in one memfd");
    for client in [&a_client, &b_client] {
        let access: Vec<_> = client.segments.iter().map(|s| (s.access, s.count)).collect();
        assert_eq!(access, [(1, 500), (3, 1024), (2, 1024), (0, 0)]);
        views(&memory, client, 1);
    }
    let full = memory.build(shape(100, 0), Some("g")).unwrap_err();
    assert!(matches!(full, MemoryError::GroupFull { slots: 100, .. }), "{full}");
}

#[test]
fn a_range_that_comes_back_is_zeroed_and_whole_again() {
    let mut memory = memory();
    let (a, _) = memory.build(shape(400, 0), Some("g")).unwrap();
    let a = only(a);
    let (b, b_client) = memory.build(shape(400, 0), Some("g")).unwrap();
    let b = only(b);
    let (first, offset) = (b.transmit.first(), b.transmit.offset());
    let memfd = b_client.descriptors()[4].try_clone_to_owned().unwrap();
    rustix::io::pwrite(&memfd, b"secret", offset).unwrap();
    let (WorkerShare { transmit: a, .. }, WorkerShare { transmit: b, .. }) = (a, b);
    memory.take_back(vec![b]);
    let mut seen = [1; 6];
    rustix::io::pread(&memfd, &mut seen, offset).unwrap();
    assert_eq!(seen, [0; 6]);
    // 400 and the 224 that nobody had are one range again.
    let (c, _) = memory.build(shape(512, 0), Some("g")).unwrap();
    let c = only(c);
    assert_eq!(c.transmit.first(), first);
    memory.take_back(vec![a, c.transmit]);
    assert!(memory.groups[0].is_none(), "a group without sessions has no memory");
}

#[test]
fn a_wake_socket_carries_wake_ups_and_nothing_back() {
    let (daemon, client) = wake_socket().unwrap();
    let back = rustix::net::send(&client, b"x", SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    assert_eq!(back, Err(Errno::PIPE));
    // A client that never reads costs a bounded amount and never makes the daemon wait.
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = (0..10_000).take_while(|_| rustix::net::send(&daemon, b"x", flags).is_ok()).count();
    assert!((1..1000).contains(&sent), "{sent}");
    assert_eq!(rustix::net::recv(&client, &mut [0; 4096], RecvFlags::DONTWAIT).unwrap().0, sent);
}
