//! Runs every target over its corpus and its regressions on a stable compiler.

use std::fs;
use std::path::Path;
use usnet_fuzz::{Check, TARGETS, corpus, home, inputs};

fn replay(folder: &Path, check: Check) -> usize {
    let inputs = inputs(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for input in &inputs {
        // The name stands above the panic of an input that fails.
        println!("{}", input.display());
        check(&fs::read(input).unwrap());
    }
    inputs.len()
}

#[test]
fn no_input_of_a_corpus_breaks_a_promise() {
    for (name, check) in TARGETS {
        let count = replay(&home().join("corpus").join(name), *check);
        assert!(count > 0, "{name} has nothing to begin with");
    }
}

#[test]
fn no_input_that_once_failed_fails_again() {
    for (name, check) in TARGETS {
        let folder = home().join("regressions").join(name);
        replay(&folder, *check);
        for input in inputs(&folder).unwrap() {
            let story = input.with_extension("txt");
            assert!(story.exists(), "{} says what it was", story.display());
        }
    }
}

#[test]
fn every_target_has_a_binary_and_every_binary_a_target() {
    let manifest = fs::read_to_string(home().join("Cargo.toml")).unwrap();
    let mut binaries: Vec<_> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""))
        .collect();
    binaries.sort_unstable();
    let mut targets: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    targets.sort_unstable();
    assert_eq!(binaries, targets);
}

#[test]
fn no_real_frame_breaks_a_promise_of_the_classifier() {
    let mut count = 0;
    for frame in corpus::ethernet() {
        usnet_fuzz::classify::check(frame.bytes);
        count += 1;
    }
    assert_eq!(count, 5643);
}
