//! Random programs of everything that can be done to a switch: nothing is lost, nothing grows.

use crate::support::operations;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn frames_and_slots_are_conserved_whatever_happens(program in vec(any::<u8>(), 0..700)) {
        operations::check(&program);
    }

    /// Two operations a client come first, so that fewer bytes are wasted on an empty switch: it is
    /// attached, most of them to one group, and has a port that the others send to.
    #[test]
    fn frames_and_slots_are_conserved_among_clients(
        shape in any::<u8>(),
        modes in vec(select(vec![0u8, 2, 3, 3, 3, 4, 7]), 4),
        program in vec(any::<u8>(), 100..900),
    ) {
        let mut bytes = vec![shape];
        for (who, mode) in (0u8..).zip(&modes) {
            bytes.extend([13, who, *mode, 7]);
            // Interface 0, the shared address, UDP, to itself, port by its number.
            bytes.extend([15, who, 0, 0, 0, 1, who]);
        }
        bytes.extend(program);
        operations::check(&bytes);
    }
}
