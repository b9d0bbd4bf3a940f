//! Tokens and requests to join that nobody should send: they are refused, and nothing panics.
//!
//! The fuzz target `admission` (`fuzz/fuzz_targets/admission.rs`) asks the same; its corpus is replayed here.

#[path = "../fuzz/admission.rs"]
mod admission;

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

#[test]
fn the_corpus_of_the_fuzz_target_is_survived() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/admission");
    let corpus: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(corpus.len() >= 5);
    for path in corpus {
        println!("{}", path.display());
        let good = admission::ask(&fs::read(&path).unwrap());
        // Parameters are good on `/rtc` alone, and so is anything without parameters; a join request is on both paths.
        let expected = if path.ends_with("v1-plain") || path.ends_with("v1-gzip") { 6 } else { 2 };
        assert_eq!(good, expected);
    }
}

proptest! {
    #[test]
    fn random_bytes_are_survived(input: Vec<u8>) {
        admission::ask(&input);
    }

    #[test]
    fn random_parameters_are_survived(values in proptest::collection::vec(".{0,40}", 6)) {
        let names = ["attributes", "publish", "protocol", "capabilities", "sid", "reconnect"];
        let lines: Vec<String> = names.iter().zip(values).map(|(name, value)| format!("{name}={value}")).collect();
        admission::ask(lines.join("\n").as_bytes());
    }
}
