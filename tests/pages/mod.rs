//! The pages of the documentation, and the blocks in them.

use std::fs;
use std::path::{Path, PathBuf};

/// A block between fences. Behind the language stands what is to be done with it, which nobody sees on a rendered page:
///
/// | | |
/// |---|---|
/// | `sh run` | commands that need neither root nor a network |
/// | `sh netns` | commands for the network of the quickstart, one block after the other |
/// | `sh box ROLE` | commands for a host of the network that the page presumes; `sh box ROLE web1`: for one of its servers |
/// | `sh build` | commands that build, test, measure or show the program |
/// | `sh systemd` | commands for a Debian that systemd boots |
/// | `sh nic` | commands for a NIC of real hardware, eth1 |
/// | `sh vfio` | the same, for DPDK: they bind it to vfio-pci |
/// | `sh two-hosts` | commands for this host, that reach another one by ssh |
/// | `bird`, `frr` | lines for a routing daemon |
/// | `toml` | a whole configuration |
/// | `toml part` | sections of one |
/// | `toml error` | a configuration that is refused; the next block is what `oneip check` says |
/// | `json` | a document a line |
/// | `text output` | what the block before it prints, to the letter |
/// | `text`, `text excerpt`, nothing | for people |
///
/// `tests/docs` runs what needs no network, and has BIRD and FRR read their lines. `tests/quickstart` runs `sh netns` and, each host in a
/// namespace of its own, `sh box`. The other commands are held there against the program and the scripts that there are, and run elsewhere:
///
/// - `sh build`: CI's script is `scripts/test.sh`, which calls `scripts/setup.sh`. `tests/package` and `tests/bench` run `package.sh` and
///   `bench.sh`, `tests/quickstart` runs `demo.sh`; `cargo test` lines are a part of CI's. `cargo bench` at its full size is run by hand.
/// - `sh systemd`: `cargo test --test guest -- --ignored the_package_lives_under_systemd_on_a_dispatcher` runs each as it stands, in a Debian
///   that systemd boots (`tests/guest/dispatcher.sh`).
/// - `sh nic`: `tests/guest` runs each as it stands, on a NIC that qemu emulates.
/// - `sh vfio`: likewise, with `cargo test --features dpdk --test guest -- --ignored igb_by_vfio`.
/// - `sh two-hosts`: `tests/bench` and `tests/quickstart` run each between two namespaces (`two-hosts.sh`), as it stands, with a real ssh; a
///   measurement with options that make it short.
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
