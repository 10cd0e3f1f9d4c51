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

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// Everything that is wrong with a configuration: at least one thing, in the order of the file.
///
/// Displayed one a line; more than one under a line that counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(Vec<Diagnostic>);

impl Errors {
    /// The one thing that is wrong with the file as a whole.
    pub(super) fn of_file(file: &Path, message: String) -> Errors {
        Errors(vec![Diagnostic { file: name(file), position: None, message }])
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [first, _, ..] = &self.0[..] {
            writeln!(f, "{}: {} problems", first.file, self.0.len())?;
        }
        for (i, diagnostic) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Collects what the checks find. `at` is always a byte offset into the text.
pub(super) struct Report<'t> {
    file: Arc<str>,
    text: &'t str,
    /// Where each line begins.
    lines: Vec<usize>,
    /// Part of the text could not be read, so nothing can be said to be missing from it.
    incomplete: bool,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl<'t> Report<'t> {
    pub fn new(file: &Path, text: &'t str) -> Report<'t> {
        let after_breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(i, _)| i + 1);
        Report {
            file: name(file),
            text,
            lines: std::iter::once(0).chain(after_breaks).collect(),
            incomplete: false,
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The file's name in messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    pub fn error(&mut self, at: usize, message: impl Into<String>) {
        let diagnostic = self.diagnostic(at, message.into());
        self.errors.push(diagnostic);
    }

    pub fn warn(&mut self, at: usize, message: impl Into<String>) {
        let diagnostic = self.diagnostic(at, message.into());
        self.warnings.push(diagnostic);
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

    /// The line of an offset, counted from 1.
    pub fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at)
    }

    /// The warnings, where there are no errors.
    pub fn finish(mut self) -> Result<Vec<Diagnostic>, Errors> {
        if !self.errors.is_empty() {
            return Err(self.into_errors());
        }
        self.warnings.sort_by_key(|diagnostic| diagnostic.position);
        Ok(self.warnings)
    }

    pub fn into_errors(mut self) -> Errors {
        self.errors.sort_by_key(|diagnostic| diagnostic.position);
        Errors(self.errors)
    }

    fn diagnostic(&self, at: usize, message: String) -> Diagnostic {
        let line = self.line(at);
        let before = &self.text.as_bytes()[self.lines[line - 1]..at];
        let column = 1 + before.iter().filter(|byte| !is_continuation(**byte)).count();
        Diagnostic { file: self.file.clone(), position: Some(Position { line, column }), message }
    }
}

fn name(file: &Path) -> Arc<str> {
    file.display().to_string().into()
}

/// Whether a byte of UTF-8 continues a character.
fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}
