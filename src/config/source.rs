//! From text to a TOML tree, past lines that are not TOML.

use super::report::Report;
use super::value::quoted;
use toml::de::{DeTable, Error};

/// Reads the text. Lines that are not TOML are reported, then blanked and the rest is read again (from `rest`, which the
/// caller lends), so that a stray quote does not hide the other mistakes of the file. `None` where what is left has no
/// structure that could be judged, for example because a header is not readable.
/// Offsets are into the text; it begins at `begin` of all that the report knows.
pub fn read<'t>(text: &'t str, begin: usize, rest: &'t mut String, report: &mut Report) -> Option<DeTable<'t>> {
    let (tree, mut errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Some(tree.into_inner());
    }
    errors.sort_by_key(|error| offset(error, text));
    if let Some(first) = errors.first().filter(|_| errors.iter().any(is_unclosed)) {
        let message = format!("{}, or close the `[` or `{{` before it", message(first));
        report.error(begin + offset(first, text), message);
        return None;
    }
    errors.dedup_by_key(|error| line_start(text, offset(error, text)));
    let mut bytes = text.as_bytes().to_vec();
    let mut broken_header = false;
    for error in &errors {
        let start = line_start(text, offset(error, text));
        broken_header |= is_header(&text[start..]) && !is_duplicate(error);
        report_error(text, begin, error, report);
        blank(text, start, &mut bytes);
    }
    if broken_header {
        return None;
    }
    *rest = String::from_utf8(bytes).expect("whole lines were blanked");
    let (tree, errors) = DeTable::parse_recoverable(rest);
    errors.is_empty().then(|| tree.into_inner())
}

fn offset(error: &Error, text: &str) -> usize {
    error.span().map_or(0, |span| span.start.min(text.len()))
}

/// After a bracket that is not closed, every line that follows seems wrong; only the first of them is near the mistake.
fn is_unclosed(error: &Error) -> bool {
    ["unclosed array, ", "unclosed inline table, "].iter().any(|start| error.message().starts_with(start))
}

fn is_duplicate(error: &Error) -> bool {
    error.message() == "duplicate key"
}

fn report_error(text: &str, begin: usize, error: &Error, report: &mut Report) {
    let at = offset(error, text);
    if !is_duplicate(error) {
        report.set_incomplete();
        return report.error(begin + at, message(error));
    }
    let line = &text[line_start(text, at)..];
    let line = line.lines().next().unwrap_or_default();
    report.error(begin + at, match line.rfind(']') {
        Some(end) if is_header(line) => {
            let header = quoted(line[..=end].trim_start(), '`');
            format!("{header} is given twice, or with other brackets; put its keys under one header, or begin each with [[ ]]")
        }
        _ => {
            let key = error.span().and_then(|span| text.get(span)).unwrap_or_default();
            format!("{} is given twice in its section; keep one of them", quoted(key, '`'))
        }
    });
}

/// The parser's message in the form of ours: what is wrong; what would be right.
fn message(error: &Error) -> String {
    let message = error.message();
    if message.starts_with("string values must be quoted") {
        return "quotation marks are missing around a text, or a value is missing; write it like \"web\"".to_owned();
    }
    match message.split_once(", expected ") {
        Some((wrong, "nothing")) => format!("not valid TOML: {wrong}; remove it"),
        Some((wrong, right)) => format!("not valid TOML: {wrong}; expected {right}"),
        None => format!("not valid TOML: {message}"),
    }
}

/// Overwrites the line that begins at `start` with spaces, so that all offsets stay; with a header also what stands under it,
/// which would otherwise be taken for a part of the section before.
fn blank(text: &str, start: usize, bytes: &mut [u8]) {
    let mut end = line_end(text, start);
    if is_header(&text[start..]) {
        while end < text.len() && !is_header(&text[end..]) {
            end = line_end(text, end);
        }
    }
    bytes[start..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
}

fn line_start(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |i| i + 1)
}

/// The first byte behind the line that begins at `start`.
fn line_end(text: &str, start: usize) -> usize {
    text[start..].find('\n').map_or(text.len(), |i| start + i + 1)
}

/// Whether the text begins with the header of a section, such as `[cluster]`.
fn is_header(text: &str) -> bool {
    text.trim_start_matches([' ', '\t']).starts_with('[')
}
