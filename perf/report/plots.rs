//! The plots, as SVG.

use crate::figures::{Failure, Snapshot, median, suffices};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;

const WIDE: (u32, u32) = (860, 420);
const FONT: &str = "sans-serif";
const GREY: RGBColor = RGBColor(110, 110, 110);
/// Of Okabe and Ito: told apart by colour-blind eyes too.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(150, 140, 20),
];

type Points = Vec<(f64, f64)>;

/// A line of a plot, and its name in the legend.
struct Line {
    name: String,
    colour: RGBColor,
    points: Points,
    /// Of less weight.
    thin: bool,
    /// Whether its points are marked, if they are few.
    marked: bool,
}

/// A scale: where its values lie, and which of them are written, how.
struct Axis {
    name: &'static str,
    range: (f64, f64),
    log: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        if self.log { value.log10() } else { value }
    }

    /// From 0 to a little above `most`, with four to eight round values.
    fn linear(name: &'static str, most: f64) -> Axis {
        let most = most.max(1e-9);
        let power = 10f64.powf((most / 4.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|n| n * power)
            .find(|step| most / step <= 7.0)
            .unwrap_or(10.0 * power);
        let end = (most * 1.04 / step).ceil() * step;
        let ticks = (0..=(end / step).round() as usize).map(|n| (n as f64 * step, plain(n as f64 * step)));
        Axis { name, range: (0.0, end), log: false, ticks: ticks.collect() }
    }

    /// Whole powers of ten.
    fn log(name: &'static str, least: f64, most: f64) -> Axis {
        let (first, last) = (least.log10().floor() as i32, most.log10().ceil() as i32);
        let last = last.max(first + 1);
        let ticks = (first..=last).map(|power| (10f64.powi(power), plain(10f64.powi(power))));
        Axis { name, range: (10f64.powi(first), 10f64.powi(last)), log: true, ticks: ticks.collect() }
    }
}

fn plain(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{} M", v / 1e6),
        v if v >= 1e4 => format!("{} k", v / 1e3),
        v => format!("{}", (v * 1000.0).round() / 1000.0),
    }
}

pub fn colour(figures: &Snapshot, dut: &str) -> RGBColor {
    let at = figures.duts().iter().position(|known| *known == dut).unwrap_or(0);
    COLOURS[at % COLOURS.len()]
}

