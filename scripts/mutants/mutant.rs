//! Which mutant this process is. `ONEIP_MUTANT` names one by its number; `ONEIP_REACHED` a file in which the functions that run are marked, each
//! at its own place.

use std::env;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

struct Chosen {
    mutant: u32,
    reached: Option<File>,
}

static CHOSEN: LazyLock<Chosen> = LazyLock::new(|| Chosen {
    mutant: env::var("ONEIP_MUTANT").map_or(0, |number| number.parse().expect("a number")),
    reached: env::var_os("ONEIP_REACHED").map(|path| OpenOptions::new().write(true).open(path).expect("it is there")),
});
static SEEN: [AtomicBool; FUNCTIONS] = [const { AtomicBool::new(false) }; FUNCTIONS];

/// The mutant that is to run, of the function with this number. Allocates nothing but at the first call: there are tests that look.
pub fn chosen(function: usize) -> u32 {
    let chosen = &*CHOSEN;
    if let Some(file) = &chosen.reached
        && !SEEN[function].swap(true, Relaxed)
    {
        let _ = file.write_all_at(b"x", function as u64);
    }
    chosen.mutant
}
