//! Links lead to files and headings that there are. README is a page, and everything can be reached.

use crate::page::{all, prose, read, sections};
use crate::pages::root;
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// Where the links of a text lead, those to other hosts left out.
fn links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).filter(|target| !target.contains("://")).collect()
}

/// As GitHub makes them of headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for (heading, _) in sections(text) {
        let heading = heading.to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let again = (1..).map(|n| format!("{anchor}-{n}")).find(|name| !seen.contains(name)).expect("one is free");
        let taken = seen.contains(&anchor);
        seen.insert(if taken { again } else { anchor });
    }
    seen
}

/// `docs` and `../perf/method.md` are `perf/method.md`.
fn joined(folder: &Path, target: &str) -> PathBuf {
    let mut path = folder.to_path_buf();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{target} leads out of the repository"),
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    path
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_there_are() {
    let mut broken = Vec::new();
    let mut checked = 0;
    for (page, text) in all() {
        let folder = Path::new(&page).parent().expect("a folder");
        for link in links(&prose(&text)) {
            checked += 1;
            let (target, anchor) = link.split_once('#').map_or((link.as_str(), None), |(to, at)| (to, Some(at)));
            let path = if target.is_empty() { PathBuf::from(&page) } else { joined(folder, target) };
            if !root().join(&path).exists() {
                broken.push(format!("{page}: {link}: no such file"));
            } else if anchor.is_some_and(|anchor| !anchors(&read(path.to_str().expect("UTF-8"))).contains(anchor)) {
                broken.push(format!("{page}: {link}: no such heading"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(checked > 50, "{checked} links are few: are they found?");
}

#[test]
fn anchors_are_as_github_makes_them() {
    let made = anchors("# `[service.health]`\n\n## Up, and nothing arrives\n## The way\n## The way\n");
    assert_eq!(made, ["servicehealth", "the-way", "the-way-1", "up-and-nothing-arrives"].map(String::from).into());
}

#[test]
fn readme_is_one_screen_and_names_the_two_commands() {
    let readme = read("README.md");
    let lines = readme.lines().count();
    assert!(lines <= 120, "README.md has {lines} lines");
    for command in ["scripts/demo.sh", "scripts/test.sh"] {
        assert!(readme.lines().any(|line| line == command), "README.md does not show {command}");
    }
}

#[test]
fn every_page_is_in_the_index_and_in_readme() {
    for (from, folder) in [("docs/README.md", "docs"), ("README.md", "")] {
        let linked: BTreeSet<PathBuf> = links(&read(from)).iter().map(|link| joined(Path::new(folder), link)).collect();
        for page in all().into_keys().filter(|page| page != from && page != "README.md") {
            assert!(linked.contains(Path::new(&page)), "{from} does not link to {page}");
        }
    }
}

/// What a reader comes with is a symptom.
#[test]
fn the_four_symptoms_have_a_heading_and_what_to_do() {
    let sections = sections(&read("docs/troubleshooting.md"));
    for symptom in
        ["Up, and nothing arrives", "One server gets nobody", "Half of the connections hang", "Bulk transfers hang"]
    {
        let section = sections.iter().find(|(heading, _)| heading == symptom);
        let (_, text) = section.unwrap_or_else(|| panic!("no heading \"{symptom}\""));
        assert!(text.lines().filter(|line| line.starts_with("- ")).count() >= 3, "{symptom}: few causes: {text}");
    }
}
