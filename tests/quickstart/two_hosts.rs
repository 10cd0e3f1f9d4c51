//! What pages say of two hosts, as it stands there, between two namespaces with a real ssh. `tests/bench` runs what is measured so.

use crate::pages::{fences, root};
use crate::tools::{installed, skip};
use crate::{ONEIP, pages_with};
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

const PAGE: &str = "docs/page.md";

const CONFIG: &str = r#"[cluster]
hash_key = "5b2f9d0c71e84a6d93f05ce2187ab46d"
[dispatcher]
interface = "eth1"
[[service]]
name = "web"
address = "203.0.113.80"
ports = ["tcp/80"]
[[service.server]]
name = "web1"
address = "192.0.2.11"
mac = "02:00:00:00:00:11"
[admin]
socket = "FOLDER/oneip.sock"
state = "FOLDER/state.json"
"#;

/// The page of a dispatcher that listens on its own loopback only, on another host.
#[test]
fn the_page_is_seen_through_ssh() {
    if !rustix::process::geteuid().is_root() {
        return skip("network namespaces need root");
    }
    if !["ssh", "dropbear"].iter().all(|program| installed(program)) {
        return;
    }
    let blocks = fences(PAGE);
    let body = |info: &str| &blocks.iter().find(|fence| fence.info == info).expect("a block").body;
    let web = body("toml part").trim().strip_prefix("[admin]").expect("of that section");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("UTF-8");
    let config = folder.path().join("oneip.toml");
    fs::write(&config, CONFIG.replace("FOLDER", path) + web).expect("written");
    let there = format!("exec {ONEIP} run -c {} >{path}/log 2>&1", config.display());
    // The shell at the other end goes on for as long as somebody types.
    let here = format!(
        "! curl -s http://127.0.0.1:9181/ || exit 9
         sleep 60 | {{ {0}
         }} >/dev/null & forward=$!
         for ((tries = 0; tries < 200; tries++)); do ! curl -sf http://127.0.0.1:9181/ || break; sleep 0.1; done
         kill $(jobs -p) $forward 2>/dev/null; ((tries < 200))",
        body("sh two-hosts").trim()
    );
    let mut hosts = Command::new("tests/pages/two-hosts.sh");
    let output = hosts.current_dir(root()).args(["dispatcher.example.org", &there, &here]).output().expect("bash");
    let (page, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    assert!(output.status.success(), "{error}{log}");
    assert!(page.contains("<title>oneip"), "{page}{error}");
}

#[test]
fn every_page_about_two_hosts_is_run() {
    let is_there = |page: &str| fences(page).iter().any(|fence| fence.info == "sh two-hosts");
    assert_eq!(pages_with(is_there), BTreeSet::from(["docs/measuring.md".to_owned(), PAGE.to_owned()]));
}
