//! What enters through dependencies is what `deny.toml` allows: licences, sources, no crate twice, none
//! that is banned. Offline, so that it runs wherever the tests do.

use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use toml::Value as Toml;

/// `cargo metadata`, restricted to the platform that usnet runs on.
fn metadata() -> Json {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--offline", "--locked"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata failed:\n{words}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn rules() -> Toml {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    Toml::Table(text.parse().unwrap())
}

fn strings(list: &Toml) -> BTreeSet<&str> {
    list.as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect()
}

/// Names in a list of `{ crate = "name@version" }`.
fn crates(list: &Toml) -> BTreeSet<&str> {
    list.as_array().unwrap().iter().map(|t| t["crate"].as_str().unwrap()).collect()
}

/// Packages that a build, its tests and benches can use on this platform.
fn packages(metadata: &Json) -> Vec<&Json> {
    let used: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["id"].as_str().unwrap())
        .collect();
    let all = metadata["packages"].as_array().unwrap();
    all.iter().filter(|p| used.contains(p["id"].as_str().unwrap())).collect()
}

/// Whether an SPDX expression can be met with the allowed licences: `OR` and the old `/` need one
/// side, `AND` both.
fn allows(allowed: &BTreeSet<&str>, expression: &str) -> bool {
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = expression.split_whitespace().collect();
    let (met, rest) = any_of(allowed, &words);
    assert!(rest.is_empty(), "cannot read the licence {expression:?}");
    met
}

fn any_of<'a, 'w>(allowed: &BTreeSet<&str>, words: &'w [&'a str]) -> (bool, &'w [&'a str]) {
    let (mut met, mut rest) = all_of(allowed, words);
    while let ["OR", after @ ..] = rest {
        let (also, after) = all_of(allowed, after);
        (met, rest) = (met | also, after);
    }
    (met, rest)
}

fn all_of<'a, 'w>(allowed: &BTreeSet<&str>, words: &'w [&'a str]) -> (bool, &'w [&'a str]) {
    let (mut met, mut rest) = one(allowed, words);
    while let ["AND", after @ ..] = rest {
        let (also, after) = one(allowed, after);
        (met, rest) = (met & also, after);
    }
    (met, rest)
}

fn one<'a, 'w>(allowed: &BTreeSet<&str>, words: &'w [&'a str]) -> (bool, &'w [&'a str]) {
    match words {
        ["(", inner @ ..] => match any_of(allowed, inner) {
            (met, [")", rest @ ..]) => (met, rest),
            (_, rest) => (false, rest),
        },
        [name, "WITH", exception, rest @ ..] => {
            (allowed.contains(format!("{name} WITH {exception}").as_str()), rest)
        }
        [name, rest @ ..] => (allowed.contains(name), rest),
        [] => (false, words),
    }
}

#[test]
fn every_licence_is_one_that_is_allowed() {
    let (metadata, rules) = (metadata(), rules());
    let allowed = strings(&rules["licenses"]["allow"]);
    for package in packages(&metadata) {
        let name = &package["name"];
        let licence = package["license"].as_str();
        let licence = licence.unwrap_or_else(|| panic!("{name} does not name its licence"));
        assert!(allows(&allowed, licence), "{name} is under {licence}");
    }
}

#[test]
fn a_licence_expression_is_read_as_spdx_says() {
    let allowed = BTreeSet::from(["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"]);
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("GPL-3.0-only OR MIT", true),
        ("GPL-3.0-only/MIT", true),
        ("GPL-3.0-only AND MIT", false),
        ("GPL-3.0-only AND MIT OR Zlib", true),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", false),
        ("(MIT OR Apache-2.0) AND Zlib", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
    ] {
        assert_eq!(allows(&allowed, expression), met, "{expression}");
    }
}

#[test]
fn every_package_comes_from_here_or_from_the_registry() {
    let (metadata, rules) = (metadata(), rules());
    let allowed: BTreeSet<String> = strings(&rules["sources"]["allow-registry"])
        .iter()
        .map(|url| format!("registry+{url}"))
        .collect();
    for package in packages(&metadata) {
        if let Some(source) = package["source"].as_str() {
            assert!(allowed.contains(source), "{} comes from {source}", package["name"]);
        }
    }
}

#[test]
fn no_crate_is_banned_or_there_twice() {
    let (metadata, rules) = (metadata(), rules());
    let (banned, skipped) = (crates(&rules["bans"]["deny"]), crates(&rules["bans"]["skip"]));
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages(&metadata) {
        let (name, version) =
            (package["name"].as_str().unwrap(), package["version"].as_str().unwrap());
        assert!(!banned.contains(name), "{name} is banned in deny.toml");
        let major = version.split('.').next().unwrap_or_default();
        if !skipped.contains(format!("{name}@{major}").as_str()) {
            versions.entry(name).or_default().push(version);
        }
    }
    for (name, versions) in versions {
        assert!(versions.len() < 2, "{name} is there as {versions:?}; see [bans] in deny.toml");
    }
}
