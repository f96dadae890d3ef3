//! Random programs of everything that can be done to a switch: nothing is lost, nothing grows.

use crate::support::operations;
use proptest::collection::vec;
use proptest::prelude::*;

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

    /// Two operations of attaching come first, so that fewer bytes are wasted on an empty switch.
    #[test]
    fn frames_and_slots_are_conserved_among_clients(
        shape in any::<u8>(),
        modes in vec(0u8..8, 4),
        program in vec(any::<u8>(), 100..900),
    ) {
        let mut bytes = vec![shape];
        for (who, mode) in (0u8..).zip(&modes) {
            // Attach, then a port each at the shared address.
            bytes.extend([13, who, *mode, 7]);
            bytes.extend([15, who, 0, 0, 0, who, 1]);
        }
        bytes.extend(program);
        operations::check(&bytes);
    }
}
