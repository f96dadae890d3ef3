//! Any bytes are a datagram on the control socket.
#![cfg_attr(fuzzing, no_main)]
usnet_fuzz::target!(usnet_fuzz::control::check);
