//! Any bytes are things done to a switch.
#![cfg_attr(fuzzing, no_main)]
usnet_fuzz::target!(usnet_fuzz::steer::check);
