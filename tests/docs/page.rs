//! Tables, headings, text of a page.

use crate::pages::root;
use std::collections::BTreeMap;
use std::fs;

/// Every page, by its path from the root of the repository.
pub fn all() -> BTreeMap<String, String> {
    let folder = fs::read_dir(root().join("docs")).expect("the pages");
    let names = folder.map(|entry| entry.expect("a page").file_name().into_string().expect("UTF-8"));
    let pages = names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}"));
    pages.chain(["README.md".to_owned()]).map(|page| (page.clone(), read(&page))).collect()
}

pub fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// Everything but what stands between fences.
pub fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        prose.push_str(if fenced || fence { "" } else { line });
        prose.push('\n');
    }
    prose
}

/// The headings of a page, without marks, and what stands below each, up to the next.
pub fn sections(text: &str) -> Vec<(String, String)> {
    let mut sections: Vec<(String, String)> = Vec::new();
    for line in prose(text).lines() {
        match line.strip_prefix('#') {
            Some(heading) => {
                sections.push((heading.trim_start_matches('#').trim().replace('`', ""), String::new()));
            }
            None => {
                if let Some((_, below)) = sections.last_mut() {
                    below.push_str(line);
                    below.push('\n');
                }
            }
        }
    }
    sections
}

pub fn section(text: &str, heading: &str) -> String {
    let found = sections(text).into_iter().find(|(name, _)| name == heading);
    found.unwrap_or_else(|| panic!("no heading \"{heading}\"")).1
}

/// The rows of the tables in a text, without their headers. `\|` is a bar in a cell.
pub fn rows(text: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut below = false;
    for line in text.lines() {
        match line.strip_prefix('|') {
            Some(line) if line.starts_with("--") => below = true,
            Some(line) if below => {
                let line = line.replace("\\|", "\0");
                let cells = line.trim_end().trim_end_matches('|').split('|');
                rows.push(cells.map(|cell| cell.trim().replace('\0', "|")).collect());
            }
            Some(_) => {}
            None => below = false,
        }
    }
    rows
}

/// What stands between marks of code.
pub fn spans(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}
