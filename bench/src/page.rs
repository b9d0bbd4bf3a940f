//! The tables of this crate's page, made from the committed results of comparisons, so that no figure is copied by
//! hand.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::compare::{Comparison, Measured, cell};

/// Around what is made.
const BEGIN: &str = "<!-- From here `bench page` writes: one table for each file of results/. -->";
const END: &str = "<!-- To here `bench page` writes. -->";

/// Writes the tables of all results into the page, between its marks. `false`: it had them already.
///
/// # Errors
///
/// When a file cannot be read or is no result, or the page has no marks.
pub fn update(page: &Path, results: &Path) -> anyhow::Result<bool> {
    let old = fs::read_to_string(page).with_context(|| format!("reading {}", page.display()))?;
    let new = with_tables(&old, &tables(results)?).with_context(|| page.display().to_string())?;
    if new != old {
        fs::write(page, &new).with_context(|| format!("writing {}", page.display()))?;
    }
    Ok(new != old)
}

fn with_tables(page: &str, tables: &str) -> anyhow::Result<String> {
    let missing = || format!("there is no line {BEGIN:?} with {END:?} after it");
    let (before, rest) = page.split_once(BEGIN).with_context(missing)?;
    let (_, after) = rest.split_once(END).with_context(missing)?;
    Ok(format!("{before}{BEGIN}\n\n{tables}{END}{after}"))
}

/// The sections of all results, by the files' names.
fn tables(results: &Path) -> anyhow::Result<String> {
    let entries = fs::read_dir(results).with_context(|| format!("reading {}", results.display()))?;
    let paths: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let mut text = String::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let json = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let measured: Measured = serde_json::from_str(&json).with_context(|| format!("{name} is no comparison"))?;
        ensure!(!measured.names.is_empty() && !measured.rounds.is_empty(), "{name} has no servers or no rounds");
        text += &section(&name, &Comparison::of(measured));
    }
    if text.is_empty() {
        text += "No results are committed yet.\n\n";
    }
    Ok(text)
}

fn section(file: &str, comparison: &Comparison) -> String {
    let Measured { names, date, subscribers, duration_s, joins_per_second, load_arguments, machine, rounds, .. } =
        &comparison.measured;
    let against = names.get(1).map_or("the floor", String::as_str);
    let mut text = format!("### {subscribers} viewers: {} against {against}\n\n", names[0]);
    let mut line = |line: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    };
    let arguments = match load_arguments.as_slice() {
        [] => String::new(),
        arguments => format!(", `{}`", arguments.join(" ")),
    };
    line(format!(
        "Raw data: [{file}](results/{file}), of {date}. Medians (min..max); ratios are taken within a round."
    ));
    line(format!("{} rounds of {duration_s} s in turns, {joins_per_second} joins a second{arguments}.", rounds.len()));
    line(format!("{machine} at the end, {} in the rounds.\n", cell(comparison.load_average)));
    let columns = comparison.columns();
    line(format!("| | {} |", columns.join(" | ")));
    line(format!("|---|{}", "---|".repeat(columns.len())));
    for (name, mut cells) in comparison.lines() {
        cells.resize(columns.len(), String::new());
        // The indentation is the plain table's.
        let name = name.strip_prefix("  ").map_or_else(|| name.to_owned(), |part| format!("… {part}"));
        line(format!("| {name} | {} |", cells.join(" | ")));
    }
    line(String::new());
    let caveats = comparison.caveats();
    for caveat in &caveats {
        line(format!("- Mind: {caveat}."));
    }
    if !caveats.is_empty() {
        line(String::new());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Metrics, Round};

    /// A result with one figure, as `bench compare` writes it.
    fn result(cpu_us_per_packet: f64) -> String {
        let server = Metrics { cpu_us_per_packet: Some(cpu_us_per_packet), complete: true, ..Metrics::default() };
        let measured = Measured {
            names: vec!["onair".into()],
            date: "2026-11-29".into(),
            subscribers: 7,
            rounds: vec![Round { servers: vec![server], floor_us_per_packet: 1.0, ..Round::default() }],
            ..Measured::default()
        };
        serde_json::to_string(&Comparison::of(measured)).unwrap()
    }

    /// A page and a directory of results for one test.
    struct Files(std::path::PathBuf);

    impl Files {
        fn new(test: &str) -> Self {
            let directory = std::env::temp_dir().join(format!("bench-page-{test}-{}", std::process::id()));
            fs::create_dir_all(directory.join("results")).unwrap();
            fs::write(directory.join("page.md"), format!("above\n{BEGIN}\nold\n{END}\nbelow\n")).unwrap();
            Self(directory)
        }

        fn put(&self, name: &str, text: &str) {
            fs::write(self.0.join("results").join(name), text).unwrap();
        }

        fn update(&self) -> anyhow::Result<bool> {
            update(&self.0.join("page.md"), &self.0.join("results"))
        }

        fn page(&self) -> String {
            fs::read_to_string(self.0.join("page.md")).unwrap()
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            // A directory left behind does no harm.
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_tables_of_the_page_say_what_the_committed_results_say() {
        let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let page = fs::read_to_string(crate_root.join("README.md")).unwrap();
        let made = with_tables(&page, &tables(&crate_root.join("results")).unwrap()).unwrap();
        assert!(page == made, "the tables of bench/README.md are not those of bench/results: run `bench page`");
    }

    #[test]
    fn a_result_that_changes_changes_the_page_between_its_marks_only() {
        let files = Files::new("changes");
        files.put("b.json", &result(2.5));
        assert!(files.update().unwrap());
        let page = files.page();
        assert!(page.contains("| CPU µs a packet | 2.50 (2.50..2.50) |"), "{page}");
        assert!(page.contains("[b.json](results/b.json), of 2026-11-29"), "{page}");
        assert!(page.starts_with("above\n") && page.ends_with(&format!("{END}\nbelow\n")) && !page.contains("old"));
        assert!(!files.update().unwrap(), "it has these tables already");

        files.put("a.json", &result(3.5));
        assert!(files.update().unwrap());
        assert!(files.page().find("3.50") < files.page().find("2.50"), "by the files' names");
    }

    #[test]
    fn what_is_no_result_is_named_and_a_page_without_marks_stays_as_it_is() {
        let files = Files::new("refused");
        files.put("broken.json", "{}");
        assert!(format!("{:#}", files.update().unwrap_err()).contains("broken.json"));
        files.put("broken.json", &result(1.0));
        fs::write(files.0.join("page.md"), "no marks").unwrap();
        assert!(format!("{:#}", files.update().unwrap_err()).contains("no line"));
        assert_eq!(files.page(), "no marks");
    }
}
