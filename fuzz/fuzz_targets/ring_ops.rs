//! Any bytes are calls on both halves of a ring.
#![cfg_attr(fuzzing, no_main)]
usnet_fuzz::target!(usnet_fuzz::ring_ops::check);
