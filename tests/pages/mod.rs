//! The pages of the documentation, and the blocks in them.

use std::fs;
use std::path::{Path, PathBuf};

/// A block between fences. Behind the language stands what is to be done with it, which nobody sees on a rendered page:
///
/// | | |
/// |---|---|
/// | `sh run` | commands that need neither root nor a network |
/// | `sh netns` | commands for the network of the quickstart, one block after the other |
/// | `sh box ROLE` | commands for a host of the network that the page presumes, which has one of the [`ROLES`]: run in a namespace of its own by
/// `tests/quickstart/boxes.rs`. `sh box ROLE web1` is for one server only. |
/// | `sh build` | builds, tests, measures or shows the program from its source. `scripts/test.sh` is what CI runs, its tests run the lab and the
/// package script, and CI's image is made by `scripts/setup.sh`; demonstration and benchmarks are run by hand. Here the commands are read only. |
/// | `sh systemd` | needs a Debian that systemd boots. `cargo test --test guest -- --ignored the_package` takes the package through the same
/// life (`tests/guest/life.sh`), with `dpkg` in place of `apt`. Here the commands are read only. |
/// | `sh hardware` | changes the NIC or the whole machine, or needs a second one. `tests/guest` does the same on NICs that qemu emulates,
/// `tests/doctor/tune.rs` in a copy of `/proc` and `/sys`; ssh and `bench.sh --peer` are run by hand. Here the commands are read only. |
/// | `bird`, `frr` | lines of a routing daemon's configuration: read by `bird -p` or `vtysh -C` |
/// | `toml` | a whole configuration |
/// | `toml part` | sections of one |
/// | `toml error` | a configuration that is refused; the next block is what `oneip check` says |
/// | `json` | a document a line |
/// | `text output` | what the block before it prints, to the letter |
/// | `text`, `text excerpt`, nothing | for people |
pub struct Fence {
    pub info: String,
    pub body: String,
    /// What it is to print, where the page says it.
    pub output: Option<String>,
    /// `docs/quickstart.md:31`
    pub place: String,
}

/// The hosts of a network that pages presume. A filter is a server without a dispatcher, a generator the box that sends load. The machine
/// is the one on which scripts make a network.
pub const ROLES: [&str; 7] = ["client", "router", "dispatcher", "server", "filter", "generator", "machine"];

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The blocks of a page, whose name is its path from the root of the repository.
pub fn fences(page: impl AsRef<Path>) -> Vec<Fence> {
    let page = page.as_ref();
    let text = fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    let mut fences: Vec<Fence> = Vec::new();
    // How far the block is indented, in a list.
    let mut open = None;
    for (at, line) in text.lines().enumerate() {
        let bare = line.trim_start();
        match (open, bare.strip_prefix("```")) {
            (None, Some(info)) => {
                let place = format!("{}:{}", page.display(), at + 1);
                fences.push(Fence { info: info.to_owned(), body: String::new(), output: None, place });
                open = Some(line.len() - bare.len());
            }
            (Some(_), Some("")) => open = None,
            (Some(indent), _) => {
                let body = &mut fences.last_mut().expect("it is open").body;
                body.push_str(line.get(indent..).unwrap_or_default());
                body.push('\n');
            }
            (None, None) => {}
        }
    }
    assert_eq!(open, None, "{}: a block is not closed", page.display());
    for at in 1..fences.len() {
        if fences[at].info == "text output" {
            fences[at - 1].output = Some(fences[at].body.clone());
        }
    }
    fences
}
