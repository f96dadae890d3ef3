//! Attaching, and frames on the rings, against a daemon in miniature.

mod common;

use common::{Fake, SLOTS, pair, within};
use rustix::net::{SendFlags, SocketType};
use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::time::Duration;
use usnet::{AttachError, Claim, FrameError, Mode, Options, RefusalCode, RequestError, Session};
use usnet_shmring::control::{Message, SegmentAccess};
use usnet_shmring::descriptor::{Fault, RawDescriptor, RingName};
use usnet_shmring::ledger::SessionId;
use usnet_shmring::region::{Region, RegionError, Writer};
use usnet_shmring::view::ViewError;

#[test]
fn a_session_tells_what_was_granted() {
    let mut fake = Fake::new();
    let session = fake.attach();
    assert_eq!(session.number(), 1);
    assert_eq!(session.mac(), [2, 0, 0, 0, 0, 1]);
    assert_eq!(session.mtu(), 1500);
    assert_eq!(session.mode(), Mode::Isolated);
    let addresses: Vec<_> = session.addresses().collect();
    let v6: IpAddr = "fd07::1".parse().unwrap();
    assert_eq!(addresses, [IpAddr::V4(Ipv4Addr::new(10, 7, 0, 1)), v6]);
}

#[test]
fn a_missing_socket_is_named_with_the_way_out() {
    let options = Options { socket: "/nonexistent/usnetd.sock".into(), ..Options::default() };
    let error = Session::attach(options).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("/nonexistent/usnetd.sock"), "{text}");
    assert!(text.contains("usnetd run"), "{text}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_refusal_carries_the_words_of_the_daemon() {
    let (daemon, client) = pair(SocketType::SEQPACKET);
    let daemon = usnet_shmring::control::Channel::from(daemon);
    let no = Message::refused(RefusalCode::NotPermitted, "user 1000 may not attach");
    daemon.send(1, &no, &[], SendFlags::empty()).unwrap();
    let error = Session::attach_over(client.into(), Options::default()).unwrap_err();
    assert!(error.to_string().contains("user 1000 may not attach"), "{error}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn a_daemon_that_hangs_up_is_reported() {
    let (daemon, client) = pair(SocketType::SEQPACKET);
    drop(daemon);
    let error = Session::attach_over(client.into(), Options::default()).unwrap_err();
    assert!(matches!(error, AttachError::Channel { .. }), "{error}");
}

#[test]
fn a_daemon_that_stays_silent_is_reported() {
    let (_daemon, client) = pair(SocketType::SEQPACKET);
    let options = Options { patience: Duration::from_millis(20), ..Options::default() };
    let error = Session::attach_over(client.into(), options).unwrap_err();
    assert!(error.to_string().contains("no answer in time"), "{error}");
}

#[test]
fn another_version_is_named() {
    let mut fake = Fake::new();
    let mut answer = fake.prepare();
    answer.attached.version += 1;
    let error = fake.answer(answer).unwrap_err();
    assert!(matches!(error, AttachError::Version { .. }), "{error}");
}

/// Attaches with an answer that `spoil` has changed, and returns why that failed.
fn spoiled(spoil: impl FnOnce(&mut common::Answer)) -> ViewError {
    let mut fake = Fake::new();
    let mut answer = fake.prepare();
    spoil(&mut answer);
    match fake.answer(answer) {
        Err(AttachError::Memory { source, .. }) => source,
        Err(other) => panic!("failed for another reason: {other}"),
        Ok(_) => panic!("a spoiled answer was taken"),
    }
}

fn is_seals(error: &ViewError) -> bool {
    matches!(
        error,
        ViewError::Map { source: RegionError::Unexpected { what: "set of seals", .. }, .. }
    )
}

#[test]
fn regions_without_their_seals_are_refused() {
    // A region that the client may write has no FUTURE_WRITE: as the inbound one it is refused.
    let error = spoiled(|a| a.descriptors.swap(0, 1));
    assert!(is_seals(&error), "{error}");
    let error = spoiled(|a| {
        let fd = rustix::fs::memfd_create("bare", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, a.attached.outbound_size).unwrap();
        a.descriptors[1] = fd;
    });
    assert!(is_seals(&error), "{error}");
}

#[test]
fn segments_without_their_seals_are_refused() {
    let error = spoiled(|a| a.attached.segments[1].descriptor = 4);
    assert!(is_seals(&error), "a receive segment that clients can write: {error}");
}

#[test]
fn regions_and_segments_that_are_too_small_are_refused() {
    let small = |error: &ViewError| {
        matches!(error, ViewError::Map { source: RegionError::Unexpected { what: "size", .. }, .. })
    };
    let error =
        spoiled(|a| a.descriptors[0] = Region::create(Writer::Daemon, 1, 2, 2048).unwrap().1);
    assert!(small(&error), "{error}");
    let error = spoiled(|a| a.attached.segments[1].count += 1);
    assert!(small(&error), "{error}");
    let error = spoiled(|a| a.attached.segments[0].offset += 1);
    assert!(small(&error), "{error}");
}

#[test]
fn contradictory_answers_are_refused() {
    let nonsense = |spoil: fn(&mut common::Answer)| {
        let error = spoiled(spoil);
        assert!(matches!(error, ViewError::Nonsense { .. }), "{error}");
    };
    nonsense(|a| a.attached.ring_capacity = 1000);
    nonsense(|a| a.attached.slot_size = 2047);
    nonsense(|a| a.attached.ring_capacity *= 2);
    nonsense(|a| a.attached.segments[0].access = 9);
    nonsense(|a| a.attached.segments[0].access = SegmentAccess::Group as u32);
    nonsense(|a| a.attached.segments[1].first = u32::MAX);
    nonsense(|a| a.attached.segments[1].offset = u64::MAX);
    nonsense(|a| a.attached.segments[1].descriptor = 77);
    nonsense(|a| a.attached.segments[1] = a.attached.segments[0]);
}

#[test]
fn frames_are_read_where_the_daemon_wrote_them() {
    let mut fake = Fake::new();
    let mut session = fake.attach();
    let frames = session.frames();
    for round in 0..100u8 {
        for i in 0..20 {
            assert!(fake.deliver(0, &[round.wrapping_mul(i); 60]));
        }
        fake.publish();
        assert_eq!(frames.receive().unwrap(), 20);
        for i in 0..20 {
            let frame = frames.next().unwrap();
            assert_eq!(frame.as_slice().unwrap(), [round.wrapping_mul(i); 60]);
            let mut copy = [0; 70];
            assert_eq!(frame.copy_to(&mut copy), 60);
            assert_eq!(copy[..60], [round.wrapping_mul(i); 60]);
        }
        assert!(frames.next().is_none());
        assert_eq!(fake.take_fill(), 0, "nothing goes back before it is given back");
        frames.flush().unwrap();
        assert_eq!(fake.take_fill(), 20);
    }
}

#[test]
fn a_burst_half_seen_goes_on_where_it_stopped() {
    let mut fake = Fake::new();
    let mut session = fake.attach();
    let frames = session.frames();
    for i in 0..100u8 {
        assert!(fake.deliver(0, &[i; 60]));
    }
    fake.publish();
    let mut seen = Vec::new();
    while frames.receive().unwrap() > 0 {
        for _ in 0..7 {
            seen.extend(frames.next().map(|f| f.as_slice().unwrap()[0]));
        }
        frames.flush().unwrap();
    }
    assert_eq!(seen, (0..100).collect::<Vec<u8>>());
    assert_eq!(fake.take_fill(), 100);
}

#[test]
fn a_full_fill_ring_holds_frames_back_and_loses_none() {
    let mut fake = Fake::new();
    let mut session = fake.attach();
    let frames = session.frames();
    let mut sent = 0u32;
    let mut seen = 0u32;
    // The daemon takes nothing back until its slots are used up.
    loop {
        while fake.deliver(0, &[&sent.to_be_bytes()[..], &[0; 56]].concat()) {
            sent += 1;
        }
        fake.publish();
        let before = seen;
        while frames.receive().unwrap() > 0 {
            while let Some(frame) = frames.next() {
                assert_eq!(frame.as_slice().unwrap()[..4], seen.to_be_bytes());
                seen += 1;
            }
        }
        frames.flush().unwrap();
        if seen == before {
            break;
        }
    }
    assert_eq!((sent, seen), (SLOTS, SLOTS));
    assert_eq!(fake.take_fill(), SLOTS as usize);
}

#[test]
fn frames_are_sent_from_where_they_were_written() {
    let mut fake = Fake::new();
    let mut session = fake.attach();
    let frames = session.frames();
    for round in 0..200u8 {
        for i in 0..30u8 {
            let mut frame = frames.transmit().unwrap();
            frame.as_mut_slice()[..64].fill(round ^ i);
            frame.send(60 + usize::from(i % 4)).unwrap();
        }
        assert_eq!(fake.take_sent(0).len(), 0, "nothing is seen before it is shown");
        frames.flush().unwrap();
        let sent = fake.take_sent(0);
        assert_eq!(sent.len(), 30);
        for (i, frame) in (0..30u8).zip(sent) {
            assert_eq!(frame, vec![round ^ i; 60 + usize::from(i % 4)]);
        }
        fake.publish();
    }
}

#[test]
fn slots_run_out_and_come_back() {
    let mut fake = Fake::new();
    let mut session = fake.attach();
    let frames = session.frames();
    let mut sent = 0;
    while let Some(frame) = frames.transmit() {
        frame.send(60).unwrap();
        sent += 1;
    }
    assert_eq!(sent, SLOTS);
    frames.flush().unwrap();
    assert!(frames.transmit().is_none());
    assert_eq!(fake.take_sent(0).len(), SLOTS as usize);
    assert!(frames.transmit().is_none(), "not before the daemon publishes them");
    fake.publish();
    frames.flush().unwrap();
    assert_eq!(frames.split().1.free(), SLOTS as usize);
}

#[test]
fn whoever_waits_for_slots_sees_those_that_came_before_the_wait() {
    within(20, "the wait", || {
        let mut fake = Fake::new();
        let mut session = fake.attach();
        let frames = session.frames();
        while let Some(frame) = frames.transmit() {
            frame.send(60).unwrap();
        }
        frames.flush().unwrap();
        fake.take_sent(0);
        fake.publish();
        // Takes them back without a word.
        frames.flush().unwrap();
        frames.wait(None, &[]).unwrap();
        assert!(frames.transmit().is_some());
        // Who looks at the count instead, and not after a flush, is told as well.
        while let Some(frame) = frames.transmit() {
            frame.send(60).unwrap();
        }
        frames.flush().unwrap();
        let _ = frames.split().1.next();
        fake.take_sent(0);
        fake.publish();
        assert_eq!(frames.split().1.free(), 0);
        frames.wait(None, &[]).unwrap();
        assert!(frames.split().1.free() > 0);
    });
}

#[test]
fn a_slot_that_is_not_sent_stays_free() {
    let mut fake = Fake::new();
    let mut session = fake.attach();
    let frames = session.frames();
    assert!(frames.transmit().is_some());
    assert!(frames.transmit().unwrap().send(13).is_err());
    assert!(frames.transmit().unwrap().send(2049).is_err());
    assert_eq!(frames.split().1.free(), SLOTS as usize);
}

fn fault(result: Result<impl std::fmt::Debug, FrameError>) -> Fault {
    match result {
        Err(FrameError::Broken(fault)) => fault,
        other => panic!("no fault but {other:?}"),
    }
}

#[test]
fn completion_of_a_slot_that_is_not_away_is_an_error() {
    let mut fake = Fake::new();
    let mut session = fake.attach();
    let first = fake.peers[0].transmit_first;
    let foreign = first + SLOTS;
    let mut complete = |slot| {
        fake.peers[0].queues.completion.push(RawDescriptor::new(slot, 0, 0)).unwrap();
        fake.peers[0].queues.completion.publish();
    };
    complete(first);
    assert!(
        matches!(fault(session.frames().flush()), Fault::NotHeld { slot, .. } if slot == first)
    );
    complete(foreign);
    let found = fault(session.frames().flush());
    assert!(matches!(found, Fault::NoSuchSlot { slot, .. } if slot == foreign));

    // Sent once, a slot comes back once.
    let mut session = fake.attach();
    let frames = session.frames();
    frames.transmit().unwrap().send(60).unwrap();
    frames.flush().unwrap();
    assert_eq!(fake.take_sent(1).len(), 1);
    let slot = fake.peers[1].transmit_first;
    fake.peers[1].queues.completion.push(RawDescriptor::new(slot, 0, 0)).unwrap();
    fake.publish();
    assert!(matches!(fault(frames.flush()), Fault::NotHeld { .. }));
}

#[test]
fn what_names_no_received_slot_is_an_error() {
    let own = Fake::new().prepare().attached.segments[0];
    let received = Fake::new().prepare().attached.segments[1];
    for raw in [
        RawDescriptor::new(own.first, 0, 60),
        RawDescriptor::new(received.first + received.count, 0, 60),
        RawDescriptor::new(received.first, 0, 13),
        RawDescriptor::new(received.first, 0, 2049),
        RawDescriptor::new(received.first, 2000, 60),
        RawDescriptor(RawDescriptor::new(received.first, 0, 60).0 | 1 << 52),
    ] {
        let mut fake = Fake::new();
        let mut session = fake.attach();
        fake.peers[0].queues.rx.push(raw).unwrap();
        fake.publish();
        fault(session.frames().receive());
    }
}

#[test]
fn frames_of_a_group_are_copied_and_never_referred_to() {
    let mut fake = Fake::new();
    let sender = fake.attach();
    let mut answer = fake.prepare();
    // The first client's transmit slots become a group segment of the second.
    let group = fake.pool.arena().add_segment("group", Writer::Client, SLOTS, false).unwrap();
    let info = usnet_shmring::control::SegmentInfo {
        access: SegmentAccess::Group as u32,
        descriptor: 6,
        first: group.first(),
        count: group.count(),
        offset: 0,
    };
    answer.attached.segments[2] = info;
    answer.descriptors.push(group.as_fd().try_clone_to_owned().unwrap());
    let mut session = fake.answer(answer).unwrap();
    rustix::io::pwrite(&group, &[0xab; 60], 2048 + 10).unwrap();
    let raw = RawDescriptor::new(group.first() + 1, 10, 60);
    fake.peers[1].queues.rx.push(raw).unwrap();
    fake.publish();
    let frames = session.frames();
    assert_eq!(frames.receive().unwrap(), 1);
    let frame = frames.next().unwrap();
    assert!(frame.as_slice().is_none());
    let mut copy = [0; 100];
    assert_eq!((frame.copy_to(&mut copy), copy[..60] == [0xab; 60]), (60, true));
    // Its owner waits for the slot: the daemon is woken for it, as for a frame.
    fake.peers[1].queues.sleep.raise();
    frames.flush().unwrap();
    let mut kicks = [0; 8];
    rustix::io::read(&fake.peers[1].kick, &mut kicks).unwrap();
    assert_eq!(u64::from_ne_bytes(kicks), 1);
    drop(sender);
}

#[test]
fn an_own_slot_never_arrives_though_the_group_has_it() {
    let mut fake = Fake::new();
    let mut answer = fake.prepare();
    let own = answer.attached.segments[0];
    let access = SegmentAccess::Group as u32;
    answer.attached.segments[2] = usnet_shmring::control::SegmentInfo { access, ..own };
    let mut session = fake.answer(answer).unwrap();
    fake.peers[0].queues.rx.push(RawDescriptor::new(own.first + 3, 0, 60)).unwrap();
    fake.publish();
    let found = fault(session.frames().receive());
    assert_eq!(found, Fault::NotHeld { ring: RingName::Rx, slot: own.first + 3 });
}

#[test]
fn whoever_sleeps_is_woken_for_each_frame() {
    const FRAMES: u32 = 5_000;
    within(60, "5,000 round trips", || {
        let mut fake = Fake::new();
        let mut ping = fake.attach();
        let mut pong = fake.attach();
        let running = fake.run();
        let reflector = std::thread::spawn(move || {
            let frames = pong.frames();
            let mut count = 0;
            while count < FRAMES {
                if frames.receive().unwrap() == 0 {
                    frames.wait(None, &[]).unwrap();
                    continue;
                }
                let (receiver, transmitter) = frames.split();
                while let Some(frame) = receiver.next() {
                    let mut slot = transmitter.next().unwrap();
                    let length = frame.copy_to(slot.as_mut_slice());
                    slot.send(length).unwrap();
                    count += 1;
                }
                frames.flush().unwrap();
            }
            // Whoever leaves may take its last frames along.
            pong
        });
        let frames = ping.frames();
        for number in 0..FRAMES {
            let mut slot = loop {
                if frames.split().1.free() > 0 {
                    break frames.transmit().unwrap();
                }
                frames.wait(None, &[]).unwrap();
            };
            slot.as_mut_slice()[..60].fill(0);
            slot.as_mut_slice()[..4].copy_from_slice(&number.to_be_bytes());
            slot.send(60).unwrap();
            frames.flush().unwrap();
            while frames.receive().unwrap() == 0 {
                frames.wait(None, &[]).unwrap();
            }
            let frame = frames.next().unwrap();
            assert_eq!(frame.as_slice().unwrap()[..4], number.to_be_bytes());
        }
        reflector.join().unwrap();
        drop(running);
    });
}

#[test]
fn the_end_of_the_daemon_wakes_a_sleeper() {
    within(20, "the sleeper", || {
        let mut fake = Fake::new();
        let mut session = fake.attach();
        let sleeper = std::thread::spawn(move || session.frames().wait(None, &[]).unwrap_err());
        drop(fake);
        assert!(matches!(sleeper.join().unwrap(), FrameError::Gone));
    });
}

#[test]
fn another_descriptor_ends_a_wait() {
    let mut fake = Fake::new();
    let mut session = fake.attach();
    let (near, far) = pair(SocketType::STREAM);
    rustix::io::write(&far, b"x").unwrap();
    session.frames().wait(None, &[near.as_fd()]).unwrap();
    session.frames().wait(Some(Duration::from_millis(1)), &[]).unwrap();
}

#[test]
fn claims_are_granted_refused_and_released() {
    within(20, "the claims", || {
        let mut fake = Fake::new();
        let mut session = fake.attach();
        let running = fake.run();
        let http = session.claim(Claim::port(6, 80)).unwrap();
        assert_eq!(http, Claim::port(6, 80));
        let block = session.claim(Claim::any(6, 64)).unwrap();
        assert_eq!(block.count, 64);
        assert_ne!(block.first_port, 0);
        let refusal = session.claim(Claim::port(6, block.first_port + 63)).unwrap_err();
        let RequestError::Refused { code: RefusalCode::InUse, .. } = refusal else {
            panic!("{refusal}")
        };
        assert_eq!(io::Error::from(refusal).kind(), io::ErrorKind::AddrInUse);
        session.release(http).unwrap();
        session.claim(http).unwrap();
        assert!(session.release(Claim::port(17, 80)).is_err());
        session.detach().unwrap();
        drop(running);
    });
}

#[test]
fn a_request_after_the_end_says_so() {
    let mut fake = Fake::new();
    let mut session = fake.attach();
    drop(fake);
    let error = session.claim(Claim::port(6, 80)).unwrap_err();
    assert!(matches!(error, RequestError::Ended), "{error}");
    assert!(error.source().is_none());
}

#[test]
fn a_session_number_is_not_the_slot_owner_of_another() {
    // Guards the harness: two sessions have ledgers of their own.
    let mut fake = Fake::new();
    let (_a, _b) = (fake.attach(), fake.attach());
    assert_ne!(fake.peers[0].id, fake.peers[1].id);
    assert_eq!(fake.peers[1].id, SessionId(2));
}
