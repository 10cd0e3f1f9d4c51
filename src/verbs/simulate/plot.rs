//! A report as a picture: who has what beside the ideal, and what changes move with each scheme.

use super::report::{Compared, Report, Summary};
use crate::error::Failure;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fs;
use std::path::Path;

/// Sizes in pixels.
const WIDTH: usize = 960;
const HEIGHT: usize = 380;
const MARGIN: usize = 12;
const AXIS: usize = 60;
/// Title and legend.
const HEAD: usize = 64;

/// For each server at least.
const SERVER: usize = 16;

/// Of a character, roughly: fonts are the viewer's.
const CHARACTER: usize = 7;

/// Colours that the colour-blind can tell apart (Okabe and Ito, "Color universal design", 2008), and a pale one behind them.
const CLIENTS: RGBColor = RGBColor(0, 114, 178);
const REQUESTS: RGBColor = RGBColor(230, 159, 0);
const MOVED: RGBColor = RGBColor(200, 208, 216);
const OTHERS: RGBColor = RGBColor(213, 94, 0);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws the report into an SVG file.
///
/// # Errors
/// The file cannot be written.
pub fn write(report: &Report, file: &Path) -> Result<(), Failure> {
    let mut svg = String::new();
    draw(report, &mut svg)?;
    fs::write(file, svg).map_err(|error| format!("{}: cannot be written: {error}", file.display()).into())
}

fn draw(report: &Report, svg: &mut String) -> Result<(), Failure> {
    let servers = report.servers.len();
    let width = WIDTH.max(AXIS + MARGIN + servers * SERVER);
    let longest = report.servers.iter().map(|share| share.server.len() * CHARACTER).max().unwrap_or(0);
    // Names stand side by side where there is room, else upright.
    let is_level = longest + CHARACTER < (width - AXIS - MARGIN) / servers;
    let names = MARGIN + if is_level { 2 * CHARACTER } else { longest };
    let root = SVGBackend::with_string(svg, (width as u32, (2 * HEIGHT + names) as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let (upper, lower) = root.split_vertically((HEIGHT + names) as u32);
    shares(report, &upper, names, is_level)?;
    moves(report, &lower)?;
    Ok(root.present()?)
}

/// Equal places along the abscissa, parts of 1 along the ordinate.
fn chart<'a>(area: &Area<'a>, title: &str, places: usize, top: f64, below: usize) -> Result<Chart<'a>, Failure> {
    area.draw(&Text::new(title.to_owned(), (MARGIN as i32, MARGIN as i32), ("sans-serif", 18)))?;
    let mut chart = ChartBuilder::on(area)
        .margin(MARGIN as u32)
        .margin_top(HEAD as u32)
        .set_label_area_size(LabelAreaPosition::Left, (AXIS - MARGIN) as u32)
        .set_label_area_size(LabelAreaPosition::Bottom, below as u32)
        .build_cartesian_2d(0.0..places as f64, 0.0..top)?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().disable_x_axis().y_labels(6).light_line_style(TRANSPARENT);
    mesh.y_label_formatter(&|share| percent(*share)).label_style(("sans-serif", 12)).draw()?;
    Ok(chart)
}

/// What the colours mean, in a row under the title.
fn legend(area: &Area, entries: &[(&str, RGBColor)]) -> Result<(), Failure> {
    let (mut x, y) = (MARGIN as i32, HEAD as i32 - 26);
    for (text, colour) in entries {
        area.draw(&Rectangle::new([(x, y), (x + 12, y + 12)], colour.filled()))?;
        area.draw(&Text::new((*text).to_owned(), (x + 18, y), ("sans-serif", 12)))?;
        x += 18 + ((text.len() + 2) * CHARACTER) as i32;
    }
    Ok(())
}

fn bar(chart: &mut Chart, (left, right): (f64, f64), top: f64, colour: RGBColor) -> Result<(), Failure> {
    chart.draw_series([Rectangle::new([(left, 0.0), (right, top)], colour.filled())])?;
    Ok(())
}

