//! Lists of prefixes: whose frames are dropped, and whose are not.

use super::Prefix;
use crate::limits::{LIST_GROUPS, MAX_LISTED};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A `[[deny]]` or an `[[allow]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    pub kind: ListKind,
    /// Names; empty: every service.
    pub services: Vec<String>,
    pub prefixes: Vec<Prefix>,
    pub files: Vec<ListFile>,
}

/// What becomes of the frames that a list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// They are dropped.
    Deny,
    /// They are only counted.
    Count,
    /// They are dispatched, in spite of a list with a shorter prefix, or with the same one.
    Allow,
}

/// A file of prefixes, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListFile {
    pub path: PathBuf,
    pub prefixes: Arc<[Prefix]>,
}

impl List {
    /// All of the list, from wherever it is.
    pub fn all(&self) -> impl Iterator<Item = &Prefix> {
        self.prefixes.iter().chain(self.files.iter().flat_map(|file| file.prefixes.iter()))
    }
}

impl ListKind {
    fn title(self) -> &'static str {
        if self == ListKind::Allow { "[[allow]]" } else { "[[deny]]" }
    }
}

/// What there are too many of in all lists together, in words.
pub fn excess(lists: &[List]) -> Option<String> {
    let mut counts: HashMap<(&str, bool), usize> = HashMap::new();
    for list in lists {
        let title = list.kind.title();
        list.all().for_each(|prefix| *counts.entry((title, prefix.address.is_ipv4())).or_default() += 1);
    }
    let beyond = counts.into_iter().filter(|(_, count)| *count > MAX_LISTED).max()?;
    let ((title, is_v4), count) = beyond;
    let family = if is_v4 { "IPv4" } else { "IPv6" };
    Some(format!(
        "{count} {family} prefixes in all {title} together; at most {MAX_LISTED} are possible: write wider ones"
    ))
}

/// Services fall into more groups, by the lists that they have, than `LIST_GROUPS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyGroups;

/// The group of each service, and the groups that have each list, a bit each. Services with the same lists are a group.
///
/// # Errors
/// See `TooManyGroups`.
pub fn groups(lists: &[List], services: &[&str]) -> Result<(Box<[u8]>, Vec<u64>), TooManyGroups> {
    let mut scopes: Vec<&[String]> = lists.iter().map(|list| &list.services[..]).filter(|of| !of.is_empty()).collect();
    scopes.sort_unstable();
    scopes.dedup();
    let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
    for (scope, names) in scopes.iter().enumerate() {
        names.iter().for_each(|name| by_name.entry(name).or_default().push(scope));
    }
    let mut known: HashMap<Vec<usize>, u8> = HashMap::new();
    let mut of_services = Vec::with_capacity(services.len());
    for service in services {
        let has = by_name.get(service).cloned().unwrap_or_default();
        let next = known.len();
        let group = *known.entry(has).or_insert(next as u8);
        if usize::from(group) >= LIST_GROUPS {
            return Err(TooManyGroups);
        }
        of_services.push(group);
    }
    let of_scope = |scope: usize| {
        let has = known.iter().filter(|(scopes, _)| scopes.contains(&scope));
        has.fold(0, |groups, (_, group)| groups | 1 << group)
    };
    let of_list = |list: &List| match scopes.binary_search(&&list.services[..]) {
        Ok(scope) => of_scope(scope),
        Err(_) => u64::MAX,
    };
    Ok((of_services.into(), lists.iter().map(of_list).collect()))
}
