//! A run as a picture: one SVG a gate and seed, in `networks` below Cargo's directory for files of tests.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::gates::{Check, Outcome};
use super::link::{Fate, Passage};
use super::publisher::CAMERA;
use super::world::Seat;

/// Points of a curve are means of so long.
const BIN: Duration = Duration::from_millis(100);
const LEFT: f64 = 90.0;
const WIDTH: f64 = 1_100.0;
/// Of the whole picture.
const WIDTH_ALL: f64 = LEFT + WIDTH + 170.0;
const PANEL: f64 = 170.0;
const GAP: f64 = 50.0;
const TOP: f64 = 100.0;
/// Intervals between frames above this are drawn at the upper edge.
const INTERVAL_MAX_MS: f64 = 500.0;
/// A picture has so many lines of text in its legend at most.
const LEGEND_LINE: f64 = 18.0;

/// One diagram of the picture: a range of values over the time of the run.
struct Panel {
    top: f64,
    end: Duration,
    max: f64,
    legend: f64,
    svg: String,
}

impl Panel {
    fn new(number: u32, title: &str, end: Duration, max: f64, unit: &str, marks: &[(f64, String)]) -> Self {
        let top = TOP + f64::from(number) * (PANEL + GAP);
        let mut panel = Self { top, end, max, legend: top + 10.0, svg: String::new() };
        let bottom = top + PANEL;
        panel.text(LEFT, top - 8.0, "start", "#000", &format!("{title}, {unit}"));
        panel.rect(LEFT, top, WIDTH, PANEL, "none\" stroke=\"#999");
        for (value, label) in marks {
            let y = panel.y(*value);
            panel.line((LEFT, y), (LEFT + WIDTH, y), "#e4e4e4");
            panel.text(LEFT - 8.0, y + 4.0, "end", "#444", label);
        }
        let step = if end > Duration::from_secs(20) { 5 } else { 1 };
        for second in (0..=end.as_secs()).step_by(step) {
            let x = panel.x(Duration::from_secs(second));
            panel.line((x, bottom), (x, bottom + 4.0), "#999");
            panel.text(x, bottom + 17.0, "middle", "#444", &format!("{second} s"));
        }
        panel
    }

    fn x(&self, at: Duration) -> f64 {
        LEFT + WIDTH * at.as_secs_f64() / self.end.as_secs_f64()
    }

    fn y(&self, value: f64) -> f64 {
        self.top + PANEL * (1.0 - (value / self.max).clamp(0.0, 1.0))
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, color: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ =
            writeln!(self.svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{color}">{text}</text>"#);
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), color: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(self.svg, r#"<path d="M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}" stroke="{color}"/>"#);
    }

    fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        let _ = writeln!(
            self.svg,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{fill}"/>"#
        );
    }

    /// A line of the legend at the right.
    fn name(&mut self, color: &str, name: &str) {
        let y = self.legend;
        self.legend += LEGEND_LINE;
        self.rect(LEFT + WIDTH + 12.0, y - 8.0, 10.0, 10.0, color);
        self.text(LEFT + WIDTH + 28.0, y + 1.0, "start", "#000", name);
    }

