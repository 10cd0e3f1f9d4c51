//! Compiles the BPF programs (`src/bpf/*.bpf.c`) into `OUT_DIR`, where `include_bytes_aligned!` picks them up.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const BPF_SOURCES: &str = "src/bpf";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    compile_bpf();
}

/// One object per program. Cargo watches the whole folder, so a changed header recompiles them too.
fn compile_bpf() {
    println!("cargo::rerun-if-changed={BPF_SOURCES}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut sources: Vec<PathBuf> = fs::read_dir(BPF_SOURCES)
        .unwrap_or_else(|error| fail(&format!("cannot read {BPF_SOURCES}: {error}")))
        .map(|entry| entry.expect("a readable folder entry").path())
        .filter(|path| path.to_string_lossy().ends_with(".bpf.c"))
        .collect();
    sources.sort();
    for source in &sources {
        let name = source.file_name().expect("a file has a name");
        clang(source, &out.join(name).with_extension("o"));
    }
}

fn clang(source: &Path, object: &Path) {
    let mut command = Command::new("clang");
    command.args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]);
    // <linux/*.h> includes <asm/types.h>, which Debian keeps in a folder per architecture that this target does not search.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target's architecture");
    let multiarch = format!("/usr/include/{arch}-linux-gnu");
    if Path::new(&multiarch).is_dir() {
        command.arg("-I").arg(multiarch);
    }
    match command.arg("-c").arg(source).arg("-o").arg(object).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => fail(&format!("clang: {}\n{}", source.display(), String::from_utf8_lossy(&output.stderr))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fail("the BPF programs need clang, which is not installed: run scripts/setup.sh, or apt-get install clang")
        }
        Err(error) => fail(&format!("cannot run clang: {error}")),
    }
}

fn fail(message: &str) -> ! {
    for line in message.lines() {
        println!("cargo::error={line}");
    }
    exit(1)
}
