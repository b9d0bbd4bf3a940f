//! `RULES.md`, the table of the contract's rules, the tests that hold them and the mutants that break them, kept true.

use std::fs;
use std::path::{Path, PathBuf};

/// Where a rule comes from.
const MARKS: [&str; 4] = ["[S]", "[C]", "[S→C]", "[D]"];

/// Sections of the rules that no mutant breaks, in the order of the table: one says what a malformed id is answered
/// with, which is what an unknown one is answered with; two say what is not written anywhere, and one what a library
/// refuses.
const UNBROKEN: [&str; 4] = ["1, rule 4", "2.8", "3.2", "8.1.2"];

/// One row of the table.
#[derive(Debug)]
struct Row {
    section: String,
    mark: String,
    stores: String,
    /// `path::name`, the path relative to the repository.
    tests: Vec<(String, String)>,
    /// `file: what`, as cargo-mutants names it.
    mutant: Option<String>,
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
    let [section, _words, mark, stores, tests, mutant] = cells else { panic!("a row has six cells: {cells:?}") };
    let tests = tests.split("<br>").map(|test| test.trim().trim_matches('`')).filter(|test| !test.is_empty());
    let tests = tests.map(|test| {
        let (path, name) = test.rsplit_once("::").unwrap_or_else(|| panic!("{test}: not path::name"));
        (path.to_owned(), name.to_owned())
    });
    let text = |cell: &str| cell.to_owned();
    let mutant = (*mutant != "–").then(|| text(mutant.trim_matches('`')));
    Row { section: text(section), mark: text(mark), stores: text(stores), tests: tests.collect(), mutant }
}

/// The file of a mutant, and the function that it is in, without its type.
fn place_of(mutant: &str) -> (&str, Option<&str>) {
    let numberless = mutant.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
    let (file, what) = numberless.split_once(": ").unwrap_or_else(|| panic!("{mutant}: not file: what"));
    let whole = what.strip_prefix("replace ").unwrap_or_default();
    let whole = whole.split_once(" -> ").or_else(|| whole.split_once(" with ()")).map(|(function, _)| function);
    let function = what.rsplit_once(" in ").map(|(_, function)| function).or(whole);
    (file, function.and_then(|function| function.rsplit("::").next()))
}

/// Whether a function of that name is defined there.
fn has_function(source: &str, name: &str) -> bool {
    let mut definitions = source.split("fn ").skip(1).filter_map(|rest| rest.strip_prefix(name));
    definitions.any(|rest| rest.starts_with(['(', '<']))
}

/// Whether the file has a test of that name, which also runs: marked as one, or entered in a list of tests, here or in
/// the file above.
fn has_test(path: &str, name: &str) -> bool {
    let [source, above] = sources(path);
    if source.lines().any(|line| is_entry(line, name)) {
        return true;
    }
    let lines: Vec<_> = source.lines().map(str::trim_start).collect();
    let function = format!("fn {name}(");
    let place = lines
        .iter()
        .position(|line| line.strip_prefix("pub ").unwrap_or(line).trim_start_matches("async ").starts_with(&function));
    let Some(place) = place else { return false };
    let mut before = lines[..place].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("///"));
    before.any(|line| line.contains("test")) || above.lines().any(|line| is_entry(line, name))
}

/// The file, and the one above that may list its tests. Empty if they do not exist.
fn sources(path: &str) -> [String; 2] {
    let read = |path: &Path| fs::read_to_string(repository().join(path)).unwrap_or_default();
    let path = Path::new(path);
    [read(path), path.parent().map(|parent| read(&parent.with_extension("rs"))).unwrap_or_default()]
}

/// Whether a list that is tested with every store names the test.
fn runs_on_every_store(path: &str, name: &str) -> bool {
    let lists = ["macro_rules! every_rule", "on_every_store! {"];
    let mut sources = sources(path).into_iter().filter(|source| lists.iter().any(|list| source.contains(list)));
    sources.any(|source| source.lines().any(|line| is_entry(line, name)))
}