/// Lines over two axes, with a legend at the right.
fn chart(
    area: &DrawingArea<SVGBackend, Shift>,
    title: &str,
    x: &Axis,
    y: &Axis,
    lines: &[Line],
) -> Result<(), Failure> {
    let (width, height) = area.dim_in_pixel();
    let (left, top, bottom) = (64, 34, 50);
    let right = if lines.len() > 1 { 170 } else { 20 };
    let (plot_width, plot_height) = ((width - left - right) as f64, (height - top - bottom) as f64);
    let at = |px: f64, py: f64| {
        let part = |axis: &Axis, value: f64| {
            (axis.place(value) - axis.place(axis.range.0)) / (axis.place(axis.range.1) - axis.place(axis.range.0))
        };
        let (px, py) = (part(x, px), part(y, py).clamp(0.0, 1.0));
        ((left as f64 + px * plot_width) as i32, (top as f64 + (1.0 - py) * plot_height) as i32)
    };
    let text = |size: u32, anchor| (FONT, size).into_font().color(&BLACK).pos(anchor);
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    area.draw(&Text::new(title.to_owned(), (left as i32, 8), text(16, Pos::new(HPos::Left, VPos::Top))))?;
    for (value, label) in &x.ticks {
        let (from, to) = (at(*value, y.range.0), at(*value, y.range.1));
        area.draw(&PathElement::new([from, to], GREY.mix(0.18)))?;
        area.draw(&Text::new(label.clone(), (from.0, from.1 + 6), text(12, Pos::new(HPos::Center, VPos::Top))))?;
    }
    for (value, label) in &y.ticks {
        let (from, to) = (at(x.range.0, *value), at(x.range.1, *value));
        area.draw(&PathElement::new([from, to], GREY.mix(0.18)))?;
        area.draw(&Text::new(label.clone(), (from.0 - 6, from.1), text(12, Pos::new(HPos::Right, VPos::Center))))?;
    }
    let middle = left as i32 + plot_width as i32 / 2;
    area.draw(&Text::new(x.name, (middle, height as i32 - 8), text(13, Pos::new(HPos::Center, VPos::Bottom))))?;
    let upright = (FONT, 13).into_font().color(&BLACK).transform(FontTransform::Rotate270);
    let upright = upright.pos(Pos::new(HPos::Center, VPos::Top));
    area.draw(&Text::new(y.name, (6, top as i32 + plot_height as i32 / 2), upright))?;
    for (row, line) in lines.iter().enumerate() {
        let style = line.colour.stroke_width(if line.thin { 1 } else { 2 });
        let points: Vec<_> = line.points.iter().map(|(px, py)| at(*px, *py)).collect();
        area.draw(&PathElement::new(points.clone(), style))?;
        if line.marked && points.len() < 20 {
            for point in points {
                let style = if line.thin { line.colour.stroke_width(1) } else { line.colour.filled() };
                area.draw(&Circle::new(point, 3, style))?;
            }
        }
        if lines.len() > 1 {
            let (from, height) = ((width - right) as i32 + 12, top as i32 + 8 + row as i32 * 20);
            area.draw(&PathElement::new([(from, height), (from + 20, height)], style))?;
            area.draw(&Text::new(
                line.name.clone(),
                (from + 26, height),
                text(13, Pos::new(HPos::Left, VPos::Center)),
            ))?;
        }
    }
    Ok(())
}

