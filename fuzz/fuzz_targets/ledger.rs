//! Any bytes are calls on a pool.
#![cfg_attr(fuzzing, no_main)]
usnet_fuzz::target!(usnet_fuzz::ledger::check);
