//! The help, the manual pages and the completions: everything is described, and the examples are such as there are.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use clap::{CommandFactory, Parser};
use oneip::cli::Cli;

use crate::program::{ended, oneip};
use crate::tools::installed;

/// Every verb, the hidden ones too, by what is typed.
fn verbs() -> Vec<(String, clap::Command)> {
    let mut found = Vec::new();
    let mut open = vec![("oneip".to_owned(), Cli::command())];
    while let Some((typed, command)) = open.pop() {
        open.extend(command.get_subcommands().map(|verb| (format!("{typed} {}", verb.get_name()), verb.clone())));
        found.push((typed, command));
    }
    found
}

#[test]
fn every_verb_and_argument_is_described() {
    for (typed, command) in verbs() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(!about.is_empty() && !about.ends_with('.'), "{typed}: {about:?}");
        for argument in command.get_arguments() {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(!help.is_empty(), "{typed}: {} is not described", argument.get_id());
        }
    }
}

#[test]
fn every_verb_shows_an_example_that_it_would_take() {
    for (typed, command) in verbs().into_iter().filter(|(typed, _)| typed != "oneip") {
        for help in [command.get_after_help(), command.get_after_long_help()].into_iter().flatten() {
            let help = help.to_string();
            let examples: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("  ")).collect();
            assert!(!examples.is_empty(), "{typed} has no example");
            for example in examples {
                let ours = example.split(" | ").find(|part| part.starts_with("oneip ")).expect("a command of ours");
                let ours = ours.split(['<', '>']).next().expect("a command");
                assert!(ours.starts_with(&typed), "{typed}: {example}");
                let cli = Cli::try_parse_from(words(ours));
                assert!(cli.is_ok(), "{example}: {}", cli.err().map_or(String::new(), |error| error.to_string()));
            }
        }
        assert!(command.get_after_help().is_some(), "{typed} has no example");
    }
}

/// As a shell splits a line without anything but quotation marks.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    let words = parts.flat_map(|(at, part)| match at % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

#[test]
fn there_is_a_manual_page_for_each_verb_and_one_for_the_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(ended(oneip("man").arg(folder.path()), "").done(), "");
    let names = |section: &str| -> BTreeSet<String> {
        let pages = fs::read_dir(folder.path().join(section)).expect("a section");
        pages.map(|page| page.expect("a page").file_name().into_string().expect("UTF-8")).collect()
    };
    let shown =
        |(typed, command): &(String, clap::Command)| (!command.is_hide_set()).then(|| typed.replace(' ', "-") + ".1");
    assert_eq!(names("man1"), verbs().iter().filter_map(shown).collect());
    assert_eq!(names("man5"), ["oneip.toml.5".to_owned()].into());

    let page = |name: &str| fs::read_to_string(folder.path().join(name)).expect("a page");
    assert!(page("man1/oneip-ctl-drain.1").contains("oneip ctl drain web1"), "{}", page("man1/oneip-ctl-drain.1"));
    let configuration = page("man5/oneip.toml.5");
    for line in [".SH [service.health]", "\\fBinterval_ms\\fR", "default: 1000", "values: 50 to 600000"] {
        assert!(configuration.lines().any(|found| found == line), "no line {line} in {configuration}");
    }
    assert!(!configuration.contains("](") && !configuration.contains("```"), "{configuration}");
}

#[test]
fn manual_pages_are_read_without_a_warning() {
    if !installed("groff") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    ended(oneip("man").arg(folder.path()), "").done();
    for section in ["man1", "man5"] {
        for page in fs::read_dir(folder.path().join(section)).expect("a section") {
            let page = page.expect("a page").path();
            let groff = Command::new("groff").args(["-man", "-ww", "-z", "-Tutf8", "-k"]).arg(&page).output();
            let groff = groff.expect("it is installed");
            let said = String::from_utf8_lossy(&groff.stderr);
            assert!(groff.status.success() && said.is_empty(), "{}: {said}", page.display());
        }
    }
}

#[test]
fn shells_get_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = ended(&mut oneip(&format!("completions {shell}")), "").done();
        assert!(script.contains("undrain") && script.contains("hlog"), "{shell}: {script}");
    }
    // What bash offers behind `oneip ctl dr`.
    let ask = r#"
eval "$(cat)"
COMP_WORDS=(oneip ctl dr) COMP_CWORD=2
_oneip oneip dr ctl
echo "${COMPREPLY[@]}""#;
    let script = ended(&mut oneip("completions bash"), "").done();
    let mut bash = Command::new("bash");
    assert_eq!(ended(bash.args(["-c", ask]), &script).done(), "drain\n");
}
