//! Captures as libpcap writes them, and what `oneip replay` makes of one.

use crate::model::records::Golden;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Writes a capture with these frames, a second after one another.
pub fn write(file: &Path, frames: &[Vec<u8>]) {
    let mut capture = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1].map(u32::to_le_bytes).concat();
    for (second, frame) in frames.iter().enumerate() {
        let length = frame.len() as u32;
        capture.extend([second as u32, 0, length, length].map(u32::to_le_bytes).concat());
        capture.extend(frame);
    }
    fs::write(file, capture).expect("a file");
}

/// The frames of a capture.
pub fn read(file: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(file).expect("a capture");
    let (mut frames, mut rest) = (Vec::new(), &file[24..]);
    while let Some((head, tail)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes(*head[8..].first_chunk().expect("a length")) as usize;
        frames.push(tail[..length].to_vec());
        rest = &tail[length..];
    }
    frames
}

/// What `oneip replay` forwards of these frames under the golden configuration, and what it says of them (`--json`).
pub fn replayed(golden: &Golden, frames: &[Vec<u8>]) -> (Vec<Vec<u8>>, serde_json::Value) {
    let folder = tempfile::tempdir().expect("a folder");
    let [config, input, output] = ["golden-config.toml", "in.pcap", "out.pcap"].map(|name| folder.path().join(name));
    fs::write(&config, Golden::config_with_macs()).expect("a file");
    write(&input, frames);
    let mut replay = Command::new(env!("CARGO_BIN_EXE_oneip"));
    replay.args(["replay", "--json", "-c"]).arg(&config).arg(&input).arg(&output);
    golden.down.iter().for_each(|name| _ = replay.args(["--down", name]));
    let run = replay.output().expect("it runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    (read(&output), serde_json::from_slice(&run.stdout).expect("JSON"))
}
