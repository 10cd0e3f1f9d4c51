//! Draws who sends most, a line each.

use super::screen::cut;
use crate::admin::order::{Heaviest, Talkers};
use crate::ctl::talkers::{COLUMNS, cells};
use ratatui::style::Stylize;
use ratatui::text::Line;

/// The columns of each cell but that of the service, which gets what is left: `ffff:ffff:ffff:ffff::/64` has its room.
const WIDTHS: [usize; 7] = [25, 0, 8, 8, 8, 10, 6];

/// What a service's name has at least.
const SERVICE: usize = 7;

pub fn header(width: usize) -> Line<'static> {
    row(COLUMNS.map(str::to_owned), width).underlined().dim()
}

/// What was found; `None`: nobody has looked yet.
pub fn lines(heaviest: Option<&Heaviest>, width: usize) -> Vec<Line<'static>> {
    let Some(Heaviest { talkers, age_s, error }) = heaviest else { return vec![Line::from(" looking ...").dim()] };
    let mut lines: Vec<Line> = error.iter().map(|error| Line::from(format!(" {error}")).yellow()).collect();
    match talkers {
        Some(talkers) => {
            let Talkers { for_ms, one_in, looked_at, missed, frames, sources } = talkers;
            let seconds = *for_ms as f64 / 1000.0;
            lines.extend(sources.iter().map(|source| row(cells(source, *frames, seconds), width)));
            if sources.is_empty() {
                lines.push(Line::from(" nobody was seen"));
            }
            let part = if *one_in == 1 { "all".to_owned() } else { format!("one in {one_in}") };
            let missed = if *missed == 0 { String::new() } else { format!(", {missed} missed") };
            let ago = age_s.unwrap_or_default();
            lines.push(Line::default());
            lines.push(
                Line::from(format!(" {looked_at} frames sampled in {seconds:.1} s ({part}{missed}), {ago:.0} s ago"))
                    .dim(),
            );
        }
        None if error.is_none() => lines.push(Line::from(" looking ...").dim()),
        None => {}
    }
    lines
}

fn row(cells: [String; 7], width: usize) -> Line<'static> {
    let others: usize = WIDTHS.iter().map(|width| width + 1).sum();
    let service = width.saturating_sub(others + 1).max(SERVICE);
    let mut text = String::from(" ");
    for (at, (cell, mut width)) in cells.into_iter().zip(WIDTHS).enumerate() {
        if width == 0 {
            width = service;
        }
        let cell = cut(&cell, width);
        text += &if at < 2 { format!("{cell:<width$} ") } else { format!("{cell:>width$} ") };
    }
    Line::from(text.trim_end().to_owned())
}
