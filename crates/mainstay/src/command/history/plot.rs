//! A plot over the time of a release, as inline SVG.
//!
//! Lines are in a coordinate system that is stretched to the width there is, texts are placed by percentages and keep
//! their size: so a plot can be read on a telephone as well as on a wide screen.

use crate::command::history::markup::{Text, number};
use crate::command::history::moments::{Moment, Window};
use std::fmt::Write as _;

/// How high the field of a plot is, in pixels.
const HIGH: f64 = 190.0;
/// What lies above it: the numbers of the events.
const ABOVE: f64 = 24.0;
/// What lies below it: the axis of time.
const BELOW: f64 = 42.0;
/// A share of users that changed more often than this is not told in words.
const SHARES_TOLD: usize = 30;
/// How wide the stretched coordinate system is.
const WIDE: f64 = 1000.0;
/// How far apart the numbers of two events have to be, as a share of the width, to be two.
const MARKS_APART: f64 = 0.07;
/// The steps an axis of time can have, in milliseconds; beyond, whole days.
const STEPS_MS: [u64; 21] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 900_000,
    1_800_000, 3_600_000, 7_200_000, 10_800_000, 21_600_000, 43_200_000, DAY_MS,
];
const DAY_MS: u64 = 86_400_000;
/// An axis of time has at most so many steps.
const STEPS: u64 = 10;

/// What all plots of the same time have in common.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) window: Window,
    pub(super) moments: Vec<Moment>,
    /// What happened: when, its number, and what.
    pub(super) events: Vec<(u64, u64, String)>,
    /// When nothing was counted.
    pub(super) not_accounted: Vec<(u64, u64)>,
}

/// One line.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) name: &'static str,
    /// How it looks, in the style sheet.
    pub(super) class: &'static str,
    /// One for each moment.
    pub(super) values: Vec<Option<f64>>,
    /// Whether the area below it is tinted.
    pub(super) filled: bool,
}

/// What a plot shows.
#[derive(Debug)]
pub(super) struct Plot<'a> {
    /// Unique in the page, safe in an attribute.
    pub(super) id: &'a str,
    pub(super) title: &'a str,
    pub(super) unit: &'a str,
    pub(super) lines: Vec<Line>,
    /// The candidate's users of 10,000, from when on.
    pub(super) shares: Option<Vec<(u64, u16)>>,
    /// What else is to be said, below it.
    pub(super) note: &'a str,
}