/// Whether a line of a list of tests names that one.
fn is_entry(line: &str, name: &str) -> bool {
    let words = line.trim().split(|c: char| !c.is_alphanumeric() && c != '_');
    !line.contains("fn ") && !line.trim_start().starts_with("//") && words.into_iter().any(|word| word == name)
}

#[test]
fn every_test_that_the_table_names_exists() {
    let rows = rows();
    assert!(rows.len() > 100, "the table has only {} rows", rows.len());
    let mut missing = Vec::new();
    for (path, name) in rows.iter().flat_map(|row| &row.tests) {
        if !has_test(path, name) {
            missing.push(format!("{path}::{name}"));
        }
    }
    assert!(missing.is_empty(), "no such tests:\n{}", missing.join("\n"));
}

#[test]
fn rules_that_a_store_could_break_are_tested_with_every_store() {
    let lacking = |row: &Row| match row.stores.as_str() {
        "each" => !row.tests.iter().any(|(path, name)| runs_on_every_store(path, name)),
        "MongoDB" | "none" => false,
        _ => true,
    };
    let lacking: Vec<_> = rows().into_iter().filter(lacking).collect();
    assert!(lacking.is_empty(), "not with every store, or not said for which: {lacking:#?}");
}

#[test]
fn every_rule_of_the_product_description_has_a_test() {
    let bare: Vec<_> = rows().into_iter().filter(|row| row.mark == "[S]" && row.tests.is_empty()).collect();
    assert!(bare.is_empty(), "no tests: {bare:#?}");
}

/// Numbers of the sections and rules of the page: of its headings, and of list items and rows of tables that begin with
/// one. Those of section 1 are cited as `1, rule 4`.
fn numbers_of_the_contract() -> Vec<String> {
    let page = fs::read_to_string(repository().join("docs/stream-api.md")).expect("the page is there");
    let leading = |text: &str| -> String { text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect() };
    let (mut numbers, mut section) = (Vec::new(), String::new());
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("##") {
            section = leading(heading.trim_start_matches(['#', ' '])).trim_end_matches('.').to_owned();
            numbers.push(section.clone());
        } else if let Some(rule) = line.strip_prefix("- **").or_else(|| line.strip_prefix("| ")).map(leading) {
            numbers.extend(Some(rule).filter(|rule| rule.starts_with(&format!("{section}."))));
        } else if let Some((rule, _)) = line.split_once(". **").filter(|_| section == "1") {
            numbers.push(format!("1, rule {rule}"));
        }
    }
    // Words, and the table of routes.
    numbers.retain(|number| !["", "0"].contains(&number.as_str()));
    numbers
}

#[test]
fn every_section_and_rule_of_the_contract_is_in_the_table() {
    let (rows, numbers) = (rows(), numbers_of_the_contract());
    assert!(numbers.len() > 100 && numbers.last().is_some_and(|last| last == "15.4"), "{numbers:?}");
    let within = |row: &Row, number: &str| {
        row.section.strip_prefix(number).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', ',']))
    };
    let bare: Vec<_> = numbers.iter().filter(|number| !rows.iter().any(|row| within(row, number))).collect();
    assert!(bare.is_empty(), "no row: {bare:?}");
    let unknown: Vec<_> = rows.iter().map(|row| &row.section).filter(|section| !numbers.contains(section)).collect();
    assert!(unknown.is_empty(), "no such rule: {unknown:?}");
}

#[test]
fn every_break_that_the_table_names_has_a_place() {
    let mut missing = Vec::new();
    for mutant in rows().iter().filter_map(|row| row.mutant.as_deref()) {
        let (file, function) = place_of(mutant);
        let source = fs::read_to_string(repository().join(file)).unwrap_or_default();
        if source.is_empty() || function.is_some_and(|function| !has_function(&source, function)) {
            missing.push(mutant.to_owned());
        }
    }
    assert!(missing.is_empty(), "no such place:\n{}", missing.join("\n"));
}

#[test]
fn hardly_a_rule_is_without_a_break() {
    let unbroken: Vec<_> = rows().into_iter().filter(|row| row.mutant.is_none()).map(|row| row.section).collect();
    assert_eq!(unbroken, UNBROKEN);
}
