//! A configuration of several files: those that `include` names are read, and what they hold is put together into one tree.
//!
//! The texts stand one behind the other: an offset is one into all of them, so that every rule is for all files at once, and the report knows in
//! which file an offset is.

use super::published::{KEYS, Published};
use super::report::Report;
use super::schema;
use super::section::{At, Section, text_element};
use super::{file, source, value};
use crate::limits::{MAX_CONFIG, MAX_INCLUDED};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The text of a file, and where it begins among all.
pub struct Text {
    begin: usize,
    text: Arc<str>,
    /// What is left of it where lines are not TOML.
    rest: String,
    /// It stands in the place of what others say of the same.
    is_published: bool,
}

/// Who a file is, by whatever name: device and inode.
type Identity = (u64, u64);

/// Collects the files of a configuration.
struct Search<'r> {
    /// What paths are relative to.
    base: &'r Path,
    report: &'r mut Report,
    texts: Vec<Text>,
    /// Those that were read, and where they were named.
    known: Vec<(Identity, usize)>,
    /// Those that lead to the one that is read.
    above: Vec<Identity>,
    bytes: u64,
}

/// The text of the configuration file, and those of all files that it includes, in order.
pub fn texts(text: &str, file: &Path, report: &mut Report) -> Vec<Text> {
    let base = file.parent().unwrap_or(Path::new(""));
    let begin = report.add(file, text);
    let mut search =
        Search { base, report, texts: Vec::new(), known: Vec::new(), above: Vec::new(), bytes: text.len() as u64 };
    // Where it is only a text, there is nothing that could lead back to it.
    search.above.extend(fs::metadata(file).ok().map(|facts| (facts.dev(), facts.ino())));
    search.take(begin, text.into());
    search.texts
}

/// What was published, to stand behind the others.
pub fn published(published: &Published, report: &mut Report) -> Text {
    let name = match published.generation {
        0 => "what is to be published".to_owned(),
        generation => format!("generation {generation} by {}", published.by),
    };
    let text: Arc<str> = published.text.strip_prefix('\u{feff}').unwrap_or(&published.text).into();
    Text { begin: report.add(Path::new(&name), &text), text, rest: String::new(), is_published: true }
}

/// One tree of all texts. `None`: nothing is left that could be judged.
pub fn tree<'t>(texts: &'t mut [Text], report: &mut Report) -> Option<DeTable<'t>> {
    let is_published = texts.last().is_some_and(|last| last.is_published);
    let mut trees = texts.iter_mut().map(|Text { begin, text, rest, .. }| {
        let tree = source::read(text, *begin, rest, report);
        if tree.is_none() {
            report.set_incomplete();
        }
        tree.map(|tree| moved(tree, *begin))
    });
    let first = trees.next().expect("the configuration itself");
    // All that is not TOML is reported, whichever file it is in.
    let mut others: Vec<Option<DeTable>> = trees.collect();
    let published = if is_published { others.pop().expect("it is the last") } else { None };
    let mut all = first?;
    others.into_iter().flatten().for_each(|other| join(&mut all, other, report));
    published.into_iter().for_each(|published| replace(&mut all, published, report));
    Some(all)
}

