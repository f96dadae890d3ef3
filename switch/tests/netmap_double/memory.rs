//! Regions: tables, extra buffers, memory of the caller.

use super::*;

#[test]
fn the_table_names_bound_rings_and_has_zero_for_others() {
    let (double, ..) = machine(|spec| (spec.tx_rings, spec.rx_rings) = (2, 2));
    let port = open(&double, "eth0", mode::NIC_SW);
    assert_eq!(&port.bytes::<5>(port.body.offset), b"eth0\0");
    let counts: Vec<u32> =
        [24, 28, 36, 40].map(|at| port.word(port.body.offset + at)).into_iter().collect();
    assert_eq!(counts, [2, 2, 1, 1]);
    for number in 0..6 {
        let ring = port.ring(number);
        assert_eq!(ring.at % 64, 0);
        assert_eq!((port.word(ring.at + 8), port.word(ring.at + 12)), (256, 2048));
        assert_eq!(port.short(ring.at + 18), u16::from(number < 3), "direction");
        assert!(port.slot(ring, 0).0 >= 2, "buffers 0 and 1 are in no slot");
    }
    let (tx, rx) = (port.ring(0), port.ring(3));
    assert_eq!((port.positions(tx), port.positions(rx)), ((0, 0, 255), (0, 0, 0)));
    drop(port);

    let one = register(
        &double,
        "eth0",
        Register { mode: mode::ONE_NIC, ring_id: 1, ..Register::default() },
    )
    .unwrap();
    let bound: Vec<u64> = (0..6).filter(|number| one.entry(*number) != 0).collect();
    assert_eq!(bound, [1, 4]);
    let other = register(
        &double,
        "eth0",
        Register { mode: mode::SW, flags: flag::TX_RINGS_ONLY, ..Register::default() },
    )
    .unwrap();
    let bound: Vec<u64> = (0..6).filter(|number| other.entry(*number) != 0).collect();
    assert_eq!(bound, [2]);
}

#[test]
fn extra_buffers_are_a_list_that_the_close_frees_and_leaks_are_counted() {
    let (double, ..) = machine(|_| ());
    let keeper = open(&double, "eth0", mode::SW);
    let body = Register { mode: mode::ALL_NIC, extra_buffers: 100, ..Register::default() };
    let free = double.region(1).unwrap().free_buffers;
    let port = register(&double, "eth0", body).unwrap();
    assert_eq!(port.body.extra_buffers, 100);
    let (ring, head) = (port.ring(0), port.body.offset + 32);
    let mut list = vec![port.word(head)];
    while let link @ 1.. = port.word(port.buffer_at(ring, list[list.len() - 1])) {
        list.push(link);
    }
    assert_eq!(list.len(), 100);
    // Exchanged with a slot: still true to what is held.
    let (own, length, _) = port.slot(ring, 0);
    port.set_slot(ring, 0, list[0], length, BUF_CHANGED);
    port.set_word(port.buffer_at(ring, own), list[1]);
    port.set_word(head, own);
    drop(port);
    assert_eq!((double.leaks(1), double.double_frees(1)), (0, 0));
    assert_eq!(double.region(1).unwrap().free_buffers, free);

    // The list is lost.
    let port = register(&double, "eth0", body).unwrap();
    port.set_word(port.body.offset + 32, 0);
    drop(port);
    assert_eq!((double.leaks(1), double.double_frees(1)), (100, 0));
    // A buffer in the list and in a slot: one freed twice, and the rest of the list is lost.
    let body = Register { extra_buffers: 2, ..body };
    let port = register(&double, "eth0", body).unwrap();
    let first = port.word(port.body.offset + 32);
    port.set_slot(port.ring(0), 0, first, 0, BUF_CHANGED);
    drop(port);
    assert_eq!((double.leaks(1), double.double_frees(1)), (102, 1));
    // The last user's end makes all good.
    assert_eq!(double.region(1).unwrap().leaked_now, 102);
    drop(keeper);
    let region = double.region(1).unwrap();
    assert_eq!((region.leaked_now, region.leaked_before, region.free_buffers), (0, 102, 8190));
}

#[test]
fn a_port_without_rings_is_a_pool_of_buffers() {
    let double = Double::new().unwrap();
    let body = Register { mode: mode::NULL, extra_buffers: 512, ..Register::default() };
    assert_eq!(register(&double, "pool", body).err(), Some(Errno::INVAL), "no region named");
    let port = register(&double, "pool", Register { memory_id: 1, ..body }).unwrap();
    assert_eq!((port.body.memory_id, port.body.extra_buffers), (1, 512));
    assert_eq!(port.body.tx_rings, 0);
    let too_many = Register { memory_id: 1, extra_buffers: 10_000, ..body };
    let other = register(&double, "other", too_many).unwrap();
    assert_eq!(other.body.extra_buffers, 8190 - 512, "as many as there are");
}

