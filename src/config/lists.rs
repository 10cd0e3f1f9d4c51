//! `[[deny]]` and `[[allow]]`, and the files of prefixes that they name: a prefix a line, with remarks behind `#`.

use super::draft::Draft;
use super::file;
use super::report::{Errors, Report};
use super::schema;
use super::section::{At, Section, text_element};
use super::value;
use crate::limits::{LIST_ERRORS, LIST_GROUPS, MAX_LIST_FILE, MAX_LISTS};
use crate::model::Prefix;
use crate::model::list::{self, List, ListFile, ListKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub struct ListDraft {
    at: usize,
    services: Vec<At<String>>,
    pub list: List,
}

impl ListDraft {
    /// Those of both kinds.
    pub fn read_all(root: &Section, base: &Path, report: &mut Report) -> Vec<ListDraft> {
        let deny = root.tables("deny", MAX_LISTS, &schema::DENY, report);
        let allow = root.tables("allow", MAX_LISTS, &schema::ALLOW, report);
        let deny: Vec<ListDraft> = deny.iter().map(|section| ListDraft::read(section, true, base, report)).collect();
        let allow = allow.iter().map(|section| ListDraft::read(section, false, base, report));
        deny.into_iter().chain(allow).collect()
    }

    fn read(section: &Section, denies: bool, base: &Path, report: &mut Report) -> ListDraft {
        let form = "an address or a prefix, like \"198.51.100.0/24\" or \"2001:db8:2::/64\"";
        let empty = "`prefixes` is empty; leave the key out, and name `files`";
        let prefixes = section.list("prefixes", report, empty, |it, report| text_element(it, report, form, prefix));
        let path = |text: &str| value::file(text, "deny.txt", base);
        let empty = "`files` is empty; leave the key out, and write `prefixes`";
        let files =
            section.list("files", report, empty, |it, report| text_element(it, report, "the path of a file", path));
        let empty = "`services` is empty; leave the key out for every service";
        let services = section
            .list("services", report, empty, |it, report| text_element(it, report, "a service's name", value::name));
        if prefixes.is_none() && files.is_none() {
            let example = schema::DENY.key("prefixes").form;
            report.missing(section.at, format!("it has neither `prefixes` nor `files`; write {example}"));
        }
        let modes = [("drop", ListKind::Deny), ("count", ListKind::Count)];
        let kind = match denies {
            true => {
                section.text("mode", report, value::choice("mode", modes)).map_or(ListKind::Deny, |mode| mode.value)
            }
            false => ListKind::Allow,
        };
        let files: Vec<At<PathBuf>> = files.unwrap_or_default();
        let files = files.into_iter().map(|file| read_named(file, report)).collect();
        let services: Vec<At<String>> = services.unwrap_or_default();
        let list = List {
            kind,
            services: services.iter().map(|service| service.value.clone()).collect(),
            prefixes: prefixes.unwrap_or_default().into_iter().map(|prefix| prefix.value).collect(),
            files,
        };
        ListDraft { at: section.at, services, list }
    }
}

/// Reports what lists, each legal by itself, break together and with the services.
pub fn check(draft: &Draft, report: &mut Report) {
    let names: Vec<&str> =
        draft.services.iter().filter_map(|service| Some(service.name.as_ref()?.value.as_str())).collect();
    for service in draft.lists.iter().flat_map(|list| &list.services) {
        if !names.contains(&service.value.as_str()) {
            report.missing(service.at, format!("there is no service \"{}\"; name one of this file", service.value));
        }
    }
    let Some(last) = draft.lists.last() else { return };
    let lists: Vec<List> = draft.lists.iter().map(|draft| draft.list.clone()).collect();
    if let Some(excess) = list::excess(&lists) {
        report.error(last.at, excess);
    }
    if list::groups(&lists, &names).is_err() {
        report.error(
            last.at,
            format!(
                "services have more than {LIST_GROUPS} different combinations of lists; name the same `services` in more of them"
            ),
        );
    }
}

/// A file that the configuration names.
fn read_named(At { at, value: path }: At<PathBuf>, report: &mut Report) -> ListFile {
    let prefixes = match read(&path) {
        Ok(text) => parse(&text).unwrap_or_else(|wrong| {
            tell(&path, &text, wrong, report);
            Vec::new()
        }),
        Err(why) => {
            report.error(at, format!("{} {why}", path.display()));
            Vec::new()
        }
    };
    ListFile { path, prefixes: prefixes.into() }
}

/// Reads a file of prefixes.
///
/// # Errors
/// Everything that is wrong with it, by line; or the one reason why it cannot be read.
pub fn read_file(path: &Path) -> Result<Arc<[Prefix]>, Errors> {
    let text = read(path).map_err(|why| Errors::of_file(path, why))?;
    parse(&text).map(Arc::from).map_err(|wrong| {
        let mut report = Report::default();
        tell(path, &text, wrong, &mut report);
        report.into_errors()
    })
}

fn read(path: &Path) -> Result<String, String> {
    let (bytes, _) = file::read(path, MAX_LIST_FILE)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("has a byte at offset {at} that is not UTF-8; save the file as UTF-8")
    })
}

/// Any address may be a source, if only of a frame that lies.
fn prefix(text: &str) -> Result<Prefix, String> {
    text.parse().map(Prefix::host).or_else(|_| value::prefix(text))
}

/// What is wrong, and where.
type Wrong = Vec<(usize, String)>;

fn parse(text: &str) -> Result<Vec<Prefix>, Wrong> {
    let (mut prefixes, mut wrong) = (Vec::new(), Vec::new());
    let mut begin = 0;
    for line in text.split_inclusive('\n') {
        let said = line.split('#').next().unwrap_or("");
        let word = said.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        if !word.is_empty() {
            match prefix(word) {
                Ok(prefix) => prefixes.push(prefix),
                Err(why) => wrong.push((begin + said.find(word).unwrap_or(0), why)),
            }
        }
        begin += line.len();
    }
    if wrong.is_empty() { Ok(prefixes) } else { Err(wrong) }
}

fn tell(path: &Path, text: &str, wrong: Wrong, report: &mut Report) {
    let begin = report.add(path, text);
    let more = wrong.len().saturating_sub(LIST_ERRORS);
    for (number, (at, why)) in wrong.into_iter().take(LIST_ERRORS).enumerate() {
        let and = if more > 0 && number + 1 == LIST_ERRORS {
            format!("; and {more} more in this file")
        } else {
            String::new()
        };
        report.error(begin + at, why + &and);
    }
}