impl Plot<'_> {
    /// The plot with its title and key.
    pub(super) fn figure(&self, frame: &Frame) -> String {
        let axis = Axis::to(self.highest());
        let mut html = format!("<figure class=\"plot\">\n<figcaption>{}</figcaption>\n", Text(self.title));
        html.push_str(&self.key(frame));
        let right = if self.shares.is_some() { "<span>candidate’s share of users</span>" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            html,
            "<div class=\"units\" aria-hidden=\"true\"><span>{}</span>{right}</div>",
            Text(self.unit)
        );
        let id = self.id;
        let _ = writeln!(
            html,
            "<svg class=\"field\" role=\"img\" aria-labelledby=\"{id}-title {id}-text\" width=\"100%\" \
             height=\"{}\">\n<title id=\"{id}-title\">{}</title>\n<desc id=\"{id}-text\">{}</desc>",
            ABOVE + HIGH + BELOW,
            Text(self.title),
            Text(&self.description(frame))
        );
        html.push_str(&self.grid(&axis));
        html.push_str(&gaps(frame, id));
        html.push_str(&marks(frame));
        html.push_str(&self.curves(frame, &axis));
        html.push_str(&time_axis(frame.window));
        html.push_str("</svg>\n");
        if !self.note.is_empty() {
            let _ = writeln!(html, "<p class=\"note\">{}</p>", Text(self.note));
        }
        html.push_str("</figure>\n");
        html
    }

    fn highest(&self) -> f64 {
        let values = self.lines.iter().flat_map(|line| line.values.iter().flatten());
        values.copied().filter(|value| value.is_finite()).fold(0.0, f64::max)
    }

    fn key(&self, frame: &Frame) -> String {
        let mut html = String::from("<ul class=\"key\">");
        let sample = |class: &str| {
            format!(
                "<svg width=\"30\" height=\"10\" aria-hidden=\"true\"><path class=\"line {class}\" d=\"M1 5H29\"/></svg>"
            )
        };
        for line in &self.lines {
            let _ = write!(html, "<li>{}{}</li>", sample(line.class), line.name);
        }
        if self.shares.is_some() {
            let _ = write!(html, "<li>{}candidate’s share of users (right)</li>", sample("share"));
        }
        if !frame.not_accounted.is_empty() {
            let id = self.id;
            let _ = write!(
                html,
                "<li><svg width=\"30\" height=\"12\" aria-hidden=\"true\">{}<rect class=\"gap\" width=\"30\" \
                 height=\"12\" fill=\"url(#{id}-key)\"/></svg>not accounted</li>",
                hatch(&format!("{id}-key"))
            );
        }
        html.push_str("</ul>\n");
        html
    }

    /// What the plot shows, for those who do not see it.
    fn description(&self, frame: &Frame) -> String {
        let seconds = frame.window.length() as f64 / 1000.0;
        let mut text = format!("Over {} seconds, in {}.", number(seconds), self.unit);
        for line in &self.lines {
            let values =
                line.values.iter().zip(&frame.moments).filter_map(|(value, at)| Some(((*value)?, at)));
            // Backwards, because of equal ones the last is taken.
            let _ = match values.rev().max_by(|a, b| a.0.total_cmp(&b.0)) {
                Some((value, moment)) => write!(
                    text,
                    " {}: at most {}, after {} s.",
                    line.name,
                    number(value),
                    number(moment.middle().saturating_sub(frame.window.from) as f64 / 1000.0)
                ),
                None => write!(text, " {}: nothing measured.", line.name),
            };
        }
        if let Some(shares) = self.shares.as_ref().filter(|shares| shares.len() <= SHARES_TOLD) {
            let steps: Vec<String> = shares.iter().map(|(_, weight)| percent(*weight)).collect();
            let _ = write!(text, " The candidate’s share of users went {}.", steps.join(", "));
        }
        text.push_str(" The numbers are in the table below the plots.");
        text
    }

    fn grid(&self, axis: &Axis) -> String {
        let mut svg = String::new();
        for (value, text) in axis.ticks() {
            let y = ABOVE + axis.down(value);
            let class = if value == 0.0 { "base" } else { "grid" };
            let _ = writeln!(
                svg,
                "<line class=\"{class}\" x1=\"0\" x2=\"100%\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" x=\"-8\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                y + 4.0
            );
        }
        if self.shares.is_some() {
            for share in [0_u16, 5_000, 10_000] {
                let y = ABOVE + HIGH * (1.0 - f64::from(share) / 10_000.0) + 4.0;
                let text = percent(share);
                let _ = writeln!(svg, "<text class=\"tick\" x=\"100%\" dx=\"8\" y=\"{y:.1}\">{text}</text>");
            }
        }
        svg
    }

    fn curves(&self, frame: &Frame, axis: &Axis) -> String {
        let mut svg = format!(
            "<svg x=\"0\" y=\"{ABOVE}\" width=\"100%\" height=\"{HIGH}\" viewBox=\"0 0 {WIDE} {HIGH}\" \
             preserveAspectRatio=\"none\" overflow=\"visible\">\n"
        );
        let runs: Vec<_> = self.lines.iter().map(|line| runs(&line.values, frame, axis)).collect();
        for (line, runs) in self.lines.iter().zip(&runs).filter(|(line, _)| line.filled) {
            let path: String = runs
                .iter()
                .map(|run| {
                    let (first, last) = (run[0].0, run[run.len() - 1].0);
                    format!("{}L{last:.1} {HIGH}L{first:.1} {HIGH}Z", path(run))
                })
                .collect();
            let _ = writeln!(svg, "<path class=\"area {}\" d=\"{path}\"/>", line.class);
        }
        if let Some(shares) = &self.shares {
            let _ = writeln!(svg, "<path class=\"line share\" d=\"{}\"/>", staircase(shares, frame.window));
        }
        for (line, runs) in self.lines.iter().zip(&runs) {
            let path: String = runs.iter().map(|run| path(run)).collect();
            let _ = writeln!(svg, "<path class=\"line {}\" d=\"{path}\"/>", line.class);
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// The points of a line, as far as they hang together. One alone is as long as its moment.
fn runs(values: &[Option<f64>], frame: &Frame, axis: &Axis) -> Vec<Vec<(f64, f64)>> {
    let mut runs: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut alone: Vec<&Moment> = Vec::new();
    let mut broken = true;
    for (value, moment) in values.iter().zip(&frame.moments) {
        let Some(value) = value.filter(|value| value.is_finite()) else {
            broken = true;
            continue;
        };
        let place = (frame.window.place(moment.middle()) * WIDE, axis.down(value));
        match runs.last_mut() {
            Some(run) if !broken && !moment.apart => run.push(place),
            _ => {
                runs.push(vec![place]);
                alone.push(moment);
            }
        }
        broken = false;
    }
    for (run, moment) in runs.iter_mut().zip(alone) {
        if let [(_, y)] = run[..] {
            let at = |at| frame.window.place(at) * WIDE;
            *run = vec![(at(moment.from), y), (at(moment.to), y)];
        }
    }
    runs
}

fn path(run: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (i, (x, y)) in run.iter().enumerate() {
        let _ = write!(path, "{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
    }
    path
}

fn staircase(shares: &[(u64, u16)], window: Window) -> String {
    let mut path = String::new();
    for (i, (from, weight)) in shares.iter().enumerate() {
        let (x, y) = (window.place(*from) * WIDE, HIGH * (1.0 - f64::from(*weight) / 10_000.0));
        let _ = if i == 0 { write!(path, "M{x:.1} {y:.1}") } else { write!(path, "H{x:.1}V{y:.1}") };
    }
    if !path.is_empty() {
        let _ = write!(path, "H{WIDE}");
    }
    path
}

/// A share of 10,000 in words.
pub(super) fn percent(weight: u16) -> String {
    let (whole, part) = (weight / 100, weight % 100);
    match part {
        0 => format!("{whole} %"),
        part if part % 10 == 0 => format!("{whole}.{} %", part / 10),
        part => format!("{whole}.{part:02} %"),
    }
}

fn hatch(id: &str) -> String {
    format!(
        "<defs><pattern id=\"{id}\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" \
         patternTransform=\"rotate(45)\"><path class=\"hatch\" d=\"M0 0V6\"/></pattern></defs>"
    )
}

/// The intervals that are not accounted for, hatched and named.
fn gaps(frame: &Frame, id: &str) -> String {
    if frame.not_accounted.is_empty() {
        return String::new();
    }
    let mut svg = hatch(&format!("{id}-hatch"));
    let mut named = -1.0;
    for (from, to) in &frame.not_accounted {
        let (from, to) = (frame.window.place(*from), frame.window.place(*to));
        let wide = (to - from).max(0.002);
        let _ = writeln!(
            svg,
            "<rect class=\"gap\" x=\"{:.2}%\" y=\"{ABOVE}\" width=\"{:.2}%\" height=\"{HIGH}\" \
             fill=\"url(#{id}-hatch)\"><title>not accounted</title></rect>",
            from * 100.0,
            wide * 100.0
        );
        let middle = from + wide / 2.0;
        if middle - named >= MARKS_APART {
            named = middle;
            let _ = writeln!(
                svg,
                "<svg x=\"{:.2}%\" y=\"{}\" overflow=\"visible\"><text class=\"gap-name\" \
                 transform=\"rotate(-90)\" text-anchor=\"end\" x=\"-8\" dy=\"4\">not accounted</text></svg>",
                middle * 100.0,
                ABOVE
            );
        }
    }
    svg
}

/// A line at every event, and its number above; the numbers of events that are too close are one.
fn marks(frame: &Frame) -> String {
    let mut svg = String::new();
    // Where the group begins and ends, and its first and last number.
    let mut groups: Vec<(f64, f64, u64, u64)> = Vec::new();
    let mut drawn = f64::NEG_INFINITY;
    for (at, seq, text) in frame.events.iter().filter(|(at, _, _)| frame.window.holds(*at)) {
        let x = frame.window.place(*at);
        // Closer ones cannot be told apart.
        if (x - drawn).abs() >= 0.001 {
            let _ = writeln!(
                svg,
                "<line class=\"mark\" x1=\"{0:.2}%\" x2=\"{0:.2}%\" y1=\"{1}\" y2=\"{2}\"><title>{3}</title></line>",
                x * 100.0,
                ABOVE - 6.0,
                ABOVE + HIGH,
                Text(text)
            );
            drawn = x;
        }
        match groups.last_mut() {
            Some((begin, end, _, last)) if x - (*begin + *end) / 2.0 < MARKS_APART => {
                (*end, *last) = (x, *seq)
            }
            _ => groups.push((x, x, *seq, *seq)),
        }
    }
    for (begin, end, first, last) in groups {
        let text = if first == last { first.to_string() } else { format!("{first}–{last}") };
        let x = (begin + end) * 50.0;
        let y = ABOVE - 11.0;
        let _ = writeln!(
            svg,
            "<text class=\"mark-name\" x=\"{x:.2}%\" y=\"{y}\" text-anchor=\"middle\">{text}</text>"
        );
    }
    svg
}

/// The axis of time. Every second text is left out where there is little room.
fn time_axis(window: Window) -> String {
    let step = time_step(window.length());
    let mut svg = String::new();
    for i in 0..=window.length() / step {
        let x = window.place(window.from + i * step) * 100.0;
        let class = if i % 2 == 0 { "tick" } else { "tick between" };
        let y = ABOVE + HIGH;
        let _ = writeln!(
            svg,
            "<line class=\"base\" x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"{y}\" y2=\"{}\"/>\
             <text class=\"{class}\" x=\"{x:.2}%\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            y + 5.0,
            y + 18.0,
            time_text(i * step, step, window.length())
        );
    }
    let unit = match window.length() {
        0..120_000 => "seconds",
        120_000..7_200_000 => "minutes:seconds",
        _ => "hours:minutes",
    };
    let y = ABOVE + HIGH + BELOW - 6.0;
    let _ = writeln!(
        svg,
        "<text class=\"tick\" x=\"50%\" y=\"{y}\" text-anchor=\"middle\">{unit} since the release began</text>"
    );
    svg
}

fn time_step(length_ms: u64) -> u64 {
    let fits = |step: &u64| length_ms.div_ceil(*step) <= STEPS;
    let days = || length_ms.div_ceil(DAY_MS * STEPS) * DAY_MS;
    STEPS_MS.into_iter().find(fits).unwrap_or_else(days)
}

fn time_text(ms: u64, step: u64, length: u64) -> String {
    match length {
        0..120_000 if step < 1_000 => format!("{:.1}", ms as f64 / 1000.0),
        0..120_000 => (ms / 1000).to_string(),
        120_000..7_200_000 => format!("{}:{:02}", ms / 60_000, ms / 1000 % 60),
        _ => format!("{}:{:02}", ms / 3_600_000, ms / 60_000 % 60),
    }
}

/// The axis of values: from 0, in steps of 1, 2 or 5 times a power of ten.
#[derive(Debug)]
struct Axis {
    step: f64,
    steps: u32,
}

impl Axis {
    /// An axis on which `highest` has its place.
    fn to(highest: f64) -> Self {
        if !(highest > 0.0 && highest.is_finite()) {
            return Self { step: 1.0, steps: 1 };
        }
        let power = 10_f64.powf((highest / 5.0).log10().floor());
        // A value just at the top must not get a step more from rounding.
        let steps = |step: f64| (highest / step - 1e-9).ceil().max(1.0);
        let step =
            [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| steps(*step) <= 5.0);
        let step = step.unwrap_or(highest);
        Self { step, steps: steps(step) as u32 }
    }

    /// How far below the top a value lies, in pixels.
    fn down(&self, value: f64) -> f64 {
        HIGH * (1.0 - value / (self.step * f64::from(self.steps)))
    }

    fn ticks(&self) -> impl Iterator<Item = (f64, String)> {
        let decimals = (-self.step.log10().floor()).clamp(0.0, 9.0) as usize;
        let text = move |value: f64| match decimals {
            0 => number(value.round()).trim_end_matches(".0").trim_end_matches(".00").to_owned(),
            decimals => format!("{value:.decimals$}"),
        };
        (0..=self.steps).map(move |i| f64::from(i) * self.step).map(move |value| (value, text(value)))
    }
}

#[cfg(test)]
mod tests;
