//! The walk through docs/ as a reader does it: the blocks for network namespaces, one after the other in one shell, as they stand
//! there. The network is that of docs/quickstart.md; other pages go on in it before it is cleaned up.
//!
//! It has a /run/netns, processes and an admin socket of its own, so that the names on the pages are nobody else's here, and nothing
//! stays behind, however it ends. `boxes` walks through what the pages say of real hosts; `demo` runs the script that README.md begins with.

mod boxes;
mod demo;
#[path = "../pages/mod.rs"]
mod pages;
#[path = "../tools/mod.rs"]
mod tools;
mod two_hosts;

use pages::{Fence, fences, root};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tools::skip;

const ONEIP: &str = env!("CARGO_BIN_EXE_oneip");

const FIRST: &str = "docs/quickstart.md";

/// The pages that go on there, each in a network of its own: filters take the place of the dispatcher.
const NEXT: [&[&str]; 3] =
    [&[], &["docs/commands.md", "docs/limits-and-lists.md", "docs/operations.md"], &["docs/broadcast.md"]];

/// Whatever hangs is ended, with all that it has started.
const MOST_SECONDS: &str = "900";

/// Directories of the machine that commands use, empty here; a host name of the pages' own.
const PREPARED: &str = r#"
set -euo pipefail
mount --make-rprivate /
for folder in /run/netns /run/oneip /var/lib/oneip; do
    mkdir -p $folder
    mount -t tmpfs tmpfs $folder
done
ip link set lo up
"#;

/// What must not be there at the end, when those have ended that were told to.
const LEFT: &str = r#"
left() { ls /run/netns /run/oneip /var/lib/oneip | grep -v ':$' | grep .; }
for ((tries = 0; tries < 300; tries++)); do left >/dev/null || break; sleep 0.1; done
! left
"#;

fn netns(page: &str) -> Vec<Fence> {
    fences(page).into_iter().filter(|fence| fence.info == "sh netns").collect()
}

/// Each block says where it stands before it runs, and what it prints is compared with what the page shows.
fn script(blocks: impl Iterator<Item = Fence>) -> String {
    let mut script = PREPARED.to_owned();
    for Fence { body, output, place, .. } in blocks {
        script += &format!("echo '== {place}' >&2\n{{\n{body}\n}} >printed\ncat printed\n");
        if let Some(output) = output {
            script += &format!("diff -u - printed >&2 <<'SHOWN'\n{output}SHOWN\n");
        }
    }
    script + LEFT
}

fn run(script: &str, folder: &Path) -> Output {
    let file = folder.join("walk.sh");
    fs::write(&file, script).expect("written");
    let path = std::env::var("PATH").expect("a path");
    let programs = Path::new(ONEIP).parent().expect("a folder").display();
    Command::new("timeout")
        .args([
            "--kill-after=5",
            MOST_SECONDS,
            "unshare",
            "--mount",
            "--net",
            "--pid",
            "--mount-proc",
            "--fork",
            "--kill-child",
        ])
        .arg("bash")
        .arg(&file)
        .env("PATH", format!("{programs}:{path}:/usr/sbin:/sbin"))
        .current_dir(folder)
        .output()
        .expect("util-linux and coreutils")
}

/// What the log of the shell has from the last block on.
fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let last = err.rfind("\n== ").map_or(&*err, |at| &err[at..]);
    let end: Vec<&str> = out.lines().rev().take(40).collect();
    format!("{last}\n-- it had printed:\n{}", end.into_iter().rev().collect::<Vec<_>>().join("\n"))
}

fn walk(next: &[&str]) {
    if !rustix::process::geteuid().is_root() {
        return skip("network namespaces need root");
    }
    let mut first = netns(FIRST);
    let clean_up = first.pop().expect("the last block cleans up");
    let next = next.iter().flat_map(|page| netns(page));
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(&script(first.into_iter().chain(next).chain([clean_up])), folder.path());
    assert!(output.status.success(), "{}: {}", output.status, said(&output));
    let log = fs::read_to_string(folder.path().join("oneip.log")).expect("the dispatcher's");
    assert!(log.contains("\nready"), "{log}");
}

#[test]
fn the_quickstart_works_as_it_stands() {
    walk(NEXT[0]);
}

#[test]
fn orders_reloads_and_failure_drills_work_as_they_stand() {
    walk(NEXT[1]);
}

#[test]
fn a_cluster_without_a_dispatcher_works_as_it_stands() {
    walk(NEXT[2]);
}

#[test]
fn every_page_with_such_blocks_is_walked_through() {
    let walked: BTreeSet<String> = NEXT.concat().into_iter().chain([FIRST]).map(str::to_owned).collect();
    assert_eq!(pages_with(|page| !netns(page).is_empty()), walked);
}

fn pages_with(what: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let pages = fs::read_dir(root().join("docs")).expect("the pages");
    let pages = pages.map(|page| format!("docs/{}", page.expect("a page").file_name().to_str().expect("UTF-8")));
    pages.chain(["README.md".to_owned()]).filter(|page| what(page)).collect()
}
