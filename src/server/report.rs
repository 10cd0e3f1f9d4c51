//! What a verb of `oneip server` did or found, line by line.

use std::fmt;

use super::Error;

/// The outcome of a verb, to be printed with `Display`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The name of the server that this host is.
    pub server: String,
    pub lines: Vec<Line>,
    topic: &'static str,
}

/// One thing done or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub grade: Grade,
    /// What it is about, in a word; empty in what `add` and `remove` did.
    pub topic: &'static str,
    pub text: String,
    /// The command that mends it.
    pub mend: Option<String>,
}

/// How a line is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// Right as it is.
    Ok,
    /// Changed just now.
    Done,
    /// Left alone, and why.
    Note,
    /// Works, but becomes harmful together with another fault.
    Warning,
    /// The server does not get, or wrongly claims, a cluster address.
    Wrong,
}

impl Report {
    pub(super) fn new(server: &str) -> Report {
        Report { server: server.to_owned(), lines: Vec::new(), topic: "" }
    }

    /// What the lines are about that follow.
    pub(super) fn begin(&mut self, topic: &'static str) {
        self.topic = topic;
    }

    pub(super) fn push(&mut self, grade: Grade, text: String) {
        self.lines.push(Line { grade, topic: self.topic, text, mend: None });
    }

    pub(super) fn push_mend(&mut self, grade: Grade, text: String, mend: String) {
        self.lines.push(Line { grade, topic: self.topic, text, mend: Some(mend) });
    }

    /// # Errors
    /// `Error::Unsound` when a line is `Grade::Wrong`.
    pub fn verdict(&self) -> Result<(), Error> {
        match self.lines.iter().filter(|line| line.grade == Grade::Wrong).count() {
            0 => Ok(()),
            count => Err(Error::Unsound { server: self.server.clone(), count }),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server {}", self.server)?;
        if self.lines.is_empty() {
            write!(f, "\n  nothing to do")?;
        }
        for Line { grade, text, mend, .. } in &self.lines {
            write!(f, "\n  {:<8} {text}", grade.name())?;
            if let Some(command) = mend {
                write!(f, "\n  {:<8} fix: {command}", "")?;
            }
        }
        Ok(())
    }
}

impl Grade {
    const fn name(self) -> &'static str {
        match self {
            Grade::Ok => "ok",
            Grade::Done => "done",
            Grade::Note => "note",
            Grade::Warning => "warning",
            Grade::Wrong => "wrong",
        }
    }
}
