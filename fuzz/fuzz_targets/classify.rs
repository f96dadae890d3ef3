//! Any bytes are a frame.
#![cfg_attr(fuzzing, no_main)]
usnet_fuzz::target!(usnet_fuzz::classify::check);
