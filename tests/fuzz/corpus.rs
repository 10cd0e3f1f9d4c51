//! Writes the golden frames as the fuzzer's first inputs, into the directory that is named.

#[path = "../model/mod.rs"]
mod model;

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let directory = PathBuf::from(env::args_os().nth(1).expect("usage: corpus DIRECTORY"));
    fs::create_dir_all(&directory)?;
    for (number, frame) in model::records::Golden::read().frames().iter().enumerate() {
        fs::write(directory.join(format!("golden-{number:03}")), frame)?;
    }
    Ok(())
}
