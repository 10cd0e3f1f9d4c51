//! Draws a view, on a terminal of any size.

use super::talkers;
use super::view::View;
use crate::admin::status::{LatencyStatus, ServerStatus, ServiceStatus, State, Status};
use crate::ctl::rates::{Rates, Sent, ServiceRates};
use crate::ctl::status::{check, why};
use crate::ctl::units::{count, percent, si, span, with_unit};
use crate::metrics::summary::microseconds;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, RenderDirection, Sparkline};
use std::collections::VecDeque;

/// Columns of a bar beside its figure, and of a service's history.
const BAR: usize = 5;
const HISTORY: usize = 24;

/// Columns of a server's name, of its indentation, and of the longest name that gets more where there is more.
const NAME: usize = 14;
const INDENT: usize = 3;
const LONG_NAME: usize = 40;

/// Ports of a service that are named.
const PORTS: usize = 4;

/// What `?` shows.
const HELP: &str = "
 Keys
   q, Esc, Ctrl-C        quit
   p, Space              pause, and resume
   t                     show who sends most, and the servers again
   up, down, k, j        scroll by a line
   PgUp, PgDn            scroll by a page
   Home, End, g, G       first, last line
   ?                     show this, and the list again

 Columns
   slots                 part of the service's slots that the server owns: the part of all clients that it gets
   of frames             part of the service's frames that went to it since the last update
   frame/s, bit/s, new/s what went to it by the second; new: TCP connections begun
   check                 how long its last successful health check took

 Who sends most: from a random sample of frames, one second in every five
   share                 part of all frames to cluster addresses
   dropped               part of the source's frames that are dropped";

/// Below this many lines the history of all frames gives way to the list.
const LOW: u16 = 16;

/// Draws the view, and keeps what it shows of the list within the list.
pub fn draw(frame: &mut Frame, view: &mut View) {
    let history = if frame.area().height < LOW { 0 } else { 3 };
    let heights = [
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(history),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ];
    let [title, totals, drops, past, header, list, keys] = Layout::vertical(heights).areas(frame.area());
    frame.render_widget(title_line(&view.status).style(Style::new().reversed()), title);
    frame.render_widget(totals_line(view, totals.width.into()), totals);
    frame.render_widget(drops_line(view), drops);
    draw_history(frame, past, &view.frames);
    let widths = Widths::of(&view.status, list.width.into());
    let titles = if view.talkers { talkers::header(list.width.into()) } else { header_line(widths) };
    frame.render_widget(titles, header);

    let services = view.status.services.iter();
    let lines: Vec<Line> = match view {
        View { help: true, .. } => HELP.lines().map(Line::from).collect(),
        View { talkers: true, heaviest, .. } => talkers::lines(heaviest.as_ref(), list.width.into()),
        _ => services.flat_map(|service| service_lines(service, view, widths)).collect(),
    };
    (view.lines, view.shown) = (lines.len(), list.height.into());
    view.first = view.first.min(view.lines.saturating_sub(view.shown));
    let seen = lines.into_iter().skip(view.first).take(view.shown).collect::<Vec<_>>();
    frame.render_widget(Paragraph::new(seen), list);
    frame.render_widget(keys_line(view), keys);
}

fn title_line(status: &Status) -> Line<'static> {
    let Status { version, mode, interface, interface_up, uptime_s, generation, workers, .. } = status;
    let mut line =
        Line::from(format!(" oneip {version}  {mode} {interface}  up {}  table {generation}", span(*uptime_s)));
    let wrong: Vec<String> = workers
        .iter()
        .filter(|worker| !worker.turns || worker.stuck)
        .map(|worker| format!("{} {}", worker.worker, if worker.turns { "is stuck" } else { "hangs" }))
        .collect();
    if *interface_up == Some(false) {
        line.push_span(format!("  {interface} is down").red().bold());
    }
    line.push_span(match (&wrong[..], workers.len()) {
        ([], 0) => Span::raw(""),
        ([], 1) => Span::raw("  1 worker runs"),
        ([], count) => Span::raw(format!("  {count} workers run")),
        (wrong, _) => format!("  worker {}", wrong.join(", ")).red().bold(),
    });
    line
}

/// The new flows only where they fit.
fn totals_line(view: &View, width: usize) -> Line<'static> {
    let Some(rates) = &view.rates else { return Line::from(" looking ...").dim() };
    let sent = all(rates);
    let mut line = Line::from(vec![
        " in ".dim(),
        format!("{}/s", si(rates.frames)).bold(),
        "  forwarded ".dim(),
        format!("{}/s", si(rates.forwarded)).bold(),
        "  dropped ".dim(),
        format!("{}/s", si(rates.dropped_total())).bold(),
        "  passed ".dim(),
        format!("{}/s", si(rates.passed)).bold(),
        "  ".into(),
        format!("{}/s", with_unit(8.0 * sent.bytes, "bit")).bold(),
    ]);
    let new = Line::from(vec!["  new ".dim(), format!("{}/s", si(sent.flows)).bold()]);
    if line.width() + new.width() <= width {
        line.extend(new);
    }
    line
}

