//! `oneip import`: the configuration of another load balancer as one of ours, and what of it could not be taken over.
//!
//! `keepalived` and `ipvsadm` read; both find services, as `found` has them, and remark on what has no counterpart, by line.
//! `output` writes.

mod check;
mod found;
mod ipvsadm;
mod keepalived;
mod output;
mod tokens;

use self::found::{Found, Remarks};
use crate::config;
use crate::error::Failure;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// What came of it.
pub struct Imported {
    /// A configuration that `oneip check` takes.
    pub configuration: String,
    /// What could not be taken over, or should be known, a line each: `FILE:LINE: ...`.
    pub remarks: Vec<String>,
}

/// A text to read, and what it is called.
struct Input {
    name: String,
    text: String,
}

/// Reads the files, `-` being standard input, as one configuration.
///
/// # Errors
/// A file cannot be read or understood, or there is nothing in it that could be taken over.
pub fn run(files: &[impl AsRef<Path>], interface: Option<&str>) -> Result<Imported, Failure> {
    let inputs: Vec<Input> = files.iter().map(|file| read(file.as_ref())).collect::<Result<_, Failure>>()?;
    let key = random_key().map_err(|error| format!("there is no random number for `hash_key`: {error}"))?;
    Ok(import(&inputs, interface, &key)?)
}

fn read(file: &Path) -> Result<Input, Failure> {
    let mut text = String::new();
    if file == Path::new("-") {
        io::stdin().read_to_string(&mut text).map_err(|error| format!("standard input cannot be read: {error}"))?;
        return Ok(Input { name: "standard input".to_owned(), text });
    }
    let name = file.display().to_string();
    let text = fs::read_to_string(file).map_err(|error| format!("{name} cannot be read: {error}"))?;
    Ok(Input { name, text })
}

/// 32 hex digits.
fn random_key() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

fn import(inputs: &[Input], interface: Option<&str>, key: &str) -> Result<Imported, String> {
    let (mut found, mut remarks) = (Found::default(), Remarks::default());
    for (at, input) in inputs.iter().enumerate() {
        remarks.begin(at);
        if ipvsadm::is_one(&input.text) {
            ipvsadm::read(&input.text, &mut found, &mut remarks);
        } else {
            let read = keepalived::read(&input.text, &mut found, &mut remarks);
            read.map_err(|(line, error)| format!("{}:{line}: {error}", input.name))?;
        }
    }
    keepalived::resolve(&mut found, &mut remarks);
    found.settle(&mut remarks);
    let lines = remarks.lines(|at| &inputs[at].name);
    if found.services.is_empty() {
        let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
        let nothing = format!("{}: there is no virtual server in it that could be converted", names.join(", "));
        return Err([vec![nothing], lines].concat().join("\n"));
    }
    let mut all = lines;
    let guessed = found.interface.take().unwrap_or_else(|| "eth1".to_owned());
    if interface.is_none() {
        all.push(format!(
            "no interface is named: [dispatcher] has {guessed}; write where clients' frames arrive, or use --interface"
        ));
    }
    let configuration = output::text(&found, interface.unwrap_or(&guessed), key);
    let loaded = config::parse(&configuration, "standard output");
    let refused = |errors: &dyn std::fmt::Display| {
        let head = "the converted configuration is not valid";
        format!("{head}:\n{errors}\n{}", all.join("\n")).trim_end().to_owned()
    };
    match loaded {
        Ok(loaded) => {
            all.extend(loaded.warnings.iter().map(|warning| format!("warning: {warning}")));
            Ok(Imported { configuration, remarks: all })
        }
        Err(errors) => Err(refused(&errors)),
    }
}
