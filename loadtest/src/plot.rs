//! Draws a report: packets a second, delay and joins over one time axis, as SVG.

use std::fmt::Write as _;

use crate::report::Report;
use crate::timeline::Second;

const WIDTH: f64 = 900.0;
/// Of one panel, and between two of them.
const HEIGHT: f64 = 170.0;
const GAP: f64 = 58.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 56.0;
/// Lines across a panel.
const STEPS: usize = 4;
/// Points of one series; more would not be told apart.
const POINTS_MAX: usize = 3_000;

const BLUE: &str = "#1f6fb4";
const ORANGE: &str = "#d9730d";
const GREY: &str = "#6b7280";

/// How a series is drawn.
enum Mark {
    Line,
    Dots,
}

struct Series {
    name: &'static str,
    colour: &'static str,
    mark: Mark,
    points: Vec<(f64, f64)>,
}

struct Panel {
    title: &'static str,
    series: Vec<Series>,
}

/// The report as an SVG image.
pub fn svg(report: &Report) -> String {
    let panels = panels(report);
    let seconds = panels
        .iter()
        .flat_map(|panel| &panel.series)
        .flat_map(|series| &series.points)
        .fold(1.0, |most: f64, (at, _)| most.max(*at));
    let height = TOP + panels.len() as f64 * (HEIGHT + GAP);
    let mut out = String::new();
    write(
        &mut out,
        format_args!(
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}' \
             font-family='sans-serif' font-size='12' fill='#1f2937'>\n<rect width='100%' height='100%' fill='white'/>"
        ),
    );
    let title = format!(
        "{} subscribers, {:.0} packets/s, {} lost, {} dropped by the kernel",
        report.subscribers, report.packets_per_second, report.packets_lost, report.kernel_drops
    );
    write(&mut out, format_args!("<text x='{LEFT}' y='22' font-size='15'>{title}</text>"));
    for (index, panel) in panels.iter().enumerate() {
        let top = TOP + index as f64 * (HEIGHT + GAP);
        draw(&mut out, panel, top, seconds, report.measured_from_s);
    }
    out.push_str("</svg>\n");
    out
}

fn panels(report: &Report) -> Vec<Panel> {
    let line = |name, colour, value: &dyn Fn(&Second) -> Option<f64>| Series {
        name,
        colour,
        mark: Mark::Line,
        points: report.timeline.iter().filter_map(|second| Some((second.at_s, value(second)?))).collect(),
    };
    // During the joins it holds what late viewers catch up with.
    let measured = |second: &Second, delay: Option<f64>| delay.filter(|_| second.at_s > report.measured_from_s + 1.0);
    let joins = report.joins.iter().map(|join| (join.at_s, join.join_ms)).collect();
    let mut panels = vec![
        Panel {
            title: "packets received a second",
            series: vec![line("packets/s", BLUE, &|second| Some(second.packets_per_second))],
        },
        Panel {
            title: "delay through the server, ms",
            series: vec![
                line("p50", BLUE, &|second| measured(second, second.delay_p50_ms)),
                line("p99", ORANGE, &|second| measured(second, second.delay_p99_ms)),
            ],
        },
        Panel {
            title: "join latency, ms, by the start of the join",
            series: vec![Series { name: "joins", colour: BLUE, mark: Mark::Dots, points: joins }],
        },
    ];
    if report.server.is_some() {
        let mebibytes = |second: &Second| Some(second.server_rss_bytes? as f64 / 1_048_576.0);
        let memory = line("RSS", BLUE, &mebibytes);
        panels.push(Panel { title: "resident memory of the server, MiB", series: vec![memory] });
    }
    panels
}

