//! `scripts/demo.sh`, the first command of README.md, with the binary of these tests in place of one that it would build.

use crate::tools::skip;
use crate::{ONEIP, PREPARED, root, run, said};

/// Claims that the script makes of what it saw.
const CLAIMS: usize = 14;

/// It works in /run, which is another one here, and leaves nothing there.
fn demo(options: &str, account: &str) {
    if !rustix::process::geteuid().is_root() {
        return skip("network namespaces need root");
    }
    let script = format!(
        "{PREPARED}mount -t tmpfs tmpfs /run\nmkdir /run/netns\ncd {}\nONEIP={ONEIP} scripts/demo.sh {options}\n\
         [[ -z $(find /run -type f) && ! -e /run/demo-lab ]] || {{ find /run; exit 99; }}\n",
        root().display()
    );
    let output = run(&script, tempfile::tempdir().expect("a folder").path());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.lines().any(|line| line == account), "{printed}");
    let held = printed.lines().filter(|line| line.starts_with("  ") && line.ends_with(" ok")).count();
    assert_eq!(held, CLAIMS, "{printed}");
    let last = printed.lines().last().unwrap_or_default();
    assert!(last.starts_with("Everything held, in ") && last.ends_with(" s."), "{printed}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.lines().last(), Some("The network is taken down."), "{said}");
}

#[test]
fn the_demonstration_of_a_dispatcher_holds() {
    demo("", "The dispatcher's account");
}

#[test]
fn the_demonstration_of_the_dispatcher_in_the_kernel_holds() {
    demo("--engine xdp", "The dispatcher's account");
}

#[test]
fn the_demonstration_of_filters_holds() {
    demo("--broadcast", "The filters' accounts");
}
