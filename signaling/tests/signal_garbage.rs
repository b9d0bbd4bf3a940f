//! Messages that nobody should send: each is read, passed over or refused, and nothing panics.
//!
//! The fuzz target `signal` (`fuzz/fuzz_targets/signal.rs`) does the same; its corpus is replayed here.

#[path = "../fuzz/signal.rs"]
mod signal;

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

fn corpus() -> Vec<PathBuf> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/signal");
    let mut corpus: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    corpus.sort();
    corpus
}

#[test]
fn the_corpus_of_the_fuzz_target_is_survived() {
    assert!(corpus().len() >= 10);
    for path in corpus() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let for_rooms = signal::read(&fs::read(&path).unwrap());
        let expected = usize::from(name.starts_with("room-"));
        assert_eq!(for_rooms, expected, "{name}");
    }
}

proptest! {
    #[test]
    fn damaged_messages_are_survived(which: prop::sample::Index, at: prop::sample::Index, with: u8, cut: bool) {
        let corpus = corpus();
        let mut bytes = fs::read(which.get(&corpus)).unwrap();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = with;
            if cut {
                bytes.truncate(at);
            }
        }
        signal::read(&bytes);
    }
}
