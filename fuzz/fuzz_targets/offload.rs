//! Any bytes are a frame with what its sender left to do of it.
#![cfg_attr(fuzzing, no_main)]
usnet_fuzz::target!(usnet_fuzz::offload::check);
