//! What the documents say of the source is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Files of the project with this ending, relative to its root; build output is left out.
fn files(ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            let skipped = name.starts_with('.') || matches!(&*name, "target" | "corpus");
            if entry.file_type().unwrap().is_dir() {
                if !skipped {
                    folders.push(path);
                }
            } else if name.ends_with(ending) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The part of a document under a heading.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text.find(heading).unwrap_or_else(|| panic!("no heading {heading:?}"));
    let body = &text[start + heading.len()..];
    body.find("\n## ").map_or(body, |end| &body[..end])
}

/// First cells of the rows of the first table in `text`.
fn first_cells(text: &str) -> Vec<&str> {
    text.lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .filter_map(|line| line.trim_matches('|').split('|').next())
        .map(|cell| cell.trim().trim_matches('`'))
        .collect()
}

#[test]
fn architecture_lists_every_file_with_unsafe() {
    // The lint makes each of them say so in its head; here only the code counts.
    let is_unsafe = |line: &str| {
        let code = line.trim_start();
        let marks = ["{", "impl ", "fn ", "extern "].map(|next| ["unsafe", next].join(" "));
        !code.starts_with("//") && marks.iter().any(|mark| code.contains(mark))
    };
    let with_unsafe: BTreeSet<String> = files(".rs")
        .iter()
        .map(|path| path.to_string_lossy().into_owned())
        .filter(|path| read(path).lines().any(is_unsafe))
        .collect();
    let text = read("ARCHITECTURE.md");
    let listed: BTreeSet<String> = first_cells(section(&text, "\n## Files with unsafe"))
        .into_iter()
        .map(ToOwned::to_owned)
        .collect();
    assert_eq!(listed, with_unsafe);
}

#[test]
fn the_protocol_names_every_drop_reason() {
    let source = read("switch/src/verdict.rs");
    let coded: Vec<&str> = section(&source, "\ndrop_reasons! {")
        .lines()
        .filter_map(|line| line.split_once("=> \"")?.1.split('"').next())
        .collect();
    let protocol = read("docs/protocol.md");
    assert!(coded.len() > 10, "the reasons were not found");
    assert_eq!(first_cells(section(&protocol, "\n### Drop reasons")), coded);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut links = 0;
    for document in files(".md") {
        let text = read(&document.to_string_lossy());
        let folder = root().join(&document).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if !link.contains("://") && !path.is_empty() {
                assert!(folder.join(path).exists(), "{}: {link}", document.display());
                links += 1;
            }
        }
    }
    assert!(links > 0);
}

/// How many tests the tables of a document name, each of which exists.
fn named_tests(text: &str) -> usize {
    let mut tests = 0;
    for row in text.lines().filter(|line| line.starts_with("| ") && !line.contains("| tests |")) {
        let named: Vec<_> = row.split('`').filter_map(|part| part.split_once(".rs::")).collect();
        let is_open = row.contains("| open:");
        assert!(is_open || !named.is_empty(), "what shows it? {row}");
        for (file, test) in named {
            let source = read(&format!("{file}.rs"));
            let is_test = source.split("#[test]").skip(1).any(|rest| {
                let function = rest.split_once("fn ").map_or("", |(_, function)| function);
                function.strip_prefix(test).is_some_and(|rest| rest.starts_with('('))
            });
            assert!(is_test, "no test {test} in {file}.rs");
            tests += 1;
        }
    }
    tests
}

#[test]
fn every_row_of_the_predecessor_is_there_once_and_its_tests_exist() {
    let text = read("docs/predecessor-parity.md");
    let numbers = first_cells(&text);
    let expected: Vec<String> = (1..=66).map(|n| format!("U{n}")).collect();
    assert_eq!(numbers, expected);
    assert!(named_tests(&text) > 66);
}

#[test]
fn every_attack_of_the_list_is_tried_by_tests_that_exist() {
    let text = read("docs/attacks.md");
    let numbers = first_cells(&text);
    let expected: Vec<String> = (1..=7).chain([14, 15, 19]).map(|n: u32| format!("D{n}")).collect();
    assert_eq!(numbers, expected);
    assert!(named_tests(&text) > expected.len());
}