fn draw(
    path: &Path,
    size: (u32, u32),
    parts: usize,
    paint: impl Fn(usize, &DrawingArea<SVGBackend, Shift>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    for (at, area) in root.split_evenly((1, parts)).iter().enumerate() {
        paint(at, area)?;
    }
    root.present()?;
    Ok(())
}

/// All that the figures have something for; their names, without ".svg".
pub fn all(figures: &Snapshot, folder: &Path) -> Result<Vec<String>, Failure> {
    let mut made = Vec::new();
    let mut keep = |name: &str, was_made: bool| {
        if was_made {
            made.push(name.to_owned())
        }
    };
    keep("throughput", throughput(figures, &folder.join("throughput.svg"))?);
    keep("sizes", sizes(figures, &folder.join("sizes.svg"))?);
    for load in ["idle", "10", "50", "90", "99"] {
        let name = format!("latency-{load}");
        keep(&name, latency(figures, load, &folder.join(format!("{name}.svg")))?);
    }
    keep("loss", loss(figures, &folder.join("loss.svg"))?);
    keep("growth", growth(figures, &folder.join("growth.svg"))?);
    Ok(made)
}

/// Bars: the median of the rounds, and from the least to the most.
fn throughput(figures: &Snapshot, path: &Path) -> Result<bool, Failure> {
    let rows: Vec<(&str, Vec<f64>)> = figures
        .duts()
        .into_iter()
        .map(|dut| (dut, figures.rounds(dut, 4, "64")))
        .filter(|(_, r)| !r.is_empty())
        .collect();
    if rows.is_empty() {
        return Ok(false);
    }
    let most = rows.iter().flat_map(|(_, rounds)| rounds).fold(1.0, |most: f64, pps| most.max(*pps)) / 1e3;
    let axis = Axis::linear("kpps", most);
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    let text = |size: u32, h, v| (FONT, size).into_font().color(&BLACK).pos(Pos::new(h, v));
    let bottom = 46 + 34 * rows.len() as i32;
    draw(path, (WIDE.0, bottom as u32 + 44), 1, |_, area| {
        let (left, right) = (170, 110);
        let scale = (WIDE.0 as i32 - left - right) as f64 / axis.range.1;
        area.draw(&Text::new(
            "Throughput of 64-byte frames, IPv4, kpps: median, and from the least round to the most",
            (20, 8),
            text(16, HPos::Left, VPos::Top),
        ))?;
        for (value, label) in &axis.ticks {
            let at = left + (value * scale) as i32;
            area.draw(&PathElement::new([(at, 40), (at, bottom)], GREY.mix(0.18)))?;
            area.draw(&Text::new(label.clone(), (at, bottom + 4), text(12, HPos::Center, VPos::Top)))?;
        }
        let middle = left + (axis.range.1 * scale) as i32 / 2;
        area.draw(&Text::new(axis.name, (middle, bottom + 40), text(13, HPos::Center, VPos::Bottom)))?;
        for (at, (dut, rounds)) in rows.iter().enumerate() {
            let (top, centre) = (46 + 34 * at as i32, 46 + 34 * at as i32 + 11);
            let end = |pps: f64| left + (pps / 1e3 * scale) as i32;
            let (low, high) =
                (rounds.iter().copied().fold(f64::MAX, f64::min), rounds.iter().copied().fold(0.0, f64::max));
            let middle = median(rounds.clone()).unwrap_or(0.0);
            area.draw(&Rectangle::new(
                [(left, top), (end(middle), top + 22)],
                colour(figures, dut).mix(0.75).filled(),
            ))?;
            area.draw(&PathElement::new([(end(low), centre), (end(high), centre)], BLACK.stroke_width(2)))?;
            area.draw(&Text::new((*dut).to_owned(), (left - 10, centre), text(14, HPos::Right, VPos::Center)))?;
            let bound = if figures.generator_bound(dut, 4, "64") { " or more" } else { "" };
            area.draw(&Text::new(
                format!("{:.0}{bound}", middle / 1e3),
                (end(high) + 8, centre),
                text(14, HPos::Left, VPos::Center),
            ))?;
        }
        Ok(())
    })?;
    Ok(true)
}

fn sizes(figures: &Snapshot, path: &Path) -> Result<bool, Failure> {
    let mut lines = Vec::new();
    for family in [4, 6] {
        for dut in figures.duts() {
            let mut sizes: Vec<u32> = figures
                .throughput
                .iter()
                .filter(|row| row.dut == dut && row.family == family)
                .filter_map(|row| row.size.parse().ok())
                .collect();
            sizes.sort_unstable();
            sizes.dedup();
            if sizes.len() > 1 {
                let points = sizes.iter().filter_map(|size| {
                    Some((f64::from(*size), median(figures.rounds(dut, family, &size.to_string()))? / 1e3))
                });
                lines.push(Line {
                    name: format!("{dut}, IPv{family}"),
                    colour: colour(figures, dut),
                    points: points.collect(),
                    thin: family == 6,
                    marked: true,
                });
            }
        }
    }
    let most = lines.iter().flat_map(|line| &line.points).fold(0.0, |most: f64, point| most.max(point.1));
    if lines.is_empty() {
        return Ok(false);
    }
    let ticks = [64, 128, 256, 512, 1024, 1518].map(|size| (f64::from(size), size.to_string()));
    let x = Axis { name: "frame size, bytes with FCS", range: (60.0, 1600.0), log: true, ticks: ticks.to_vec() };
    draw(path, WIDE, 1, |_, area| chart(area, "Throughput by frame size", &x, &Axis::linear("kpps", most), &lines))?;
    Ok(true)
}

/// Percentiles on HdrHistogram's scale: each step to the right is a tenth of the frames. A line ends where too few are beyond it.
fn latency(figures: &Snapshot, load: &str, path: &Path) -> Result<bool, Failure> {
    let mut lines = Vec::new();
    for (dut, _, histogram) in
        figures.histograms.iter().filter(|(_, known, histogram)| known == load && !histogram.is_empty())
    {
        let points: Points = histogram
            .iter_quantiles(5)
            .map(|step| (1.0 - step.quantile(), step.value_iterated_to() as f64 / 1e3))
            .take_while(|(beyond, _)| suffices(histogram.len() as f64, *beyond))
            .map(|(beyond, y)| ((1.0 / beyond).clamp(1.0, 1e6), y.max(0.1)))
            .collect();
        if points.is_empty() {
            continue;
        }
        lines.push(Line { name: dut.clone(), colour: colour(figures, dut), points, thin: false, marked: true });
    }
    if lines.is_empty() {
        return Ok(false);
    }
    let place = |line: &Line| figures.duts().iter().position(|dut| *dut == line.name);
    lines.sort_by_key(place);
    let all = || lines.iter().flat_map(|line| &line.points);
    let (least, most) =
        (all().map(|point| point.1).fold(f64::MAX, f64::min), all().map(|point| point.1).fold(0.0, f64::max));
    let ticks = [
        (1.0, "0 %"),
        (2.0, "50 %"),
        (10.0, "90 %"),
        (1e2, "99 %"),
        (1e3, "99.9 %"),
        (1e4, "99.99 %"),
        (1e5, "99.999 %"),
    ];
    let end = all().map(|point| point.0).fold(1e4, f64::max);
    let ticks = ticks.into_iter().filter(|(at, _)| *at <= end).map(|(at, label)| (at, label.to_owned())).collect();
    let x = Axis { name: "percentile", range: (1.0, end), log: true, ticks };
    let title =
        if load == "idle" { "Latency, idle".to_owned() } else { format!("Latency at {load} % of oneip's throughput") };
    draw(path, WIDE, 1, |_, area| {
        chart(area, &title, &x, &Axis::log("us, generator to generator", least, most), &lines)
    })?;
    Ok(true)
}

fn loss(figures: &Snapshot, path: &Path) -> Result<bool, Failure> {
    let mut lines = Vec::new();
    for dut in figures.duts() {
        let rows = figures.loss.iter().filter(|row| row.dut == dut);
        let mut points: Points = rows.map(|row| (row.sent_pps / 1e3, row.received_pps / 1e3)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        if !points.is_empty() {
            lines.push(Line { name: dut.to_owned(), colour: colour(figures, dut), points, thin: false, marked: true });
        }
    }
    if lines.is_empty() {
        return Ok(false);
    }
    let all = || lines.iter().flat_map(|line| &line.points);
    let (x, y) = (all().map(|point| point.0).fold(0.0, f64::max), all().map(|point| point.1).fold(0.0, f64::max));
    lines.push(Line {
        name: "without loss".to_owned(),
        colour: GREY,
        points: vec![(0.0, 0.0), (y, y)],
        thin: true,
        marked: false,
    });
    draw(path, WIDE, 1, |_, area| {
        chart(
            area,
            "Overload: what comes out of what goes in",
            &Axis::linear("kpps sent", x),
            &Axis::linear("kpps received", y),
            &lines,
        )
    })?;
    Ok(true)
}

fn growth(figures: &Snapshot, path: &Path) -> Result<bool, Failure> {
    let panels: Vec<(&'static str, Points)> = ["services", "servers", "clients"]
        .into_iter()
        .map(|what| {
            (
                what,
                figures
                    .growth
                    .iter()
                    .filter(|row| row.what == what && row.pps > 0.0)
                    .map(|row| (row.n, row.pps / 1e3))
                    .collect::<Points>(),
            )
        })
        .filter(|(_, points)| !points.is_empty())
        .collect();
    if panels.is_empty() {
        return Ok(false);
    }
    let most = panels.iter().flat_map(|(_, points)| points).fold(0.0, |most: f64, point| most.max(point.1));
    draw(path, (300 * panels.len() as u32, 320), panels.len(), |at, area| {
        let (what, points) = &panels[at];
        let end = points.iter().fold(10.0, |most: f64, point| most.max(point.0));
        let line =
            Line { name: (*what).to_owned(), colour: COLOURS[0], points: points.clone(), thin: false, marked: true };
        chart(area, &format!("Throughput by {what}"), &Axis::log(what, 1.0, end), &Axis::linear("kpps", most), &[line])
    })?;
    Ok(true)
}
