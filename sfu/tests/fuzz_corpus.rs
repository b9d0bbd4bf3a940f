//! Replays the committed fuzz corpora, so that ordinary tests need neither nightly nor a fuzzer.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use sfu::fuzzing::TARGETS;

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names_in(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).expect("the directory is committed");
    entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_file_of_every_corpus_is_taken() {
    for (name, entry) in TARGETS {
        let corpus = fuzz_dir().join("corpus").join(name);
        let mut files = 0;
        for file in fs::read_dir(&corpus).expect("every target has a corpus") {
            let path = file.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let taken = std::panic::catch_unwind(|| entry(&bytes));
            assert!(taken.is_ok(), "{} makes the target panic", path.display());
            files += 1;
        }
        assert!(files > 0, "the corpus of {name} is empty");
    }
}

#[test]
fn targets_and_corpora_go_by_the_names_of_the_entry_functions() {
    let entries: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names_in(&fuzz_dir().join("fuzz_targets")), entries);
    assert_eq!(names_in(&fuzz_dir().join("corpus")), entries);
}
