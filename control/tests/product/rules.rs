//! `RULES.md`, the table of the contract's rules and the tests that hold them, kept true.

use std::fs;
use std::path::{Path, PathBuf};

/// Where a rule comes from.
const MARKS: [&str; 4] = ["[S]", "[C]", "[S→C]", "[D]"];

/// One row of the table.
#[derive(Debug)]
struct Row {
    section: String,
    mark: String,
    /// `path::name`, the path relative to the repository.
    tests: Vec<(String, String)>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rows() -> Vec<Row> {
    let table = fs::read_to_string(repository().join("control/tests/RULES.md")).expect("the table is there");
    let cells = table.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = cells.map(|line| line.split(" | ").map(str::trim).collect::<Vec<_>>());
    rows.filter(|cells| MARKS.contains(&cells.get(2).copied().unwrap_or_default())).map(|cells| row(&cells)).collect()
}

fn row(cells: &[&str]) -> Row {
    let [section, _words, mark, tests] = cells else { panic!("a row has four cells: {cells:?}") };
    let tests = tests.split("<br>").map(|test| test.trim().trim_matches('`')).filter(|test| !test.is_empty());
    let tests = tests.map(|test| {
        let (path, name) = test.rsplit_once("::").unwrap_or_else(|| panic!("{test}: not path::name"));
        (path.to_owned(), name.to_owned())
    });
    Row { section: (*section).to_owned(), mark: (*mark).to_owned(), tests: tests.collect() }
}

/// Whether the source has a test of that name.
fn has_test(source: &str, name: &str) -> bool {
    let name = format!("fn {name}(");
    source
        .lines()
        .any(|line| line.trim_start().trim_start_matches("pub ").trim_start_matches("async ").starts_with(&name))
}

#[test]
fn every_test_that_the_table_names_exists() {
    let rows = rows();
    assert!(rows.len() > 100, "the table has only {} rows", rows.len());
    let mut missing = Vec::new();
    for (path, name) in rows.iter().flat_map(|row| &row.tests) {
        let source = fs::read_to_string(repository().join(path)).unwrap_or_default();
        if !has_test(&source, name) {
            missing.push(format!("{path}::{name}"));
        }
    }
    assert!(missing.is_empty(), "no such tests:\n{}", missing.join("\n"));
}

#[test]
fn every_rule_of_the_product_description_has_a_test() {
    let bare: Vec<_> = rows().into_iter().filter(|row| row.mark == "[S]" && row.tests.is_empty()).collect();
    assert!(bare.is_empty(), "no tests: {bare:#?}");
}

#[test]
fn every_section_of_the_contract_is_in_the_table() {
    let rows = rows();
    for section in 1..=13 {
        let prefix = format!("{section}.");
        let covered = rows.iter().any(|row| row.section == section.to_string() || row.section.starts_with(&prefix));
        assert!(covered, "section {section} has no row");
    }
}
