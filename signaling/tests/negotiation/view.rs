//! A second, independent reading of descriptions, for tests: what the negotiation wrote is not judged by its own
//! parser.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

pub struct View {
    pub session: Vec<String>,
    pub sections: Vec<SectionView>,
}

pub struct SectionView {
    pub media: String,
    pub port: u16,
    pub formats: Vec<String>,
    /// Without `a=`.
    pub attributes: Vec<String>,
}

impl View {
    pub fn of(sdp: &str) -> Self {
        let mut view = View { session: Vec::new(), sections: Vec::new() };
        for line in sdp.lines() {
            if let Some(media) = line.strip_prefix("m=") {
                let words: Vec<&str> = media.split(' ').collect();
                view.sections.push(SectionView {
                    media: words[0].into(),
                    port: words[1].parse().unwrap(),
                    formats: words[3..].iter().map(|word| (*word).to_owned()).collect(),
                    attributes: Vec::new(),
                });
            } else if let Some(section) = view.sections.last_mut() {
                section.attributes.extend(line.strip_prefix("a=").map(str::to_owned));
            } else {
                view.session.push(line.to_owned());
            }
        }
        view
    }

    pub fn section(&self, mid: &str) -> &SectionView {
        self.sections.iter().find(|section| section.mid() == mid).unwrap_or_else(|| panic!("no section {mid}"))
    }

    /// Mids of the BUNDLE group.
    pub fn bundle(&self) -> Vec<&str> {
        let group = self.session.iter().find_map(|line| line.strip_prefix("a=group:BUNDLE")).expect("a BUNDLE group");
        group.split_whitespace().collect()
    }
}

impl SectionView {
    pub fn values(&self, name: &str) -> Vec<&str> {
        let prefix = format!("{name}:");
        self.attributes.iter().filter_map(|attribute| attribute.strip_prefix(&prefix)).collect()
    }

    pub fn value(&self, name: &str) -> &str {
        self.values(name).first().copied().unwrap_or("")
    }

    pub fn has(&self, flag: &str) -> bool {
        self.attributes.iter().any(|attribute| attribute == flag)
    }

    pub fn mid(&self) -> &str {
        self.value("mid")
    }

    pub fn is_media(&self) -> bool {
        self.media != "application"
    }

    pub fn direction(&self) -> &str {
        let all = ["sendrecv", "sendonly", "recvonly", "inactive"];
        let found: Vec<&str> = all.into_iter().filter(|direction| self.has(direction)).collect();
        assert!(found.len() <= 1, "two directions in section {}", self.mid());
        found.first().copied().unwrap_or("sendrecv")
    }

    pub fn payload(&self, name: &str, payload_type: &str) -> Option<&str> {
        let prefix = format!("{payload_type} ");
        self.values(name).into_iter().find_map(|value| value.strip_prefix(prefix.as_str()))
    }

    /// Encoding name and parameters of each payload type that is no RTX, in order.
    pub fn codecs(&self) -> Vec<(String, String)> {
        let codecs = self.formats.iter().map(|format| {
            let rtpmap = self.payload("rtpmap", format).unwrap_or("").to_ascii_lowercase();
            (rtpmap, self.payload("fmtp", format).unwrap_or("").to_owned())
        });
        codecs.filter(|(rtpmap, _)| !rtpmap.starts_with("rtx/")).collect()
    }

    pub fn codec_names(&self) -> BTreeSet<String> {
        self.codecs().into_iter().map(|(rtpmap, _)| rtpmap).collect()
    }

    /// Feedback of each payload type.
    pub fn feedback(&self, payload_type: &str) -> BTreeSet<&str> {
        let prefix = format!("{payload_type} ");
        self.values("rtcp-fb").into_iter().filter_map(|value| value.strip_prefix(prefix.as_str())).collect()
    }

    /// URI to id.
    pub fn extensions(&self) -> BTreeMap<&str, u8> {
        let parse = |value: &'_ str| {
            let (id, _) = value.split_once(' ').unwrap();
            id.split('/').next().unwrap().parse().unwrap()
        };
        self.values("extmap").into_iter().map(|value| (value.split(' ').nth(1).unwrap(), parse(value))).collect()
    }
}

pub fn data_directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// A recorded description, such as `v1-python-05-offer`.
pub fn recorded(name: &str) -> String {
    let path = data_directory().join(format!("{name}.sdp"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Names of all recorded descriptions of clients that end so.
pub fn recorded_names(ending: &str) -> Vec<String> {
    let entries = fs::read_dir(data_directory()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names = names.filter_map(|name| name.strip_suffix(".sdp").map(str::to_owned));
    let mut names: Vec<String> = names.filter(|name| name.ends_with(ending) && !name.contains("reference")).collect();
    names.sort();
    names
}

/// What every description of ours must be, whatever it is about.
pub fn assert_well_formed(sdp: &str, setup: &str) {
    assert!(sdp.ends_with("\r\n") && sdp.lines().count() == sdp.matches("\r\n").count());
    let view = View::of(sdp);
    assert!(view.session.iter().any(|line| line == "a=ice-lite"));
    assert!(view.session.iter().any(|line| line.starts_with("a=fingerprint:sha-256 ")));

    let used: Vec<&SectionView> = view.sections.iter().filter(|section| section.port != 0).collect();
    assert_eq!(view.bundle(), used.iter().map(|section| section.mid()).collect::<Vec<_>>());
    for (index, section) in used.iter().enumerate() {
        assert_eq!(section.value("setup"), setup);
        assert!(!section.value("ice-ufrag").is_empty() && !section.value("ice-pwd").is_empty());
        assert_eq!(section.values("candidate").is_empty(), index > 0, "candidates only in the first section");
        assert_eq!(section.has("end-of-candidates"), index == 0);
        if section.is_media() {
            assert_media_section(section);
        } else {
            // RFC 8841. What is longer than a client takes is never sent to one.
            assert_eq!((section.value("sctp-port"), section.value("max-message-size")), ("5000", "65535"));
            assert_eq!(section.direction(), "sendrecv");
        }
    }
}

fn assert_media_section(section: &SectionView) {
    assert!(section.has("rtcp-mux") && section.has("rtcp-rsize"));
    assert!(!section.formats.is_empty());
    let listed: BTreeSet<&str> = section.formats.iter().map(String::as_str).collect();
    assert_eq!(listed.len(), section.formats.len(), "each payload type once");
    for name in ["rtpmap", "fmtp", "rtcp-fb"] {
        for value in section.values(name) {
            assert!(listed.contains(value.split(' ').next().unwrap()), "{name}:{value} is not in the media line");
        }
    }
    for format in &section.formats {
        let rtpmap = section.payload("rtpmap", format).expect("an rtpmap for each payload type");
        if rtpmap.starts_with("rtx/") {
            let of = section.payload("fmtp", format).unwrap().strip_prefix("apt=").unwrap();
            assert!(listed.contains(of));
        }
    }
    let ids: BTreeSet<u8> = section.extensions().into_values().collect();
    assert_eq!(ids.len(), section.values("extmap").len(), "each extension id once");
    assert!(ids.into_iter().all(|id| (1..=14).contains(&id)));
    if !section.values("rid").is_empty() {
        let rids: Vec<&str> = section.values("rid").iter().map(|rid| rid.strip_suffix(" recv").unwrap()).collect();
        assert_eq!(section.value("simulcast"), format!("recv {}", rids.join(";")));
    }
}