    /// A curve with a value for each bin.
    fn curve(&mut self, color: &str, name: &str, values: &[f64]) {
        self.name(color, name);
        let mut path = String::new();
        for (bin, value) in (0..).zip(values).filter(|(_, value)| value.is_finite()) {
            let (x, y) = (self.x(BIN * bin), self.y(*value));
            let _ = write!(path, "{}{x:.1} {y:.1}", if path.is_empty() { 'M' } else { 'L' });
        }
        let _ = writeln!(self.svg, r#"<path d="{path}" stroke="{color}" stroke-width="1.5" fill="none"/>"#);
    }

    /// Bars up from the bottom, one a bin.
    fn bars(&mut self, color: &str, name: &str, values: &[f64]) {
        self.name(color, name);
        for (bin, value) in (0..).zip(values).filter(|(_, value)| **value > 0.0) {
            let (x, y) = (self.x(BIN * bin), self.y(*value));
            let width = (self.x(BIN) - LEFT).max(1.0);
            self.rect(x, y, width, self.top + PANEL - y, color);
        }
    }

    fn dots(&mut self, color: &str, name: &str, points: impl Iterator<Item = (Duration, f64)>) {
        self.name(color, name);
        let mut path = String::new();
        for (at, value) in points {
            let _ = write!(path, "M{:.1} {:.1}h2", self.x(at) - 1.0, self.y(value));
        }
        let _ = writeln!(self.svg, r#"<path d="{path}" stroke="{color}" stroke-width="2"/>"#);
    }

    /// Short lines at a height of the panel.
    fn ticks(&mut self, color: &str, name: &str, height: f64, times: impl Iterator<Item = Duration>) {
        self.name(color, name);
        for at in times {
            let x = self.x(at);
            let y = self.top + PANEL * (1.0 - height);
            self.line((x, y), (x, y + 12.0), color);
        }
    }
}

/// Writes it, and gives its path.
pub fn write(outcome: &Outcome) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("networks");
    std::fs::create_dir_all(&folder).expect("a folder for plots");
    let path = folder.join(format!("{}-{}.svg", outcome.name, outcome.world.seed));
    std::fs::write(&path, svg(outcome)).expect("a plot");
    path
}

fn svg(outcome: &Outcome) -> String {
    let panels = [rates(outcome), queue(outcome), layers(outcome), intervals(outcome)];
    let height = TOP + 4.0 * (PANEL + GAP);
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH_ALL}" height="{height}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
"#
    );
    let mut title = Panel { top: 0.0, end: outcome.world.now, max: 1.0, legend: 0.0, svg: String::new() };
    let verdict = if outcome.is_green() { "green" } else { "red" };
    title.text(LEFT, 24.0, "start", "#000", &format!("{} (seed {}): {verdict}", outcome.name, outcome.world.seed));
    for (index, check) in outcome.checks.iter().enumerate() {
        let color = if check.is_met() { "#080" } else { "#c00" };
        let (column, row) = ((index % 5) as f64, (index / 5) as f64);
        title.text(LEFT + column * 260.0, 44.0 + row * 16.0, "start", color, &figure(check));
    }
    svg.push_str(&title.svg);
    panels.iter().for_each(|panel| svg.push_str(&panel.svg));
    svg.push_str("</svg>\n");
    svg
}

fn figure(check: &Check) -> String {
    format!("{}: {:.2}", check.what, check.figure)
}

fn seat(outcome: &Outcome) -> &Seat {
    &outcome.world.seats[outcome.seat]
}

/// The sum of what lies in each bin.
fn bins(end: Duration, values: impl Iterator<Item = (Duration, f64)>) -> Vec<f64> {
    let mut bins = vec![0.0; end.as_millis().div_ceil(BIN.as_millis()) as usize];
    for (at, value) in values {
        if let Some(bin) = bins.get_mut((at.as_millis() / BIN.as_millis()) as usize) {
            *bin += value;
        }
    }
    bins
}

fn rates(outcome: &Outcome) -> Panel {
    let (link, end) = (outcome.world.downlink(outcome.seat), outcome.world.now);
    let mbit = |bytes: usize| bytes as f64 * 8.0 / BIN.as_secs_f64() / 1e6;
    let sent = bins(end, link.log.iter().map(|passage| (passage.at, mbit(passage.bytes))));
    let received = bins(end, seat(outcome).viewer.came.iter().map(|came| (came.at, mbit(came.bytes))));
    let rate = |bin: usize| link.config.rate.at(BIN * bin as u32).map_or(f64::INFINITY, |bps| bps as f64 / 1e6);
    let capacity: Vec<f64> = (0..sent.len()).map(rate).collect();
    // Bursts of a moment would flatten all else.
    let usual = super::score::percentile(sent.iter().copied(), 0.98);
    let max = capacity.iter().copied().filter(|rate| *rate <= 4.0).fold(usual.max(1.0), f64::max) * 1.1;
    let step = [0.5, 1.0, 2.0, 5.0].into_iter().find(|step| max / step <= 8.0).unwrap_or(10.0);
    let marks = (0..).map(|n| f64::from(n) * step).take_while(|mark| *mark <= max);
    let marks: Vec<_> = marks.map(|mark| (mark, format!("{mark:.1}"))).collect();
    let mut panel = Panel::new(0, "Rates of the viewer's downlink", end, max, "Mbit/s", &marks);
    panel.curve("#e08214", "sent", &sent);
    panel.curve("#1b7837", "received", &received);
    let is_above = capacity.iter().all(|rate| *rate > max);
    let name = if is_above { "capacity (above this)" } else { "capacity of the link" };
    panel.curve("#000", name, if is_above { &[] } else { &capacity });
    panel
}

