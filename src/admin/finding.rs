//! What `oneip doctor` says of one thing, in its own document and in that of `ctl status`.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at, in a word.
    pub name: String,
    pub state: Grade,
    /// What was seen, and why it matters.
    pub why: String,
    /// The command that mends it; `None`: nothing is wrong, or no command mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// From good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    Ok,
    /// Works, but slower than it could, or only as long as nothing else goes wrong.
    Warn,
    /// Clients are not served, or will not be.
    Fail,
}

impl Grade {
    pub const fn name(self) -> &'static str {
        match self {
            Grade::Ok => "ok",
            Grade::Warn => "warn",
            Grade::Fail => "fail",
        }
    }
}

impl Finding {
    fn new(state: Grade, name: &str, why: impl Into<String>) -> Finding {
        Finding { name: name.to_owned(), state, why: why.into(), fix: None }
    }

    pub fn ok(name: &str, why: impl Into<String>) -> Finding {
        Finding::new(Grade::Ok, name, why)
    }

    pub fn warn(name: &str, why: impl Into<String>) -> Finding {
        Finding::new(Grade::Warn, name, why)
    }

    pub fn fail(name: &str, why: impl Into<String>) -> Finding {
        Finding::new(Grade::Fail, name, why)
    }

    /// With the command that mends it.
    #[must_use]
    pub fn mend(mut self, fix: impl Into<String>) -> Finding {
        self.fix = Some(fix.into());
        self
    }

    /// In a line.
    pub fn line(&self) -> String {
        let fix = self.fix.as_ref().map_or(String::new(), |fix| format!("; {fix}"));
        format!("{}: {}{fix}", self.name, self.why)
    }
}

/// The worst, in a line each.
pub fn worst(findings: &[Finding], most: usize) -> Vec<&Finding> {
    let mut bad: Vec<&Finding> = findings.iter().filter(|finding| finding.state > Grade::Ok).collect();
    bad.sort_by_key(|finding| std::cmp::Reverse(finding.state));
    bad.truncate(most);
    bad
}