fn draw(out: &mut String, panel: &Panel, top: f64, seconds: f64, measured_from_s: f64) {
    let bottom = top + HEIGHT;
    let values = panel.series.iter().flat_map(|series| &series.points).map(|(_, value)| *value);
    let limit = rounded_up(values.fold(0.0, f64::max));
    let x = |at: f64| LEFT + at / seconds * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| bottom - (value / limit).clamp(0.0, 1.0) * HEIGHT;
    write(out, format_args!("<text x='{LEFT}' y='{:.1}' font-weight='bold'>{}</text>", top - 10.0, panel.title));
    for step in 0..=STEPS {
        let share = step as f64 / STEPS as f64;
        let (value, at) = (limit * share, y(limit * share));
        let right = WIDTH - RIGHT;
        write(out, format_args!("<path d='M{LEFT} {at:.1}H{right}' stroke='#e5e7eb'/>"));
        write(
            out,
            format_args!("<text x='{}' y='{:.1}' text-anchor='end'>{}</text>", LEFT - 8.0, at + 4.0, short(value)),
        );
    }
    let tick = rounded_up(seconds / 10.0);
    for second in (0..).map(|number| f64::from(number) * tick).take_while(|second| *second <= seconds) {
        let below = bottom + 16.0;
        write(out, format_args!("<text x='{:.1}' y='{below:.1}' text-anchor='middle'>{second:.0} s</text>", x(second)));
    }
    let start = x(measured_from_s.min(seconds));
    write(out, format_args!("<path d='M{start:.1} {top:.1}V{bottom:.1}' stroke='{GREY}' stroke-dasharray='4 3'/>"));
    for (index, series) in panel.series.iter().enumerate() {
        let legend = WIDTH - RIGHT - 70.0 * (panel.series.len() - index) as f64;
        let (above, colour) = (top - 10.0, series.colour);
        write(out, format_args!("<text x='{legend:.1}' y='{above:.1}' fill='{colour}'>{}</text>", series.name));
        plot(out, series, x, y);
    }
}

fn plot(out: &mut String, series: &Series, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) {
    let every = series.points.len().div_ceil(POINTS_MAX).max(1);
    let points = series.points.iter().step_by(every).map(|(at, value)| (x(*at), y(*value)));
    let colour = series.colour;
    match series.mark {
        Mark::Line => {
            let path: Vec<String> = points.map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
            if !path.is_empty() {
                let path = path.join("L");
                write(out, format_args!("<path d='M{path}' fill='none' stroke='{colour}' stroke-width='1.6'/>"));
            }
        }
        Mark::Dots => {
            for (x, y) in points {
                write(out, format_args!("<circle cx='{x:.1}' cy='{y:.1}' r='1.8' fill='{colour}' opacity='0.6'/>"));
            }
        }
    }
}

/// The next of 1, 2, 4, 5, 10 times a power of ten.
fn rounded_up(value: f64) -> f64 {
    if value.is_nan() || value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|limit| *limit >= value).unwrap_or(value)
}

fn short(value: f64) -> String {
    match value {
        value if value >= 10_000.0 => format!("{:.0}k", value / 1_000.0),
        value if value >= 10.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}

fn write(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::JoinSample;

    #[test]
    fn every_series_is_drawn_inside_the_image() {
        let second = |at: u32| Second {
            at_s: at.into(),
            packets_per_second: f64::from(at) * 12_345.0,
            delay_p50_ms: Some(0.3),
            delay_p99_ms: (at > 3).then_some(900.0),
            ..Second::default()
        };
        let joins = vec![JoinSample { at_s: 0.5, join_ms: 3.0 }; 7];
        let image = svg(&Report { timeline: (1..20).map(second).collect(), joins, ..Report::default() });
        assert_eq!((image.matches("<circle").count(), image.matches("stroke-width='1.6'").count()), (7, 3));
        assert!(!image.contains("NaN") && !image.contains("inf"), "{image}");
        assert!(image.ends_with("</svg>\n"));
    }

    #[test]
    fn an_empty_report_has_axes_only() {
        let image = svg(&Report::default());
        assert!(!image.contains("NaN") && !image.contains("<circle"));
    }

    #[test]
    fn limits_are_round_and_not_below_the_value() {
        for (value, limit) in [(0.0, 1.0), (0.03, 0.04), (1.0, 1.0), (7.0, 10.0), (405_000.0, 500_000.0)] {
            assert!((rounded_up(value) - limit).abs() < 1e-9, "{value}");
        }
    }
}
