//! What a client can do with the descriptors it was given, tried from a real second process that got
//! them over a real channel. The daemon looks at its memory afterwards.

#![cfg(not(miri))]

mod support;

use rustix::fs::{FallocateFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use support::sys::{Mapping, number};
use support::{Peer, attached, parent, role};
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::control::{Message, SegmentInfo};
use usnet_shmring::descriptor::RawDescriptor;
use usnet_shmring::layout::region_size;
use usnet_shmring::ledger::SessionId;
use usnet_shmring::pool::{Frame, HomeKind, Pool};
use usnet_shmring::queues::{ClientQueues, DaemonQueues};
use usnet_shmring::region::{Region, RegionError, Writer};

const CAPACITY: u32 = 64;
const SESSION: SessionId = SessionId(3);
const CANARY: u64 = 0x6361_6e61_7279_2121;
/// Bytes of a segment of 1,024 slots.
const SEGMENT: usize = 1024 * 2048;

/// The daemon's side of one session, as it is after the attach.
struct Daemon {
    queues: DaemonQueues,
    pool: Pool,
    canary: Frame,
    peer: Peer,
    first_transmit: u32,
}

/// Makes a session, starts the client in `role` and hands everything over.
fn attach(test: &str) -> Daemon {
    let (inbound, first) = Region::create(Writer::Daemon, 1, CAPACITY, 2048).unwrap();
    let (outbound, second) = Region::create(Writer::Client, 1, CAPACITY, 2048).unwrap();
    let queues = DaemonQueues::new(&inbound, &outbound, CAPACITY, 0).unwrap();
    let arena = Arena::reserve(4096, SlotSize::DEFAULT).unwrap();
    let receive = arena.add_segment("receive", Writer::Daemon, 1024, false).unwrap();
    let transmit = arena.add_segment("transmit", Writer::Client, 1024, false).unwrap();
    let fds = [receive.as_fd(), transmit.as_fd()].map(|fd| fd.try_clone_to_owned().unwrap());
    let first_transmit = transmit.first();

    let mut range = SlotRange::whole(receive);
    let mut pool = Pool::new(range.split(64).unwrap()).unwrap();
    let home = pool.add_home(HomeKind::Receive(SESSION), range).unwrap();
    pool.add_home(HomeKind::Transmit(SESSION), SlotRange::whole(transmit)).unwrap();
    let mut canary = pool.alloc_from(home).unwrap();
    assert!(pool.fill(&mut canary, &CANARY.to_ne_bytes().repeat(8)));

    let peer = Peer::start(test, "client").unwrap();
    let sizes = [inbound.size(), outbound.size()];
    let message = attached(CAPACITY, sizes, [SegmentInfo::default(); 4]);
    let [receive, transmit] = &fds;
    let descriptors = [first.as_fd(), second.as_fd(), receive.as_fd(), transmit.as_fd()];
    let flags = rustix::net::SendFlags::empty();
    peer.channel.send(1, &message, &descriptors, flags).unwrap();
    Daemon { queues, pool, canary, peer, first_transmit }
}

/// In the client: the descriptors with the bytes behind each.
fn descriptors() -> [(OwnedFd, usize); 4] {
    let mut fds = Vec::new();
    let (_, message) = parent().receive_with_descriptors(&mut fds).unwrap();
    assert!(matches!(message, Message::Attached(a) if a.ring_capacity == CAPACITY));
    let sizes = [region_size(1, CAPACITY), region_size(1, CAPACITY), SEGMENT, SEGMENT];
    let fds: [OwnedFd; 4] = fds.try_into().unwrap();
    let mut sizes = sizes.into_iter();
    fds.map(|fd| (fd, sizes.next().unwrap()))
}

/// The same memfd by another description, opened through /proc for reading and writing. That this is
/// possible is why only seals protect.
fn reopened(fd: BorrowedFd<'_>) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", number(fd));
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn refused<T>(result: Result<T, Errno>, what: &str) {
    let errno = result.err().unwrap_or_else(|| panic!("a client may {what}"));
    let expected = [Errno::PERM, Errno::ACCESS, Errno::TXTBSY, Errno::OPNOTSUPP, Errno::IO];
    assert!(expected.contains(&errno), "{what}: refused for another reason, {errno}");
}

/// Nobody may change the size of anything, or the set of seals.
fn try_to_resize(fd: BorrowedFd<'_>, size: usize) {
    let size = size as u64;
    refused(rustix::fs::ftruncate(fd, 0), "truncate to nothing");
    refused(rustix::fs::ftruncate(fd, size - 4096), "shrink by a page");
    refused(rustix::fs::ftruncate(fd, size + 4096), "grow by a page");
    let grow = rustix::fs::fallocate(fd, FallocateFlags::empty(), size, 4096);
    refused(grow, "grow by allocation");
    refused(rustix::io::pwrite(fd, &[1], size), "grow by writing behind the end");
    refused(rustix::fs::fcntl_add_seals(fd, SealFlags::WRITE), "add a seal");
    assert_eq!(rustix::fs::fstat(fd).unwrap().st_size.cast_unsigned(), size);
}

/// All ways to write bytes of a memfd that the daemon writes.
fn try_to_write(fd: BorrowedFd<'_>, size: usize) {
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    refused(rustix::fs::fallocate(fd, punch, 0, size as u64), "punch a hole");
    let zero = FallocateFlags::ZERO_RANGE;
    refused(rustix::fs::fallocate(fd, zero, 0, size as u64), "zero a range");
    refused(rustix::io::pwrite(fd, &[0xff; 4096], 0), "write(2)");
    refused(rustix::io::write(fd, &[0xff; 8]), "write(2) at the start");
    let source = rustix::fs::memfd_create("source", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&source, &[0xff; 4096]).unwrap();
    refused(rustix::fs::sendfile(fd, &source, Some(&mut 0), 4096), "sendfile into it");
    refused(Mapping::shared_writable(fd, size), "map it shared and writable");
    // The answer of a write-only mapping must be the same.
    let only = Mapping::new(fd, size, ProtFlags::WRITE, MapFlags::SHARED);
    refused(only, "map it shared and write-only");

    let map = Mapping::shared_read_only(fd, size).unwrap();
    refused(map.make_writable(), "mprotect to writable");
    refused(map.remove_pages(), "MADV_REMOVE");
    let memory = rustix::fs::open("/proc/self/mem", OFlags::RDWR, Mode::empty()).unwrap();
    refused(rustix::io::pwrite(&memory, &[0xff; 8], map.address()), "write through /proc/self/mem");
}

fn try_everything_on_daemon_memory() {
    let [inbound, outbound, receive, transmit] = descriptors();
    for (fd, size) in [&inbound, &receive] {
        for fd in [fd.try_clone().unwrap(), reopened(fd.as_fd())] {
            try_to_resize(fd.as_fd(), *size);
            try_to_write(fd.as_fd(), *size);
        }
        // A private mapping may be written; it is a copy, as the daemon will see.
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let private = Mapping::new(fd, *size, prot, MapFlags::PRIVATE).unwrap();
        (0..*size).step_by(8).for_each(|at| private.store(at, u64::MAX));
    }
    for (fd, size) in [&outbound, &transmit] {
        for fd in [fd.try_clone().unwrap(), reopened(fd.as_fd())] {
            try_to_resize(fd.as_fd(), *size);
        }
    }
    // What a client shall be able to do still works.
    Region::map(inbound.0.as_fd(), Writer::Daemon, inbound.1).unwrap();
    Region::map(outbound.0.as_fd(), Writer::Client, outbound.1).unwrap();
    let map = Mapping::shared_read_only(&receive.0, receive.1).unwrap();
    assert_eq!(map.load(64 * 2048), CANARY, "the daemon's frame is there to read");
}

#[test]
fn a_client_can_neither_write_what_the_daemon_writes_nor_resize_anything() {
    if role().is_some() {
        return try_everything_on_daemon_memory();
    }
    let mut daemon =
        attach("a_client_can_neither_write_what_the_daemon_writes_nor_resize_anything");
    daemon.queues.rx.push(RawDescriptor(CANARY)).unwrap();
    daemon.queues.rx.publish();
    assert!(daemon.peer.succeeded());
    let bytes = daemon.pool.bytes(&daemon.canary);
    assert!(bytes.chunks(8).all(|b| b == CANARY.to_ne_bytes()), "the daemon's frame changed");
}

/// The client sends a frame, then takes the pages away under it, by both ways there are.
fn send_and_punch() {
    let [inbound, outbound, _, transmit] = descriptors();
    let map = |(fd, size): &(OwnedFd, usize), writer| Region::map(fd.as_fd(), writer, *size);
    let regions = (map(&inbound, Writer::Daemon).unwrap(), map(&outbound, Writer::Client).unwrap());
    let mut queues = ClientQueues::new(&regions.0, &regions.1, CAPACITY, 0).unwrap();
    let slots = Mapping::shared_writable(&transmit.0, transmit.1).unwrap();
    (0..2 * 2048).step_by(8).for_each(|at| slots.store(at, u64::MAX));
    for slot in 0..2 {
        queues.tx.push(RawDescriptor::new(1024 + slot, 0, 1514)).unwrap();
    }
    queues.tx.publish();
    // The daemon has accepted both when it answers.
    parent().receive(rustix::net::RecvFlags::empty()).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&transmit.0, punch, 0, 2048).unwrap();
    slots.remove_pages().unwrap();
    rustix::fs::fallocate(&outbound.0, punch, 0, outbound.1 as u64).unwrap();
}

#[test]
fn a_hole_punched_under_a_frame_in_flight_reads_as_zeros() {
    if role().is_some() {
        return send_and_punch();
    }
    let mut daemon = attach("a_hole_punched_under_a_frame_in_flight_reads_as_zeros");
    let (queues, pool) = (&mut daemon.queues, &mut daemon.pool);
    while queues.tx.refresh().unwrap() < 2 {
        assert!(daemon.peer.is_running(), "the client sent no frames");
        std::thread::yield_now();
    }
    let frames = [0, 1].map(|_| pool.accept(SESSION, queues.tx.pop().unwrap()).unwrap());
    let mut head = [0; 64];
    assert!(pool.snapshot(&frames[0], 0, &mut head) == 64 && head == [0xff; 64]);
    assert_eq!(daemon.first_transmit, 1024, "the client names slots by this");
    queues.tx.release();
    let flags = rustix::net::SendFlags::empty();
    daemon.peer.channel.send(2, &Message::Detach, &[], flags).unwrap();
    assert!(daemon.peer.succeeded());

    // The head that was copied before is what leaves; behind it there are zeros now.
    let mut copy = pool.alloc().unwrap();
    assert!(pool.copy_vetted(&head, &frames[0], &mut copy));
    let (first, rest) = pool.bytes(&copy).split_at(64);
    assert!(first == [0xff; 64] && rest.len() == 1450 && rest.iter().all(|b| *b == 0));
    assert!(pool.snapshot(&frames[1], 0, &mut head) == 64 && head == [0; 64]);
    // The client's words are zero too: the daemon had seen two frames, so that is a step back.
    assert!(queues.tx.refresh().is_err());
    assert_eq!(queues.fill.refresh(), Ok(0));
    pool.free(copy);
    for frame in frames {
        assert!(pool.complete(frame).is_some());
    }
    pool.end_session(SESSION);
    let (audit, slots) = pool.audit();
    assert_eq!(audit.total(), slots);
}

/// A memfd of two pages with these seals.
fn sealed(seals: SealFlags) -> OwnedFd {
    use rustix::fs::MemfdFlags;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("sealed", flags).unwrap();
    rustix::fs::ftruncate(&fd, 8192).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

#[test]
fn a_client_refuses_a_region_with_any_seal_missing() {
    let all = [SealFlags::SHRINK, SealFlags::GROW, SealFlags::FUTURE_WRITE, SealFlags::SEAL];
    for set in 0..1u32 << all.len() {
        let has = |index: usize| set >> index & 1 == 1;
        let seals = (0..all.len()).filter(|i| has(*i)).map(|i| all[i]).collect::<SealFlags>();
        let fd = sealed(seals);
        for writer in [Writer::Daemon, Writer::Client] {
            let mapped = Region::map(fd.as_fd(), writer, 8192);
            if seals.contains(writer.seals()) && writer == Writer::Daemon {
                assert!(mapped.is_ok(), "{seals:?}");
            } else if seals.contains(writer.seals()) {
                // All that is needed, but one too many for a region that the client writes.
                assert_eq!(mapped.is_err(), seals.contains(SealFlags::FUTURE_WRITE), "{seals:?}");
            } else {
                let refused =
                    matches!(mapped, Err(RegionError::Unexpected { what: "set of seals", .. }));
                assert!(refused, "{seals:?} for {writer:?}");
            }
        }
    }
}

#[test]
fn a_client_refuses_a_region_that_is_too_small_or_no_memfd() {
    let fd = sealed(Writer::Client.seals());
    for (size, fits) in [(0, false), (1, true), (8192, true), (8193, false), (1 << 40, false)] {
        let mapped = Region::map(fd.as_fd(), Writer::Client, size);
        match mapped {
            Ok(region) => assert!(fits && region.size() == size),
            Err(e) => assert!(!fits && matches!(e, RegionError::Unexpected { what: "size", .. })),
        }
    }
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    assert!(matches!(
        Region::map(file.as_fd(), Writer::Daemon, 4096),
        Err(RegionError::System { what: "read the seals of", .. })
    ));
}

#[test]
fn a_mapping_that_a_client_reads_gives_out_no_word_to_store() {
    let (region, fd) = Region::create(Writer::Daemon, 1, CAPACITY, 2048).unwrap();
    let client = Region::map(fd.as_fd(), Writer::Daemon, region.size()).unwrap();
    let word = usnet_shmring::layout::Word::FirstProduced;
    assert!(region.own_word(CAPACITY, 0, word).is_some());
    assert!(client.own_word(CAPACITY, 0, word).is_none());
    assert!(client.own_cells(CAPACITY, 0, 0).is_none());
    assert!(client.peer_word(CAPACITY, 0, word).is_some());
    assert!(client.peer_word(CAPACITY, 2, word).is_none(), "a pair that there is not");
    assert!(client.peer_cells(CAPACITY, 0, 2).is_none(), "a ring that there is not");
    for capacity in [0, 1, 3, 1 << 15, 1 << 16, u32::MAX] {
        assert!(client.peer_cells(capacity, 0, 1).is_none(), "{capacity} cells");
        assert!(client.peer_cells(capacity, u32::MAX, 1).is_none(), "{capacity} cells");
        assert!(client.peer_word(capacity, u32::MAX, word).is_none(), "{capacity} cells");
    }
}
