//! Any bytes are what a hostile client does.
#![cfg_attr(fuzzing, no_main)]
usnet_fuzz::target!(usnet_fuzz::hostile_peer::check);