/// Of a text in the middle below a point.
fn below(colour: &RGBColor) -> TextStyle<'_> {
    TextStyle::from(("sans-serif", 12)).color(colour).pos(Pos::new(HPos::Center, VPos::Top))
}

/// A text at a point of the chart, moved down by so many pixels.
fn label(area: &Area, chart: &Chart, at: (f64, f64), down: i32, text: &str, style: TextStyle) -> Result<(), Failure> {
    let (x, y) = chart.backend_coord(&at);
    let (left, top) = area.get_base_pixel();
    Ok(area.draw(&Text::new(text, (x - left, y - top + down), style))?)
}

fn shares(report: &Report, area: &Area, names: usize, is_level: bool) -> Result<(), Failure> {
    let all = || report.servers.iter().flat_map(|share| [share.clients_share, share.requests_share, share.ideal_share]);
    let title = format!("{}: each server's share", report.service);
    let mut chart = chart(area, &title, report.servers.len(), 1.1 * all().fold(0.0, f64::max), names)?;
    legend(area, &[("clients", CLIENTS), ("requests", REQUESTS), ("ideal, by weight (line)", BLACK)])?;
    let style = match is_level {
        true => below(&BLACK),
        false => below(&BLACK).transform(FontTransform::Rotate90).pos(Pos::new(HPos::Left, VPos::Center)),
    };
    for (at, share) in report.servers.iter().enumerate() {
        let at = at as f64;
        bar(&mut chart, (at + 0.15, at + 0.5), share.clients_share, CLIENTS)?;
        bar(&mut chart, (at + 0.5, at + 0.85), share.requests_share, REQUESTS)?;
        let ideal = [(at + 0.05, share.ideal_share), (at + 0.95, share.ideal_share)];
        chart.draw_series([PathElement::new(ideal, BLACK.stroke_width(2))])?;
        label(area, &chart, (at + 0.5, 0.0), CHARACTER as i32, &share.server, style.clone())?;
    }
    Ok(())
}

fn moves(report: &Report, area: &Area) -> Result<(), Failure> {
    type Kind = (&'static str, fn(&Compared) -> Option<&Summary>);
    let kinds: [Kind; 3] = [
        ("one server fails", |scheme| scheme.failure.as_ref()),
        ("two fail", |scheme| scheme.pair.as_ref()),
        ("one server is added", |scheme| scheme.added.as_ref()),
    ];
    let schemes = report.schemes.len();
    // A place is left free between kinds.
    let places = kinds.len() * (schemes + 1);
    let mut chart = chart(area, "Clients that a change moves, on average", places, 1.2, 44)?;
    legend(
        area,
        &[
            ("clients that move, of all clients", MOVED),
            ("clients that move between two servers that stay, of the clients of servers that stay", OTHERS),
        ],
    )?;
    for (at, (kind, of)) in kinds.into_iter().enumerate() {
        let first = (at * (schemes + 1)) as f64;
        label(area, &chart, (first + schemes as f64 / 2.0 + 0.5, 0.0), 26, kind, below(&BLACK))?;
        for (at, scheme) in report.schemes.iter().enumerate() {
            let Some(summary) = of(scheme) else { continue };
            let (moved, others) = (summary.moved_share.mean, summary.healthy_moved_share.mean);
            let left = first + 0.5 + at as f64;
            bar(&mut chart, (left + 0.1, left + 0.9), moved, MOVED)?;
            bar(&mut chart, (left + 0.1, left + 0.9), others, OTHERS)?;
            label(area, &chart, (left + 0.5, moved), -32, &percent(moved), below(&BLACK))?;
            label(area, &chart, (left + 0.5, moved), -18, &percent(others), below(&OTHERS))?;
            label(area, &chart, (left + 0.5, 0.0), CHARACTER as i32, scheme.scheme, below(&BLACK))?;
        }
    }
    Ok(())
}

/// Without decimals, but what is little is not shown as nothing.
fn percent(share: f64) -> String {
    let decimals = if share > 0.0 && share < 0.01 { 2 } else { 0 };
    format!("{:.decimals$} %", 100.0 * share)
}
