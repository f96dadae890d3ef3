//! Any bytes are what stands in netmap's rings.
#![cfg_attr(fuzzing, no_main)]
usnet_fuzz::target!(usnet_fuzz::netmap_ring::check);
