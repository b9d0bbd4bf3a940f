//! Descriptions that nobody should write: whatever comes, the negotiation refuses it or answers well-formed.
//!
//! The fuzz target `sdp` (`fuzz/fuzz_targets/sdp.rs`) runs the same conversation; its corpus is replayed here.

#[path = "../fuzz/conversation.rs"]
mod conversation;
#[path = "negotiation/view.rs"]
#[expect(dead_code, reason = "shared with a test that uses more of it")]
mod view;

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use view::{recorded, recorded_names};

fn corpus() -> Vec<(String, Vec<u8>)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/sdp");
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect()
}

#[test]
fn the_corpus_of_the_fuzz_target_is_survived() {
    let corpus = corpus();
    assert!(corpus.len() > 5);
    for (name, input) in corpus {
        println!("{name}");
        conversation::hold(&input);
    }
}

#[test]
fn every_recorded_description_is_survived_in_every_role() {
    for name in recorded_names("") {
        conversation::hold(recorded(&name).as_bytes());
    }
}

/// One way to spoil a text by lines.
#[derive(Debug, Clone)]
enum Damage {
    Remove(usize),
    Repeat(usize),
    Move(usize, usize),
    /// Cut behind so many bytes.
    Cut(usize, usize),
    Replace(usize, usize, char),
}

fn damage() -> impl Strategy<Value = Damage> {
    let line = 0..1000_usize;
    prop_oneof![
        line.clone().prop_map(Damage::Remove),
        line.clone().prop_map(Damage::Repeat),
        (line.clone(), line.clone()).prop_map(|(from, to)| Damage::Move(from, to)),
        (line.clone(), 0..60_usize).prop_map(|(line, at)| Damage::Cut(line, at)),
        (line, 0..60_usize, any::<char>()).prop_map(|(line, at, with)| Damage::Replace(line, at, with)),
    ]
}

fn damaged(text: &str, damages: &[Damage]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for damage in damages {
        let count = lines.len().max(1);
        match damage {
            Damage::Remove(line) if !lines.is_empty() => drop(lines.remove(line % count)),
            Damage::Repeat(line) if !lines.is_empty() => lines.push(lines[line % count].clone()),
            Damage::Move(from, to) if !lines.is_empty() => lines.swap(from % count, to % count),
            Damage::Cut(line, at) if !lines.is_empty() => {
                let line = &mut lines[line % count];
                *line = line.chars().take(*at).collect();
            }
            Damage::Replace(line, at, with) if !lines.is_empty() => {
                let line = &mut lines[line % count];
                *line = line.chars().enumerate().map(|(index, old)| if index == *at { *with } else { old }).collect();
            }
            _ => {}
        }
    }
    lines.join("\r\n") + "\r\n"
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_damaged_description_is_refused_or_answered_well_formed(
        which in any::<prop::sample::Index>(),
        damages in prop::collection::vec(damage(), 0..8),
    ) {
        let names = ["v0-python-11-offer", "v0-firefox-05-offer", "v0-python-16-answer", "v1-firefox-03-offer",
            "v0-chromium-07-offer", "v0-firefox-14-answer"];
        conversation::hold(damaged(&recorded(which.get::<&str>(&names)), &damages).as_bytes());
    }

    #[test]
    fn any_text_is_survived(lines in prop::collection::vec("[a-z]?=?.{0,40}", 0..40)) {
        conversation::hold(format!("v=0\n{}", lines.join("\n")).as_bytes());
    }
}

/// Texts made to cost much: their size is bounded, and so must be the work.
#[test]
fn long_descriptions_are_read_in_linear_time() {
    let offer = recorded("v0-python-11-offer");
    for line in [
        "a=ssrc:1 x:y",
        "a=rid:q send",
        "a=rtcp-fb:* nack",
        "a=extmap:1 urn:x",
        "a=fmtp:96 apt=96",
        "a=ssrc-group:FID 1 2",
    ] {
        let filler = format!("{line}\n").repeat((1 << 20) / (line.len() + 1) - offer.len());
        let text = offer.clone() + &filler;
        let started = std::time::Instant::now();
        conversation::hold(text.as_bytes());
        assert!(started.elapsed().as_secs() < 60, "{line}");
    }
}