/// Memory of this process that the test can also read as a file.
fn memory(size: u64) -> (OwnedFd, MmapRaw) {
    let file = rustix::fs::memfd_create("memory", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, size).unwrap();
    let length = usize::try_from(size).unwrap();
    let map = MmapOptions::new().len(length).map_raw(file.as_fd().as_raw_fd()).unwrap();
    (file, map)
}

#[test]
fn memory_of_the_caller_becomes_a_region_with_buffers_at_its_end() {
    let (double, mut far, _stack) = machine(|_| ());
    let size = 16 << 20;
    let (file, map) = memory(size);
    let pools = PoolsInfo { memory_size: size, ring_total: 8, ..PoolsInfo::default() };
    let address = map.as_mut_ptr().expose_provenance() as u64;
    let mut extmem = ExtMem { address, pools, ..ExtMem::default() };
    let mut body = Register { mode: mode::ALL_NIC, ..Register::default() };
    let device = double.open().unwrap();
    let request = Control::Register { body: &mut body, extmem: Some(&mut extmem), offsets: None };
    device.control("eth0", request).unwrap();
    let pools = extmem.pools;
    assert_eq!((pools.if_total, pools.if_size, pools.if_offset), (2, 1024, 0));
    assert_eq!((pools.ring_total, pools.ring_size, pools.ring_offset), (8, 20480, 2048));
    assert_eq!((pools.buffer_size, pools.buffer_offset), (2048, 2048 + 8 * 20480));
    assert_eq!(u64::from(pools.buffer_total), (size - pools.buffer_offset) / 2048);
    assert_eq!((extmem.option.status, body.memory_id), (0, 2));

    let port = Port { device, body, file };
    assert!(far.send(&frame(5)));
    port.sync(Direction::Receive);
    assert_eq!(port.frame(port.ring(2), 0), frame(5));

    // Joined by number, and by naming the memory again.
    let pipe = register(
        &double,
        "x{1",
        Register { mode: mode::ALL_NIC, memory_id: 2, tx_slots: 64, rx_slots: 64, ..body },
    )
    .unwrap();
    assert_eq!(pipe.body.memory_id, 2);
    drop(pipe);
    let mut again = Register { mode: mode::NULL, ..Register::default() };
    let device = double.open().unwrap();
    let request = Control::Register { body: &mut again, extmem: Some(&mut extmem), offsets: None };
    device.control("pool", request).unwrap();
    assert_eq!(again.memory_id, 2);
    drop((device, port));
    assert_eq!((double.leaks(2), double.double_frees(2)), (0, 0));
}

#[test]
fn memory_of_the_caller_that_will_not_do_is_refused_with_a_status() {
    let (double, ..) = machine(|_| ());
    let size = 1 << 20;
    let (_file, map) = memory(size);
    let address = map.as_mut_ptr().expose_provenance() as u64;
    let attempt = |double: &Double, address| {
        let pools = PoolsInfo { memory_size: size, ..PoolsInfo::default() };
        let mut extmem = ExtMem { address, pools, ..ExtMem::default() };
        let mut body = Register { mode: mode::ALL_NIC, ..Register::default() };
        let request =
            Control::Register { body: &mut body, extmem: Some(&mut extmem), offsets: None };
        let error = double.open().unwrap().control("eth0", request).unwrap_err();
        (errno(&error), extmem.option.status)
    };
    assert_eq!(attempt(&double, address), (Errno::NOMEM, 12), "smaller than the defaults");
    let without = Double::with(MachineSpec { extmem: false, ..MachineSpec::default() }).unwrap();
    assert_eq!(attempt(&without, address), (Errno::OPNOTSUPP, 95));
}

#[test]
fn cards_of_an_iommu_group_have_a_region_of_their_own() {
    let (double, ..) = machine(|spec| spec.iommu_group = Some(4));
    let port = open(&double, "eth0", mode::ALL_NIC);
    assert_eq!(port.body.memory_id, 2);
    let pipe = open(&double, "eth0{1", mode::ALL_NIC);
    assert_eq!(pipe.body.memory_id, 2);
    drop((port, pipe));
    let (mut info, mut pools) = (PortInfo::default(), PoolsInfo::default());
    let device = double.open().unwrap();
    device.control("eth0", Control::PortInfo(&mut info)).unwrap();
    device.control("eth0", Control::PoolsInfo(&mut pools)).unwrap();
    assert_eq!((info.memory_id, info.rx_slots, info.host_rx_rings), (2, 256, 1));
    assert_eq!((pools.memory_id, pools.buffer_total, pools.ring_offset), (2, 8192, 16384));
    // One that is refused sticks, as with the real module, until the own one is named.
    for (memory_id, result) in
        [(1, Some(Errno::NOMEM)), (0, Some(Errno::NOMEM)), (2, None), (0, None)]
    {
        let body = Register { mode: mode::ALL_NIC, memory_id, ..Register::default() };
        assert_eq!(register(&double, "eth0", body).err(), result, "{memory_id}");
    }
}
