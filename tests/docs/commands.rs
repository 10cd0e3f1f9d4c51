//! docs/commands.md against the command line: the same verbs with the same options. And commands in the text of all pages are
//! such as there are.

use crate::page::{all, prose, read, rows, sections, spans};
use clap::{Arg, Command, CommandFactory};
use oneip::cli::Cli;
use std::collections::{BTreeMap, BTreeSet};

/// Every verb that help shows, by what is typed: `oneip ctl drain`.
fn verbs() -> BTreeMap<String, Command> {
    let mut found = BTreeMap::new();
    collect(&Cli::command(), "", &mut found);
    found
}

fn collect(command: &Command, before: &str, found: &mut BTreeMap<String, Command>) {
    let typed = format!("{before}{}", command.get_name());
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        collect(verb, &format!("{typed} "), found);
    }
    found.insert(typed, command.clone());
}

/// As the first cell of a row names it.
fn shown(argument: &Arg) -> String {
    let values = argument.get_value_names().unwrap_or_default().join(" ");
    let takes = argument.get_action().takes_values();
    let with = |name: String| if takes { format!("`{name} {values}`") } else { format!("`{name}`") };
    match (argument.get_short(), argument.get_long()) {
        (Some(short), Some(long)) => format!("{}, {}", with(format!("-{short}")), with(format!("--{long}"))),
        (_, Some(long)) => with(format!("--{long}")),
        _ => format!("`{values}`"),
    }
}

#[test]
fn the_page_has_each_verb_and_option_and_no_other() {
    let sections: BTreeMap<String, String> = sections(&read("docs/commands.md")).into_iter().collect();
    let verbs = verbs();
    let documented: BTreeSet<&String> = sections.keys().filter(|heading| heading.starts_with("oneip ")).collect();
    assert_eq!(documented, verbs.keys().filter(|typed| *typed != "oneip").collect());

    for (typed, command) in verbs.iter().filter(|(typed, _)| *typed != "oneip") {
        let own: BTreeSet<String> = command.get_arguments().map(shown).collect();
        if command.has_subcommands() && own.is_empty() {
            // Its options are those of its verbs.
            continue;
        }
        let table = |typed: &str| -> BTreeMap<String, String> {
            let rows = rows(&sections[typed]);
            rows.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect()
        };
        let mut rows = table(typed);
        if rows.is_empty() && !own.is_empty() {
            rows = table(typed.rsplit_once(' ').expect("a verb above").0);
        }
        assert_eq!(rows.keys().cloned().collect::<BTreeSet<_>>(), own, "{typed}");
        for argument in command.get_arguments() {
            let row = &rows[&shown(argument)];
            let takes = argument.get_action().takes_values();
            for default in argument.get_default_values().iter().filter(|_| takes) {
                assert!(row.contains(&*default.to_string_lossy()), "{typed} {}: {row}", shown(argument));
            }
            for value in argument.get_possible_values().iter().filter(|_| takes) {
                assert!(row.contains(&format!("`{}`", value.get_name())), "{typed} {}: {row}", shown(argument));
            }
        }
    }
}

/// What the help of a verb says of its exit codes, its section says in the same words; those that mean something else in one verb are in
/// the table of all, too.
#[test]
fn exit_codes_are_documented_as_help_has_them() {
    let sections: BTreeMap<String, String> = sections(&read("docs/commands.md")).into_iter().collect();
    let mut found = BTreeSet::new();
    for (typed, command) in verbs().into_iter().filter(|(typed, _)| typed != "oneip") {
        let help = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
        let Some((_, codes)) = help.split_once("xit code") else { continue };
        let codes = codes.trim_start_matches([':', ' ']).split(". ").next().unwrap_or_default();
        let codes = codes.trim_end_matches('.');
        let section = sections[&typed].split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(section.contains(codes), "{typed}: its section does not say \"{codes}\"");
        found.insert(typed);
    }
    assert_eq!(found, ["oneip ctl diff", "oneip ctl ready", "oneip doctor"].map(String::from).into());

    let rows = rows(&sections["Exit codes"]);
    let of_diff: Vec<bool> = rows.iter().map(|row| row[1].contains("`oneip ctl diff`")).collect();
    assert_eq!(of_diff, [false, true, true], "its 1 and 2 are not those of the others");
}

/// What is wrong with a command as it stands in a sentence, which may leave out what does not matter there.
fn wrong(verbs: &BTreeMap<String, Command>, span: &str) -> Option<String> {
    let mut typed = "oneip".to_owned();
    let mut command = &verbs["oneip"];
    let mut above: Vec<&Command> = Vec::new();
    for word in span.split_whitespace().skip(1) {
        let next = format!("{typed} {word}");
        if let Some(verb) = verbs.get(&next) {
            above.push(command);
            (typed, command) = (next, verb);
        } else if let Some(option) = word.strip_prefix("--") {
            let known = |command: &&Command| command.get_arguments().any(|known| known.get_long() == Some(option));
            let everywhere = ["help", "version"].contains(&option);
            if !everywhere && !known(&command) && !above.iter().any(known) {
                return Some(format!("`{typed}` has no --{option}"));
            }
        } else if command.has_subcommands() && word.chars().all(|c| c.is_ascii_lowercase()) {
            return Some(format!("`{typed}` has no verb {word}"));
        }
    }
    None
}

#[test]
fn commands_in_sentences_are_such_as_there_are() {
    let verbs = verbs();
    let mut broken = Vec::new();
    let mut seen = 0;
    for (page, text) in all() {
        for span in spans(&prose(&text)) {
            let Some(span) = span.strip_prefix("ctl ").map(|rest| format!("oneip ctl {rest}")).or(Some(span)) else {
                continue;
            };
            if span.starts_with("oneip ") {
                seen += 1;
                broken.extend(wrong(&verbs, &span).map(|wrong| format!("{page}: `{span}`: {wrong}")));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(seen > 40, "{seen} commands are few: are they found?");
    assert_eq!(wrong(&verbs, "oneip ctl --socket PATH drain web1 --force"), None);
    assert!(wrong(&verbs, "oneip ctl fly").is_some() && wrong(&verbs, "oneip run --fast").is_some());
}
