//! Manual pages and shell completions, made of the command line's own definitions; `oneip.toml(5)` of `docs/configuration.md`.

use super::Cli;
use clap::CommandFactory;
use clap_complete::Shell;
use roff::{Roff, bold, roman};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

pub const CONFIGURATION: &str = include_str!("../../docs/configuration.md");

/// Writes every page below `directory`: man1 has the verbs, man5 the configuration.
///
/// # Errors
/// The directory cannot be written.
pub fn write(directory: &Path) -> io::Result<()> {
    let (verbs, files) = (directory.join("man1"), directory.join("man5"));
    fs::create_dir_all(&verbs)?;
    fs::create_dir_all(&files)?;
    clap_mangen::generate_to(Cli::command(), verbs)?;
    fs::write(files.join("oneip.toml.5"), configuration(CONFIGURATION))
}

/// Prints what the shell is to read.
///
/// # Errors
/// It cannot be written.
pub fn completions(shell: Shell, mut to: impl Write) -> io::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "oneip", &mut text);
    to.write_all(&text)
}

/// A page of Markdown as a manual page. Knows what the page has: headings, paragraphs, lists, tables and fences.
fn configuration(markdown: &str) -> String {
    let mut page = Roff::new();
    page.control("TH", ["oneip.toml", "5", "", "oneip", "oneip"]);
    page.control("SH", ["NAME"]);
    page.text([roman("oneip.toml - the configuration of oneip")]);
    page.control("SH", ["DESCRIPTION"]);
    let mut header = Vec::new();
    let mut fenced = false;
    for line in markdown.lines().skip_while(|line| !line.is_empty()) {
        let plain = plain(line);
        if line.starts_with("```") {
            fenced = !fenced;
            page.control(if fenced { "EX" } else { "EE" }, []);
        } else if fenced {
            page.text([roman(line)]);
        } else if line.starts_with("## ") {
            page.control("SH", [plain.trim_start_matches("## ")]);
        } else if let Some(item) = plain.strip_prefix("- ") {
            page.control("IP", ["\u{2022}", "2"]).text([roman(item)]);
        } else if line.starts_with("|--") {
        } else if line.starts_with('|') {
            row(&plain, &mut header, &mut page);
        } else if plain.is_empty() {
            header.clear();
            page.control("PP", []);
        } else {
            page.text([roman(plain.trim_start())]);
        }
    }
    page.to_roff()
}

/// The first row of a table names what stands in the others: a key, and then what is to be known of it.
fn row(line: &str, header: &mut Vec<String>, page: &mut Roff) {
    let cells: Vec<String> = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    if header.is_empty() {
        *header = cells;
        return;
    }
    page.control("TP", []).text([bold(cells[0].as_str())]);
    for (name, cell) in header.iter().zip(&cells).skip(1) {
        page.text([roman(format!("{name}: {cell}"))]).control("br", []);
    }
}

/// A line without marks, and links as their words.
pub fn plain(line: &str) -> String {
    let mut text = line.replace(['`'], "").replace("**", "");
    while let Some((before, rest)) = text.split_once('[')
        && let Some((words, rest)) = rest.split_once("](")
        && let Some((_, rest)) = rest.split_once(')')
    {
        text = format!("{before}{words}{rest}");
    }
    text
}
