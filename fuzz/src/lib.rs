//! The bodies of the fuzz targets, and frames to begin with.
//!
//! A target is a function from bytes to nothing that panics on a violated promise. It is named in
//! [`TARGETS`], has a module here, one line in `fuzz_targets/`, a `[[bin]]` in `Cargo.toml`, and two
//! folders: `corpus/<name>` to begin with and `regressions/<name>` for every input that once failed.
//! `tests/replay.rs` runs both on a stable compiler and sees to it that no target lacks a part.

pub mod classify;
pub mod control;
pub mod corpus;
pub mod frames;
pub mod hostile_peer;
pub mod ledger;
pub mod netmap_ring;
pub mod offload;
pub mod ring_ops;
pub mod steer;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

/// Checks one input; panics if a promise is broken.
pub type Check = fn(&[u8]);

/// Every fuzz target, by the name of its binary and of its folders.
pub const TARGETS: &[(&str, Check)] = &[
    ("classify", classify::check),
    ("control", control::check),
    ("hostile_peer", hostile_peer::check),
    ("ledger", ledger::check),
    ("netmap_ring", netmap_ring::check),
    ("offload", offload::check),
    ("ring_ops", ring_ops::check),
    ("steer", steer::check),
];

/// The folder of this crate.
#[must_use]
pub fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The inputs in a folder, sorted by name. A `.txt` beside an input is about it, not one itself.
///
/// # Errors
///
/// Of reading the folder.
pub fn inputs(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut inputs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            inputs.push(path);
        }
    }
    inputs.sort();
    Ok(inputs)
}

/// Gives the files named on the command line to `check`, one after the other: how a failing input is
/// looked at without `cargo fuzz`. Ends with failure if a file cannot be read or none is named.
pub fn run_files(check: Check) -> ExitCode {
    let mut files = env::args_os().skip(1).map(PathBuf::from).peekable();
    if files.peek().is_none() {
        eprintln!("usage: name files to run; to fuzz: cargo +nightly fuzz run TARGET");
        return ExitCode::FAILURE;
    }
    for file in files {
        match fs::read(&file) {
            Ok(data) => check(&data),
            Err(error) => {
                eprintln!("cannot read {}: {error}", file.display());
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// The whole of a file in `fuzz_targets/`: libFuzzer's entry under `cargo fuzz`, and otherwise a
/// program that runs the files it is given.
#[macro_export]
macro_rules! target {
    ($check:path) => {
        #[cfg(fuzzing)]
        ::libfuzzer_sys::fuzz_target!(|data: &[u8]| $check(data));

        #[cfg(not(fuzzing))]
        fn main() -> ::std::process::ExitCode {
            $crate::run_files($check)
        }
    };
}
