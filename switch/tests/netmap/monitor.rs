//! Monitors: what they hear, and that nobody notices them.

use super::{Machine, RING, SLOTS, Slots, frame, open};
use rustix::io::Errno;
use std::process::Command;
use usnet_switch::capture::{PcapWriter, capture};
use usnet_switch::port::netmap::Netmap;
use usnet_switch::port::netmap::double::{MachineSpec, Medium};
use usnet_switch::port::{Burst, Port};
use usnet_switch::time::Time;

fn bodies(frames: Vec<(u32, Vec<u8>)>) -> Vec<Vec<u8>> {
    frames.into_iter().map(|(_, bytes)| bytes).collect()
}

fn send(slots: &mut Slots, port: &mut Netmap, frames: &[Vec<u8>]) {
    let mut burst = slots.burst(frames);
    port.transmit(Time(0), &mut slots.pool, &mut burst).unwrap();
    assert!(burst.is_empty());
}

#[test]
fn a_monitor_hears_both_directions_and_takes_nothing() {
    for (name, hears_received, hears_sent) in [
        ("netmap:eth0/r", true, false),
        ("netmap:eth0/t", false, true),
        ("netmap:eth0/rt", true, true),
    ] {
        let mut machine = Machine::new();
        let mut slots = Slots::new();
        let bank = slots.bank(&machine.double);
        let mut card = open(&machine.double, "netmap:eth0", 1500, Some(&bank)).unwrap();
        // The bank is offered, and not taken: these buffers are another's.
        let mut monitor = open(&machine.double, name, 1500, Some(&bank)).unwrap();
        assert!(card.swaps() && !monitor.swaps());
        let (free, kept) = (slots.pool.free_slots(), bank.kept());
        for lap in 0..10 {
            let came: Vec<_> = (0..10).map(|n| frame(lap * 10 + n, 60)).collect();
            came.iter().for_each(|f| assert!(machine.wire.send(f)));
            assert_eq!(bodies(slots.receive(&mut card)), came, "none is missing at the port");
            let heard = bodies(slots.receive(&mut monitor));
            assert_eq!(heard, if hears_received { came } else { Vec::new() }, "{name}");
            let went: Vec<_> = (0..10).map(|n| frame(lap * 10 + n, 100)).collect();
            send(&mut slots, &mut card, &went);
            let mut bytes = [0; 2048];
            for sent in &went {
                let length = machine.wire.receive(&mut bytes).expect("none is missing there");
                assert_eq!(&bytes[..length], sent);
            }
            let heard = bodies(slots.receive(&mut monitor));
            assert_eq!(heard, if hears_sent { went } else { Vec::new() }, "{name}");
        }
        assert_eq!((slots.pool.free_slots(), bank.kept()), (free, kept));
        card.close(&mut slots.pool);
        drop((card, monitor));
        let id = bank.memory_id();
        for region in machine.double.regions().into_iter().chain([id]) {
            let lost = (machine.double.leaks(region), machine.double.double_frees(region));
            assert_eq!(lost, (0, 0), "region {region}");
        }
    }
}

#[test]
fn a_monitor_never_sends() {
    let mut machine = Machine::new();
    let mut slots = Slots::new();
    let mut card = open(&machine.double, "netmap:eth0", 1500, None).unwrap();
    let mut monitor = open(&machine.double, "netmap:eth0/rt", 1500, None).unwrap();
    send(&mut slots, &mut monitor, &[frame(1, 60), frame(2, 60)]);
    assert_eq!(monitor.counters().transmit_errors, 2);
    slots.receive(&mut card);
    assert_eq!(machine.wire.receive(&mut [0; 64]), None);
    assert_eq!(slots.receive(&mut monitor), []);
    assert_eq!(slots.pool.free_slots(), SLOTS as usize);
}

#[test]
fn a_monitor_alone_leaves_the_interface_to_the_kernel_and_hears_nothing() {
    let mut machine = Machine::new();
    let mut slots = Slots::new();
    let mut monitor = open(&machine.double, "netmap:eth0/rt", 1500, None).unwrap();
    assert!(!machine.double.is_open("eth0"));
    assert!(machine.wire.send(&frame(1, 60)));
    machine.double.pump();
    assert_eq!(machine.host.receive(&mut [0; 64]), Some(60));
    assert_eq!(slots.receive(&mut monitor), []);
    // It hears the first who comes.
    let mut card = open(&machine.double, "netmap:eth0", 1500, None).unwrap();
    assert!(machine.wire.send(&frame(2, 60)));
    slots.receive(&mut card);
    assert_eq!(bodies(slots.receive(&mut monitor)), [frame(2, 60)]);
}

