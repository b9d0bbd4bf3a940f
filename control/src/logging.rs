//! The log, on standard error: text for people, or one flat JSON object a line.
//!
//! What comes from clients can forge no line of its own, nor turn one around: such characters are written as escapes.
//! With `logging.addresses: false` fields named `address` are left out, in whatever line they stand. Libraries may log
//! what strangers send, as often as they send it: their lines are bounded. So are our own of each place in the code
//! that says what went wrong or how: what happened, in lines of level `info`, is told each time.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io::{IsTerminal as _, Stderr, stderr};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;
use shared::log_limit::LogLimit;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, callsite, error, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::writer::OptionalWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::config::Config;
use crate::text::rules_others;

/// The field that holds the address of a client.
const ADDRESS: &str = "address";

/// Our crates, as lines name where they come from.
const OURS: [&str; 5] = ["onair", "control", "signaling", "sfu", "shared"];

/// Says what peers do in words of error, an ABORT for one: any client could fill the log. Discards and ends are
/// counted.
const UNHEARD: &str = "rtc_sctp=off";

/// Starts the log. Libraries speak only when it matters.
pub fn start(config: &Config) {
    let level = config.log_level().name();
    let others = if level == "error" { "error" } else { "warn" };
    let ours = OURS.map(|name| format!(",{name}={level}")).concat();
    // For looking into a library, or for every line: `RUST_LOG=info,rtc_sctp=debug`.
    let wanted = std::env::var("RUST_LOG").ok().filter(|filter| !filter.trim().is_empty());
    let output = Output::new(wanted.is_some());
    let filter = EnvFilter::new(wanted.unwrap_or(format!("{others},{UNHEARD}{ours}")));
    let fields = Fields { json: config.logging.json, addresses: config.logging.addresses };
    let log = tracing_subscriber::fmt()
        .with_writer(output)
        .with_ansi(stderr().is_terminal())
        // A terminal or a collector that is gone must not end who logs.
        .log_internal_errors(false)
        .fmt_fields(fields)
        .with_env_filter(filter);
    // It fails only where a log already runs, and then that one serves.
    let _ = if config.logging.json { log.event_format(FlatJson(fields)).try_init() } else { log.try_init() };
    if config.logging.json {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let cause = panic.payload_as_str().unwrap_or("unknown");
            error!(cause, place, "a thread panicked");
        }));
    }
}

/// Standard error, as far as the limits go.
#[derive(Default)]
struct Output {
    libraries: LogLimit,
    /// Of our own lines, by the place in the code that writes them; absent if all are wanted.
    places: Option<Mutex<HashMap<callsite::Identifier, Arc<LogLimit>>>>,
}

impl Output {
    fn new(all: bool) -> Self {
        Self { libraries: LogLimit::default(), places: (!all).then(Mutex::default) }
    }

    /// Whether a line may be written; if so, how many like it were left out since the last one.
    fn admit(&self, metadata: &Metadata<'_>) -> Option<u64> {
        let now = Instant::now();
        if !is_ours(metadata.target()) {
            return self.libraries.admit(now);
        }
        let Some(places) = self.places.as_ref().filter(|_| ![Level::INFO, Level::TRACE].contains(metadata.level()))
        else {
            return Some(0);
        };
        let place = {
            let mut places = places.lock().expect("no one panics with this lock");
            Arc::clone(places.entry(metadata.callsite()).or_default())
        };
        place.admit(now)
    }
}

impl<'writer> MakeWriter<'writer> for Output {
    type Writer = OptionalWriter<Stderr>;

    fn make_writer(&'writer self) -> Self::Writer {
        OptionalWriter::some(stderr())
    }

    fn make_writer_for(&'writer self, metadata: &Metadata<'_>) -> Self::Writer {
        let Some(left_out) = self.admit(metadata) else { return OptionalWriter::none() };
        if left_out > 0 {
            let (of, line) = (metadata.target(), metadata.line());
            warn!(left_out, of, line, "lines like the next one were left out");
        }
        self.make_writer()
    }
}

fn is_ours(target: &str) -> bool {
    OURS.contains(&target.split("::").next().unwrap_or(target))
}

/// Writes the fields of an event or of a span.
#[derive(Debug, Clone, Copy)]
struct Fields {
    json: bool,
    addresses: bool,
}

impl Fields {
    fn read(self, fields: impl RecordFields) -> Vec<(&'static str, Value)> {
        let mut read = Read { fields: Vec::new(), addresses: self.addresses };
        fields.record(&mut read);
        read.fields
    }
}

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let fields = self.read(fields);
        if self.json { write_json(&mut writer, fields) } else { write_text(&mut writer, &fields) }
    }
}

/// Collects fields by name and value.
struct Read {
    fields: Vec<(&'static str, Value)>,
    addresses: bool,
}

impl Read {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        if self.addresses || field.name() != ADDRESS {
            self.fields.push((field.name(), value.into()));
        }
    }
}

