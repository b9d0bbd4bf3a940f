//! What clients were seen to do, and the table of it in `docs/clients.md`.
//!
//! The table is committed and made by these tests: `make test-clients` writes the rows that it ran. Any run fails when
//! the table claims more than the run saw.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::stack::Mode;

/// Set to have rows written instead of compared.
const WRITE_VARIABLE: &str = "ONAIR_WRITE_CLIENTS";

/// Columns after client, stack and version.
const COLUMNS: [&str; 6] = ["v0", "v1", "publish", "view", "data", "resume"];

/// One client's line of the table.
pub struct Row {
    name: &'static str,
    stack: &'static str,
    pub version: Option<String>,
    seen: Vec<(Mode, Seen)>,
}

/// What a client did in one mode; `None` where it cannot.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    publish: bool,
    view: bool,
    data: bool,
    resume: Option<bool>,
}

impl Seen {
    /// From its report as a publisher, that of who viewed it, and its report as a viewer.
    pub fn of(publisher: &Value, its_viewer: &Value, viewer: &Value) -> Self {
        // That media goes on after the publisher's resume is seen by its viewer.
        let resumes = [(publisher, its_viewer), (viewer, viewer)]
            .map(|(client, witness)| client["resume"].as_bool().map(|resumed| resumed && witness["ok"] == true));
        Self {
            publish: publisher["publish"] == true && its_viewer["view"] == true,
            view: viewer["view"] == true,
            data: publisher["data"] == true && viewer["data"] == true,
            resume: resumes.iter().any(Option::is_some).then(|| resumes.iter().all(|one| *one == Some(true))),
        }
    }
}

impl Row {
    pub fn new(name: &'static str, stack: &'static str) -> Self {
        Self { name, stack, version: None, seen: Vec::new() }
    }

    pub fn saw(&mut self, mode: Mode, seen: Seen) {
        self.seen.push((mode, seen));
    }

    /// Compares it with the committed table, or writes it there when that was asked for.
    ///
    /// # Panics
    ///
    /// When the table claims more; `failures` says why it was not seen.
    pub fn is_as_committed(&self, failures: &str) {
        static TABLE: Mutex<()> = Mutex::new(());
        let _turn = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
        let text = std::fs::read_to_string(path()).expect("docs/clients.md is there");
        let line = text.lines().find(|line| self.is_of(line));
        if std::env::var_os(WRITE_VARIABLE).is_some() {
            let line =
                line.unwrap_or_else(|| panic!("docs/clients.md has no line that begins with {:?}", self.begin()));
            std::fs::write(path(), text.replace(line, &self.line())).expect("docs/clients.md is writable");
        }
        let claimed = line.map(cells).unwrap_or_default();
        let missing: Vec<_> =
            COLUMNS.iter().filter(|column| !self.claimed(&claimed, column).is_subset(&self.shown(column))).collect();
        assert!(
            missing.is_empty() && line.is_some(),
            "docs/clients.md claims more than this run saw, in {missing:?}:\n{}\nseen:\n{}\n{failures}",
            line.unwrap_or("no line"),
            self.line(),
        );
        if failures.is_empty() {
            return;
        }
        // What the table does not claim is no failure, but is not passed over in silence either.
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            format!("clients: {} does not do all: {}\n", self.name, self.line()).as_bytes(),
        );
    }

    fn begin(&self) -> String {
        format!("| {} |", self.name)
    }

    fn is_of(&self, line: &str) -> bool {
        line.starts_with(&self.begin())
    }

    fn modes(&self) -> BTreeSet<Mode> {
        self.seen.iter().map(|(mode, _)| *mode).collect()
    }

    /// The modes in which it did that.
    fn shown(&self, column: &str) -> BTreeSet<Mode> {
        self.in_modes(|mode, seen| match column {
            "v0" => mode == Mode::V0 && (seen.publish || seen.view),
            "v1" => mode == Mode::V1 && (seen.publish || seen.view),
            "publish" => seen.publish,
            "view" => seen.view,
            "data" => seen.data,
            "resume" => seen.resume == Some(true),
            other => unreachable!("there is no column {other}"),
        })
    }

    fn in_modes(&self, is: impl Fn(Mode, Seen) -> bool) -> BTreeSet<Mode> {
        self.seen.iter().filter(|(mode, seen)| is(*mode, *seen)).map(|(mode, _)| *mode).collect()
    }

    /// The modes in which the committed line says that it does.
    fn claimed(&self, cells: &[String], column: &str) -> BTreeSet<Mode> {
        let at = COLUMNS.iter().position(|one| *one == column).expect("it is one of them");
        let cell = cells.get(at).map(String::as_str).unwrap_or_default();
        match (cell, column) {
            ("yes", "v0") | ("v0 only", _) => [Mode::V0].into(),
            ("yes", "v1") | ("v1 only", _) => [Mode::V1].into(),
            ("yes", _) => self.modes(),
            _ => BTreeSet::new(),
        }
    }

    fn line(&self) -> String {
        let version = self.version.as_deref().unwrap_or("?");
        let mut line = format!("{} {} | {version} |", self.begin(), self.stack);
        for column in COLUMNS {
            write!(line, " {} |", self.cell(column)).expect("a string takes all");
        }
        line
    }

    fn cell(&self, column: &str) -> &'static str {
        let possible = self.in_modes(|mode, seen| match column {
            "v0" => mode == Mode::V0,
            "v1" => mode == Mode::V1,
            "resume" => seen.resume.is_some(),
            _ => true,
        });
        let shown: Vec<_> = self.shown(column).into_iter().collect();
        match shown[..] {
            [] if possible.is_empty() => "–",
            [] => "no",
            [_] if ["v0", "v1"].contains(&column) => "yes",
            [Mode::V0] if self.modes().len() > 1 => "v0 only",
            [Mode::V1] if self.modes().len() > 1 => "v1 only",
            _ => "yes",
        }
    }
}

/// The cells of a line from the first of [`COLUMNS`] on.
fn cells(line: &str) -> Vec<String> {
    line.split('|').skip(4).map(|cell| cell.trim().to_owned()).collect()
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/clients.md")
}