fn queue(outcome: &Outcome) -> Panel {
    let (link, end) = (outcome.world.downlink(outcome.seat), outcome.world.now);
    let queued = |passage: &&Passage| !matches!(passage.fate, Fate::Overflow | Fate::Policed);
    let waits = link.log.iter().filter(queued).map(|passage| passage.wait.as_secs_f64() * 1_000.0);
    let max = waits.fold(200.0, f64::max) * 1.05;
    let marks: Vec<_> = [0.0, 50.0, 80.0, 100.0, 150.0, 200.0].map(|mark| (mark, format!("{mark}"))).into();
    let mut panel =
        Panel::new(1, "Queue of the viewer's downlink (its packets' wait), and loss", end, max, "ms", &marks);
    let count = bins(end, link.log.iter().map(|passage| (passage.at, 1.0)));
    for (color, name, is_lost) in [
        ("#f4a582", "overflow, share", (|fate| matches!(fate, Fate::Overflow | Fate::Policed)) as fn(Fate) -> bool),
        ("#b2182b", "lost on the way, share", |fate| fate == Fate::Lost),
    ] {
        let lost = bins(end, link.log.iter().filter(|one| is_lost(one.fate)).map(|passage| (passage.at, 1.0)));
        let shares: Vec<f64> = lost.iter().zip(&count).map(|(lost, all)| max * lost / all.max(1.0)).collect();
        panel.bars(color, name, &shares);
    }
    let waits = link.log.iter().filter(queued).map(|one| (one.at, one.wait.as_secs_f64() * 1_000.0));
    panel.dots("#2166ac", "wait", waits);
    panel
}

fn layers(outcome: &Outcome) -> Panel {
    let (seat, end) = (seat(outcome), outcome.world.now);
    let marks: Vec<_> = CAMERA.iter().zip(0..).map(|(layer, n)| (f64::from(n) + 0.35, layer.rid.to_string())).collect();
    let mut panel = Panel::new(2, "Layers, each with T0, T1 and T2", end, 3.0, "by RID", &marks);
    let height = |layer: u8, temporal: u8, shift: f64| f64::from(layer) + 0.15 + f64::from(temporal) * 0.2 + shift;
    let sent = seat.sent.iter().map(|(at, picture)| (*at, height(picture.layer, picture.temporal, 0.0)));
    panel.dots("#e08214", "sent", sent);
    let shown = &seat.viewer.shown;
    panel.dots("#1b7837", "decoded", shown.iter().map(|frame| (frame.at, height(frame.layer, frame.temporal, 0.08))));
    let keys = shown.iter().filter(|frame| frame.is_key).map(|frame| frame.at);
    panel.ticks("#762a83", "key frame decoded", 0.1, keys);
    let switches = shown.windows(2).filter(|pair| pair[0].layer != pair[1].layer).map(|pair| pair[1].at);
    panel.ticks("#2166ac", "switch", 1.0, switches);
    panel
}

fn intervals(outcome: &Outcome) -> Panel {
    let (viewer, end) = (&seat(outcome).viewer, outcome.world.now);
    let marks: Vec<_> = [0.0, 33.0, 100.0, 200.0, 300.0, 400.0, 500.0].map(|mark| (mark, format!("{mark}"))).into();
    let mut panel = Panel::new(3, "Intervals between frames", end, INTERVAL_MAX_MS, "ms", &marks);
    panel.name("#fddbc7", "freeze");
    for freeze in outcome.freezes() {
        let (from, to) = (panel.x(freeze.starts), panel.x(freeze.starts + freeze.length));
        let top = panel.top;
        panel.rect(from, top, to - from, PANEL, "#fddbc7");
    }
    let pairs = viewer.shown.windows(2);
    panel.dots(
        "#1b7837",
        "interval",
        pairs.map(|pair| (pair[1].at, (pair[1].at - pair[0].at).as_secs_f64() * 1_000.0)),
    );
    panel.ticks("#c00", "PLI of the viewer", 1.0, viewer.plis.iter().copied());
    panel.ticks("#e08214", "PLI to the publisher", 0.92, outcome.world.publisher.requests.iter().copied());
    panel.ticks("#888", "NACK of the viewer", 0.08, viewer.nacked.iter().map(|(at, _)| *at));
    panel
}
