//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// One thing that is wrong, or suspicious, displayed as `FILE:LINE:COL: what is wrong; what would be right`.
/// Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    file: Arc<str>,
    /// `None`: the file as a whole.
    position: Option<Position>,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    line: usize,
    column: usize,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(Position { line, column }) => write!(f, "{}:{line}:{column}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

/// Everything that is wrong with a configuration: at least one thing, in the order of the file, and of those that it includes.
///
/// Displayed one a line; more than one under a line that counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    /// Of the configuration.
    file: Arc<str>,
    all: Vec<Diagnostic>,
}

impl Errors {
    /// The one thing that is wrong with the file as a whole.
    pub(super) fn of_file(file: &Path, message: String) -> Errors {
        let file = name(file);
        Errors { all: vec![Diagnostic { file: file.clone(), position: None, message }], file }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all.len() > 1 {
            writeln!(f, "{}: {} problems", self.file, self.all.len())?;
        }
        for (i, diagnostic) in self.all.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Collects what the checks find. `at` is always a byte offset into all texts, one behind the other.
#[derive(Default)]
pub(super) struct Report {
    sources: Vec<Source>,
    /// Part of the text could not be read, so nothing can be said to be missing from it.
    incomplete: bool,
    /// By where they stand.
    errors: Vec<(usize, Diagnostic)>,
    warnings: Vec<(usize, Diagnostic)>,
}

/// A file.
struct Source {
    file: Arc<str>,
    text: Box<str>,
    /// Where it begins among all.
    begin: usize,
    /// Where each line begins in it.
    lines: Vec<usize>,
}

impl Report {
    /// Adds the text of a file behind those that it has. Where it begins.
    pub fn add(&mut self, file: &Path, text: &str) -> usize {
        // An end of a text is no beginning of the next one.
        let begin = self.sources.last().map_or(0, |last| last.begin + last.text.len() + 1);
        let after_breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(i, _)| i + 1);
        let lines = std::iter::once(0).chain(after_breaks).collect();
        self.sources.push(Source { file: name(file), text: text.into(), begin, lines });
        begin
    }

    /// The name of the file in which an offset is, in messages.
    pub fn file(&self, at: usize) -> &str {
        &self.source(at).file
    }

    pub fn error(&mut self, at: usize, message: impl Into<String>) {
        let diagnostic = self.diagnostic(at, message.into());
        self.errors.push((at, diagnostic));
    }

    pub fn warn(&mut self, at: usize, message: impl Into<String>) {
        let diagnostic = self.diagnostic(at, message.into());
        self.warnings.push((at, diagnostic));
    }

    /// Reports that something is not there, unless it may stand where the text could not be read.
    pub fn missing(&mut self, at: usize, message: impl Into<String>) {
        if !self.incomplete {
            self.error(at, message);
        }
    }

    /// Part of the text could not be read.
    pub fn set_incomplete(&mut self) {
        self.incomplete = true;
    }

    /// The line of an offset, counted from 1; where there are several files, with the name of its file.
    pub fn line(&self, at: usize) -> String {
        let source = self.source(at);
        let line = source.line(at - source.begin);
        if self.sources.len() == 1 { line.to_string() } else { format!("{line} of {}", source.file) }
    }

    /// The warnings, where there are no errors.
    pub fn finish(self) -> Result<Vec<Diagnostic>, Errors> {
        if self.errors.is_empty() { Ok(in_order(self.warnings)) } else { Err(self.into_errors()) }
    }

    pub fn into_errors(self) -> Errors {
        Errors { file: self.sources[0].file.clone(), all: in_order(self.errors) }
    }

    fn source(&self, at: usize) -> &Source {
        let next = self.sources.partition_point(|source| source.begin <= at);
        &self.sources[next - 1]
    }

    fn diagnostic(&self, at: usize, message: String) -> Diagnostic {
        let source = self.source(at);
        let at = at - source.begin;
        let line = source.line(at);
        let before = &source.text.as_bytes()[source.lines[line - 1]..at];
        let column = 1 + before.iter().filter(|byte| !is_continuation(**byte)).count();
        Diagnostic { file: source.file.clone(), position: Some(Position { line, column }), message }
    }
}

impl Source {
    /// Of an offset into this text, counted from 1.
    fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at)
    }
}

fn in_order(mut found: Vec<(usize, Diagnostic)>) -> Vec<Diagnostic> {
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, diagnostic)| diagnostic).collect()
}

fn name(file: &Path) -> Arc<str> {
    file.display().to_string().into()
}

/// Whether a byte of UTF-8 continues a character.
fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}