fn all(rates: &Rates) -> Sent {
    let servers = rates.services.iter().flat_map(|service| service.servers.clone()).collect();
    ServiceRates { name: String::new(), servers }.sum()
}

/// What is dropped now; where nothing is, what was since the start. Why the last look failed goes before both.
fn drops_line(view: &View) -> Line<'static> {
    if let Some(error) = &view.error {
        return Line::from(format!(" {error}").red().bold());
    }
    let now: Vec<Span> = view
        .rates
        .iter()
        .flat_map(|rates| &rates.dropped)
        .map(|(reason, rate)| format!(" {reason} {}/s", si(*rate)).red())
        .collect();
    if now.is_empty() {
        let dropped: u64 = view.status.dropped.values().sum();
        return Line::from(format!(" nothing is dropped now; since the start {}", count(dropped))).dim();
    }
    let mut line = Line::from(" dropped".dim());
    line.extend(now);
    line
}

/// Frames in by the second, newest at the right, with the highest of them.
fn draw_history(frame: &mut Frame, area: Rect, frames: &VecDeque<f64>) {
    let shown: Vec<u64> = frames.iter().take(area.width.into()).map(|rate| *rate as u64).collect();
    let most = shown.iter().copied().max().unwrap_or(0);
    let bars = Sparkline::default().data(&shown).direction(RenderDirection::RightToLeft).style(Color::Cyan);
    frame.render_widget(bars, area);
    if most > 0 && area.height > 1 {
        let label = format!(" {}/s ", si(most as f64));
        let width = (label.len() as u16).min(area.width);
        frame.render_widget(Line::from(label).dim(), Rect { width, height: 1, ..area });
    }
}

/// How a row is laid out.
#[derive(Clone, Copy)]
struct Widths {
    name: usize,
    /// What is left for a note.
    note: usize,
}

impl Widths {
    /// Names get what they need, if it is there.
    fn of(status: &Status, width: usize) -> Widths {
        let servers = status.services.iter().flat_map(|service| &service.servers);
        let longest = INDENT + servers.map(|server| server.name.chars().count()).max().unwrap_or(0);
        let rest = width.saturating_sub(Widths { name: NAME, note: 0 }.row().iter().map(|(width, _)| width + 1).sum());
        let name = longest.clamp(NAME, LONG_NAME).min(NAME + rest);
        Widths { name, note: rest - (name - NAME) }
    }

    /// The width of each cell, and whether it is aligned at the right.
    fn row(self) -> [(usize, bool); 8] {
        [(self.name, false), (8, false), (8, true), (BAR + 5, false), (7, true), (7, true), (7, true), (8, true)]
    }
}

/// One line of the list, and a note if there is room for it.
fn row(cells: [Span<'static>; 8], note: Span<'static>, widths: Widths) -> Line<'static> {
    let mut line = Line::default();
    for (cell, (width, right)) in cells.into_iter().zip(widths.row()) {
        let content = cut(&cell.content, width);
        let content = if right { format!("{content:>width$} ") } else { format!("{content:<width$} ") };
        line.push_span(Span::styled(content, cell.style));
    }
    if note.content.len() <= widths.note {
        line.push_span(note);
    }
    line
}

/// Names that are too long differ at their ends as often as at their beginnings: the middle goes.
pub(super) fn cut(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let kept = width - 1;
    let (first, last) = (kept.div_ceil(2), kept / 2);
    text.chars().take(first).chain(['…']).chain(text.chars().skip(length - last)).collect()
}

fn header_line(widths: Widths) -> Line<'static> {
    let titles = [" server", "state", "slots", "of frames", "frame/s", "bit/s", "new/s", "check"];
    row(titles.map(Span::raw), Span::raw(""), widths).underlined().dim()
}

/// A service: what it is, how it goes, and its servers.
fn service_lines(service: &ServiceStatus, view: &View, widths: Widths) -> Vec<Line<'static>> {
    let rates = view.rates.as_ref().and_then(|rates| rates.services.iter().find(|rates| rates.name == service.name));
    let mut heading = Line::from(vec![
        format!(" {}", cut(&service.name, widths.name - 1)).cyan().bold(),
        format!("  {} {}  {}, {} slots", service.addresses_text(), ports(service), service.selection, service.slots)
            .dim(),
    ]);
    if service.moving > 0 {
        heading.push_span(format!("  {} moving", service.moving).yellow());
    }
    let mut lines = vec![heading, pulse_line(service, rates, view.services.get(&service.name))];
    let sum = rates.map(ServiceRates::sum);
    for server in &service.servers {
        let sent = rates.and_then(|rates| rates.servers.iter().find(|rates| rates.name == server.name));
        lines.extend(server_lines(server, sent.map(|sent| sent.sent), sum, widths));
    }
    lines
}

