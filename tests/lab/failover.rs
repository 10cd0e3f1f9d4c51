//! A server that fails, as its health checks see it, loses exactly its clients; when it returns, exactly they come back.

use crate::dispatcher::Dispatcher;
use crate::network::{HEALTH, Lab, Pairs, WEB, clients, eventually, lookup, with_health, write_config};
use std::fs;

/// The lab's configuration with health checks.
pub fn checked(lab: &Lab) -> std::path::PathBuf {
    let plain = fs::read_to_string(lab.config()).expect("the lab wrote it");
    let path = lab.file("checked.toml");
    write_config(&path, &with_health(&plain, HEALTH));
    path
}

/// Which server each client gets, or would get.
fn moved(before: &Pairs, after: &Pairs) -> Vec<(String, String, String)> {
    let both = before.iter().zip(after);
    both.filter(|(old, new)| old.1 != new.1).map(|(old, new)| (old.0.clone(), old.1.clone(), new.1.clone())).collect()
}

#[test]
fn a_server_without_its_alias_loses_exactly_its_clients_and_gets_them_back() {
    let Some(lab) = Lab::up(&[]) else { return };
    let config = checked(&lab);
    let clients = clients(0);
    let all_up = lookup(&config, WEB[0], &clients, &[]);
    let without_web2 = lookup(&config, WEB[0], &clients, &["--down", "web2"]);
    let dispatcher = Dispatcher::start_with(&lab, &config, &[]);
    assert_eq!(lab.fetch(0, &clients), all_up);

    // Its primary address answers as before: only a probe on the clients' way sees it.
    lab.ip("web2", "address del 203.0.113.80/32 dev lo");
    dispatcher.hear("server web2 of service web is down");
    eventually("web2's clients are served", || lab.fetch_within(2, 0, &clients) == without_web2);
    assert!(moved(&all_up, &without_web2).iter().all(|(_, from, _)| from == "web2"), "nobody else moved");

    lab.ip("web2", "address add 203.0.113.80/32 dev lo");
    eventually("web2's clients are back", || lab.fetch_within(2, 0, &clients) == all_up);
    let rules = lab.ip("dispatcher", "rule");
    assert!(rules.contains("fwmark"), "checks are routed by mark: {rules}");
    dispatcher.stop();
    let rules = lab.ip("dispatcher", "rule");
    assert!(!rules.contains("fwmark"), "nothing is left behind: {rules}");
}
