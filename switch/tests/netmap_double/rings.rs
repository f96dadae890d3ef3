//! What a sync does with rings and slots.

use super::*;

#[test]
fn frames_pass_in_both_directions_and_tail_moves_only_in_a_sync() {
    let (double, mut far, _stack) = machine(|_| ());
    let port = open(&double, "eth0", mode::ALL_NIC);
    let (tx, rx) = (port.ring(0), port.ring(2));
    assert!(!port.is_ready());
    assert!(far.send(&frame(7)) && far.send(&frame(8)));
    assert!(port.is_ready());
    assert_eq!(port.positions(rx), (0, 0, 0), "nothing before the sync");
    port.sync(Direction::Receive);
    assert_eq!(port.positions(rx), (0, 0, 2));
    assert_eq!((port.frame(rx, 0), port.frame(rx, 1)), (frame(7), frame(8)));
    assert!(port.is_ready(), "not looked at yet");
    port.advance(rx, 2);
    port.sync(Direction::Receive);
    assert!(!port.is_ready());

    port.put(tx, 0, &frame(9), 0);
    port.advance(tx, 1);
    assert_eq!(next(&mut far), None);
    port.sync(Direction::Transmit);
    assert_eq!(next(&mut far), Some(frame(9)));
    assert_eq!(port.positions(tx), (1, 1, 0));
}

#[test]
fn slots_come_back_a_sync_later_from_a_card_that_lags() {
    let (double, _far, _stack) = machine(|spec| spec.completion = Completion::NextSync);
    let port = open(&double, "eth0", mode::ALL_NIC);
    let tx = port.ring(0);
    port.put(tx, 0, &frame(1), 0);
    port.advance(tx, 1);
    port.sync(Direction::Transmit);
    assert_eq!(port.positions(tx), (1, 1, 255));
    port.sync(Direction::Transmit);
    assert_eq!(port.positions(tx), (1, 1, 0));
}

#[test]
fn a_bad_head_is_met_with_silence_and_taken_for_good_at_the_next_sync() {
    let (double, mut far, _stack) = machine(|spec| spec.completion = Completion::NextSync);
    let port = open(&double, "eth0", mode::ALL_NIC);
    let (tx, rx) = (port.ring(0), port.ring(2));
    for number in 0..10 {
        port.put(tx, number, &frame(1), 0);
    }
    port.advance(tx, 10);
    port.sync(Direction::Transmit);
    while next(&mut far).is_some() {}
    // Back by 3, while no slot has come back: not sent now, and nearly the whole ring at the next
    // sync.
    port.advance(tx, 7);
    port.sync(Direction::Transmit);
    assert_eq!(far.len(), 0);
    port.sync(Direction::Transmit);
    assert_eq!(far.len(), 253);

    // Too far on reception: phantom frames from then on.
    port.advance(rx, 3);
    port.sync(Direction::Receive);
    assert_eq!(port.positions(rx), (3, 3, 0));
    // Beyond the ring: this resets it.
    port.advance(rx, 256);
    port.sync(Direction::Receive);
    assert_eq!(port.positions(rx), (0, 0, 0));
    // A tail that the user wrote is repaired.
    port.set_word(rx.at + 28, 77);
    port.sync(Direction::Receive);
    assert_eq!(port.positions(rx), (0, 0, 0));
}

#[test]
fn a_card_that_needs_the_flag_goes_on_with_the_old_buffer_without_it() {
    let (double, mut far, _stack) = machine(|spec| {
        spec.quirks = vec![Quirk::NeedsBufChanged];
        (spec.rx_slots, spec.tx_slots) = (2, 2);
    });
    let body = Register { mode: mode::ALL_NIC, extra_buffers: 2, ..Register::default() };
    let port = register(&double, "eth0", body).unwrap();
    let (tx, rx) = (port.ring(0), port.ring(2));
    let spare = port.word(port.body.offset + 32);
    // Slot 0 is received, its buffer exchanged and given back; slot 1 brings the ring round.
    let mut lap = |flags, tag: u8| {
        for number in [0, 1] {
            assert!(far.send(&frame(tag)));
            port.sync(Direction::Receive);
            if number == 0 {
                port.set_slot(rx, 0, spare, 60, flags);
            }
            port.advance(rx, 1 - number);
            port.sync(Direction::Receive);
        }
        assert!(far.send(&frame(tag + 1)));
        port.sync(Direction::Receive);
        let seen = port.frame(rx, 0);
        port.advance(rx, 1);
        port.sync(Direction::Receive);
        assert!(far.send(&frame(0)));
        port.sync(Direction::Receive);
        port.advance(rx, 0);
        port.sync(Direction::Receive);
        seen
    };
    assert_ne!(lap(0, 10), frame(11), "stale: the card fills the buffer that was taken away");
    assert_eq!(lap(BUF_CHANGED, 20), frame(21));

    let (old, ..) = port.slot(tx, 0);
    port.put(tx, 0, &frame(1), 0);
    let at = port.buffer_at(tx, spare);
    rustix::io::pwrite(&port.file, &frame(2), at).unwrap();
    port.set_slot(tx, 0, spare, 60, 0);
    port.advance(tx, 1);
    port.sync(Direction::Transmit);
    assert_eq!(next(&mut far), Some(frame(1)), "the buffer {old} that the card knows");
}

