//! Services that the group has published: which of them this member goes by.

use super::controller::Controller;
use super::reload::{Purpose, Reloads, Request};
use crate::admin::group::BadValue;
use crate::config::published::{self, Published};
use crate::control::membership::Membership;
use std::path::{Path, PathBuf};

pub struct Publishing {
    /// What counts here; 0: the services of the file.
    generation: u64,
    /// One that cannot count here, and why.
    refused: Option<(u64, String)>,
    /// Where it is kept; `None`: nowhere.
    file: Option<PathBuf>,
}

impl Publishing {
    /// `remembers`: what is on disk was taken in at the start.
    pub fn new(state: &Path, remembers: bool) -> Publishing {
        let file = published::path(state);
        let known = published::read(&file).ok().flatten();
        let generation = known.map_or(0, |known| known.generation);
        Publishing { generation, refused: None, file: remembers.then_some(file) }
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn newer<'p>(&self, published: &'p Published) -> Option<&'p Published> {
        (published.generation > self.generation).then_some(published)
    }

    pub fn has_refused(&self, published: &Published) -> bool {
        self.refused.as_ref().is_some_and(|(generation, _)| *generation == published.generation)
    }

    /// It counts from now on. Where it is to be kept.
    pub fn adopt(&mut self, generation: u64) -> Option<PathBuf> {
        (self.generation, self.refused) = (generation, None);
        self.file.clone()
    }

    pub fn refuse(&mut self, published: &Published, why: &str) {
        self.refused = Some((published.generation, why.to_owned()));
    }

    /// What stands in the store, and does not count here.
    pub fn bad(&self, there: Option<&Published>) -> Option<BadValue> {
        let there = there?.generation;
        let bad = |why: String| Some(BadValue { key: "config".to_owned(), why });
        match &self.refused {
            Some((generation, why)) if *generation == there => {
                bad(format!("generation {there} cannot be used here, and {} stays in use: {why}", self.shown()))
            }
            _ if there < self.generation => bad(format!(
                "generation {there} is older than {}, which is in use here: the store was restored; publish again",
                self.generation
            )),
            _ => None,
        }
    }

    fn shown(&self) -> String {
        match self.generation {
            0 => "what the file says".to_owned(),
            generation => format!("generation {generation}"),
        }
    }
}

impl Controller<'_> {
    /// Takes over what the group has published, if there is something newer, and no reload is under way.
    pub(super) fn adopt(&mut self, membership: &Membership, reloads: &mut Reloads) {
        if reloads.under_way.is_some() {
            return;
        }
        let Some(published) = self.group.as_ref().and_then(|group| group.to_adopt()).cloned() else { return };
        let Published { generation, by, force, .. } = &published;
        tracing::info!("group: {by} has published generation {generation}");
        let purpose = Purpose::Reload { force: *force };
        let request = Request { purpose, to: None, adopts: Some(Box::new(published)) };
        self.begin_reload(membership, request, reloads);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_one_counts_and_an_older_one_or_one_that_was_refused_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut publishing = Publishing::new(&folder.path().join("oneip.json"), true);
        let of = |generation| Published { generation, by: "d1".into(), at_ms: 1, force: false, text: String::new() };
        assert!(publishing.newer(&of(1)).is_some());
        assert_eq!(publishing.adopt(3), Some(folder.path().join("oneip.published.json")));
        assert!(publishing.newer(&of(3)).is_none() && publishing.bad(Some(&of(3))).is_none());
        let said = |publishing: &Publishing, generation| publishing.bad(Some(&of(generation))).expect("it is bad").why;
        assert!(said(&publishing, 2).starts_with("generation 2 is older than 3, which is in use here"));
        publishing.refuse(&of(4), "t.toml:1:1: no");
        assert!(publishing.has_refused(&of(4)) && !publishing.has_refused(&of(5)));
        assert_eq!(
            said(&publishing, 4),
            "generation 4 cannot be used here, and generation 3 stays in use: t.toml:1:1: no"
        );
        assert!(publishing.bad(Some(&of(5))).is_none() && publishing.bad(None).is_none());
    }
}