impl Visit for Read {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

/// `message name=value name="a text with spaces"`.
#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
fn write_text(writer: &mut impl fmt::Write, fields: &[(&'static str, Value)]) -> fmt::Result {
    for (index, (name, value)) in fields.iter().enumerate() {
        if index > 0 {
            writer.write_char(' ')?;
        }
        match value {
            Value::String(text) if *name == "message" => write_escaped(writer, text)?,
            Value::String(text) if is_plain(text) => write!(writer, "{name}={text}")?,
            value => {
                write!(writer, "{name}=")?;
                write_escaped(writer, &value.to_string())?;
            }
        }
    }
    Ok(())
}

/// Whether a value can stand without quotes.
fn is_plain(text: &str) -> bool {
    let is_apart =
        |character: char| character.is_whitespace() || rules_others(character) || "\"\\=".contains(character);
    !text.is_empty() && !text.contains(is_apart)
}

fn write_escaped(writer: &mut impl fmt::Write, text: &str) -> fmt::Result {
    for character in text.chars() {
        match rules_others(character) {
            true => write!(writer, "{}", character.escape_default())?,
            false => writer.write_char(character)?,
        }
    }
    Ok(())
}

fn write_json(writer: &mut impl fmt::Write, fields: Vec<(&'static str, Value)>) -> fmt::Result {
    let mut line = Line::default();
    line.add_all(fields);
    write!(writer, "{{{}}}", line.text)
}

/// An event as one JSON object: when, how important, where, what; then its own fields, then those of its spans.
struct FlatJson(Fields);

impl<S> FormatEvent<S, Fields> for FlatJson
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, Fields>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let metadata = event.metadata();
        let head: [(&str, Value); 3] = [
            ("timestamp", timestamp.into()),
            ("level", metadata.level().as_str().into()),
            ("logger", metadata.target().into()),
        ];
        let mut line = Line::default();
        line.add_all(head);
        line.add_all(self.0.read(event));
        for span in ctx.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let Some(fields) = extensions.get::<FormattedFields<Fields>>() else { continue };
            if let Ok(Value::Object(fields)) = serde_json::from_str(&fields.fields) {
                line.add_all(fields);
            }
        }
        writeln!(writer, "{{{}}}", line.text)
    }
}

/// The inside of a JSON object. What has a name that is taken is left out: an event says nothing twice, and its own
/// fields come before those of its spans.
#[derive(Default)]
struct Line {
    names: Vec<String>,
    text: String,
}

impl Line {
    fn add_all(&mut self, fields: impl IntoIterator<Item = (impl Into<String>, Value)>) {
        for (name, value) in fields {
            let name = name.into();
            if self.names.contains(&name) {
                continue;
            }
            let comma = if self.names.is_empty() { "" } else { "," };
            let _ = write!(self.text, "{comma}{}:", Value::from(name.as_str()));
            self.add_value(&value);
            self.names.push(name);
        }
    }

    /// JSON itself escapes the control characters of ASCII alone. The others can only stand in a string.
    fn add_value(&mut self, value: &Value) {
        for character in value.to_string().chars() {
            let _ = match rules_others(character) {
                true => write!(self.text, "\\u{:04x}", u32::from(character)),
                false => self.text.write_char(character),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_forges_neither_a_line_nor_a_field() {
        let mut text = String::new();
        let fields = vec![
            ("message", "joined\nwe".into()),
            ("name", "a b\u{1b}[1m".into()),
            ("plain", "x:1".into()),
            ("user", "a\u{202e}b".into()),
            ("n", 3.into()),
        ];
        write_text(&mut text, &fields).unwrap();

        assert_eq!(text, r#"joined\nwe name="a b\u001b[1m" plain=x:1 user="a\u{202e}b" n=3"#);
    }

    #[test]
    fn what_turns_text_around_is_escaped_in_json_as_well() {
        let name = "a\u{202e}b\u{2066}\u{61c}\u{9b}\u{2028}\n\"é🦀";
        let mut text = String::new();
        write_json(&mut text, vec![("name", name.into())]).unwrap();

        assert_eq!(text, r#"{"name":"a\u202eb\u2066\u061c\u009b\u2028\n\"é🦀"}"#);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["name"], name);
    }

    #[test]
    fn a_line_is_ours_by_its_crate_alone() {
        assert!(is_ours("control::http") && is_ours("sfu"));
        assert!(!is_ours("socketioxide::client") && !is_ours("sfu_of_others::control"));
    }

    #[test]
    fn a_name_is_said_once() {
        let mut text = String::new();
        write_json(&mut text, vec![("a", 1.into()), ("b", "\"".into()), ("a", 2.into())]).unwrap();

        assert_eq!(text, r#"{"a":1,"b":"\""}"#);
    }
}