impl Search<'_> {
    /// Notes a text, and goes on with what it includes.
    fn take(&mut self, begin: usize, text: Arc<str>) {
        let included = if text.contains("include") { self.included(begin, &text) } else { Vec::new() };
        self.texts.push(Text { begin, text, rest: String::new(), is_published: false });
        for At { at, value } in included {
            match self.files(&value) {
                Ok(files) => files.iter().for_each(|file| self.read(file, at)),
                Err(why) => self.report.error(at, why),
            }
        }
    }

    /// What a text includes.
    fn included(&mut self, begin: usize, text: &str) -> Vec<At<PathBuf>> {
        // What is not TOML is reported elsewhere.
        let (tree, _) = DeTable::parse_recoverable(text);
        let mut only = DeTable::new();
        only.extend(moved(tree.into_inner(), begin).into_iter().filter(|(key, _)| key.get_ref() == "include"));
        let empty = "`include` is empty; leave the key out, or write include = \"services.d\"";
        let base = self.base;
        let path = |text: &str| value::file(text.trim_end_matches('/'), "services.d", base);
        let section = Section::part(&only, begin, &schema::ROOT);
        let paths = section.one_or_list("include", self.report, empty, |element, report| {
            text_element(element, report, "the path of a file or of a directory", path)
        });
        paths.unwrap_or_default()
    }

    /// A file itself; of a directory those that end in `.toml`, in the order of their names.
    fn files(&self, path: &Path) -> Result<Vec<PathBuf>, String> {
        if !path.is_dir() {
            return Ok(vec![path.to_owned()]);
        }
        let unreadable = |error| format!("the directory {path:?} cannot be read: {error}");
        let entries = fs::read_dir(path).map_err(unreadable)?;
        let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
        let is_hidden = |file: &Path| file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        files.retain(|file| file.extension().is_some_and(|end| end == "toml") && !is_hidden(file));
        files.sort();
        Ok(files)
    }

    /// Reads a file that is named at `at`.
    fn read(&mut self, file: &Path, at: usize) {
        if let Err(why) = self.try_read(file, at) {
            // Something may be missing that stands there.
            self.report.set_incomplete();
            self.report.error(at, why);
        }
    }

    fn try_read(&mut self, path: &Path, at: usize) -> Result<(), String> {
        let (bytes, facts) = file::read(path, MAX_CONFIG).map_err(|why| format!("{path:?} {why}"))?;
        let identity = (facts.dev(), facts.ino());
        if self.above.contains(&identity) {
            return Err(format!(
                "{path:?} is an include loop: it is this file, or it includes this file; remove it from `include`"
            ));
        }
        if let Some((_, first)) = self.known.iter().find(|(known, _)| *known == identity) {
            let line = self.report.line(*first);
            return Err(format!("{path:?} is included on line {line} already; keep one of the two"));
        }
        if self.known.len() == MAX_INCLUDED {
            return Err(format!("more than {MAX_INCLUDED} files are included; put several services into one file"));
        }
        self.bytes += bytes.len() as u64;
        if self.bytes > MAX_CONFIG {
            return Err(format!("with {path:?} the configuration is longer than {MAX_CONFIG} bytes, the limit"));
        }
        self.known.push((identity, at));
        match String::from_utf8(bytes) {
            Ok(text) => {
                let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
                let begin = self.report.add(path, text);
                self.above.push(identity);
                self.take(begin, text.into());
                self.above.pop();
            }
            Err(error) => {
                let (valid, bytes) = (error.utf8_error().valid_up_to(), error.as_bytes());
                let begin = self.report.add(path, &String::from_utf8_lossy(&bytes[..valid]));
                self.report.set_incomplete();
                self.report.error(begin + valid, super::not_utf8(bytes, valid));
            }
        }
        Ok(())
    }
}

/// What was published stands in the place of what each member's own file says.
fn replace<'t>(all: &mut DeTable<'t>, published: DeTable<'t>, report: &mut Report) {
    KEYS.iter().for_each(|key| drop(all.remove(*key)));
    for (key, value) in published {
        if KEYS.contains(&key.get_ref().as_ref()) {
            all.insert(key, value);
            continue;
        }
        let name = value::quoted(key.get_ref(), '`');
        let message = format!(
            "{name} belongs in the file of each member; a published file has only [[service]], [[deny]] and [[allow]]"
        );
        report.error(key.span().start, message);
    }
}

/// Adds the services of another file, and the sections that are not there yet.
fn join<'t>(all: &mut DeTable<'t>, other: DeTable<'t>, report: &mut Report) {
    for (key, value) in other {
        let there = all.get_key_value(&key).map(|(key, _)| key.span().start);
        let Some(there) = there else {
            all.insert(key, value);
            continue;
        };
        match (key.get_ref().as_ref(), all.get_mut(&key).expect("it is there").get_mut(), value.into_inner()) {
            // Was followed.
            ("include", ..) => {}
            ("service", DeValue::Array(services), DeValue::Array(more)) => {
                more.into_iter().for_each(|service| services.push(service));
            }
            (name, ..) => {
                let (name, line) = (value::quoted(name, '`'), report.line(there));
                report.error(
                    key.span().start,
                    format!(
                        "{name} is given on line {line} already; each section except [[service]] can be in one file \
                         only"
                    ),
                );
            }
        }
    }
}

/// The same tree at offsets that are greater by so much.
fn moved(tree: DeTable<'_>, by: usize) -> DeTable<'_> {
    if by == 0 {
        return tree;
    }
    tree.into_iter().map(|(key, value)| (at(key, by), moved_value(value, by))).collect()
}

fn moved_value(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let value = at(value, by);
    let span = value.span();
    Spanned::new(
        span,
        match value.into_inner() {
            DeValue::Table(table) => DeValue::Table(moved(table, by)),
            DeValue::Array(array) => {
                let mut moved = toml::de::DeArray::new();
                array.into_iter().for_each(|value| moved.push(moved_value(value, by)));
                DeValue::Array(moved)
            }
            value => value,
        },
    )
}

fn at<T>(value: Spanned<T>, by: usize) -> Spanned<T> {
    let span = value.span();
    Spanned::new(span.start + by..span.end + by, value.into_inner())
}
