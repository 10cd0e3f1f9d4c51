//! Writes the page and the plots of a run that `scripts/bench.sh` measured, or puts two runs side by side.
//!
//! `cargo run --release --example report -- FOLDER`, or `-- --compare A B`. `figures` is what was measured, `page` says it,
//! `plots` draws it.

mod compare;
mod figures;
mod page;
mod plots;

use figures::{Failure, Snapshot};
use std::env;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

fn run(arguments: &[&str]) -> Result<(), Failure> {
    match arguments {
        ["--compare", a, b] => {
            print!("{}", compare::compare(&Snapshot::read(a.as_ref())?, &Snapshot::read(b.as_ref())?)?)
        }
        [folder] if !folder.starts_with('-') => {
            let folder = Path::new(folder);
            let figures = Snapshot::read(folder)?;
            let plots = plots::all(&figures, folder)?;
            fs::write(folder.join("report.md"), page::page(&figures, &plots))?;
        }
        _ => return Err("usage: report FOLDER | report --compare A B".into()),
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}