fn ports(service: &ServiceStatus) -> String {
    let named = service.ports.iter().take(PORTS).map(String::as_str).collect::<Vec<_>>().join(" ");
    match service.ports.len() {
        0 => "every port".to_owned(),
        all if all > PORTS => format!("{named} and {} more", all - PORTS),
        _ => named,
    }
}

/// Its history, rates and latency.
fn pulse_line(service: &ServiceStatus, rates: Option<&ServiceRates>, history: Option<&VecDeque<f64>>) -> Line<'static> {
    let mut line = Line::from(format!(" {:>HISTORY$} ", history.map(sparks).unwrap_or_default()).cyan());
    if let Some(sent) = rates.map(ServiceRates::sum) {
        line.push_span(format!(" {}/s ", si(sent.frames)).bold());
    }
    if let Some(LatencyStatus { p50, p99, max, .. }) = service.latency_ns {
        let [p50, p99, max] = [p50, p99, max].map(microseconds);
        line.push_span(format!(" p50 {p50}  p99 {p99}  max {max}").dim());
    }
    line
}

/// A server, and, where it takes no clients, why.
fn server_lines(server: &ServerStatus, sent: Option<Sent>, sum: Option<Sent>, widths: Widths) -> Vec<Line<'static>> {
    let part = sent.zip(sum).filter(|(_, sum)| sum.frames > 0.0).map(|(sent, sum)| sent.frames / sum.frames);
    let rate = |value: fn(Sent) -> f64| Span::raw(sent.map_or("-".to_owned(), |sent| si(value(sent))));
    let cells = [
        Span::raw(format!("{:INDENT$}{}", "", cut(&server.name, widths.name - INDENT))),
        Span::styled(server.state.name(), color(server.state)),
        Span::raw(percent(server.share)),
        Span::styled(part.map_or_else(String::new, figure), color(server.state)),
        rate(|sent| sent.frames),
        rate(|sent| 8.0 * sent.bytes),
        rate(|sent| sent.flows),
        Span::raw(server.check.as_ref().map_or(String::new(), check)),
    ];
    let since = format!("{} for {}", server.state.name(), span(server.since_s));
    match (server.state, why(server)) {
        (State::Up, why) if why.is_empty() => vec![row(cells, since.dim(), widths)],
        (State::Up, why) => vec![row(cells, why.dim(), widths)],
        (state, why) => {
            let why = if why.is_empty() { since } else { format!("{since}: {why}") };
            let why = Line::from(format!("     {why}")).style(Style::new().fg(color(state)).dim());
            vec![row(cells, Span::raw(""), widths), why]
        }
    }
}

fn color(state: State) -> Color {
    match state {
        State::Up => Color::Green,
        State::Down => Color::Red,
        State::Held | State::Joining | State::Draining | State::Leaving => Color::Yellow,
        State::Drained | State::Disabled => Color::DarkGray,
    }
}

/// A part as a figure, and as a bar.
fn figure(part: f64) -> String {
    format!("{:>3.0} % {}", 100.0 * part, bar(part))
}

/// A bar of eighths.
fn bar(part: f64) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (part.clamp(0.0, 1.0) * (8 * BAR) as f64).round() as usize;
    "█".repeat(eighths / 8) + PARTS[eighths % 8]
}

/// The newest values, at the right, by height; the highest of them is as high as a line.
fn sparks(history: &VecDeque<f64>) -> String {
    const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown: Vec<f64> = history.iter().take(HISTORY).copied().collect();
    let most = shown.iter().copied().fold(0.0, f64::max);
    let height = |value: f64| match value {
        _ if value <= 0.0 => ' ',
        _ => HEIGHTS[((value / most * 8.0).ceil() as usize).clamp(1, 8) - 1],
    };
    shown.into_iter().rev().map(height).collect()
}

fn keys_line(view: &View) -> Line<'static> {
    let other = if view.talkers { "servers" } else { "sources" };
    let mut line = Line::from(format!(" q quit  p pause  t {other}  ↑ ↓ PgUp PgDn  ? help").dim());
    if view.lines > view.shown {
        let last = (view.first + view.shown).min(view.lines);
        line.push_span(format!("   lines {} to {last} of {}", view.first + 1, view.lines).dim());
    }
    if view.paused {
        line.push_span("   PAUSED".yellow().bold());
    }
    line
}