#[test]
fn bad_indices_and_lengths_on_transmission_send_junk_without_an_error() {
    let (double, mut far, _stack) = machine(|_| ());
    let port = open(&double, "eth0", mode::ALL_NIC);
    let tx = port.ring(0);
    let (own, ..) = port.slot(tx, 0);
    port.set_slot(tx, 0, 99_999_999, 60, BUF_CHANGED);
    let (second, ..) = port.slot(tx, 1);
    port.set_slot(tx, 1, second, 5000, 0);
    port.advance(tx, 2);
    port.sync(Direction::Transmit);
    assert_eq!(next(&mut far), Some(vec![0; 60]), "buffer 0");
    assert_eq!(next(&mut far).map(|frame| frame.len()), Some(2048));
    port.set_slot(tx, 0, own, 60, BUF_CHANGED);
}

#[test]
fn a_full_ring_waits_or_loses_as_the_card_is_made() {
    for (overflow, left, missed) in [(Overflow::Wait, 3, 0), (Overflow::Drop, 0, 3)] {
        let (double, mut far, _stack) = machine(|spec| {
            spec.overflow = overflow;
            spec.rx_slots = 8;
        });
        let port = open(&double, "eth0", mode::ALL_NIC);
        assert!((0..10).all(|tag| far.send(&frame(tag))));
        port.sync(Direction::Receive);
        assert_eq!(port.positions(port.ring(2)).2, 7, "one slot less than there are");
        assert_eq!(double.nic_counters("eth0").unwrap().missed, missed);
        port.advance(port.ring(2), 7);
        port.sync(Direction::Receive);
        assert_eq!(double.nic_counters("eth0").unwrap().received, 7 + left);
    }
}

#[test]
fn a_link_that_is_reset_passes_nothing() {
    let (double, mut far, _stack) = machine(|spec| spec.link_reset = Duration::from_secs(3600));
    let port = open(&double, "eth0", mode::ALL_NIC);
    port.put(port.ring(0), 0, &frame(1), 0);
    port.advance(port.ring(0), 1);
    port.sync(Direction::Transmit);
    assert!(far.send(&frame(2)));
    port.sync(Direction::Receive);
    assert_eq!((next(&mut far), port.positions(port.ring(2)).2), (None, 0));
    double.end_link_reset("eth0").unwrap();
    port.sync(Direction::Transmit);
    assert_eq!(next(&mut far), Some(frame(1)));
    assert_eq!(double.nic_counters("eth0").unwrap().lost, 1);
}

#[test]
fn fragments_are_one_frame_but_for_the_generic_adapter() {
    for (quirks, frames) in [(vec![], 1), (vec![Quirk::Generic], 2)] {
        let is_generic = !quirks.is_empty();
        let (double, mut far, _stack) = machine(|spec| spec.quirks = quirks);
        let port = open(&double, "eth0", mode::ALL_NIC);
        let (tx, rx) = (port.ring(0), port.ring(2));
        port.put(tx, 0, &frame(1), MOREFRAG);
        port.put(tx, 1, &frame(2), 0);
        port.advance(tx, 2);
        port.sync(Direction::Transmit);
        assert_eq!(far.len(), frames);
        assert!(far.send(&[3; 3000]));
        port.sync(Direction::Receive);
        if is_generic {
            assert_eq!((port.slot(rx, 0).1, port.slot(rx, 0).2), (2048, MOREFRAG));
            assert_eq!((port.slot(rx, 1).1, port.slot(rx, 1).2), (952, 0));
        } else {
            assert_eq!(port.positions(rx), (0, 0, 0));
            assert_eq!(double.nic_counters("eth0").unwrap().bad_length, 1);
        }
    }
}