#[test]
fn a_monitor_that_is_slow_loses_frames_and_nobody_else_does() {
    let mut machine = Machine::new();
    let mut slots = Slots::new();
    let mut card = open(&machine.double, "netmap:eth0", 1500, None).unwrap();
    let mut monitor = open(&machine.double, "netmap:eth0/r", 1500, None).unwrap();
    let mut received = 0;
    for number in 0..4 * RING as u8 {
        assert!(machine.wire.send(&frame(number, 60)));
        received += slots.receive(&mut card).len();
    }
    assert_eq!(received, 4 * RING as usize);
    let heard: Vec<_> = (0..8).flat_map(|_| bodies(slots.receive(&mut monitor))).collect();
    let expected: Vec<_> = (0..RING as u8 - 1).map(|number| frame(number, 60)).collect();
    assert_eq!(heard, expected, "those that found a slot, in order");
}

#[test]
fn a_monitor_of_one_ring_hears_that_ring() {
    let mut machine = Machine::with(MachineSpec::default(), |spec| {
        (spec.tx_rings, spec.rx_rings) = (2, 2);
    });
    let mut slots = Slots::new();
    let mut rings =
        [0, 1].map(|n| open(&machine.double, &format!("netmap:eth0-{n}"), 1500, None).unwrap());
    let mut monitor = open(&machine.double, "netmap:eth0-1/r", 1500, None).unwrap();
    (0..20).for_each(|n| assert!(machine.wire.send(&frame(n, 60))));
    let [zero, one] = rings
        .each_mut()
        .map(|port| (0..2).flat_map(|_| bodies(slots.receive(port))).collect::<Vec<_>>());
    assert!(!zero.is_empty() && !one.is_empty());
    assert_eq!(bodies(slots.receive(&mut monitor)), one);
}

#[test]
fn the_monitor_of_a_removed_interface_ends() {
    let machine = Machine::new();
    let mut slots = Slots::new();
    let mut monitor = open(&machine.double, "netmap:eth0/r", 1500, None).unwrap();
    machine.double.remove("eth0").unwrap();
    let error = monitor.receive(Time(0), &mut slots.pool, &mut Burst::new()).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::IO));
}

#[test]
fn the_command_only_listens_and_says_how() {
    let capture = |port: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usnetd"));
        let output = command.args(["capture", "--write", "-", "--port", port]).output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    let text = capture("netmap:eth0");
    assert!(text.contains("netmap:eth0 is no monitor") && text.contains("`/r`"), "{text}");
    assert!(capture("eth0").contains("it begins with `netmap:`"));
}

/// A UDP datagram that says its number.
fn datagram(number: u8) -> Vec<u8> {
    let mut frame = [[0xff; 6], [2, 0, 0, 0, 9, 9]].concat();
    frame.extend([8, 0, 0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    frame.extend([0, 9, 0x23, 0x28, 0, 9, 0, 0, number]);
    frame
}

#[test]
fn what_a_monitor_hears_is_a_capture_that_tshark_reads() {
    let mut machine = Machine::new();
    let mut slots = Slots::new();
    let mut card = open(&machine.double, "netmap:eth0", 1500, None).unwrap();
    let mut monitor = open(&machine.double, "netmap:eth0/r", 1500, None).unwrap();
    let mut bytes = Vec::new();
    let mut writer = PcapWriter::new(&mut bytes, 2048).unwrap();
    let mut left = 25;
    for number in 0..30 {
        assert!(machine.wire.send(&datagram(number)));
        slots.receive(&mut card);
        left -= capture(&mut monitor, &mut slots.pool, &mut writer, left).unwrap();
    }
    assert_eq!((left, slots.pool.free_slots()), (0, SLOTS as usize), "no more than was asked for");
    let each = 16 + datagram(0).len();
    assert_eq!(bytes.len(), 24 + 25 * each);
    for (number, record) in bytes[24..].chunks(each).enumerate() {
        assert_eq!(record[16..], datagram(number as u8));
    }

    let name = "what_a_monitor_hears_is_a_capture_that_tshark_reads";
    let required = std::env::var_os("USNET_TESTS_REQUIRE_ALL").is_some_and(|value| value == "1");
    let file = std::env::temp_dir().join(format!("usnet-capture-{}.pcap", std::process::id()));
    std::fs::write(&file, &bytes).unwrap();
    let fields = ["-T", "fields", "-e", "udp.dstport", "-e", "udp.payload", "-e", "frame.len"];
    let output = Command::new("tshark").arg("-r").arg(&file).args(fields).output();
    std::fs::remove_file(&file).unwrap();
    match output {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let expected: Vec<_> = (0..25).map(|n| format!("9000\t{n:02x}\t43")).collect();
            assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{output:?}");
        }
        Err(error) => {
            assert!(!required, "{name} cannot run: {error}; apt-get install tshark");
            eprintln!("{name} is SKIPPED in part: {error}; apt-get install tshark");
        }
    }
}
